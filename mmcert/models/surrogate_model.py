"""Training of surrogates through mmengine's runner."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from mmcert.perturbations.noise_level import validate_positive
from mmcert.registry import MODELS
from mmcert.surrogates import AttackSet, Displacement, Surrogate, build_attack_set
from mmcert.surrogates.displacement import mahalanobis_norm, split_norm
from mmcert.transformations import check_images

HELD_OUT_PARAMETERS = 5
"""Parameters, evenly over the range, at which the error on held-out images is measured."""


@MODELS.register_module()
class SurrogateModel(BaseModel):
    """A surrogate in training: GSmooth's loss, and an encoder that learns to certify.

    GSmooth's loss is the L1 distance of the surrogate H(F1(u) + theta' + F2(x)) from the real
    transformation of the image, at random parameters; here with the noise theta' that smoothing
    will add, so that H learns to see through it. Beside it stands a penalty on the displacement D
    of the latent under the attacks that are to be certified, ``weight`` times
    max(D / target - 1, 0)^2: the encoder keeps what tells images apart through the noise and that
    the attack hardly moves. D = ``target`` takes the threshold tau = Phi(target).

    Args:
        surrogate (Mapping): Arguments of ``mmcert.surrogates.Surrogate``.
        sigma1 (float): Scale of theta, in units of the range, for D.
        sigma2 (float): Scale of theta', which is added in training as well.
        attack (Mapping): What is to be certified, see ``mmcert.surrogates.build_attack_set``.
        target (float): Displacement that is free of penalty.
        weight (float): Of the penalty; 0 gives GSmooth's loss.
        data_preprocessor (Mapping | None): Must bring images into [0, 1].

    Raises:
        ValueError: If a scale or the target is not positive, the weight negative, or the attack set
            outside the surrogate's range.
    """

    def __init__(
        self,
        surrogate: Mapping[str, Any],
        sigma1: float,
        sigma2: float,
        attack: Mapping[str, Any],
        target: float = 1.7,
        weight: float = 0.05,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.surrogate = Surrogate(**surrogate)
        self.sigma1 = validate_positive(sigma1, 'sigma1')
        self.sigma2 = validate_positive(sigma2, 'sigma2')
        self.target = validate_positive(target, 'target')
        if not 0 <= weight < math.inf:
            raise ValueError(f'weight must be a number of at least 0, got {weight}')
        self.weight = weight
        self.attack: AttackSet = build_attack_set(attack, self.surrogate.transformation)
        self.surrogate.check_within(self.attack.values)

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Losses of images (B, C, H, W) in [0, 1], or what is reported of held-out images.

        With mode 'loss' a dict of losses; with 'predict' the samples with ``error`` (mean absolute
        difference from the real transformation, without noise, over the range), ``noisy_error``
        (with it) and ``displacement`` (the supremum of D); with 'tensor' the surrogate at random
        parameters.

        Raises:
            ValueError: If the images are not in [0, 1].
        """
        check_images(inputs)
        if mode == 'loss':
            return self.losses(inputs)
        if mode == 'predict':
            return self._judged(inputs, list(data_samples or ()))
        u = self._random_u(len(inputs), inputs.device)
        return self.surrogate(inputs, u)

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of a batch of images (B, C, H, W); ``displacement`` is for the log."""
        surrogate = self.surrogate
        transformation = surrogate.transformation
        u = self._random_u(len(images), images.device)
        with torch.no_grad():
            wanted = transformation.transform(images, surrogate.parameters_at(u))
            attacks = self._random_attacks(len(images)).to(images.device)
            attacked = transformation.transform(images, attacks)
        latents = surrogate.encode(images)
        noise = self.sigma2 * torch.randn_like(latents)
        made = surrogate.decode(latents + surrogate.shift(u) + noise, images.shape[-2:])  # type: ignore[arg-type]
        moved = surrogate.encode(attacked) - latents
        matrix = surrogate.parameter_encoder.weight
        if transformation.moves_labels:
            at = surrogate.normalized(attacks)
            displacement = split_norm(moved, at, matrix, self.sigma1, self.sigma2)
        else:
            displacement = mahalanobis_norm(moved, matrix, self.sigma1, self.sigma2)
        excess = F.relu(displacement / self.target - 1).square().mean()
        return {
            'loss_image': (made - wanted).abs().mean(),
            'loss_displacement': self.weight * excess,
            'displacement': displacement.detach().mean(),
        }

    @torch.no_grad()
    def _judged(
        self, images: torch.Tensor, samples: list[BaseDataElement]
    ) -> list[BaseDataElement]:
        surrogate = self.surrogate
        displacement = Displacement(surrogate, self.sigma1, self.sigma2)
        for index, image in enumerate(images):
            sample = samples[index] if index < len(samples) else BaseDataElement()
            batch = image.expand(HELD_OUT_PARAMETERS, *image.shape)
            u = self.evenly_spaced(HELD_OUT_PARAMETERS).to(image.device)
            real = surrogate.transformation.transform(batch, surrogate.parameters_at(u))
            # The same noise at each call: checkpoints are compared.
            generator = torch.Generator(image.device).manual_seed(index)
            noise = torch.empty_like(surrogate.encode(batch)).normal_(generator=generator)
            noisy = surrogate(batch, u, self.sigma2 * noise)
            judged = {
                'error': float((surrogate(batch, u) - real).abs().mean()),
                'noisy_error': float((noisy - real).abs().mean()),
                'displacement': displacement.supremum(image, self.attack).value,
            }
            sample.set_metainfo(judged)
            samples[index : index + 1] = [sample]
        return samples

    def evenly_spaced(self, count: int) -> torch.Tensor:
        """Normalised parameters along the diagonal of the range, shape (count, P), float64."""
        surrogate = self.surrogate
        steps = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
        return surrogate.normalized(surrogate.low + steps * (surrogate.high - surrogate.low))

    def _random_u(self, count: int, device: torch.device) -> torch.Tensor:
        """Uniform on [-1, 1]; see ``Surrogate.parameters_at``."""
        width = len(self.surrogate.low)
        return torch.rand(count, width, device=device, dtype=torch.float64) * 2 - 1

    def _random_attacks(self, count: int) -> torch.Tensor:
        """Members of the attack set; of a range, half of them at its ends."""
        values = self.attack.values
        if self.attack.mode == 'finite':
            return values[torch.randint(len(values), (count,))]
        share = torch.rand(count, values.shape[1], dtype=torch.float64)
        ends = torch.rand(count, 1) < 0.5
        drawn = values[0] + torch.where(ends, share.round(), share) * (values[1] - values[0])
        whole = torch.tensor([p.integer for p in self.surrogate.transformation.parameters])
        return torch.where(whole, drawn.round(), drawn)
