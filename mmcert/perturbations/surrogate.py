"""Smoothing through a surrogate of a semantic transformation (GSmooth)."""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import ndtr

from mmcert.perturbations.base import LARGEST_TAU, InputThreshold, Perturbation, register
from mmcert.perturbations.distributions import STANDARD_NORMAL, Gaussian
from mmcert.perturbations.images import OVERSHOOT, check_image
from mmcert.perturbations.lattice import on_grid, points_per_unit
from mmcert.perturbations.noise_level import validate_positive
from mmcert.surrogates import (
    AttackSet,
    Displacement,
    Surrogate,
    build_attack_set,
    load_surrogate,
)
from mmcert.surrogates.displacement import ABSOLUTE_MARGIN, RELATIVE_MARGIN
from mmcert.transformations import build
from mmcert.transformations.geometry import AboutCentre, Geometric, Rotation, Shift

PAPER_POINTS = 9
"""Parameters of a range at which the paper's coefficient is looked at."""

NORMS = {
    False: 'Mahalanobis distance of the latent, under the distribution of its noise',
    True: (
        'of content moved by u and a latent moved by Delta: sqrt(|u|^2 / sigma1^2 + '
        '|Delta - A1 u|^2 / sigma2^2)'
    ),
}
"""What a radius measures, by ``moves_labels``. Where labels are read at the place to which theta
moves them, theta does not absorb what moves the latent alone."""

ADDITIVE = (Rotation, Shift)
"""Geometric transformations whose parameters add up when one follows the other."""


