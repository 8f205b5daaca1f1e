"""What an attack on a label map climbs: losses of dense labels, and what it wants of them.

The losses are those of the segmentation ensemble attack, SEA (Croce, Singh and Hein, 'Towards
Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models', ECCV 2024). The
trouble with plain cross entropy is that its gradient goes to the components that are wrong already.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

LEAST = 1e-12
"""Smaller probabilities count as this one."""

Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Takes logits (D, K, ...), labels (D, ...) and how much of the search is done, in [0, 1); returns
the loss of each component, shape (D, ...)."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
    """Cross entropy of all components, right or wrong: plain PGD."""
    return F.cross_entropy(logits, labels, reduction='none')


def masked_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, progress: float
) -> torch.Tensor:
    """Cross entropy of the components that are still right."""
    return _right(logits, labels) * cross_entropy(logits, labels, progress)


def balanced_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, progress: float
) -> torch.Tensor:
    """Cross entropy that weights right components by 1 - t / 2 and wrong ones by t / 2.

    Here t is the progress: the wrong ones come in again as the search goes on (Gu et al., 'SegPGD',
    ECCV 2022).
    """
    right, share = _right(logits, labels), progress / 2
    return ((1 - share) * right + share * (1 - right)) * cross_entropy(logits, labels, progress)


def jensen_shannon(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
    """The Jensen-Shannon divergence of the probabilities and the label, at most ln 2.

    Its gradient vanishes where the label has become unlikely. With p the probability of the label
    it is [p ln p - (1 + p) ln((1 + p) / 2) + (1 - p) ln 2] / 2.
    """
    p = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0].exp()
    sure = p.clamp(min=LEAST)
    log_two = torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return (p * sure.log() - (1 + p) * torch.log((1 + p) / 2) + (1 - p) * log_two) / 2


def masked_spherical(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
    """Minus the label's share of the length of the logits, of components that are still right.

    The logits are those of mean 0, which softmax leaves open.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=LEAST)
    return -_right(logits, labels) * unit.gather(1, labels[:, None])[:, 0]


LOSSES: dict[str, Loss] = {
    'ce': cross_entropy,
    'masked_ce': masked_cross_entropy,
    'balanced_ce': balanced_cross_entropy,
    'js': jensen_shannon,
    'spherical': masked_spherical,
}
"""The losses by name."""

SEA_LOSSES = ('masked_ce', 'balanced_ce', 'js', 'spherical')
"""Those of SEA, whose result on an image is the worst of the four."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What an attack wants of the label map of one input.

    Attributes:
        labels (torch.Tensor): The classes to drive components away from, shape (...), integers.
        where (torch.Tensor): Which components count, the same shape, bool.
        loss (str): A name in ``LOSSES``.
        target (int | None): The class to drive them to, instead of away from theirs; ``labels``
            then do not matter.

    Raises:
        ValueError: If the loss is unknown, or the shapes differ.

    Example:
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> int(Goal.hide(labels, labels != 255, hidden=1).where.sum())
        2
    """

    labels: torch.Tensor
    where: torch.Tensor
    loss: str = 'masked_ce'
    target: int | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f'unknown loss {self.loss!r}; known: {", ".join(LOSSES)}')
        if self.labels.shape != self.where.shape:
            raise ValueError(
                f'labels {tuple(self.labels.shape)} and where {tuple(self.where.shape)} differ'
            )

    @classmethod
    def hide(
        cls, labels: torch.Tensor, where: torch.Tensor, hidden: int, loss: str = 'masked_ce'
    ) -> 'Goal':
        """That no component of a class is seen as such."""
        return cls(labels, where & (labels == hidden), loss)

    @classmethod
    def reach(cls, labels: torch.Tensor, where: torch.Tensor, target: int) -> 'Goal':
        """That components are taken for a class which is not theirs."""
        return cls(labels, where & (labels != target), 'masked_ce', target)

    def evaluate(self, logits: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and score of the label maps of one attacked input, both of shape (1,).

        Args:
            logits (torch.Tensor): Shape (D, K, ...): of one draw or of several, whose losses are
                averaged.
            progress (float): How much of the search is done, in [0, 1).

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The mean loss of the components that count, and how
            many of them have, on average over the draws, the class that is wanted.
        """
        if logits.shape[2:] != self.labels.shape:
            raise ValueError(
                f'scores of shape {tuple(logits.shape)} do not fit labels of shape '
                f'{tuple(self.labels.shape)}'
            )
        # What does not count may have any label, also one that is no class.
        labels = (
            torch.where(self.where, self.labels, 0).long().expand(len(logits), *logits.shape[2:])
        )
        if self.target is None:
            values = LOSSES[self.loss](logits, labels, progress)
        else:
            wanted = torch.full_like(labels, self.target)
            # Of those that are there already no more is asked.
            values = (_right(logits, wanted) - 1) * cross_entropy(logits, wanted, progress)
        mean = logits.detach()
        if len(mean) > 1:
            mean = mean.softmax(dim=1).mean(dim=0, keepdim=True)
        aim = labels[:1] if self.target is None else torch.full_like(labels[:1], self.target)
        reached = (_right(mean, aim)[0] == 1) != (self.target is None)
        # Where nothing counts, values may not be finite.
        loss = torch.where(self.where, values, 0.0).sum() / (len(logits) * self.size)
        return loss[None], (reached & self.where).sum()[None].to(loss.dtype)

    @property
    def size(self) -> int:
        """How many components count; 1 for none."""
        return max(int(self.where.sum()), 1)


def _right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where no logit is larger than that of the label, else 0."""
    found = logits.detach()
    # The largest is much cheaper to have than its index.
    return (found.gather(1, labels[:, None])[:, 0] >= found.amax(dim=1)).to(logits.dtype)
