"""Denoisers: shapes, what they are told, independence of the batch, files, and training."""

import json

import pytest
import torch

from mmcert.denoisers import Denoising, DnCNN, UNetDenoiser, load_denoiser, save_denoiser

SMALL = {
    DnCNN: dict(depth=4, width=6),
    UNetDenoiser: dict(widths=(6, 8), blocks=1),
}


def make(cls=UNetDenoiser, sigma=0.25, seed=0, **options):
    torch.manual_seed(seed)
    denoiser = cls(sigma, **{**SMALL[cls], **options})
    # The U-Net begins as the identity.
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for buffer in denoiser.buffers():
        if buffer.is_floating_point():
            buffer.data += 0.3 * torch.rand_like(buffer)
    return denoiser.eval().requires_grad_(False)


def noisy(*size, seed=1):
    return 2 * torch.rand(*size, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize('cls', SMALL)
@pytest.mark.parametrize('size', [(8, 12), (9, 13), (1, 1), (2, 31)])
@pytest.mark.parametrize('sigma_map', [False, True])
def test_images_of_any_size_come_back_in_it(cls, size, sigma_map):
    denoiser, images = make(cls, sigma_map=sigma_map), noisy(2, 3, *size)
    found = denoiser(images, 0.25)
    assert found.shape == images.shape and found.dtype == torch.float32
    assert bool(found.isfinite().all()) and not torch.equal(found, images)


@pytest.mark.parametrize('cls', SMALL)
def test_an_image_is_denoised_alike_in_every_batch(cls):
    denoising, images = Denoising(make(cls).train(), 0.25), noisy(5, 3, 21, 30)
    whole = denoising(images)
    assert not denoising.denoiser.training
    for part in (images[:1], images[1:3]):
        start = 0 if len(part) == 1 else 1
        torch.testing.assert_close(denoising(part), whole[start : start + len(part)])
    # Neither the batch nor the number of calls leaves a trace.
    assert torch.equal(denoising(images), whole)
    others = torch.cat([images[:1], 5 * torch.ones(4, 3, 21, 30)])
    torch.testing.assert_close(denoising(others)[0], whole[0])


def test_the_unet_has_the_size_that_it_says_and_begins_as_the_identity():
    denoiser, images = UNetDenoiser(0.25), noisy(1, 3, 20, 30)
    assert 0.35e6 < sum(p.numel() for p in denoiser.parameters()) < 0.45e6
    assert torch.equal(denoiser(images), images)


def test_what_is_beyond_the_border_does_not_matter_where_nothing_is_padded():
    denoiser, images = make(), noisy(1, 3, 40, 48)
    padded = torch.nn.functional.pad(images, (0, 3, 0, 2), mode='replicate')
    found = denoiser(padded)
    assert found.shape == padded.shape
    torch.testing.assert_close(found[..., :12, :12], denoiser(images)[..., :12, :12])


def test_a_told_denoiser_depends_on_the_level_and_a_blind_one_does_not():
    images = noisy(2, 3, 12, 12)
    blind, told = make(sigma=(0.1, 0.5)), make(sigma=(0.1, 0.5), sigma_map=True)
    assert (blind.told, told.told) == (False, True)
    assert torch.equal(blind(images, 0.1), blind(images, 0.4))
    assert torch.equal(blind(images), blind(images, 0.4))
    assert not torch.equal(told(images, 0.1), told(images, 0.4))
    # Each image may have its own.
    both = told(images, torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(both[0], told(images, 0.1)[0])
    torch.testing.assert_close(both[1], told(images, 0.4)[1])
    with pytest.raises(ValueError, match='needs the noise level'):
        told(images)
    assert 'sigma' not in Denoising(blind, 0.3).spec()
    assert Denoising(told, 0.3).spec()['sigma'] == 0.3


@pytest.mark.parametrize('cls', SMALL)
@pytest.mark.parametrize('options', [{}, dict(sigma=(0.0, 0.5), sigma_map=True)])
def test_a_file_holds_the_denoiser(cls, options, tmp_path):
    denoiser, images = make(cls, **options), noisy(2, 3, 9, 11)
    save_denoiser(tmp_path / 'a.pth', denoiser, 'a-segmentor')
    again = cls.from_checkpoint(tmp_path / 'a.pth')
    assert again.digest() == denoiser.digest() and again.spec() == denoiser.spec()
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert torch.equal(again(images, 0.2), denoiser(images, 0.2))
    assert json.loads(json.dumps(denoiser.spec())) == denoiser.spec()
    stored = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert stored['trained_through'] == 'a-segmentor'
    assert stored['versions'].keys() == {'mmcert', 'torch'}
    # Where the file lies does not matter, nor when it was written.
    described = Denoising(again, 0.25, 'a.pth').to_dict()
    assert described['digest'] == denoiser.digest() and described['file'] == 'a.pth'
    assert json.loads(json.dumps(described)) == described


def test_the_digest_tells_denoisers_apart():
    changed = make()
    changed.leave.bias.data[0] += 1e-6
    statistics = make(DnCNN)
    next(statistics.buffers()).data[0] += 1e-3
    found = [
        denoiser.digest()
        for denoiser in (
            make(), make(seed=1), make(sigma=0.3), make(sigma_map=True), changed, make(DnCNN),
            statistics,
        )
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert make().digest() == found[0]


def test_files_of_something_else_are_refused(tmp_path):
    save_denoiser(tmp_path / 'dncnn.pth', make(DnCNN))
    with pytest.raises(ValueError, match='holds a DnCNN, not a UNetDenoiser'):
        load_denoiser(tmp_path / 'dncnn.pth', UNetDenoiser)
    torch.save({'state_dict': make().state_dict()}, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='model.pth is not a denoiser.*train_denoiser'):
        load_denoiser(tmp_path / 'model.pth', UNetDenoiser)
    torch.save({'denoiser': 3, 'state_dict': {}}, tmp_path / 'number.pth')
    with pytest.raises(ValueError, match='number.pth is not a denoiser'):
        load_denoiser(tmp_path / 'number.pth', UNetDenoiser)
    torch.save({'denoiser': {'sigma': 0.25}, 'state_dict': {}}, tmp_path / 'nameless.pth')
    with pytest.raises(ValueError, match='holds a None, not a UNetDenoiser'):
        load_denoiser(tmp_path / 'nameless.pth', UNetDenoiser)
    torch.save({'denoiser': {}, 'state_dict': {}, 'code': UNetDenoiser}, tmp_path / 'code.pth')
    with pytest.raises(ValueError, match='code.pth is not a denoiser'):
        load_denoiser(tmp_path / 'code.pth', UNetDenoiser)
    with pytest.raises(FileNotFoundError, match='mmcert train_denoiser CONFIG'):
        load_denoiser(tmp_path / 'none.pth', UNetDenoiser)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(sigma=0), 'sigma must be positive'),
        (dict(sigma=25), '0-255 units'),
        (dict(sigma=(0.5, 0.1)), 'low <= high'),
        (dict(sigma=0.25, channels=0), 'channels must be at least 1'),
        (dict(sigma=0.25, widths=()), 'widths, blocks and block'),
        (dict(sigma=0.25, widths=(8, 0)), 'widths, blocks and block'),
        (dict(sigma=0.25, block=0), 'widths, blocks and block'),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNetDenoiser(**arguments)


def test_a_denoiser_that_changes_the_shape_is_refused():
    class Half(UNetDenoiser):
        def forward(self, images, sigma=None):
            return images[..., ::2, ::2]

    with pytest.raises(ValueError, match='must keep the shape'):
        Denoising(Half(0.25), 0.25)(noisy(1, 3, 8, 8))
    with pytest.raises(ValueError, match='made for 3 channels, got 1'):
        make()(noisy(1, 1, 8, 8))
    with pytest.raises(ValueError, match='depth must be at least 2'):
        DnCNN(0.25, depth=1)


@pytest.mark.parametrize(
    ('cls', 'sizes'), [(DnCNN, dict(depth=5, width=16)), (UNetDenoiser, dict(widths=(16, 24)))]
)
def test_training_takes_noise_out(cls, sizes):
    torch.manual_seed(0)
    denoiser = cls(0.25, **sizes).train()
    ramp = torch.linspace(0, 1, 16).expand(8, 3, 16, 16)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    for _ in range(100):
        loss = (denoiser(ramp + 0.25 * torch.randn_like(ramp)) - ramp).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4 * 0.25**2