@register
class SurrogateTransform(Perturbation):
    """Noise in the latent of a surrogate: certificates against the transformation it imitates.

    The smoothed model is E f(H(F1(theta) + theta' + F2(x))) with f the base model, theta ~ N(0,
    sigma1^2 I) in units of the surrogate's range and theta' ~ N(0, sigma2^2 I) in its latent layer.
    It is a Gaussian smoothing of the latent, so an attack on the image counts by how far it moves
    the latent: see ``mmcert.surrogates.displacement`` for D(xi) and why D(xi) < Phi^{-1}(tau)
    suffices. The attack is the real transformation: the surrogate's error does not enter. Latents
    and noise are computed in double precision, and rounded to a grid of steps of at most sigma2 /
    65,536, which is the first step of what follows them: see ``lattice``.

    Where the transformation moves the labels, a component is the content at a position v of the
    clean image, and a certificate says: on T_xi x, the smoothed model gives the class of that
    content to the pixel w nearest to A_xi v. There it reads each draw at the pixel nearest to
    A_theta w, which is the place A_{theta + xi} v plus the half pixel, at most, between w and A_xi
    v, turned as theta turns it. A draw on the clean image is therefore a hit only if it shows the
    class at all pixels that such a place may be nearest to, and if no rotation of the surrogate's
    range takes the content out of the frame (``labels_for_hits``). Hits of probability above tau
    stay above 1/2 under the attack, by the bound D_I of their joint shift, and each of them is the
    class at w.

    With ``attack``, each image x is tested at the threshold that it needs, tau(x) = Phi(sup D),
    which depends on the image alone. ``radius`` speaks of the latent: the largest distance that its
    mean may move, in the norm that the guarantee names. The draws do not depend on ``attack``:
    votes that were sampled once are found again for another.

    Args:
        surrogate (Surrogate | str | Mapping): A surrogate, the file of one (from
            ``tools/train_surrogate.py``), or what ``spec`` said of one, which is enough for
            answers from stored votes.
        sigma1 (float): Scale of theta, in units of the surrogate's range.
        sigma2 (float): Scale of theta', in the units of the latent.
        attack (AttackSet | Mapping | None): What the certificates speak of, see
            ``mmcert.surrogates.build_attack_set``; None for the latent itself.

    Raises:
        ValueError: If a scale is not positive, the attack set not valid for the surrogate, its F1
            not linear, or the transformation moves the labels and its parameters do not add up or
            do not extend to both sides of the identity.

    Example:
        >>> small = Surrogate('brightness', -0.3, 0.3, latent_channels=2, stride=4, width=8)
        >>> attack = dict(values=[-0.1, 0.1])
        >>> brightness = SurrogateTransform(small, sigma1=0.5, sigma2=0.25, attack=attack)
        >>> brightness.guarantee(0.9).attack_set
        'brightness with shift (image) in {-0.1, 0.1}'
    """

    moves_labels = False  # Until a transformation says otherwise.
    distribution = "theta ~ N(0, sigma1^2 I) and theta' ~ N(0, sigma2^2 I) in the latent layer"
    unit = 'standard deviations'
    formula = 'whatever moves the latent by less than the radius'
    attack_text = (
        "change of the image that moves the surrogate's latent by less than {radius:.4g} ({norm})"
    )
    stage = (
        'the transformation acts on the image in [0, 1] units as it reaches the smoothed model, '
        'and the surrogate on what comes of that, unclipped; input scaling, normalisation and '
        'padding follow'
    )

    def __init__(
        self,
        surrogate: Surrogate | str | os.PathLike[str] | Mapping[str, Any],
        sigma1: float,
        sigma2: float,
        attack: AttackSet | Mapping[str, Any] | None = None,
    ) -> None:
        self.sigma1 = validate_positive(sigma1, 'sigma1')
        self.sigma2 = validate_positive(sigma2, 'sigma2')
        self.rounding = (
            'the smoothed function first rounds the noisy latent to multiples of '
            f'{1 / points_per_unit(self.sigma2):.4g}'
        )
        self._surrogate: Surrogate | None = None
        self._encoded: _Encoded | None = None
        self._inside: torch.Tensor | None = None
        if isinstance(surrogate, Mapping):
            if attack is not None:
                raise ValueError('an attack set needs the surrogate itself, not its description')
            self._identity = dict(surrogate)
            self.moves_labels = build(self._identity['transformation']).moves_labels
        else:
            # A copy: it is moved to the images' device, and must not be trained on.
            made = copy.deepcopy(surrogate) if isinstance(surrogate, Surrogate) else None
            found = made or load_surrogate(surrogate)  # type: ignore[arg-type]
            self._surrogate = found.eval().requires_grad_(False)
            self._identity = {**found.spec(), 'digest': found.digest()}
            self._displacement = Displacement(found, self.sigma1, self.sigma2)
            self.moves_labels = found.transformation.moves_labels
            if self.moves_labels:
                _check_adds_up(found)
        self.norm = NORMS[self.moves_labels]
        self.attack: AttackSet | None = None if attack is None else self._checked(attack)
        if self.attack is not None:
            self.per_input_threshold = True
            self.formula = self.attack.describe(self.surrogate.transformation)

    def _checked(self, attack: AttackSet | Mapping[str, Any]) -> AttackSet:
        """An attack set of the surrogate's transformation and within its range."""
        found = build_attack_set(attack, self.surrogate.transformation)
        self.surrogate.check_within(found.values)
        return found

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate, on the device of the last image; a ValueError if there is none."""
        if self._surrogate is None:
            raise ValueError('sampling needs the surrogate itself, not its description')
        return self._surrogate

    @property
    def selection_counts(self) -> bool:
        """Not where labels move: hits ask for more than the label there."""
        return not self.moves_labels

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units of so many channels."""
        channels = self.surrogate.channels
        check_image(inputs, max(OVERSHOOT, self._overshoot()))
        if len(inputs) != channels:
            raise ValueError(
                f'the surrogate was made for {channels} channels, the image has {len(inputs)}'
            )

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws theta first, then theta', as one tensor (B, P + L h w), float64.

        theta is in units of the range, theta' in the order of the latent (L, h, w).
        """
        squares = math.prod(-(-side // self.surrogate.stride) for side in inputs.shape[-2:])
        split = len(self.surrogate.low)
        shape = (len(generators), split + self.surrogate.latent_channels * squares)
        values = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        Gaussian(self.sigma1).fill_batch(values[:, :split], generators)
        Gaussian(self.sigma2).fill_batch(values[:, split:], generators)
        return values

    @torch.no_grad()
    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Makes images by the surrogate, not clipped; theta stays, theta' changes in place."""
        return self.apply_at(inputs, parameters, inputs.dtype)

    @torch.no_grad()
    def apply_at(
        self, image: torch.Tensor, parameters: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """As ``apply``, to an image in any precision, giving images of another type."""
        latent, split = self._latent(image), len(self.surrogate.low)
        noise = parameters[:, split:].unflatten(1, latent.shape)
        shifted = latent + self._shift(parameters[:, :split])
        latents = on_grid(shifted, noise, self.sigma2)
        size = (image.shape[-2], image.shape[-1])
        latents = latents.to(self.surrogate.parameter_encoder.weight.dtype)
        return self.surrogate.decode(latents, size).to(dtype)

    @property
    def lipschitz(self) -> float:
        """That of ``coordinates`` in the l2 norm of the image."""
        return self._displacement.encoder_constant / self.sigma2

    @property
    def rounding_unit(self) -> float:
        """A step of the latent's grid in standard deviations of the noise."""
        return 1 / (points_per_unit(self.sigma2) * self.sigma2)

    @torch.no_grad()
    def coordinates(self, images: torch.Tensor) -> torch.Tensor:
        """Where images lie in a space in which the noise is standard normal.

        What the model receives under a draw on image x is a function of coordinates(x) + N(0, I).
        They are S^{-1/2} F2(x), with S as in ``mmcert.surrogates.displacement``; their distances
        are ``mahalanobis_norm``.

        Args:
            images (torch.Tensor): Shape (B, C, H, W), float64, in [0, 1] units.

        Returns:
            torch.Tensor: Shape (B, L h w), float64.
        """
        self.surrogate.to(images.device)
        latents = self._displacement.encoder.to(images.device)(images)
        places = latents.shape[-2] * latents.shape[-1]
        matrix = self._displacement.matrix.to(latents)
        # The eigenvectors of S that theta widens are the same at all places.
        vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
        widths = (self.sigma2**2 + places * (self.sigma1 * values) ** 2).sqrt()
        along = latents.flatten(2).mean(dim=2) @ vectors
        excess = along * (1 - self.sigma2 / widths) @ vectors.T
        return (latents - excess[..., None, None]).flatten(1) / self.sigma2

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Label maps at the positions of the clean image; see ``Perturbation``."""
        transformation = self.surrogate.transformation
        if not isinstance(transformation, Geometric):
            return labels
        return transformation.read_content(labels.long(), self._moves(parameters), -1)

    def labels_for_hits(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """What counts as a hit, wherever the attack's content is rounded to; see the class."""
        transformation = self.surrogate.transformation
        if not isinstance(transformation, Geometric):
            return labels
        agreed = transformation.read_agreed_content(labels.long(), self._moves(parameters), -1)
        return agreed.masked_fill(~self._stays(labels), -1)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold | None:
        """The threshold that the attack set takes on an image; see ``Perturbation``."""
        if self.attack is None:
            return None
        found = self._displacement.supremum(inputs, self.attack)
        details: dict[str, Any] = {
            'supremum_by': found.by,
            'displacement': found.value,
            'largest_found': found.found,
            'worst_parameter': list(found.worst),
            'parameters_looked_at': found.looked_at,
            'margin': f'{RELATIVE_MARGIN:g} of the supremum and {ABSOLUTE_MARGIN:g}',
        }
        if paper := self._of_the_paper(inputs, self.attack):
            details['paper'] = paper
        tau = min(max(float(ndtr(found.value)), 0.5), LARGEST_TAU)
        return InputThreshold(tau, self.attack.kind, details)

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Largest distance of the latent's mean: Phi^{-1}(tau) - Phi^{-1}(target)."""
        return STANDARD_NORMAL.radius(tau, target)

    def _attack(self, tau: float) -> str:
        return super()._attack(tau) if self.attack is None else self.formula

    def _claim(self, tau: float) -> str:
        claim = super()._claim(tau)
        if self.attack is None:
            return claim
        sampled = 'an estimate, from parameters that were sampled: '
        return (
            f'{sampled * (self.attack.kind == "estimate")}{claim}, each image being tested at the '
            'threshold that this takes on it'
        )

    def _extra(self, tau: float) -> dict[str, Any]:
        if self.attack is None:
            return {}
        return {'attack': self.attack.spec(), **self.surrogate.transformation.to_dict()}

    def spec(self) -> dict[str, Any]:
        """Class name, surrogate and scales; the attack does not matter to the draws."""
        return {
            'type': 'SurrogateTransform',
            'surrogate': self._identity,
            'sigma1': self.sigma1,
            'sigma2': self.sigma2,
        }

    def __repr__(self) -> str:
        name = self._identity['transformation']['type']
        attack = '' if self.attack is None else f', attack={self.attack.spec()}'
        return f'SurrogateTransform({name}, sigma1={self.sigma1}, sigma2={self.sigma2}{attack})'

    def _latent(self, inputs: torch.Tensor) -> torch.Tensor:
        """F2 of the image, computed once while the image is the same.

        In double precision, as for D: in the precision of a model, F2 would be another function
        than the one whose displacement is bounded.
        """
        if self._encoded is None or not self._encoded.is_of(inputs):
            self.surrogate.to(inputs.device)
            latent = self._displacement.latent(inputs)
            self._encoded = _Encoded(inputs, _version(inputs), inputs.clone(), latent)
        return self._encoded.latent

    def _overshoot(self) -> float:
        """How far beyond [0, 1] the transformation takes values, where that is by much."""
        transformation = self.surrogate.transformation
        if not transformation.straight:
            return 0.0
        black = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
        ends = torch.stack([self.surrogate.low, self.surrogate.high]).double()
        found = torch.cat([transformation.transform(black + x, ends) for x in (0, 1)])
        return max(float(-found.min()), float(found.max()) - 1)

    def _stays(self, labels: torch.Tensor) -> torch.Tensor:
        """Content that no rotation of the range takes out of the frame, shape (H, W), bool.

        Translations need no such care: half of the draws at least would take it out as well.
        """
        surrogate, size = self.surrogate, (labels.shape[-2], labels.shape[-1])
        if self._inside is None or self._inside.shape != size:
            self._inside = torch.ones(size, dtype=torch.bool)
            if isinstance(surrogate.transformation, AboutCentre):
                reached = surrogate.transformation.reached(surrogate.low, surrogate.high, *size)
                self._inside = (reached >= 0).all(dim=0)
        self._inside = self._inside.to(labels.device)
        return self._inside

    def _moves(self, parameters: torch.Tensor) -> torch.Tensor:
        """The transformation's parameters of some draws, shape (B, P), float64.

        The noise may leave the range in which the transformation is defined.
        """
        u = parameters[:, : len(self.surrogate.low)]
        anchor, scale = self.surrogate.anchor, self.surrogate.scale
        return anchor.to(u.device) + scale.to(u.device) * u

    def _shift(self, u: torch.Tensor) -> torch.Tensor:
        """F1 in double precision, shape (B, L, 1, 1)."""
        matrix, bias = self._displacement.matrix, self.surrogate.parameter_encoder.bias
        return F.linear(u, matrix.to(u), bias.to(u))[..., None, None]

    def _of_the_paper(self, inputs: torch.Tensor, attack: AttackSet) -> dict[str, Any] | None:
        """GSmooth's own bound for this image, an estimate."""
        surrogate, values = self.surrogate, attack.values
        if attack.mode != 'finite':
            values = surrogate.transformation.grid(values[0], values[1], PAPER_POINTS)
        coefficient = self._displacement.paper_coefficient(inputs, values)
        if coefficient is None:
            return None
        identity = surrogate.transformation.identity
        assert identity is not None, 'what is differentiable in its parameters has an identity'
        reach = float(((values - identity) / surrogate.scale).norm(dim=1).max())
        return {
            'kind': 'estimate',
            'coefficient': coefficient,
            'radius_needed': reach,
            'tau': float(ndtr(coefficient * reach)),
            'description': (
                "GSmooth's bound: M* from sampled parameters (those of a finite set), where the "
                'paper has all up to the radius, and the surrogate taken for the transformation; '
                'radius z(tau) / M* in units of the range'
            ),
        }


def _check_adds_up(surrogate: Surrogate) -> None:
    """Refuses a label-moving transformation by which labels cannot be read at A_theta w."""
    name = surrogate.transformation.name
    if not isinstance(surrogate.transformation, ADDITIVE):
        raise ValueError(
            f'{name} moves the labels, and its parameters do not add up when one follows the '
            'other: use its certificate by cells'
        )
    if not bool(((surrogate.low < 0) & (surrogate.high > 0)).all()):
        raise ValueError(
            f'{name} moves the labels by as much as each draw says, to either side: train the '
            'surrogate for a range that has 0 in its middle, got '
            f'{surrogate.low.tolist()} to {surrogate.high.tolist()}'
        )


@dataclass(frozen=True, eq=False)
class _Encoded:
    """An image and its latent."""

    image: torch.Tensor
    version: int
    content: torch.Tensor
    latent: torch.Tensor

    def is_of(self, inputs: torch.Tensor) -> bool:
        """Whether an image is the same in all its values."""
        if inputs.is_cuda and inputs is self.image and _version(inputs) == self.version >= 0:
            # Comparing the values would hold up the device's queue.
            return True
        content = self.content
        alike = (inputs.device, inputs.dtype) == (content.device, content.dtype)
        return alike and torch.equal(inputs, content)


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was changed in place; -1 where torch does not count."""
    return -1 if tensor.is_inference() else tensor._version
