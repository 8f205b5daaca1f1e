"""mmsegmentation's models on a device: precision, graphs, compilation, and the tools."""

import numpy as np
import pytest
import torch

from mmcert.sampling import LogitMaps, SamplingSettings, collect_votes

from .support import DEVICES, NOISE

pytest.importorskip('mmengine')
from mmcert.compat import enable_mmcv_lite

enable_mmcv_lite()
pytest.importorskip('mmseg')

from mmcert.models import ImageSegmentor, PrecisionSettings  # noqa: E402
from mmcert.models.precision import PRECISIONS  # noqa: E402
from mmcert.sampling.label_decoding import decode_labels  # noqa: E402
from mmcert.sampling.logit_maps import eager_labels  # noqa: E402
from mmcert.votes import read_folder  # noqa: E402
from tests.models import test_sampling_paths as paths  # noqa: E402
from tests.models.test_sampling_paths import noisy_images, sample_for, small_model  # noqa: E402
from tests.openmmlab import make_config, run_test  # noqa: E402, F401


def images_on(device, count=3):
    return [image.to(device) for image in noisy_images(count)]


def normalised(base, images):
    """What the model's own preprocessor makes of images in [0, 1]."""
    data = {'inputs': [image * 255 for image in images], 'data_samples': None}
    return base.data_preprocessor(data, False)['inputs']


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_the_model_sees_what_its_own_preprocessor_makes(device, bgr_to_rgb):
    base = small_model(
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4],
            bgr_to_rgb=bgr_to_rgb,
        )
    ).to(device)  # fmt: skip
    seen = []
    base.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    images = images_on(device)
    with torch.no_grad():
        ImageSegmentor(base, sample_for())(images)
    # The first passes are those that show whether the model repeats itself.
    assert seen[-1].device.type == device
    assert torch.equal(seen[-1], normalised(base, images))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('options', [{}, {'cascade': True}, {'binary': True}], ids=str)
def test_labels_from_logits_are_those_that_the_model_predicts(device, options):
    base = small_model(**options).to(device)
    images = images_on(device)
    with torch.no_grad():
        segment = ImageSegmentor(base, sample_for())
        assert isinstance(segment(images), LogitMaps)
        labels, expected = segment.labels(images), paths.predicted(base, images)
        clean, margin = segment.with_margin(images[0])
    assert len(expected.unique()) > 1
    assert float((labels.long() != expected).float().mean()) < 1e-3
    assert float((clean != expected[0]).float().mean()) < 1e-3
    assert margin.dtype == torch.uint8


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_autocast_computes_in_half_precision_and_resizes_in_single(device, precision):
    base, images = small_model().to(device), images_on(device)
    settings, kind = PrecisionSettings(precision=precision), PRECISIONS[precision]
    with torch.no_grad():
        segment = ImageSegmentor(base, sample_for(), precision=settings)
        output, plain = segment(images), ImageSegmentor(base, sample_for())(images)
        inputs = normalised(base, images)
        with torch.autocast(device, dtype=kind):
            by_hand = base._forward(inputs)
    assert output.scores.dtype == by_hand.dtype == kind
    torch.testing.assert_close(output.scores, by_hand)
    error = (output.scores.float() - plain.scores).abs().max() / plain.scores.abs().max()
    assert 0 < float(error) < 0.1
    labels = decode_labels(output)
    assert float((labels != eager_labels(output)).float().mean()) < 1e-2
    assert float((labels != decode_labels(plain)).float().mean()) < 0.1
    statement = segment.to_dict()
    assert statement['precision'] == precision and statement['device'] == device
    assert ('tf32' in statement) == (device == 'cuda')


def votes_of(base, image, precision, n=40):
    segment = ImageSegmentor(base, sample_for(), precision=precision)
    return collect_votes(
        segment, image, NOISE, SamplingSettings(n0=8, n=n, num_classes=5, batch_size=8)
    )


def assert_close_votes(votes, expected):
    """The same draws through the same weights, rounded otherwise."""
    assert (votes.guess == expected.guess).mean() > 0.97
    assert np.abs(votes.hits.astype(int) - expected.hits.astype(int)).mean() < 0.02 * votes.n


@pytest.mark.cuda
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_votes_nearly_as_single(precision):
    base, (image,) = small_model().cuda(), images_on('cuda', 1)
    expected = votes_of(base, image, PrecisionSettings())
    votes = votes_of(base, image, PrecisionSettings(precision=precision))
    assert (votes.guess == expected.guess).mean() > 0.9
    assert np.abs(votes.hits.astype(int) - expected.hits.astype(int)).mean() < 0.1 * votes.n


