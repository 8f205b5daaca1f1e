"""From logits to labels, precision, and the head's own grid: the ways to sample a model faster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmcert.certifier import certifier, entries
from mmcert.certify import CertifySettings
from mmcert.engine import SmoothingConfig
from mmcert.models import ImageSegmentor, PrecisionSettings, SmoothedSegmentor
from mmcert.sampling import LogitMaps, passes
from mmcert.sampling.draws import ESTIMATION
from mmcert.votes import FingerprintError, VotesStore, read_folder
from mmcert.votes.recertify import Task, evaluate
from tests.openmmlab import BrightnessSegmentor, run_test

ROOT = Path(__file__).parents[2]


def small_model(*, align_corners=False, cascade=False, binary=False, **options):
    """A random mmsegmentation model whose head works at a quarter of the resolution."""
    classes = dict(num_classes=2, out_channels=1, threshold=0.4) if binary else dict(num_classes=5)
    head = dict(
        type='FCNHead', in_channels=8, in_index=1, channels=8, num_convs=1, concat_input=False,
        norm_cfg=dict(type='BN'), align_corners=align_corners, **classes,
    )  # fmt: skip
    torch.manual_seed(3)
    model = dict(
        type='CascadeEncoderDecoder' if cascade else 'EncoderDecoder',
        backbone=dict(
            type='ResNetV1c', depth=18, stem_channels=4, base_channels=4, num_stages=2,
            strides=(1, 2), dilations=(1, 1), out_indices=(0, 1), norm_cfg=dict(type='BN'),
            contract_dilation=True,
        ),
        decode_head=head,
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4],
            bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    if cascade:
        ocr = dict(
            type='OCRHead', in_channels=8, in_index=1, channels=8, ocr_channels=4, num_classes=5,
            norm_cfg=dict(type='BN'), align_corners=align_corners,
        )  # fmt: skip
        model |= dict(num_stages=2, decode_head=[head, ocr])
    model.update(options)
    built = MODELS.build(ConfigDict(model))
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.5)
    # Spreads the logits, so that the labels change from place to place.
    for parameter in built.parameters():
        parameter.data *= 1.5
    built.eval()
    last = built.decode_head[-1] if cascade else built.decode_head
    with torch.no_grad():
        logits = built._forward(torch.randn(1, 3, 64, 64))
        logits = logits[-1] if isinstance(logits, (list, tuple)) else logits
        if logits.shape[1] == last.conv_seg.out_channels:
            last.conv_seg.bias -= logits.mean(dim=(0, 2, 3))
    return built


def sample_for(height=40, width=56, **meta):
    shape = (height, width)
    return SegDataSample(metainfo={'ori_shape': shape, 'img_shape': shape, **meta})


def noisy_images(count=3, height=40, width=56):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, height, width, generator=generator)
    noise = torch.randn(count, 3, height, width, generator=generator)
    return [image + 0.25 * part for part in noise]


def predicted(base, images, scale=1.0, sample=None):
    """Labels by the model's own ``predict``."""
    segment = ImageSegmentor(base, sample or sample_for(), (scale,))
    segment._hands_on_logits = False
    return segment(images)


@pytest.mark.parametrize('scale', [0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'align_corners': True},
        {'cascade': True},
        {'binary': True},
        {'padded': True},
        {'padded': True, 'align_corners': True},
    ],
    ids=str,
)
def test_labels_from_logits_are_those_that_the_model_predicts(options, scale):
    padded = options.pop('padded', False) if 'padded' in (options := dict(options)) else False
    base = small_model(**options)
    if padded:
        base.data_preprocessor.test_cfg = dict(size_divisor=32)
    images = noisy_images()
    segment = ImageSegmentor(base, sample_for(), (scale,))
    output = segment([image.clone() for image in images])
    assert isinstance(output, LogitMaps)
    labels = segment.labels([image.clone() for image in images])
    expected = predicted(base, images, scale)
    assert len(expected.unique()) > 1
    assert torch.equal(labels.long(), expected)
    # The base prediction and its margin are of the same function.
    clean, _ = segment.with_margin(images[0])
    assert torch.equal(clean, expected[0])


@pytest.mark.parametrize('scale', [0.5, 1.0])
def test_the_model_sees_what_its_own_preprocessor_makes_of_the_pipelines_units(scale):
    base = small_model()
    seen = []
    base.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    images = noisy_images()
    ImageSegmentor(base, sample_for(), (scale,)).labels([image.clone() for image in images])
    batch = torch.stack(images) * 255
    if scale != 1:
        batch = torch.nn.functional.interpolate(batch, scale_factor=scale, mode='bilinear')
    data = {'inputs': list(batch), 'data_samples': None}
    assert torch.equal(seen[-1], base.data_preprocessor(data, False)['inputs'])


