"""What a semantic transformation of images is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

IGNORE_INDEX = 255
"""Label of a component that has none, as in mmseg."""

RANGE_TOLERANCE = 1e-3
"""How far outside [0, 1] a value of an image may lie, for rounding of earlier arithmetic."""

BENCHMARK_SIDE = 224
"""Side in pixels of the images for which the corruption benchmark chose its severities."""

Values = torch.Tensor | NDArray[Any] | Sequence[Any] | float


@dataclass(frozen=True)
class Parameter:
    """One parameter of a transformation.

    Attributes:
        name (str): What it is.
        unit (str): 'px', 'px^2', 'degrees', 'log', 'factor', 'power', 'quality' or 'image' ([0, 1]
            units).
        low (float): Smallest legal value.
        high (float): Largest legal value.
        identity (float | None): Value that leaves the image as it is; None if there is none.
        integer (bool): Whether only whole numbers are legal.
    """

    name: str
    unit: str
    low: float
    high: float
    identity: float | None
    integer: bool = False


@dataclass(eq=False)
class Transformation(ABC):
    """A family of maps of images to images of the same size, indexed by a parameter vector.

    In all methods, images have shape (B, C, H, W) and are floating point. Parameters have shape
    (B, P) or, for all images alike, (P,); if P = 1 a number will do. Images keep their dtype, and
    nothing is clipped unless a class says so. The items of a batch do not influence each other.

    A subclass describes itself by the attributes below, and is a dataclass of its options.

    Attributes:
        name (str): Name in ``TRANSFORMATIONS``.
        parameters (tuple[Parameter, ...]): What the P columns of a parameter tensor mean.
        definition (str): The operator in words: kernel, padding, interpolation, clipping; with a
            placeholder for each option.
        legal (Mapping): Legal values of each option: a mapping of names to what the definition
            calls them, or the smallest whole number.
        moves_labels (bool): Whether labels move with the image's content.
        differentiable_parameters (bool): Whether gradients flow to the parameters; they exist
            almost everywhere (bilinear interpolation and kernel edges have kinks).
        severities (tuple[tuple[float, ...], ...]): Parameters of severities 1 to 5 for images whose
            shorter side has 224 pixels.

    Raises:
        ValueError: If an option is not legal.
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    definition: ClassVar[str]
    legal: ClassVar[Mapping[str, Mapping[str, str] | int]] = {}
    moves_labels: ClassVar[bool] = False
    differentiable_parameters: ClassVar[bool] = True
    severities: ClassVar[tuple[tuple[float, ...], ...]]

    def __post_init__(self) -> None:
        for option, legal in self.legal.items():
            value = getattr(self, option)
            if isinstance(legal, Mapping):
                fits, wanted = value in legal, f'one of {", ".join(legal)}'
            else:
                fits = type(value) is int and value >= legal
                wanted = f'a whole number of at least {legal}'
            if not fits:
                raise ValueError(f'{self.name}: {option} must be {wanted}, got {value!r}')

    def __call__(self, images: torch.Tensor, parameters: Values) -> torch.Tensor:
        """Transforms images that lie in [0, 1].

        Raises:
            ValueError: If shapes do not fit, an image is not in [0, 1] up to 0.001, or a
                parameter is out of its range.
        """
        check_images(images)
        return self.transform(images, self.per_image(parameters, images))

    @abstractmethod
    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Transforms images by parameters (B, P), float64, on the images' device.

        Nothing is checked: images may have any real values, as attacked and smoothed ones have.
        """

    def per_image(self, parameters: Values, images: torch.Tensor) -> torch.Tensor:
        """Checked parameters (B, P), float64, one row for each of B images or label maps."""
        rows = self.check_parameters(parameters).to(images.device)
        if rows.dim() == 1:
            return rows.expand(len(images), -1)
        if len(rows) != len(images):
            raise ValueError(f'{self.name}: {len(rows)} parameters for {len(images)} images')
        return rows

    def check_parameters(self, parameters: Values) -> torch.Tensor:
        """Checks parameters and returns them as float64, shape (P,) or (N, P).

        Raises:
            ValueError: If the shape does not fit, or a value is NaN, out of its range or should
                be a whole number and is not. The message gives value and range.
        """
        values = self._numbers(parameters)
        width = len(self.parameters)
        if values.dim() == 0 and width == 1:
            values = values[None]
        if values.dim() not in (1, 2) or values.shape[-1] != width:
            names = ', '.join(p.name for p in self.parameters)
            raise ValueError(
                f'{self.name} takes parameters of shape ({width},) or (B, {width}): {names}; got '
                f'shape {tuple(values.shape)}'
            )
        for column, parameter in zip(values.detach().unbind(-1), self.parameters, strict=True):
            outside = column[~((column >= parameter.low) & (column <= parameter.high))]
            if outside.numel():
                raise ValueError(
                    f'{self.name}: {parameter.name} must lie in [{parameter.low:g}, '
                    f'{parameter.high:g}] ({parameter.unit}), got {outside[0].item():g}'
                )
            if parameter.integer and not torch.equal(column, column.round()):
                raise ValueError(f'{self.name}: {parameter.name} must be whole, got {parameters}')
        return values

    def _numbers(self, values: Any) -> torch.Tensor:
        try:
            return torch.as_tensor(values, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            # Strings, None, rows of different lengths.
            raise ValueError(f'{self.name} takes numbers, got {values!r}') from error

    def check_box(self, low: Values, high: Values) -> tuple[torch.Tensor, torch.Tensor]:
        """The corners of a box of parameters, each (P,), float64, checked.

        Raises:
            ValueError: If an end is no single parameter or out of range, or low > high.
        """
        first, last = self.check_parameters(low), self.check_parameters(high)
        if first.dim() != 1 or last.dim() != 1 or bool((first > last).any()):
            raise ValueError(f'{self.name}: a box needs one low <= high, got {low} and {high}')
        return first, last

    @property
    def straight(self) -> bool:
        """Whether an image moves along a straight line, in one direction, as its parameter grows.

        Only of one parameter. A subclass with its own ``transform`` has to say so itself.
        """
        return False

    @property
    def identity(self) -> torch.Tensor | None:
        """Parameters that leave images as they are, shape (P,), float64, or None."""
        values = [p.identity for p in self.parameters]
        known = [v for v in values if v is not None]
        return torch.tensor(known, dtype=torch.float64) if len(known) == len(values) else None

    def severity(self, severity: int, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Parameters of a severity of the corruption benchmark.

        Hendrycks and Dietterich, 'Benchmarking neural network robustness to common corruptions
        and perturbations', ICLR 2019: the values for images of 224 x 224 (each class names those
        that are not theirs). Lengths scale with the shorter side, so that a small image suffers
        as a large one does: 'px' by min(H, W) / 224, 'px^2' by its square. Other units stay.

        ``severity`` is 1 to 5, else a ValueError; ``size`` is height and width in pixels, None for
        224 x 224. The result has the shape (P,), float64.
        """
        if severity not in range(1, 6):
            raise ValueError(f'severity must be one of 1 to 5, got {severity!r}')
        values = self.severities[severity - 1]
        scale = 1.0 if size is None else min(size) / BENCHMARK_SIDE
        return self.check_parameters(self.rescale(values, scale))

    def rescale(self, values: Sequence[float], scale: float) -> list[float]:
        """Parameters that do to an image ``scale`` times as large what ``values`` do to one."""
        powers = {'px': 1, 'px^2': 2}
        return [
            min(value * scale ** powers.get(p.unit, 0), p.high)
            for value, p in zip(values, self.parameters, strict=True)
        ]

    def finite(self, values: torch.Tensor | NDArray[Any] | Sequence[Any]) -> torch.Tensor:
        """A finite attack set, (N, P), float64, from N parameter vectors, or numbers if P = 1.

        Raises:
            ValueError: If there is none, or one is out of range.
        """
        rows = self._numbers(values)
        if rows.numel() == 0:
            raise ValueError(f'{self.name}: an attack set needs at least one parameter')
        if rows.dim() == 1 and len(self.parameters) == 1:
            rows = rows[:, None]
        if rows.dim() != 2:
            raise ValueError(
                f'{self.name}: an attack set has shape (N, {len(self.parameters)}), got '
                f'{tuple(rows.shape)}'
            )
        return self.check_parameters(rows)

    def ends(self, bounds: torch.Tensor | NDArray[Any] | Sequence[Any]) -> torch.Tensor:
        """Lower and upper ends of a range, shape (2, P), float64.

        ``bounds`` are a pair (low, high) for each parameter, (P, 2), or one pair if P = 1.

        Raises:
            ValueError: If the shape does not fit, low > high, or an end is out of range.
        """
        pairs, width = self._numbers(bounds), len(self.parameters)
        if pairs.shape == (2,) and width == 1:
            pairs = pairs[None]
        if pairs.shape != (width, 2) or not bool((pairs[:, 0] <= pairs[:, 1]).all()):
            raise ValueError(
                f'{self.name} takes a range of {width} pairs low <= high, got {bounds}'
            )
        return self.check_parameters(pairs.T)

    def grid(self, low: Values, high: Values, count: int | Sequence[int]) -> torch.Tensor:
        """A regular grid of parameters, shape (N, P), float64; the last one varies fastest.

        ``count`` says how many values each parameter takes, its lower and upper end included; a
        single one is the lower end. Whole parameters are rounded, and repetitions dropped.

        Raises:
            ValueError: If an end is out of range, low > high or a count is below 1.
        """
        first, last = self.check_box(low, high)
        counts = [count] * len(self.parameters) if isinstance(count, int) else list(count)
        if len(counts) != len(self.parameters) or min(counts) < 1:
            raise ValueError(f'{self.name}: a grid needs counts of at least 1, got {count}')
        axes = []
        for parameter, start, stop, number in zip(
            self.parameters, first.tolist(), last.tolist(), counts, strict=True
        ):
            axis = torch.linspace(start, stop, number, dtype=torch.float64)
            axes.append(torch.unique(axis.round()) if parameter.integer else axis)
        rows = torch.stack([a.flatten() for a in torch.meshgrid(*axes, indexing='ij')], dim=1)
        return self.check_parameters(rows)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Proven Lipschitz constants of the transformed image as a function of the parameters.

        They hold for images of any real values and for all parameters in the box from ``low`` to
        ``high``, both of shape (P,), or numbers if P = 1. Where P > 1, a way from u to v along one
        axis after the other stays in the box, so a bound on the speed along each axis, anywhere in
        the box, is enough.

        Returns:
            torch.Tensor: L of each image and parameter, shape (B, P), float64, such that the l2
            distance (over all values of the image) of the images at parameters u and v is at most
            sum_k L_k |u_k - v_k| for all u and v in the box. Arithmetic is taken as exact.

        Raises:
            ValueError: If the class has no such bound, an end is out of range or low > high.
        """
        raise ValueError(
            f'{self.name} has no proven Lipschitz constant: use a finite set of parameters'
        )

    def labels(
        self, label_map: torch.Tensor, parameters: Values, ignore_index: int = IGNORE_INDEX
    ) -> torch.Tensor:
        """Label maps of the transformed images; the same maps unless ``moves_labels``.

        Maps have the shape (B, H, W) and any integer dtype, which stays. What comes from outside
        the frame has the label ``ignore_index``.

        Raises:
            ValueError: If shapes do not fit or a parameter is out of its range.
        """
        check_labels(label_map)
        self.per_image(parameters, label_map)
        return label_map

    def options(self) -> dict[str, Any]:
        """Arguments of the class that give an equal transformation, as JSON values."""
        return asdict(self)

    def spec(self) -> dict[str, Any]:
        """What determines the operator, as JSON values: ``build(spec())`` gives an equal one."""
        return {'type': self.name, **self.options()}

    def operator(self) -> str:
        """The definition in words, with the options as they are."""
        words = self.options()
        for option, legal in self.legal.items():
            if isinstance(legal, Mapping):
                words[option] = legal[words[option]]
        return self.definition.format(**words)

    def to_dict(self) -> dict[str, Any]:
        """What a certificate has to say about the transformation, as JSON values."""
        return {
            'transformation': self.spec(),
            'operator': self.operator(),
            'transformation_parameters': [asdict(p) for p in self.parameters],
        }


def check_images(images: torch.Tensor) -> None:
    """Refuses, with a ValueError, what is not (B, C, H, W), floating point and in [0, 1]."""
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f'images must be floating point of shape (B, C, H, W), got {images.dtype} of shape '
            f'{tuple(images.shape)}'
        )
    if images.numel() == 0:
        raise ValueError(f'images are empty: shape {tuple(images.shape)}')
    low, high = (float(v) for v in images.detach().aminmax())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE and math.isfinite(low + high)):
        raise ValueError(
            f'images must lie in [0, 1], got values from {low:g} to {high:g}; divide 0-255 images '
            'by 255, and transform before normalising or adding noise'
        )


def check_labels(label_map: torch.Tensor) -> None:
    """Refuses, with a ValueError, what is not a batch (B, H, W) of integer label maps."""
    if label_map.dim() != 3 or label_map.is_floating_point() or label_map.is_complex():
        raise ValueError(
            f'label maps must be integers of shape (B, H, W), got {label_map.dtype} of shape '
            f'{tuple(label_map.shape)}'
        )
