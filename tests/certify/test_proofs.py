"""The proofs of docs/theory, held against the worst of all dependences between components.

Each component's counts have their exact law; how the components depend is left to a linear
programme, which finds the largest probability of a broken promise.
"""

import itertools
from functools import cache
from math import factorial

import numpy as np
import pytest
from scipy import optimize, sparse, stats

from mmcert.certify import Hierarchy, Votes, certify
from mmcert.certify.binomial import p_value_table
from mmcert.certify.procedures import PROCEDURES
from tests.certify.oracles import reject

SLACK = 1e-7
"""What the solver may be off by."""


def worst_dependence(laws, broken):
    """Largest P[broken] over all joint laws with these marginals, shape (S,) each."""
    shape = tuple(len(law) for law in laws)
    cells = np.arange(np.prod(shape)).reshape(shape)
    rows = [
        np.moveaxis(cells, axis, 0)[state].ravel()
        for axis, size in enumerate(shape)
        for state in range(size)
    ]
    index = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    matrix = sparse.coo_matrix(
        (np.ones(len(index)), (index, np.concatenate(rows))), shape=(len(rows), cells.size)
    )
    found = optimize.linprog(
        -broken.ravel().astype(float), A_eq=matrix.tocsr(), b_eq=np.concatenate(laws),
        bounds=(0, None),
    )  # fmt: skip
    assert found.status == 0, found.message
    return -found.fun


def multinomial(counts, p):
    coefficient = factorial(sum(counts))
    for count in counts:
        coefficient //= factorial(count)
    return coefficient * np.prod(np.power(p, counts))


@cache
def states(n, classes):
    """All counts of n draws."""
    cuts = itertools.product(range(n + 1), repeat=classes)
    return tuple(counts for counts in cuts if sum(counts) == n)


def same_draw_broken(n, probabilities, tau, settings, alpha, k=1):
    """Whether k promises are broken, for every outcome of the counts; the class is the top one."""
    components, classes = len(probabilities), len(probabilities[0])
    kinds = states(n, classes)
    top = [int(np.argmax(counts)) for counts in kinds]
    table = p_value_table(n, tau, 'same_draws', components)
    broken = np.zeros((len(kinds),) * components, dtype=bool)
    for outcome in np.ndindex(broken.shape):
        hits = np.array([kinds[state][top[state]] for state in outcome])
        mask = reject(settings, hits, table, alpha, k=k).mask
        wrong = sum(
            mask[i] and probabilities[i][top[state]] <= tau + 1e-12
            for i, state in enumerate(outcome)
        )
        broken[outcome] = wrong >= k
    laws = [[multinomial(counts, p) for counts in kinds] for p in probabilities]
    return [np.array(law) for law in laws], broken


CLEAR = 0.02
"""How far a class lies above tau that is no null."""


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('tau', [0.5, 0.6, 0.75])
@pytest.mark.parametrize('nulls', range(4))
def test_no_dependence_breaks_more_than_alpha_with_same_draws(procedure, tau, nulls):
    n, k = 7, 2 if procedure == 'kfwer' else 1
    for order in itertools.permutations([True] * nulls + [False] * (3 - nulls)):
        p = [(tau, 1 - tau) if null else (tau + CLEAR, 1 - tau - CLEAR) for null in order]
        for alpha in (0.12, 0.35, 0.7):
            laws, broken = same_draw_broken(n, p, tau, procedure, alpha, k)
            assert worst_dependence(laws, broken) <= alpha + SLACK
        if nulls in (0, 3):
            break


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('nulls', [1, 2, 3])
def test_no_dependence_breaks_more_than_alpha_with_holdout(procedure, nulls):
    n, tau, k = 8, 0.6, 2 if procedure == 'kfwer' else 1
    table = p_value_table(n, tau, 'holdout')
    for positions in itertools.combinations(range(3), nulls):
        p = np.where(np.isin(np.arange(3), positions), tau, 0.9)
        laws = [stats.binom.pmf(np.arange(n + 1), n, q) for q in p]
        for alpha in (0.05, 0.2, 0.5):
            broken = np.zeros((n + 1,) * 3, dtype=bool)
            for outcome in np.ndindex(broken.shape):
                mask = reject(procedure, np.array(outcome), table, alpha, k=k).mask
                broken[outcome] = np.count_nonzero(mask[list(positions)]) >= k
            assert worst_dependence(laws, broken) <= alpha + SLACK