def test_autocast_of_the_test_loop_is_named():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert PrecisionSettings().to_dict(torch.device('cpu'))['precision'] == 'bfloat16'
    assert PrecisionSettings().to_dict(torch.device('cpu'))['precision'] == 'fp32'


def test_the_model_is_left_as_it_was():
    base = small_model()
    before = dict(vars(base.decode_head))
    ImageSegmentor(base, sample_for()).labels(noisy_images())
    assert dict(vars(base.decode_head)).keys() == before.keys()


def test_a_batch_of_views_is_neither_copied_nor_changed():
    base = small_model()
    batch = torch.stack(noisy_images())
    kept = batch.clone()
    first = ImageSegmentor(base, sample_for()).labels(list(batch))
    assert torch.equal(batch, kept)
    second = ImageSegmentor(base, sample_for()).labels([image.clone() for image in batch])
    assert torch.equal(first, second)
    swapped = ImageSegmentor(base, sample_for()).labels([batch[1], batch[0], batch[2]])
    assert torch.equal(swapped[[1, 0, 2]], first)


class Sharpened(EncoderDecoder):
    """Goes on computing after the logits were resized."""

    def encode_decode(self, inputs, batch_img_metas):
        return super().encode_decode(inputs, batch_img_metas).roll(3, dims=-1) * 2


class OwnPredict(EncoderDecoder):
    def predict(self, inputs, data_samples=None):
        return super().predict(inputs, data_samples)


@pytest.mark.parametrize('kind', [Sharpened, OwnPredict])
def test_models_with_ways_of_their_own_go_through_predict(kind):
    base = small_model()
    base.__class__ = kind
    images = noisy_images()
    segment = ImageSegmentor(base, sample_for())
    output = segment([image.clone() for image in images])
    assert isinstance(output, torch.Tensor)
    assert torch.equal(output, predicted(base, images))
    with pytest.raises(ValueError, match="resolution='logits'"):
        ImageSegmentor(base, sample_for(), resolution='logits')(images)


def test_what_was_changed_on_the_object_itself_counts():
    """Methods of an instance, and hooks around its call, are part of the base model."""
    images = noisy_images()

    def shifted(base):
        stock = base.postprocess_result

        def postprocess(logits, data_samples=None):
            return stock(logits.roll(1, dims=1), data_samples)

        base.postprocess_result = postprocess

    def hooked(base):
        base.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(-1), *inputs[1:]))

    for change in (shifted, hooked):
        base = small_model()
        unchanged = predicted(base, images)
        change(base)
        expected = predicted(base, images)
        assert not torch.equal(expected, unchanged)
        assert torch.equal(ImageSegmentor(base, sample_for()).labels(images), expected)


def test_views_in_another_order_in_memory_are_no_batch():
    batch = torch.stack(noisy_images(3, 40, 40))
    turned = [image.transpose(-1, -2) for image in batch]
    segment = ImageSegmentor(small_model(), sample_for(40, 40))
    copies = [image.contiguous() for image in turned]
    assert torch.equal(segment.labels(turned), segment.labels(copies))


@pytest.mark.parametrize(
    'options', [{'scales': (0.5, 1.0)}, {'flip': True}, {'base': BrightnessSegmentor(mode='slide')}]
)
def test_the_heads_grid_needs_one_pass_of_the_whole_image(options):
    base = options.pop('base', None) if 'base' in (options := dict(options)) else small_model()
    with pytest.raises(ValueError, match="resolution='logits' needs one scale"):
        ImageSegmentor(base, sample_for(), resolution='logits', **options)


def smoothed(base, classes=5, **smoothing):
    settings = {'sigma': 0.25, 'n': 40, 'n0': 10, 'alpha': 0.01, 'tau': 0.6, **smoothing}
    plan = SmoothingConfig.from_cfg(settings).plan([str(i) for i in range(classes)])
    return SmoothedSegmentor(base, plan)


