"""Transformations of colours and of the way an image is stored: labels stay in place."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from mmcert.transformations.base import Parameter, Transformation, Values


class Brightness(Transformation):
    """Adds a number to every channel of every pixel: x + b.

    Not clipped, so additive in b (the corruption benchmark adds its number to the V channel of
    HSV and clips). Severities: its numbers, 0.1 to 0.5.
    """

    name = 'brightness'
    parameters = (Parameter('shift', 'image', -1, 1, 0),)
    definition = 'x + shift on every channel, not clipped'
    severities = ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))

    @property
    def straight(self) -> bool:
        """True: the image is x + b."""
        return type(self).transform is Brightness.transform

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds the shift of each image."""
        return images + parameters[:, 0, None, None, None].to(images.dtype)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact: each of the N values changes by |a - b|, the image by sqrt(N) |a - b|."""
        self.check_box(low, high)
        root = math.sqrt(images[0].numel())
        return images.new_full((len(images), 1), root, dtype=torch.float64)


@dataclass(eq=False)
class Contrast(Transformation):
    """Multiplies the distance from a pivot by e^k: p + e^k (x - p).

    Not clipped, so additive in k. With pivot 'mean', each image's mean in each channel, this is the
    corruption benchmark's contrast of factor e^k before its clipping. With pivot 'zero' it is
    e^k x, the contrast of the direct brightness-contrast certificate. Severities: the benchmark's
    factors 0.4, 0.3, 0.2, 0.1, 0.05.
    """

    pivot: str = 'mean'

    name = 'contrast'
    parameters = (Parameter('log_factor', 'log', -4, 4, 0),)
    definition = '{pivot}, not clipped'
    legal = {
        'pivot': {
            'mean': 'p + exp(log_factor) * (x - p), p the mean per image and channel',
            'zero': 'exp(log_factor) * x',
        }
    }
    severities = tuple((math.log(factor),) for factor in (0.4, 0.3, 0.2, 0.1, 0.05))

    @property
    def straight(self) -> bool:
        """True: the image is p + e^k (x - p), and e^k grows."""
        return type(self).transform is Contrast.transform

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Stretches each image about its pivot."""
        factor = torch.exp(parameters[:, 0, None, None, None]).to(images.dtype)
        if self.pivot == 'zero':
            return images * factor
        # Written so that k = 0 gives the image back to the last bit.
        mean = images.mean(dim=(2, 3), keepdim=True)
        return images * factor + mean * (1 - factor)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact: e^high ||x - p||, as the image at k is p + e^k (x - p) and e^k is convex."""
        _, last = self.check_box(low, high)
        values = images.to(torch.float64)
        if self.pivot == 'mean':
            values = values - values.mean(dim=(2, 3), keepdim=True)
        return math.exp(float(last)) * torch.linalg.vector_norm(values, dim=(1, 2, 3))[:, None]


@dataclass(eq=False)
class BrightnessThenContrast(Transformation):
    """Brightness followed by contrast: ``Contrast(pivot)`` of ``Brightness`` of the image.

    With pivot 'zero' it is e^k (x + b), as of the direct brightness-contrast certificate; with
    'mean', p + b + e^k (x - p). Not clipped. Severities (ours): factors 0.8, 0.65, 0.5, 0.4, 0.3
    after shifts of 0.05 to 0.25.

    Example:
        >>> both = BrightnessThenContrast(pivot='zero')
        >>> both(torch.tensor([[[[0.5]]]]), [math.log(2), 0.25]).item()
        1.5
    """

    pivot: str = 'mean'

    name = 'brightness_contrast'
    parameters = (*Contrast.parameters, *Brightness.parameters)
    definition = 'x + shift on every channel, then {pivot}, not clipped'
    legal = Contrast.legal
    severities = tuple(
        (math.log(factor), shift)
        for factor, shift in ((0.8, 0.05), (0.65, 0.1), (0.5, 0.15), (0.4, 0.2), (0.3, 0.25))
    )

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Shifts each image, and stretches it about its pivot."""
        shifted = Brightness().transform(images, parameters[:, 1:])
        return Contrast(self.pivot).transform(shifted, parameters)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact: the speeds along both axes are largest at corners of the box.

        With pivot 'mean' the image is p + b + e^k (x - p): along k its speed is e^k ||x - p||,
        along b the root of N, the number of values. With pivot 'zero', e^k (x + b), these are
        e^k ||x + b||, convex in b, and e^k sqrt(N).
        """
        first, last = self.check_box(low, high)
        along_b = Brightness().lipschitz(images, first[1:], last[1:])
        ends = torch.stack([first[1:], last[1:]])[:, None, :, None, None].to(images.device)
        along_k = torch.stack(
            [
                Contrast(self.pivot).lipschitz(images.to(torch.float64) + b, first[:1], last[:1])
                for b in ends
            ]
        ).amax(dim=0)
        if self.pivot == 'zero':
            along_b = along_b * math.exp(last[0])
        return torch.cat([along_k, along_b], dim=1)


class Gamma(Transformation):
    """Raises every value to a power: sign(x) |x|^gamma, which is x^gamma on [0, 1].

    Powers above 1 darken. Black and white stay, and values beyond [0, 1] of attacked and smoothed
    images keep their sign. Not clipped. Severities (ours: the corruption benchmark has none): 1.2,
    1.5, 2, 2.5, 3.

    Example:
        >>> Gamma()(torch.tensor([[[[0.5]]]]), 2.0).item()
        0.25
    """

    name = 'gamma'
    parameters = (Parameter('gamma', 'power', 0.2, 5, 1),)
    definition = 'sign(x) |x|^gamma, not clipped'
    severities = ((1.2,), (1.5,), (2.0,), (2.5,), (3.0,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Raises the values of each image."""
        power = parameters[:, 0, None, None, None].to(images.dtype)
        # The slope at 0 is taken as 0, though it is infinite for powers below 1.
        black = images == 0
        sizes = torch.where(black, 1, images.abs()) ** power
        return torch.where(black, 0, torch.where(images < 0, -sizes, sizes))

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact: the larger of the speeds at both ends.

        A value moves at the speed |x|^gamma |ln |x|| (0 at x = 0). The squared speed of the image
        is the sum of |x|^(2 gamma) ln^2 |x|, exponentials of gamma: convex, so largest at an end.
        """
        sizes = images.to(torch.float64).abs()
        sizes = torch.where(sizes == 0, 1, sizes)
        speeds = [
            torch.linalg.vector_norm(sizes ** float(end) * sizes.log(), dim=(1, 2, 3))
            for end in self.check_box(low, high)
        ]
        return torch.stack(speeds).amax(dim=0)[:, None]


class Pixelate(Transformation):
    """Averages blocks and repeats the averages: fewer and larger pixels.

    An image of H x W becomes h x w with h = floor(H / factor), w = floor(W / factor), at least 1
    (a quotient within 0.0001 below a whole number counts as that number), by exact area averages,
    and each pixel then takes the block in which its centre lies. The corruption benchmark does
    the same with Pillow's box filter; its factors are the severities: 1/0.6, 2, 2.5, 1/0.3, 4. On
    images of another size, factor - 1 scales as a length. Piecewise constant in the factor.
    """

    name = 'pixelate'
    parameters = (Parameter('factor', 'factor', 1, 256, 1),)
    definition = (
        'area averages of floor(H / factor) x floor(W / factor) blocks, each pixel takes the block '
        'of its centre'
    )
    differentiable_parameters = False
    severities = ((1 / 0.6,), (2,), (2.5,), (1 / 0.3,), (4,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Replaces each image's blocks by their means."""
        rows, columns = (
            torch.stack([_block_means(size, factor) for factor in parameters[:, 0].tolist()]).to(
                images
            )[:, None]
            for size in images.shape[-2:]
        )
        return rows @ images @ columns.mT

    def rescale(self, values: Any, scale: float) -> list[float]:
        """Scales what the factor exceeds 1 by, so that it stays legal."""
        return [min(1 + (values[0] - 1) * scale, self.parameters[0].high)]


