"""Pictures of what denoisers do."""

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.denoisers import Denoiser, Denoising
from mmcert.report.pictures import BACKGROUND, GAP
from mmcert.visualization.surrogates import panel


def compare_denoiser(denoiser: Denoiser, images: torch.Tensor, sigma: float) -> NDArray[np.uint8]:
    """Some images clean, noisy and denoised.

    Args:
        denoiser (Denoiser): The denoiser.
        images (torch.Tensor): Shape (B, 3, H, W), BGR in [0, 1].
        sigma (float): Noise level.

    Returns:
        np.ndarray: BGR picture, uint8: a row of three panels for each image.
    """
    generator = torch.Generator(images.device).manual_seed(0)
    noisy = images + sigma * torch.empty_like(images).normal_(generator=generator)
    denoised = Denoising(denoiser, sigma)(noisy)
    rows = []
    for clean, with_noise, without in zip(images, noisy, denoised, strict=True):
        shown = {'image': clean, f'noise, sigma = {sigma:g}': with_noise, 'denoised': without}
        row = np.concatenate([panel(image, title) for title, image in shown.items()], axis=1)
        rows.append(np.pad(row, ((0, GAP), (0, 0), (0, 0)), constant_values=BACKGROUND))
    return np.concatenate(rows, axis=0)