def test_on_the_heads_grid_a_cell_is_one_hypothesis():
    base = small_model()
    image = (noisy_images(1)[0].clamp(0, 1) * 255).to(torch.uint8)

    def certified(**smoothing):
        data = {'inputs': [image], 'data_samples': [sample_for()]}
        return smoothed(base, **smoothing).test_step(data)[0]

    cells, pixels = certified(resolution='logits'), certified()
    statement = entries(cells.certificate)
    with torch.no_grad():
        batch = base.data_preprocessor({'inputs': [image], 'data_samples': [sample_for()]}, False)
        grid = base._forward(batch['inputs']).shape[-2:]
    assert statement['components'] == grid.numel() < 40 * 56 / 10
    assert pixels.certificate['promise']['components'] == 40 * 56
    assert 'another model' in statement['components_are']
    assert statement['resolution'] == 'logits'
    # Every map has the image's size, and one value in each cell.
    rows = (np.arange(40) + 0.5) * grid[0] // 40
    columns = (np.arange(56) + 0.5) * grid[1] // 56
    for name in ('pred_sem_seg', 'cert_sem_seg', 'base_sem_seg', 'cert_radius'):
        values = cells.get(name).data[0].numpy()
        assert values.shape == (40, 56)
        for row in range(grid[0]):
            for column in range(grid[1]):
                part = values[rows == row][:, columns == column]
                assert len(np.unique(part)) == 1


