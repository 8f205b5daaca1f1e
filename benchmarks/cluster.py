"""Simulates certifying Cityscapes val and ADE20K val on 1 to 256 GPUs.

The time of a draw is that of ``gpu_check``. The size of votes files and the time of what the CPU
does per image are measured here, on a mosaic of the votes of ``make demo``, with hits for other n
drawn anew. The rest are assumptions, named in the results. No data set is read and no GPU is used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import WORK_DIRS, Results, machine, on_machine, read_results, table, write_results

if TYPE_CHECKING:
    import numpy as np

    from mmcert.votes import VotesRecord

DRAWS = (100, 10_000)
N0 = 10
GPUS = (1, 4, 16, 64, 256)
MOSAIC = (8, 10)
"""Tiles of the mosaic; with those of the demo, 128 x 192, nearly a Cityscapes image."""

DATA_SETS: dict[str, dict[str, Any]] = {
    'Cityscapes val': {
        'images': 500, 'size': (1024, 2048), 'timed_at': (1024, 2048), 'read_mb': 2.3,
        'models': ('fast_scnn', 'hrnet48', 'segformer_b5'),
    },
    'ADE20K val': {
        'images': 2000, 'size': (512, 683), 'timed_at': (512, 1024), 'read_mb': 0.1,
        'models': ('segformer_b0', 'segformer_b5'),
    },
}  # fmt: skip
"""The models are those that ``gpu_check`` has timed; a draw takes time as it has pixels."""

ASSUMED = {
    'startup_seconds': 60.0,
    'file_operations_per_image': 30,
    'checkpoint_bytes_per_pixel': 8,
    'save_seconds': 120.0,
    'server_mb_per_second': 100.0,
    'server_operations_per_second': 1000.0,
}
"""What was not measured. The server is a small one, with a network of 1 Gbit/s."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--votes', type=Path, help="the demo's votes (default: work_dirs/demo/certified/votes-*)"
    )
    parser.add_argument('--repetitions', type=int, default=3)
    return parser.parse_args()


def main() -> int:
    """Measures files and CPU, simulates, and writes."""
    args = parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'  # before NumPy is imported
    folder = args.votes or next(iter(WORK_DIRS.glob('demo/certified/votes-*')), None)
    if folder is None:
        print('no votes: run `make demo` first, or name them by --votes', file=sys.stderr)
        return 2
    measured = [measure(mosaic(folder, n), n, args.repetitions) for n in DRAWS]
    gpu = read_results('gpu_check')
    rows = [
        simulate(name, model, gpu['rows'], files)
        for name, data in DATA_SETS.items()
        for model in data['models']
        for files in measured
    ]
    for row in rows:
        print(row['data'], row['model'], row['n'], [round(hours, 2) for hours in row['hours']])
    content = {
        'machine': machine(),
        'gpu': gpu['about']['device'],
        'assumed': ASSUMED,
        'data_sets': DATA_SETS,
        'gpus': GPUS,
        'measured': measured,
        'rows': rows,
    }
    write_results('cluster', content)
    return 0


def mosaic(folder: Path, n: int) -> VotesRecord:
    """A large image made of those of a folder, with hits among n draws.

    The hits of a pixel are drawn with a probability from its own hits: Beta(hits + 1/2, misses +
    1/2). That makes pixels less sure than they are, and files larger.
    """
    import numpy as np

    from mmcert.certify import Votes
    from mmcert.votes import VotesRecord, read_folder

    rng = np.random.default_rng(0)
    records = list(read_folder(folder))
    # Different images beside each other: compression must find no copies.
    rows = [rng.choice(len(records), MOSAIC[1], replace=False) for _ in range(MOSAIC[0])]

    def tiled(of: Callable[[VotesRecord], Any]) -> np.ndarray:
        return np.concatenate(
            [np.concatenate([of(records[i]) for i in row], axis=1) for row in rows], axis=0
        )

    def drawn(hits: np.ndarray, of: int, draws: int) -> np.ndarray:
        return rng.binomial(draws, rng.beta(hits + 0.5, of - hits + 0.5))

    given, n0 = records[0].votes.n, records[0].votes.n0
    hits = tiled(lambda record: record.votes.hits).astype(np.int64)
    votes = Votes(
        tiled(lambda record: record.votes.guess),
        hits if n == given else drawn(hits, given, n),
        n,
        n0,
        tiled(lambda record: record.votes.selection_hits),
    )
    return VotesRecord(
        votes,
        {},
        label=tiled(lambda record: record.label),
        base=tiled(lambda record: record.base),
        margin=tiled(lambda record: record.margin),
    )


def measure(record: VotesRecord, n: int, repetitions: int) -> dict[str, Any]:
    """Bytes per pixel of an image's files, and CPU seconds per pixel of what is done with them."""
    import io
    import tempfile

    import cv2
    import numpy as np

    from mmcert.certify import CertifySettings, joint_radii
    from mmcert.votes import Task, evaluate, load_votes, save_votes

    settings, pixels = CertifySettings(0.75, 1e-3), record.votes.num_components

    def results() -> int:
        """What a run computes and writes beside the votes; returns its bytes."""
        labels = record.certify(settings).label_map().astype(np.uint8)
        radii = joint_radii(record.votes, alpha=1e-3, radius=float, selection='same_draws')
        stream = io.BytesIO()
        np.savez_compressed(stream, radius=radii.astype(np.float32))
        return len(stream.getvalue()) + len(cv2.imencode('.png', labels)[1])

    def count(stored: VotesRecord) -> None:
        evaluate([stored], [settings], Task(20))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'votes.npz'
        save = cpu_seconds(lambda: save_votes(path, record), repetitions)
        load = cpu_seconds(lambda: load_votes(path), repetitions)
        size = path.stat().st_size
    writing = cpu_seconds(results, repetitions)
    counting = cpu_seconds(lambda: count(record), repetitions)
    return {
        'n': n,
        'pixels': pixels,
        'votes_bytes_per_pixel': size / pixels,
        'results_bytes_per_pixel': results() / pixels,
        'run_seconds_per_pixel': (save + writing + counting) / pixels,
        'merge_seconds_per_pixel': (load + counting) / pixels,
    }


