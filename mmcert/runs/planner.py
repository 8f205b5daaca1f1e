"""What settings can certify, and how long it takes, before it is run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from prettytable import PrettyTable

from mmcert.certifier import CertificationPlan, selections_of
from mmcert.certify import CertifySettings, InfeasiblePlanError
from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.checks import check_draws
from mmcert.certify.planning import (
    MOST_DRAWS,
    Outlook,
    draws_for_share,
    first_look,
    look_for_share,
    min_draws,
    outlook,
    outlook_in_looks,
)
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.sequential import spend
from mmcert.perturbations import TransformationCells
from mmcert.runs.source import Source
from mmcert.sampling import BatchSize, SamplingSettings, collect_votes
from mmcert.sampling.batching import LARGEST
from mmcert.sampling.draws import ESTIMATION
from mmcert.sampling.passes import Passes

TIMED_BATCHES = 3
SAMPLED_INPUTS = 8
"""Inputs whose thresholds are looked up, where the attack set gives each its own."""

CUT_INPUTS, SHARES_OF_N, LONG_CUT = 3, (0.5, 2), 20
"""Inputs whose attack set is cut into cells; for how many times n draws, beside n; and after how
many seconds for one of them at n only that is looked at."""


@dataclass(frozen=True)
class Cut:
    """What a number of draws makes of the attack set of some inputs, cut into cells.

    Attributes:
        draws (int): Number of estimation draws n.
        details (tuple[Mapping, ...]): Those of each input's ``Partition``.
        seconds (float): What cutting took, for each input.
    """

    draws: int
    details: tuple[Mapping[str, Any], ...]
    seconds: float

    def row(self, plan: CertificationPlan, seconds_per_draw: float | None) -> list[str]:
        """The cells of a row of the report."""
        cells = [math.prod(found['cells']) for found in self.details]
        needed = [found['needed_probability'] or math.inf for found in self.details]
        of_median = median(needed)
        per_input = '-'
        if seconds_per_draw is not None:
            draws = plan.sampling.n0 + self.draws + 1
            per_input = _time(draws * seconds_per_draw + self.seconds)
        return [
            str(self.draws),
            f'{median(cells):g} ({min(cells)} to {max(cells)})',
            '-' if math.isinf(of_median) else f'{of_median:.3f}',
            f'{min(needed):.3f} to {max(needed):.3f}' if max(needed) < math.inf else '-',
            f'{self.seconds:.1f} s',
            per_input,
        ]


@dataclass(frozen=True)
class PlannedRun:
    """A run that is planned.

    Attributes:
        plan (CertificationPlan): From the config.
        num_components (int): Components of one input, K.
        images (int): Inputs of the data set.
        thresholds (tuple[float, ...]): The thresholds of some inputs, where inputs have their own.
        seconds_per_draw (float | None): Wall time of one draw, if it was measured.
        device (str): Where it was measured.
        cuts (tuple[Cut, ...]): Where attack sets are cut into cells: some inputs at some numbers of
            draws.
    """

    plan: CertificationPlan
    num_components: int
    images: int = 1
    thresholds: tuple[float, ...] = ()
    seconds_per_draw: float | None = None
    device: str = ''
    cuts: tuple[Cut, ...] = ()

    @classmethod
    def of_size(cls, plan: CertificationPlan, size: Sequence[int], images: int) -> PlannedRun:
        """A run on images of a given height and width, without a model.

        Raises:
            ValueError: If there are no such images, or the model decides what is labelled.
        """
        if plan.input_to_dict().get('resolution', 'image') != 'image':
            raise ValueError("resolution='logits' needs the model: leave --size out")
        height, width = (check_draws(side, 'a side of an image') for side in size)
        return cls(plan, height * width, images)

    @classmethod
    def of_source(cls, source: Source[Any], timed: bool = True) -> PlannedRun:
        """A run over the inputs of a source; a few passes of its model may be timed."""
        source.check_inputs(range(len(source)))
        raw, sample = source.read(0)
        with source.computing():
            return cls(
                source.plan,
                source.components(raw, sample),
                source.job_size,
                _sampled_thresholds(source),
                _time_draws(source, raw, sample) if timed else None,
                raw.device.type,
                _sampled_cuts(source),
            )

    def at_threshold(self, tau: float) -> CertificationPlan:
        """The plan for an input whose attack set needs this threshold."""
        settings = self.plan.test_settings
        return replace(self.plan, settings=replace(settings, tau=max(settings.tau, tau)))

    def require_feasible(self) -> None:
        """Refuses a run that can certify nothing, on any of the inputs that were looked at."""
        if self.plan.settings is None:
            return
        easiest = min(self.thresholds, default=self.plan.test_settings.tau)
        self.at_threshold(easiest).require_feasible(self.num_components)

    def can_certify(self, tau: float) -> bool:
        """Whether anything can be certified on an input that needs this threshold."""
        try:
            self.at_threshold(tau).require_feasible(self.num_components)
        except InfeasiblePlanError:
            return False
        return True


def report(run: PlannedRun, taus: Sequence[float]) -> str:
    """The planner's answer, as tables and sentences.

    It does not say why a run would be refused: ``PlannedRun.require_feasible`` does. Where inputs
    have thresholds of their own, the tables are for the median one. The smallest n is given for
    ``taus`` beside the configured tau.
    """
    plan, thresholds, word = run.plan, run.thresholds, run.plan.input_word
    inputs = f'{run.images} {word}{"s" * (run.images != 1)}'
    if plan.settings is None:
        lines = [
            f'{inputs} of {run.num_components} components; {plan.describe()}',
            _aim(plan),
            'Nothing is drawn or tested: any set can be verified, at one pass for each parameter '
            'and one over the clean input. What lies between the parameters is not covered.',
            _duration(run),
        ]
        return '\n'.join(filter(None, lines))
    if plan.perturbation.has_partition:
        return '\n'.join(filter(None, _report_of_cells(run, inputs)))
    threshold = _describe_threshold(run)
    if thresholds:
        able = sum(map(run.can_certify, thresholds))
        verdict = f'The plan can certify on {able} of {len(thresholds)} {word}s looked at.'
        plan = run.at_threshold(median(thresholds))
    else:
        verdict = _verdict(run)
        if verdict and plan.perturbation.per_input_threshold:
            verdict = f'At tau = {plan.test_settings.tau:g}: {verdict}'
    lines = [
        f'{inputs} of {run.num_components} components; '
        f'{threshold}, alpha = {plan.test_settings.alpha:g}, {plan.describe()}',
        _aim(plan),
        _procedures(plan, run.num_components),
        _smallest(plan, run.num_components, sorted({plan.test_settings.tau, *taus})),
        verdict,
        _duration(run),
    ]
    return '\n'.join(filter(None, lines))


def _report_of_cells(run: PlannedRun, inputs: str) -> list[str]:
    """What attack sets take that are cut into cells."""
    plan, word, component = run.plan, run.plan.input_word, run.plan.component_word
    lines = [
        f'{inputs} of {run.num_components} components; alpha = {plan.test_settings.alpha:g}, '
        f'{plan.describe()}',
        _aim(plan),
    ]
    if not run.cuts:
        return [*lines, f'Cells depend on the {word}s: leave --size out.']
    table = PrettyTable(
        [
            'draws n',
            'cells',
            'share needed',
            'range',
            f'cutting, per {word}',
            f'in all, per {word}',
        ]
    )
    for cut in run.cuts:
        table.add_row(cut.row(plan, run.seconds_per_draw))
    count = len(run.cuts[0].details)
    chosen = next(cut for cut in run.cuts if cut.draws == plan.sampling.n)
    critical = plan.test_settings.critical_value(run.num_components)
    able = sum(found['smallest_p_value'] <= critical for found in chosen.details)
    return [
        *lines,
        table.get_string(),
        f'Median and range of {count} {word}{"s" * (count != 1)}. Share needed: a {component} '
        'whose class has at least this share of the draws, all over the attack set, is almost '
        'surely certified. It should lie below what the model reaches: take more draws if it does '
        'not, or if it is "-".',
        f'The plan can certify on {able} of {count} {word}s looked at.',
        _duration(run, chosen.seconds),
    ]


def _aim(plan: CertificationPlan) -> str:
    """What is smoothed, and what a certificate says, at the threshold of the plan."""
    if plan.perturbation.per_input_threshold and not plan.perturbation.has_partition:
        # What is certified is not known before the threshold is.
        return f'Perturbation: {plan.perturbation}.'
    return f'Perturbation: {plan.perturbation}.\nCertified: {plan.guarantee().claim}.'


def _describe_threshold(run: PlannedRun) -> str:
    plan, thresholds, word = run.plan, run.thresholds, run.plan.input_word
    tau = plan.test_settings.tau
    if not plan.perturbation.per_input_threshold:
        return f'tau = {tau:g} (radius {plan.perturbation.radius(tau):.4g})'
    own = f'each {word} has its own tau, that its attack set takes and at least {tau:g}'
    if not thresholds:
        return f'{own} (which the data tells, without --size); the tables start from that'
    return (
        f'{own}: {median(thresholds):.4f} for the median of {len(thresholds)} {word}s looked at '
        f'({min(thresholds):.4f} to {max(thresholds):.4f}); the tables start from that'
    )


def _outlook(plan: CertificationPlan, settings: CertifySettings, num_components: int) -> Outlook:
    """What the plan can reach at best under other settings."""
    if plan.stopping is None:
        n = plan.first_look(num_components)
        return outlook(n, settings, num_components, plan.sampling.n0)
    return outlook_in_looks(plan.stopping.budget, settings, num_components, plan.sampling.n0)


def _procedures(plan: CertificationPlan, num_components: int) -> str:
    columns = ['smallest n', f'largest tau at n={plan.sampling.n}']
    if plan.stopping is not None:
        columns = ['looks', f'largest tau in {plan.stopping.budget} draws']
    word = plan.component_word
    table = PrettyTable(
        ['procedure', 'selection', 'can certify', *columns, 'largest radius', 'hits needed',
         'class probability']
    )  # fmt: skip
    legal, current = selections_of(plan.perturbation, plan.sampling.n0), plan.test_settings
    for procedure, rule in PROCEDURES.items():
        # A thousandth where no k is configured.
        k = (current.k or 0.001) if rule.takes_k else None
        for selection in SELECTIONS:
            row = [procedure if k is None else f'{procedure}, k={k:g}', selection]
            if selection in legal:
                settings = CertifySettings(current.tau, current.alpha, procedure, selection, k)
                row += _figures(plan, _outlook(plan, settings, num_components))
            else:
                row += ['not possible', *['-'] * 5]
            table.add_row(row)
    notes = [
        f'Hits needed: so many draws must give the first {word} the class that was chosen for it, '
        'of all that count. Class probability: where the model gives that class with this '
        'probability under noise, so many hits come up half of the time. Procedures that step down '
        f'need fewer for the {word}s after the first.',
        *(rule.planning_note for rule in PROCEDURES.values()),
    ]
    if plan.stopping is not None:
        notes.append('With looks, hits are those at the last one in the budget, at its alpha.')
    notes.append(_settled(plan, num_components))
    return f'{table.get_string()}\n{" ".join(filter(None, notes))}'


def _figures(plan: CertificationPlan, found: Outlook) -> list[str]:
    """The cells of a row beside its names."""
    tau, draws = found.max_tau, str(found.min_draws)
    if plan.stopping is not None:
        draws = f'none; the first is {found.min_draws}'
        if found.looks:
            alpha = spend(plan.test_settings.alpha, len(found.looks))
            draws = f'{", ".join(map(str, found.looks))} (at {alpha:.3g})'
    # Beyond the budget there is no last look to speak of.
    reached = plan.stopping is None or found.looks
    counting = found.counting
    hits, p = (counting.first_hits, counting.probability) if reached else (None, None)
    return [
        'yes' if found.feasible else 'no',
        draws,
        '-' if tau is None else f'{math.floor(10_000 * tau) / 10_000:.4f}',
        '-' if tau is None else f'{plan.perturbation.radius(tau):.4g}',
        '-' if hits is None else f'{hits}/{counting.counted}',
        '-' if p is None else f'{p:.4f}',
    ]


def _settled(plan: CertificationPlan, num_components: int) -> str:
    """What the configured settings count, and at which threshold they test."""
    settings, notes = plan.test_settings, []
    found = _outlook(plan, settings, num_components).counting
    if settings.selection == 'auto':
        notes.append(f"selection='auto' is {found.selection} here ({settings.procedure}).")
    if found.tau > settings.tau:
        notes.append(
            f'{found.selection} is tested at {found.tau:.4f} in place of tau = '
            f'{settings.tau:g}, where it needs fewer hits.'
        )
    return ' '.join(notes)


def _smallest(plan: CertificationPlan, num_components: int, taus: Sequence[float]) -> str:
    looks, settings = plan.stopping is not None, plan.test_settings
    table = PrettyTable(
        ['tau', 'radius', 'first look', 'look if 2 % of the draws disagree'] if looks
        else ['tau', 'radius', 'smallest n', 'n if 2 % of the draws disagree']
    )  # fmt: skip
    least, enough = (first_look, look_for_share) if looks else (min_draws, draws_for_share)
    missing = False
    for tau in taus:
        at_tau = replace(settings, tau=tau)
        draws = least(at_tau, num_components, plan.sampling.n0)
        more = enough(0.98, at_tau, num_components, plan.sampling.n0) or '-'
        table.add_row([f'{tau:g}', f'{plan.perturbation.radius(tau):.4g}', draws, more])
        missing |= more == '-'
    note = f'\n-: no number up to {MOST_DRAWS:,} is enough.' if missing else ''
    if settings.rule.takes_order:
        columns = 'The last column is' if looks else 'Both numbers are'
        note += f'\n{columns} for the component that {settings.procedure} tests first.'
    return f'{settings.procedure}, {settings.selection}:\n{table.get_string()}{note}'


def _verdict(run: PlannedRun) -> str:
    """Whether the plan can certify; nothing where it would be refused."""
    plan, settings = run.plan, run.plan.test_settings
    if not run.can_certify(settings.tau):
        return ''
    if plan.stopping is not None:
        first = plan.first_look(run.num_components)
        return f'The plan can certify; the first look comes after {first} draws.'
    if plan.is_scarce(run.num_components):
        return (
            f'The plan can certify, but hardly more than the components that {settings.procedure} '
            f'tests first: {settings.without_order().procedure} '
            'needs the smallest n in its own row to begin.'
        )
    return 'The plan can certify.'


def _duration(run: PlannedRun, beside: float = 0.0) -> str:
    """How long the run takes, if that was measured, with so many seconds for each input beside."""
    plan, seconds = run.plan, run.seconds_per_draw
    if seconds is None:
        return 'How long it takes: give a model as well.'
    first = plan.most_draws
    if plan.stopping is not None:
        first = plan.sampling.n0 + plan.first_look(run.num_components)
    # One more pass for the base model's prediction on the clean input.
    counts = sorted({first + 1, plan.most_draws + 1})
    each = ' to '.join(_time(count * seconds + beside) for count in counts)
    pass_ = 'parameter' if plan.settings is None else 'draw'
    all_of_them = ' to '.join(_time((count * seconds + beside) * run.images) for count in counts)
    return (
        f'{1000 * seconds:.1f} ms per {pass_} on {run.device} (batches of '
        f'{plan.sampling.batch_size}): about {each} per {plan.input_word}, {all_of_them} for '
        f'{run.images} of them in one process'
    )


def _time(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.1f} s'


def _some(source: Source[Any], count: int) -> list[torch.Tensor]:
    """What is perturbed of evenly spaced inputs."""
    count = min(count, len(source))
    numbers = [number * len(source) // count for number in range(count)]
    return [source.clean_input(source.read(number)[0]) for number in numbers]


def _sampled_cuts(source: Source[Any]) -> tuple[Cut, ...]:
    """Partitions of evenly spaced inputs; nothing where attack sets are not cut into cells."""
    plan = source.plan
    if not plan.perturbation.has_partition:
        return ()
    inputs = _some(source, CUT_INPUTS)
    assert plan.sampling.n is not None, 'cells are for a number of draws'
    n = plan.sampling.n

    def cut(draws: int) -> Cut:
        source.logger.warning(f'cutting the attack set of {len(inputs)} inputs for n = {draws}')
        started = time.monotonic()
        details = tuple(plan.perturbation.partition(image, draws).details for image in inputs)
        return Cut(draws, details, (time.monotonic() - started) / len(inputs))

    cuts = [cut(n)]
    # With fewer draws there may be less than one for each cell of a given number.
    least = max(math.prod(details['cells']) for details in cuts[0].details)
    if cuts[0].seconds <= LONG_CUT:
        cuts += [cut(max(round(share * n), least)) for share in SHARES_OF_N]
    return tuple(sorted(cuts, key=lambda found: found.draws))


def _sampled_thresholds(source: Source[Any]) -> tuple[float, ...]:
    """The thresholds of evenly spaced inputs; nothing where one threshold is for all."""
    perturbation = source.plan.perturbation
    if not perturbation.per_input_threshold or perturbation.has_partition:
        return ()
    inputs = _some(source, SAMPLED_INPUTS)
    source.logger.warning(f'looking up the thresholds of {len(inputs)} inputs')
    found = []
    for clean in inputs:
        asked = perturbation.input_threshold(clean)
        assert asked is not None, 'the attack set gives each input its own threshold'
        found.append(asked.tau)
    return tuple(found)


@torch.no_grad()
def _time_draws(source: Source[Any], raw: torch.Tensor, sample: Any) -> float:
    """Seconds per draw with the batch size of the plan, after one batch to warm up."""
    plan, clean = source.plan, source.clean_input(raw)
    segment = source.sampled_segmentor(raw, sample)
    batch, perturbation = BatchSize.of(plan.sampling.batch_size), plan.perturbation
    if isinstance(perturbation, TransformationCells):
        # How long cutting takes is told apart.
        perturbation = perturbation.noise
    # 'auto' settles on the way.
    warm_up = 2 * LARGEST if batch.searching else batch.size
    settings = SamplingSettings(warm_up, 1, plan.sampling.num_classes, batch_size=batch)
    if plan.settings is None:
        passes = Passes(segment, clean, plan.perturbation, settings, None)
        return _time_passes(passes, warm_up, plan.most_draws)
    collect_votes(segment, clean, perturbation, settings)
    # Whole batches say what a draw takes.
    n0, n = batch.size, TIMED_BATCHES * batch.size
    started = time.monotonic()
    collect_votes(segment, clean, perturbation, replace(settings, n0=n0, n=n))
    return (time.monotonic() - started) / (n0 + n)


def _time_passes(passes: Passes, warm_up: int, count: int) -> float:
    """Seconds per parameter of an enumeration of ``count`` parameters, after some to warm up."""

    def run(most: int) -> int:
        return sum(len(output) for output in passes.outputs(ESTIMATION, range(min(count, most))))

    run(warm_up)
    started = time.monotonic()
    done = run(TIMED_BATCHES * passes.batch_size.size)
    return (time.monotonic() - started) / done
