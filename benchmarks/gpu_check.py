"""Checks mmcert on a GPU, in a few minutes: a verdict in each line, and one JSON file.

``make gpu-check`` runs it with the environment's Python, ``make gpu-check PYTHON_GPU=python3`` with
another one that has torch, mmsegmentation on mmcv or mmcv-lite, and pytest. In this order, while
the time lasts:

* the tests in ``tests/cuda``, in processes of their own;
* certified draws beside bare passes, for five models with random weights: in fp32 and bf16 at
  512 x 1024, then at 1024 x 2048, then in fp16;
* what a draw's time goes into.

A check that fails does not stop the others. The file is written after each of them, so that a run
which is cut off leaves all that was done. The exit code is 1 if a check failed; neither to be
skipped nor to miss the goal for the overhead is a failure. Without a CUDA device it says what is
missing, and runs the tests that the CPU can do.

Certified draws are timed in the estimation stage of ``collect_votes``, from the end of its first
batch to the end of its last one, with ``mmcert.models.ImageSegmentor`` and the batch size that
'auto' settled on before; bare passes are those of ``sampling_sections.py``, of as many images in
batches of the same size. Both are taken in turn, several times; ratios are of neighbours.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segmentors import CONFIGS as MODELS
from study import RESULTS, ROOT, WORK_DIRS, Results, percent, table

sys.path.insert(0, str(ROOT))

WITH_DEVICE, WITHOUT_DEVICE = RESULTS / 'gpu_check.json', WORK_DIRS / 'gpu_check.json'
SIZES = ((512, 1024), (1024, 2048))
GOAL = 1.05
TESTS_SHARE = 0.45
"""Share of the time that the tests may take."""
CASE_SECONDS = 40.0
"""Most seconds of one model at one size in one precision."""
LEAST_SECONDS = 8.0
"""A check is not begun with less time than this."""


class OutOfTimeError(Exception):
    """A check took longer than it may."""


class Report:
    """The verdicts so far, printed and stored as they come.

    Args:
        path (Path): The JSON file.
        minutes (float): How long all checks may take.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.started, self.seconds = path, time.monotonic(), 60 * minutes
        self.content: dict[str, Any] = {
            'minutes': minutes, 'verdicts': [], 'tests': [], 'rows': [], 'parts': [],
        }  # fmt: skip

    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def verdict(self, verdict: str, check: str, words: str = '') -> None:
        """Prints a line, 'ok', 'FAILED', 'missed', 'skipped' or 'not run', and stores it."""
        line = f'{verdict:8} {check}'
        print(f'{line}: {words}' if words else line, flush=True)
        self.content['verdicts'].append({'verdict': verdict, 'check': check, 'words': words})
        self.store()

    def store(self) -> None:
        """Writes the file, complete or not at all."""
        self.content['seconds'] = round(time.monotonic() - self.started, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix('.part')
        part.write_text(json.dumps(self.content, indent=1) + '\n')
        part.replace(self.path)

    def check(self, name: str, most: float, run: Callable[[], None]) -> None:
        """Runs a check: what it raises becomes a verdict, and so does a lack of time."""
        seconds = min(most, self.left())
        if seconds < LEAST_SECONDS:
            self.verdict('not run', name, 'time')
            return
        try:
            with limited(seconds):
                run()
        except OutOfTimeError:
            self.verdict('not run', name, f'time: stopped after {seconds:.0f} s')
        except Exception as error:
            self.content.setdefault('failures', {})[name] = traceback.format_exc()[-6000:]
            first = str(error).strip().split('\n', 1)[0]
            self.verdict('FAILED', name, f'{type(error).__name__}: {first}')

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(line['verdict'] == 'FAILED' for line in self.content['verdicts'])


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises ``OutOfTimeError`` in what takes longer, where the system has such an alarm."""
    if not hasattr(signal, 'setitimer'):
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=8.0, help='how long it may take')
    parser.add_argument(
        '--out', type=Path,
        help=f'the JSON file; by default {WITH_DEVICE.relative_to(ROOT)}, and without a CUDA '
        f'device {WITHOUT_DEVICE.relative_to(ROOT)}',
    )  # fmt: skip
    parser.add_argument('--skip-tests', action='store_true', help='time only')
    parser.add_argument('--device', default='cuda', help='another one tries out this program')
    parser.add_argument('--models', nargs='+', default=list(MODELS), choices=MODELS)
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'), help='one size, in place of both'
    )
    return parser.parse_args()


def main() -> int:
    """Runs all checks."""
    args = parse_args()
    missing = what_is_missing(args.device)
    there = args.device != 'cuda' or 'a CUDA device' not in missing
    measured = there and args.device == 'cuda'
    report = Report(args.out or (WITH_DEVICE if measured else WITHOUT_DEVICE), args.minutes)
    report.content['about'] = about(args.device, there)
    for what, reason in missing.items():
        report.verdict('skipped', what, reason)
    if args.skip_tests:
        report.verdict('skipped', 'tests', '--skip-tests')
    elif importlib.util.find_spec('pytest') is not None:
        run_tests(report, there)
    if not there or 'mmsegmentation' in missing:
        words = 'needs a CUDA device' if not there else 'needs mmsegmentation'
        for name in ('overhead of certified draws', "parts of a draw's time"):
            report.verdict('skipped', name, words)
    else:
        time_models(report, args)
    counts = ', '.join(
        f'{sum(line["verdict"] == kind for line in report.content["verdicts"])} {kind}'
        for kind in ('ok', 'FAILED', 'missed', 'skipped', 'not run')
    )
    report.store()
    print(f'{counts}; {report.content["seconds"]:.0f} s; wrote {report.path}')
    return int(report.failed)


def what_is_missing(device: str) -> dict[str, str]:
    """What cannot be checked here, and why, by the name of what is missing."""
    import torch

    missing = {}
    if device == 'cuda' and not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        missing['a CUDA device'] = (
            'torch sees none' if built else f'torch {torch.__version__} is built without CUDA'
        )
    for package, name, reason in (
        ('triton', 'Triton', 'labels are read eagerly on a device'),
        ('mmseg', 'mmsegmentation', 'no models to time'),
        ('pytest', 'pytest', 'no tests are run'),
    ):
        if importlib.util.find_spec(package) is None:
            missing[name] = f'not installed: {reason}'
    if not any(map(shutil.which, (os.environ.get('CC', 'cc'), 'gcc', 'clang'))):
        missing['a C compiler'] = 'Triton and torch.compile need one'
    return missing


def about(device: str, there: bool) -> dict[str, Any]:
    """Machine, device and versions."""
    import torch
    from study import machine

    found: dict[str, Any] = {'machine': machine(), 'system': platform.system(), 'device': None}
    found['versions'] = {'torch': torch.__version__, 'cuda': torch.version.cuda}
    for name in ('triton', 'numpy', 'mmengine', 'mmsegmentation', 'mmcv', 'mmcv-lite'):
        with contextlib.suppress(PackageNotFoundError):
            found['versions'][name] = version(name)
    if there and device == 'cuda':
        properties = torch.cuda.get_device_properties(0)
        found['device'] = properties.name
        found['memory'] = properties.total_memory
        found['capability'] = f'{properties.major}.{properties.minor}'
        found['versions']['cudnn'] = torch.backends.cudnn.version()
        found['tf32'] = {
            'convolutions': bool(torch.backends.cudnn.allow_tf32),
            'matrix_products': bool(torch.backends.cuda.matmul.allow_tf32),
        }
    return found


READERS = (
    'tests/sampling/test_label_decoding.py::'
    'test_without_triton_a_device_is_read_eagerly_and_one_line_says_so'
)
"""What else is of a device; without one, all of that file: the kernel in Triton's interpreter."""


def run_tests(report: Report, there: bool) -> None:
    """The tests of devices, each function of them a verdict."""
    command = [
        sys.executable, '-W', 'ignore', '-m', 'pytest', '-q', '-p', 'pytest_lines', '-p',
        'no:cacheprovider', 'tests/cuda', READERS if there else READERS.partition('::')[0],
    ]  # fmt: skip
    if importlib.util.find_spec('xdist') is not None:
        command += ['-n', str(min(4, os.cpu_count() or 1)), '--dist', 'load']
    paths = [str(ROOT), str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')]
    environment = {
        **os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths)), 'OMP_NUM_THREADS': '1',
    }  # fmt: skip
    seconds = min(TESTS_SHARE * report.seconds, report.left())
    with tempfile.TemporaryDirectory() as folder:
        lines, log = Path(folder) / 'lines', Path(folder) / 'log'
        with log.open('w') as output:
            running = subprocess.Popen(
                [*command, '--lines', str(lines)], cwd=ROOT, env=environment, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = running.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                stop(running)
        found = [json.loads(line) for line in lines.read_text().splitlines()] if (
            lines.exists()
        ) else []  # fmt: skip
        text = log.read_text()
    report.content['tests'] = found
    tell_tests(report, found)
    if code is None:
        report.verdict('not run', 'the other tests', f'time: stopped after {seconds:.0f} s')
    elif code not in (0, 1) or not found:
        report.content.setdefault('failures', {})['pytest'] = text[-6000:]
        report.verdict('FAILED', 'pytest', f'exit code {code}: {text.strip()[-300:]}')


def stop(running: subprocess.Popen) -> None:
    """Ends a process with all that it started."""
    if running.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, 'killpg'):
                os.killpg(running.pid, signal.SIGKILL)
            else:
                running.kill()
        running.wait()