def cpu_seconds(task: Callable[[], Any], repetitions: int) -> float:
    """Median CPU seconds of a task on one core, whatever else the machine does."""
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        task()
        times.append(time.process_time() - started)
    return statistics.median(times)


def simulate(
    name: str, model: str, timed: list[dict[str, Any]], files: dict[str, Any]
) -> dict[str, Any]:
    """One data set, one model and one n, on every number of GPUs."""
    data = DATA_SETS[name]
    pixels, images = data['size'][0] * data['size'][1], data['images']
    (draw,) = (
        row for row in timed
        if row['model'] == model and tuple(row['size']) == data['timed_at']
        and row['precision'] == 'fp32'
    )  # fmt: skip
    scale = pixels / (data['timed_at'][0] * data['timed_at'][1])
    sampling = (N0 + files['n']) * draw['ours_ms_per_draw'] / 1000 * scale
    statistics_time = files['run_seconds_per_pixel'] * pixels
    image = sampling + statistics_time
    hours = []
    for gpus in GPUS:
        jobs = (len(range(index, images, gpus)) for index in range(gpus))
        hours.append(max(ASSUMED['startup_seconds'] + count * image for count in jobs) / 3600)
    written = (files['votes_bytes_per_pixel'] + files['results_bytes_per_pixel']) * pixels
    checkpoints = image // ASSUMED['save_seconds'] * ASSUMED['checkpoint_bytes_per_pixel'] * pixels
    mb_per_second = ((written + checkpoints) / 1e6 + data['read_mb']) / image
    operations = ASSUMED['file_operations_per_image'] / image
    return {
        'data': name,
        'model': model,
        'n': files['n'],
        'seconds_per_image': image,
        'share_without_gpu': statistics_time / image,
        'hours': hours,
        'votes_gb': files['votes_bytes_per_pixel'] * pixels * images / 1e9,
        'merge_minutes': files['merge_seconds_per_pixel'] * pixels * images / 60,
        'mb_per_second_and_gpu': mb_per_second,
        'operations_per_second_and_gpu': operations,
        'gpus_of_the_server': min(
            ASSUMED['server_mb_per_second'] / mb_per_second,
            ASSUMED['server_operations_per_second'] / operations,
        ),
    }


def render(results: Results) -> list[str]:
    """Hours by GPUs, storage, statistics time and the file system's limit."""
    assumed = results['assumed']
    headings = [
        'data', 'model', 'n', *(f'{gpus} GPU' + 's' * (gpus > 1) for gpus in results['gpus']),
        'votes', 'merge', 'without GPU', 'server full at',
    ]  # fmt: skip
    rows = [headings]
    for row in results['rows']:
        rows.append(
            [
                row['data'],
                row['model'],
                f'{row["n"]:,}',
                *(duration(hours) for hours in row['hours']),
                f'{row["votes_gb"]:.1f} GB',
                f'{row["merge_minutes"]:.1f} min',
                f'{row["share_without_gpu"]:.1%}',
                at_most(row['gpus_of_the_server'], results['gpus'][-1]),
            ]
        )
    sizes = ' and '.join(
        f'{one["votes_bytes_per_pixel"]:.2f} (n = {one["n"]:,})' for one in results['measured']
    )
    sets = '; '.join(
        f'{name}: {data["images"]:,} images taken as {data["size"][0]} x {data["size"][1]}, '
        f'files of {data["read_mb"]} MB'
        for name, data in results['data_sets'].items()
    )
    return [
        *table(rows),
        '',
        '**A simulation**, not a run. Measured: the time of a certified draw, fp32, random '
        f"weights, 19 classes (ADE20K's 150 were not timed), on one {results['gpu']} "
        '(`gpu_check`), scaled by the number of pixels; the '
        f'size of votes files, {sizes} bytes per pixel; and the CPU time of files, certificates '
        f'and counts, on one core of {on_machine(results)}. The last two are of a mosaic of the '
        "demo's votes; for n = 10,000 the hits are drawn anew, from probabilities less sure than "
        f'the real ones, so files come out rather too large. Assumed: {sets}; as many shards as '
        f'GPUs; {assumed["startup_seconds"]:.0f} s to start a job; '
        f'{assumed["file_operations_per_image"]} file operations per image; a checkpoint every '
        f'{assumed["save_seconds"]:.0f} s; and a small file server, '
        f'{assumed["server_mb_per_second"]:.0f} MB/s and '
        f'{assumed["server_operations_per_second"]:,.0f} file operations per second.',
        '',
        '*Merge*: `tools/merge.py` on one core. *Without GPU*: the share of the time of an image '
        'in which the CPU compresses, certifies and counts and the GPU waits. *Server full at*: '
        'the number of GPUs whose files take all that the server can do.',
    ]  # fmt: skip


def at_most(gpus: float, limit: int) -> str:
    """A number of GPUs, up to what was simulated."""
    return f'{gpus:.0f} GPUs' if gpus <= limit else f'more than {limit}'


def duration(hours: float) -> str:
    """A time in minutes, hours or days."""
    if hours < 1:
        return f'{60 * hours:.0f} min'
    return f'{hours:.1f} h' if hours < 48 else f'{hours / 24:.1f} d'


TABLES = {'cluster': render}

if __name__ == '__main__':
    sys.exit(main())
