"""The cosine transform of images (DCT-II): its filters are blurs with a mirrored border.

It acts on the last two axes of images (..., H, W), float32 or float64, and keeps their dtype.
"""

import math

import torch


def frequencies(size: int, like: torch.Tensor) -> torch.Tensor:
    """Frequencies of the coefficients along an axis, pi k / size radians per pixel, (size,)."""
    return torch.arange(size, dtype=like.dtype, device=like.device) * (math.pi / size)


def dct(images: torch.Tensor) -> torch.Tensor:
    """Cosine transform (DCT-II) over the last two axes.

    The coefficient at the frequencies (u, v) is 4 sum_yx image[y, x] cos(u (y + 1/2)) cos(v (x +
    1/2)). They belong to the image continued without end by mirroring, with the border pixels
    doubled (... c b a | a b c | c b a ...): multiplying them by m(w) is the convolution of that
    continuation with the even kernel of frequency response m.
    """
    return _forward(_forward(images).mT).mT


def power(images: torch.Tensor) -> torch.Tensor:
    """What each frequency contributes to the squared l2 norm of images (B, C, H, W).

    The rows cos(w_k (x + 1/2)) of the DCT-II are orthogonal, with squares that sum to N for k = 0
    and to N / 2 for the others (Rao and Yip, 'Discrete cosine transform', 1990, section 2.2). The
    result, (B, H, W), is the sum over the channels; summed, it is ||image||^2. An image whose
    coefficients are multiplied by m has the squared norm sum m^2 power.
    """
    squares = dct(images).square().sum(dim=1)
    for axis in (-2, -1):
        size = images.shape[axis]
        squares = squares / (2 * size)
        squares.select(axis, 0).div_(2)
    return squares


def idct(coefficients: torch.Tensor) -> torch.Tensor:
    """The inverse of ``dct``."""
    return _backward(_backward(coefficients).mT).mT


def blurred(coefficients: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The images of some coefficients, blurred by Gaussian kernels: exactly additive in variance.

    The kernels' variance, in squared pixels and at least 0, has a shape that broadcasts with the
    leading axes of the coefficients (..., H, W).
    """
    rows, columns = (
        torch.exp(-0.5 * variance[..., None] * frequencies(size, variance).square())
        for size in coefficients.shape[-2:]
    )
    factors = rows.to(coefficients)[..., :, None] * columns.to(coefficients)[..., None, :]
    return idct(coefficients * factors)


def _forward(values: torch.Tensor) -> torch.Tensor:
    # By a Fourier transform of the same length: Makhoul, "A fast cosine transform in one and two
    # dimensions", IEEE Trans. Acoustics, Speech, and Signal Processing 28 (1980).
    reordered = torch.cat([values[..., ::2], values[..., 1::2].flip(-1)], dim=-1)
    return 2 * (torch.fft.fft(reordered) * _turn(values).conj()).real


def _backward(values: torch.Tensor) -> torch.Tensor:
    size = values.shape[-1]
    mirrored = torch.cat([torch.zeros_like(values[..., :1]), values[..., 1:].flip(-1)], dim=-1)
    spectrum = 0.5 * torch.complex(values, -mirrored) * _turn(values)
    reordered = torch.fft.irfft(spectrum[..., : size // 2 + 1], n=size)
    even = (size + 1) // 2
    images = torch.empty_like(values)
    images[..., ::2] = reordered[..., :even]
    images[..., 1::2] = reordered[..., even:].flip(-1)
    return images


def _turn(values: torch.Tensor) -> torch.Tensor:
    """The factors exp(i w_k / 2), shape (N,)."""
    # In double precision, as their rounding would count N times over.
    angles = frequencies(values.shape[-1], values.new_empty(0, dtype=torch.float64)) / 2
    complex_type = torch.complex64 if values.dtype == torch.float32 else torch.complex128
    return torch.polar(torch.ones_like(angles), angles).to(complex_type)
