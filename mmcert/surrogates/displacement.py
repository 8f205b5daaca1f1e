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

from __future__ import annotations

import copy
import heapq
import math
from dataclasses import dataclass
from functools import cached_property

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
    """D_I of displacements of the latent by attacks u in units of the range, shape (N, P).

    The other arguments and the result are those of ``mahalanobis_norm``.
    """
    left = delta - (u.to(matrix) @ matrix.T)[..., None, None]
    squares = left.flatten(1).square().sum(1) / sigma2**2
    return (squares + u.to(matrix).square().sum(1) / sigma1**2).sqrt()


class Displacement:
    """D(xi) of one surrogate and noise.

    Args:
        surrogate (Surrogate): With a linear F1.
        sigma1 (float): Scale of theta, in units of the surrogate's range.
        sigma2 (float): Scale of theta'.

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
    def __call__(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """D at some parameters.

        Args:
            image (torch.Tensor): Shape (C, H, W), in [0, 1] units.
            parameters (torch.Tensor): Shape (N, P), within the surrogate's range.

        Returns:
            torch.Tensor: Shape (N,), float64.

        Raises:
            ValueError: If a parameter is outside the range, or D not finite: no threshold follows
                from that.
        """
        return self._values(image, self.latent(image), parameters)

    def _values(
        self, image: torch.Tensor, at_clean: torch.Tensor, parameters: torch.Tensor
    ) -> torch.Tensor:
        """D at some parameters, given the latent of the clean image."""
        rows = self.surrogate.check_within(parameters).to(image.device)
        clean = image.double()[None]
        found = []
        for part in rows.split(CHUNK):
            # Unchecked: an image that was attacked before may lie outside [0, 1].
            images = clean.expand(len(part), -1, -1, -1)
            attacked = self.surrogate.transformation.transform(images, part)
            found.append(self._norm(self.encoder(attacked) - at_clean, part))
        values = torch.cat(found)
        if not bool(values.isfinite().all()):
            at = rows[~values.isfinite()][0].tolist()
            raise ValueError(
                f'{self.surrogate.transformation.name} at {at} moves the latent by '
                f'{float(values[~values.isfinite()][0])}: the surrogate or the attacked image '
                'overflows'
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
        """The supremum of D over an attack set.

        Args:
            image (torch.Tensor): Shape (C, H, W), in [0, 1].
            attack (AttackSet): The set, and the mode.

        Returns:
            Supremum: Exact up to the margin for finite sets, an upper bound for intervals, and a
            lower bound for sampled ranges.

        Raises:
            ValueError: If the set is of another transformation or outside the range, or the mode is
                'lipschitz' and the transformation has no proven Lipschitz constant, or an infinite
                one.
        """
        attack.check_of(self.surrogate.transformation)
        if attack.mode == 'lipschitz':
            return self._bounded(image, attack)
        values = attack.values
        if attack.mode == 'sampled':
            transformation = self.surrogate.transformation
            width = len(transformation.parameters)
            count = max(2, math.floor(attack.points ** (1 / width)))
            values = transformation.grid(values[0], values[1], count)
        return self._largest(image, values, attack.mode)

    def _largest(self, image: torch.Tensor, values: torch.Tensor, by: str) -> Supremum:
        """The largest D at some parameters."""
        found = self(image, values)
        index = int(found.argmax())
        largest = float(found[index])
        worst = tuple(values[index].tolist())
        return Supremum(_with_margin(largest), largest, worst, len(values), by)

    @cached_property
    def _encoder_constant(self) -> float:
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
        encoder = self._encoder_constant / self.sigma2
        clean, at_clean = image.double()[None], self.latent(image)

        def value(at: float) -> float:
            return float(self._values(image, at_clean, torch.tensor([[at]], dtype=torch.float64)))

        def bound(a: float, at_a: float, b: float, at_b: float) -> float:
            constant = encoder * float(transformation.lipschitz(clean, a, b))
            if not math.isfinite(constant):
                raise ValueError(
                    f'{transformation.name} has the Lipschitz constant {constant} on [{a}, {b}]: '
                    'use a finite set of parameters'
                )
            return (at_a + at_b + constant * (b - a)) / 2

        low, high = attack.values[:, 0].tolist()
        ends = [(low, value(low)), (high, value(high))]
        looked_at = 2
        largest, worst = max((at, place) for place, at in ends)
        (a, at_a), (b, at_b) = ends
        heap = [(-bound(a, at_a, b, at_b), a, at_a, b, at_b)]
        while looked_at < attack.points and -heap[0][0] > largest * (1 + TOLERANCE):
            _, a, at_a, b, at_b = heapq.heappop(heap)
            middle = (a + b) / 2
            at = value(middle)
            looked_at += 1
            largest, worst = max((largest, worst), (at, middle))
            heapq.heappush(heap, (-bound(a, at_a, middle, at), a, at_a, middle, at))
            heapq.heappush(heap, (-bound(middle, at, b, at_b), middle, at, b, at_b))
        value_found = _with_margin(max(-heap[0][0], largest))
        return Supremum(value_found, largest, (worst,), looked_at, 'lipschitz')


def _with_margin(value: float) -> float:
    return value * (1 + RELATIVE_MARGIN) + ABSOLUTE_MARGIN


def paper_coefficient(
    surrogate: Surrogate,
    image: torch.Tensor,
    parameters: torch.Tensor,
    sigma1: float,
    sigma2: float,
) -> float | None:
    """GSmooth's coefficient M*, as its largest value at some parameters.

    M(xi) = sqrt(1 / sigma1^2 + ||dF2(T_xi x) / du - A1||_2^2 / sigma2^2), with the derivative by
    forward differentiation and the spectral norm of its few columns, exact at each parameter. The
    radius that the paper gives is Phi^{-1}(tau) / M* (its Theorem 3). A maximum over sampled
    parameters bounds M* from below, and the surrogate is taken for the transformation, so this is
    an estimate.

    Args:
        surrogate (Surrogate): The surrogate.
        image (torch.Tensor): Shape (C, H, W), in [0, 1].
        parameters (torch.Tensor): Where to look, shape (N, P).
        sigma1 (float): Scale of theta, in units of the surrogate's range.
        sigma2 (float): Scale of theta'.

    Returns:
        float | None: In units of the range; None where the transformation is not differentiable in
        its parameters, as a class or at one of these.
    """
    transformation = surrogate.transformation
    if not transformation.differentiable_parameters:
        return None
    rows = surrogate.check_within(parameters).to(image.device)
    encoder = copy.deepcopy(surrogate.image_encoder).double().to(image.device)
    matrix, scale = surrogate.matrix().to(image.device), surrogate.scale.to(image.device)
    clean = image.double()[None]
    largest = 0.0
    for row in rows:
        columns = []
        for index in range(len(row)):
            tangent = torch.zeros_like(row)
            tangent[index] = scale[index]

            def latent(value: torch.Tensor) -> torch.Tensor:
                return encoder(transformation.transform(clean, value[None]))[0]

            column = torch.func.jvp(latent, (row,), (tangent,))[1]
            columns.append((column - matrix[:, index, None, None]).flatten().detach())
        jacobian = torch.stack(columns, 1)
        if not bool(jacobian.isfinite().all()):
            return None
        norm = float(torch.linalg.matrix_norm(jacobian, 2))
        largest = max(largest, math.sqrt(1 / sigma1**2 + (norm / sigma2) ** 2))
    return largest
