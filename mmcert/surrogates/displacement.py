"""How far an attack moves the latent of an image, in the metric of the smoothing noise.

With z = F2(x) + A1 theta + b1 + theta', theta ~ N(0, sigma1^2 I) and theta' ~ N(0, sigma2^2 I), the
latent is N(F2(x) + b1, S) with S = sigma1^2 A1 A1^T + sigma2^2 I, and whatever follows it, decoder
and base model, is one function of z. An attack that replaces x by T_xi x moves the mean by
Delta(xi) = F2(T_xi x) - F2(x) and changes nothing else. A class that has probability above tau
keeps more than 1/2 of it as long as

    D(xi) = ||S^{-1/2} Delta(xi)||_2 < Phi^{-1}(tau)

(Cohen, Rosenfeld, Kolter 2019, in the coordinates S^{-1/2} z). T is the real transformation: how
well the surrogate imitates it does not enter. D depends on the image and the attack alone, not on
any draw.

Where the labels move with the content, position and latent must be shifted together. For a family
with A_theta A_xi = A_{theta + xi}, the attack moves (theta, theta') by (u, Delta - A1 u), where u
is xi in units of the range, and

    D_I(xi)^2 = ||u||^2 / sigma1^2 + ||Delta(xi) - A1 u||^2 / sigma2^2.

That bounds any function of latent and theta, such as whether the label map shows a class at some
pixels about A_theta v. ``mmcert.perturbations.SurrogateTransform`` says which pixels these must be:
nobody reads a label map between its pixels.
"""

import copy
import heapq
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mmcert.surrogates.attack_sets import AttackSet
from mmcert.surrogates.network import Surrogate

CHUNK = 8
"""Parameters whose images are held at the same time."""

RELATIVE_MARGIN, ABSOLUTE_MARGIN = 1e-4, 1e-4
"""Added to a supremum, for rounding errors (in double precision, smaller by far) and for an image
that is stored in single precision after the attack."""

TOLERANCE = 0.02
"""How far above the largest value found a bound over an interval may stay, as a share of it."""


@dataclass(frozen=True)
class Supremum:
    """The largest displacement over an attack set.

    Attributes:
        value (float): Bound of the supremum, margin included; of the sampled mode only a lower
            bound of it.
        found (float): Largest value that was found at a parameter.
        worst (tuple[float, ...]): That parameter.
        looked_at (int): How many parameters were.
        by (str): 'finite', 'lipschitz' or 'sampled', the set's mode; or 'convex', where an interval
            is largest at one of its ends.
    """

    value: float
    found: float
    worst: tuple[float, ...]
    looked_at: int
    by: str


def mahalanobis_norm(
    delta: torch.Tensor, matrix: torch.Tensor, sigma1: float, sigma2: float
) -> torch.Tensor:
    """||S^{-1/2} delta||_2 of displacements (N, L, h, w) of the latent, shape (N,).

    It is the least ``split_norm`` over all u (ridge regression; the Woodbury identity gives the
    same number as a difference, which cancels where A1 is large). A u that rounding moved from the
    best one makes it larger, never smaller. ``matrix`` is A1 at one place of the latent, (L, P); it
    is the same at all.
    """
    places = delta.shape[-2] * delta.shape[-1]
    inner = places * matrix.T @ matrix
    inner = inner + (sigma2 / sigma1) ** 2 * torch.eye(len(inner)).to(inner)
    along = delta.flatten(2).sum(2) @ matrix
    u = torch.linalg.solve(inner, along.T).T
    return split_norm(delta, u, matrix, sigma1, sigma2)


def split_norm(
    delta: torch.Tensor, u: torch.Tensor, matrix: torch.Tensor, sigma1: float, sigma2: float
) -> torch.Tensor:
    """D_I of displacements by attacks u (N, P) in units of the range; see ``mahalanobis_norm``."""
    left = delta - (u.to(matrix) @ matrix.T)[..., None, None]
    squares = left.flatten(1).square().sum(1) / sigma2**2
    return (squares + u.to(matrix).square().sum(1) / sigma1**2).sqrt()


