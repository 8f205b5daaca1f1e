"""No hidden synchronisation: while it samples, nothing waits for the device.

torch's own guard (``torch.cuda.set_sync_debug_mode('error')``) is the main test: it fails at the
very line that waits, every time, and needs no tracing library. It knows torch's operations only, so
a profiler's trace is counted as well, which also sees what other libraries ask of the driver.
"""

import numpy as np
import pytest
import torch

from mmcert.sampling import Checkpointer, SamplingSettings, collect_votes
from tests.sampling.support import sample_votes

from .support import NOISE

pytestmark = pytest.mark.cuda
BATCH, SELECTION, ESTIMATION = 4, 10, 20


class Watched:
    """Calls ``begin`` and ``end`` around the steady part of a stage, between calls of the model.

    The first three calls of a stage are left out, in which kernels are compiled and memory is
    taken; so is what follows the last call: the counts are read there.
    """

    def __init__(self, segment, begin, end):
        self.segment, self.begin, self.end, self.calls = segment, begin, end, 0

    def __call__(self, images):
        if self.calls in (3, SELECTION + 3):
            self.begin()
        if self.calls in (SELECTION - 1, SELECTION + ESTIMATION - 1):
            self.end()
        self.calls += 1
        return self.segment(images)


def sample(segment, image, classes, **arguments):
    return sample_votes(
        segment, image, NOISE, n0=SELECTION * BATCH, n=ESTIMATION * BATCH, num_classes=classes,
        batch_size=BATCH, **arguments,
    )  # fmt: skip


@pytest.fixture
def forbidden():
    """Begins and ends the time in which waiting is an error."""
    yield (
        lambda: torch.cuda.set_sync_debug_mode('error'),
        lambda: torch.cuda.set_sync_debug_mode('default'),
    )
    torch.cuda.set_sync_debug_mode('default')


@pytest.fixture
def model(openmmlab):
    """A model of mmsegmentation and an image, on the device."""
    from tests.models.test_sampling_paths import noisy_images, sample_for, small_model

    return small_model().cuda(), sample_for(), noisy_images(1)[0].clamp(0, 1).cuda()


GROUPS = [[0, 1, 1, 2, 2], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ('precision', 'arguments'),
    [
        ({}, {}),
        ({'precision': 'bf16'}, {}),
        ({'precision': 'fp16', 'channels_last': True}, {}),
        ({}, {'groups': GROUPS}),
        ({}, {'checkpointer': Checkpointer(lambda part: None, 1e9)}),
        ({}, {'on_draws': lambda done: None}),
    ],
    ids=['fp32', 'bf16', 'fp16-channels_last', 'hierarchy', 'checkpointer', 'on_draws'],
)
def test_sampling_never_waits_for_the_device(model, forbidden, precision, arguments):
    from mmcert.models import ImageSegmentor, PrecisionSettings

    base, data_sample, image = model
    precision = PrecisionSettings(**precision)
    segment = ImageSegmentor(base, data_sample, precision=precision)
    expected = sample(segment, image, 5, **arguments)
    with precision.applied_to(base):
        watched = Watched(segment, *forbidden)
        votes = sample(watched, image, 5, **arguments)
    assert watched.calls == SELECTION + ESTIMATION
    # And it was the same run; the formats of memory round otherwise.
    assert (votes.guess == expected.guess).mean() > 0.97


def test_the_guard_sees_a_model_that_waits(model, forbidden):
    from mmcert.models import ImageSegmentor

    base, data_sample, image = model
    segment = ImageSegmentor(base, data_sample)

    def waiting(images):
        output = segment(images)
        if float(output.scores.flatten()[0]) > 1e9:
            raise AssertionError
        return output

    with pytest.raises(RuntimeError, match='synchroniz'):
        sample(Watched(waiting, *forbidden), image, 5)


WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize', 'cudaMemcpy')


def waits_of(segment, image):
    """Names of the driver calls that wait, in the steady part of the second stage."""
    trace = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    )
    begun = []

    def begin():
        if begun:
            torch.cuda.synchronize()
            trace.start()
        begun.append(True)

    def end():
        if len(begun) == 2:
            trace.stop()

    sample(Watched(segment, begin, end), image, 5)
    names = [event.name for event in trace.events()]
    if not any(name.startswith(('cudaLaunch', 'cuLaunch')) for name in names):
        pytest.skip('the profiler records no calls of the driver here')
    return [name for name in names if name in WAITS]


def test_a_trace_has_no_waiting_call_per_batch(model):
    from mmcert.models import ImageSegmentor

    base, data_sample, image = model
    segment = ImageSegmentor(base, data_sample)

    def waiting(images):
        output = segment(images)
        output.scores.flatten()[0].item()
        return output

    batches = ESTIMATION - 4
    # Starting and stopping the trace waits a few times itself.
    assert len(waits_of(segment, image)) < batches // 2
    assert len(waits_of(waiting, image)) >= batches


def test_the_votes_are_read_once_at_the_end(model):
    """Counts stay on the device: what is copied does not grow with the number of draws."""
    from mmcert.models import ImageSegmentor

    base, data_sample, image = model
    segment = ImageSegmentor(base, data_sample)
    peaks = []
    for n in (16, 256):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        votes = collect_votes(
            segment, image, NOISE, SamplingSettings(n0=8, n=n, num_classes=5, batch_size=BATCH)
        )
        peaks.append(torch.cuda.max_memory_allocated())
    assert isinstance(votes.hits, np.ndarray)
    assert peaks[1] <= 1.02 * peaks[0]
