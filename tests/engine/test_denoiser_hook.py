"""A denoiser in front of a model: what is certified, what says so, and which votes are found."""

import json
import logging

import pytest
import torch

from mmcert.certifier import CertificationPlan, Certifier, UnrepeatableModelError
from mmcert.certify import CertifySettings
from mmcert.denoisers import Denoiser, Denoising, UNetDenoiser, save_denoiser
from mmcert.engine import SmoothingConfig
from mmcert.models import ImageSegmentor, PrecisionSettings, SmoothedSegmentor
from mmcert.models.denoisers import build_denoising
from mmcert.perturbations import CyclicTranslation, GaussianNoise, PooledNoise
from mmcert.registry import DENOISERS
from mmcert.sampling import SamplingSettings
from mmcert.votes import load_votes
from tests.engine.test_smoothing_hook import votes_files
from tests.models.test_sampling_paths import noisy_images, sample_for, small_model
from tests.openmmlab import BrightnessSegmentor, run_test, run_tool


def small_denoiser(seed=0, sigma=0.25, **options):
    torch.manual_seed(seed)
    denoiser = UNetDenoiser(sigma, widths=(4, 6), **options)
    denoiser.leave.weight.data.normal_(std=0.1)
    return denoiser.eval()


@pytest.fixture
def denoiser_cfg(tmp_path):
    """Config of a denoiser whose file was written."""
    made = iter(range(100))

    def make(seed=0, sigma=0.25, **options):
        path = tmp_path / f'denoiser{next(made)}.pth'
        save_denoiser(path, small_denoiser(seed, sigma, **options))
        return dict(type='mmcert.UNetDenoiser', checkpoint=str(path))

    return make


@DENOISERS.register_module(force=True)
class Darker(Denoiser):
    """Takes a constant off: with it a pixel of brightness b is labelled as b - shift is."""

    shift = 0.2

    def forward(self, images, sigma=None):
        return images - self.shift

    def spec(self):
        return {'shift': self.shift}

    @classmethod
    def from_checkpoint(cls, checkpoint, **options):
        return cls(0.25, **options)


# --- the function ---


@pytest.mark.parametrize('scales', [(1.0,), (0.5,), (0.5, 1.0)])
def test_the_smoothed_function_is_the_model_behind_the_denoiser(scales):
    base, denoiser, images = small_model(), small_denoiser(), noisy_images()
    with torch.no_grad():
        denoised = list(denoiser(torch.stack(images)))
    behind = ImageSegmentor(base, sample_for(), scales, denoising=Denoising(denoiser, 0.25))
    alone = ImageSegmentor(base, sample_for(), scales)
    labels = behind.labels([image.clone() for image in images])
    assert torch.equal(labels, alone.labels(denoised))
    assert not torch.equal(labels, alone.labels(images))
    # What the model makes of an image without the denoiser is told apart.
    base_labels, margin = behind.with_margin(images[0])
    assert torch.equal(base_labels, alone.with_margin(images[0])[0])
    difference = margin.int() - alone.with_margin(denoised[0])[1].int()
    assert int(difference.abs().max()) <= 1


def test_both_ways_to_labels_go_through_the_denoiser():
    base, images = small_model(), noisy_images()
    segment = ImageSegmentor(base, sample_for(), denoising=Denoising(small_denoiser(), 0.25))
    by_logits = segment.labels(images)
    segment._hands_on_logits = False
    assert torch.equal(segment.labels(images).long(), by_logits.long())


@pytest.mark.parametrize('scales', [(1.0,), (0.5, 1.0)])
def test_labels_do_not_depend_on_the_batch(scales):
    denoising = Denoising(small_denoiser(), 0.25)
    segment = ImageSegmentor(small_model(), sample_for(), scales, denoising=denoising)
    images = noisy_images(5)
    whole = segment.labels(images)
    parts = [segment.labels(images[:1]), segment.labels(images[1:3]), segment.labels(images[3:])]
    assert torch.equal(torch.cat(parts), whole)


