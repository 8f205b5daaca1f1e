"""Models of segmentation-models-pytorch and torchvision, small and with random weights."""

import numpy as np
import pytest
import torch

import mmcert
from mmcert.certifier import entries
from mmcert.integrations import Preprocessing
from mmcert.integrations.smp import load
from tests.integrations.libraries import library
from tests.malice import Attack

SETTINGS = {'sigma': 0.1, 'tau': 0.55, 'n0': 4, 'n': 30, 'alpha': 0.1}
NORMALISED = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def smp():
    return library('segmentation_models_pytorch')


@pytest.fixture(scope='module')
def torchvision():
    library('torchvision')
    import torchvision.models.segmentation
    import torchvision.transforms._presets

    return torchvision


def small(smp, architecture='Unet', **options):
    given = {'encoder_name': 'resnet18', 'encoder_weights': None, 'encoder_depth': 3, 'classes': 3}
    if architecture == 'Unet':
        given['decoder_channels'] = (16, 8, 8)
    torch.manual_seed(0)
    return getattr(smp, architecture)(**{**given, **options})


def scores_of(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)


def normalised(image):
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(NORMALISED[name])[:, None, None] for name in ('mean', 'std'))
    return ((pixels - mean) / std)[None]


def test_an_image_is_padded_to_what_the_encoder_of_smp_needs(smp, image):
    model, odd = small(smp, 'Linknet'), image[:19, :37]
    smoothed = mmcert.smooth(model, **NORMALISED, **SETTINGS)
    result = smoothed.certify(odd)
    padded = torch.nn.functional.pad(normalised(odd), (0, 3, 0, 5))
    expected = scores_of(model, padded)[..., :19, :37].argmax(1)[0]
    assert (result.maps['base'] == expected.numpy()).all() and len(smoothed.classes) == 3
    said = entries(result.to_dict())['model']
    assert said['library'] == 'segmentation-models-pytorch' and said['architecture'] == 'Linknet'
    assert said['preprocessing']['padded_to'] == 8


def test_a_saved_model_of_smp_is_loaded_with_the_normalisation_of_imagenet(smp, image, tmp_path):
    model = small(smp)
    model.save_pretrained(str(tmp_path / 'unet'))
    expected = mmcert.smooth(model, **NORMALISED, **SETTINGS).votes(image)
    found = load(tmp_path / 'unet')
    assert list(found.preprocessing.mean) == NORMALISED['mean']
    assert (mmcert.smooth(found, **SETTINGS).votes(image).hits == expected.hits).all()
    with pytest.raises(FileNotFoundError, match='save_pretrained'):
        load(tmp_path)
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(ValueError, match='holds no model of segmentation-models-pytorch'):
        load(tmp_path)


def test_weights_that_would_run_something_are_refused(smp, tmp_path):
    small(smp).save_pretrained(str(tmp_path / 'unet'))
    (tmp_path / 'unet/model.safetensors').unlink()
    torch.save({'weight': Attack(tmp_path / 'made')}, tmp_path / 'unet/pytorch_model.bin')
    with pytest.raises(ValueError, match='that can be loaded'):
        load(tmp_path / 'unet')
    assert not (tmp_path / 'made').exists()


def test_probabilities_of_smp_are_of_one_class(smp, image):
    with pytest.raises(ValueError, match='Sigmoid makes of its scores: build it with activation'):
        mmcert.smooth(small(smp, activation='sigmoid'), **NORMALISED, **SETTINGS)
    options = NORMALISED | SETTINGS
    binary = small(smp, classes=1, activation='sigmoid')
    with pytest.raises(ValueError, match="say one_channel='probabilities'"):
        mmcert.smooth(binary, **options).certify(image)
    found = mmcert.smooth(binary, one_channel='probabilities', **options).certify(image)
    expected = mmcert.smooth(small(smp, classes=1), **options).certify(image)
    assert (found.maps['base'] == expected.maps['base']).all()


def test_a_model_of_torchvision_is_certified_at_the_size_of_the_image(torchvision, image):
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    preset = torchvision.transforms._presets.SemanticSegmentation(resize_size=36)
    smoothed = mmcert.smooth(model, processor=preset, **SETTINGS)
    result = smoothed.certify(image)
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    scores = scores_of(model, preset(pixels[None]))['out']
    scores = torch.nn.functional.interpolate(scores, size=(24, 40), mode='bilinear')
    assert (result.maps['base'] == scores.argmax(1)[0].numpy()).mean() > 0.98


def test_a_preset_of_torchvision_resizes_and_normalises_as_it_does(torchvision, image):
    preset = torchvision.transforms._presets.SemanticSegmentation(resize_size=17)
    pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255)[None]
    found, _ = Preprocessing.of(preset)(pixels)
    torch.testing.assert_close(found, preset(pixels), atol=1e-5, rtol=0)
