"""Answers for other tau, alpha and procedures from stored votes: no model, no data set, no GPU.

Prints the table of every combination, and writes it as ``offline.json`` beside a plot of certified
accuracy over the radius, ``radius_curve.png``.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np

from mmcert.certify import InfeasiblePlanError, read_folder, require_feasible
from mmcert.certify.certificate import PROCEDURES
from mmcert.certify.offline import Terms, evaluate
from mmcert.perturbations import from_spec
from mmcert.report import reference_table, result_table
from mmcert.report.curves import plot_radius_curve
from mmcert.report.files import write_json

CURVE_TAUS = np.linspace(0.5, 0.99, 25).round(4).tolist()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('votes_dir', nargs='+', help='folder of votes that a test run wrote')
    parser.add_argument('--tau', type=float, nargs='+', default=[0.75], help='in [0.5, 1)')
    parser.add_argument('--alpha', type=float, nargs='+', default=[1e-3], help='in (0, 1)')
    parser.add_argument('--procedure', nargs='+', default=['holm'], choices=sorted(PROCEDURES))
    parser.add_argument(
        '--out',
        help='folder for table and plot, with a folder in it for each of several votes folders '
        '(default: the votes folder)',
    )
    parser.add_argument('--no-plot', action='store_true', help='table only')
    return parser.parse_args(argv)


def main() -> int:
    """Prints and writes the answers for each folder."""
    args = parse_args()
    try:
        for folder in args.votes_dir:
            out = Path(args.out or folder)
            if args.out and len(args.votes_dir) > 1:
                out /= Path(folder).name
            run(Path(folder), out, args)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def run(votes_dir: Path, out: Path, args: argparse.Namespace) -> None:
    """Answers a parsed command line from one folder of votes."""
    first = next(read_folder(votes_dir))
    votes, sampling, provenance = first.votes, first.meta['sampling'], first.meta['provenance']
    perturbation = from_spec(sampling['perturbation'])
    for tau, alpha in product(args.tau, args.alpha):
        try:
            require_feasible(votes.n, tau, alpha, votes.num_components)
        except InfeasiblePlanError as error:
            print(f'note: {error}')
    asked = [Terms(*values) for values in product(args.tau, args.alpha, args.procedure)]
    curve = [] if args.no_plot else product(CURVE_TAUS, args.alpha, args.procedure)
    terms = asked + [Terms(*values) for values in curve]
    tallies = evaluate(
        read_folder(votes_dir), terms, provenance['num_classes'], provenance['ignore_index']
    )
    rows = [
        {**vars(term), 'radius': perturbation.radius(term.tau), **counts.rates()}
        for term, counts in zip(terms, tallies, strict=True)
    ]
    rows, points = rows[: len(asked)], rows[len(asked) :]
    space = provenance['certified_space']
    print(f'{tallies[0].images} images, {perturbation}, n0={votes.n0}, n={votes.n}')
    print(result_table(rows))
    print(reference_table(rows[0]))
    print(f'Each row is valid by itself, per image with confidence 1 - alpha, of {space}.')

    out.mkdir(parents=True, exist_ok=True)
    answer = {
        'images': tallies[0].images,
        'certified_space': space,
        'sampling': sampling,
        'provenance': provenance,
        'rows': rows,
    }
    write_json(out / 'offline.json', answer)
    print(f'wrote {out / "offline.json"}')
    if points:
        labels = {'base_aAcc': 'accuracy', 'base_mIoU': 'mIoU'}
        references = {
            f'base model, clean: {label}': rows[0][key]
            for key, label in labels.items()
            if key in rows[0]
        }
        plot_radius_curve(points, out / 'radius_curve.png', references, space)
        print(f'wrote {out / "radius_curve.png"}')


if __name__ == '__main__':
    sys.exit(main())