def test_a_denoiser_that_draws_is_seeded_by_its_image():
    class Drawing(Denoiser):
        def forward(self, images, sigma=None):
            return images + 0.3 * torch.randn_like(images)

        def spec(self):
            return {}

    segment = ImageSegmentor(small_model(), sample_for(), denoising=Denoising(Drawing(0.25)))
    images = noisy_images(4)
    whole = segment.labels(images)
    assert torch.equal(segment.labels(images[2:3])[0], whole[2])
    assert 'random_numbers' in segment.to_dict()


def test_a_denoiser_with_a_state_is_refused():
    class Counting(Denoiser):
        calls = 0

        def forward(self, images, sigma=None):
            self.calls += 1
            return images + 0.2 * self.calls

        def spec(self):
            return {}

    segment = ImageSegmentor(small_model(), sample_for(), denoising=Denoising(Counting(0.25)))
    with pytest.raises(ValueError, match='two passes of EncoderDecoder over the same input differ'):
        segment(noisy_images())


def mean_of_all(images):
    return images.mean(dim=0, keepdim=True).expand_as(images)


def with_noise_of_the_place(images):
    return images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def behind_another(images):
    return (images + torch.cat([images[:1], images[:-1]])) / 2


@pytest.mark.parametrize('scales', [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize('made', [mean_of_all, with_noise_of_the_place, behind_another])
def test_a_denoiser_that_looks_at_the_whole_batch_is_refused(scales, made):
    class Averaging(Denoiser):
        """The mean of all draws, say: far less noise than the smoothed function has."""

        def forward(self, images, sigma=None):
            return made(images)

        def spec(self):
            return {}

    base, image = small_model(), noisy_images(1)[0]

    def certify(batch_size):
        sampling = SamplingSettings(16, 64, base.num_classes, batch_size=batch_size)
        plan = CertificationPlan(GaussianNoise(0.5), CertifySettings(0.6, 0.001), sampling)
        segment = ImageSegmentor(base, sample_for(), scales, denoising=Denoising(Averaging(0.5)))
        return Certifier(plan).certify(segment, image)

    with pytest.raises(UnrepeatableModelError, match='depend on what else is in its batch'):
        certify(8)
    # By itself every input is denoised alone: a function of it.
    assert certify(1).votes.n == 64


def test_half_precision_is_that_of_the_whole_function():
    seen = []

    class Looking(UNetDenoiser):
        def residual(self, inputs):
            found = super().residual(inputs)
            seen.append(found.dtype)
            return found

    torch.manual_seed(0)
    denoising = Denoising(Looking(0.25, widths=(4, 6)), 0.25)
    for precision, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
        segment = ImageSegmentor(
            small_model(), sample_for(), precision=PrecisionSettings(precision),
            denoising=denoising,
        )  # fmt: skip
        segment.labels(noisy_images())
        assert seen.pop() == dtype


def test_the_grid_of_the_head_is_that_of_the_model():
    denoising = Denoising(small_denoiser(), 0.25)
    segment = ImageSegmentor(small_model(), sample_for(), resolution='logits', denoising=denoising)
    labels, margin = segment.with_margin(noisy_images()[0])
    assert segment.grid is not None and labels.shape == margin.shape


# --- from a config ---


def test_certificates_are_of_the_model_behind_the_denoiser():
    """Known exactly: the model's boundary is at brightness 1/2, the denoiser moves it to 0.7."""
    smoothing = dict(sigma=0.1, n=200, n0=20, alpha=0.01, tau=0.75)
    smoothing['denoiser'] = dict(type='mmcert.Darker', checkpoint='none')
    plan = SmoothingConfig.from_cfg(smoothing).plan(['dark', 'bright'])
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(3, 8, 64)
    data = {'inputs': [ramp], 'data_samples': [sample_for(8, 64)]}
    base = BrightnessSegmentor(channels=3).eval()
    (found,) = SmoothedSegmentor(base, plan).test_step(data)
    brightness = ramp[0].float() / 255
    # The base rates are those of the model itself.
    assert torch.equal(found.base_sem_seg.data[0], (brightness > 0.5).long())
    certified = found.cert_sem_seg.data[0]
    # The class of a pixel has probability Phi(sqrt(3) |b - 0.7| / sigma), 0.75 at b = 0.7 +- 0.039.
    clear = (brightness - 0.7).abs() > 0.1
    assert torch.equal(certified[clear], (brightness > 0.7).long()[clear])
    assert (certified[(brightness - 0.7).abs() < 0.03] == 254).float().mean() > 0.9
    assert found.certificate['model']['denoiser']['type'] == 'Darker'


def test_certificate_summary_and_log_name_the_denoiser(make_config, tmp_path, denoiser_cfg):
    cfg = denoiser_cfg()
    run_test(make_config(smoothing=dict(denoiser=cfg)))
    digest = small_denoiser().digest()
    certified = tmp_path / 'work/certified'
    for path in certified.glob('certificates-*/*.json'):
        assert json.loads(path.read_text())['model']['denoiser'] == {
            'type': 'UNetDenoiser', 'digest': digest, 'file': 'denoiser0.pth',
            'made_for_sigma': 0.25, 'blind': True,
        }  # fmt: skip
    summary = json.loads((certified / 'summary.json').read_text())
    assert summary['certificate']['denoiser']['digest'] == digest
    printed = '\n'.join(p.read_text() for p in (tmp_path / 'work').glob('2*/2*.log'))
    assert f'each through the denoiser UNetDenoiser {digest[:8]}' in printed
    assert f'behind a denoiser, UNetDenoiser {digest[:8]} (denoiser0.pth)' in printed
    assert str(tmp_path) not in json.dumps(summary)
    # Offline answers know it as well.
    (votes,) = certified.glob('votes-*')
    for path in votes.glob('*.npz'):
        assert load_votes(path).meta['provenance']['denoiser']['digest'] == digest


def test_another_denoiser_finds_other_votes_and_the_same_one_its_own(
    make_config, tmp_path, denoiser_cfg
):
    def votes():
        return {path.name for path in (tmp_path / 'work/certified').glob('votes-*')}

    run_test(make_config(images=1))
    (plain,) = votes()
    run_test(make_config(images=1, smoothing=dict(denoiser=denoiser_cfg())))
    assert len(votes()) == 2
    # The same weights in another file.
    run_test(make_config(images=1, smoothing=dict(denoiser=denoiser_cfg())))
    assert len(votes()) == 2
    run_test(make_config(images=1, smoothing=dict(denoiser=denoiser_cfg(seed=1))))
    assert len(votes()) == 3
    told = denoiser_cfg(sigma=(0.1, 0.5), sigma_map=True)
    for sigma in (0.25, 0.3):
        run_test(make_config(images=1, smoothing=dict(denoiser=told | dict(sigma=sigma))))
    assert len(votes()) == 5
    assert plain in votes()


def test_without_a_denoiser_nothing_has_changed():
    """Fingerprints of votes without one stay what they were."""
    plan = SmoothingConfig.from_cfg(dict(sigma=0.25)).plan()
    assert plan.adapter.spec() == {'scales': [1.0], 'flip': False, 'space': 'original'}
    assert 'denoiser' not in plan.adapter.to_dict()


def test_batch_sizes_do_not_change_the_votes(make_config, tmp_path, denoiser_cfg):
    cfg = denoiser_cfg()
    for size in (1, 7, 64):
        run_test(make_config(smoothing=dict(
            denoiser=cfg, batch_size=size, votes_dir=str(tmp_path / str(size))
        )))  # fmt: skip
    assert (
        votes_files(tmp_path / '1') == votes_files(tmp_path / '7') == votes_files(tmp_path / '64')
    )


def test_the_planner_times_the_denoiser(make_config, tmp_path):
    calls = []

    @DENOISERS.register_module(force=True)
    class Timed(Darker):
        def forward(self, images, sigma=None):
            calls.append(len(images))
            return super().forward(images, sigma)

    cfg = make_config(smoothing=dict(denoiser=dict(type='mmcert.Timed', checkpoint='none')))
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool('tools/plan.py', tmp_path / 'config.py', cfg.load_from)
    assert 'ms per draw' in printed and 'through the denoiser Timed' in printed
    assert calls.count(8) >= 4


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='mmcert.UNetDenoiser'), 'needs a checkpoint'),
        (
            dict(type='mmcert.UNetDenoiser', checkpoint='no/such.pth'),
            'there is no denoiser no/such',
        ),
        (dict(checkpoint='a.pth'), 'needs a type that is known'),
        (dict(type='mmcert.Blur', checkpoint='a.pth'), "mmcert.UNetDenoiser; got 'mmcert.Blur'"),
        (dict(type='mmcert.DiffusionDenoiser', checkpoint='no/such'), 'no folder unet'),
        (dict(type='mmcert.UNetDenoiser', checkpoint='a.pth', width=3), "argument 'width'"),
    ],
)
def test_bad_denoisers_are_refused_before_anything_is_loaded(make_config, cfg, message):
    run = make_config(smoothing=dict(denoiser=cfg))
    run.load_from = '/nowhere/missing.pth'
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_test(run)


