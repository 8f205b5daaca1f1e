"""Models of transformers, small and with random weights."""

import json
import shutil

import numpy as np
import pytest
import torch

import mmcert
from mmcert.certifier import entries
from mmcert.integrations import Preprocessing
from mmcert.integrations.transformers import load
from tests.integrations.libraries import library
from tests.malice import Attack

SETTINGS = {'sigma': 0.1, 'tau': 0.55, 'n0': 4, 'n': 30, 'alpha': 0.1}
SIZE = {'height': 32, 'width': 48}


@pytest.fixture(scope='module')
def transformers():
    found = library('transformers')
    found.logging.disable_progress_bar()
    return found


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def segformer(transformers):
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, id2label={0: 'road', 1: 'car', 2: 'sky'},
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


@pytest.fixture(scope='module')
def mask2former(transformers):
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2],
        window_size=4, out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=5, num_labels=4,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


@pytest.fixture(scope='module')
def saved(transformers, segformer, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'segformer'
    segformer.save_pretrained(folder)
    transformers.SegformerImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


def changed(saved, tmp_path, file, **entries):
    """A copy of the saved model with other entries in one of its files."""
    folder = shutil.copytree(saved, tmp_path / 'copy', dirs_exist_ok=True)
    content = json.loads((folder / file).read_text()) | entries
    (folder / file).write_text(json.dumps(content))
    return folder


def clean_labels(smoothed, image):
    """The base model's labels of an image."""
    return smoothed.certify(image).maps['base']


def library_labels(model, processor, image):
    """What the library itself makes of an image, without rounding what it has resized."""
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    inputs = processor(images=pixels, do_rescale=False, return_tensors='pt')
    with torch.no_grad():
        outputs = model(**inputs)
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])[0]


def test_segformer_is_certified_through_its_logits(transformers, segformer, image):
    processor = transformers.SegformerImageProcessor(size=SIZE)
    smoothed = mmcert.smooth(segformer, processor=processor, **SETTINGS)
    result = smoothed.certify(image)
    assert (result.maps['base'] == library_labels(segformer, processor, image).numpy()).all()
    assert result.record.margin is not None and smoothed.classes == ['road', 'car', 'sky']
    said = entries(result.to_dict())['model']
    assert said['library'] == 'transformers' and said['preprocessing']['size'] == [32, 48]
    assert said['versions']['transformers'] == transformers.__version__


def test_mask2former_is_certified_through_its_labels(transformers, mask2former, image):
    processor = transformers.Mask2FormerImageProcessor(
        size={'shortest_edge': 30, 'longest_edge': 60}, size_divisor=32, num_labels=4
    )
    smoothed = mmcert.smooth(mask2former, processor=processor, **SETTINGS)
    result = smoothed.certify(image)
    assert (result.maps['base'] == library_labels(mask2former, processor, image).numpy()).all()
    assert result.record.margin is None and len(smoothed.classes) == 4
    with pytest.raises(ValueError, match='returns masks: give its processor'):
        mmcert.smooth(mask2former, mean=0, std=1, **SETTINGS)


def test_weights_that_would_run_something_are_refused(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / 'copy')
    (folder / 'model.safetensors').unlink()
    torch.save({'weight': Attack(tmp_path / 'made')}, folder / 'pytorch_model.bin')
    with pytest.raises(ValueError, match='cannot load'):
        load(folder)
    assert not (tmp_path / 'made').exists()


