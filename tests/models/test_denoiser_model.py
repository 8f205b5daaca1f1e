"""Denoisers in training: losses by their definition, the frozen segmentor, and figures."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement

from mmcert.denoisers import DnCNN, UNetDenoiser
from mmcert.evaluation import DenoiserMetric
from mmcert.models import DenoiserModel, ImageSegmentor
from mmcert.models.denoiser_model import FrozenSegmentor
from mmcert.registry import MODELS
from mmcert.sampling.logit_maps import resized_scores
from mmcert.scenes import draw_scene
from tests.models.test_sampling_paths import sample_for

SIZE = (32, 48)
UNET = dict(type='mmcert.UNetDenoiser', sigma=0.25, widths=(4, 6))


def scenes(count=3):
    images = [torch.from_numpy(draw_scene(*SIZE, (0, index))[0]) for index in range(count)]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def segmentor(make_config, tmp_path):
    """Config and checkpoint of a segmentor."""
    cfg = make_config()
    cfg.dump(tmp_path / 'segmentor.py')
    return dict(config=str(tmp_path / 'segmentor.py'), checkpoint=cfg.load_from)


@pytest.fixture(autouse=True)
def at_iteration():
    """Sets the iteration that the runner has come to."""
    hub = MessageHub.get_current_instance()

    def at(number):
        hub.update_info('iter', number)

    at(0)
    return at


def model_of(segmentor=None, denoiser=None, **options):
    torch.manual_seed(0)
    model = DenoiserModel({**UNET, **(denoiser or {})}, segmentor, **options)
    model.denoiser.leave.weight.data.normal_(std=0.1)
    return model


def test_without_a_segmentor_the_loss_is_the_mean_squared_error():
    model, images = model_of(mse=2.0), scenes()
    torch.manual_seed(5)
    losses = model(images, mode='loss')
    torch.manual_seed(5)
    torch.rand(3)  # The levels.
    noisy = images + 0.25 * torch.randn_like(images)
    error = (model.denoiser(noisy) - images).square().mean()
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(2 * error.item(), rel=1e-5)
    assert losses['psnr'].item() == pytest.approx(-10 * math.log10(error.item()), rel=1e-5)
    assert losses.keys() == {'loss_mse', 'psnr'}


@pytest.mark.parametrize('scale', [1.0, 2.0])
def test_the_stability_objective_is_that_of_its_definition(segmentor, scale):
    model, images = model_of(segmentor | dict(scale=scale), cross_entropy=3.0, logits=0.5), scenes()
    torch.manual_seed(5)
    losses = model(images, mode='loss')
    torch.manual_seed(5)
    torch.rand(3)
    noisy = images + 0.25 * torch.randn_like(images)

    def logits(batch):
        """By the model's own preprocessing, as in testing."""
        segment = ImageSegmentor(model.segmentor.model, sample_for(*SIZE), (scale,))
        return resized_scores(segment(list(batch)))

    with torch.no_grad():
        clean, found = logits(images), logits(model.denoiser(noisy))
    if scale != 1:
        # In training they are compared at the size of the model's input.
        size = [round(scale * side) for side in SIZE]
        clean, found = (model.segmentor(b) for b in (images, model.denoiser(noisy)))
        assert clean.shape[-2:] == tuple(size)
    labels = clean.argmax(dim=1)
    wanted = 3 * F.cross_entropy(found, labels)
    torch.testing.assert_close(losses['loss_cross_entropy'], wanted, rtol=1e-3, atol=1e-5)
    wanted = 0.5 * (found - clean).square().mean()
    torch.testing.assert_close(losses['loss_logits'], wanted, rtol=1e-3, atol=1e-5)
    agreement = (found.argmax(dim=1) == labels).float().mean()
    assert losses['agreement'].item() == pytest.approx(agreement.item(), abs=1e-3)


def test_it_sets_in_when_it_is_told_to(segmentor, at_iteration):
    model, images = model_of(segmentor, stability_begin=10), scenes(1)
    for iteration, there in ((0, False), (9, False), (10, True), (99, True)):
        at_iteration(iteration)
        assert ('loss_logits' in model(images, mode='loss')) == there


def test_the_segmentor_stays_as_it_is_and_is_stored_nowhere(segmentor):
    model, images = model_of(segmentor, mse=0), scenes()
    frozen = model.segmentor.model
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    model.train()
    assert not frozen.training
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.parse_losses(model(images, mode='loss'))[0].backward()
    assert all(p.grad is not None for p in model.denoiser.parameters())
    assert float(model.denoiser.enter.weight.grad.abs().max()) > 0
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert all(name.startswith('denoiser.') for name in model.state_dict())
    assert len(list(model.parameters())) == len(list(model.denoiser.parameters()))


