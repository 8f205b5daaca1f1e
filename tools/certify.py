"""Answers for other settings from stored votes: no model, no data set, no GPU.

Prints the table of every combination, and writes it as ``offline.json`` beside a plot of certified
accuracy over the radius, ``radius_curve.png``: point by point for each procedure, and jointly valid
for all radii at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from mmcert.certify import (
    Certificate,
    CertifySettings,
    Hierarchy,
    InfeasiblePlanError,
    require_feasible,
)
from mmcert.certify.dataset import dataset_statement
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.selection import possible
from mmcert.certify.sequential import spend
from mmcert.certify.settings import ORDERS, PROCEDURE, SELECTION, SELECTION_CHOICES
from mmcert.files import write_json
from mmcert.metrics.confusion import ConfusionCounts
from mmcert.perturbations import CLASSES, Perturbation, from_spec
from mmcert.report import level_table, reference_table, result_table
from mmcert.report.curves import plot_radius_curve
from mmcert.sampling.draws import require_current_scheme
from mmcert.votes import VotesRecord, read_folder
from mmcert.votes.recertify import Task, evaluate, radius_curve

CHOOSING = (
    'Choosing a row because of what it shows voids its promise. Fix the settings beforehand; or '
    'choose them on one sample and certify on another, sampled with a second `seed`.'
)
"""What has to be said where several settings are answered from the same votes."""

POINTS = (
    'So does choosing a point of the curve of a procedure, which is a row with a tau of its own. '
    'The joint curve alone holds at all its radii.'
)
"""What has to be said besides where curves are drawn."""

CURVE_TAUS = np.linspace(0.5, 0.99, 25).round(4).tolist()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('votes_dir', nargs='+', help='folder of votes that a test run wrote')
    parser.add_argument('--tau', type=float, nargs='+', default=[0.75], help='in [0.5, 1)')
    parser.add_argument('--alpha', type=float, nargs='+', default=[1e-3], help='in (0, 1)')
    parser.add_argument('--procedure', nargs='+', default=[PROCEDURE], choices=PROCEDURES)
    parser.add_argument('--selection', nargs='+', default=[SELECTION], choices=SELECTION_CHOICES)
    parser.add_argument(
        '--k',
        type=_number_or_share,
        help='for kfwer: fewer than k certificates of an image may be wrong; a number, or a share '
        'of the components in (0, 1)',
    )
    parser.add_argument('--order', default='auto', choices=ORDERS, help='for ordered_holm')
    parser.add_argument(
        '--out',
        help='folder for table and plot, with a folder in it for each of several votes folders '
        '(default: the votes folder)',
    )
    parser.add_argument('--no-plot', action='store_true', help='table only')
    parser.add_argument(
        '--import',
        nargs='+',
        default=[],
        dest='modules',
        metavar='MODULE',
        help='modules to import first, which register perturbations of your own',
    )
    return parser.parse_args(argv)


def _number_or_share(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


def main() -> int:
    """Prints and writes the answers for each folder."""
    args = parse_args()
    try:
        if args.k is not None and 'kfwer' not in args.procedure:
            raise ValueError('--k belongs to --procedure kfwer')
        if args.modules:
            # As with `python -m`: from the folder that the tool is called in, too.
            sys.path.insert(0, '')
        for module in args.modules:
            importlib.import_module(module)
        for folder in args.votes_dir:
            out = Path(args.out or folder)
            if args.out and len(args.votes_dir) > 1:
                out /= Path(folder).name
            run(Path(folder), out, args)
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def perturbation_of(record: VotesRecord) -> Perturbation:
    """The perturbation that votes were sampled under."""
    spec = record.meta['sampling']['perturbation']
    if spec.get('type') not in CLASSES:
        raise ValueError(
            f'unknown perturbation {spec.get("type")!r}: if it is your own, name the module that '
            'registers it with `mmcert.perturbations.register` by --import'
        )
    return from_spec(spec)


def run(votes_dir: Path, out: Path, args: argparse.Namespace) -> None:
    """Answers a parsed command line from one folder of votes."""
    first = next(read_folder(votes_dir))
    require_current_scheme(first.meta['sampling'].get('scheme'))
    perturbation = perturbation_of(first)
    asked = combinations(args.tau, args)
    for settings in asked:
        note_if_infeasible(first, settings)
    settings = asked + ([] if args.no_plot else combinations(CURVE_TAUS, args))
    task = task_of(first)
    used, digests = [Used() for _ in settings], list[str | None]()

    def note(index: int, record: VotesRecord, certificate: Certificate) -> None:
        used[index].add(certificate)
        if index == 0:
            digests.append(record.meta.get('digest'))

    tallies = evaluate(read_folder(votes_dir), settings, task, note)
    rows = [
        {
            **vars(term),
            'counted': ' or '.join(sorted(counted.selections)),
            'tested_tau': max(counted.taus),
            'radius': perturbation.radius(term.tau),
            **counts.rates(),
        }
        for term, counted, counts in zip(settings, used, tallies, strict=True)
    ]
    rows, points = rows[: len(asked)], rows[len(asked) :]
    space = first.meta['provenance']['certified_space']
    images, word = tallies[0].images, 'cloud' if perturbation.domain == 'points' else 'image'
    print(f'{images} {word}s, {perturbation}, {draws_in_words(first)}')
    claims = {tau: str(perturbation.guarantee(tau)['words']) for tau in args.tau}
    print_rows(rows, asked, tallies)
    print(reference_table(rows[0]))
    print(f'Each row is valid by itself, per {word} with confidence 1 - alpha, of {space}:')
    print_terms(rows, claims, word, curves=bool(points))
    if None in digests:
        print(
            f'note: {digests.count(None)} of {images} votes files do not tell their {word} (no '
            f'"digest"): what is said of all {word}s at once takes each of these for another one'
        )
    told_apart = [digest or f'number {index}' for index, digest in enumerate(digests)]
    statements = [dataset_statement(images, alpha, digests=told_apart) for alpha in args.alpha]
    for statement in statements:
        print(f'alpha = {statement.alpha:g}, {statement.describe()}.')

    out.mkdir(parents=True, exist_ok=True)
    answer = {
        'images': images,
        'all_images': [item.to_dict() for item in statements],
        'certified_space': space,
        'sampling': first.meta['sampling'],
        'provenance': first.meta['provenance'],
        'rows': [
            {**row, 'words': claims[row['tau']], 'regions': counts.by_region()}
            for row, counts in zip(rows, tallies, strict=False)
        ],
    }
    if points:
        joint = joint_rows(votes_dir, task, perturbation, args)
        for alpha, words in sorted({(row['alpha'], selection_words(row)) for row in joint}):
            print(f'joint curve, alpha = {alpha:g}: selection {words}')
        answer['joint_curve'] = joint
        guarantee = perturbation.guarantee(asked[0].tau)
        radius = f'radius ({guarantee["norm"]}), {guarantee["unit"]}'
        draw(points + joint, rows[0], out / 'radius_curve.png', space, radius, word)
    write_json(out / 'offline.json', answer)
    print(f'wrote {out / "offline.json"}')


def print_rows(
    rows: list[dict], settings: list[CertifySettings], tallies: list[ConfusionCounts]
) -> None:
    """Prints the rates, and those by the levels of a hierarchy."""
    print(result_table({**row, 'selection': selection_words(row)} for row in rows))
    for term, counts in zip(settings, tallies, strict=False):
        if counts.levels is not None:
            print(
                f'{term.procedure}, {term.selection}, tau = {term.tau:g}, alpha = {term.alpha:g}:'
            )
            print(level_table(counts))


def print_terms(rows: list[dict], claims: dict[float, str], word: str, curves: bool) -> None:
    """Prints what the rows promise, and what they do not."""
    for tau, claim in claims.items():
        print(f'  tau = {tau:g}: {claim}')
    for row in rows:
        if row['tested_tau'] > row['tau']:
            print(
                f'At tau = {row["tau"]:g} same_draws is tested at {row["tested_tau"]:.4f} '
                f'({row["procedure"]}, alpha = {row["alpha"]:g}), where it needs fewer hits: the '
                'claims at tau follow.'
            )
    if len(rows) > 1 or curves:
        print(CHOOSING)
    if curves:
        print(POINTS)
    if any(row['k'] is not None for row in rows):
        print(
            f'Rows of kfwer are count certificates: fewer than k certificates of each {word} are '
            'wrong, and k - 1 of them are taken away from accuracy, mIoU and what is certified.'
        )


class Used:
    """What the certificates of one row counted, and where they tested."""

    def __init__(self) -> None:
        self.selections: set[str] = set()
        self.taus: set[float] = set()

    def add(self, certificate: Certificate) -> None:
        """Notes a certificate."""
        self.selections.add(certificate.selection)
        self.taus.add(certificate.tested_tau)


def selection_words(row: dict) -> str:
    """The selection of a row; inputs of different sizes may differ in what 'auto' takes."""
    return f'auto: {row["counted"]}' if row['selection'] == 'auto' else row['selection']


def combinations(taus: list[float], args: argparse.Namespace) -> list[CertifySettings]:
    """The settings of a command line at given values of tau."""
    chosen = []
    for tau, alpha, procedure, selection in product(
        taus, args.alpha, args.procedure, args.selection
    ):
        k = args.k if procedure == 'kfwer' else None
        order = args.order if procedure == 'ordered_holm' else 'auto'
        chosen.append(CertifySettings(tau, alpha, procedure, selection, k, order))
    return chosen


def task_of(record: VotesRecord) -> Task:
    """What the labels beside the votes are to be read as."""
    provenance, hierarchy = record.meta['provenance'], record.meta['sampling'].get('hierarchy')
    return Task(
        provenance['num_classes'],
        provenance['ignore_index'],
        None if hierarchy is None else Hierarchy.from_spec(hierarchy),
    )


def note_if_infeasible(record: VotesRecord, settings: CertifySettings) -> None:
    """Says where not even unanimous votes could be certified."""
    votes = record.votes
    open_ = possible(settings, votes.selections)
    if len(open_) == 1:
        settings = replace(settings, selection=open_[0])
    if votes.looks:
        settings = replace(settings, alpha=spend(settings.alpha, len(votes.looks)))
    try:
        require_feasible(votes.n, settings, votes.num_components, votes.n0)
    except InfeasiblePlanError as error:
        print(f'note: {error}')


def draws_in_words(record: VotesRecord) -> str:
    """How many draws an image took."""
    votes = record.votes
    if votes.looks:
        return f'n0={votes.n0}, n in looks ({", ".join(map(str, votes.looks))} at the first image)'
    return f'n0={votes.n0}, n={votes.n}'


def joint_rows(
    votes_dir: Path, task: Task, perturbation: Perturbation, args: argparse.Namespace
) -> list[dict]:
    """The points of the curves that are valid at all radii at once."""
    rows = []
    radii = [perturbation.radius(tau) for tau in CURVE_TAUS]
    for alpha, selection in product(args.alpha, args.selection):
        curve = radius_curve(
            read_folder(votes_dir),
            task,
            radii,
            alpha=alpha,
            radius=perturbation.radius,
            selection=selection,
        )
        settings = {'alpha': alpha, 'procedure': 'joint', 'selection': selection}
        settings['counted'] = ' or '.join(sorted(curve.selections))
        rows += [{**settings, **row} for row in curve.rows()]
    return rows


def draw(points: list[dict], row: dict, path: Path, space: str, radius: str, word: str) -> None:
    """Draws the curves over the radius."""
    labels = {'base_aAcc': 'accuracy', 'base_mIoU': 'mIoU'}
    references = {
        f'base model, clean: {label}': row[key] for key, label in labels.items() if key in row
    }
    plot_radius_curve(points, path, references, space, radius, word)
    print(f'wrote {path}')


if __name__ == '__main__':
    sys.exit(main())
