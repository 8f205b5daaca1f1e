"""Slow and literal transcriptions of the procedures, and brute-force closed testing."""

from itertools import combinations

import numpy as np

from mmcert.certify.procedures import Family, get_procedure


def reject(procedure, hits, table, alpha, **family):
    """What a registered procedure rejects."""
    return get_procedure(procedure).run(Family(hits, table, alpha, **family))


def reject_p_values(procedure, p, alpha, k=1):
    """What a registered procedure rejects of any p-values: the table lists those that occur."""
    p = np.asarray(p, dtype=np.float64)
    values, rank = np.unique(p, return_inverse=True)
    hits = len(values) - 1 - rank.reshape(p.shape)
    return reject(procedure, hits, values[::-1], alpha, k=k).mask


def bonferroni(p, alpha):
    """Bonferroni's procedure as it is written."""
    return np.asarray(p) <= alpha / max(len(p), 1)


def holm(p, alpha):
    """Holm 1979 as it is written, one sorted p-value after the other."""
    reject = np.zeros(len(p), dtype=bool)
    for i, index in enumerate(np.argsort(p, kind='stable')):
        if p[index] > alpha / (len(p) - i):
            break
        reject[index] = True
    return reject


def lehmann_romano(p, alpha, k):
    """Lehmann and Romano 2005, theorem 2.2, one sorted p-value after the other."""
    total = len(p)
    reject = np.zeros(total, dtype=bool)
    for i, index in enumerate(np.argsort(p, kind='stable'), start=1):
        level = k * alpha / total if i <= k else k * alpha / (total + k - i)
        if p[index] > level:
            break
        reject[index] = True
    return reject


def ordered_local_test(members, counts, table, alpha, order):
    """Which members an alpha-exhausting test of their intersection rejects, as defined."""
    tail = [*table, 0.0]
    m = len(members)
    cutoff = min(k for k in range(len(tail)) if m * tail[k] <= alpha)
    rejected = {i for i in members if counts[i] >= cutoff}
    if cutoff > 0:
        first = int(np.floor((alpha - m * tail[cutoff]) / (tail[cutoff - 1] - tail[cutoff])))
        ranked = [i for i in order if i in members]
        rejected |= {i for i in ranked[:first] if counts[i] == cutoff - 1}
    return rejected


def ordered_holm(counts, table, alpha, order):
    """The step-down procedure: reject within the pending set, shrink it, repeat."""
    pending = set(range(len(counts)))
    while pending:
        rejected = ordered_local_test(pending, counts, table, alpha, order)
        if not rejected:
            break
        pending -= rejected
    return np.array([i not in pending for i in range(len(counts))])


def closed_testing(size, rejects_intersection):
    """Rejects i if every intersection hypothesis with i in it is rejected (Marcus et al. 1976)."""
    subsets = [set(s) for r in range(1, size + 1) for s in combinations(range(size), r)]
    refused = [s for s in subsets if not rejects_intersection(s)]
    return np.array([not any(i in s for s in refused) for i in range(size)])
