"""How bad the metrics can get: the uncertified components belong to the adversary.

Every certified component keeps its class under attack; the others may be given any class. The lower
bounds here are the exact minimum over all that the adversary could do to them, so an accuracy or
mIoU under attack, were it measured, could not be smaller as long as the certificates hold: of one
image with the certificate's confidence, over many images see ``dataset``.
"""

import heapq
import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mmcert.metrics.counts import intersection_and_union, iou


def worst_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """The least IoU that the adversary can bring each class to, one class at a time.

    All uncertified components of other classes are called c, and none of its own. The classes
    cannot all be brought to these values together: see ``worst_mean_iou``.

    Args:
        confusion (np.ndarray): Labelled components by ground truth class (row) and certified class
            (column), with a last column for abstentions, int64, shape (C, C + 1), C >= 2.

    Returns:
        np.ndarray: Shape (C,); NaN for a class that occurs neither in the ground truth nor among
        the certified classes.
    """
    hit, union, free = _counts(confusion)
    return np.where(union > 0, iou(hit, union + free.sum() - free), np.nan)


def worst_mean_iou(confusion: NDArray[np.int64]) -> float:
    """The least mIoU that the adversary can bring about, exactly.

    With T_c the certified and correct components of class c, D_c its labelled ones plus those that
    are wrongly certified as c, and U_c its uncertified ones, the adversary chooses u_c, how many
    uncertified components of other classes are called c, to minimise the mean of T_c / (D_c + u_c)
    under sum(u_c) = sum(U_c) and u_c <= sum(U) - U_c. Calling a component by its right class never
    helps, and by Hall's theorem an assignment exists for all such u. A sum of convex functions
    under such limits is minimised by taking the largest decreases one by one. A class that occurs
    on neither side, and so is not averaged over, costs the adversary one component to bring in
    with an IoU of 0; every number of such classes is tried.

    >>> import numpy as np
    >>> confusion = np.array([[6, 1, 3], [0, 5, 2]])  # the last column abstained
    >>> worst_mean_iou(confusion)
    0.4772727272727273

    Args:
        confusion (np.ndarray): As for ``worst_iou``, over one image or many.

    Returns:
        float: The minimum; NaN if there is no class to average over.
    """
    hit, union, free = (array.tolist() for array in _counts(confusion))
    total = sum(free)
    limits = [total - count for count in free]
    present = [c for c, size in enumerate(union) if size > 0]
    most = min(len(hit) - len(present), total)
    if most > 0 and len(present) + most > 1:
        # Nearly always it pays to bring in all that can be: no other number can do better than to
        # have every component left for the sum and one class fewer to divide by.
        best = _least_sum(hit, union, limits, present, total - most) / (len(present) + most)
        others = _least_sum(hit, union, limits, present, total)
        if best == 0 or others > (1 + 1e-9) * best * (len(present) + most - 1):
            return best
    means = []
    for brought_in in range(most + 1):
        averaged = len(present) + brought_in
        # With one class present and none brought in, there is no wrong class to call.
        if averaged > 1 or (averaged == 1 and total == 0):
            amount = total - brought_in
            means.append(_least_sum(hit, union, limits, present, amount) / averaged)
    return min(means, default=float('nan'))


def _counts(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Certified and correct, union, and uncertified components of each class."""
    num_classes = len(confusion)
    if num_classes < 2:
        raise ValueError('with a single class there is nothing that the adversary could change')
    return (*intersection_and_union(confusion), confusion[:, num_classes])


def _least_sum(
    hit: list[int], union: list[int], limits: list[int], classes: list[int], amount: int
) -> float:
    """Least sum of hit / (union + u) over the classes, with sum(u) <= amount and u <= limits."""
    useful = [c for c in classes if hit[c] > 0 and limits[c] > 0]
    if sum(limits[c] for c in useful) <= amount:
        chosen = {c: limits[c] for c in useful}
    else:
        chosen = _near_optimum(hit, union, limits, useful, amount)
        heap = [(-_decrease(hit[c], union[c] + u), c) for c, u in chosen.items() if u < limits[c]]
        heapq.heapify(heap)
        for _ in range(amount - sum(chosen.values())):
            _, c = heapq.heappop(heap)
            chosen[c] += 1
            if chosen[c] < limits[c]:
                heapq.heappush(heap, (-_decrease(hit[c], union[c] + chosen[c]), c))
    return float(sum(Fraction(hit[c], union[c] + chosen.get(c, 0)) for c in classes))


def _decrease(hit: int, union: int) -> Fraction:
    """How much one more component lowers hit / union."""
    return Fraction(hit, union * (union + 1))


def _near_optimum(
    hit: list[int], union: list[int], limits: list[int], classes: list[int], amount: int
) -> dict[int, int]:
    """Numbers of components a little below the optimum, by bisection of the least decrease."""

    def taken(decrease: float) -> dict[int, int]:
        """How many components of each class decrease the sum by more than this."""
        reached = {c: math.ceil(math.sqrt(hit[c] / decrease + 0.25) - 0.5) for c in classes}
        return {c: min(limits[c], max(0, reached[c] - union[c])) for c in classes}

    low, high = -100.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if sum(taken(math.exp(middle)).values()) > amount:
            low = middle
        else:
            high = middle
    return {c: max(0, u - 2) for c, u in taken(math.exp(high)).items()}
