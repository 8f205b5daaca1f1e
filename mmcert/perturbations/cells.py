"""Transformations of images, certified on an interval, a box or a finite set of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certify.checks import check_draws, check_tau
from mmcert.certify.pooled import best_design, score_table, scores, weighted_tail, weights_for
from mmcert.certify.rounding import AtMost
from mmcert.perturbations.base import (
    READ_AT,
    Guarantee,
    InputThreshold,
    Perturbation,
    check_flag,
    from_spec,
    register,
)
from mmcert.perturbations.cell_geometry import CellGeometry, Noise
from mmcert.perturbations.images import check_image
from mmcert.perturbations.noise import IMAGE_STAGE, IMAGE_UNIT, NOT_CLIPPED
from mmcert.perturbations.partition import CellTest, Partition
from mmcert.perturbations.surrogate import SurrogateTransform
from mmcert.surrogates import AttackSet
from mmcert.transformations import AboutCentre, Transformation, build

MARGIN = 1e-5
"""Added to all distances, in standard deviations, for rounding in double precision."""

NOISE_EPS = 2.0**-20
"""Noise in single precision is added to values between levels with an error, in each coordinate, of
less than this times its standard deviation or a level, whichever is more."""

FAMILY_ALPHA = 1e-3
"""Weights are the best ones for tests at this over the number of pixels, whatever alpha is."""


@register
class TransformationCells(Perturbation):
    r"""Gaussian noise around transformed images: certificates for all parameters of a set.

    The attack set is covered by cells. Draws are taken around the transformed image T_a x at the
    centre a of each cell, with noise on its values or on means of blocks of them. In coordinates
    z(x) in which the noise is N(0, I), let d(j, s) be a proven bound of ||z(T_xi x) - z(T_{a_j}
    x)|| over xi in cell s. If the smoothed probability of a class is at most 1/2 at some xi in cell
    s, even after a further perturbation of l2 norm up to r, then a draw around a_j gives that class
    with probability at most Phi(d(j, s) + L r), L being the Lipschitz constant of z. So the draws
    around a_j and around its neighbours all say something of cell s, and are counted together: see
    ``mmcert.certify.pooled``. A component is certified if the tests of all cells reject, and no
    alpha is divided.

    A certificate says: for every xi in the attack set and every perturbation of l2 norm up to
    ``extra_radius`` after it, the smoothed model gives the guess class a probability above 1/2.
    Where the transformation moves the content, a component is the content at a position v of the
    clean image, and its class is read at the pixel nearest to A_xi v. A draw counts as a hit for
    cell s if it shows the class at every pixel that may be nearest to where xi in s takes the
    content, all of them in the frame. T_xi is the transformation as mmcert computes it: in double
    precision, and rounded to the image's type.

    Cells and centres depend on the image and the number of draws, not on any draw. Cells are of
    equal length, measured along the path of the transformed image, in as many as keep neighbouring
    centres 0.06 standard deviations apart, with 8 draws each or more; centres at the ends get more
    draws than others. Of a finite set, every parameter is a cell and its centre.

    Args:
        transformation (Mapping | str | Transformation): Any with a proven Lipschitz constant (of a
            finite set: any), its name, or its config, such as dict(type='rotation',
            padding='reflection').
        low (float | Sequence[float] | None): Lower end of each parameter.
        high (float | Sequence[float] | None): Upper end of each parameter; of several, some may be
            fixed: the same as their lower ends.
        noise (Mapping | Noise): ``GaussianNoise``, ``PooledNoise``, or a ``SurrogateTransform``
            without an attack set of its own, whose transformation leaves labels in place; or its
            config.
        extra_radius (float): l2 norm of the further perturbation, in [0, 1] image units.
        cells (int | Sequence[int] | None): Number of cells of each parameter, in place of the rule
            above.
        pooled (bool): Whether draws of neighbouring centres count together; False tests each cell
            by its own draws alone.
        values (Sequence | None): A finite set of parameters, in place of ``low`` and ``high``.

    Raises:
        ValueError: If an argument is out of range, or the transformation has no proven constant.

    Example:
        >>> noise = dict(type='GaussianNoise', sigma=0.25)
        >>> rotation = TransformationCells('rotation', low=-4, high=5, noise=noise)
        >>> image = torch.linspace(0, 1, 64).reshape(1, 8, 8)
        >>> partition = rotation.partition(image, draws=100)
        >>> len(partition.tests), partition.smallest < 1e-6
        (12, True)
    """

    moves_labels = False  # Until a transformation says otherwise.
    has_partition = True
    norm = 'l2'
    unit = IMAGE_UNIT
    stage = IMAGE_STAGE

    def __init__(
        self,
        transformation: Mapping[str, Any] | str | Transformation,
        low: float | Sequence[float] | None = None,
        high: float | Sequence[float] | None = None,
        noise: Mapping[str, Any] | Noise | None = None,
        extra_radius: float = 0.0,
        cells: int | Sequence[int] | None = None,
        pooled: bool = True,
        values: Sequence[Any] | None = None,
    ) -> None:
        found = (
            transformation if isinstance(transformation, Transformation) else build(transformation)
        )
        self.transformation = found
        self._ends, self._values = self._attack_of(low, high, values)
        given = values is not None
        self.low, self.high = (None if given else _plain(end) for end in self._ends.tolist())
        self.values = [_plain(row) for row in self._values.tolist()] if given else None
        if type(build(found.spec())) is not type(found):
            raise ValueError(
                f'{type(found).__name__} has the spec of {type(build(found.spec())).__name__}: its '
                'votes would be taken for those of that class'
            )
        if isinstance(noise, Mapping):
            name = str(noise.get('type', '')).removeprefix('mmcert.')
            noise = from_spec({**noise, 'type': name})  # type: ignore[assignment]
        suits = isinstance(noise, Noise)
        if isinstance(noise, SurrogateTransform):
            suits = noise.attack is None and not noise.moves_labels
        if not suits:
            raise ValueError(
                'noise must be GaussianNoise, PooledNoise, or a SurrogateTransform without an '
                f'attack set and of a transformation that leaves labels in place, got {noise!r}'
            )
        assert isinstance(noise, Noise), 'checked above'
        self.noise, self.distribution = noise, f'{noise.distribution} of each transformed image'
        self.rounding = noise.rounding
        number = isinstance(extra_radius, (int, float)) and not isinstance(extra_radius, bool)
        if not number or not 0 <= extra_radius < math.inf:
            raise ValueError(
                f'extra_radius must be a finite number of at least 0, got {extra_radius!r}'
            )
        self.extra_radius = float(extra_radius)
        self.cells = None if cells is None else _counts(cells, len(found.parameters))
        self.pooled = check_flag(pooled, 'pooled')
        self.moves_labels = found.moves_labels
        if found.moves_labels and not isinstance(found, AboutCentre):
            raise ValueError(f'{found.name} moves the content in a way that cells do not follow')
        # The mode does not matter to the words for a box.
        attack = 'finite' if values is not None else 'sampled'
        box = self._values if values is not None else self._ends
        described = AttackSet(attack, box, 2).describe(found)
        after = ', followed by any perturbation of {norm} norm up to {radius:.4g} (in {unit})'
        escaped = described.replace('{', '{{').replace('}', '}}')
        self.attack_text = f'every {escaped}{after * (self.extra_radius > 0)},'
        set_of = described.partition(' with ')[2]
        read = f', the class {READ_AT}' if found.moves_labels else ''
        self.formula = (
            f'{{T_xi x + delta : xi: {set_of}, ||delta||_2 <= {AtMost(self.extra_radius):g}}}{read}'
        )

    def _attack_of(self, low: Any, high: Any, values: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Ends (2, P) of a box and no values, or the least box about some values and these."""
        found = self.transformation
        if (values is None) == (low is None or high is None):
            raise ValueError(f'give low and high, or values, got {low}, {high} and {values}')
        if values is not None:
            rows = found.finite(values)
            # In order, so that neighbours come one after the other.
            rows = torch.unique(rows, dim=0)
            return torch.stack([rows.amin(dim=0), rows.amax(dim=0)]), rows
        if type(found).lipschitz is Transformation.lipschitz:
            raise ValueError(
                f'{found.name} has no proven Lipschitz constant, so that a range of it cannot be '
                'certified: give a finite set, values=[...]'
            )
        if any(parameter.integer for parameter in found.parameters):
            raise ValueError(f'{found.name} takes whole numbers: give a finite set of values')
        first, last = found.check_parameters(low), found.check_parameters(high)
        # A parameter of several may be fixed, as the direction of a motion.
        if first.dim() > 1 or last.dim() > 1 or bool((first > last).any() or (first == last).all()):
            raise ValueError(f'cells need low < high, got {low} and {high}')
        ends = torch.stack([first, last])
        return ends, ends[:0]

    @property
    def per_input_threshold(self) -> bool:  # type: ignore[override]
        """True: the attack set is given."""
        return True

    @property
    def selection_counts(self) -> bool:
        """False: the selection draws are around the clean image."""
        return False

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs)
        self.noise.check(inputs)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise alone; the transformation is fixed for each centre."""
        return self.noise.draw(inputs, generators)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds noise to the clean image, as for the draws that choose the class."""
        return self.noise.apply(inputs, parameters)

    def apply_differentiably(self, inputs: torch.Tensor, parameters: torch.Tensor) -> Any:
        """As ``apply``, if the noise can; see ``Perturbation``."""
        return self.noise.apply_differentiably(inputs, parameters)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold:
        """1/2: the pooled tests are about that alone; see ``Perturbation``."""
        return InputThreshold(0.5, 'certificate', {'attack_set': self.formula})

    def radius(self, tau: float, target: float = 0.5) -> float:
        """``extra_radius``, whatever tau is: the tests are made for it, and for the target 1/2."""
        check_tau(tau)
        return self.extra_radius if check_tau(target) == 0.5 else 0.0

    def guarantee(self, tau: float) -> Guarantee:
        """See ``Perturbation``; without ``extra_radius`` there is no radius and no norm."""
        found = super().guarantee(tau)
        if self.extra_radius > 0:
            return found
        return replace(found, norm=None, radius=None, unit=None)

    def spec(self) -> dict[str, Any]:
        """See ``Perturbation``."""
        return {**super().spec(), 'transformation': self.transformation.spec()}

    def _claim(self, tau: float) -> str:
        read = f', {READ_AT}' if self.moves_labels else ''
        return (
            f'under {self._attack(tau)} the smoothed model gives a certified {self.component} the '
            f'certified class with a probability above 1/2{read}'
        )

    def _extra(self, tau: float) -> dict[str, Any]:
        operator = self.transformation.operator()
        return {'operator': operator, 'clipping': NOT_CLIPPED, 'pooled': self.pooled}

    @torch.no_grad()
    def partition(self, inputs: torch.Tensor, draws: int) -> Partition:
        """The cells of an image (C, H, W), and the test of each, for a number of draws."""
        self.check(inputs)
        geometry = CellGeometry(self.transformation, self.noise, inputs[None].double(), self._ends)
        if self.values is not None:
            low = high = centres = self._values
            shares, details = np.ones(len(centres)), {'cells': [len(centres)]}
        else:
            low, high, centres, shares, details = geometry.cells(draws, self.cells)
        if len(centres) > draws:
            raise ValueError(f'{len(centres)} cells need as many draws, got {draws}')
        starts = np.rint(draws * np.append(0, np.cumsum(shares)) / shares.sum()).astype(int)
        extents, peak = geometry.extents(low, high, centres)
        # An attacked value is rounded to the type, and then perhaps taken for the nearest level.
        largest = peak + self.extra_radius
        rounding = torch.finfo(inputs.dtype).eps * largest * inputs.numel() ** 0.5
        added = (rounding + self.extra_radius) * self.noise.lipschitz
        level_size = self.noise.rounding_unit
        added += MARGIN + NOISE_EPS * max(1.0, level_size) * geometry.num_coordinates**0.5
        level = FAMILY_ALPHA / math.prod(inputs.shape[-2:])
        reached = geometry.reached(centres, extents, added, alone=not self.pooled)
        tests, needed = _tests(reached, np.diff(starts), level)
        table = score_table(max(float(test.tail[-1]) for test in tests))
        readings, reading_of = geometry.readings(low, high)
        counted = [len(test.centres) for test in tests]
        return Partition(
            inputs=inputs.clone(),
            spec=self.spec(),
            starts=starts.tolist(),
            centres=centres.numpy(),
            tests=tests,
            table=table,
            scores=[scores(test.tail, table) for test in tests],
            apply_around=_Around(self, inputs, centres.to(inputs.device)),
            readings=[reading.to(inputs.device) for reading in readings],
            reading_of=reading_of,
            details={
                **details,
                'draws_per_centre': [int(np.diff(starts).min()), int(np.diff(starts).max())],
                'largest_half_cell': float(extents.max()),
                'added_to_distances': added,
                'centres_per_test': [min(counted), max(counted)],
                'needed_probability': needed if needed <= 1 else None,
                'smallest_p_value': max(float(test.tail[-1]) for test in tests),
                'distances': (
                    "l2 in standard deviations of the noise: each cell's centre to its corners, "
                    'computed, and a proven Lipschitz constant between them'
                ),
            },
        )


