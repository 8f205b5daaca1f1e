"""What ``sampling_speed.py`` times; ``gpu_check.py`` shares the clocks.

Needs torch, NumPy, SciPy and ``mmcert`` alone, unless models of mmsegmentation are asked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segmentors import CLASSES, Segmentor, build, example_image
from study import IMAGES, ROOT, machine, read_results, write_results

from mmcert.certify import certify, joint_radii
from mmcert.compat import reuse_freed_memory
from mmcert.perturbations import GaussianNoise
from mmcert.sampling import BatchSize, LogitMaps, SamplingSettings, collect_votes
from mmcert.sampling.label_decoding import decode_labels
from mmcert.sampling.logit_maps import eager_labels

NOISE = GaussianNoise(0.25)
TAU, ALPHA = 0.75, 1e-3
LOOPED = 3000


def run(args: argparse.Namespace) -> None:
    """Times one section and stores what it found."""
    if not args.default_malloc:
        reuse_freed_memory()
    if args.section == 'peak':
        print(json.dumps(peak(args)))
        return
    with torch.no_grad():
        found = SECTIONS[args.section](args)
    about = {
        'machine': machine(),
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'device': args.device,
        'malloc': 'default' if args.default_malloc else 'reuse_freed_memory',
    }
    write_results(
        'sampling_speed', {**read_results('sampling_speed'), args.section: {**about, **found}}
    )


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Certifying an image beside n0 + n bare passes."""
    n0, n = args.draws
    rows = []
    cases = itertools.product(models(args), args.batch_sizes or [args.batch_size])
    for (name, model, image), batch in cases:
        with tempfile.TemporaryDirectory() as folder:
            tasks = [
                partial(bare_passes, model, image, n0 + n, batch),
                partial(certified, model, image, n0, n, batch, folder),
            ]
            bare, ours = interleaved(tasks, args.repetitions)
        row = {
            'model': name,
            'weights': model.weights,
            'batch_size': batch,
            'bare_ms_per_draw': 1000 * statistics.median(bare) / (n0 + n),
            'ours_ms_per_draw': 1000 * statistics.median(ours) / (n0 + n),
            'ratio': statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
            'ratios': [a / b for a, b in zip(ours, bare, strict=True)],
            'parts_ms_per_draw': parts(model, image, batch, args.repetitions),
        }
        rows.append(row)
        print(
            f'{name:14} batches of {batch}: bare {row["bare_ms_per_draw"]:.1f} ms, certified '
            f'{row["ours_ms_per_draw"]:.1f} ms per draw: ratio {row["ratio"]:.3f} '
            f'({min(row["ratios"]):.3f} to {max(row["ratios"]):.3f})'
        )
        print('  ' + ', '.join(f'{k} {v:.2f}' for k, v in row['parts_ms_per_draw'].items()))
    return {
        **settings(args), 'classes': CLASSES, 'rows': rows,
    }  # fmt: skip


def models(args: argparse.Namespace) -> Iterator[tuple[str, Segmentor, torch.Tensor]]:
    """The models that were asked for, each with an image on its device."""
    device = torch.device(args.device)
    for name in args.models:
        model = build(name, args.checkpoint if name == 'fast_scnn' else None, device)
        yield name, model, example_image(*args.size, device)[0]


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures of a section were measured with, as JSON values."""
    n0, n = args.draws
    source = example_image(*args.size, torch.device(args.device))[1]
    return {
        'image': source, 'size': args.size, 'n0': n0, 'n': n,
    }  # fmt: skip


def bare_passes(model: Segmentor, image: torch.Tensor, draws: int, batch: int) -> float:
    """Seconds of forward passes to logits, of images that are there already."""
    inputs = model.normalise(noisy(image, batch))
    synchronise(image.device)
    started = time.perf_counter()
    for first in range(0, draws, batch):
        model.logits(inputs[: min(batch, draws - first)])
    synchronise(image.device)
    return time.perf_counter() - started


def certified(
    model: Segmentor, image: torch.Tensor, n0: int, n: int, batch: int, folder: str
) -> None:
    """One image, from its pixels to its certificate, and votes and radii if the adapter does it."""
    if model.smoothed is not None:
        # A new folder each time: votes that are there already would not be sampled.
        model.smoothed(image, n0, n, batch, Path(tempfile.mkdtemp(dir=folder)))
        return
    votes = collect_votes(
        model.segment,
        image,
        NOISE,
        SamplingSettings(n0=n0, n=n, num_classes=CLASSES, batch_size=batch),
    )
    certify(votes, tau=TAU, alpha=ALPHA, procedure='ordered_holm', selection='same_draws')
    joint_radii(votes, alpha=ALPHA, radius=NOISE.radius, selection='same_draws')


def parts(model: Segmentor, image: torch.Tensor, batch: int, repetitions: int) -> dict[str, float]:
    """What a draw's time goes into, in ms, each part by itself."""
    drawn = noisy(image, batch)
    inputs = model.normalise(drawn)
    maps = LogitMaps(model.logits(inputs).contiguous(), tuple(image.shape[-2:]))
    labels = decode_labels(maps)
    guess = labels[0]
    hits = torch.zeros(guess.shape, dtype=torch.int32, device=image.device)

    def compare() -> None:
        hits.add_((labels == guess).sum(dim=0, dtype=torch.uint8))

    tasks = {
        'noise': lambda: noisy(image, batch),
        'normalisation by the model': lambda: model.normalise(drawn),
        'forward pass': lambda: model.logits(inputs),
        'labels': lambda: decode_labels(maps),
        'compare and add': compare,
        'labels by the reference (not part of it)': lambda: eager_labels(maps),
    }
    found = {}
    for name, task in tasks.items():
        times = [timed(task, image.device) for _ in range(repetitions + 1)][1:]
        found[name] = 1000 * statistics.median(times) / batch
    return found