def _block_means(size: int, factor: float) -> torch.Tensor:
    """Means over blocks of about ``factor`` pixels of an axis: a matrix whose rows sum to 1."""
    blocks = max(math.floor(size / factor + 1e-4), 1)
    edges = torch.arange(blocks + 1, dtype=torch.float64) * (size / blocks)
    pixel = torch.arange(size, dtype=torch.float64)
    reach = torch.minimum(pixel + 1, edges[1:, None]) - torch.maximum(pixel, edges[:-1, None])
    block_of = ((2 * torch.arange(size) + 1) * blocks) // (2 * size)
    return (reach.clamp(min=0) / (size / blocks))[block_of]


@dataclass(eq=False)
class JPEG(Transformation):
    """Stores the image as JPEG and reads it again, with OpenCV.

    The only transformation that rounds and clips, as the format does: values are clipped to
    [0, 1] and rounded to whole 0-255 ones. Chroma is stored at half resolution, OpenCV's default
    and Pillow's, which the corruption benchmark uses. ``channels`` is the order of three channels,
    'bgr' (as mmseg's pipelines have it) or 'rgb'; a single channel is stored in grey. No quality
    leaves an image as it is. Severities: the benchmark's, 25, 18, 15, 10, 7. Not differentiable.
    """

    channels: str = 'bgr'

    name = 'jpeg'
    parameters = (Parameter('quality', 'quality', 1, 100, None, integer=True),)
    definition = (
        'clipped to [0, 1], rounded to 0-255, JPEG by OpenCV with 4:2:0 chroma, decoded; '
        '{channels} order'
    )
    legal = {'channels': {'bgr': 'BGR', 'rgb': 'RGB'}}
    differentiable_parameters = False
    severities = ((25,), (18,), (15,), (10,), (7,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Encodes and decodes each image.

        Raises:
            ValueError: If the images have neither one nor three channels.
        """
        import cv2

        if images.shape[1] not in (1, 3):
            raise ValueError(f'jpeg stores 1 or 3 channels, got images of {images.shape[1]}')
        flip = images.shape[1] == 3 and self.channels == 'rgb'
        pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        decoded = []
        for image, quality in zip(pixels, parameters[:, 0].tolist(), strict=True):
            image = (image.flip(0) if flip else image).permute(1, 2, 0).contiguous()
            stored = cv2.imencode(
                '.jpg', image.cpu().numpy(), [cv2.IMWRITE_JPEG_QUALITY, round(quality)]
            )[1]
            read = torch.from_numpy(cv2.imdecode(stored, cv2.IMREAD_UNCHANGED))
            read = read.reshape(image.shape).permute(2, 0, 1)
            decoded.append(read.flip(0) if flip else read)
        return torch.stack(decoded).to(images) / 255
