"""What a base model looks like to the certifier."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from mmcert.sampling import LogitMaps
from mmcert.sampling.label_decoding import decode_labels
from mmcert.sampling.logit_maps import resized_scores
from mmcert.sampling.outputs import Output, check_range, checked_labels, require_finite
from mmcert.sampling.passes import Segment
from mmcert.votes import Grid

Labelled = tuple[torch.Tensor, torch.Tensor | None]
"""Labels of one input, and margins (uint8) of the same shape where there are scores."""

FEW = 1e-3
"""So large a share of the labels may change from one place of a batch to another, where kernels may
add in another order, and after the draws, which would be lost."""


UNCLEAR = 8
"""Steps of a margin that another size of batch may take: kernels are chosen by it, and round."""

MANY = 0.01
"""A model that labels a larger share of an input otherwise is another one."""


class UnrepeatableModelError(ValueError):
    """The base model is not a function of its input: two passes over it differ."""


class Segmentor(Protocol):
    """The function that is smoothed, for one input: perturbed inputs to labels.

    It must be deterministic: what it makes of an input depends on that input alone.
    """

    def __call__(self, inputs: list[torch.Tensor], /) -> Output:
        """Label maps of a batch, or the scores that give them."""

    def with_margin(self, inputs: torch.Tensor, /) -> Labelled:
        """Labels of one input, and how clear each of them is, uint8, in the same shape."""

    def require_repeatable(self, inputs: torch.Tensor, /, *, batch: int) -> None:
        """Raises ``UnrepeatableModelError`` if labels are seen to depend on more than the input.

        ``batch`` is how many inputs are labelled at once: 1 for one by one.
        """

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the arithmetic, once an input was labelled, as JSON values."""

    @property
    def grid(self) -> Grid | None:
        """Which component each pixel shows, where components are blocks of pixels."""


class PlainSegmentor:
    """A plain, deterministic function (see ``Certifier``) as a ``Segmentor``.

    Args:
        segment (Callable): Takes a list of B inputs and returns B label maps or ``LogitMaps``.
        num_classes (int): Labels lie in [0, num_classes).
    """

    grid = None

    def __init__(self, segment: Segment, num_classes: int) -> None:
        self.segment, self.num_classes = segment, num_classes
        self.device = ''

    def __call__(self, inputs: list[torch.Tensor]) -> Output:
        """Label maps of a batch, or the scores that give them."""
        return self.segment(inputs)

    def with_margin(self, inputs: torch.Tensor) -> Labelled:
        """Labels of one input, and how clear each of them is if the function returns scores."""
        return self._labelled([inputs])[0]

    def _labelled(self, inputs: list[torch.Tensor]) -> list[Labelled]:
        """Labels and margins of each input of a batch."""
        self.device, output = inputs[0].device.type, self.segment(inputs)
        if not isinstance(output, LogitMaps):
            labels = checked_labels(output, len(inputs), self.num_classes)
            return [(one, None) for one in labels]
        found = labelled_by(output)
        for one, _ in found:
            check_range(one, self.num_classes)
        return found

    def require_repeatable(self, inputs: torch.Tensor, *, batch: int) -> None:
        """Raises ``UnrepeatableModelError`` if two passes over an input differ.

        With a ``batch`` of several see ``batch_dependence``. A check, not a proof: what leaves the
        labels of this input as they are is not seen.
        """

        def labelled(images: list[torch.Tensor]) -> list[Labelled]:
            # Copies: the function may work in place.
            return self._labelled([image.clone() for image in images])

        if batch > 1:
            differing, total = batch_dependence(labelled, inputs, another(inputs), batch)
        else:
            (first,), (second,) = labelled([inputs]), labelled([inputs])
            differing, total = count_differing(first, second), first[0].numel()
        if differing:
            beside = ', at another place of a batch or beside another one,' * (batch > 1)
            raise UnrepeatableModelError(
                f'two passes of the base model over the same input{beside} differ at {differing} '
                f'of {total} components, but what is smoothed must be a deterministic '
                'function of its input alone. Switch dropout and batch statistics off with '
                'model.eval(), and seed inside the function whatever random numbers it needs, by '
                'its input. On a CUDA device torch.use_deterministic_algorithms(True) may help, '
                'and batch_size=1 where inputs of a batch cannot be kept apart'
            )

    def to_dict(self) -> dict[str, Any]:
        """The device; a function says no more of its arithmetic."""
        return {'device': self.device}


