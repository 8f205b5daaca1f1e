"""Answers for other settings from stored votes: no model, no data set, no GPU.

``mmcert recertify`` runs this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mmcert.certify import (
    Certificate,
    CertifySettings,
    Hierarchy,
    InfeasiblePlanError,
    require_feasible,
)
from mmcert.certify.dataset import dataset_statement
from mmcert.certify.procedures import get_procedure
from mmcert.certify.selection import possible
from mmcert.certify.sequential import spend
from mmcert.certify.settings import PROCEDURE, SELECTION
from mmcert.files import write_json
from mmcert.metrics.results import exact_rates
from mmcert.perturbations import CLASSES, Guarantee, Perturbation, from_spec
from mmcert.report import level_table, reference_table, result_table
from mmcert.report.results_folder import ResultsFolder
from mmcert.report.tables import EXACT_COLUMNS
from mmcert.sampling.draws import require_current_scheme
from mmcert.votes import Task, VotesRecord, evaluate, radius_curve, read_folder

CHOOSING = (
    'Choosing a row because of what it shows voids its promise. Fix the settings beforehand; or '
    'choose them on one sample and certify on another, sampled with a second `seed`.'
)
"""The warning where several settings are answered from the same votes."""

POINTS = (
    'The same holds for picking a point of a curve: each point is another tau. Only the joint '
    'curve holds at all its radii.'
)
"""The further warning where curves are drawn."""

CURVE_TAUS = np.linspace(0.5, 0.99, 25).round(4).tolist()

ALPHA = 1e-3
"""The significance level where neither user nor run tells one."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of stored votes: every combination of thresholds, levels and so on.

    Attributes:
        taus (Sequence[float]): Values of tau; empty for 0.75, or 0.5 for pooled tests.
        alphas (Sequence[float]): Values of alpha.
        procedures (Sequence[str]): Names of procedures.
        selections (Sequence[str]): What counts, as in ``CertifySettings``.
        k (int | float | None): For the procedures that take it.
        order (str): For the procedures that take one.
        given (Collection[str]): Names of ``CertifySettings`` that were asked for.
        of_run (Collection[str]): Names of those that are as in the run; others are defaults.
        curves (bool): Whether certified accuracy over the radius is wanted as well.
    """

    taus: Sequence[float] = ()
    alphas: Sequence[float] = (ALPHA,)
    procedures: Sequence[str] = (PROCEDURE,)
    selections: Sequence[str] = (SELECTION,)
    k: int | float | None = None
    order: str = 'auto'
    given: Collection[str] = ()
    of_run: Collection[str] = ()
    curves: bool = True

    @classmethod
    def about(cls, votes_dir: Path, given: Mapping[str, Any], curves: bool = True) -> Question:
        """A question with what is not given as in the run whose results lie beside the votes.

        Args:
            votes_dir (Path): The votes.
            given (Mapping): By the names of ``CertifySettings``; ``tau``, ``alpha``, ``procedure``
                and ``selection`` with lists of values.
            curves (bool): See the class.

        Raises:
            ValueError: If k is given for procedures that take none.
        """
        run = settings_of_run(votes_dir)
        values = {name: [value] for name, value in (run or {}).items() if value is not None}
        values |= {
            name: [value] if name in ('k', 'order') else value for name, value in given.items()
        }
        if 'selection' in given and 'order' not in given:
            # That of the run may not go with it.
            values.pop('order', None)
        procedures = values.get('procedure', [PROCEDURE])
        if 'k' in given and not any(get_procedure(name).takes_k for name in procedures):
            # Says which take it.
            CertifySettings(0.5, ALPHA, procedures[0], k=given['k'])
        return cls(
            taus=values.get('tau', ()),
            alphas=values.get('alpha', [ALPHA]),
            procedures=procedures,
            selections=values.get('selection', [SELECTION]),
            k=values.get('k', [None])[0],
            order=values.get('order', ['auto'])[0],
            given=tuple(given),
            of_run=tuple(name for name in values if name not in given),
            curves=curves,
        )


def settings_of_run(votes_dir: Path) -> dict[str, Any] | None:
    """What the run was asked whose results lie beside the votes; None if there are none."""
    try:
        results = ResultsFolder(votes_dir.absolute().parent)
        if results.votes_folder != votes_dir.absolute():
            return None
        shared = results.summary['certificate']
        asked = shared['asked']
        # Where inputs have thresholds of their own, there is none to ask all of them for.
        return asked if shared.get('tau') == asked['tau'] else {**asked, 'tau': None}
    except (OSError, ValueError, KeyError):
        # It has not finished, or an older version wrote it.
        return None


def answer(votes_dir: Path, out: Path, question: Question) -> None:
    """Answers from one folder of votes: prints tables, and writes them with a plot of curves.

    Args:
        votes_dir (Path): The votes.
        out (Path): Folder for ``offline.json`` and ``radius_curve.png``.
        question (Question): What is asked.

    Raises:
        ValueError: If the votes cannot answer it.
    """
    first = next(read_folder(votes_dir))
    require_current_scheme(first.meta['sampling'].get('scheme'))
    if first.votes.enumerated:
        count_enumerated(votes_dir, out, question)
        return
    perturbation, task = perturbation_of(first), task_of(first)
    # Pooled tests answer for one threshold; curves are of certified accuracy.
    curve = [] if perturbation.has_partition or first.label is None else CURVE_TAUS
    taus = question.taus or [0.5 if perturbation.has_partition else 0.75]
    asked = combinations(taus, question)
    note_what_is_infeasible(first, asked)
    settings = asked + combinations(curve if question.curves else [], question)
    counted: list[set[str]] = [set() for _ in settings]
    tested, digests = [0.0] * len(settings), list[str | None]()

    def note(index: int, record: VotesRecord, certificate: Certificate) -> None:
        require_of(record, perturbation)
        assert certificate.selection is not None and certificate.tested_tau is not None
        counted[index].add(certificate.selection)
        tested[index] = max(tested[index], certificate.tested_tau)
        if index == 0:
            digests.append(record.meta.get('digest'))

    counts = evaluate(read_folder(votes_dir), settings, task, note)
    rows = [
        {
            **vars(wanted),
            'counted': ' or '.join(sorted(counted[index])),
            'tested_tau': tested[index],
            'radius': perturbation.guarantee(wanted.tau).radius,
            **counts[index].rates(),
        }
        for index, wanted in enumerate(settings)
    ]
    rows, points = rows[: len(asked)], rows[len(asked) :]
    space = first.meta['provenance']['certified_space']
    images, word = counts[0].images, 'cloud' if perturbation.domain == 'points' else 'image'
    guarantees = {tau: perturbation.guarantee(tau) for tau in taus}
    print(f'{images} {word}{"s" * (images != 1)}, {perturbation}, {describe_draws(first)}')
    print_defaults(question, taus)
    # As in certificates, k is 1 where the procedure takes none.
    print(
        result_table(
            {**row, 'selection': describe_selection(row), 'k': row['k'] or 1} for row in rows
        )
    )
    for wanted, found in zip(asked, counts, strict=False):
        if found.levels is not None and found.labelled:
            terms = f'tau = {wanted.tau:g}, alpha = {wanted.alpha:g}'
            print(f'{wanted.procedure}, {wanted.selection}, {terms}:')
            print(level_table(found))
    print(reference_table(rows[0]))
    print(f'Each row is valid by itself, per {word} with confidence 1 - alpha, of {space}:')
    print_promises(rows, guarantees, word, curves=bool(points))
    if None in digests:
        print(
            f'note: {digests.count(None)} of {images} votes files do not tell their {word} (no '
            f'"digest"): what holds for all {word}s together takes each of these for another one'
        )
    told_apart = [digest or f'number {index}' for index, digest in enumerate(digests)]
    statements = [dataset_statement(images, alpha, digests=told_apart) for alpha in question.alphas]
    for statement in statements:
        print(f'alpha = {statement.alpha:g}, {statement.describe()}.')

    out.mkdir(parents=True, exist_ok=True)
    content = {
        'images': images,
        'all_images': [statement.to_dict() for statement in statements],
        'certified_space': space,
        'sampling': first.meta['sampling'],
        'provenance': first.meta['provenance'],
        'rows': [
            {
                **row,
                'description': guarantees[row['tau']].describe(),
                'regions': found.by_region(),
            }
            for row, found in zip(rows, counts, strict=False)
        ],
    }
    if points:
        from mmcert.report.curves import plot_radius_curve

        content['joint_curve'] = joint = joint_rows(votes_dir, task, perturbation, question)
        for alpha, selection in sorted({(row['alpha'], describe_selection(row)) for row in joint}):
            print(f'joint curve, alpha = {alpha:g}: selection {selection}')
        labels = {'base_aAcc': 'accuracy', 'base_mIoU': 'mIoU'}
        references = {
            f'base model, clean: {label}': rows[0][key]
            for key, label in labels.items()
            if key in rows[0]
        }
        guarantee = perturbation.guarantee(asked[0].tau)
        radius = f'radius ({guarantee.norm}), {guarantee.unit}'
        path = out / 'radius_curve.png'
        plot_radius_curve(points + joint, path, references, space, radius, word)
        print(f'wrote {path}')
    write_json(out / 'offline.json', content)
    print(f'wrote {out / "offline.json"}')


def count_enumerated(votes_dir: Path, out: Path, question: Question) -> None:
    """Counts the exact certificates of an enumeration again: no setting could change them."""
    if given := [f'--{name}' for name in question.given]:
        raise ValueError(
            f'the votes in {votes_dir} are of an enumeration, without draws or tests: leave out '
            f'{", ".join(given)}'
        )
    first = next(read_folder(votes_dir))
    perturbation = perturbation_of(first)
    (counts,) = evaluate(read_folder(votes_dir), [None], task_of(first))
    row: dict[str, Any] = {'kind': 'exact', 'num_values': first.votes.n, **exact_rates(counts)}
    claim = perturbation.guarantee(0.5).describe()
    space = first.meta['provenance']['certified_space']
    print(f'{counts.images} image{"s" * (counts.images != 1)}, {perturbation}')
    print(result_table([row], EXACT_COLUMNS))
    print(reference_table(row))
    print(f'Verified by enumeration, without tau, alpha or procedure, of {space}:\n  {claim}')
    out.mkdir(parents=True, exist_ok=True)
    content = {
        'images': counts.images,
        'certified_space': space,
        'sampling': first.meta['sampling'],
        'provenance': first.meta['provenance'],
        'rows': [{**row, 'description': claim, 'regions': counts.by_region()}],
    }
    write_json(out / 'offline.json', content)
    print(f'wrote {out / "offline.json"}')


def write_all_confidence(votes_dir: Path, out: Path, question: Question) -> None:
    """Writes maps of confidence for each alpha and selection, where these mean anything."""
    first = next(read_folder(votes_dir))
    perturbation = perturbation_of(first)
    if first.votes.enumerated or perturbation.has_partition:
        write_confidence_of(votes_dir, out / 'confidence')
        return
    for alpha, selection in product(question.alphas, question.selections):
        options = {'alpha': alpha, 'selection': selection, 'radius': perturbation.radius}
        write_confidence_of(votes_dir, out / f'confidence-{alpha:g}-{selection}', **options)


def write_confidence_of(votes_dir: Path, out: Path, **options: Any) -> None:
    """Writes the ``confidence_maps`` of each input under some options, with pictures of images."""
    from mmcert.report.confidence import confidence_picture, write_confidence
    from mmcert.report.tiles import class_colours
    from mmcert.votes.confidence import KINDS, confidence_maps

    missing = set(KINDS)
    for record in read_folder(votes_dir):
        maps, provenance = confidence_maps(record, **options), record.meta['provenance']
        missing -= maps.keys()
        picture = None
        if maps['guess'].ndim == 2:
            classes = provenance.get('classes') or ()
            colours = class_colours(provenance['num_classes']).tolist()
            picture = confidence_picture(maps, colours, classes)
        write_confidence(out, record.meta['name'], maps, picture)
    print(f'wrote {out}')
    if missing:
        print(f'note: these votes do not tell {", ".join(key for key in KINDS if key in missing)}')


def perturbation_of(record: VotesRecord) -> Perturbation:
    """The perturbation that votes were sampled under."""
    spec = record.meta['sampling']['perturbation']
    if spec.get('type') not in CLASSES:
        raise ValueError(
            f'unknown perturbation {spec.get("type")!r}: if it is your own, name the module that '
            'registers it with `mmcert.perturbations.register` by --import'
        )
    return from_spec(spec)


def require_of(record: VotesRecord, perturbation: Perturbation) -> None:
    """Refuses hits where scores of pooled tests belong, and the other way round."""
    if (record.votes.table is not None) != perturbation.has_partition:
        raise ValueError(f'{record.meta.get("name")}: these votes are not of {perturbation}')


def task_of(record: VotesRecord) -> Task:
    """What the labels beside the votes mean."""
    provenance, hierarchy = record.meta['provenance'], record.meta['sampling'].get('hierarchy')
    return Task(
        provenance['num_classes'],
        provenance['ignore_index'],
        None if hierarchy is None else Hierarchy.from_spec(hierarchy),
    )


def combinations(taus: Sequence[float], question: Question) -> list[CertifySettings]:
    """The settings that are asked about, at given values of tau."""
    chosen = []
    for tau, alpha, name, selection in product(
        taus, question.alphas, question.procedures, question.selections
    ):
        procedure = get_procedure(name)
        k = question.k if procedure.takes_k else None
        order = question.order if procedure.takes_order else 'auto'
        chosen.append(CertifySettings(tau, alpha, name, selection, k, order))
    return chosen


def note_what_is_infeasible(record: VotesRecord, asked: Iterable[CertifySettings]) -> None:
    """Says where not even unanimous votes could be certified."""
    votes = record.votes
    for settings in asked:
        selections = possible(settings, votes.selections)
        if len(selections) == 1:
            settings = replace(settings, selection=selections[0])
        if votes.looks:
            settings = replace(settings, alpha=spend(settings.alpha, len(votes.looks)))
        try:
            require_feasible(votes.n, settings, votes.num_components, votes.n0)
        except InfeasiblePlanError as error:
            print(f'note: {error}')


def describe_draws(record: VotesRecord) -> str:
    """How many draws an image took."""
    votes = record.votes
    if votes.looks:
        return f'n0={votes.n0}, n in looks ({", ".join(map(str, votes.looks))} at the first image)'
    return f'n0={votes.n0}, n={votes.n}'


def print_defaults(question: Question, taus: Sequence[float]) -> None:
    """Says which settings were not asked for, and where they are from."""
    used: dict[str, Sequence[Any]] = {
        'tau': taus,
        'alpha': question.alphas,
        'procedure': question.procedures,
        'selection': question.selections,
    }
    rules = [get_procedure(name) for name in question.procedures]
    if any(rule.takes_k for rule in rules):
        used['k'] = [question.k]
    if any(rule.takes_order for rule in rules) and question.order != 'auto':
        used['order'] = [question.order]
    asked = {name: name in question.of_run for name in used if name not in question.given}
    for is_of_run, source in (True, 'as in the run'), (False, 'by default'):
        values = ', '.join(f'{name} {used[name][0]}' for name in asked if asked[name] == is_of_run)
        beside = '' if question.of_run else '; no results of a run lie beside these votes'
        if values:
            print(f'not asked for, so {source}: {values}{beside}')


def describe_selection(row: dict[str, Any]) -> str:
    """The selection of a row; inputs of different sizes may differ in what 'auto' takes."""
    return f'auto: {row["counted"]}' if row['selection'] == 'auto' else row['selection']


def print_promises(
    rows: list[dict[str, Any]], guarantees: dict[float, Guarantee], word: str, curves: bool
) -> None:
    """Prints what the rows promise, and what they do not."""
    for tau, guarantee in guarantees.items():
        print(f'  tau = {tau:g}: {guarantee.claim}')
    for stage in {guarantee.stage: None for guarantee in guarantees.values()}:
        print(f'  where {stage}')
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
    if counting := sorted({row['procedure'] for row in rows if row['k'] is not None}):
        print(
            f'Rows of {", ".join(counting)} are count certificates: fewer than k certificates of '
            f'each {word} are wrong, and k - 1 of them are taken away from accuracy, mIoU and what '
            'is certified.'
        )


def joint_rows(
    votes_dir: Path, task: Task, perturbation: Perturbation, question: Question
) -> list[dict[str, Any]]:
    """The points of the curves that are valid at all radii at once."""
    rows = []
    radii = [perturbation.radius(tau) for tau in CURVE_TAUS]
    for alpha, selection in product(question.alphas, question.selections):
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
