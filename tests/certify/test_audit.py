import numpy as np
import pytest

from mmcert.certify.audit import (
    ORACLES,
    Audit,
    Family,
    Method,
    Oracle,
    PathOracle,
    _count,
    methods,
)
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.settings import SELECTION_CHOICES

METHODS = methods()


def small(*methods, oracles=ORACLES, families=300):
    return Audit(families, methods=methods, oracles=oracles)


@pytest.mark.parametrize('oracle', ORACLES, ids=lambda o: o.name)
def test_an_oracle_draws_with_the_probabilities_it_names(oracle):
    labels = oracle.draw(np.random.default_rng(0), 400)
    components, classes = oracle.probabilities.shape
    assert labels.shape == (400, oracle.n0 + oracle.n, components)
    # One component's draws are independent, however the components depend on each other.
    draws = labels.shape[0] * labels.shape[1]
    for component in (0, components - 1):
        if isinstance(oracle, PathOracle):
            # The draws are around different places, none of them with less than 1/2 for class 0.
            own = oracle.bounds()[0, :, component]
            share = (labels[..., component] == 0).mean(axis=0)
            assert own.min() >= 0.5 and np.abs(share - own).max() <= 5 * 0.5 / np.sqrt(400)
            continue
        p = oracle.probabilities[component]
        share = np.bincount(labels[..., component].ravel(), minlength=classes) / draws
        assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-12).all()
        hits = (labels[:, :, component] == 0).sum(axis=1)
        spread = np.sqrt(labels.shape[1] * p[0] * (1 - p[0]))
        assert hits.std() == pytest.approx(spread, rel=0.2)
    assert sorted(set(oracle.margin)) in ([0, 1], [0], [1])


def test_no_procedure_and_no_selection_is_missed():
    names = [method.name for method in METHODS if method.valid]
    assert len(names) == len(set(names))
    for procedure in PROCEDURES:
        for selection in SELECTION_CHOICES:
            for words in ('{}, {}', '{}, {}, in looks', 'groups, {}, {}'):
                for k in ('', ' k=5'):
                    name = words.format(procedure + k, selection)
                    assert (name in names) == ((procedure == 'kfwer') == bool(k)), name
    for selection in SELECTION_CHOICES:
        assert f'joint radii, {selection}' in names


def test_an_order_by_the_selection_votes_holds_with_the_default_selection():
    (oracle,) = [o for o in ORACLES if o.name == 'as many draws to choose as to test']
    (method,) = [m for m in METHODS if m.name == 'ordered_holm by the selection votes']
    audit = small(method, oracles=(oracle,), families=3000)
    (finding,) = audit.run()
    assert finding.failed <= 1.3 * finding.alpha * finding.families


def test_errors_that_exclude_each_other_do():
    oracle = Oracle('x', np.tile([0.75, 0.25], (8, 1)), coupling='exclusive')
    wrong = oracle.draw(np.random.default_rng(0), 50).sum(axis=2)
    assert set(np.unique(wrong)) == {2}


@pytest.mark.parametrize('families', [60, pytest.param(600, marks=pytest.mark.slow)])
def test_no_valid_method_is_seen_in_a_small_audit(families):
    audit = small(*(m for m in METHODS if m.valid), families=families)
    audit.run()
    assert not [f for f in audit.findings if f.violates_level]
    assert len(audit.findings) == audit.pairs
    assert audit.pairs < sum(m.valid for m in METHODS) * len(ORACLES)


@pytest.mark.parametrize('method', [m for m in METHODS if not m.valid], ids=lambda m: m.name)
def test_every_invalid_method_is_seen_by_its_oracle(method):
    strongest = {
        'max-T bootstrap': 'large tau, few draws',
        'k-FWER with k alpha / (K - i + 1)': 'correlated, half sure',
        'repeated draws': 'two classes',
        'ordered_holm by the selection votes, same_draws': 'as many draws to choose as to test',
        'pooling all draws as if of one cell': 'a path, one worst place',
    }
    name = strongest.get(method.name, 'one component, a tie')
    (oracle,) = [o for o in ORACLES if o.name == name]
    full = Method(method.name, method.fails, valid=False, oracles=method.oracles)
    audit = small(full, oracles=(oracle,), families=600 if 'max-T' in method.name else 6000)
    (finding,) = audit.run()
    assert finding.violates_level, finding
    assert not audit.unexpected()


def test_an_audit_fails_when_an_invalid_method_is_not_seen():
    harmless = Method('never', lambda family, rng: False, valid=False)
    audit = small(harmless, oracles=ORACLES[:1], families=50)
    audit.run()
    assert audit.unexpected() == ['never']


def test_no_procedure_of_ones_own_has_to_fail(monkeypatch):
    class Own(type(PROCEDURES['ordered_holm'])):
        name = 'own'

    monkeypatch.setitem(PROCEDURES, 'own', Own())
    known = {method.name for method in METHODS}
    found = [method for method in methods() if method.name not in known]
    assert len(found) > 9 and all(method.valid for method in found)


def test_a_wrong_certificate_is_seen():
    oracle = Oracle('x', np.array([[0.75, 0.25], [1.0, 0.0]]))
    votes = _count(np.zeros((53, 2), dtype=np.uint8), 5)
    family = Family(oracle, np.zeros((53, 2), dtype=np.uint8), votes)
    assert family.wrong(np.array([True, True])) == 1
    assert family.wrong(np.array([False, True])) == 0
    looks = family.in_looks()
    assert looks.looks == (16, 32, 48) and looks.history[0].tolist() == [16, 16]
