"""What a base model may return, and what is refused."""

from collections.abc import Sequence

import torch

from mmcert.sampling.label_decoding import decode_labels
from mmcert.sampling.logit_maps import LogitMaps

Output = torch.Tensor | Sequence[torch.Tensor] | LogitMaps
"""What a base model returns for B inputs: B integer label maps of one shape, or their scores."""

NOT_FINITE = (
    'the model returned NaN or infinite scores; check the checkpoint and the input, and that half '
    'precision does not overflow'
)


class SegmentorOutputError(ValueError):
    """The base model returned something that is not a label map."""


def not_finite(scores: torch.Tensor) -> torch.Tensor:
    """Whether any score is NaN or infinite, as a boolean on the scores' device."""
    low, high = scores.aminmax()
    return ~(low.isfinite() & high.isfinite())


def require_finite(scores: torch.Tensor) -> None:
    """Raises ``SegmentorOutputError`` for scores that cannot be compared or interpolated."""
    if bool(not_finite(scores)):
        raise SegmentorOutputError(NOT_FINITE)


def checked_labels(
    labels: torch.Tensor | Sequence[torch.Tensor], batch: int, num_classes: int
) -> torch.Tensor:
    """Label maps of a batch as one integer tensor (B, ...).

    Raises:
        SegmentorOutputError: If they are not B integer maps of labels in [0, num_classes).
    """
    if not isinstance(labels, torch.Tensor):
        labels = torch.stack([torch.as_tensor(label) for label in labels])
    if labels.dtype == torch.bool:
        labels = labels.long()
    if labels.is_floating_point() or labels.is_complex():
        raise SegmentorOutputError(f'label maps must be integers, got {labels.dtype}')
    if labels.shape[:1] != (batch,):
        raise SegmentorOutputError(
            f'{batch} inputs must give {batch} label maps, got shape {tuple(labels.shape)}'
        )
    check_range(labels, num_classes)
    return labels


def check_range(labels: torch.Tensor, num_classes: int) -> None:
    """Raises ``SegmentorOutputError``, naming one, for labels outside [0, num_classes)."""
    if labels.numel():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise SegmentorOutputError(
                f'labels out of range: the base model returned {low if low < 0 else high}, but '
                f'there are {num_classes} classes, 0 to {num_classes - 1}'
            )


def map_shape(output: torch.Tensor | LogitMaps) -> torch.Size:
    """Shape of one label map of a batch."""
    return output.shape if isinstance(output, LogitMaps) else output.shape[1:]


def label_maps(output: torch.Tensor | LogitMaps, num_classes: int) -> torch.Tensor:
    """The label maps (B, ...) of a batch, decoded where they are given as scores.

    Raises:
        SegmentorOutputError: If there are scores of too many classes, and one of these wins.
    """
    if isinstance(output, torch.Tensor):
        return output
    labels = decode_labels(output)
    if max(output.scores.shape[1], 2) > num_classes:
        check_range(labels, num_classes)
    return labels