def test_the_type_must_be_that_of_the_file(denoiser_cfg):
    cfg = denoiser_cfg() | dict(type='mmcert.DnCNN')
    with pytest.raises(ValueError, match='holds a UNetDenoiser, not a DnCNN'):
        SmoothingConfig.from_cfg(dict(sigma=0.25, denoiser=cfg))


def test_clouds_and_enumerations_have_no_denoiser(denoiser_cfg):
    with pytest.raises(ValueError, match=r'`smoothing.denoiser` is for images'):
        SmoothingConfig.from_cfg(dict(sigma=0.25, denoiser=denoiser_cfg()), 'cloud')
    enumeration = dict(type='mmcert.Enumeration', transformation='brightness', values=[0.1])
    with pytest.raises(ValueError, match='without noise: leave denoiser out'):
        SmoothingConfig.from_cfg(dict(perturbation=enumeration, denoiser=denoiser_cfg()))


def test_another_noise_level_is_warned_of_once(denoiser_cfg, caplog, monkeypatch):
    monkeypatch.setattr('mmcert.models.denoisers.print_log', lambda text, **_: logging.error(text))
    config = SmoothingConfig.from_cfg(dict(sigma=0.5, denoiser=denoiser_cfg()))
    config.plan(['a', 'b'])
    (message,) = [r.message for r in caplog.records if 'made for noise' in r.message]
    assert 'sigma 0.25, the noise here has 0.5' in message
    caplog.clear()
    SmoothingConfig.from_cfg(dict(sigma=0.5, denoiser=denoiser_cfg(sigma=(0.1, 0.5))))
    assert not caplog.records


def test_a_told_denoiser_needs_a_level(denoiser_cfg):
    told = denoiser_cfg(sigma=(0.1, 0.5), sigma_map=True)
    assert build_denoising(told, GaussianNoise(0.3)).sigma == 0.3
    assert build_denoising(told | dict(sigma=0.2), GaussianNoise(0.3)).sigma == 0.2
    assert build_denoising(told, PooledNoise(2, 0.15)).sigma == 0.15
    # A level in pixels is none of noise.
    shifts = CyclicTranslation(8.0)
    with pytest.raises(ValueError, match='must be told the noise level, and the perturbation'):
        build_denoising(told, shifts)
    assert build_denoising(denoiser_cfg(), shifts).sigma is None
