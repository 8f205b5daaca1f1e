"""Base models that draw random numbers in testing: functions of their input, or refused."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmcert.certifier import UnrepeatableModelError
from mmcert.engine import SmoothingConfig
from mmcert.models import ImageSegmentor, SmoothedSegmentor
from mmcert.models import segmentor as models_segmentor
from mmcert.models.randomness import (
    GeneratorStates,
    RandomNumbers,
    seeded,
)
from mmcert.perturbations import GaussianNoise
from mmcert.sampling import LogitMaps, SamplingSettings, collect_votes, passes
from mmcert.sampling.draws import ESTIMATION
from mmcert.votes import VotesStore

ROOT = Path(__file__).parents[2]
CLASSES = 4
SIZE = (16, 24)
MEDIAN = 0.73
"""Of the first score of perturbed images, about."""

SOURCES = {
    'torch': lambda scores: torch.rand(CLASSES),
    'normal': lambda scores: torch.randn(CLASSES),
    'numpy': lambda scores: torch.from_numpy(np.random.random(CLASSES)).float(),
    'python': lambda scores: torch.tensor([random.random() for _ in range(CLASSES)]),
    # Draws for some inputs only.
    'sometimes': lambda scores: (
        torch.rand(CLASSES) if (scores[:, 0].mean(dim=(1, 2)) > MEDIAN).any() else torch.zeros(1)
    ),
}
"""Where a head takes its numbers from."""


@MODELS.register_module(force=True)
class FirstLayer(BaseModule):
    """One convolution to half the size, and a record of the batches that came by."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return [self.conv(images)]


@MODELS.register_module(force=True)
class DrawingHead(FCNHead):
    """Shifts every class by random numbers."""

    def __init__(self, source=None, **kwargs):
        super().__init__(**kwargs)
        self.source = SOURCES.get(source)

    def forward(self, inputs):
        scores = super().forward(inputs)
        return scores if self.source is None else scores + self.source(scores)[:, None, None]


def model(source=None, head='DrawingHead', **options):
    torch.manual_seed(1)
    built = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=dict(type='FirstLayer'),
            decode_head=dict(
                type=head, channels=4, num_classes=CLASSES, norm_cfg=dict(type='BN'),
                **(options or dict(in_channels=4, num_convs=1, source=source)),
            ),
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3
            ),
            test_cfg=dict(mode='whole'),
        )
    )  # fmt: skip
    return built.eval()


def lightham(**options):
    ham = dict(MD_S=1, MD_R=4, train_steps=2, eval_steps=3, inv_t=100, rand_init=True, **options)
    return model(head='LightHamHead', in_channels=[4], in_index=[0], ham_channels=4, ham_kwargs=ham)


def image(seed=0):
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))


def sample(name='a.png'):
    return SegDataSample(metainfo=dict(ori_shape=SIZE, img_shape=SIZE, img_path=name))


def segmentor(base, **options):
    return ImageSegmentor(base, sample(), **options)


def votes(base, batch_size, **options):
    torch.manual_seed(batch_size)
    np.random.seed(batch_size)
    random.seed(batch_size)
    before = GeneratorStates(torch.device('cpu'))
    found = collect_votes(
        segmentor(base, **options),
        image(),
        GaussianNoise(0.25),
        SamplingSettings(n0=5, n=19, num_classes=CLASSES, batch_size=batch_size),
    )
    assert not before.advanced(), "the caller's generators were left alone"
    return found


def same(a, b):
    return np.array_equal(a.guess, b.guess) and np.array_equal(a.hits, b.hits)


@pytest.mark.parametrize('options', [{}, {'flip': True}, {'resolution': 'logits'}], ids=str)
@pytest.mark.parametrize('source', SOURCES)
def test_votes_of_a_model_that_draws_do_not_depend_on_batch_run_and_state(source, options):
    base = model(source)
    one = votes(base, 1, **options)
    assert same(one, votes(base, 3, **options))
    assert same(one, votes(model(source), 8, **options))
    segment = segmentor(base, **options)
    segment.with_margin(image())
    assert ('random_numbers' in segment.to_dict()) == (source != 'sometimes')


@pytest.mark.parametrize('source', ['torch', 'numpy', 'python'])
def test_every_input_has_numbers_of_its_own(source):
    plain, drawn = segmentor(model()), segmentor(model(source))
    shifts = [drawn([image(i)]).scores - plain([image(i)]).scores for i in range(2)]
    assert not torch.allclose(*shifts)


