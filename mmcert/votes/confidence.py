"""How sure a smoothed model is of each component, from its votes: shares, bounds, runners-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify import joint_bounds, joint_radii
from mmcert.certify.settings import SELECTION
from mmcert.votes.record import VotesRecord

NO_RUNNER_UP = 255
"""In a map of runners-up: where the draws gave the guess and no other class."""

KINDS = {
    'guess': 'the class of the smoothed model that the other maps are about',
    'vote_share': 'estimate: hits of the guess / estimation draws',
    'lower_bound': (
        'confidence bound: with probability 1 - alpha per input, none of them exceeds the '
        'probability of its guess under the perturbation'
    ),
    'radius': (
        'certificate: the joint radii, which follow from the bounds and hold together with them'
    ),
    'runner_up': (
        f'estimate: the most frequent class after the guess, in the draws that chose the guess; '
        f'{NO_RUNNER_UP} where they gave no other'
    ),
    'runner_up_share': 'estimate: its votes / these draws',
}
"""What each map is, and what it promises."""


def confidence_maps(
    record: VotesRecord,
    *,
    alpha: float | None = None,
    selection: str = SELECTION,
    radius: Callable[[float], float] | None = None,
) -> dict[str, NDArray[Any]]:
    """What votes tell of the confidence in each component, as maps in the shape of the label.

    ``KINDS`` says what each map promises. Only ``lower_bound`` and ``radius`` are proven; the other
    maps are estimates from few draws, and say nothing about attacks.

    Args:
        record (VotesRecord): The votes of one input.
        alpha (float | None): Bound of the probability that any of the lower bounds is too large;
            None leaves bounds and radii out.
        selection (str): Which draws the bounds count, see ``joint_bounds``.
        radius (Callable | None): From a threshold to the perturbation's radius; None leaves the
            radii out.

    Returns:
        dict: ``guess`` (uint8), ``vote_share``, ``lower_bound`` and ``radius`` (float32, the last
        two rounded down), ``runner_up`` (uint8) and ``runner_up_share`` (float32). What votes
        cannot tell is left out: scores of a pooled test tell nothing of shares and bounds; of an
        enumeration, ``vote_share`` is the exact share of parameters that keep the class, and the
        only one; and votes of earlier versions do not name the runner-up.

    Raises:
        ValueError: If a class is above 254, or an argument is out of range.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes
        >>> from mmcert.votes import VotesRecord
        >>> votes = Votes(guess=np.array([3, 7]), hits=np.array([100, 80]), n=100, n0=10,
        ...               runner_up=np.array([0, 4]), runner_up_hits=np.array([0, 2]))
        >>> maps = confidence_maps(VotesRecord(votes, meta={}), alpha=0.001)
        >>> maps['vote_share'].tolist(), maps['lower_bound'].round(2).tolist()
        ([1.0, 0.800000011920929], [0.9300000071525574, 0.6399999856948853])
        >>> maps['runner_up'].tolist(), maps['runner_up_share'].round(2).tolist()
        ([255, 4], [0.0, 0.20000000298023224])
    """
    votes = record.votes
    classes = [votes.guess] if votes.runner_up is None else [votes.guess, votes.runner_up]
    if (largest := max(int(one.max(initial=0)) for one in classes)) >= NO_RUNNER_UP:
        raise ValueError(f'maps hold classes up to {NO_RUNNER_UP - 1}, got {largest}')
    maps: dict[str, NDArray[Any]] = {'guess': votes.guess.astype(np.uint8)}
    if votes.table is None:
        maps['vote_share'] = (votes.hits / votes.n).astype(np.float32)
        if alpha is not None and not votes.enumerated:
            maps['lower_bound'] = joint_bounds(votes, alpha=alpha, selection=selection)
            if radius is not None:
                maps['radius'] = joint_radii(votes, alpha=alpha, radius=radius, selection=selection)
    if votes.runner_up is not None and votes.runner_up_hits is not None:
        seen = votes.runner_up_hits > 0
        maps['runner_up'] = np.where(seen, votes.runner_up, NO_RUNNER_UP).astype(np.uint8)
        share = votes.runner_up_hits / votes.choosing_draws
        maps['runner_up_share'] = share.astype(np.float32)
    return {name: record.spread(values) for name, values in maps.items()}