def tell_tests(report: Report, found: list[dict[str, Any]]) -> None:
    """One line for each test function, and why its cases failed or were skipped."""
    key = lambda line: line['test'].split('[')[0]  # noqa: E731
    for name, group in itertools.groupby(sorted(found, key=key), key=key):
        cases = list(group)
        check = name.removeprefix('tests/').replace('.py::', ': ')
        kinds = {kind: [c for c in cases if c['outcome'] == kind] for kind in OUTCOMES}
        passed, failed, skipped = kinds.values()
        words = f'{len(passed)} of {len(cases)} cases, {sum(c["seconds"] for c in cases):.1f} s'
        reasons = ', '.join(sorted({c['text'] for c in skipped}))
        if skipped:
            words += f'; {len(skipped)} skipped: {reasons}'
        if failed:
            report.verdict('FAILED', check, words)
            for case in failed:
                print('    ' + case['test'])
                for line in [x for x in case['text'].splitlines() if x.startswith('E ')][:6]:
                    print('        ' + line[:200])
        elif passed:
            report.verdict('ok', check, words)
        else:
            report.verdict('skipped', check, reasons)


OUTCOMES = ('passed', 'failed', 'skipped')


def time_models(report: Report, args: argparse.Namespace) -> None:
    """Overhead of all models, sizes and precisions, the most useful first; then the parts."""
    import torch
    from segmentors import example_image

    device = torch.device(args.device)
    sizes = [tuple(args.size)] if args.size else list(SIZES)
    images = {}
    for size in sizes:
        images[size], report.content['image'] = example_image(*size, device)
    models = Models(device)
    cases = [
        (name, size, precision)
        for precisions in (('fp32', 'bf16'), ('fp16',))
        for size in sizes
        for precision in precisions
        for name in args.models
    ]
    for case in cases:
        task = partial(check_overhead, report, models, images[case[1]], case)
        report.check(f'overhead: {words_of(case)}', CASE_SECONDS, task)
    for row in list(report.content['rows']):
        case = (row['model'], tuple(row['size']), row['precision'])
        task = partial(check_parts, report, models, images[case[1]], case, row['batch_size'])
        report.check(f'parts: {words_of(case)}', CASE_SECONDS / 2, task)