def test_padding_is_no_part_of_the_grid_that_pixels_see():
    base = small_model()
    base.data_preprocessor.test_cfg = dict(size_divisor=32)
    segment = ImageSegmentor(base, sample_for(), resolution='logits')
    maps = segment(noisy_images())
    # 40 x 56 is padded to 64 x 64 at the right and at the bottom.
    height, width = maps.shape
    assert segment.grid.rows.max() == -(-40 * height // 64) - 1
    assert segment.grid.columns.max() == -(-56 * width // 64) - 1


def test_votes_on_the_grid_give_the_same_answers_offline(make_config, tmp_path):
    cfg = make_config(smoothing=dict(resolution='logits', votes_dir=str(tmp_path / 'votes')))
    metrics = run_test(cfg)
    records = list(read_folder(tmp_path / 'votes'))
    assert all(record.grid is not None for record in records)
    [counts] = evaluate(records, [CertifySettings(0.6, 0.01, 'holm', 'holdout')], Task(8))
    rates = counts.rates()
    for key in ('certAcc', 'mIoU', 'abstain', 'base_aAcc'):
        assert rates[key] == pytest.approx(metrics[f'certified/{key}'])


def test_a_wrong_count_certificate_may_show_in_all_pixels_of_its_cell(make_config, tmp_path):
    smoothing = dict(resolution='logits', votes_dir=str(tmp_path / 'votes'), procedure='kfwer', k=3)
    metrics = run_test(make_config(smoothing=smoothing))
    records = list(read_folder(tmp_path / 'votes'))
    [counts] = evaluate(records, [CertifySettings(0.6, 0.01, 'kfwer', 'holdout', 3)], Task(8))
    pixels = [record.pixels_per_component for record in records]
    assert counts.allowance == sum(2 * count for count in pixels)
    assert counts.rates()['certAcc'] == pytest.approx(metrics['certified/certAcc'])


def test_other_arithmetic_is_another_base_model_and_says_so():
    base = small_model()
    image = (noisy_images(1)[0].clamp(0, 1) * 255).to(torch.uint8)

    def run(**smoothing):
        model = smoothed(base, **smoothing)
        with model.plan.precision.applied_to(base):
            data = {'inputs': [image], 'data_samples': [sample_for()]}
            return model, model.test_step(data)[0]

    _, plain = run()
    assert plain.certificate['model']['precision']['precision'] == 'fp32'
    assert plain.certificate['model']['precision']['logits_resized'] == 'in fp32'
    _, mirrored = run(flip=True)
    assert mirrored.certificate['model']['precision']['logits_resized'].startswith('by the model')
    assert 'precision' not in smoothed(base).plan.spec()
    for options in ({'precision': 'bf16'}, {'channels_last': True}):
        model, result = run(**options)
        assert model.plan.spec()['precision'] == options
        assert result.certificate['model']['precision'].items() >= options.items()
        agree = result.pred_sem_seg.data == plain.pred_sem_seg.data
        assert agree.float().mean() > 0.9
    assert all(p.is_contiguous() for p in base.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'int8'}, 'precision must be one of fp32, bf16, fp16'),
        ({'channels_last': 1}, 'channels_last must be True or False'),
        ({'compile': 'fast'}, 'compile must be True, False or one of'),
        ({'resolution': 'pixel'}, 'resolution must be one of image, logits'),
        ({'distribute': 'gpus'}, 'distribute must be one of images, draws'),
        ({'save_seconds': -1}, 'save_seconds must be a number of at least 0'),
        ({'batch_size': 'big'}, "batch_size must be an integer of at least 1 or 'auto'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg({'sigma': 0.25, **options})


def test_kernels_are_deterministic_while_a_model_is_certified():
    # A run that is continued, or shared by processes, must compute the same bits.
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    with PrecisionSettings().applied_to(small_model()):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert (cudnn.benchmark, cudnn.deterministic) == before


def test_cuda_graphs_need_a_cuda_device():
    base = small_model()
    precision = PrecisionSettings(cuda_graphs=True).applied_to(base)
    with pytest.raises(ValueError, match='cuda_graphs=True needs a CUDA device'), precision:
        pass


@pytest.mark.slow
def test_a_compiled_model_is_sampled_and_put_back():
    base = small_model()
    images = noisy_images()
    expected = predicted(base, images)
    precision = PrecisionSettings(compile=True)
    with torch.no_grad(), precision.applied_to(base):
        assert base.backbone._compiled_call_impl is not None
        labels = ImageSegmentor(base, sample_for(), precision=precision).labels(images)
    assert base.backbone._compiled_call_impl is None
    assert (labels.long() == expected).float().mean() > 0.99


def test_the_batch_size_may_be_found_by_itself(make_config, tmp_path):
    from tests.engine.test_smoothing_hook import votes_files

    for name, size in (('fixed', 8), ('found', 'auto')):
        run_test(make_config(smoothing=dict(batch_size=size, votes_dir=str(tmp_path / name))))
    assert votes_files(tmp_path / 'fixed') == votes_files(tmp_path / 'found')


def test_a_run_continues_inside_a_later_look(make_config, tmp_path):
    smoothing = dict(n='auto', budget=320, min_gain=0.0, batch_size=4, n0=4, tau=0.6)
    folders = [tmp_path / 'stopped', tmp_path / 'whole']
    configs = [
        make_config(images=1, smoothing={**smoothing, 'votes_dir': str(folder / 'votes')})
        for folder in folders
    ]
    whole = run_test(configs[1])
    (record,) = read_folder(folders[1] / 'votes')
    assert len(record.votes.looks) > 1, 'the test needs a second look'
    first, real = record.votes.looks[0], passes.Passes._generators

    def stopping(self, stage, indices):
        if stage == ESTIMATION and indices[0] == first + 8:
            raise KeyboardInterrupt
        return real(self, stage, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes.Passes, '_generators', stopping)
        with pytest.raises(KeyboardInterrupt):
            run_test(configs[0])
    assert list((folders[0] / 'votes').glob('*.part'))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        real = certifier.Checkpointer
        patch.setattr(
            certifier,
            'Checkpointer',
            lambda save, seconds, part: found.append(part) or real(save, seconds, part),
        )
        continued = run_test(configs[0])
    assert found[0] is not None and found[0].start == first and found[0].done == 8
    files = [{p.name: p.read_bytes() for p in (f / 'votes').iterdir()} for f in folders]
    assert files[0] == files[1]
    assert continued['certified/certAcc'] == whole['certified/certAcc']


def test_counts_of_another_run_are_refused_not_overwritten(make_config, tmp_path):
    store = VotesStore(tmp_path, {'seed': 1}, {})
    store.put_checkpoint('a', {'counts': np.zeros(3)})
    assert set(store.get_checkpoint('a')) == {'counts'}
    with pytest.raises(FingerprintError, match='was begun'):
        VotesStore(tmp_path, {'seed': 2}, {}).get_checkpoint('a')


@pytest.mark.slow
def test_a_killed_run_continues_inside_its_image_to_the_same_files(make_config, tmp_path):
    cfg = make_config(images=2, size=(64, 96), smoothing=dict(n=400, batch_size=2, save_seconds=0))
    cfg.dump(tmp_path / 'config.py')
    folders = [tmp_path / 'killed', tmp_path / 'whole']
    command = [sys.executable, 'tools/test.py', str(tmp_path / 'config.py'), cfg.load_from]

    def start(folder):
        with (tmp_path / f'{folder.name}.log').open('a') as log:
            return subprocess.Popen(
                [*command, '--work-dir', str(folder)],
                cwd=ROOT, stdout=log, stderr=log, env=os.environ | {'OMP_NUM_THREADS': '1'},
            )  # fmt: skip

    running = start(folders[0])
    deadline = time.monotonic() + 120
    while not list(folders[0].glob('certified/votes-*/*.part')):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert list(folders[0].glob('certified/votes-*/*.part'))
    for folder in folders:
        assert start(folder).wait(timeout=240) == 0
    assert 'draws were sampled before' in (tmp_path / 'killed.log').read_text()
    contents = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / 'certified').rglob('*')
            if path.is_file()
        }
        for folder in folders
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) >= 2 + 2 * 4