@pytest.mark.parametrize('procedure', PROCEDURES)
def test_no_dependence_breaks_more_than_alpha_over_two_looks(procedure):
    first, more, alpha = 5, 5, 0.8
    k = {'k': 2} if procedure == 'kfwer' else {}
    for tau in (0.5, 0.65):
        # The states of one component: votes for class 0 in the first and in the further draws.
        kinds = list(itertools.product(range(first + 1), range(more + 1)))
        for p in ((tau, tau), (tau, tau + CLEAR), (tau + CLEAR, tau), (tau + CLEAR,) * 2):
            broken = np.zeros((len(kinds),) * 2, dtype=bool)
            for outcome in np.ndindex(broken.shape):
                early, late = np.array([kinds[state] for state in outcome]).T
                guess = (early < first - early).astype(int)
                at_first = np.where(guess == 0, early, first - early)
                at_last = at_first + np.where(guess == 0, late, more - late)
                votes = Votes(guess, at_last, first + more, 0, looks=(first, first + more),
                              history=(at_first,))  # fmt: skip
                found = certify(
                    votes, tau=tau, alpha=alpha, procedure=procedure, selection='same_draws', **k
                )
                of_guess = np.where(guess == 0, p, 1 - np.array(p))
                wrong = np.count_nonzero(found.certified & (of_guess <= tau + 1e-12))
                broken[outcome] = wrong >= found.k
            laws = [
                np.array([
                    stats.binom.pmf(a, first, q) * stats.binom.pmf(b, more, q) for a, b in kinds
                ])
                for q in p
            ]  # fmt: skip
            assert worst_dependence(laws, broken) <= alpha + SLACK


@pytest.mark.parametrize('procedure', ['holm', 'ordered_holm'])
def test_no_dependence_breaks_more_than_alpha_over_a_hierarchy(procedure):
    n, tau, alpha = 6, 0.5, 0.6
    hierarchy = Hierarchy([{'pair': ['a', 'b']}], ['a', 'b', 'c'])
    kinds = states(n, 3)
    fine = np.array([np.argmax(counts) for counts in kinds])
    nodes = np.array([(counts[0] + counts[1], counts[2]) for counts in kinds])
    for p in itertools.product([(0.5, 0.0, 0.5), (0.3, 0.2, 0.5), (0.52, 0.0, 0.48)], repeat=2):
        inside = np.array([[q[0] + q[1], q[2]] for q in p])
        broken = np.zeros((len(kinds),) * 2, dtype=bool)
        for outcome in np.ndindex(broken.shape):
            chosen = list(outcome)
            coarse = nodes[chosen].argmax(axis=1)
            hits = np.array([max(kinds[state]) for state in chosen])
            groups = Votes(coarse, nodes[chosen].max(axis=1), n, 0)
            votes = Votes(fine[chosen], hits, n, 0, group_votes=(groups,))
            found = certify(
                votes, tau=tau, alpha=alpha, procedure=procedure, selection='same_draws',
                hierarchy=hierarchy,
            )  # fmt: skip
            of_class = np.array(p)[[0, 1], votes.guess]
            of_node = inside[[0, 1], coarse]
            broken[outcome] = (
                ((found.level == 0) & (of_class <= tau)) | ((found.level == 1) & (of_node <= tau))
            ).any()
        laws = [np.array([multinomial(counts, q) for counts in kinds]) for q in p]
        assert worst_dependence(laws, broken) <= alpha + SLACK
