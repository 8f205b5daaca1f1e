"""Rotation and scaling of images, certified slice by slice of their parameter."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from scipy.special import ndtr

from mmcert.certify.checks import check_draws
from mmcert.perturbations.base import (
    LARGEST_TAU,
    READ_AT,
    InputThreshold,
    Perturbation,
    register,
)
from mmcert.perturbations.images import check_image
from mmcert.perturbations.lattice import on_levels
from mmcert.perturbations.noise import (
    IMAGE_STAGE,
    IMAGE_UNIT,
    LEVELS_ROUNDING,
    NOT_CLIPPED,
    GaussianNoise,
)
from mmcert.transformations import AboutCentre, build

DISTANCE = 'l2 distance of the moved image to the one at the middle of its slice'

STEPS = 4
"""Parts of a slice, an even number, in which distances are bounded by those at their ends."""


@register
class SlicedTransformation(Perturbation):
    r"""Gaussian noise on moved images: certificates against rotation or scaling.

    Interpolated moves do not compose, so smoothing over their parameter proves nothing. Instead the
    attack set [low, high] is covered by S slices of half-width d about the parameters a_1 ... a_S,
    and the model is smoothed with N(0, sigma^2 I) on the values of each T_{a_j} x. If a class has
    probability above tau there, it keeps more than 1/2 at every T_xi x of the slice, provided that
    ||T_xi x - T_{a_j} x||_2 <= sigma Phi^{-1}(tau), as for ``GaussianNoise``. ``input_threshold``
    is the tau from which on this is so in all slices of an image.

    A component is the content at a position v of the clean image. A draw of slice j counts for a
    class c if c is the label at every pixel that may be the nearest one to where the slice takes
    that content, all of them in the frame (``labels_for_hits``); so P[hit] > tau implies P > tau at
    each of them. A certificate needs this in every slice. Its null hypothesis is that P[hit] <= tau
    in some slice, and its p-value is the largest of the slices' own, that of the fewest hits among
    n in each: no alpha is divided (Berger, "Multiparameter hypothesis testing and acceptance
    sampling", Technometrics 1982). tau depends on the image alone, not on the draws, so testing at
    it is valid.

    A certificate says: the smoothed model (N(0, sigma^2 I) on the image) gives the class of the
    content at v to the pixel nearest to A_xi v, on T_xi x, for all xi in [low, high]. T_xi is the
    transformation as mmcert computes it: in double precision, and rounded to the image's type.

    Draws are of one slice, number ``index``: at first the reference cell, which holds the identity
    or is the nearest to it. ``cell(j)`` is the same perturbation in slice j, and votes need draws
    of all of them, as mmcert's sampler takes.

    Args:
        transformation (Mapping | str | AboutCentre): Rotation or scaling, its name, or its config,
            such as dict(type='rotation', padding='reflection').
        low (float): Lower end of the attack set, in degrees, or a factor.
        high (float): Upper end.
        slices (int): Their number S, at least 1.
        sigma (float): Noise level, in [0, 1] image units.

    Raises:
        ValueError: If an argument is out of range, or the transformation is another one.

    Example:
        >>> rotation = SlicedTransformation('rotation', low=-4, high=5, slices=3, sigma=0.25)
        >>> rotation.num_cells, rotation.index
        (3, 1)
        >>> image = torch.linspace(0, 1, 64).reshape(1, 8, 8)
        >>> round(rotation.input_threshold(image).tau, 3)
        0.592
    """

    moves_labels = True
    per_input_threshold = True
    distribution = 'N(0, sigma^2 I) on the image moved to the middle of each slice'
    norm = DISTANCE
    unit = IMAGE_UNIT
    stage = IMAGE_STAGE
    rounding = LEVELS_ROUNDING
    formula = (
        '{T_xi x : low <= xi <= high, and T_xi x no farther from the image at the middle of its '
        f'slice than the radius}}, the class {READ_AT}'
    )

    def __init__(
        self,
        transformation: Mapping[str, Any] | str | AboutCentre,
        low: float,
        high: float,
        slices: int,
        sigma: float,
    ) -> None:
        named = isinstance(transformation, (str, Mapping))
        found = build(transformation) if named else transformation  # type: ignore[arg-type]
        if not isinstance(found, AboutCentre) or len(found.parameters) > 1:
            raise ValueError(f'only rotation and scaling are certified by slices, got {found!r}')
        found.check_parameters([[low], [high]])
        if type(build(found.spec())) is not type(found):
            raise ValueError(
                f'{type(found).__name__} has the spec of {type(build(found.spec())).__name__}: its '
                'votes would be taken for those of that class'
            )
        if low >= high:
            raise ValueError(f'slices need low < high, got {low} and {high}')
        self.transformation, self.low, self.high = found, float(low), float(high)
        self.num_cells = self.slices = check_draws(slices, 'slices')
        self.noise = GaussianNoise(sigma)
        self.sigma = self.noise.sigma
        assert found.identity is not None
        place = (float(found.identity) - low) / (high - low) * slices
        self.index = min(max(int(place), 0), slices - 1)
        self._reached: torch.Tensor | None = None
        unit = found.parameters[0].unit
        self.attack_text = (
            f'{found.name} from {low:g} to {high:g} ({unit}) that moves the image by no more than '
            '{radius:.4g} (l2, {unit}) within a slice'
        )
        # The attack set and its cells, as JSON values.
        self._cells: dict[str, Any] = {
            'low': self.low,
            'high': self.high,
            'unit_of_xi': unit,
            'operator': found.operator(),
            'slices': self.slices,
        }

    def cell(self, index: int) -> SlicedTransformation:
        """The same perturbation with its draws in another slice; see ``Perturbation``."""
        other = copy.copy(self)
        vars(other).update(index=range(self.num_cells)[index], _reached=None)
        return other

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise, as ``GaussianNoise`` does; the slice itself is fixed."""
        return self.noise.draw(inputs, generators)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds noise to the image moved to the middle of the slice; see ``Perturbation``."""
        middle = self._centre().to(inputs.device)
        moved = self.transformation.transform(inputs[None].double(), middle)[0]
        return on_levels(moved, parameters, inputs.dtype)

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """What label maps say of the content at the middle of the slice; see ``Perturbation``."""
        middle = self._centre().to(labels.device).expand(len(labels), 1)
        return self.transformation.read_content(labels.to(torch.int32), middle, -1)

    def labels_for_hits(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The label of all pixels that the content at v may be nearest to; see ``Perturbation``.

        It is -1 if they differ or one is out of the frame. Shape (B, H, W), int32.
        """
        pixels = self._pixels(labels)
        flat = labels.flatten(1).to(torch.int32)
        first = flat[:, pixels[0]]
        agreed = (pixels >= 0).all(dim=0).expand_as(first)
        for others in pixels[1:]:
            agreed = agreed & (flat[:, others] == first)
        return torch.where(agreed, first, -1)

    def displacements(self, inputs: torch.Tensor) -> torch.Tensor:
        """Upper bounds of sup ||T_xi x - T_a x||_2 in each slice, a its middle, shape (S,).

        The slice is cut into parts. Within one, at whose ends the distances are D and D', no
        distance exceeds (D + D' + L step) / 2, with L the proven Lipschitz constant on that part.
        In [0, 1] image units, computed in double precision.
        """
        image = inputs[None].double()
        bounds, grid = [], self._grid(STEPS).to(image.device)
        for start in range(0, len(grid) - 1, STEPS):
            points = grid[start : start + STEPS + 1]
            moved = self.transformation.transform(image.expand(len(points), -1, -1, -1), points)
            far = (moved - moved[STEPS // 2]).flatten(1).norm(dim=1)
            ways = [
                self.transformation.lipschitz(image, a, b)[0, 0] * (b - a)
                for a, b in pairwise(points[:, 0].tolist())
            ]
            bounds.append(((far[1:] + far[:-1] + torch.stack(ways)) / 2).max())
        return torch.stack(bounds)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold:
        """The tau from which on a certificate covers all of [low, high]; see ``Perturbation``.

        tau = Phi(B / sigma), B the largest of the ``displacements``, plus a margin of the square
        root of the number of values times the spacing of the image's floating point numbers at 1:
        twice what rounding the moved image to these numbers can do to values up to 2. It is rounded
        up, and of kind 'certificate': the bound is proven.
        """
        margin = torch.finfo(inputs.dtype).eps * inputs.numel() ** 0.5
        bounds = self.displacements(inputs)
        bound = float(bounds.max()) + margin
        return InputThreshold(
            tau=min(float(ndtr(bound / self.sigma)) + 2**-52, LARGEST_TAU),
            kind='certificate',
            details={
                'attack_set': self.formula,
                **self._cells,
                'supremum': bound,
                'supremum_of': DISTANCE,
                'supremum_by': f'{STEPS} parts of each slice, and a proven Lipschitz constant',
                'margin_for_rounding': margin,
                'worst_slice': int(bounds.argmax()),
            },
        )

    def radius(self, tau: float, target: float = 0.5) -> float:
        """The l2 distance that the image may move within a slice, in [0, 1] image units."""
        return self.noise.radius(tau, target)

    def _extra(self, tau: float) -> dict[str, Any]:
        padding = self.transformation.options()['padding']
        return {**self._cells, 'padding': padding, 'clipping': NOT_CLIPPED}

    def _grid(self, steps: int) -> torch.Tensor:
        """Ends of equal parts of the slices, ``steps`` of each, shape (S steps + 1, 1), float64."""
        return self.transformation.grid(self.low, self.high, self.num_cells * steps + 1)

    def _centre(self) -> torch.Tensor:
        """The parameter at the middle of the slice, shape (1, 1), float64."""
        return self._grid(2)[2 * self.index + 1, None]

    def _pixels(self, labels: torch.Tensor) -> torch.Tensor:
        """What ``reached`` gives for the slice and label maps of this size, computed once."""
        if self._reached is None or self._reached.shape[1:] != labels.shape[-2:]:
            low, high = self._grid(1)[self.index : self.index + 2, 0].tolist()
            self._reached = self.transformation.reached(low, high, *labels.shape[-2:])
        self._reached = self._reached.to(labels.device)
        return self._reached