class _Around:
    """Perturbs an image around the centres, keeping the last transformed one."""

    def __init__(
        self, perturbation: TransformationCells, inputs: torch.Tensor, centres: torch.Tensor
    ) -> None:
        self.perturbation, self.inputs, self.centres = perturbation, inputs, centres
        self._moved: tuple[int, torch.Tensor] | None = None

    def __call__(self, centre: int, parameters: torch.Tensor) -> torch.Tensor:
        if self._moved is None or self._moved[0] != centre:
            image = self.inputs[None].double()
            moved = self.perturbation.transformation.transform(image, self.centres[centre, None])
            self._moved = centre, moved[0]
        return self.perturbation.noise.apply_at(self._moved[1], parameters, self.inputs.dtype)


def _tests(
    reached: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    counts: NDArray[np.int64],
    level: float,
) -> tuple[list[CellTest], float]:
    """The tests of all cells, with the weights that are best for the worst of three at a level.

    These are the first, the middle and the last one. And the probability of a class that passes the
    worst of them, see ``pooled.best_design``.
    """
    looked_at = {0, len(reached) // 2, len(reached) - 1}
    cases = [(q, counts[centres]) for centres, q in (reached[cell] for cell in looked_at)]
    design, needed = best_design(cases, level)
    tests = []
    for centres, q in reached:
        weights = weights_for(q, design)
        counted = weights > 0
        if not counted.any():
            # Nothing can be certified: one draw of the nearest centre, at no use.
            counted, weights = q == q.min(), np.ones_like(weights)
        centres, q, weights = centres[counted], q[counted], weights[counted]
        tail = weighted_tail(q, counts[centres], weights)
        tests.append(CellTest(centres, weights, q, tail))
    return tests, needed


def _counts(cells: int | Sequence[int], parameters: int) -> int | list[int]:
    counts = [check_draws(count, 'cells') for count in np.ravel(cells).tolist()]
    if len(counts) != parameters:
        raise ValueError(f'cells must be a number for each of {parameters} parameters, got {cells}')
    return counts[0] if parameters == 1 else counts


def _plain(values: list[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else values
