"""Redraws the toy study of the SegCertify paper (section 6.1), with mmcert's procedures added.

N components of two classes; the base model errs at k bad ones with probability 5 * gamma and at the
others with gamma. The figures show the share of components that each method certifies:

* 2a over gamma for N = 100, n0 = n = 100, tau = 0.75, alpha = 0.001;
* 2b over N for n0 = n = 1000, tau = 0.9, alpha = 0.1, gamma = 0.05;
* 2c as 2a with n0 = n = 1000;
* k-FWER over N as 2b, for alpha = 0.1 and 0.001, with up to b = k - 1 wrong certificates.

600 repetitions, fewer for large N in 2b and k-FWER, as the JSON beside the picture says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from study import IMAGES, ROOT, machine, read_results, write_results

if TYPE_CHECKING:
    from mmcert.votes import VotesRecord

PICTURE = IMAGES / 'toy_study.png'
BAD = 1
MOST_COMPONENTS = 30_000_000
"""Components times repetitions of one point, at most."""

PROCEDURES = {
    'SegCertify, Holm': dict(procedure='holm', selection='holdout'),
    'SegCertify, Bonferroni': dict(procedure='bonferroni', selection='holdout'),
    'ordered Holm': dict(procedure='ordered_holm', selection='holdout'),
    'Holm, same draws': dict(procedure='holm', selection='same_draws'),
    'ordered Holm, same draws': dict(procedure='ordered_holm', selection='same_draws'),
}
ALLOWED = ('0', '1', '2', '4', '0.001 N', '0.01 N')


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repetitions', type=int, default=600)
    parser.add_argument('--points', type=int, default=26, help='values of gamma in [0, 0.1]')
    parser.add_argument('--largest', type=int, default=10**6, help='largest N')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--draw', action='store_true', help='only draw the stored results')
    return parser.parse_args()


def main() -> int:
    """Runs the study and draws it."""
    args = parse_args()
    if not args.draw:
        started = time.monotonic()
        rng = np.random.default_rng(args.seed)
        gammas = np.linspace(0, 0.1, args.points).tolist()
        sizes = [size for size in (10**2, 10**3, 10**4, 10**5, 10**6) if size <= args.largest]
        results = {
            '2a': over_gamma(gammas, 100, args.repetitions, rng),
            '2b': over_size(sizes, 0.1, args.repetitions, rng),
            '2c': over_gamma(gammas, 1000, args.repetitions, rng),
            'k-FWER, alpha = 0.1': over_allowed(sizes, 0.1, args.repetitions, rng),
            'k-FWER, alpha = 0.001': over_allowed(sizes, 0.001, args.repetitions, rng),
        }
        content = {
            'seed': args.seed,
            'machine': machine(),
            'seconds': round(time.monotonic() - started),
            'figures': results,
        }
        write_results('toy_study', content)
    draw(read_results('toy_study')['figures'])
    print(f'wrote {PICTURE.relative_to(ROOT)}')
    return 0


def error_rates(components: int, gamma: float) -> NDArray[np.float64]:
    """Probability of an error at each component; the bad ones come last."""
    rates = np.full(components, gamma)
    rates[-BAD:] = 5 * gamma
    return rates


def counted(selection_errors: NDArray, errors: NDArray, n0: int, n: int) -> VotesRecord:
    """Votes of two classes from the numbers of errors."""
    from mmcert.certify import Votes
    from mmcert.votes import VotesRecord

    wrong = selection_errors > n0 / 2
    hits = np.where(wrong, errors, n - errors)
    top = np.where(wrong, selection_errors, n0 - selection_errors)
    return VotesRecord(Votes(wrong.astype(np.uint8), hits, n, n0, top), {})


def shares(record: VotesRecord, tau: float, alpha: float) -> dict[str, float]:
    """Share of the components that each procedure certifies."""
    from mmcert.certify import CertifySettings

    return {
        name: float(record.certify(CertifySettings(tau, alpha, **settings)).certified.mean())
        for name, settings in PROCEDURES.items()
    }


def over_gamma(
    gammas: Iterable[float], n: int, repetitions: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Figures 2a and 2c: all methods on whole label maps of 100 components."""
    from baselines import indiv_class, joint_class

    components, tau, alpha = 100, 0.75, 0.001

    def one(gamma: float) -> dict[str, float]:
        rates = error_rates(components, gamma).astype(np.float32)
        labels = (rng.random((2 * n, components), dtype=np.float32) < rates).astype(np.uint8)
        selection, estimation = labels[:n], labels[n:]
        record = counted(selection.sum(axis=0), estimation.sum(axis=0), n, n)
        hits = record.votes.hits
        return {
            'JointClass': joint_class(selection, estimation, alpha).certified.mean(),
            'IndivClass': indiv_class(hits, n, alpha).certified.mean(),
            'IndivClass with tau': indiv_class(hits, n, alpha, tau).certified.mean(),
            **shares(record, tau, alpha),
        }

    return averages('gamma', gammas, one, lambda _: repetitions)


