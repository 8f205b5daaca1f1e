"""What the smoothed model says at an attacked input, and whether a certificate is broken by it."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certify.binomial import p_value_table
from mmcert.certify.checks import check_draws
from mmcert.perturbations import Perturbation
from mmcert.perturbations.base import LARGEST_TAU
from mmcert.sampling import SamplingSettings
from mmcert.sampling.draws import SELECTION
from mmcert.sampling.outputs import label_maps
from mmcert.sampling.passes import Passes, Segment


@torch.no_grad()
def class_counts(
    segment: Segment,
    inputs: torch.Tensor,
    perturbation: Perturbation,
    settings: SamplingSettings,
    draws: int,
) -> torch.Tensor:
    """How often each class comes up among new draws at an input, shape (C, ...), int32.

    The draws are addressed by the content of the input and the seed of the ``settings``, whose
    ``n`` and ``n0`` do not matter: at an attacked input they are others than those of a certificate
    for the clean one, whatever the seed.
    """
    settings = replace(settings, n=check_draws(draws), groups=())
    passes = Passes(segment, inputs, perturbation, settings, None)
    counts: torch.Tensor | None = None
    # As draws that choose a class: their labels are those of the smoothed model, and where content
    # moves under the perturbation no more is asked of them.
    for output in passes.outputs(SELECTION, range(draws)):
        labels = label_maps(output, settings.num_classes)
        if counts is None:
            counts = labels.new_zeros((settings.num_classes, *labels.shape[1:]), dtype=torch.int32)
        for index, count in enumerate(counts):
            count += (labels == index).sum(dim=0, dtype=torch.int32)
    passes.require_sound()
    assert counts is not None
    return counts


def hits_of(counts: torch.Tensor, labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """How often a given label came up at each component, by the counts of all classes."""
    wanted = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(counts.device)
    return counts.gather(0, wanted[None])[0].cpu().numpy().astype(np.int64)


def minority_p_values(hits: NDArray[np.integer], draws: int) -> NDArray[np.float64]:
    """p-values of the hypothesis that a class has at least half of the probability.

    Small ones say that it has less, beyond doubt: P[Bin(n, 1/2) <= hits].
    """
    return p_value_table(draws, 0.5, 'holdout')[draws - np.asarray(hits)]


def draws_for(level: float) -> int:
    """The fewest draws whose p-value can lie below a level: none of them has the class.

    >>> draws_for(1e-3), minority_p_values(np.array([0]), 10) < 1e-3
    (10, array([ True]))
    """
    return math.floor(-math.log2(level)) + 1


def least_tau(perturbation: Perturbation, radius: float, precision: float = 0.0) -> float:
    """The least threshold in [0.5, 1) whose certificates cover a radius.

    With a ``precision`` it may be larger by that: some radii take time to compute.

    Raises:
        ValueError: If none does.

    Example:
        >>> from mmcert.perturbations import GaussianNoise
        >>> round(least_tau(GaussianNoise(0.25), 0.1686), 3)
        0.75
    """
    low, high = 0.5, LARGEST_TAU
    if not 0 < radius <= perturbation.radius(high):
        raise ValueError(f'{perturbation!r} certifies no radius of {radius:g}')
    while high - low > precision and low < (middle := (low + high) / 2) < high:
        if perturbation.radius(middle) >= radius:
            high = middle
        else:
            low = middle
    return high