def naive(args: argparse.Namespace) -> dict[str, Any]:
    """Mmcert beside a pipeline like the public implementation, on the same model and image."""
    n0, n = args.draws
    rows = []
    for name, model, image in models(args):
        breakdown = naive_pipeline(model, image, n0, n, args.batch_size)
        total = sum(breakdown.values())
        with tempfile.TemporaryDirectory() as folder:
            task = partial(certified, model, image, n0, n, args.batch_size, folder)
            task()
            times = [timed(task, image.device) for _ in range(args.repetitions)]
        ours = statistics.median(times)
        rows.append(
            {
                'model': name,
                'weights': model.weights,
                'naive_seconds': total,
                'ours_seconds': ours,
                'ratio': total / ours,
                'ratio_without_tests': breakdown['sampling'] / ours,
                'breakdown_seconds': breakdown,
            }
        )
        print(f'{name:14} naive {total:.1f} s, mmcert {ours:.2f} s: {total / ours:.1f} times')
        print('  ' + ', '.join(f'{k} {v:.2f} s' for k, v in breakdown.items()))
    return {
        **settings(args), 'looped_components': LOOPED, 'rows': rows,
    }  # fmt: skip


def naive_pipeline(
    model: Segmentor, image: torch.Tensor, n0: int, n: int, batch: int
) -> dict[str, float]:
    """Seconds of the steps that the public implementation takes.

    Noise by NumPy for a batch of images with channels last, normalised there; full-size logits;
    label maps of all draws kept as int64; for each pixel a count of the selection labels and one
    binomial test, in one process (timed on a part of the pixels and scaled up); statsmodels' Holm.
    """
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    started = time.perf_counter()
    array = image.permute(1, 2, 0).cpu().numpy()
    kept = []
    for first in range(0, n0 + n, batch):
        count = min(batch, n0 + n - first)
        noisy = array[None] + np.random.normal(0, NOISE.sigma, (count, *array.shape))
        inputs = torch.from_numpy(noisy.astype(np.float32).transpose(0, 3, 1, 2).copy())
        logits = model.logits(model.normalise(inputs.to(image.device)))
        full = torch.nn.functional.interpolate(
            logits, image.shape[-2:], mode='bilinear', align_corners=False
        )
        kept.append(full.argmax(dim=1).cpu().numpy())
    samples = np.concatenate(kept).reshape(n0 + n, -1)
    sampling = time.perf_counter() - started

    started = time.perf_counter()
    p_values = []
    for column in range(LOOPED):
        counts = np.zeros(CLASSES)
        for row in range(n0):
            counts[samples[row, column]] += 1
        hits = int(np.sum(samples[n0:, column] == counts.argmax()))
        p_values.append(stats.binomtest(hits, n, TAU, alternative='greater').pvalue)
    tests = (time.perf_counter() - started) * samples.shape[1] / LOOPED

    started = time.perf_counter()
    filled = np.resize(p_values, samples.shape[1])
    multipletests(filled, alpha=ALPHA, method='holm')
    return {
        'sampling': sampling,
        'tests (scaled up)': tests,
        'Holm': time.perf_counter() - started,
    }


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of sampling with growing n, beside the model's own, each in its own process."""
    rows = []
    for n in (0, 32, 128, 512):
        command = [
            sys.executable, str(Path(__file__).with_name('sampling_speed.py')), 'peak',
            '--n', str(n), '--size', *map(str, args.size), '--batch-size', str(args.batch_size),
            '--device', args.device, '--default-malloc',
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    components = args.size[0] * args.size[1]
    batch = 4 * 3 * components * args.batch_size
    for row in rows[1:]:
        row['above_bare_bytes_per_component'] = (row['peak'] - rows[0]['peak']) / components
        print(
            f'n = {row["n"]:4}: {row["above_bare_bytes_per_component"]:.1f} bytes per component '
            f'above the bare model; one batch of images has {batch / components:.0f}'
        )
    return {
        'size': args.size, 'batch_size': args.batch_size, 'classes': CLASSES,
        'batch_bytes_per_component': batch / components,
        'counts_bytes_per_component': 8, 'rows': rows,
    }  # fmt: skip


def peak(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of this process after bare passes (n = 0) or sampling."""
    device = torch.device(args.device)
    model = build('plain', None, device)
    image, _ = example_image(*args.size, device)
    with torch.no_grad():
        for _ in range(3):
            bare_passes(model, image, 2 * args.batch_size, args.batch_size)
        if args.n:
            collect_votes(
                model.segment,
                image,
                NOISE,
                SamplingSettings(
                    n0=8, n=args.n, num_classes=CLASSES, batch_size=BatchSize(args.batch_size)
                ),
            )
    if device.type == 'cuda':
        return {'n': args.n, 'peak': torch.cuda.max_memory_allocated(device)}
    return {'n': args.n, 'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def scaling(args: argparse.Namespace) -> dict[str, Any]:
    """Time over n and over pixels, two decades each."""
    device = torch.device(args.device)
    model = build('plain', None, device)

    def seconds(height: int, width: int, n: int) -> float:
        image, _ = example_image(height, width, device)
        return min(
            timed(lambda: certified(model, image, 8, n, args.batch_size, ''), device)
            for _ in range(3)
        )

    seconds(96, 128, 16)
    over_n = [(n, seconds(96, 128, n)) for n in (24, 72, 240, 720, 2400)]
    sizes = [(48, 64), (80, 112), (144, 208), (272, 360), (480, 640)]
    over_pixels = [(h * w, seconds(h, w, 64)) for h, w in sizes]
    found = {}
    for name, points in (('n', over_n), ('pixels', over_pixels)):
        logs = np.log(np.array(points))
        found[name] = {
            'points': points,
            'exponent': float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]),
        }
        print(f'time over {name}: exponent {found[name]["exponent"]:.2f}, {points}')
    plot(found, IMAGES / 'scaling.png')
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """Draws the curves of ``scaling`` on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, (name, curve) in zip(figure.subplots(1, 2), found.items(), strict=True):
        x, y = np.array(curve['points']).T
        axes.loglog(x, y, 'o-', label=f'measured, exponent {curve["exponent"]:.2f}')
        axes.loglog(x, y[-1] * x / x[-1], '--', color='gray', label='linear')
        axes.set(xlabel=name, ylabel='seconds to certify one image')
        axes.legend()
        axes.grid(True, which='both', alpha=0.3)
    figure.savefig(path, dpi=110)
    print(f'wrote {path.relative_to(ROOT)}')


def interleaved(tasks: list[Callable[[], Any]], repetitions: int) -> list[list[float]]:
    """Seconds of several tasks, taken in turn so that the machine's moods reach all of them.

    A task that returns a number of seconds is believed.
    """
    times: list[list[float]] = [[] for _ in tasks]
    for repetition in range(repetitions + 1):
        for index, task in enumerate(tasks):
            started = time.perf_counter()
            spent = task()
            if not isinstance(spent, float):
                spent = time.perf_counter() - started
            if repetition:
                times[index].append(spent)
    return times


def timed(task: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    synchronise(device)
    started = time.perf_counter()
    task()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Waits for a CUDA device."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def noisy(image: torch.Tensor, count: int) -> torch.Tensor:
    """Draws of an image, each by a generator with a seed of its own."""
    made = [torch.Generator(image.device) for _ in range(count)]
    for index, generator in enumerate(made):
        generator.manual_seed(index)
    return NOISE.apply(image, NOISE.draw(image, made))


SECTIONS = {'overhead': overhead, 'naive': naive, 'memory': memory, 'scaling': scaling}