def count_differing(first: Labelled, second: Labelled) -> int:
    """Components at which two passes differ: in the label, or the margin by more than a step."""
    differing = first[0] != second[0]
    if first[1] is not None and second[1] is not None:
        differing = differing | ((first[1].int() - second[1].int()).abs() > 1)
    return int(differing.sum())


def batch_dependence(
    labelled: Callable[[list[torch.Tensor]], list[Labelled]],
    inputs: torch.Tensor,
    other: torch.Tensor,
    batch: int = 2,
) -> tuple[int, int]:
    """Components at which labels depend on more than the input, of how many; 0 if none is seen.

    The input lies before another one, behind it, and twice in a batch: it shows whether labels
    depend on statistics of the batch, on neighbours on either side, or on the place. It also lies
    behind others in a whole ``batch``, where labels that are not clear may differ.
    """
    same = labelled([inputs, inputs])
    before, after = labelled([inputs, other])[0], labelled([other, inputs])[1]
    beside = max(count_differing(before, same[0]), count_differing(after, same[1]))
    found = max(beside, _count_beyond_ties(*same))
    if batch > 2:
        whole = labelled([other] * (batch - 1) + [inputs])
        found = max(found, _count_clear(same[0], whole[-1]))
    return found, same[0][0].numel()


def another(inputs: torch.Tensor) -> torch.Tensor:
    """Another input: with half the values, since statistics matter, in reverse, since places do."""
    return inputs.flip(-1 if inputs.dim() == 3 else 0) / 2


def _count_beyond_ties(first: Labelled, second: Labelled) -> int:
    """As ``count_differing``, for two places of a batch: beyond ties, and 0 for a share of FEW."""
    labels = first[0]
    if first[1] is not None and second[1] is not None:
        labels = torch.where((first[1] <= 1) & (second[1] <= 1), second[0], labels)
    differing = count_differing((labels, first[1]), second)
    return differing if differing > FEW * labels.numel() else 0


def _count_clear(first: Labelled, second: Labelled) -> int:
    """Components whose clear labels differ; 0 if they are not MANY."""
    differing = first[0] != second[0]
    for _, margin in (first, second):
        if margin is not None:
            differing = differing & (margin > UNCLEAR)
    count = int(differing.sum())
    return count if count > MANY * differing.numel() else 0


def labelled_by(output: LogitMaps) -> list[Labelled]:
    """Labels and margins of each map of a batch of scores; see ``clear_labels``."""
    maps = (output.with_scores(output.scores[i : i + 1]) for i in range(len(output)))
    return [clear_labels(one) for one in maps]


def clear_labels(output: LogitMaps) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, int64, and margins, uint8, of one map of scores; both of shape (H, W).

    Raises:
        SegmentorOutputError: If a score is NaN or infinite.
    """
    require_finite(output.scores)
    scores = resized_scores(output)
    probabilities = scores.softmax(dim=1) if output.threshold is None else scores.sigmoid()
    return decode_labels(output)[0].long(), margins(probabilities[0], output.threshold)


def margins(probabilities: torch.Tensor, threshold: float | None = None) -> torch.Tensor:
    """How clear the label of each component is, uint8, shape (...), by probabilities (C, ...).

    The difference between the probabilities of the first and the second class (of the foreground's
    to its ``threshold`` for C = 1) in steps of 1/255, rounded down.
    """
    if threshold is not None:
        margin = (probabilities[0] - threshold).abs()
    else:
        first = probabilities.amax(dim=0)
        best = probabilities == first
        second = probabilities.masked_fill(best, -1.0).amax(dim=0)
        margin = torch.where(best.sum(dim=0, dtype=torch.uint8) == 1, first - second, 0.0)
    return (margin.clamp(0, 1) * 255).to(torch.uint8)


def autocast_dtype(device: str) -> torch.dtype | None:
    """What the autocast around this call computes in; None if there is none."""
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    # Before torch 2.4.
    if device == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