def traced(call):
    """What a call returns, and the names of what a profiler saw meanwhile."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as trace:
        result = call()
        torch.cuda.synchronize()
    return result, {event.name for event in trace.events()}


@pytest.mark.cuda
@pytest.mark.parametrize('n', [40, 44])
def test_cuda_graphs_give_the_votes_of_single_kernels(n):
    """With n = 44 the last batch is smaller than the one that was captured."""
    base, (image,) = small_model().cuda(), images_on('cuda', 1)
    expected = votes_of(base, image, PrecisionSettings(), n)
    precision = PrecisionSettings(cuda_graphs=True)
    with precision.applied_to(base):
        votes = votes_of(base, image, precision, n)
        again = votes_of(base, image, precision, n)
        _, names = traced(lambda: votes_of(base, image, precision, 8))
    assert_close_votes(votes, expected)
    np.testing.assert_array_equal(votes.hits, again.hits)
    if any(name.startswith(('cudaLaunchKernel', 'cuLaunchKernel')) for name in names):
        assert 'cudaGraphLaunch' in names, 'nothing was replayed as a graph'
    assert_close_votes(votes_of(base, image, PrecisionSettings(), n), expected)


@pytest.mark.cuda
def test_a_replay_does_not_overwrite_what_an_earlier_one_gave():
    base = small_model().cuda()
    first, second = (images_on('cuda', 6)[part] for part in (slice(3), slice(3, 6)))
    with torch.no_grad():
        plain = ImageSegmentor(base, sample_for())
        expected = [plain(images).scores for images in (first, second)]
        precision = PrecisionSettings(cuda_graphs=True)
        with precision.applied_to(base):
            segment = ImageSegmentor(base, sample_for(), precision=precision)
            for _ in range(4):
                found = [segment(images).scores for images in (first, second)]
                for scores, wanted in zip(found, expected, strict=True):
                    torch.testing.assert_close(scores, wanted, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(*expected, rtol=1e-2, atol=1e-2)


@pytest.mark.cuda
@pytest.mark.parametrize('mode', [True, 'reduce-overhead'])
def test_a_compiled_model_votes_nearly_as_the_plain_one(mode):
    base, (image,) = small_model().cuda(), images_on('cuda', 1)
    expected = votes_of(base, image, PrecisionSettings())
    precision = PrecisionSettings(compile=mode)
    with precision.applied_to(base):
        assert base.backbone._compiled_call_impl is not None
        votes = votes_of(base, image, precision)
    assert base.backbone._compiled_call_impl is None
    assert_close_votes(votes, expected)


@pytest.mark.cuda
def test_the_smoothed_model_certifies_on_the_device():
    image = (noisy_images(1)[0].clamp(0, 1) * 255).to(torch.uint8)
    found = {}
    for device in ('cpu', 'cuda'):
        data = {'inputs': [image], 'data_samples': [sample_for()]}
        model = paths.smoothed(small_model().to(device), n=400, n0=100)
        found[device] = model.test_step(data)[0]
    assert found['cuda'].certificate['model']['precision']['device'] == 'cuda'
    assert set(found['cuda'].keys()) == set(found['cpu'].keys())
    agree = found['cpu'].pred_sem_seg.data.cpu() == found['cuda'].pred_sem_seg.data.cpu()
    assert float(agree.float().mean()) > 0.9
    certified = [part.cert_sem_seg.data.cpu() for part in found.values()]
    both = (certified[0] < 254) & (certified[1] < 254)
    # Wrong with probability alpha = 0.01 in each.
    assert bool(both.any()) and torch.equal(certified[0][both], certified[1][both])


@pytest.mark.cuda
def test_a_run_on_the_device_leaves_votes_and_metrics(make_config, tmp_path):  # noqa: F811
    metrics = run_test(make_config(smoothing=dict(votes_dir=str(tmp_path / 'votes'))))
    records = list(read_folder(tmp_path / 'votes'))
    assert len(records) == 2
    assert all(record.meta['precision']['device'] == 'cuda' for record in records)
    assert 0 <= metrics['certified/certAcc'] <= metrics['certified/base_aAcc'] + 0.5


@pytest.mark.cuda
def test_a_killed_run_of_the_tool_continues_to_the_same_files(make_config, tmp_path):  # noqa: F811
    paths.test_a_killed_run_continues_inside_its_image_to_the_same_files(make_config, tmp_path)
