"""The attacks on one input, held against its certificate, and what is stored of them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mmcert.attacks import Goal, SmoothedScores, attack_input, gradient, perturbed
from mmcert.attacks.judge import (
    class_counts,
    draws_for,
    hits_of,
    least_tau,
    minority_p_values,
)
from mmcert.attacks.sets import ParameterSet
from mmcert.certify import ABSTAIN_LABEL, Certificate
from mmcert.files import atomic_writer, write_json
from mmcert.metrics.confusion import confusion_of
from mmcert.perturbations import AdditiveNoise, Perturbation
from mmcert.report.attacks import attack_picture
from mmcert.runs.attack_options import L2Options, ParameterOptions
from mmcert.runs.input_run import Item
from mmcert.transformations import Geometric

SEARCHED = 2
"""Parameters of an interval that a gradient search may add to those of its grid."""


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

    def __init__(self, run: Any, item: Item, attack_set: str, file: Path, radius: float) -> None:
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