Case = tuple[str, tuple[int, int], str]
"""Name of a model, size of the image, precision."""


def words_of(case: Case) -> str:
    """A case for a line."""
    name, (height, width), precision = case
    return f'{name}, {height} x {width}, {precision}'


class Models:
    """The models, each built once.

    Args:
        device (torch.device): Where they compute.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self._bases: dict[str, Any] = {}

    def get(self, name: str, precision: str) -> Any:
        """A ``Segmentor`` with random weights."""
        from segmentors import base_model, of_base

        if name not in self._bases:
            self._bases[name] = base_model(name, None, self.device)
        return of_base(name, self._bases[name], 'random', precision)


def check_overhead(report: Report, models: Models, image: Any, case: Case) -> None:
    """Times one case and gives its verdict."""
    import torch

    model = models.get(case[0], case[2])
    with torch.no_grad(), fresh_memory(image.device):
        row = overhead(model, image, limit=CASE_SECONDS / 2)
    report.content['rows'].append(
        {'model': case[0], 'size': list(case[1]), 'precision': case[2], **row}
    )
    words = (
        f'ratio {row["ratio"]:.3f} ({min(row["ratios"]):.3f} to {max(row["ratios"]):.3f}), '
        f'{row["draws_per_second"]:.0f} draws/s in batches of {row["batch_size"]}'
    )
    missed = row['ratio'] > GOAL
    report.verdict(
        'missed' if missed else 'ok', f'overhead: {words_of(case)}',
        f'{words}; goal {GOAL}' if missed else words,
    )  # fmt: skip


def check_parts(report: Report, models: Models, image: Any, case: Case, batch: int) -> None:
    """Times the parts of one case."""
    import torch

    model = models.get(case[0], case[2])
    with torch.no_grad(), fresh_memory(image.device):
        found = parts(model, image, batch)
    report.content['parts'].append(
        {
            'model': case[0], 'size': list(case[1]), 'precision': case[2],
            'batch_size': batch, 'ms_per_draw': found,
        }
    )  # fmt: skip
    counted = {name: value for name, value in found.items() if 'not part' not in name}
    total = sum(counted.values())
    shares = (f'{name} {100 * value / total:.1f} %' for name, value in counted.items())
    report.verdict('ok', f'parts: {words_of(case)}', ', '.join(shares))


@contextlib.contextmanager
def fresh_memory(device: Any) -> Iterator[None]:
    """Gives back what the caches hold, before and after."""
    import torch

    def empty() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    empty()
    try:
        yield
    finally:
        empty()


def overhead(model: Any, image: Any, limit: float, repetitions: int = 5) -> dict[str, Any]:
    """Certified draws beside bare passes of one model: time, and memory.

    Args:
        model (Segmentor): The model.
        image (torch.Tensor): Shape (3, H, W), in [0, 1].
        limit (float): Seconds that the timed part may take.
        repetitions (int): How often both are timed.

    Returns:
        dict: As JSON values; memory in bytes.
    """
    from sampling_sections import bare_passes, interleaved

    device, pixels = image.device, image.shape[-2] * image.shape[-1]
    held = peak_memory(device)
    bare_passes(model, image, 2, 1)
    batch = settled_batch(model, image, limit / 2)
    bare_passes(model, image, 2 * batch, batch)
    one = bare_passes(model, image, 2 * batch, batch) / 2
    # A third of a second each, unless that is less than three batches or does not fit the limit.
    each = min(max(0.35, 3 * one), limit / (4 * repetitions))
    draws = batch * max(2, math.ceil(each / one))
    peak_memory(device)
    bare_passes(model, image, 2 * batch, batch)
    bare_peak = peak_memory(device)
    whole: list[float] = []
    steady_draws(model, image, batch, batch, whole)
    ours_peak = peak_memory(device)
    whole.clear()
    bare, ours = interleaved(
        [
            lambda: bare_passes(model, image, draws, batch),
            lambda: steady_draws(model, image, draws, batch, whole),
        ],
        repetitions,
    )
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    found = {
        'batch_size': batch,
        'draws': draws,
        'bare_ms_per_draw': 1000 * statistics.median(bare) / draws,
        'ours_ms_per_draw': 1000 * statistics.median(ours) / draws,
        'ratio': statistics.median(ratios),
        'ratios': ratios,
        'whole_call_ms_per_draw': 1000 * statistics.median(whole[1:]) / (draws + 2 * batch),
        'draws_per_second': draws / statistics.median(ours),
    }
    if device.type == 'cuda':
        found['weights_bytes'] = held
        for name, peak in (('bare', bare_peak), ('ours', ours_peak)):
            found[f'{name}_bytes_per_pixel_and_draw'] = (peak - held) / pixels / batch
        found['above_bare_bytes_per_pixel'] = (ours_peak - bare_peak) / pixels
    return found


def peak_memory(device: Any) -> int:
    """Largest memory that was in use since this was last asked for, in bytes; 0 on a CPU."""
    import torch

    if device.type != 'cuda':
        return 0
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


class _SettledError(Exception):
    """Breaks off a run that has found its batch size."""


def settled_batch(model: Any, image: Any, seconds: float) -> int:
    """The batch size that 'auto' ends with, or has come to after some seconds."""
    from sampling_sections import NOISE
    from segmentors import CLASSES

    from mmcert.sampling import BatchSize, SamplingSettings, collect_votes
    from mmcert.sampling.batching import LARGEST

    batch, deadline = BatchSize('auto'), time.monotonic() + seconds

    def look(_: int) -> None:
        if not batch.searching or time.monotonic() > deadline:
            raise _SettledError

    with contextlib.suppress(_SettledError):
        collect_votes(
            model.segment,
            image,
            NOISE,
            SamplingSettings(n0=1, n=4 * LARGEST, num_classes=CLASSES, batch_size=batch),
            on_draws=look,
        )
    return batch.size


def steady_draws(model: Any, image: Any, draws: int, batch: int, whole: list[float]) -> float:
    """Seconds of so many draws of the estimation stage, after its first batch.

    ``whole`` gets the seconds of the whole call, from the image on the device to the votes, of
    ``draws`` + 2 * ``batch`` draws.
    """
    from sampling_sections import NOISE, synchronise
    from segmentors import CLASSES

    from mmcert.sampling import BatchSize, SamplingSettings, collect_votes

    done, stamps = 0, {}

    def count(more: int) -> None:
        nonlocal done
        done += more
        if done in (2 * batch, 2 * batch + draws):
            synchronise(image.device)
            stamps[done] = time.perf_counter()

    started = time.perf_counter()
    collect_votes(
        model.segment,
        image,
        NOISE,
        SamplingSettings(
            n0=batch, n=batch + draws, num_classes=CLASSES, batch_size=BatchSize(batch)
        ),
        on_draws=count,
    )
    whole.append(time.perf_counter() - started)
    first, last = stamps.values()
    return last - first


def parts(model: Any, image: Any, batch: int) -> dict[str, float]:
    """What a draw's time goes into, each part by itself, in ms per draw."""
    import torch
    from sampling_sections import noisy

    from mmcert.sampling import LogitMaps
    from mmcert.sampling.label_decoding import add_hits, decode_labels
    from mmcert.sampling.logit_maps import eager_labels
    from mmcert.sampling.outputs import not_finite

    device = image.device
    drawn = noisy(image, batch)
    inputs = model.normalise(drawn)
    maps = LogitMaps(model.logits(inputs), tuple(image.shape[-2:]))
    guess = decode_labels(maps)[0].to(torch.uint8)
    hits = torch.zeros(guess.shape, dtype=torch.int32, device=device)

    def by_reference() -> None:
        for score in maps.scores.split(1):
            eager_labels(maps.with_scores(score))

    tasks: dict[str, Callable[[], object]] = {
        'noise': lambda: noisy(image, batch),
        'normalisation': lambda: model.preprocess(drawn),
        'pass': lambda: model.logits(inputs),
        'check for NaN': lambda: not_finite(maps.scores),
        'decoding and counting': lambda: add_hits(hits, maps, guess),
        'labels by the reference (not part of it)': by_reference,
    }
    return {name: device_ms(task, device) / batch for name, task in tasks.items()}


