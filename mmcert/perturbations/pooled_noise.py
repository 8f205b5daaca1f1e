"""Noise on a pooled image: what is left of it after pooling is what has to be paid for."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from mmcert.certify.checks import check_draws
from mmcert.perturbations.base import register, straight_through
from mmcert.perturbations.lattice import on_levels
from mmcert.perturbations.noise import NOT_CLIPPED, GaussianNoise


@register
class PooledNoise(GaussianNoise):
    r"""I.i.d. Gaussian noise on the means of blocks of pixels: certificates against l2 attacks.

    The smoothed model is E f(U(P x + e)) with e ~ N(0, sigma^2 I): P takes the mean of each block
    of factor x factor pixels, U resizes the noisy means to the size of the image (bilinear). No
    network has to be trained for it, but the base model f should be trained on such images.

    P has the l2 norm 1 / factor: its rows have disjoint support, and each has factor^2 entries of 1
    / factor^2. So a perturbation of l2 norm r moves the means by at most r / factor, and the radius
    is factor * sigma * (Phi^{-1}(tau) - Phi^{-1}(target)), by the argument for ``GaussianNoise``
    on the means. Most transformations move the means by far less than that.

    Blocks at the lower and right border may have fewer pixels. Their sums are divided by factor^2
    all the same, and U divides by the share of the block that is there, after the noise was added.

    Args:
        factor (int): Side of the blocks, in pixels; it need not divide the size of the image.
        sigma (float): Noise level of each mean, in [0, 1] image units.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> noise = PooledNoise(factor=4, sigma=0.125)
        >>> round(noise.radius(0.75), 4)
        0.3372
        >>> x = torch.zeros(3, 8, 10)
        >>> parameters = noise.draw(x, [torch.Generator().manual_seed(0)])
        >>> parameters.shape, noise.apply(x, parameters).shape
        (torch.Size([1, 3, 2, 3]), torch.Size([1, 3, 8, 10]))
    """

    rounding = (
        'the smoothed function first rounds its noisy means of blocks to whole levels of an 8-bit '
        'image'
    )

    def __init__(self, factor: int, sigma: float) -> None:
        self.factor = check_draws(factor, 'factor')
        super().__init__(sigma)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what ``GaussianNoise`` does, and an image smaller than a block."""
        super().check(inputs)
        if min(inputs.shape[-2:]) < self.factor:
            raise ValueError(
                f'blocks of factor={self.factor} pixels are larger than the image, '
                f'{tuple(inputs.shape[-2:])}'
            )

    def _describe(self) -> str:
        side = self.factor
        return f'i.i.d. {self.noise.describe()} on every mean of {side} x {side} pixels'

    @property
    def lipschitz(self) -> float:
        """That of ``coordinates``: 1 / (factor * sigma)."""
        return 1 / (self.factor * self.sigma)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise plus 1/2, in levels of an 8-bit image, shape (B, C, h, w)."""
        size = [-(-side // self.factor) for side in inputs.shape[-2:]]
        return super().draw(inputs.new_empty((*inputs.shape[:-2], *size)), generators)

    def apply_at(
        self, image: torch.Tensor, parameters: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Adds the noise to the means and resizes them; see ``GaussianNoise.apply_at``."""
        # In double precision, so that rounding does not move them.
        noisy = on_levels(self._means(image.double()), parameters, dtype)
        return self._resized(noisy, image)

    def apply_differentiably(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """As ``apply``, with the gradient of resized means; see ``Perturbation``."""
        smooth = self._resized(self._means(inputs[None].double()), inputs)
        return straight_through(self.apply(inputs.detach(), parameters), smooth)

    def _resized(self, means: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Means (B, C, h, w), which it may change, at the size of an image."""
        height, width = image.shape[-2:]
        for axis, size in ((-2, height), (-1, width)):
            if left := size % self.factor:
                means.select(axis, -1).mul_(self.factor / left)
        whole = [side * self.factor for side in means.shape[-2:]]
        resized = F.interpolate(means, size=whole, mode='bilinear', align_corners=False)
        return resized[..., :height, :width]

    def coordinates(self, images: torch.Tensor) -> torch.Tensor:
        """The means in standard deviations of the noise; see ``GaussianNoise.coordinates``."""
        return super().coordinates(self._means(images))

    def radius(self, tau: float, target: float = 0.5) -> float:
        """``factor`` times that of the noise, in the l2 norm of the image."""
        return self.factor * super().radius(tau, target)

    def _means(self, images: torch.Tensor) -> torch.Tensor:
        """Sums over blocks divided by factor^2, (..., C, h, w), of images (..., C, H, W)."""
        right, below = (-size % self.factor for size in (images.shape[-1], images.shape[-2]))
        padded = F.pad(images, (0, right, 0, below)) if right or below else images
        return F.avg_pool2d(padded, self.factor)

    def _extra(self, tau: float) -> dict[str, Any]:
        resizing = f'noisy means of {self.factor} x {self.factor} pixels are resized (bilinear)'
        return {'padding': 'none needed', 'clipping': NOT_CLIPPED, 'resizing': resizing}
