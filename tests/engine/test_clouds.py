"""Clouds through the same hook, sampler, metrics and files as images."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from scipy.special import ndtri
from scipy.stats import norm

pytest.importorskip('mmdet3d')

from mmdet3d.models.data_preprocessors import Det3DDataPreprocessor
from mmdet3d.models.decode_heads.decode_head import Base3DDecodeHead
from mmdet3d.models.segmentors import EncoderDecoder3D
from mmdet3d.registry import DATASETS, MODELS
from mmdet3d.structures import Det3DDataSample

from mmcert.attacks import Goal, SmoothedScores, Steps, attack_input
from mmcert.certifier import UnrepeatableModelError, entries
from mmcert.engine import SmoothingConfig
from mmcert.metrics.confusion import total
from mmcert.models.cloud_adapter import CloudAdapter
from mmcert.models.point_segmentor import PointSegmentor
from mmcert.models.precision import PrecisionSettings
from mmcert.perturbations import CoordinateNoise
from mmcert.sampling import SamplingSettings, collect_votes
from mmcert.votes import read_folder
from mmcert.votes.confidence import KINDS
from mmcert.votes.recertify import Task, evaluate
from tests.openmmlab import run_tool

POINTS = 60


@MODELS.register_module(force=True)
class Coordinates(BaseModule):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, points):
        return self.gain * points


@MODELS.register_module(force=True)
class PlaneHead(Base3DDecodeHead):
    """Class 1 where x > 0: under noise it has probability Phi(x / sigma)."""

    def forward(self, feats):
        score = feats[..., 0] + 0 * self.conv_seg.bias.sum()
        return torch.stack([-score, score], dim=1)


@MODELS.register_module(force=True)
class RandomSegmentor(EncoderDecoder3D):
    """Draws random numbers of both global generators while it predicts."""

    def predict(self, inputs, samples, rescale=True):
        scores = []
        for points in inputs['points']:
            shift = 0.2 * torch.randn(()).item() + 0.2 * np.random.standard_normal()
            scores.append(torch.stack([-points[:, 0] - shift, points[:, 0] + shift]))
        return self.postprocess_result(scores, samples)


@DATASETS.register_module(force=True)
class ToyClouds(BaseDataset):
    METAINFO = dict(classes=('left', 'right'), palette=[[200, 0, 0], [0, 0, 200]])

    def __init__(self, clouds=2, points=POINTS, columns=4, spoil=None, **kwargs):
        self.clouds, self.points, self.columns = clouds, points, columns
        self.spoil, self.ignore_index = spoil, 255
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        return [dict(lidar_path=f'cloud-{i}.bin') for i in range(self.clouds)]

    def prepare_data(self, idx):
        rng = np.random.default_rng(idx)
        points = rng.normal(size=(self.points + 5 * idx, self.columns)).astype(np.float32)
        labels = (points[:, 0] > 0).astype(np.int64)
        if self.spoil == 'nan':
            points[3, 1] = np.nan
        if self.spoil == 'labels':
            labels = labels[:-1]
        if self.spoil == 'range':
            labels[0] = 7
        sample = Det3DDataSample(metainfo=dict(lidar_path=f'cloud-{idx}.bin'))
        sample.eval_ann_info = dict(pts_semantic_mask=labels)
        return dict(inputs=dict(points=torch.from_numpy(points)), data_samples=sample)


def config(tmp_path, smoothing=None, model=None, **dataset):
    model = model or dict(type='EncoderDecoder3D', test_cfg=dict(mode='whole'))
    cfg = Config(
        dict(
            default_scope='mmdet3d',
            model=dict(
                data_preprocessor=dict(type='Det3DDataPreprocessor'),
                backbone=dict(type='Coordinates'),
                decode_head=dict(type='PlaneHead', channels=4, num_classes=2),
                **model,
            ),
            test_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
                dataset=dict(type='ToyClouds', **dataset),
            ),
            test_cfg=dict(type='TestLoop'),
            test_evaluator=[],
            default_hooks=dict(smoothing=dict(type='mmcert.SmoothingHook')),
            smoothing=dict(sigma=0.5, n0=4, n=60, tau=0.6, alpha=0.01, draw_every=1)
            | (smoothing or {}),
            work_dir=str(tmp_path / 'work'),
        )
    )
    torch.manual_seed(0)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'model.pth')
    cfg.load_from = str(tmp_path / 'model.pth')
    return cfg


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


_runs = iter(range(10**6))


def run(cfg):
    cfg.experiment_name = f'clouds-{next(_runs)}'
    return Runner.from_cfg(cfg).test()


def segmentor(cloud, base=None, **options):
    base = base or EncoderDecoder3D(
        backbone=dict(type='Coordinates'),
        decode_head=dict(type='PlaneHead', channels=4, num_classes=2),
        data_preprocessor=dict(type='Det3DDataPreprocessor'),
        test_cfg=Config(dict(mode='whole')),
    )
    sample = Det3DDataSample(metainfo=dict(lidar_path='a.bin'))
    return PointSegmentor(base.eval(), cloud, sample, **options)


def random_segmentor():
    return RandomSegmentor(
        backbone=dict(type='Coordinates'),
        decode_head=dict(type='PlaneHead', channels=4, num_classes=2),
        data_preprocessor=dict(type='Det3DDataPreprocessor'),
        test_cfg=Config(dict(mode='whole')),
    )


@pytest.fixture
def cloud():
    return torch.randn(POINTS, 4, generator=torch.Generator().manual_seed(3))


def test_shards_of_clouds_are_one_run(tmp_path):
    folders = {shard: str(tmp_path / (shard or 'whole')[:1]) for shard in (None, '1/2', '2/2')}
    for shard, folder in folders.items():
        votes = {'votes_dir': f'{folder}/votes' if shard is None else str(tmp_path / 'votes')}
        run(config(tmp_path, {'shard': shard, 'out_dir': folder, **votes}, clouds=3))
    run_tool('tools/merge.py', tmp_path / 'votes')
    for name in ('summary.json', 'images.jsonl'):
        assert (tmp_path / 'votes' / name).read_bytes() == (tmp_path / 'w' / name).read_bytes()
    manifest = json.loads((tmp_path / 'votes/shards/1-of-2.json').read_text())
    assert manifest['sources'] == ['cloud-0', 'cloud-2']


def test_a_test_run_certifies_every_cloud(tmp_path):
    metrics = run(config(tmp_path, clouds=3))
    assert metrics['certified/radius'] == pytest.approx(0.5 * ndtri(0.6))
    assert metrics['certified/base_aAcc'] == 1
    assert 0 < metrics['certified/certAcc'] < 1
    folder = tmp_path / 'work' / 'certified'
    (certificates,) = folder.glob('certificates-*')
    statement = entries(json.loads(min(certificates.glob('*.json')).read_text()))
    assert statement['input_type'] == 'cloud'
    assert statement['columns'] == [0, 1, 2]
    assert 'coordinates' in statement['unit']
    assert 'before voxelisation' in statement['stage']
    for file in certificates.glob('*.npz'):
        with np.load(file) as maps:
            assert maps['labels'].shape == maps['radius'].shape
            assert set(np.unique(maps['labels'])) <= {0, 1, 254}
    assert len(list(folder.glob('vis-*/*.png'))) == 3
    assert len(list(folder.glob('confidence-*/*.png'))) == 3
    for file in folder.glob('confidence-*/*.npz'):
        with np.load(file) as maps, np.load(certificates / file.name) as written:
            assert maps.keys() == KINDS.keys()
            np.testing.assert_array_equal(maps['radius'], written['radius'])
    records = list(read_folder(next(folder.glob('votes-*'))))
    assert [record.votes.num_components for record in records] == [60, 65, 70]
    task = Task(2)
    settings = SmoothingConfig.from_cfg(
        dict(sigma=0.5, n0=4, n=60, tau=0.6, alpha=0.01), 'cloud'
    ).plan().settings  # fmt: skip
    (counts,) = evaluate(records, [settings], task)
    assert total([counts], 2).rates()['certAcc'] == pytest.approx(metrics['certified/certAcc'])


def test_votes_are_found_again_and_do_not_depend_on_the_batch(tmp_path):
    found = []
    for size in (1, 7):
        out = tmp_path / str(size)
        out.mkdir()
        run(config(out, dict(batch_size=size)))
        votes = (out / 'work' / 'certified').glob('votes-*/*.npz')
        found.append({path.name: path.read_bytes() for path in votes})
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_hits_have_the_probabilities_that_theory_gives(cloud):
    """Phi(x / sigma) for every point: noise on the coordinates alone, and independent draws."""
    noise = CoordinateNoise(0.5)
    votes = collect_votes(
        segmentor(cloud), cloud[:, :3], noise, SamplingSettings(n0=30, n=3000, num_classes=2)
    )
    truth = norm.cdf(cloud[:, 0].double().abs().numpy() / 0.5)
    sign = (cloud[:, 0] > 0).numpy()
    share = np.where(votes.guess == sign, votes.hits, 3000 - votes.hits) / 3000
    assert np.abs(share - truth).max() < 5 * 0.5 / np.sqrt(3000)


def test_only_the_chosen_columns_are_perturbed(cloud):
    seen = []
    base = segmentor(cloud).base
    base.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    adapter = CloudAdapter(noise_dims=(0, 2))
    sample = Det3DDataSample(metainfo={})
    segment = adapter.segmentor(base, cloud, sample, PrecisionSettings())
    collect_votes(
        segment,
        adapter.clean_input(cloud),
        CoordinateNoise(0.3),
        SamplingSettings(n0=2, n=6, num_classes=2),
    )
    clouds = torch.cat(seen)
    assert torch.equal(clouds[:, :, [1, 3]], cloud[:, [1, 3]].expand(len(clouds), -1, -1))
    assert not torch.equal(clouds[0, :, 0], cloud[:, 0])


def test_the_models_own_randomness_is_decided_by_its_input(cloud):
    base = random_segmentor()
    inputs = [cloud[:, :3] + 0.1 * index for index in range(4)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = segmentor(cloud, base)(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    alone = torch.cat([segmentor(cloud, base)([part]) for part in reversed(inputs)]).flip(0)
    assert torch.equal(together, alone)
    # Different inputs get different numbers.
    shifts = {
        round(float((segmentor(cloud, base)._scores([part])[0, 1] - part[:, 0]).mean()), 5)
        for part in inputs
    }
    assert len(shifts) == 4


class DrawingHead(PlaneHead):
    """Moves the plane by a random number, in a model that takes batches."""

    def forward(self, feats):
        return super().forward(feats) + torch.rand(2)[:, None]


@pytest.mark.parametrize('runs', [1, 2])
def test_a_model_of_batches_that_draws_gets_its_clouds_one_by_one(cloud, runs):
    base = segmentor(cloud).base
    base.decode_head.__class__ = DrawingHead
    inputs = [cloud[:, :3] + 0.1 * index for index in range(4)]
    segment = segmentor(cloud, base, runs=runs)
    assert segment._batched
    before = torch.get_rng_state()
    together = segment._scores(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    alone = torch.cat([segmentor(cloud, base, runs=runs)._scores([part]) for part in inputs])
    assert torch.equal(together, alone)
    assert 'random_numbers' in segment.to_dict()
    plain = segmentor(cloud)
    plain(inputs)
    assert 'random_numbers' not in plain.to_dict()


def test_a_cloud_model_with_a_generator_of_its_own_is_refused(cloud):
    base, generator = segmentor(cloud).base, torch.Generator().manual_seed(0)
    base.backbone.register_forward_hook(
        lambda module, inputs, output: output + torch.randn((), generator=generator)
    )
    with pytest.raises(UnrepeatableModelError, match=f'of {POINTS} components'):
        segmentor(cloud, base)([cloud[:, :3]])


def test_averaged_runs_shuffle_the_points_and_put_them_back(cloud):
    orders = []

    class Watched(EncoderDecoder3D):
        def encode_decode(self, points, metas):
            orders.append(points[0, :, 3].clone())
            return super().encode_decode(points, metas)

    segment = segmentor(cloud, runs=3)
    segment.base.__class__ = Watched
    labels = segment([cloud[:, :3]])[0]
    assert torch.equal(labels, (cloud[:, 0] > 0).long())
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert all(torch.equal(order.sort().values, cloud[:, 3].sort().values) for order in orders)
    again = segment([cloud[:, :3], cloud[:, :3] + 1])[0]
    assert torch.equal(again, labels)
    assert torch.equal(orders[3], orders[0])


@pytest.mark.parametrize(
    ('dataset', 'smoothing', 'message'),
    [
        ({'spoil': 'nan'}, {}, 'cloud-0.bin: 1 of 60 points have a NaN'),
        ({'spoil': 'labels'}, {}, 'select points and labels alike'),
        ({'spoil': 'range'}, {}, '7'),
        ({'columns': 3}, {'noise_dims': (0, 1, 4)}, 'column 4'),
        ({}, {'sigma': 50.0}, 'unit of the coordinates'),
        ({}, {'scales': (0.5,)}, '`smoothing.scales` is for images; this model takes clouds'),
        ({}, {'noise_dims': (0, 0)}, 'noise_dims must be different'),
        ({}, {'runs': 0}, 'runs must be'),
        ({}, {'sigma': None, 'perturbation': dict(type='mmcert.GaussianNoise', sigma=0.2)},
         'is for image'),
        ({}, {'sigma': None, 'noise_dims': (0, 1),
              'perturbation': dict(type='mmcert.AxisRotation', sigma=0.2)}, 'moves points in'),
    ],
)  # fmt: skip
def test_what_cannot_be_certified_is_named(tmp_path, dataset, smoothing, message):
    with pytest.raises(ValueError, match=message):
        run(config(tmp_path, smoothing, **dataset))


def test_keys_of_clouds_are_refused_for_images():
    with pytest.raises(ValueError, match='`smoothing.runs` is for clouds'):
        SmoothingConfig.from_cfg(dict(sigma=0.25, runs=3), 'image')


def test_too_few_points_for_the_model_are_refused(cloud):
    base = segmentor(cloud).base
    base.backbone.num_point = 100
    with pytest.raises(ValueError, match='has 60 points, but Coordinates samples 100'):
        CloudAdapter().segmentor(
            base, cloud, Det3DDataSample(metainfo=dict(lidar_path='b.bin')), PrecisionSettings()
        )


def test_duplicated_points_are_certified_like_others(cloud):
    doubled = torch.cat([cloud, cloud])
    votes = collect_votes(
        segmentor(doubled),
        doubled[:, :3],
        CoordinateNoise(0.1),
        SamplingSettings(n0=4, n=40, num_classes=2),
    )
    assert votes.num_components == 2 * POINTS


def test_a_preprocessor_of_its_own_goes_through_predict(cloud):
    class Shifted(Det3DDataPreprocessor):
        def simple_process(self, data, training=False):
            data = super().simple_process(data, training)
            data['inputs']['points'] = [p - 10 for p in data['inputs']['points']]
            return data

    base = segmentor(cloud).base
    base.data_preprocessor = Shifted()
    assert int(segmentor(cloud, base)([cloud[:, :3]]).sum()) == 0


@pytest.mark.parametrize(
    'perturbation',
    [
        dict(type='mmcert.AxisRotation', sigma=0.3),
        dict(type='mmcert.PointTranslation', sigma=0.3),
        dict(type='mmcert.LogScale', sigma=0.3),
        dict(type='mmcert.Shear', sigma=0.3),
        dict(type='mmcert.Twist', sigma=0.3),
        dict(type='mmcert.Taper', sigma=0.3),
        dict(type='mmcert.Rotation3D', sigma=0.3),
    ],
    ids=lambda cfg: cfg['type'].split('.')[1],
)
def test_every_transformation_certifies_from_a_config(tmp_path, perturbation):
    metrics = run(config(tmp_path, dict(sigma=None, perturbation=perturbation, draw_every=0)))
    # Rotations about different axes do not add: their radius is a little larger.
    error = 0.02 if perturbation['type'] == 'mmcert.Rotation3D' else 1e-6
    assert metrics['certified/radius'] == pytest.approx(0.3 * ndtri(0.6), rel=error)
    assert metrics['certified/certified_share'] > 0


def test_a_smoothed_point_is_pushed_across_its_plane_by_the_least_norm(cloud):
    # A point's boundary is x = 0, whatever the noise: crossing it takes |x|.
    segment = segmentor(cloud)
    clean, noise = cloud[:, :3], CoordinateNoise(0.5)
    labels = (cloud[:, 0] > 0).long()
    nearest = clean[:, 0].abs().argsort()[5:6]
    where = torch.zeros(len(cloud), dtype=torch.bool).index_fill(0, nearest, True)
    least = clean[nearest, 0].norm().item()
    scores = SmoothedScores(segment.scores, noise, 8, torch.Generator().manual_seed(0))
    for share, crossed in ((1.02, True), (0.98, False)):
        found = attack_input(
            scores, clean, Goal(labels, where, 'ce'), share * least, steps=Steps(60, last=0.01)
        )
        moved = clean + found.delta[0]
        assert bool(((moved[:, 0] > 0) != (labels > 0))[nearest].all()) == crossed
        assert found.delta[0][~where].abs().max().item() == 0


def test_the_attack_tool_takes_clouds(tmp_path):
    cfg = config(tmp_path)
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool(
        'tools/attack.py', tmp_path / 'config.py', cfg.load_from, '--radius', 0.1, '--steps', 5,
        '--draws', 2, '--judged', 40, '--sure', 100, '--losses', 'masked_ce',
    )  # fmt: skip
    assert '2/2' in printed
    (folder,) = (tmp_path / 'work/certified').glob('attacks-*')
    (found,) = json.loads((folder / 'summary.json').read_text())['attack_sets']
    accuracy = {name: rate['accuracy'] for name, rate in found['rates'].items()}
    assert accuracy['certified'] < accuracy['base_attacked'] < accuracy['base_clean'] == 1
    assert len(list(folder.glob('*.png'))) == 2


def test_clouds_are_corrupted_beside_their_certificates(tmp_path):
    cfg = config(tmp_path, {'perturbation': dict(type='mmcert.Rotation3D', sigma=0.5),
                            'sigma': None, 'draw_every': 0})  # fmt: skip
    cfg.dump(tmp_path / 'clouds.py')
    command = (
        'tools/corruptions.py', tmp_path / 'clouds.py', cfg.load_from, '--work-dir',
        tmp_path / 'work', '--draws', 20, '--severities', 1, 5, '--corruptions',
    )  # fmt: skip
    run_tool(*command, 'rotate', 'dropout_global', 'add_local')
    (file,) = tmp_path.glob('work/certified/corruptions-*/summary.json')
    summary = json.loads(file.read_text())
    rotate, dropout, add = summary['corruptions']
    mild, strong = rotate['severities']
    assert summary['measure'].startswith('angle of the rotation')
    assert mild['certified']['inputs'] == 2
    assert 0.3 < mild['certified']['accuracy'] <= mild['rates']['smoothed']['accuracy']
    assert (strong['certified'] or {'share': 0})['share'] <= mild['certified']['share']
    # x > 0 is seen point by point: others that come and go do not matter.
    assert dropout['mean']['base']['accuracy'] == add['mean']['base']['accuracy'] == 1
    assert [entry['certified'] for entry in dropout['severities']] == [None, None]
