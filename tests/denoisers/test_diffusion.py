"""One-shot diffusion denoising: the time, the algebra, tiles, and a model of diffusers."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmcert.denoisers import Denoising, DiffusionDenoiser
from mmcert.denoisers.diffusion import tile_starts

STEPS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
"""The schedule of DDPM (Ho et al. 2020)."""


class Oracle(nn.Module):
    """Predicts exactly, as it knows the clean images (B, 3, H, W) in [-1, 1], RGB."""

    def __init__(self, kind, clean=None, wide=False):
        super().__init__()
        self.kind, self.clean, self.wide, self.seen = kind, clean, wide, []

    def forward(self, images, times):
        self.seen.append((images.clone(), times.clone()))
        alpha = STEPS[times].float()[:, None, None, None]
        clean = images if self.clean is None else self.clean
        noise = (images - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        found = {
            'epsilon': noise,
            'sample': clean,
            'v_prediction': alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        }[self.kind]
        return torch.cat([found, found * 0 + 7], dim=1) if self.wide else found


class Local(nn.Module):
    """A fixed function of each pixel and its place in the tile."""

    def forward(self, images, times):
        ramp = torch.linspace(-0.2, 0.2, images.shape[-1])
        return images.tanh() + ramp


def diffusion(network=None, tile=16, **options):
    return DiffusionDenoiser(network or Local(), STEPS, tile, **options).eval()


def noisy(*size, seed=1):
    return 1.4 * torch.rand(*size, generator=torch.Generator().manual_seed(seed)) - 0.2


@pytest.mark.parametrize('sigma', [0.05, 0.12, 0.25, 0.5, 1.0, 2.0])
def test_the_time_is_the_one_whose_noise_is_nearest(sigma):
    denoiser = diffusion()
    time = denoiser.time(sigma)

    def distance(t):
        return abs(math.sqrt((1 - STEPS[t]) / STEPS[t]) - 2 * sigma)

    assert all(distance(time) <= distance(t) for t in range(1000))
    # One step is a percent or two of the level.
    assert distance(time) < 0.02 * 2 * sigma


def test_levels_without_a_time_are_refused():
    denoiser = DiffusionDenoiser(Local(), STEPS[:200], 16)
    with pytest.raises(ValueError, match='sigma=1.5 has no time'):
        denoiser.time(1.5)
    with pytest.raises(ValueError, match='one noise level for all images'):
        denoiser(noisy(1, 3, 16, 16))
    with pytest.raises(ValueError, match='take 3 channels, got 1'):
        denoiser(noisy(1, 1, 16, 16), 0.25)


@pytest.mark.parametrize('kind', ['epsilon', 'sample', 'v_prediction'])
@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('bgr', [False, True])
def test_a_perfect_prediction_gives_the_clean_image(kind, wide, bgr):
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rgb = clean.flip(1) if bgr else clean
    network = Oracle(kind, 2 * rgb - 1, wide)
    denoiser = diffusion(network, prediction_type=kind, bgr=bgr)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    found = denoiser(clean + 0.25 * noise, 0.25)
    torch.testing.assert_close(found, clean, atol=2e-5, rtol=0)
    # What it saw is what it was trained on: sqrt(a) x0 + sqrt(1 - a) noise.
    ((seen, times),) = network.seen
    assert times.tolist() == [denoiser.time(0.25)] * 2 and times.dtype == torch.int64
    alpha = float(STEPS[denoiser.time(0.25)])
    at_time = noise.flip(1) if bgr else noise
    wanted = math.sqrt(alpha) * (2 * rgb - 1) + math.sqrt(1 - alpha) * at_time
    assert float((seen - wanted).abs().max()) < 0.02 * float(noise.abs().max())


def test_the_result_is_an_image():
    found = diffusion(prediction_type='sample')(10 * noisy(1, 3, 16, 16), 0.25)
    assert float(found.min()) >= 0 and float(found.max()) <= 1


@pytest.mark.parametrize(('size', 'tile', 'overlap'), [
    (16, 16, 4), (5, 16, 4), (17, 16, 4), (28, 16, 4), (29, 16, 4), (480, 256, 64), (40, 16, 0),
    (33, 16, 15),
])  # fmt: skip
def test_tiles_cover_everything_and_overlap_enough(size, tile, overlap):
    starts = tile_starts(size, tile, overlap)
    assert starts[0] == 0 and starts[-1] == max(size - tile, 0)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= tile - overlap for step in steps)
    # Not one more than it takes.
    if len(starts) > 1:
        assert (len(starts) - 2) * (tile - overlap) + tile < size


@pytest.mark.parametrize('size', [(16, 16), (20, 37), (7, 16), (16, 5), (3, 60), (33, 33)])
def test_images_of_any_size_come_back_in_it(size):
    denoiser, images = diffusion(prediction_type='sample'), noisy(2, 3, *size)
    found = denoiser(images, 0.25)
    assert found.shape == images.shape and found.dtype == torch.float32
    assert bool(found.isfinite().all())


def test_tiles_of_a_function_of_pixels_blend_without_a_seam():
    class Pixelwise(nn.Module):
        def forward(self, images, times):
            return images.tanh()

    whole = diffusion(Pixelwise(), tile=64, prediction_type='sample')
    tiled = diffusion(Pixelwise(), tile=16, prediction_type='sample')
    images = noisy(2, 3, 50, 64)
    torch.testing.assert_close(tiled(images, 0.25), whole(images, 0.25))


def test_an_image_is_denoised_alike_in_every_batch():
    denoising = Denoising(diffusion(prediction_type='sample', tile=16), 0.25)
    images = noisy(4, 3, 20, 30)
    whole = denoising(images)
    for index in range(4):
        torch.testing.assert_close(denoising(images[index : index + 1])[0], whole[index])
    assert torch.equal(denoising(images), whole)


def test_what_makes_the_function_is_in_the_digest():
    found = {
        diffusion(tile=16).digest(), diffusion(tile=8).digest(), diffusion(overlap=2).digest(),
        diffusion(bgr=False).digest(), diffusion(prediction_type='sample').digest(),
        DiffusionDenoiser(Local(), STEPS[:500], 16).digest(),
        diffusion(nn.Conv2d(3, 3, 1)).digest(),
    }  # fmt: skip
    assert len(found) == 7
    # Two networks that differ in what is no weight.
    near, far = (nn.Conv2d(3, 3, 3, padding=step, dilation=step) for step in (1, 2))
    far.load_state_dict(near.state_dict())
    assert diffusion(near).digest() != diffusion(far).digest()
    at = [Denoising(diffusion(), sigma).spec() for sigma in (0.25, 0.5)]
    assert at[0]['digest'] == at[1]['digest'] and at[0] != at[1]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(alphas_cumprod=[0.5, 1.0]), 'between 0 and 1'),
        (dict(alphas_cumprod=[]), 'between 0 and 1'),
        (dict(prediction_type='score'), 'prediction_type must be one of epsilon'),
        (dict(tile=0), 'tile must be at least 1'),
        (dict(overlap=16), 'overlap from 0'),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionDenoiser(Local(), **{'alphas_cumprod': STEPS, 'tile': 16, **arguments})


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder unet or scheduler.*save_pretrained'):
        DiffusionDenoiser.from_checkpoint(tmp_path)


def test_a_small_ddpm_of_diffusers_takes_noise_out(tmp_path):
    diffusers = pytest.importorskip('diffusers', reason='the extra `diffusion` is not installed')
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'), attention_head_dim=4,
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.Adam(unet.parameters(), lr=4e-3)

    def ramps(count):
        slopes = torch.rand(count, 3, 1, 1) * 2 - 1
        return slopes * torch.linspace(-1, 1, 16).expand(count, 3, 16, 16)

    for _ in range(120):
        images = ramps(16)
        noise, times = torch.randn_like(images), torch.randint(0, 500, (16,))
        predicted = unet(scheduler.add_noise(images, noise, times), times).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / 'ddpm')
    denoiser = DiffusionDenoiser.from_checkpoint(tmp_path / 'ddpm')
    assert denoiser.tile == 16 and denoiser.prediction_type == 'epsilon'
    torch.testing.assert_close(denoiser.alphas_cumprod, STEPS, rtol=1e-4, atol=1e-6)
    assert DiffusionDenoiser.from_checkpoint(tmp_path / 'ddpm').digest() == denoiser.digest()
    clean = (ramps(8) + 1) / 2
    noisy_images = clean + 0.25 * torch.randn_like(clean)
    denoising = Denoising(denoiser, 0.25)
    before, after = (
        (images - clean).square().mean().item()
        for images in (noisy_images.clamp(0, 1), denoising(noisy_images))
    )
    assert after < 0.5 * before
    # Larger images in tiles, alone as in a batch.
    images = noisy(3, 3, 20, 30)
    torch.testing.assert_close(denoising(images[:1]), denoising(images)[:1], atol=1e-5, rtol=1e-4)