class Displacement:
    """D(xi) of one surrogate, and noise of scale sigma1 (in units of the range) and sigma2.

    Raises:
        ValueError: If F1 is not linear or a scale not positive.
    """

    def __init__(self, surrogate: Surrogate, sigma1: float, sigma2: float) -> None:
        for name, sigma in (('sigma1', sigma1), ('sigma2', sigma2)):
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(f'{name} must be positive and finite, got {sigma}')
        self.surrogate, self.sigma1, self.sigma2 = surrogate, sigma1, sigma2
        self.matrix = surrogate.matrix()
        self.encoder = copy.deepcopy(surrogate.image_encoder).double()

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, parameters: torch.Tensor, at_clean: torch.Tensor | None = None
    ) -> torch.Tensor:
        """D of an image (C, H, W) in [0, 1] at parameters (N, P), shape (N,), float64.

        ``at_clean`` is the ``latent`` of the image, if it is at hand.

        Raises:
            ValueError: If a parameter is outside the range, or D not finite: no threshold follows
                from that.
        """
        transformation = self.surrogate.transformation
        rows = self.surrogate.check_within(parameters).to(image.device)
        clean = image.double()[None]
        at_clean = self.latent(image) if at_clean is None else at_clean
        found = []
        for some in rows.split(CHUNK):
            # Unchecked: an image that was attacked before may lie outside [0, 1].
            attacked = transformation.transform(clean.expand(len(some), -1, -1, -1), some)
            found.append(self._norm(self.encoder(attacked) - at_clean, some))
        values = torch.cat(found)
        bad = ~values.isfinite()
        if bool(bad.any()):
            raise ValueError(
                f'{transformation.name} at {rows[bad][0].tolist()} moves the latent by '
                f'{float(values[bad][0])}: the surrogate or the attacked image overflows'
            )
        return values

    @torch.no_grad()
    def latent(self, image: torch.Tensor) -> torch.Tensor:
        """F2 of an image (C, H, W) in double precision, shape (L, h, w): what D speaks of."""
        return self.encoder.to(image.device)(image.double()[None])[0]

    def _norm(self, delta: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        matrix = self.matrix.to(delta.device)
        if self.surrogate.transformation.moves_labels:
            # The attack's distance from the identity, where an anchor may not be.
            identity = self.surrogate.transformation.identity
            assert identity is not None, 'what moves labels has an identity'
            u = (parameters - identity.to(parameters)) / self.surrogate.scale.to(parameters)
            return split_norm(delta, u, matrix, self.sigma1, self.sigma2)
        return mahalanobis_norm(delta, matrix, self.sigma1, self.sigma2)

    def supremum(self, image: torch.Tensor, attack: AttackSet) -> Supremum:
        """The supremum of D over an attack set, for an image (C, H, W) in [0, 1].

        Exact up to the margin for finite sets, an upper bound for intervals, and a lower bound for
        sampled ranges.

        Raises:
            ValueError: If the set is of another transformation or outside the range, or the mode is
                'lipschitz' and the transformation has no proven Lipschitz constant, or an infinite
                one.
        """
        transformation, values = self.surrogate.transformation, attack.values
        attack.check_of(transformation)
        if attack.mode == 'lipschitz':
            return self._bounded(image, attack)
        if attack.mode == 'sampled':
            count = max(2, math.floor(attack.points ** (1 / len(transformation.parameters))))
            values = transformation.grid(values[0], values[1], count)
        return self._largest(image, values, attack.mode)

    def _largest(self, image: torch.Tensor, values: torch.Tensor, by: str) -> Supremum:
        """The largest D at some parameters."""
        found = self(image, values)
        index = int(found.argmax())
        largest, worst = float(found[index]), tuple(values[index].tolist())
        return Supremum(_with_margin(largest), largest, worst, len(values), by)

    @cached_property
    def encoder_constant(self) -> float:
        """A Lipschitz constant of F2, computed once."""
        return self.encoder.lipschitz()

    @torch.no_grad()
    def _bounded(self, image: torch.Tensor, attack: AttackSet) -> Supremum:
        """An upper bound over an interval, by halving where the bound is largest.

        Where the image moves along a straight line and F2 is affine, so does the latent: D is a
        norm of it, convex along the line, and largest at an end of the interval.

        Between a and b, a function of Lipschitz constant L does not exceed (D(a) + D(b) +
        L (b - a)) / 2. That of D is Lip(F2) Lip(T) / sigma2, since S^{-1/2} is at most 1 / sigma2.
        """
        transformation = self.surrogate.transformation
        if transformation.moves_labels:
            raise ValueError(
                f"{transformation.name}: mode='lipschitz' is for transformations that leave labels "
                'in place; give values'
            )
        if transformation.straight and not self.surrogate.hidden:
            return self._largest(image, attack.values, 'convex')
        encoder = self.encoder_constant / self.sigma2
        clean, at_clean = image.double()[None], self.latent(image)

        def point(place: float) -> tuple[float, float]:
            at = torch.tensor([[place]], dtype=torch.float64)
            return place, float(self(image, at, at_clean))

        def piece(left: tuple[float, float], right: tuple[float, float]) -> tuple[Any, ...]:
            (a, at_a), (b, at_b) = left, right
            constant = encoder * float(transformation.lipschitz(clean, a, b))
            if not math.isfinite(constant):
                raise ValueError(
                    f'{transformation.name} has the Lipschitz constant {constant} on [{a}, {b}]: '
                    'use a finite set of parameters'
                )
            return -(at_a + at_b + constant * (b - a)) / 2, left, right

        first, last = (point(end) for end in attack.values[:, 0].tolist())
        # The largest value, and at equal ones the largest place.
        worst = max(first, last, key=lambda found: found[::-1])
        # The piece of the largest bound comes first.
        heap, looked_at = [piece(first, last)], 2
        while looked_at < attack.points and -heap[0][0] > worst[1] * (1 + TOLERANCE):
            _, left, right = heapq.heappop(heap)
            middle = point((left[0] + right[0]) / 2)
            looked_at += 1
            worst = max(worst, middle, key=lambda found: found[::-1])
            heapq.heappush(heap, piece(left, middle))
            heapq.heappush(heap, piece(middle, right))
        bound = _with_margin(max(-heap[0][0], worst[1]))
        return Supremum(bound, worst[1], (worst[0],), looked_at, 'lipschitz')

    def paper_coefficient(self, image: torch.Tensor, parameters: torch.Tensor) -> float | None:
        """GSmooth's coefficient M*, as its largest value at parameters (N, P): an estimate.

        M(xi) = sqrt(1 / sigma1^2 + ||dF2(T_xi x) / du - A1||_2^2 / sigma2^2), with the derivative
        by forward differentiation and the spectral norm of its few columns, exact at each
        parameter. The radius that the paper gives is Phi^{-1}(tau) / M* (its Theorem 3). A maximum
        over sampled parameters bounds M* from below, and the surrogate is taken for the
        transformation. The unit is that of the range. None if the transformation is not
        differentiable in its parameters, as a class or at one of these.
        """
        transformation = self.surrogate.transformation
        if not transformation.differentiable_parameters:
            return None
        device, clean = image.device, image.double()[None]
        encoder, matrix = self.encoder.to(device), self.matrix.to(device)

        def latent(value: torch.Tensor) -> torch.Tensor:
            return encoder(transformation.transform(clean, value[None]))[0]

        largest = 0.0
        for row in self.surrogate.check_within(parameters).to(device):
            columns = [
                torch.func.jvp(latent, (row,), (unit,))[1] - column[:, None, None]
                for unit, column in zip(
                    torch.diag(self.surrogate.scale.to(device)), matrix.T, strict=True
                )
            ]
            jacobian = torch.stack(columns).flatten(1).T.detach()
            if not bool(jacobian.isfinite().all()):
                return None
            norm = float(torch.linalg.matrix_norm(jacobian, 2))
            largest = max(largest, math.sqrt(1 / self.sigma1**2 + (norm / self.sigma2) ** 2))
        return largest


def _with_margin(value: float) -> float:
    return value * (1 + RELATIVE_MARGIN) + ABSOLUTE_MARGIN
