"""Times the statistics on votes of a 1024 x 2048 image, beside a loop of SciPy tests.

One core; drawn votes of 2,097,152 components, 19 classes, n0 = 10, n = 100. The reference does what
the public implementation of SegCertify does: one ``scipy.stats.binomtest`` per component, and
statsmodels' Holm procedure on the p-values; its loop is timed on a part of the components and
scaled up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from study import Results, machine, on_machine, seconds_of, table, write_results

if TYPE_CHECKING:
    import numpy as np

    from mmcert.votes import VotesRecord

SIZE = (1024, 2048)
LOOPED = 20_000


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repetitions', type=int, default=7)
    return parser.parse_args()


def main() -> int:
    """Times and writes."""
    args = parse_args()
    for variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[variable] = '1'  # before NumPy is imported

    from mmcert.certify import CertifySettings, joint_radii
    from mmcert.certify.binomial import p_value_table
    from mmcert.certify.certificate import component_order
    from mmcert.votes.recertify import Task, evaluate

    record = drawn_votes()
    votes, components = record.votes, record.votes.num_components
    ordered = CertifySettings(0.75, 1e-3, 'ordered_holm', 'holdout')
    holm = CertifySettings(0.75, 1e-3, 'holm', 'holdout')
    order = component_order(record.votes, ordered, record.margin)
    taus = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]

    def p_values_and_holm() -> None:
        p_value_table(votes.n, 0.75, 'holdout')[votes.hits]
        record.certify(holm)

    tasks: dict[str, Callable[[], Any]] = {
        'p-values and Holm': p_values_and_holm,
        'Holm': lambda: record.certify(holm),
        'Holm, same draws': lambda: record.certify(
            CertifySettings(0.75, 1e-3, 'holm', 'same_draws')
        ),
        'k-FWER': lambda: record.certify(CertifySettings(0.75, 1e-3, 'kfwer', 'holdout', 0.001)),
        'ordered Holm, order known': lambda: record.certify(ordered, order=order),
        'ordered Holm with its order': lambda: record.certify(ordered),
        'joint radii': lambda: joint_radii(votes, alpha=1e-3, radius=float, selection='holdout'),
        'nine tau offline, rates included': lambda: evaluate(
            [record], [replace(holm, tau=tau) for tau in taus], Task(19)
        ),
    }
    rows = []
    for name, task in tasks.items():
        seconds, peak = measure(task, args.repetitions)
        rows.append(
            {'task': name, 'ms': 1000 * seconds, 'peak_bytes_per_component': peak / components}
        )
        print(f'{name:34} {1000 * seconds:8.1f} ms  {peak / components:5.1f} bytes per component')
    loop = looped(votes.hits.ravel()[:LOOPED], votes.n) * components / LOOPED
    ratio = loop / (rows[0]['ms'] / 1000)
    print(f'{"loop of SciPy tests (scaled up)":34} {loop:8.1f} s   {ratio:,.0f} times as long')
    content = {
        'components': components,
        'n': votes.n,
        'machine': machine(),
        'rows': rows,
        'loop': {'seconds': loop, 'timed_components': LOOPED, 'ratio': ratio},
    }
    write_results('statistics_speed', content)
    return 0


def drawn_votes() -> VotesRecord:
    """Votes like a segmentor's: most components are sure, some are torn."""
    import numpy as np

    from mmcert.certify import Votes
    from mmcert.votes import VotesRecord

    rng = np.random.default_rng(0)
    p = rng.beta(8, 0.5, SIZE)
    guess = rng.integers(0, 19, SIZE).astype(np.uint8)
    label = np.where(rng.random(SIZE) < 0.9, guess, rng.integers(0, 19, SIZE)).astype(np.uint8)
    return VotesRecord(
        Votes(
            guess,
            rng.binomial(100, p).astype(np.uint8),
            100,
            10,
            rng.binomial(10, p).astype(np.uint8),
        ),
        {},
        label=label,
        base=guess,
        margin=(255 * p).astype(np.uint8),
    )


def measure(task: Callable[[], Any], repetitions: int) -> tuple[float, int]:
    """Median seconds, and the peak of the memory allocated beside the votes."""
    times = seconds_of(task, repetitions)
    tracemalloc.start()
    task()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return statistics.median(times), peak


def looped(hits: np.ndarray, n: int) -> float:
    """Seconds of the reference on these components."""
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    started = time.perf_counter()
    p = [stats.binomtest(int(k), n, 0.75, alternative='greater').pvalue for k in hits]
    multipletests(p, alpha=1e-3, method='holm')
    return time.perf_counter() - started


def render(results: Results) -> list[str]:
    """Times and memory of the statistics."""
    rows = [('task', 'time', 'memory beside the votes')]
    for row in results['rows']:
        memory = f'{row["peak_bytes_per_component"]:.1f} bytes per component'
        rows.append((row['task'], f'{row["ms"]:.0f} ms', memory))
    loop = results['loop']
    rows.append(
        (
            "a loop of SciPy tests and statsmodels' Holm "
            f'(timed on {loop["timed_components"]:,} components, scaled up)',
            f'{loop["seconds"]:.0f} s, {loop["ratio"]:,.0f} times p-values and Holm',
            '-',
        )
    )
    return [
        *table(rows),
        '',
        f'{results["components"]:,} components (drawn votes), n = {results["n"]}, one core of '
        f'{on_machine(results)}.',
    ]


TABLES = {'statistics_speed': render}

if __name__ == '__main__':
    sys.exit(main())