def test_each_image_has_a_level_of_its_own_from_a_range():
    seen = []

    class Looking(UNetDenoiser):
        def forward(self, images, sigma=None):
            seen.append((images.clone(), sigma))
            return super().forward(images, sigma)

    model = model_of(denoiser=dict(sigma=(0.1, 0.5), sigma_map=True))
    model.denoiser.__class__ = Looking
    grey = torch.full((64, 3, *SIZE), 0.5)
    model(grey, mode='loss')
    ((noisy, sigma),) = seen
    assert 0.1 <= sigma.min() < 0.15 and 0.45 < sigma.max() <= 0.5
    torch.testing.assert_close(noisy.std(dim=(1, 2, 3)), sigma, rtol=0.1, atol=0)


def test_figures_are_those_of_a_direct_computation(segmentor):
    model, images = model_of(segmentor).eval(), scenes(2)
    samples = [BaseDataElement(metainfo=dict(img_path=f'{k}.png')) for k in range(2)]
    found = model(images, samples, mode='predict')
    assert [sample.img_path for sample in found] == ['0.png', '1.png']
    for index, (image, sample) in enumerate(zip(images, found, strict=True)):
        generator = torch.Generator().manual_seed(index)
        noisy = image + 0.25 * torch.empty_like(image).normal_(generator=generator)
        with torch.no_grad():
            denoised = model.denoiser(noisy[None])[0]
            clean, *labels = (
                model.segmentor(x[None]).argmax(dim=1) for x in (image, noisy, denoised)
            )
        for name, made in (('noisy_psnr', noisy), ('psnr', denoised)):
            error = (made - image).square().mean().item()
            assert sample.get(name) == pytest.approx(-10 * math.log10(error), rel=1e-4)
        for name, other in zip(('noisy_agreement', 'agreement'), labels, strict=True):
            assert sample.get(name) == pytest.approx((other == clean).float().mean().item())
    again = model(images, mode='predict')
    assert [sample.psnr for sample in again] == [sample.psnr for sample in found]


def test_the_metric_averages_what_the_model_says():
    metric = DenoiserMetric()
    metric.process(None, [dict(psnr=20.0, noisy_psnr=12.0), dict(psnr=30.0, noisy_psnr=12.5)])
    assert metric.evaluate(size=2) == {'denoiser/psnr': 25.0, 'denoiser/noisy_psnr': 12.25}


def test_autocast_leaves_the_loss_nearly_as_it_is(segmentor):
    images, found = scenes(), []
    for precision in ('fp32', 'bf16'):
        model = model_of(segmentor, precision=precision)
        torch.manual_seed(1)
        found.append(model.parse_losses(model(images, mode='loss'))[0].item())
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], rel=0.05)


def test_a_tensor_is_the_denoised_image():
    model, images = model_of(), scenes(1)
    assert torch.equal(model(images), model.denoiser(images, 0.25))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mse=-1), 'mse must be a number of at least 0, got -1'),
        (dict(logits=math.nan), 'logits must be a number'),
        (dict(mse=0), 'all losses have weight 0'),
        (dict(precision='int8'), 'precision must be one of'),
        (dict(denoiser=dict(sigma=0)), 'sigma must be positive'),
        (dict(denoiser=dict(type='mmcert.Blur')), 'needs a type that is known'),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)


def test_a_segmentor_that_is_not_there_is_refused(segmentor, tmp_path):
    for key in segmentor:
        with pytest.raises(FileNotFoundError, match='no file nowhere'):
            model_of(segmentor | {key: 'nowhere'})
    with pytest.raises(ValueError, match='scale must lie'):
        model_of(segmentor | dict(scale=0))
    torch.save({'state_dict': {}}, tmp_path / 'other.pth')
    with pytest.raises(RuntimeError, match='missing keys'):
        FrozenSegmentor(segmentor['config'], str(tmp_path / 'other.pth'))
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\]'):
        model_of()(255 * scenes(), mode='loss')


def test_the_model_is_known_to_configs():
    denoiser = dict(type='mmcert.DnCNN', sigma=0.25, depth=3, width=4)
    model = MODELS.build(dict(type='mmcert.DenoiserModel', denoiser=denoiser))
    assert isinstance(model.denoiser, DnCNN)
