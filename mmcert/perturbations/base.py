"""The seam between sampling and certificates: what a perturbation is, and the registry of all."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from mmcert.certify.checks import check_tau
from mmcert.certify.rounding import AtMost
from mmcert.perturbations.partition import Partition

LARGEST_TAU = math.nextafter(1.0, 0.0)
"""Where an attack moves an input so far that the threshold rounds to 1: no draws attain it."""

READ_AT = 'read at the pixel nearest to where its content has moved'
"""Which class a certificate speaks of where the content moves."""


@dataclass(frozen=True)
class InputThreshold:
    """The threshold that one input needs for a given attack set.

    Attributes:
        tau (float): Smallest threshold in [0.5, 1) whose certificates cover the attack set on this
            input; the largest number below 1 where none does.
        kind (str): 'certificate', or 'estimate' where the threshold is not proven to suffice.
        details (dict): How it was found, as JSON values.

    Raises:
        ValueError: If the threshold is out of range, or the kind not one of these.
    """

    tau: float
    kind: str
    details: dict[str, Any]

    def __post_init__(self) -> None:
        # NaN would pass through max() and leave the smallest threshold of all.
        check_tau(self.tau)
        if self.kind not in ('certificate', 'estimate'):
            raise ValueError(f"kind must be 'certificate' or 'estimate', got {self.kind!r}")


@dataclass(frozen=True)
class Guarantee:
    """The attack set that a certificate speaks of.

    Attributes:
        perturbation (str): Name of the perturbation.
        distribution (str): What its draws are, as a formula.
        parameters (Mapping): Its arguments, as JSON values.
        attack_set (str): The attacks as a formula.
        norm (str | None): What ``radius`` measures; None, as radius and unit, for a finite set.
        radius (float | None): Largest attack.
        unit (str | None): Unit of the radius.
        stage (str): Where attack and smoothing act.
        rounding (str): What the smoothed function does first, as part of the theorem.
        moves_labels (bool): Whether components are positions of the content, which moves.
        claim (str): What is guaranteed, as a sentence without the stage.
        extra (Mapping): What only this perturbation has to say, as JSON values.

    Raises:
        ValueError: If ``extra`` has the name of another field.
    """

    perturbation: str
    distribution: str
    parameters: Mapping[str, Any]
    attack_set: str
    norm: str | None
    radius: float | None
    unit: str | None
    stage: str
    rounding: str
    moves_labels: bool
    claim: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := {'description', *(f.name for f in fields(self))} & set(self.extra):
            raise ValueError(f'extra must not repeat {", ".join(sorted(taken))}')

    def describe(self) -> str:
        """The guarantee in a sentence for a reader."""
        return f'{self.claim}; {self.stage}'

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values: the fields, with ``describe()`` and what ``extra`` holds.

        What is None is left out.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {name: value for name, value in values.items() if value is not None}
        del values['claim'], values['extra']
        values['parameters'] = dict(self.parameters)
        return {**values, 'description': self.describe(), **self.extra}


class Perturbation(ABC):
    """A distribution of random perturbations together with the guarantee that it buys.

    Three verbs make a draw: ``draw`` gives parameters, ``apply`` perturbs the input by them, and
    ``map_labels`` brings the label maps of perturbed inputs back to the positions of the clean one.
    ``radius`` and ``guarantee`` say what certificates of such draws mean.

    The arguments of a subclass must be attributes of the same names: ``spec`` reads them. What was
    set once stays: draws, radius and the address of votes would no longer agree.

    Attributes:
        domain (str): What it perturbs, 'image' or 'points'.
        num_columns (int): Columns of a cloud that it takes: the coordinates, or 6 with the normals.
        moves_labels (bool): Whether it moves the content of the input, and the labels with it. Then
            a component is a position of the clean input's content; a sampler must choose the class
            by the label maps of ``map_labels``, and count hits by ``labels_for_hits``.
        per_input_threshold (bool): Whether the attack set is given, and each input has a threshold
            of its own, its ``input_threshold``.
        enumerated (torch.Tensor | None): All parameters of a finite set, shape (N, P), where each
            is to be tried once and nothing is drawn; None where draws are random. A sampler must
            then ``apply`` them in turn and test nothing, as ``mmcert.sampling.collect_enumerated``
            does.
        has_partition (bool): Whether the attack set of an input is cut into cells. Then ``apply``
            makes the draws that choose the class, and a sampler must take the estimation draws, and
            count their hits, as the ``partition`` of the input says.
        distribution (str): What the draws are, for the guarantee; likewise ``norm``, ``unit``,
            ``stage`` and ``rounding``, see ``Guarantee``.
        component (str): What the guarantee calls a component.
        formula (str): The attack set as a formula.
        attack_text (str): The attack in words that follow a 'no', with {radius}, {norm}, {unit}.
    """

    domain: str = 'image'
    num_columns: int = 3
    moves_labels: bool = False
    per_input_threshold: bool = False
    enumerated: torch.Tensor | None = None
    has_partition: bool = False
    distribution: str
    norm: str
    unit: str
    stage: str
    rounding: str
    component: str = 'component'
    formula: str
    attack_text: str

    def __init_subclass__(cls) -> None:
        """Refuses a class that maps labels and does not say ``moves_labels``, with a TypeError."""
        super().__init_subclass__()
        verbs = {'map_labels', 'labels_for_hits'} & set(vars(cls))
        said = any('moves_labels' in vars(base) for base in cls.__mro__ if base is not Perturbation)
        if verbs and not said:
            raise TypeError(
                f'{cls.__name__} overrides {" and ".join(sorted(verbs))}, which is called only '
                'where moves_labels is True: set it in the class'
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) and not name.startswith('_'):
            raise AttributeError(
                f'{type(self).__name__}.{name} is fixed once it is set, since draws, radius and '
                'the address of votes depend on it: make a new perturbation'
            )
        super().__setattr__(name, value)

    @property
    def selection_counts(self) -> bool:
        """Whether the draws that choose the class may count as hits beside the others.

        Never where the attack set has cells, or hits ask for more than the label.
        """
        strict = type(self).labels_for_hits is not Perturbation.labels_for_hits
        return not self.has_partition and not strict

    def partition(self, inputs: torch.Tensor, draws: int) -> Partition:
        """The cells of an input's attack set for a number of estimation draws.

        Determined by the input and the number, never by the draws; for ``has_partition``.
        """
        name = type(self).__name__
        if not self.has_partition:
            raise ValueError(f'{name} cuts no attack sets into cells: has_partition is False')
        raise NotImplementedError(f'{name} must override partition')

    def check(self, inputs: torch.Tensor) -> None:  # noqa: B027 (some have nothing to refuse)
        """Refuses, with a ValueError that says what to do, an input evidently not meant for it."""

    @abstractmethod
    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the parameters of several perturbed inputs.

        Args:
            inputs (torch.Tensor): The input; only its shape and device matter.
            generators (Sequence[torch.Generator]): One for each draw, on the input's device.

        Returns:
            torch.Tensor: Shape (B, ...); row j depends on generator j and on the shape alone.
        """

    @abstractmethod
    def apply(
        self, inputs: torch.Tensor, parameters: torch.Tensor
    ) -> Sequence[torch.Tensor] | torch.Tensor:
        """Perturbs the input, which stays unchanged.

        Args:
            inputs (torch.Tensor): The input.
            parameters (torch.Tensor): What ``draw`` gave, shape (B, ...). The call may reuse its
                memory, except for what ``map_labels`` needs.

        Returns:
            Sequence[torch.Tensor] | torch.Tensor: B perturbed inputs, as a list or as one tensor
            (B, ...), each of the input's shape and type.
        """

    def apply_differentiably(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """As ``apply``, for attacks: one tensor (B, ...), and gradients reach the inputs.

        The values are those of ``apply``, and the gradient is that of the perturbation without its
        rounding, which has none: a straight-through estimator (Bengio, Leonard and Courville, 2013,
        arXiv 1308.3432).

        Raises:
            ValueError: If the perturbation has no gradient.
        """
        raise ValueError(f'{type(self).__name__}: no gradient of its draws reaches the input')

    def sample(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws one perturbed input with a generator on the input's device."""
        return self.apply(inputs, self.draw(inputs, [generator]))[0]

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Label maps of perturbed inputs at the positions of the clean one.

        Args:
            labels (torch.Tensor): Label maps predicted for what ``apply`` gave, shape (B, H, W),
                one label for each pixel of the input.
            parameters (torch.Tensor): Those of ``apply``.

        Returns:
            torch.Tensor: The same maps, unless ``moves_labels``: then at v the label of what lay at
            v before the perturbation moved it, or one outside [0, C), such as -1, if there is none.
        """
        return labels

    def labels_for_hits(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The label maps that hits are counted by.

        Where content moves, attacks bring it to places between the pixels, and a certificate speaks
        of the pixel that is nearest. So a draw may have to show the same label at all pixels that
        an attack of the set could make the nearest one.

        Args:
            labels (torch.Tensor): As for ``map_labels``.
            parameters (torch.Tensor): Those of ``apply``.

        Returns:
            torch.Tensor: As ``map_labels``, and outside [0, C) where these labels differ.
        """
        return self.map_labels(labels, parameters)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold | None:
        """The threshold that an input needs for a given attack set.

        Returns:
            InputThreshold | None: Determined by the input, never by the draws; None where
            ``radius`` says what a threshold buys on every input.

        Raises:
            ValueError: If the attack set is not legal for this input.
        """
        return None

    @abstractmethod
    def radius(self, tau: float, target: float = 0.5) -> float:
        """Largest attack under which a probability above ``tau`` stays above ``target``.

        Args:
            tau (float): Probability threshold in [0.5, 1).
            target (float): Target probability in [0.5, 1): 1/2 keeps the most frequent class, m /
                (m + 1) keeps it within a set of m classes, and a test's threshold keeps that test
                from abstaining.

        Returns:
            float: The radius, in ``unit``; 0 if ``target`` is not below ``tau``.

        Raises:
            ValueError: If a probability is out of range.
        """

    def guarantee(self, tau: float) -> Guarantee:
        """What a certificate at the probability threshold ``tau``, in [0.5, 1), says."""
        arguments = self.spec()
        return Guarantee(
            perturbation=arguments.pop('type'),
            distribution=self.distribution,
            parameters=arguments,
            attack_set=self._attack_set(tau),
            norm=self.norm,
            radius=self.radius(tau),
            unit=self.unit,
            stage=self.stage,
            rounding=self.rounding,
            moves_labels=self.moves_labels,
            claim=self._claim(tau),
            extra=self._extra(tau),
        )

    def _attack_set(self, tau: float) -> str:
        """The attack set at ``tau`` as a formula."""
        return self.formula

    def _attack(self, tau: float) -> str:
        """The attack set at ``tau`` in words that follow a 'no'."""
        radius = AtMost(self.radius(tau))
        return self.attack_text.format(radius=radius, norm=self.norm, unit=self.unit)

    def _claim(self, tau: float) -> str:
        """The guarantee as a sentence."""
        read = f', {READ_AT}' if self.moves_labels else ''
        return (
            f'no {self._attack(tau)} changes the class that the smoothed model gives a certified '
            f'{self.component}{read}'
        )

    def _extra(self, tau: float) -> dict[str, Any]:
        """What only this perturbation has to say, as JSON values."""
        return {}

    def spec(self) -> dict[str, Any]:
        """The name of the class and its arguments, as JSON values.

        It determines the draws and addresses their votes; ``from_spec`` builds an equal
        perturbation from it.

        Raises:
            TypeError: If the class takes arguments that have no name.
        """
        parameters = inspect.signature(type(self)).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(f'{type(self).__name__} must say in spec() which arguments it has')
        spec: dict[str, Any] = {'type': type(self).__name__}
        for name in (p.name for p in parameters):
            value = getattr(self, name)
            plain = list(value) if isinstance(value, tuple) else value
            spec[name] = value.spec() if hasattr(value, 'spec') else plain
        return spec

    def address(self) -> dict[str, Any]:
        """What ``spec`` says, for votes to be found by.

        Raises:
            ValueError: If it is that of another class.
        """
        name, spec = type(self).__name__, self.spec()
        if spec.get('type') != name:
            raise ValueError(
                f'{name}.spec() says that its type is {spec.get("type")!r}, so that its votes '
                'would be taken for those of that class: return '
                f"{{**super().spec(), 'type': '{name}'}}, with all arguments that draws depend on"
            )
        return spec

    def __repr__(self) -> str:
        spec = self.spec()
        arguments = ', '.join(f'{name}={value!r}' for name, value in spec.items() if name != 'type')
        return f'{spec["type"]}({arguments})'


def straight_through(values: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """The ``values``, with the gradient of what is ``smooth``, which may be broadcast."""
    return values.detach() + (smooth - smooth.detach()).to(values.dtype)


CLASSES: dict[str, type[Perturbation]] = {}
"""All perturbations by name: what configs and stored votes may speak of."""


def register(cls: type[Perturbation]) -> type[Perturbation]:
    """Makes a perturbation known by its name, so that stored votes of it can be asked.

    Use it as a decorator. The class's ``spec`` must give its name as ``type``, and its arguments.

    Raises:
        ValueError: If another class has the name.
    """
    if CLASSES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f'there is another perturbation of the name {cls.__name__!r}')
    return cls


def from_spec(spec: Mapping[str, Any]) -> Perturbation:
    """Builds a perturbation from what its ``spec`` returned, as stored with votes.

    Raises:
        ValueError: If the type is not known.
    """
    arguments = dict(spec)
    name = arguments.pop('type', None)
    if name not in CLASSES:
        raise ValueError(
            f'unknown perturbation {name!r}; known: {", ".join(sorted(CLASSES))}. One of your own '
            'must be registered (mmcert.perturbations.register) by a module that is imported first'
        )
    return CLASSES[name](**arguments)


def check_flag(value: bool, name: str) -> bool:
    """Refuses what is neither True nor False, with a ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}')
    return value
