"""What a config's ``smoothing`` can certify, and how long it takes, before it is run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from prettytable import PrettyTable

from mmcert.certifier import selections_of
from mmcert.certify import CertifySettings, InfeasiblePlanError
from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.planning import (
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
from mmcert.models.smoothed_segmentor import SmoothingPlan
from mmcert.sampling import BatchSize, SamplingSettings, collect_votes
from mmcert.sampling.batching import LARGEST

COMMON_TAUS = (0.6, 0.75, 0.85, 0.95, 0.99)
TIMED_BATCHES = 3
SAMPLED_INPUTS = 8
"""Inputs that are asked for their thresholds, where the attack set gives each its own."""


@dataclass(frozen=True)
class Timing:
    """How long draws take.

    Attributes:
        seconds_per_draw (float): Wall time of one draw, at the configured batch size.
        device (str): Where the model ran.
    """

    seconds_per_draw: float
    device: str


def report(
    plan: SmoothingPlan,
    num_components: int,
    images: int,
    taus: Sequence[float],
    timing: Timing | None,
    thresholds: Sequence[float] = (),
) -> str:
    """The planner's answer for a reader.

    Args:
        plan (SmoothingPlan): From the config.
        num_components (int): Components of one input, K.
        images (int): Inputs of the data set.
        taus (Sequence[float]): Thresholds to give the smallest n for, beside the configured one.
        timing (Timing | None): How long draws take, if that was measured.
        thresholds (Sequence[float]): From ``sampled_thresholds``, where inputs have their own; the
            tables are for the median one then.

    Returns:
        str: Tables and sentences.
    """
    words, verdict = _threshold_words(plan, thresholds), _verdict(plan, num_components)
    if thresholds:
        able = sum(_can_certify(at_threshold(plan, tau), num_components) for tau in thresholds)
        word = plan.adapter.word
        verdict = f'The plan can certify on {able} of {len(thresholds)} {word}s looked at.'
        plan = at_threshold(plan, median(thresholds))
    elif plan.perturbation.per_input_threshold:
        verdict = f'At tau = {plan.settings.tau:g}: {verdict}'
    settings = plan.settings
    lines = [
        f'{images} {plan.adapter.word}s of {num_components} components; {plan.perturbation}; '
        f'{words}, alpha = {settings.alpha:g}, {plan.describe()}',
        _procedures(plan, num_components),
        _smallest(plan, num_components, sorted({settings.tau, *taus})),
        verdict,
    ]
    if timing is not None:
        lines.append(_hours(plan, num_components, images, timing))
    return '\n'.join(lines)


def _threshold_words(plan: SmoothingPlan, thresholds: Sequence[float]) -> str:
    settings, word = plan.settings, plan.adapter.word
    if not plan.perturbation.per_input_threshold:
        return f'tau = {settings.tau:g} (radius {plan.perturbation.radius(settings.tau):.4g})'
    own = f'each {word} has its own tau, that its attack set takes and at least {settings.tau:g}'
    if not thresholds:
        return f'{own} (which the data tells, without --size); the tables start from that'
    return (
        f'{own}: {median(thresholds):.4f} for the median of {len(thresholds)} {word}s looked at '
        f'({min(thresholds):.4f} to {max(thresholds):.4f}); the tables start from that'
    )


def at_threshold(plan: SmoothingPlan, tau: float) -> SmoothingPlan:
    """The plan for an input whose attack set takes this threshold."""
    return replace(plan, settings=replace(plan.settings, tau=max(plan.settings.tau, tau)))


def _can_certify(plan: SmoothingPlan, num_components: int) -> bool:
    try:
        plan.require_feasible(num_components)
    except InfeasiblePlanError:
        return False
    return True


def _outlook(plan: SmoothingPlan, settings: CertifySettings, num_components: int) -> Outlook:
    """What the plan can reach at best under other settings."""
    if plan.stopping is None:
        assert plan.sampling.n is not None
        return outlook(plan.sampling.n, settings, num_components, plan.sampling.n0)
    return outlook_in_looks(plan.stopping.budget, settings, num_components, plan.sampling.n0)


def _procedures(plan: SmoothingPlan, num_components: int) -> str:
    looks = plan.stopping is not None
    if plan.stopping is None:
        columns = ['smallest n', f'largest tau at n={plan.sampling.n}']
    else:
        columns = ['looks', f'largest tau in {plan.stopping.budget} draws']
    table = PrettyTable(
        ['procedure', 'selection', 'can certify', *columns, 'largest radius', 'first hits',
         'for p of']
    )  # fmt: skip
    legal = selections_of(plan.perturbation, plan.sampling.n0)
    for procedure in PROCEDURES:
        for selection in SELECTIONS:
            settings = _like(plan.settings, procedure, selection)
            row = [procedure if settings.k is None else f'{procedure}, k={settings.k:g}', selection]
            if selection in legal:
                row += _figures(plan, _outlook(plan, settings, num_components))
            else:
                row += ['not possible', *['-'] * 5]
            table.add_row(row)
    words = (
        '"First hits" are needed while nothing is certified yet; a component whose class has the '
        'probability beside it gets them half of the time. Holm and its kin need fewer as they go '
        'on. All figures of ordered_holm are for the component that it tests first; the others '
        'need at most one hit more, and where holm cannot begin, they wait for those before them.'
    )
    if looks:
        words += ' With looks, hits are those at the last one in the budget, at its share of alpha.'
    return f'{table.get_string()}\n{words}{_settled_words(plan, num_components)}'


def _figures(plan: SmoothingPlan, found: Outlook) -> list[str]:
    """The cells of a row beside its names."""
    tau, draws = found.max_tau, str(found.min_draws)
    if plan.stopping is not None:
        draws = _looks_words(plan.settings.alpha, found)
    # Beyond the budget there is no last look to speak of.
    reached = plan.stopping is None or found.looks
    hits, p = (found.first_hits, found.probability) if reached else (None, None)
    return [
        'yes' if found.feasible else 'no',
        draws,
        '-' if tau is None else f'{math.floor(10_000 * tau) / 10_000:.4f}',
        '-' if tau is None else f'{plan.perturbation.radius(tau):.4g}',
        '-' if hits is None else f'{hits}/{found.counted}',
        '-' if p is None else f'{p:.4f}',
    ]


def _looks_words(alpha: float, found: Outlook) -> str:
    """The looks of a row, and the level of the last of them."""
    if not found.looks:
        return f'none; the first is {found.min_draws}'
    level = spend(alpha, len(found.looks))
    return f'{", ".join(map(str, found.looks))} (at {level:.3g})'


def _settled_words(plan: SmoothingPlan, num_components: int) -> str:
    """What the configured settings count, and at which threshold they test."""
    settings, found, words = plan.settings, _outlook(plan, plan.settings, num_components), ''
    if settings.selection == 'auto':
        words = f" selection='auto' is {found.selection} here ({settings.procedure})."
    if found.tested_tau > settings.tau:
        words += (
            f' {found.selection} is tested at {found.tested_tau:.4f} in place of tau = '
            f'{settings.tau:g}, where it needs fewer hits.'
        )
    return words


def _smallest(plan: SmoothingPlan, num_components: int, taus: Sequence[float]) -> str:
    looks, settings = plan.stopping is not None, plan.settings
    table = PrettyTable(
        ['tau', 'radius', 'first look', 'look for one vote in 50 against'] if looks
        else ['tau', 'radius', 'smallest n', 'n for one vote in 50 against']
    )  # fmt: skip
    least, enough = (first_look, look_for_share) if looks else (min_draws, draws_for_share)
    for tau in taus:
        at_tau = replace(settings, tau=tau)
        table.add_row(
            [
                f'{tau:g}',
                f'{plan.perturbation.radius(tau):.4g}',
                least(at_tau, num_components, plan.sampling.n0),
                enough(0.98, at_tau, num_components, plan.sampling.n0) or '-',
            ]
        )
    words = ''
    if settings.procedure == 'ordered_holm':
        words = (
            '\nOf ordered_holm the last column is for the component that it tests first.'
            if looks
            else '\nBoth numbers are for the component that ordered_holm tests first.'
        )
    return f'{settings.procedure}, {settings.selection}:\n{table.get_string()}{words}'


def _verdict(plan: SmoothingPlan, num_components: int) -> str:
    try:
        plan.require_feasible(num_components)
    except InfeasiblePlanError as error:
        return f'The plan is refused: {error}'
    if plan.stopping is not None:
        first = first_look(plan.settings, num_components, plan.sampling.n0)
        return f'The plan can certify; the first look comes after {first} draws.'
    if plan.is_scarce(num_components):
        return (
            'The plan can certify, but hardly more than the components that ordered_holm tests '
            'first: Holm needs the smallest n in its own row to begin.'
        )
    return 'The plan can certify.'


def _hours(plan: SmoothingPlan, num_components: int, images: int, timing: Timing) -> str:
    least = plan.first_look(num_components)
    # One more pass for the base model's prediction on the clean input.
    counts = sorted(
        {plan.sampling.n0 + least * plan.perturbation.num_cells + 1, plan.most_draws + 1}
    )
    seconds = [count * timing.seconds_per_draw for count in counts]
    hours = ' to '.join(f'{value * images / 3600:.2f}' for value in seconds)
    each = ' to '.join(f'{value:.1f}' for value in seconds)
    return (
        f'{1000 * timing.seconds_per_draw:.1f} ms per draw on {timing.device} (batches of '
        f'{plan.sampling.batch_size}): about {each} s per {plan.adapter.word}, {hours} hours '
        f'for {images} of them in one process'
    )


def _like(settings: CertifySettings, procedure: str, selection: str) -> CertifySettings:
    """The settings under another procedure; k-FWER gets a thousandth where no k is configured."""
    k = (settings.k or 0.001) if procedure == 'kfwer' else None
    return CertifySettings(settings.tau, settings.alpha, procedure, selection, k)


@dataclass(frozen=True)
class FirstInput:
    """The first input of the test data.

    Attributes:
        raw (torch.Tensor): As it reaches the model.
        sample (BaseDataElement): Its data sample.
        inputs (int): How many inputs the data set has.
    """

    raw: torch.Tensor
    sample: BaseDataElement
    inputs: int


def first_input(runner: Runner, plan: SmoothingPlan) -> FirstInput:
    """The first input of the test data, on the model's device.

    Args:
        runner (Runner): With a test data loader.
        plan (SmoothingPlan): From the config.

    Returns:
        FirstInput: Checked as a test run checks it.
    """
    dataset = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    ((raw, sample),) = plan.adapter.inputs(pseudo_collate([dataset[0]]))
    plan.adapter.check(raw, sample)
    return FirstInput(raw.to(next(runner.model.parameters()).device), sample, len(dataset))


def sampled_thresholds(runner: Runner, plan: SmoothingPlan) -> tuple[float, ...]:
    """The thresholds that an attack set takes, on some inputs of the test data.

    Args:
        runner (Runner): With a test data loader.
        plan (SmoothingPlan): From the config.

    Returns:
        tuple[float, ...]: Of up to ``SAMPLED_INPUTS`` inputs, evenly spaced; empty where one
        threshold is for all.
    """
    if not plan.perturbation.per_input_threshold:
        return ()
    dataset = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    count = min(SAMPLED_INPUTS, len(dataset))
    indices = [number * len(dataset) // count for number in range(count)]
    device = next(runner.model.parameters()).device
    found = []
    for index in track_iter_progress(indices):
        ((raw, sample),) = plan.adapter.inputs(pseudo_collate([dataset[index]]))
        plan.adapter.check(raw, sample)
        asked = plan.perturbation.input_threshold(plan.adapter.clean_input(raw.to(device)))
        assert asked is not None, 'the attack set gives each input its own threshold'
        found.append(asked.tau)
    return tuple(found)


@torch.no_grad()
def time_draws(runner: Runner, plan: SmoothingPlan, first: FirstInput) -> Timing:
    """Times the draws of one input with the configured model and batch size.

    Args:
        runner (Runner): With the model to certify, its checkpoint loaded.
        plan (SmoothingPlan): From the config.
        first (FirstInput): From ``first_input``.

    Returns:
        Timing: The mean over a few batches, after one to warm up.
    """
    base = runner.model
    base.eval()
    clean = plan.adapter.clean_input(first.raw)
    segment = plan.segmentor(base, first.raw, first.sample)
    batch = BatchSize.of(plan.sampling.batch_size)
    with plan.precision.applied_to(base):
        # 'auto' settles on the way.
        warm_up = 2 * LARGEST if batch.searching else batch.size
        settings = SamplingSettings(warm_up, 1, base.num_classes, batch_size=batch)
        collect_votes(segment, clean, plan.perturbation, settings)
        # Every part takes n of them, and whole batches say what a draw takes.
        n0, n = batch.size, max(1, TIMED_BATCHES // plan.perturbation.num_cells) * batch.size
        settings = replace(settings, n0=n0, n=n)
        started = time.monotonic()
        collect_votes(segment, clean, plan.perturbation, settings)
        seconds = time.monotonic() - started
        return Timing(seconds / (n0 + n * plan.perturbation.num_cells), clean.device.type)


@torch.no_grad()
def count_components(runner: Runner, plan: SmoothingPlan, first: FirstInput) -> int:
    """Components of the first input: its pixels or points, or the points of the head's grid.

    Args:
        runner (Runner): With the model to certify.
        plan (SmoothingPlan): From the config.
        first (FirstInput): From ``first_input``.

    Returns:
        int: K.
    """
    if not plan.adapter.certifies_grid_points:
        return math.prod(plan.adapter.shape(first.raw, first.sample))
    base = runner.model
    base.eval()
    segment = plan.segmentor(base, first.raw, first.sample)
    labels, _ = segment.with_margin(plan.adapter.clean_input(first.raw))
    return labels.numel()