def test_numbers_that_only_some_images_take_are_theirs_alone():
    base = model('sometimes')
    noise = torch.randn(20, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    noisy = [image() + 0.25 * part for part in noise]
    each = [segmentor(base) for _ in noisy]
    alone = [segment([one]).scores for segment, one in zip(each, noisy, strict=True)]
    drawn = ['random_numbers' in segment.to_dict() for segment in each]
    assert 0 < sum(drawn) < 20
    together = segmentor(base)(noisy).scores
    for index, scores in enumerate(alone):
        assert torch.equal(together[index], scores[0])


def test_lightham_of_segnext_is_sampled_alike_in_every_batch():
    base = lightham()
    first = [base.predict(base.data_preprocessor({'inputs': [image() * 255]})['inputs'],
                          [sample()])[0].seg_logits.data for _ in range(2)]  # fmt: skip
    assert not torch.equal(*first), 'the stock model gives something else each time'
    assert same(votes(base, 1), votes(lightham(), 8))
    segment = segmentor(base)
    labels, _ = segment.with_margin(image())
    assert torch.equal(labels, segment.with_margin(image())[0])
    assert 'random_numbers' in segment.to_dict()


def test_bases_that_are_drawn_once_are_the_same_in_every_process():
    """Made when they are first needed, and kept: LightHam with ``rand_init=False``."""
    found = []
    for seed in range(2):
        base = lightham()
        base.decode_head.hamburger.ham.rand_init = False
        found.append(votes(base, 1 + 7 * seed))
        batches = base.backbone.batches[:]
        segment = segmentor(base)
        segment.with_margin(image())
        assert 'random_numbers' not in segment.to_dict(), 'it draws nothing any more'
    assert same(*found)
    assert 8 in batches, 'the fast path'


def test_a_model_without_random_numbers_keeps_its_batches():
    base = model()
    votes(base, 8)
    # Two passes over the first image; n0 = 5 and n = 19 draws in batches of at most 8.
    assert base.backbone.batches == [1, 1, 5, 8, 8, 3]
    votes(base, 8)
    assert base.backbone.batches[6:] == [5, 8, 8, 3]
    segment = segmentor(base)
    segment.with_margin(image())
    assert base.backbone.batches[10:] == [1], 'compared once, and not for every image'
    assert not {'random_numbers', 'repeatable'} & set(segment.to_dict())
    assert isinstance(segment([image(), image(1)]), LogitMaps)


def test_a_model_that_draws_takes_the_detour_once():
    base = model('torch')
    segment = segmentor(base)
    segment.with_margin(image())
    assert base.backbone.batches == [1, 1, 1]
    output = segment([image(i) for i in range(4)])
    assert base.backbone.batches[3:] == [1] * 4
    assert isinstance(output, LogitMaps) and len(output) == 4


@pytest.mark.parametrize(
    'source', [torch.Generator().manual_seed(0), np.random.default_rng(0)], ids=['torch', 'numpy']
)
def test_a_generator_of_the_models_own_is_refused(source):
    base = model()

    def own(scores):
        if isinstance(source, torch.Generator):
            return 5 * torch.rand(CLASSES, generator=source)
        return torch.from_numpy(5 * source.random(CLASSES)).float()

    base.decode_head.source = own
    with pytest.raises(UnrepeatableModelError, match=r'differ at \d+ of 384 components') as caught:
        segmentor(base).with_margin(image())
    assert 'generator or a state of its own' in str(caught.value)
    # Also where no clean image goes first, and nothing is remembered of a failure.
    with pytest.raises(UnrepeatableModelError):
        votes(base, 8)


def test_a_state_of_the_models_own_is_refused():
    base, passes = model(), []
    base.decode_head.source = lambda scores: passes.append(0) or len(passes) * torch.eye(CLASSES)[0]
    with pytest.raises(UnrepeatableModelError, match='keep it from changing its state'):
        segmentor(base).with_margin(image())


def test_a_model_is_compared_again_in_other_arithmetic():
    base = model()
    segmentor(base).with_margin(image())
    mirrored = segmentor(base, flip=True)
    assert mirrored.differing is None
    mirrored.with_margin(image())
    assert mirrored.differing == segmentor(base).differing == 0


def test_where_a_device_does_not_repeat_itself_the_certificate_says_so(monkeypatch, caplog):
    """As on a CUDA device; none is needed to see what is said."""
    base = model()
    segment = segmentor(base)
    labels = torch.zeros(2, 3, dtype=torch.int64, device='meta')
    margin = torch.zeros(2, 3, dtype=torch.uint8, device='meta')
    # A tensor of another device than the CPU; its sum is asked for once.
    monkeypatch.setattr(torch.Tensor, '__int__', lambda tensor: 4, raising=False)
    said = []
    monkeypatch.setattr(models_segmentor, 'print_log', lambda words, **options: said.append(words))
    segment._compare((labels, margin), (labels, margin))
    segment.with_margin(image())
    assert len(said) == 1, 'not compared again'
    assert 'averaged over its own randomness' in said[0]
    assert segment.to_dict()['repeatable'] is False
    assert 'independent from draw to draw' in segment.to_dict()['certified_model']


def test_a_margin_that_moves_counts_as_well():
    labels = torch.zeros(3, dtype=torch.int64)
    first = torch.tensor([10, 20, 30], dtype=torch.uint8)
    for second, differing in (([11, 20, 29], 0), ([12, 20, 30], 1)):
        margin = torch.tensor(second, dtype=torch.uint8)
        segment = segmentor(model())
        if differing:
            with pytest.raises(UnrepeatableModelError, match='at 1 of 3 components'):
                segment._compare((labels, first), (labels, margin))
        else:
            segment._compare((labels, first), (labels, margin))
            assert segment.differing == 0


def test_seeds_are_put_back_after_an_error():
    before = GeneratorStates(torch.device('cpu'))
    with pytest.raises(ZeroDivisionError), seeded(3, torch.device('cpu')) as states:
        assert not states.advanced()
        random.random()
        assert states.advanced()
        raise ZeroDivisionError
    assert not before.advanced()


def test_one_input_that_draws_does_not_touch_the_others():
    numbers = RandomNumbers()

    def draws_where_positive(batch):
        return batch.sum(dim=1) + (torch.rand(()) if (batch > 0).any() else 0)

    positive, negative = torch.ones(1, 2), -torch.ones(1, 2)
    alone = torch.cat(RandomNumbers().run(draws_where_positive, positive))
    assert torch.equal(torch.cat(numbers.run(draws_where_positive, negative)), negative.sum(dim=1))
    assert numbers.together and not numbers.drawn
    both = torch.cat(numbers.run(draws_where_positive, torch.cat([negative, positive])))
    assert torch.equal(both, torch.cat([negative.sum(dim=1), alone]))
    assert numbers.drawn and not numbers.together


def smoothed(base, folder, processes=None, **settings):
    config = SmoothingConfig.from_cfg(
        {'sigma': 0.25, 'n0': 4, 'alpha': 0.01, 'tau': 0.5, 'save_seconds': 0, **settings}
    )
    plan = config.plan([str(index) for index in range(CLASSES)])
    store = VotesStore(folder, plan.spec(), {})
    return SmoothedSegmentor(base, plan, store=store, processes=processes)


def certified(base, folder, seed=0, **settings):
    data = {'inputs': [(image(seed) * 255).to(torch.uint8)], 'data_samples': [sample()]}
    return smoothed(base, folder, **settings).test_step(data)[0]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('source', ['torch', 'numpy', 'python', 'sometimes'])
@pytest.mark.parametrize('settings', [dict(n=60), dict(n='auto', budget=400, min_gain=0.0)])
def test_a_run_of_a_model_that_draws_continues_to_the_same_files(
    tmp_path, monkeypatch, source, settings
):
    real, stop_at = passes.Passes._generators, 40

    def stopping(self, stage, indices):
        if stage == ESTIMATION and stop_at in indices:
            raise KeyboardInterrupt
        return real(self, stage, indices)

    whole = certified(model(source), tmp_path / 'whole', batch_size=8, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(passes.Passes, '_generators', stopping)
        with pytest.raises(KeyboardInterrupt):
            certified(model(source), tmp_path / 'stopped', batch_size=3, **settings)
    assert list((tmp_path / 'stopped').glob('*.part'))
    torch.manual_seed(99)
    continued = certified(model(source), tmp_path / 'stopped', batch_size=5, **settings)
    assert contents(tmp_path / 'whole') == contents(tmp_path / 'stopped')
    assert whole.certificate == continued.certificate
    if source != 'sometimes':
        assert 'seeded by the content' in whole.certificate['model']['precision']['random_numbers']


MEMBER = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
import tests.openmmlab
from mmcert.sampling import ProcessGroup
from tests.models.test_randomness import certified, model
rank, folder, source = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
torch.manual_seed(rank)
certified(model(source), folder / 'votes', rank, processes=ProcessGroup.of_all_processes(), n=60,
    batch_size=3)
# A process that leaves while gloo's threads are at work is aborted now and then.
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize('source', ['torch', 'sometimes'])
def test_processes_that_share_the_draws_of_a_model_that_draws_give_the_votes_of_one(
    tmp_path, source
):
    for seed in range(2):
        certified(model(source), tmp_path / 'alone', seed, n=60, batch_size=8)
    members = [
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', MEMBER, str(rank), str(tmp_path), source],
            cwd=ROOT,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        for rank in range(2)
    ]
    assert [member.wait(timeout=240) for member in members] == [0, 0]
    assert contents(tmp_path / 'votes') == contents(tmp_path / 'alone')