def device_ms(task: Callable[[], object], device: Any, repetitions: int = 5) -> float:
    """Milliseconds of a task on its device: a median, several calls between two events."""
    import torch
    from sampling_sections import timed

    calls = 4
    for _ in range(2):
        task()
    if device.type != 'cuda':
        return 1000 * statistics.median(timed(task, device) for _ in range(repetitions))
    times = []
    for _ in range(repetitions):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(calls):
            task()
        last.record()
        torch.cuda.synchronize(device)
        times.append(first.elapsed_time(last) / calls)
    return statistics.median(times)


def render(results: Results) -> list[str]:
    """Certified draws beside bare passes on a GPU, a row for each model and size."""
    found = {(row['model'], tuple(row['size']), row['precision']): row for row in results['rows']}
    if not found:
        return ['Not measured: no GPU was at hand.']
    kinds = ('fp32', 'bf16', 'fp16')
    rows = [
        (
            'model', 'image', *(f'ratio, {kind}' for kind in kinds),
            *(f'draws/s, {kind}' for kind in kinds), 'memory, fp32', 'above bare passes',
        )
    ]  # fmt: skip
    for name, size in dict.fromkeys((name, size) for name, size, _ in found):
        mine = [found.get((name, size, kind)) for kind in kinds]
        plain = mine[0] or {}
        rows.append(
            (
                name,
                f'{size[0]} x {size[1]}',
                *(f'{row["ratio"]:.3f}' if row else '-' for row in mine),
                *(
                    f'{row["draws_per_second"]:.0f} (batch {row["batch_size"]})' if row else '-'
                    for row in mine
                ),
                _bytes(plain.get('ours_bytes_per_pixel_and_draw')),
                _bytes(plain.get('above_bare_bytes_per_pixel')),
            )
        )
    about, tests = results['about'], results['tests']
    versions = ', '.join(f'{name} {value}' for name, value in about['versions'].items() if value)
    outcomes = [test['outcome'] for test in tests]
    lines = [
        *table(rows),
        '',
        'Ratio: time of a certified draw in the estimation stage over that of a bare pass to '
        "logits, at the batch size that 'auto' settled on, taken in turn in one run (medians of "
        f'{len(results["rows"][0]["ratios"])}). Random weights, {results["image"]}. Memory: peak '
        'while sampling without the weights, in bytes per pixel and draw of a batch; above that of '
        'bare passes at the same batch size, in bytes per pixel of the image.',
    ]
    if results['parts']:
        lines += ['', 'What a draw takes, each part by itself:', '']
        lines += table(_parts_of(results['parts']))
    lines += [
        '',
        f'Computed on {about["device"]} ({versions}; TF32 for convolutions '
        f'{"on" if about["tf32"]["convolutions"] else "off"}, for matrix products '
        f'{"on" if about["tf32"]["matrix_products"] else "off"}). Tests of devices in the same '
        f'run: {outcomes.count("passed")} passed, {outcomes.count("failed")} failed, '
        f'{outcomes.count("skipped")} skipped.',
    ]
    return lines


def _parts_of(parts: list[dict]) -> list[tuple[str, ...]]:
    """Shares of the parts, a row for each case."""
    names = [name for name in parts[0]['ms_per_draw'] if 'not part' not in name]
    rows = [('model', 'image', 'precision', *names)]
    for row in parts:
        values = [row['ms_per_draw'][name] for name in names]
        shares = (percent(value / sum(values), 1) for value in values)
        size = f'{row["size"][0]} x {row["size"][1]}'
        rows.append((row['model'], size, row['precision'], *shares))
    return rows


def _bytes(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'


TABLES = {'gpu_check': render}

if __name__ == '__main__':
    sys.exit(main())
