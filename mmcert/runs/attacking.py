"""Attacks on a model and on its smoothed version, input by input, beside certificates.

``mmcert attack`` runs them. What was found for an input is stored, so that a run continues where
it was stopped, and every number of a report is read from there.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mmcert.attacks import (
    LOSSES,
    SEA_LOSSES,
    SEA_RADII,
    Goal,
    SmoothedScores,
    Steps,
    attack_input,
    gradient,
    perturbed,
)
from mmcert.attacks.judge import (
    class_counts,
    draws_for,
    hits_of,
    least_tau,
    minority_p_values,
)
from mmcert.attacks.sets import ParameterSet, parameter_set
from mmcert.certifier import CertificationPlan
from mmcert.certify import ABSTAIN_LABEL, Certificate
from mmcert.certify.rounding import AtMost
from mmcert.files import atomic_writer, require_writable, write_json
from mmcert.metrics.confusion import confusion_of
from mmcert.perturbations import AdditiveNoise, Perturbation
from mmcert.report.attacks import (
    MODELS,
    Confusions,
    attack_picture,
    attack_rates,
    attack_table,
    attack_totals,
    attacked_class_table,
    single_attack_table,
)
from mmcert.runs.input_run import InputRun, Item, require_pixels
from mmcert.runs.source import Source
from mmcert.transformations import Geometric

SCHEDULES = {'sea': SEA_RADII, 'fixed': ((1.0, 1.0),)}
"""Radii of the search, by name."""

SEARCHED = 2
"""Parameters of an interval that a gradient search may add to those of its grid."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How it is judged what attacks do.

    Attributes:
        judged (int): New draws at each attacked input, whose majority is the attacked prediction.
        sure (int): Further new draws where a certified component has no majority among those; more
            are made where so few could not say that beyond doubt.
        level (float): A bound of the probability of any false alarm of the run.
        seed (int): Of all that is random.

    Raises:
        ValueError: If a value is out of range.
    """

    judged: int = 100
    sure: int = 1000
    level: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('judged', 'sure'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if not 0 < self.level < 1:
            raise ValueError(f'level must lie in (0, 1), got {self.level}')


@dataclass(frozen=True, kw_only=True)
class ParameterOptions(Judging):
    """How the parameters of transformations are attacked.

    Attributes:
        points (int): Points of an interval along each axis, its ends included.
        steps (int): Steps of the gradient search in an interval; 0 for none.
        draws (int): Noise draws of each of its gradients.

    Raises:
        ValueError: If a value is out of range.
    """

    points: int = 9
    steps: int = 10
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 2 or self.steps < 0 or self.draws < 1:
            raise ValueError(
                'needs points >= 2, steps >= 0 and draws >= 1, got '
                f'{self.points}, {self.steps} and {self.draws}'
            )


@dataclass(frozen=True, kw_only=True)
class L2Options(Judging):
    """How l2 attacks go, and how they are judged.

    Attributes:
        radii (tuple[float, ...]): Largest l2 norms of the attacks.
        losses (tuple[str, ...]): Names in ``mmcert.attacks.LOSSES``; each is an attack of its own
            on the base model and on the smoothed one. By default plain PGD and those of SEA.
        steps (int): Steps from each start.
        restarts (int): Starts of each attack.
        schedule (str): A name in ``SCHEDULES``.
        draws (int): Draws of each gradient of the smoothed model.
        weakest (float): Share of the certified components, those of fewest hits, that an attack of
            its own goes for.
        box (bool): Whether attacked images must lie in [0, 1].
        target (int | None): The class that attacks drive components to.
        hide (int | None): The class that attacks make unseen.

    Raises:
        ValueError: If a value is out of range.
    """

    radii: tuple[float, ...]
    losses: tuple[str, ...] = ('ce', *SEA_LOSSES)
    steps: int = 40
    restarts: int = 1
    schedule: str = 'sea'
    draws: int = 8
    weakest: float = 0.05
    box: bool = False
    target: int | None = None
    hide: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radii or not all(radius > 0 for radius in self.radii):
            raise ValueError(f'radii must be positive, got {list(self.radii)}')
        if unknown := set(self.losses) - set(LOSSES):
            raise ValueError(
                f'unknown losses {", ".join(sorted(unknown))}; known: {", ".join(LOSSES)}'
            )
        if not self.losses or self.schedule not in SCHEDULES:
            raise ValueError(
                f'needs a loss, and a schedule of {", ".join(SCHEDULES)}; got {self.losses} and '
                f'{self.schedule!r}'
            )
        if self.target is not None and self.hide is not None:
            raise ValueError('attacks either drive to a class or hide one')
        if self.draws < 1 or not 0 < self.weakest <= 1:
            raise ValueError(
                f'draws must be at least 1 and weakest lie in (0, 1], got {self.draws} and '
                f'{self.weakest}'
            )
        _ = self.search

    @property
    def search(self) -> Steps:
        """How each attack searches."""
        return Steps(self.steps, restarts=self.restarts, radii=SCHEDULES[self.schedule])


@dataclass(frozen=True, eq=False)
class AttackedInput:
    """What was found for one input and one set of attacks.

    Attributes:
        facts (dict): JSON values: ``name``, ``attack_set``, ``tau``, ``note``, ``attacks`` (a row
            for each) and ``failures``.
        confusions (dict[str, np.ndarray]): Ground truth by prediction, with a last column for
            abstentions, shape (C, C + 1), by the names of ``mmcert.report.attacks.MODELS``.
    """

    facts: dict[str, Any]
    confusions: dict[str, NDArray[np.int64]]


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
                item = item or Item(self, index)
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


@dataclass(frozen=True, eq=False)
class Attacked:
    """An attacked input.

    Attributes:
        name (str): Of the attack.
        inputs (torch.Tensor): What became of the input.
        facts (Mapping): What is said of it, as JSON values.
        parameter (torch.Tensor | None): That of a transformation, shape (P,).
    """

    name: str
    inputs: torch.Tensor
    facts: Mapping[str, Any]
    parameter: torch.Tensor | None = None


class OneInput(ABC):
    """The attacks on one input from one set.

    Args:
        run (Attacks): The run that they belong to.
        item (Item): The input.
        attack_set (str): What the set is called.
        file (Path): Where results go.
    """

    radius = 0.0

    def __init__(self, run: Any, item: Item, attack_set: str, file: Path) -> None:
        self.run, self.item, self.attack_set, self.file = run, item, attack_set, file
        self.options = run.options
        self.note, self.certificate = self.certify()
        self.truth = item.guess if item.label is None else item.label
        self.labelled = self.truth != run.source.ignore_index
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []

    @property
    @abstractmethod
    def smoothing(self) -> Perturbation | None:
        """What smooths the model; None for nothing."""

    @abstractmethod
    def certify(self) -> tuple[str, Certificate]:
        """The certificate that the attacks face, and a note where it can certify nothing."""

    @abstractmethod
    def on_base(self) -> Iterator[Attacked]:
        """The attacks on the base model."""

    @abstractmethod
    def on_smoothed(self) -> Iterator[Attacked]:
        """The attacks on the smoothed model."""

    @property
    def tau(self) -> float | None:
        """The threshold of the certificate; None where nothing was tested."""
        settings = self.certificate.settings
        return None if settings is None else settings.tau

    def goal(self, loss: str = 'masked_ce') -> Goal:
        """What attacks want: here, that labelled components are wrong."""
        return Goal(self.tensor(self.truth), self.tensor(self.labelled), loss)

    def attack(self) -> None:
        """Attacks, judges, and writes what was found, a picture and attacked inputs that fail."""
        item, certificate = self.item, self.certificate
        clean_base = item.segment.base_alone.with_margin(item.clean)[0]
        _, base = self._worst('base', self.on_base())
        attacked, smoothed = self._worst('smoothed', self.on_smoothed())
        maps = {
            'base_clean': clean_base.cpu().numpy().astype(np.int64),
            'base_attacked': base,
            'smoothed_clean': item.guess,
            'smoothed_attacked': smoothed,
            'certified': np.where(certificate.certified, item.guess, ABSTAIN_LABEL),
        }
        source = self.run.source
        classes, ignore = len(source.classes), source.ignore_index
        facts = {
            'name': item.name,
            'index': item.index,
            'digest': item.digest,
            'attack_set': self.attack_set,
            'tau': self.tau,
            'note': self.note,
            'certified': int(certificate.certified.sum()),
            'components': int(item.guess.size),
            'attacks': self.rows,
            'failures': self.failures,
        }
        self._draw(attacked, maps)
        arrays: dict[str, Any] = {
            f'map_{key}': found.astype(np.uint8) for key, found in maps.items()
        }
        for key, found in maps.items():
            arrays[f'confusion_{key}'] = confusion_of(item.label, found, classes, ignore)
        perturbation = _shown(attacked) - _shown(item.clean)
        arrays['perturbation'], arrays['perturbation_step'] = in_steps(perturbation)
        write_json(self.file.with_suffix('.json'), facts)
        # The last one: what is there is complete.
        with atomic_writer(self.file) as stream:
            np.savez_compressed(stream, **arrays)

    def seed(self, name: str) -> int:
        """What is random in an attack depends on the run's seed, the input, set and name."""
        text = f'{self.options.seed} {self.item.digest} {self.attack_set} {name}'
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), 'little')

    def _worst(
        self, model: str, attacks: Iterator[Attacked]
    ) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """The attacked input of most harm, and its prediction; every attack gets a row."""
        worst: tuple[int, torch.Tensor, NDArray[np.int64]] | None = None
        for attack in attacks:
            row: dict[str, Any] = {'model': model, 'attack': attack.name, **attack.facts}
            if model == 'base':
                labels = self.item.segment.base_alone.with_margin(attack.inputs)[0]
                ignore = self.run.source.ignore_index
                labels = self._at_content(labels[None].long(), attack, ignore)[0]
                predicted = labels.cpu().numpy().astype(np.int64)
            else:
                counts = self._counts(attack, self.options.judged, self.options.seed)
                predicted = counts.argmax(dim=0).cpu().numpy()
                row |= self._judged(attack, counts)
            harm = self._harm(predicted)
            row |= {
                'labelled': int(self.labelled.sum()),
                'right': int((self.labelled & (predicted == self.truth)).sum()),
                'harm': harm,
            }
            self.rows.append(row)
            if worst is None or harm > worst[0]:
                worst = harm, attack.inputs, predicted
        assert worst is not None, 'every set has an attack'
        return worst[1:]

    def _harm(self, predicted: NDArray[np.int64]) -> int:
        """How many components an attack has brought where its goal wants them."""
        goal = self.goal()
        where, labels = goal.where.cpu().numpy(), goal.labels.cpu().numpy()
        reached = predicted != labels if goal.target is None else predicted == goal.target
        return int((where & reached).sum())

    def _counts(self, attack: Attacked, draws: int, seed: int) -> torch.Tensor:
        """How often each class comes up at an attacked input, at the places of the clean one."""
        sampling = replace(self.run.plan.sampling, seed=seed)
        if self.smoothing is None:
            # No draws: the label has them all.
            labels = self.item.segment.with_margin(attack.inputs)[0].long()
            counts = F.one_hot(labels, sampling.num_classes).movedim(-1, 0).int() * draws
        else:
            counts = class_counts(self.item.segment, attack.inputs, self.smoothing, sampling, draws)
        return self._at_content(counts, attack, 0)

    def _at_content(self, maps: torch.Tensor, attack: Attacked, missing: int) -> torch.Tensor:
        """Maps (B, H, W) read where the attack took the content of each pixel."""
        return maps

    def _judged(self, attack: Attacked, counts: torch.Tensor) -> dict[str, int]:
        """What an attack did to certified components: doubtful ones, and broken beyond doubt."""
        options, certified, guess = self.options, self.certificate.certified, self.item.guess
        doubtful = certified & (2 * hits_of(counts, guess) <= options.judged)
        found = {'certified': int(certified.sum()), 'doubtful': int(doubtful.sum()), 'broken': 0}
        if not doubtful.any():
            return found
        # Other draws than those that raised the doubt.
        seed = options.seed + 1
        level = options.level / (self.run.tests * int(certified.sum()))
        sure = max(options.sure, draws_for(level))
        hits = hits_of(self._counts(attack, sure, seed), guess)
        p_values = minority_p_values(hits, sure)
        broken = doubtful & (p_values < level)
        found['broken'] = int(broken.sum())
        if found['broken'] >= self.certificate.k:
            test = {'draws': sure, 'seed': seed, 'level': level}
            self._fail(attack, broken, hits, p_values, test)
        return found

    def _fail(
        self,
        attack: Attacked,
        broken: NDArray[np.bool_],
        hits: NDArray[np.int64],
        p_values: NDArray[np.float64],
        test: Mapping[str, Any],
    ) -> None:
        """Records a broken certificate, with the attacked input beside it."""
        name = attack.name.replace(' ', '-')
        file = self.file.with_name(f'failure-{self.file.stem}-{name}.npz')
        clean = self.item.clean.cpu().numpy()
        with atomic_writer(file) as stream:
            np.savez_compressed(stream, attacked=attack.inputs.cpu().numpy(), clean=clean)
        self.failures.append(
            {
                'input': self.item.name,
                'index': self.item.index,
                'kind': 'estimate' if self.run.estimated else 'certificate',
                'attack_set': self.attack_set,
                'attack': attack.name,
                **attack.facts,
                'tau': self.tau,
                'wrong_certificates_allowed': self.certificate.k - 1,
                'attacked_input': file.name,
                **test,
                'components': [
                    {
                        'at': place.tolist(),
                        'class': int(self.item.guess[tuple(place)]),
                        'hits': int(hits[tuple(place)]),
                        'p_value': float(p_values[tuple(place)]),
                    }
                    for place in np.argwhere(broken)
                ],
            }
        )

    def _draw(self, attacked: torch.Tensor, maps: dict[str, NDArray[np.int64]]) -> None:
        """Writes a picture of the worst attack on the smoothed model."""
        source = self.run.source
        picture = attack_picture(
            _shown(self.item.clean), _shown(attacked), maps, source.palette, source.classes,
            label=self.item.label, title=self.attack_set, up=source.up_axis,
        )  # fmt: skip
        with atomic_writer(self.file.with_suffix('.png')) as stream:
            stream.write(cv2.imencode('.png', picture[..., ::-1])[1].tobytes())

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """An array on the device of the input."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.item.clean.device)


class WithinRadius(OneInput):
    """All l2 attacks on one input at one radius."""

    options: L2Options

    def __init__(
        self, run: L2Attacks, item: Item, attack_set: str, file: Path, radius: float
    ) -> None:
        self.radius = radius
        super().__init__(run, item, attack_set, file)

    @property
    def smoothing(self) -> Perturbation:
        """The noise."""
        return self.run.plan.perturbation

    def certify(self) -> tuple[str, Certificate]:
        """At the least threshold that covers the radius."""
        tau = least_tau(self.run.plan.perturbation, self.radius)
        return self.item.infeasible(tau), self.item.certificate(tau)

    def goal(self, loss: str = 'masked_ce') -> Goal:
        """What the options ask for."""
        goal = super().goal(loss)
        if self.options.target is not None:
            return Goal.reach(goal.labels, goal.where, self.options.target)
        if self.options.hide is not None:
            return Goal.hide(goal.labels, goal.where, self.options.hide, loss)
        return goal

    def on_base(self) -> Iterator[Attacked]:
        """One for each loss."""
        scores = self.item.segment.base_alone.scores
        for loss in self.options.losses:
            yield self._search('base', loss, lambda _: scores, self.goal(loss))

    def on_smoothed(self) -> Iterator[Attacked]:
        """One for each loss, and two on what is certified: all of it, and the weakest part."""
        for loss in self.options.losses:
            yield self._search('smoothed', loss, self._scores, self.goal(loss))
        certified, guess = self.certificate.certified, self.item.guess
        if not certified.any():
            return
        hits = self.item.certified.votes.hits
        few = np.quantile(hits[certified], self.options.weakest, method='inverted_cdf')
        # Losses that go on behind the boundary: a class must lose its majority beyond doubt.
        weakest = certified & (hits <= few)
        for name, where, loss in (
            ('certified', certified, 'balanced_ce'),
            ('weakest', weakest, 'ce'),
        ):
            goal = Goal(self.tensor(guess), self.tensor(where), loss)
            yield self._search('smoothed', name, self._scores, goal)

    def _scores(self, generator: torch.Generator) -> SmoothedScores:
        scores, draws = self.item.segment.scores, self.options.draws
        return SmoothedScores(scores, self.smoothing, draws, generator)

    def _search(
        self, model: str, name: str, scores: Callable[[torch.Generator], Any], goal: Goal
    ) -> Attacked:
        generator = torch.Generator().manual_seed(self.seed(f'{model} {name}'))
        clean, box = self.item.clean, (0.0, 1.0) if self.options.box else None
        found = attack_input(
            scores(generator), clean, goal, self.radius,
            steps=self.options.search, box=box, generator=generator,
        )  # fmt: skip
        attacked = perturbed(clean, found.delta[0], self.radius)
        norm = float((attacked.double() - clean.double()).norm())
        return Attacked(name, attacked, {'norm': norm})


class ByParameters(OneInput):
    """All parameters that are tried on one input."""

    options: ParameterOptions

    @property
    def smoothing(self) -> Perturbation | None:
        """The noise, or the random transformation; None for an enumeration."""
        return self.run.tried.smoothing

    def certify(self) -> tuple[str, Certificate]:
        """The certificate of the config."""
        return '', self.item.certified.record.certify(self.item.certified.settings)

    def on_base(self) -> Iterator[Attacked]:
        """The whole set, and the worst of an interval by gradients."""
        yield from self._tried(self.item.segment.base_alone.scores)

    def on_smoothed(self) -> Iterator[Attacked]:
        """The same of the smoothed model; where its draws have no gradient, that of the base."""
        scores, smoothing = self.item.segment.scores, self.smoothing

        def noisy(images: torch.Tensor) -> torch.Tensor:
            # One draw for each copy: the search averages over them.
            assert smoothing is not None
            generators = [
                torch.Generator(image.device).manual_seed(seed) for seed, image in enumerate(images)
            ]
            parameters = smoothing.draw(images[0].detach(), generators)
            return scores(smoothing.apply_differentiably(images[0], parameters))

        differentiable = isinstance(smoothing, AdditiveNoise)
        yield from self._tried(noisy if differentiable else scores)

    def _tried(self, scores: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Attacked]:
        tried = self.run.tried
        searched = self._searched(tried, scores)
        for kind, rows in (('', tried.values), ('gradient ', searched)):
            for row in rows:
                image = tried.transformation(self.item.clean[None], row)[0]
                name = f'{kind}{", ".join(f"{value:g}" for value in row.tolist())}'
                yield Attacked(name, image, {'parameter': row.tolist()}, row)

    def _searched(
        self, tried: ParameterSet, scores: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """What a gradient search finds in an interval, shape (at most SEARCHED, P)."""
        nothing = tried.values[:0]
        if tried.box is None or not self.options.steps or not self.labelled.any():
            return nothing
        generator = torch.Generator().manual_seed(self.seed('gradient'))
        segment = self.item.segment.base_alone
        label = self.tensor(self.truth)
        try:
            return gradient(
                scores, lambda image: segment.with_margin(image)[0], self.item.clean,
                tried.transformation, *tried.box, label, generator=generator,
                steps=self.options.steps, restarts=1, draws=self.options.draws, judged=SEARCHED,
                ignore_index=self.run.source.ignore_index,
            ).parameters  # fmt: skip
        except ValueError as error:
            if 'no gradient reaches' not in str(error):
                raise
            return nothing

    def _at_content(self, maps: torch.Tensor, attack: Attacked, missing: int) -> torch.Tensor:
        """Where the transformation moves the content: at the nearest pixel."""
        transformation = self.run.tried.transformation
        if not isinstance(transformation, Geometric) or attack.parameter is None:
            return maps
        rows = attack.parameter.to(maps.device).expand(len(maps), -1)
        return transformation.read_content(maps, rows, missing)


def read_attacked(file: Path) -> AttackedInput:
    """What was stored of one input and one set of attacks."""
    facts = json.loads(file.with_suffix('.json').read_text())
    with np.load(file, allow_pickle=False) as arrays:
        prefix = 'confusion_'
        confusions = {
            key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)
        }
    return AttackedInput(facts, confusions)


def _shown(inputs: torch.Tensor) -> NDArray[np.float64]:
    """An image, RGB (H, W, 3) in [0, 1] units, or a cloud (N, k)."""
    array = inputs.detach().double().cpu().numpy()
    if array.ndim == 2:
        return array
    # As mmsegmentation's pipelines deliver them: blue first.
    return np.broadcast_to(array[::-1].transpose(1, 2, 0), (*array.shape[1:], 3))


def in_steps(perturbation: NDArray[np.floating]) -> tuple[NDArray[np.int8], float]:
    """A perturbation in 127 steps up to its largest value, to be looked at.

    Args:
        perturbation (np.ndarray): Any shape, in [0, 1] image units or those of a cloud.

    Returns:
        tuple: Whole numbers of steps, int8, and the length of a step.

    >>> in_steps(np.array([0.0, 0.25, -0.5]))[0].tolist()
    [0, 64, -127]
    """
    step = float(np.abs(perturbation).max(initial=0.0)) / 127
    steps = np.zeros(perturbation.shape) if step == 0 else perturbation / step
    return np.round(steps).astype(np.int8), step


def report(source: Source[Any], options: Judging, limit: int | None = None) -> bool:
    """Attacks, logs tables, writes ``summary.json``, and says whether a certificate is broken."""
    kind = ParameterAttacks if isinstance(options, ParameterOptions) else L2Attacks
    attacks: Attacks = kind(source, options, limit)
    by_set: dict[str, list[AttackedInput]] = {name: [] for name in attacks.sets}
    log, started = source.logger.info, time.monotonic()
    log(f'{attacks.counted()}; results go to {attacks.folder}')
    for number, found in enumerate(attacks, 1):
        for one in found:
            by_set[one.facts['attack_set']].append(one)
        # Those that were stored take no time, and the rest seems shorter than it is.
        left = (time.monotonic() - started) / number * (len(attacks.indices) - number)
        rates = [attack_rates(one.confusions) for one in found]
        each = '; '.join(
            f'{one.facts["attack_set"]}: smoothed {rate["smoothed_clean"]["accuracy"]:.3f}, '
            f'attacked {rate["smoothed_attacked"]["accuracy"]:.3f}, certified '
            f'{rate["certified"]["accuracy"]:.3f}'
            for one, rate in zip(found, rates, strict=True)
        )
        log(f'{number}/{len(attacks.indices)} {found[0].facts["name"]}: accuracy at {each}; about '
            f'{timedelta(seconds=round(left))} left')  # fmt: skip
    failures = [f for found in by_set.values() for one in found for f in one.facts['failures']]
    totals = {
        name: {key: np.sum([one.confusions[key] for one in found], axis=0) for key in MODELS}
        for name, found in by_set.items()
    }
    write_json(attacks.folder / 'summary.json', _summary(attacks, by_set, totals, failures))
    log('\n' + _describe(attacks, by_set, totals))
    for failure in failures:
        log(_alarm(failure, attacks.folder))
    return any(failure.get('kind') != 'estimate' for failure in failures)


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
        lines += [
            f'{name}, by class:',
            attacked_class_table(totals[name], attacks.source.classes),
            'each attack by itself, and what it did to certified components (doubtful: no majority '
            f'among {options.judged} draws; broken: less than half of the probability beyond doubt '
            f'after {options.sure} more):',
            single_attack_table([row for one in found for row in one.facts['attacks']]),
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