def over_size(
    sizes: Iterable[int], alpha: float, repetitions: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Figure 2b: many components."""
    return averages(
        'N',
        sizes,
        lambda size: shares(sampled(size, rng), 0.9, alpha),
        lambda size: max(1, min(repetitions, MOST_COMPONENTS // size)),
    )


def over_allowed(
    sizes: Iterable[int], alpha: float, repetitions: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The figures of k-FWER: up to b = k - 1 wrong certificates are allowed."""
    from mmcert.certify import CertifySettings

    def one(size: int) -> dict[str, float]:
        record = sampled(size, rng)
        found = {}
        for allowed in ALLOWED:
            share, _, of_all = allowed.partition(' ')
            k = 1 + int(float(share) * (size if of_all else 1))
            settings = CertifySettings(0.9, alpha, 'kfwer', 'holdout', k)
            found[f'b = {allowed}'] = float(record.certify(settings).certified.mean())
        return found

    return averages('N', sizes, one, lambda size: max(1, min(repetitions, MOST_COMPONENTS // size)))


def sampled(size: int, rng: np.random.Generator) -> VotesRecord:
    """Votes of the setting of figure 2b."""
    n, rates = 1000, error_rates(size, 0.05)
    return counted(rng.binomial(n, rates), rng.binomial(n, rates), n, n)


def averages(
    axis: str,
    values: Iterable[float],
    one: Callable[[Any], dict[str, float]],
    repetitions: Callable[[Any], int],
) -> dict[str, Any]:
    """Means of repeated runs at each value of the horizontal axis."""
    rows = []
    for value in values:
        runs = [one(value) for _ in range(repetitions(value))]
        means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        rows.append({axis: value, 'repetitions': len(runs), **means})
        print(f'{axis} = {value:g}: {len(runs)} repetitions', flush=True)
    return {'axis': axis, 'rows': rows}


def draw(figures: dict[str, Any]) -> None:
    """Draws all figures in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8.5), layout='constrained')
    panels = figure.subplots(2, 3).ravel()
    for panel, (title, content) in zip(panels, figures.items(), strict=False):
        axis, rows = content['axis'], content['rows']
        names = [name for name in rows[0] if name not in (axis, 'repetitions')]
        plot = panel.semilogx if axis == 'N' else panel.plot
        for index, name in enumerate(names):
            style = ('-', '--', ':', '-.')[index % 4]
            marker = 'x' if axis == 'N' else None
            plot(
                [row[axis] for row in rows],
                [row[name] for row in rows],
                style,
                marker=marker,
                label=name,
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(axis)
        panel.set_ylabel('share certified')
        panel.legend(fontsize='x-small')
    for panel in panels[len(figures) :]:
        panel.axis('off')
    figure.savefig(PICTURE, dpi=80)


if __name__ == '__main__':
    sys.exit(main())
