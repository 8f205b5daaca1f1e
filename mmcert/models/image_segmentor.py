"""A 2D mmsegmentation model as a function from images in [0, 1] to label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample

PIXEL_RANGE = 255.0
"""The pipelines' pixel range: the one place where [0, 1] image units meet it."""


class ModelOutputError(ValueError):
    """The base model's output cannot be used."""


def to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """Brings an image from the pipeline into [0, 1] image units.

    Args:
        image (torch.Tensor): Shape (C, H, W), any real type, values in 0-255.

    Returns:
        torch.Tensor: float32, same shape.

    Raises:
        ValueError: If values lie outside 0-255, as after a normalisation in the pipeline.
    """
    raw = image.float()
    low, high = (float(value) for value in raw.aminmax())
    if not (low >= 0 and high <= PIXEL_RANGE):
        raise ValueError(
            f'the test pipeline delivers an image with values in [{low:.4g}, {high:.4g}], but '
            "smoothing needs the raw image in 0-255: leave normalisation to the model's data "
            'preprocessor'
        )
    return raw / PIXEL_RANGE


class ImageSegmentor:
    """The function that is smoothed: an image at its certified size to its label map.

    Everything between the noisy image and the labels belongs to it: resizing to the input scales,
    mirroring, normalisation, padding, whole or slide inference, resizing of the logits.

    Args:
        base (BaseModel): A trained mmsegmentation model.
        data_sample (SegDataSample): The image's sample from the pipeline; it is not modified.
        scales (Sequence[float]): Factors of the input size; with several, or with ``flip``, the
            class probabilities are averaged.
        flip (bool): Whether to add the mirrored image at each scale.
    """

    def __init__(
        self,
        base: BaseModel,
        data_sample: SegDataSample,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.base = base
        self.metainfo = data_sample.metainfo
        self.scales = tuple(scales)
        self.flip = flip

    def __call__(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Labels a batch.

        Args:
            images (list[torch.Tensor]): B images in [0, 1] units, shape (C, H, W), on any range.

        Returns:
            torch.Tensor: Label maps at the original size of the image, int64, shape (B, H', W').

        Raises:
            ModelOutputError: If the model's output holds NaN.
        """
        return self._labels(images)[0]

    def with_margin(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels one image and says how clear each label is.

        Args:
            image (torch.Tensor): In [0, 1] units, shape (C, H, W).

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The label map, int64, and the difference between the
            probabilities of the first and the second class (of the foreground's to its threshold
            for a binary head) in steps of 1/255, rounded down, uint8; both of shape (H', W').

        Raises:
            ModelOutputError: If the model's output holds NaN.
        """
        labels, scores = self._labels([image], keep_scores=True)
        assert scores is not None
        if scores.shape[1] > 1:
            first, second = scores[0].topk(2, dim=0).values
            margin = first - second
        else:
            margin = (scores[0, 0] - self.base.decode_head.threshold).abs()
        return labels[0], (margin.clamp(0, 1) * 255).to(torch.uint8)

    def _labels(
        self, images: list[torch.Tensor], keep_scores: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Label maps and, where they are wanted or needed, mean class probabilities."""
        batch = torch.stack(images) * PIXEL_RANGE
        if len(self.scales) == 1 and not self.flip:
            outputs = self._predict(_resize(batch, self.scales[0]))
            labels = torch.stack([output.pred_sem_seg.data[0] for output in outputs]).long()
            return labels, self._probabilities(outputs) if keep_scores else None
        total: torch.Tensor | None = None
        for scale in self.scales:
            resized = _resize(batch, scale)
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
        height_width = tuple(batch.shape[-2:])
        # Each copy gets metainfo of its own: padding and slide inference write into it.
        samples = [
            SegDataSample(metainfo={**self.metainfo, 'img_shape': height_width}) for _ in batch
        ]
        data = self.base.data_preprocessor({'inputs': list(batch), 'data_samples': samples}, False)
        outputs = self.base(data['inputs'], data['data_samples'], mode='predict')
        for output in outputs:
            # The maximum over classes hands NaN on, at the size of one class.
            if output.seg_logits.data.amax(dim=0).isnan().any():
                raise ModelOutputError(
                    'the model returned NaN; check the checkpoint and the input, and that half '
                    'precision does not overflow'
                )
        return outputs


def _resize(batch: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1:
        return batch
    size = [max(1, round(side * scale)) for side in batch.shape[-2:]]
    return F.interpolate(batch, size=size, mode='bilinear', align_corners=False)
