"""Attacks on a model and on its smoothed version, input by input, beside certificates.

``mmcert attack`` runs them. What was found for an input is stored, so that a run continues where
it was stopped, and every number of a report is read from there.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmcert.attacks.judge import least_tau
from mmcert.attacks.sets import ParameterSet, parameter_set
from mmcert.certifier import CertificationPlan
from mmcert.certify.rounding import AtMost
from mmcert.files import require_writable, write_json
from mmcert.perturbations import AdditiveNoise
from mmcert.report.attacks import (
    MODELS,
    Confusions,
    attack_rates,
    attack_table,
    attack_totals,
    attacked_class_table,
    is_labelled,
    single_attack_table,
)
from mmcert.runs.attack_options import Judging, L2Options, ParameterOptions
from mmcert.runs.attacked_input import (
    SEARCHED,
    AttackedInput,
    ByParameters,
    OneInput,
    WithinRadius,
    read_attacked,
)
from mmcert.runs.input_run import InputRun, Item, require_pixels
from mmcert.runs.source import Source


class Attacks(InputRun):
    """All attacks of a run.

    Args:
        source (Source): The model to attack, and its inputs.
        options (Judging): How.
        limit (int | None): How many inputs, evenly spaced; None for all.

    Raises:
        ValueError: If the smoothing has no certificates against such attacks, the model has no
            gradient, or an input cannot be certified.
    """

    doing = 'attacks'
    shown_by = '--attack'

    def __init__(self, source: Source[Any], options: Any, limit: int | None = None) -> None:
        self.options = options
        super().__init__(source, limit)
        self.open(
            {
                'attack': type(self).__name__,
                **asdict(options),
                'images': len(self.indices),
                'certified': self.plan.settings_to_dict(),
                'guarantee': self.plan.guarantee().to_dict(),
            }
        )

    def check(self) -> None:
        """Refuses what cannot be attacked."""
        check_attack(self.plan, self.options)
        self.source.require_gradient()

    @property
    @abstractmethod
    def sets(self) -> list[str]:
        """What attacks are within: a certificate is held against each of them by itself."""

    @property
    def estimated(self) -> bool:
        """Whether the attack set was only sampled: then nothing was certified."""
        return getattr(getattr(self.plan.perturbation, 'attack', None), 'kind', '') == 'estimate'

    @property
    @abstractmethod
    def tests(self) -> int:
        """Attacked inputs whose certificates are tested, at most."""

    @abstractmethod
    def attacks_on(self, item: Item, attack_set: str, file: Path) -> OneInput:
        """The attacks on one input."""

    def __iter__(self) -> Iterator[list[AttackedInput]]:
        """What is found for each input, for each of the ``sets``; what is stored is read."""
        require_writable(self.folder)
        with self.source.computing():
            for number, index in enumerate(self.indices):
                yield list(self._input(number, index))

    def _input(self, number: int, index: int) -> Iterator[AttackedInput]:
        item: Item | None = None
        for attack_set in self.sets:
            file = self.folder / f'{number:05d}-{attack_set.replace(" ", "-")}.npz'
            if not file.exists():
                if item is None:
                    item, self.computed = Item(self, index), self.computed + 1
                attacks = self.attacks_on(item, attack_set, file)
                # Not before the first input was found to be certifiable.
                self.folder.mkdir(parents=True, exist_ok=True)
                attacks.attack()
            yield read_attacked(file)


class L2Attacks(Attacks):
    """l2 attacks; at each radius the certificate is that of the threshold which it takes."""

    options: L2Options

    @property
    def sets(self) -> list[str]:
        """The radii."""
        return [f'l2 {radius:g}' for radius in self.options.radii]

    @property
    def tests(self) -> int:
        """Each loss, and two attacks on certificates, for each input and radius."""
        return len(self.indices) * len(self.sets) * (len(self.options.losses) + 2)

    def check(self) -> None:
        """Refuses what cannot be attacked, and what is no class."""
        super().check()
        for name in ('target', 'hide'):
            chosen, count = getattr(self.options, name), len(self.source.classes)
            if chosen is not None and not 0 <= chosen < count:
                raise ValueError(f'{name} must be a class, 0 to {count - 1}, got {chosen}')

    def attacks_on(self, item: Item, attack_set: str, file: Path) -> OneInput:
        """Those of a radius."""
        radius = self.options.radii[self.sets.index(attack_set)]
        return WithinRadius(self, item, attack_set, file, radius)


class ParameterAttacks(Attacks):
    """The transformations that the certificates speak of."""

    options: ParameterOptions

    @property
    def sets(self) -> list[str]:
        """One: that of the certificates."""
        return ['parameters']

    @property
    def tests(self) -> int:
        """Each parameter that is tried, for each input."""
        return len(self.indices) * (len(self.tried.values) + SEARCHED)

    @cached_property
    def tried(self) -> ParameterSet:
        """The attack set, as parameters."""
        return _parameters(self.plan, self.options)

    def attacks_on(self, item: Item, attack_set: str, file: Path) -> OneInput:
        """Those of all parameters."""
        return ByParameters(self, item, attack_set, file)


def check_attack(plan: CertificationPlan, options: Judging) -> None:
    """Refuses a smoothing that has no certificates against such attacks; needs no model.

    Raises:
        ValueError: If it is such a one.
    """
    require_pixels(plan)
    perturbation = plan.perturbation
    if isinstance(options, ParameterOptions):
        _parameters(plan, options)
    elif not isinstance(perturbation, AdditiveNoise) or perturbation.norm != 'l2':
        raise ValueError(
            f'{perturbation!r} does not certify against l2 norms; attack its parameters: '
            '--attack parameters'
        )
    elif isinstance(options, L2Options):
        for radius in options.radii:
            least_tau(perturbation, radius)


def _parameters(plan: CertificationPlan, options: ParameterOptions) -> ParameterSet:
    """The attack set that certificates speak of."""
    tau = 0.5 if plan.settings is None else plan.settings.tau
    return parameter_set(plan.perturbation, tau, options.points)


def report(source: Source[Any], options: Judging, limit: int | None = None) -> bool:
    """Attacks, logs tables, writes ``summary.json``, and says whether a certificate is broken."""
    kind = ParameterAttacks if isinstance(options, ParameterOptions) else L2Attacks
    attacks: Attacks = kind(source, options, limit)
    by_set: dict[str, list[AttackedInput]] = {name: [] for name in attacks.sets}
    log, started = source.logger.info, time.monotonic()
    log(f'{attacks.counted()}; results go to {attacks.folder}')
    if note := attacks.note_on_votes:
        log(note)
    for number, found in enumerate(attacks, 1):
        for one in found:
            by_set[one.facts['attack_set']].append(one)
        log(
            f'{number}/{len(attacks.indices)} {found[0].facts["name"]}: '
            f'{"; ".join(map(_line, found))}; {attacks.left(number, time.monotonic() - started)}'
        )
    failures = [f for found in by_set.values() for one in found for f in one.facts['failures']]
    totals = {
        name: {key: np.sum([one.confusions[key] for one in found], axis=0) for key in MODELS}
        for name, found in by_set.items()
    }
    write_json(attacks.folder / 'summary.json', _summary(attacks, by_set, totals, failures))
    log('\n' + _describe(attacks, by_set, totals))
    for failure in failures:
        log(_alarm(failure, attacks.folder))
    log(attacks.how_to_look)
    return any(failure.get('kind') != 'estimate' for failure in failures)


def _line(found: AttackedInput) -> str:
    """One input and set in a line of the log."""
    facts, rates = found.facts, attack_rates(found.confusions)
    if not is_labelled(found.confusions):
        return f'{facts["attack_set"]}: {facts["certified"] / facts["components"]:.1%} certified'
    clean, attacked, certified = (
        f'{rates[model]["accuracy"]:.3f}'
        for model in ('smoothed_clean', 'smoothed_attacked', 'certified')
    )
    return (
        f'accuracy at {facts["attack_set"]}: smoothed {clean}, attacked {attacked}, certified '
        f'{certified}'
    )


def _summary(
    attacks: Attacks,
    by_set: Mapping[str, Sequence[AttackedInput]],
    totals: Mapping[str, Confusions],
    failures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        'settings': attacks.settings,
        'identity': attacks.source.identity,
        'attack_sets': [
            {
                'attack_set': name,
                'tau': found[0].facts['tau'],
                'rates': attack_rates(totals[name]),
                'certified_share': sum(one.facts['certified'] for one in found)
                / sum(one.facts['components'] for one in found),
                'attacks': attack_totals([row for one in found for row in one.facts['attacks']]),
            }
            for name, found in by_set.items()
        ],
        'failures': list(failures),
    }


def _describe(
    attacks: Attacks,
    by_set: Mapping[str, Sequence[AttackedInput]],
    totals: Mapping[str, Confusions],
) -> str:
    """The tables of a run, and what they mean."""
    word, options, plan = attacks.plan.input_word, attacks.options, attacks.plan
    exact = plan.settings is None
    sure = '' if exact else _promised(attacks, word)
    drawn = '' if exact else (
        f'; the attacked prediction of the smoothed model is the majority of {options.judged} new '
        'draws'
    )  # fmt: skip
    lines = [
        f'attacks on {attacks.counted()}: of each {word} the one of most harm '
        f'counts{drawn}; certified{sure}',
        attack_table(totals),
    ]
    for name, found in by_set.items():
        labelled = is_labelled(totals[name])
        if labelled:
            by_class = attacked_class_table(totals[name], attacks.source.classes)
            lines += [f'{name}, by class:', by_class]
        lines += [
            f'{name}, each attack by itself, and what it did to certified components (doubtful: no '
            f'majority among {options.judged} draws; broken: less than half of the probability '
            f'beyond doubt after {options.sure} more):',
            single_attack_table([row for one in found for row in one.facts['attacks']], labelled),
        ]
        if notes := {one.facts['note'] for one in found} - {''}:
            lines += sorted(notes)
    lines.append(f'certificates, pictures and figures: {attacks.folder}')
    return '\n'.join(lines)


def _promised(attacks: Attacks, word: str) -> str:
    """How sure certificates are, in words that follow 'certified'."""
    if attacks.estimated:
        return ', as an estimate: the attack set was sampled, and nothing is proven'
    settings = attacks.plan.test_settings
    share = f' but for fewer than k = {settings.k} of them' if settings.rule.takes_k else ''
    return f'{share}, with probability {AtMost(1 - settings.alpha):g} per {word} and set'


def _alarm(failure: Mapping[str, Any], folder: Path) -> str:
    """A broken certificate, or a wrong estimate, in words."""
    first, count = failure['components'][0], len(failure['components'])
    name, what = 'BROKEN CERTIFICATE', 'certified'
    if failure.get('kind') == 'estimate':
        name, what = 'WRONG ESTIMATE', 'estimated to do nothing, but not certified'
    return (
        f'{name}: {failure["input"]} (number {failure["index"]} of the test data), '
        f'attack {failure["attack"]!r} within {failure["attack_set"]!r}, which is {what}: '
        f'{count} components have lost their class, such as {first["at"]}, class '
        f'{first["class"]}, with {first["hits"]} of {failure["draws"]} new draws '
        f'(p = {first["p_value"]:.2g}, level {failure["level"]:.2g}, seed {failure["seed"]}). '
        f'The attacked input is in {folder / failure["attacked_input"]}; all components are in '
        f'{folder / "summary.json"}'
    )