def test_oneformer_is_asked_for_the_semantic_task(transformers, image):
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2],
        window_size=4, out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )  # fmt: skip
    config = transformers.OneFormerConfig(
        backbone_config=backbone, hidden_dim=32, mask_dim=32, conv_dim=32, num_queries=5,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, query_dec_layers=1, num_labels=4, is_training=False,
        text_encoder_width=32, text_encoder_context_length=77, text_encoder_vocab_size=20,
        text_encoder_num_layers=1, task_seq_len=9,
    )  # fmt: skip
    words = ['the</w>', 'task</w>', 'is</w>', 'semantic</w>', '<|startoftext|>', '<|endoftext|>']
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[]
    )
    processor = transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor(
            size={'shortest_edge': 30, 'longest_edge': 60}, num_labels=4, class_info_file=None,
        ),
        tokenizer, task_seq_length=9,
    )  # fmt: skip
    model = transformers.OneFormerForUniversalSegmentation(config)
    smoothed = mmcert.smooth(model, processor=processor, **SETTINGS)
    assert clean_labels(smoothed, image).shape == (24, 40) and len(smoothed.classes) == 4
    assert smoothed.model._task.shape == (1, 9)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('SegformerImageProcessor', {'size': SIZE}),
        ('DPTImageProcessor', {'size': SIZE, 'resample': 3}),
        ('BeitImageProcessor', {'size': SIZE, 'do_center_crop': False}),
        ('MobileViTImageProcessor', {'size': {'shortest_edge': 19}, 'do_center_crop': False}),
        ('Mask2FormerImageProcessor', {'size': {'shortest_edge': 33, 'longest_edge': 50}}),
        ('SegformerImageProcessor', {'do_resize': False, 'do_normalize': False}),
    ],
)
def test_preprocessing_is_that_of_the_library(transformers, image, name, options):
    processor = getattr(transformers, name)(**options)
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    expected = processor(images=pixels, do_rescale=False, return_tensors='pt')['pixel_values']
    found, size = Preprocessing.of(processor)(pixels[None])
    assert size == tuple(expected.shape[-2:])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('BeitImageProcessor', {'do_center_crop': True}, 'crops the image'),
        ('SegformerImageProcessor', {'resample': 4}, "Pillow's method 4"),
        ('SegformerImageProcessor', {'rescale_factor': 0.5}, 'multiplies pixels by 0.5'),
        ('DPTImageProcessor', {'keep_aspect_ratio': True}, 'keeps the aspect ratio'),
        ('SegformerImageProcessor', {'size': {'max_height': 8, 'max_width': 9}}, 'give a size'),
    ],
)
def test_what_cannot_be_done_to_a_noisy_image_is_refused(transformers, name, options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.of(getattr(transformers, name)(**options))


def test_a_saved_model_is_loaded_and_gives_the_same_votes(saved, segformer, image, transformers):

    processor = transformers.SegformerImageProcessor(size=SIZE)
    expected = mmcert.smooth(segformer, processor=processor, **SETTINGS)
    found = mmcert.smooth(load(saved), **SETTINGS)
    assert (found.votes(image).hits == expected.votes(image).hits).all()
    assert found.sampling == expected.sampling
    by_hand = load(saved, Preprocessing([0.5], [0.5]))
    assert by_hand.preprocessing.size is None


def test_folders_that_hold_no_segmentor_are_refused_in_a_line(saved, tmp_path, transformers):

    def refused(folder, message, error=ValueError):
        with pytest.raises(error, match=message) as found:
            load(folder)
        assert '\n' not in str(found.value)

    refused(tmp_path / 'none', 'there is no folder', FileNotFoundError)
    refused(tmp_path, 'no config.json', FileNotFoundError)
    other = ['SegformerForImageClassification']
    refused(changed(saved, tmp_path, 'config.json', architectures=other), 'no model for semantic')
    refused(changed(saved, tmp_path, 'config.json', architectures=[]), 'names no architecture')
    names = {str(index): str(index) for index in range(7)}
    folder = changed(saved, tmp_path, 'config.json', id2label=names)
    refused(folder, 'lacks weights or has others of another shape')
    shutil.rmtree(folder)
    folder = shutil.copytree(saved, tmp_path / 'copy')
    (folder / 'model.safetensors').write_bytes(b'no weights')
    refused(folder, 'cannot load')
    shutil.copy(saved / 'model.safetensors', folder)
    (folder / 'preprocessor_config.json').unlink()
    refused(folder, 'no processor that can be loaded')


def test_a_module_that_was_replaced_is_in_the_name(transformers, segformer):
    names = []
    for activation in (torch.nn.ReLU(), torch.nn.Tanh()):
        segformer.decode_head.activation, before = activation, segformer.decode_head.activation
        names.append(mmcert.smooth(segformer, mean=0, std=1, **SETTINGS)._spec)
        segformer.decode_head.activation = before
    assert names[0] != names[1]
