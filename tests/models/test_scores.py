"""Segmentors as attacks see them: logits whose largest is the label, with gradients."""

import pytest
import torch

from mmcert.denoisers import Denoising
from mmcert.models import ImageSegmentor
from tests.engine.test_denoiser_hook import small_denoiser
from tests.models.test_sampling_paths import noisy_images, sample_for, small_model
from tests.openmmlab import BrightnessSegmentor


def padded(base):
    base.data_preprocessor.test_cfg = dict(size_divisor=32)
    return base


WAYS = {
    'plain': (small_model, {}),
    'scaled': (small_model, {'scales': (0.5,)}),
    'averaged': (small_model, {'scales': (0.75, 1.0), 'flip': True}),
    'binary': (lambda: small_model(binary=True), {}),
    'binary, averaged': (lambda: small_model(binary=True), {'flip': True}),
    'cascade': (lambda: small_model(cascade=True), {}),
    'padded': (lambda: padded(small_model()), {}),
    'slide': (lambda: BrightnessSegmentor(channels=3, mode='slide').eval(), {}),
    'grid': (small_model, {'resolution': 'logits'}),
    'denoised': (small_model, {'denoising': Denoising(small_denoiser(), 0.25)}),
}


@pytest.mark.parametrize('way', WAYS)
def test_the_largest_score_is_the_label_and_has_the_gradient(way):
    build, options = WAYS[way]
    segment = ImageSegmentor(build().requires_grad_(False), sample_for(), **options)
    images = noisy_images(2)
    with torch.no_grad():
        labels = segment.labels(images)
        quiet = segment.scores(torch.stack(images))
    batch = torch.stack(images).requires_grad_()
    scores = segment.scores(batch)
    assert not quiet.requires_grad
    assert torch.allclose(scores.detach(), quiet, atol=1e-4)
    assert scores.dtype == torch.float32
    assert (scores.argmax(dim=1) == labels).float().mean().item() > 0.999
    # A small step along the gradient raises what it is the gradient of, by as much as it says.
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((scores * weights).sum(), batch)
    assert slope.isfinite().all()
    step = slope / slope.norm() ** 2
    with torch.no_grad():
        ends = [(segment.scores(batch + sign * step).double() * weights).sum() for sign in (1, -1)]
    assert (ends[0] - ends[1]).item() == pytest.approx(2 * (slope * step).sum().item(), rel=0.15)


def test_without_gradients_a_denoiser_keeps_none():
    denoising = Denoising(small_denoiser().requires_grad_(True), 0.25)
    assert not denoising(torch.rand(1, 3, 16, 16)).requires_grad
    with torch.no_grad():
        assert not denoising(torch.rand(1, 3, 16, 16).requires_grad_()).requires_grad
    assert denoising(torch.rand(1, 3, 16, 16).requires_grad_()).requires_grad
