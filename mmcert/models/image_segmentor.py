"""A 2D mmsegmentation model as a function from images in [0, 1] to label maps."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmcert.certifier.images import PIXEL_RANGE
from mmcert.certifier.segmentor import Labelled, clear_labels, margins
from mmcert.denoisers import Denoising
from mmcert.models.data_preprocessor import NoisySegDataPreProcessor
from mmcert.models.head_logits import head_logits, is_plain, last_head, map_size
from mmcert.models.precision import PrecisionSettings
from mmcert.models.randomness import joined
from mmcert.models.segmentor import RepeatableSegmentor, is_stock
from mmcert.models.training_noise import reverses_channels
from mmcert.sampling import LogitMaps
from mmcert.sampling.label_decoding import decode_labels
from mmcert.sampling.logit_maps import logits_of, of_two, resized_scores
from mmcert.sampling.outputs import require_finite
from mmcert.votes import Grid

LEAST_PROBABILITY = 1e-7
"""Where probabilities stand for logits: smaller ones count as this one."""

Resolution = Literal['image', 'logits']


class ImageSegmentor(RepeatableSegmentor):
    """The function that is smoothed: an image at its certified size to its label map.

    Everything between the noisy image in [0, 1] units, shape (C, H, W), and the labels at the
    original size of the image (or on the head's grid) belongs to it: a denoiser, resizing to the
    input scales, mirroring, normalisation, padding, whole or slide inference, and resizing of the
    logits.

    Where the model's own code between logits and labels is mmsegmentation's (whole inference, one
    scale), it returns the logits as they leave the head, and how the labels follow from them. These
    are the labels of the model's own ``predict``, except that logits in half precision are resized
    and compared in single precision. Anything else goes through ``predict``.

    Args:
        base (BaseModel): A trained mmsegmentation model.
        data_sample (SegDataSample): The image's sample from the pipeline; it is not modified.
        scales (Sequence[float]): Factors of the input size; with several, or with ``flip``, the
            class probabilities are averaged.
        flip (bool): Whether to add the mirrored image at each scale.
        precision (PrecisionSettings | None): How the model computes.
        resolution (str): 'image', or 'logits' for label maps on the head's own grid. Then ``grid``
            says which grid point each pixel belongs to, once an image was labelled.
        denoising (Denoising | None): What the images go through first. ``with_margin`` tells what
            the base model makes of an image without it, and how clear the labels are with it.

    Raises:
        ValueError: If ``resolution='logits'`` does not go with this model or these scales.
    """

    def __init__(
        self,
        base: BaseModel,
        data_sample: SegDataSample,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        precision: PrecisionSettings | None = None,
        resolution: Resolution = 'image',
        denoising: Denoising | None = None,
    ) -> None:
        self.metainfo = data_sample.metainfo
        self.scales, self.flip, self.resolution = tuple(scales), flip, resolution
        self.denoising = denoising
        super().__init__(base, precision, True, self.scales, flip, resolution, denoising)
        self._base_alone: ImageSegmentor | None = None
        if denoising is not None:
            self._base_alone = type(self)(base, data_sample, scales, flip, precision, resolution)
        single = len(self.scales) == 1 and not flip
        self._hands_on_logits = single and not self.metainfo.get('flip') and is_plain(base)
        if resolution == 'logits' and not self._hands_on_logits:
            raise ValueError(
                "resolution='logits' needs one scale without flip, whole inference, and a model "
                "that mmsegmentation's own code takes from logits to labels; use "
                "resolution='image'"
            )

    def _output(self, images: list[torch.Tensor]) -> LogitMaps | torch.Tensor:
        batch = _stacked(images)
        with self.precision.autocast(batch.device):
            if self._hands_on_logits:
                parts = self._random.run(self._logit_maps, batch)
                maps = [part for part in parts if part is not None]
                # Where one image needs ``predict``, all go through it.
                if len(maps) == len(parts):
                    return maps[0].with_scores(joined([part.scores for part in maps]))
            return joined([part for part, _ in self._random.run(self._labels, batch)])

    def labels(self, images: list[torch.Tensor]) -> torch.Tensor:
        """The label maps of a batch, shape (B, H', W'), integers; see ``__call__``."""
        output = self(images)
        if not isinstance(output, LogitMaps):
            return output
        require_finite(output.scores)
        return decode_labels(output)

    @property
    def base_alone(self) -> 'ImageSegmentor':
        """The base model without the denoiser."""
        return self if self._base_alone is None else self._base_alone

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, H', W') of images (B, C, H, W) in [0, 1] units, with their gradients.

        They are those that the labels are read from, at the size of the label maps.
        """
        with self.precision.autocast(batch.device):
            if self._hands_on_logits:
                parts = self._random.run(self._logit_maps, batch)
                maps = [part for part in parts if part is not None]
                if len(maps) == len(parts):
                    return logits_of(maps[0].with_scores(joined([part.scores for part in maps])))
            found = self._random.run(partial(self._labels, keep_scores=True), batch)
        mean = joined([scores for _, scores in found if scores is not None]).float()
        mean = mean.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        if mean.shape[1] > 1:
            return mean.log()
        return of_two(mean.logit(), last_head(self.base).threshold)

    def with_margin(self, inputs: torch.Tensor) -> Labelled:
        """What the base model alone makes of one image, and how clear its smoothed labels are.

        Without a denoiser both are of the same function. With one, the labels are those of the base
        model without it, and the margins those of the function that is smoothed.

        Raises:
            SegmentorOutputError: If a score is NaN or infinite.
            UnrepeatableModelError: If it is the first input, and another pass over it differs.
        """
        labels, margin = super().with_margin(inputs)
        if self._base_alone is not None:
            labels, _ = self._base_alone.with_margin(inputs)
        return labels, margin

    def _denoised(self, batch: torch.Tensor) -> torch.Tensor:
        return batch if self.denoising is None else self.denoising(batch)

    def _with_margin(self, image: torch.Tensor) -> Labelled:
        if self._hands_on_logits:
            output = self._output([image])
            if isinstance(output, LogitMaps):
                return clear_labels(output)
        with self.precision.autocast(image.device):
            ((labels, scores),) = self._random.run(
                partial(self._labels, keep_scores=True), image[None]
            )
        assert scores is not None
        threshold = last_head(self.base).threshold if scores.shape[1] == 1 else None
        return labels[0], margins(scores[0], threshold)

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the arithmetic, once an image was labelled, as JSON values."""
        resized = 'in fp32' if self._hands_on_logits else 'by the model, in its own precision'
        return {**super().to_dict(), 'logits_resized': resized}

    def _logit_maps(self, batch: torch.Tensor) -> LogitMaps | None:
        """The logits of a batch in [0, 1] units and how to read them, if they can be had."""
        batch = self._denoised(batch)
        if self.scales[0] == 1:
            inputs, metas = self._preprocessed(batch, PIXEL_RANGE)
        else:
            # In the pipeline's units first: the other order rounds otherwise.
            batch = rescaled(batch * PIXEL_RANGE, self.scales[0])
            inputs, metas = self._preprocessed(batch, 1.0)
        found = head_logits(self.base, inputs, metas)
        if found is None:
            # The model does something of its own with the resized logits.
            self._hands_on_logits = False
            if self.resolution == 'logits':
                raise ValueError(
                    f"resolution='logits' does not go with {type(self.base).__name__}, which "
                    'goes on computing with resized logits'
                )
            return None
        (logits, size), head = found, last_head(self.base)
        left, right, top, bottom = metas[0].get('img_padding_size') or metas[0].get(
            'padding_size', [0] * 4
        )
        window = (top, left, size[0] - top - bottom, size[1] - left - right)
        threshold = head.threshold if logits.shape[1] == 1 else None
        original = tuple(self.metainfo['ori_shape'][:2])
        if self.resolution == 'logits':
            points = map_size(logits)
            self.grid = nearest_grid(points, size, window, original)
            return LogitMaps(logits, points, threshold=threshold)
        maps = LogitMaps(logits, size, head.align_corners, window, threshold)
        if window[2:] == original:
            return maps
        # Another interpolation follows: from the size that the model worked at.
        return LogitMaps(
            resized_scores(maps), original, self.base.align_corners, threshold=threshold
        )

    def _preprocessed(
        self, batch: torch.Tensor, unit: float
    ) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """What enters the model for ``batch * unit`` in 0-255, and each copy's metainfo."""
        preprocessor = self.base.data_preprocessor
        stock = any(
            is_stock(preprocessor, cls, ('forward', 'cast_data'))
            for cls in (SegDataPreProcessor, NoisySegDataPreProcessor)
        )
        if stock and not preprocessor.test_cfg:
            inputs = self._laid_out(_normalised(batch, unit, preprocessor))
            return inputs, [self._meta(batch) for _ in batch]
        inputs, samples = self._by_preprocessor(batch * unit)
        return inputs, [sample.metainfo for sample in samples]

    def _by_preprocessor(self, batch: torch.Tensor) -> tuple[torch.Tensor, list[SegDataSample]]:
        """What the model's own preprocessor makes of a batch in 0-255."""
        samples = [SegDataSample(metainfo=self._meta(batch)) for _ in batch]
        data = {'inputs': list(batch), 'data_samples': samples}
        data = self.base.data_preprocessor(data, False)
        return self._laid_out(data['inputs']), data['data_samples']

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.precision.channels_last:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _meta(self, batch: torch.Tensor) -> dict[str, Any]:
        # Each copy gets metainfo of its own: padding and slide inference write into it.
        return {**self.metainfo, 'img_shape': tuple(batch.shape[-2:])}

    def _labels(
        self, batch: torch.Tensor, keep_scores: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Label maps of a batch in [0, 1] units by ``predict``, and probabilities if needed."""
        batch = self._denoised(batch) * PIXEL_RANGE
        if len(self.scales) == 1 and not self.flip:
            outputs = self._predict(rescaled(batch, self.scales[0]))
            labels = torch.stack([output.pred_sem_seg.data[0] for output in outputs]).long()
            return labels, self._probabilities(outputs) if keep_scores else None
        total: torch.Tensor | None = None
        for scale in self.scales:
            resized = rescaled(batch, scale)
            for mirrored in (False, True) if self.flip else (False,):
                outputs = self._predict(resized.flip(-1) if mirrored else resized)
                part = self._probabilities(outputs)
                part = part.flip(-1) if mirrored else part
                total = part if total is None else total + part
        assert total is not None
        scores = total / (len(self.scales) * (1 + self.flip))
        if scores.shape[1] > 1:
            return scores.argmax(dim=1), scores
        return (scores[:, 0] > self.base.decode_head.threshold).long(), scores

    @staticmethod
    def _probabilities(outputs: list[SegDataSample]) -> torch.Tensor:
        """Class probabilities (B, C, H', W'); one channel of foreground for a binary head."""
        logits = torch.stack([output.seg_logits.data for output in outputs])
        # A binary head's "logits" are probabilities already.
        return logits.softmax(dim=1) if logits.shape[1] > 1 else logits

    def _predict(self, batch: torch.Tensor) -> list[SegDataSample]:
        outputs = self.base(*self._by_preprocessor(batch), mode='predict')
        for output in outputs:
            require_finite(output.seg_logits.data)
        return outputs


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    """The images as one tensor, without a copy where they are the parts of one."""
    whole = images[0]._base
    if whole is None or whole.shape != (len(images), *images[0].shape):
        return torch.stack(images)
    same = (
        image.data_ptr() == part.data_ptr() and image.stride() == part.stride()
        for image, part in zip(images, whole, strict=True)
    )
    return whole if all(same) else torch.stack(images)


def _normalised(
    batch: torch.Tensor, unit: float, preprocessor: SegDataPreProcessor
) -> torch.Tensor:
    """What mmsegmentation's preprocessor makes of ``batch * unit``, without padding.

    The same operations in the same order, plane by plane: a plane stays in the cache.
    """
    channels = list(range(batch.shape[1]))
    if reverses_channels(preprocessor) and len(channels) == 3:
        channels.reverse()
    if batch.requires_grad:
        result = batch[:, channels] * unit
        if not preprocessor._enable_normalize:
            return result
        return (result - preprocessor.mean) / preprocessor.std
    result = torch.empty_like(batch)
    if batch.device.type != 'cpu':
        # Plane by plane: a list of channels as index would hold up the device's queue.
        for index, source in enumerate(channels):
            torch.mul(batch[:, source], unit, out=result[:, index])
        if preprocessor._enable_normalize:
            result.sub_(preprocessor.mean).div_(preprocessor.std)
        return result
    normalise = preprocessor._enable_normalize
    for image, target in zip(batch, result, strict=True):
        for index, source in enumerate(channels):
            plane = torch.mul(image[source], unit, out=target[index])
            if normalise:
                part = index if len(preprocessor.mean) > 1 else 0
                plane.sub_(preprocessor.mean[part]).div_(preprocessor.std[part])
    return result


def nearest_grid(
    points: tuple[int, int],
    size: tuple[int, int],
    window: tuple[int, int, int, int],
    pixels: tuple[int, int],
) -> Grid:
    """The point of a head's grid that is nearest to the centre of each pixel.

    The grid has ``points`` rows and columns and spans ``size``; the image lies in the ``window``
    (top, left, height, width) of it and has ``pixels`` rows and columns.
    """
    axes = []
    for axis in (0, 1):
        centres = (np.arange(pixels[axis]) + 0.5) * window[2 + axis] / pixels[axis]
        point = np.floor((centres + window[axis]) * points[axis] / size[axis])
        axes.append(point.clip(0, points[axis] - 1).astype(np.int32))
    return Grid(*axes)


def rescaled(batch: torch.Tensor, scale: float) -> torch.Tensor:
    """A batch (B, C, H, W) at an input scale (bilinear)."""
    if scale == 1:
        return batch
    size = [max(1, round(side * scale)) for side in batch.shape[-2:]]
    return F.interpolate(batch, size=size, mode='bilinear', align_corners=False)
