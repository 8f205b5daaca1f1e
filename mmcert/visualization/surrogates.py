"""Pictures of surrogates beside the transformations that they imitate."""

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.report.pictures import BACKGROUND, GAP, titled
from mmcert.surrogates import Surrogate


@torch.no_grad()
def compare_surrogate(
    surrogate: Surrogate, images: torch.Tensor, parameters: torch.Tensor, sigma2: float
) -> NDArray[np.uint8]:
    """Real transformation, surrogate, and surrogate with noise, for some images and parameters.

    Args:
        surrogate (Surrogate): The surrogate.
        images (torch.Tensor): Shape (B, 3, H, W), BGR in [0, 1].
        parameters (torch.Tensor): Shape (N, P), within the surrogate's range.
        sigma2 (float): Scale of the noise in the latent layer.

    Returns:
        np.ndarray: BGR picture, uint8: for each image, three rows of 1 + N panels.
    """
    names = [p.name for p in surrogate.transformation.parameters]
    u = surrogate.normalized(surrogate.check_within(parameters))
    generator = torch.Generator(images.device).manual_seed(0)
    rows = []
    for image in images:
        batch = image.expand(len(parameters), *image.shape)
        latents = surrogate.encode(batch)
        noise = sigma2 * torch.empty_like(latents).normal_(generator=generator)
        shown = {
            'real': surrogate.transformation.transform(batch, parameters),
            'surrogate': surrogate(batch, u),
            f'surrogate, sigma2 = {sigma2:g}': surrogate(batch, u, noise),
        }
        for name, panels in shown.items():
            titles = [
                f'{name}: ' + ', '.join(f'{n} {v:g}' for n, v in zip(names, row, strict=True))
                for row in parameters.tolist()
            ]
            first = panel(image, 'image') if name == 'real' else panel(image * 0 + 1, '')
            row = np.concatenate([first, *map(panel, panels, titles)], axis=1)
            rows.append(np.pad(row, ((0, GAP), (0, 0), (0, 0)), constant_values=BACKGROUND))
    return np.concatenate(rows, axis=0)


def panel(image: torch.Tensor, title: str) -> NDArray[np.uint8]:
    """An image (3, H, W) in [0, 1] under its title."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return titled(title, pixels)
