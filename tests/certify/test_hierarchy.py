import math

import numpy as np
import pytest

from mmcert.certify import CertifySettings, Hierarchy, Votes, certify
from mmcert.metrics import total
from mmcert.votes import VotesRecord, load_votes, save_votes
from mmcert.votes.recertify import Task, evaluate

CLASSES = ('road', 'sidewalk', 'car', 'bus')
LEVELS = [{'flat': ['road', 'sidewalk'], 'vehicle': ['car', 'bus']}]


def votes_of(selection, estimation, hierarchy):
    """Votes with their groups, counted from label maps (draws, K)."""

    def count(labels, votes, size):
        tallies = np.stack([(labels == c).sum(axis=0) for c in range(size)])
        guess = tallies.argmax(axis=0)
        hits = (votes == guess).sum(axis=0)
        return guess, hits, tallies.max(axis=0)

    def as_votes(mapping, size, levels=()):
        guess, hits, top = count(mapping[selection], mapping[estimation], size)
        return Votes(guess, hits, len(estimation), len(selection), top, group_votes=tuple(levels))

    levels = [
        as_votes(groups, len(names))
        for groups, names in zip(hierarchy.groups, hierarchy.names, strict=True)
    ]
    return as_votes(np.arange(len(hierarchy.classes)), len(hierarchy.classes), levels)


def test_a_component_torn_between_two_classes_is_certified_as_their_group(tmp_path):
    hierarchy = Hierarchy(LEVELS, CLASSES)
    rng = np.random.default_rng(0)
    draw = lambda n: np.stack([np.zeros(n, int), rng.integers(2, 4, n), rng.integers(0, 4, n)], 1)  # noqa: E731
    votes = votes_of(draw(20), draw(60), hierarchy)
    certificate = certify(votes, tau=0.75, alpha=0.01, hierarchy=hierarchy)
    assert certificate.level.tolist() == [0, 1, 2]
    assert certificate.certified.tolist() == [True, False, False]
    assert certificate.groups[0][:2].tolist() == [0, 1]
    assert certificate.to_dict()['certified_by_level'] == [1, 1]
    record = VotesRecord(votes, {}, label=np.array([0, 2, 0]))
    save_votes(tmp_path / 'v.npz', record)
    again = certify(load_votes(tmp_path / 'v.npz').votes, tau=0.75, alpha=0.01, hierarchy=hierarchy)
    np.testing.assert_array_equal(again.level, certificate.level)

    (counts,) = evaluate([record], [CertifySettings(0.75, 0.01)], Task(4, hierarchy=hierarchy))
    rates = counts.rates()
    gain = (1 + (math.log(4) - math.log(2)) / math.log(4)) / 3
    assert rates['CIG'] == pytest.approx(gain)
    assert rates['cCIG'] == pytest.approx(np.mean([1 / 2, 1 / 2]))
    assert rates['abstain_level0'] == pytest.approx(2 / 3)
    assert rates['abstain_level1'] == pytest.approx(1 / 3)
    assert rates['certAcc_level1'] == pytest.approx(2 / 3)
    added = total([counts, counts], 4).rates()
    assert added['CIG'] == pytest.approx(gain)


def test_a_wrong_group_gives_no_information():
    hierarchy = Hierarchy(LEVELS, CLASSES)
    votes = votes_of(np.full((5, 1), 2), np.full((60, 1), 2), hierarchy)
    record = VotesRecord(votes, {}, label=np.array([0]))
    (counts,) = evaluate([record], [CertifySettings(0.75, 0.01)], Task(4, hierarchy=hierarchy))
    assert counts.rates()['CIG'] == 0
    assert counts.rates()['abstain_level0'] == 0


def test_a_class_outside_the_most_frequent_group_is_not_tested():
    # road 2, car 2, bus 1 in selection: the guess is road, the most frequent group vehicle.
    hierarchy = Hierarchy(LEVELS, CLASSES)
    votes = votes_of(np.array([[0], [0], [2], [2], [3]]), np.zeros((60, 1), int), hierarchy)
    assert votes.guess[0] == 0 and votes.group_votes[0].guess[0] == 1
    assert certify(votes, tau=0.75, alpha=0.01).certified.all()
    assert certify(votes, tau=0.75, alpha=0.01, hierarchy=hierarchy).level.tolist() == [2]


@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
@pytest.mark.parametrize('p', [(0.7, 0.3, 0, 0), (0.35, 0.35, 0.3, 0), (0.6, 0.1, 0.2, 0.1)])
def test_the_chain_costs_no_more_error_than_one_test(selection, p):
    # The worst points: some group of the chain has probability exactly tau = 0.7.
    hierarchy = Hierarchy(LEVELS, CLASSES)
    rng = np.random.default_rng(1)
    tau, alpha, families, components = 0.7, 0.1, 1500, 12
    truth = [np.array(p), np.array([p[0] + p[1], p[2] + p[3]])]
    wrong = 0
    for _ in range(families):
        labels = rng.choice(4, (34, components), p=p)
        votes = votes_of(labels[:4], labels[4:], hierarchy)
        found = certify(votes, tau=tau, alpha=alpha, selection=selection, hierarchy=hierarchy)
        false = np.zeros(components, dtype=bool)
        for level, guess in enumerate([found.guess, *found.groups]):
            false |= (found.level == level) & (truth[level][guess] <= tau + 1e-12)
        wrong += false.any()
    assert wrong / families <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / families)


def test_classes_that_no_group_names_stand_alone():
    hierarchy = Hierarchy([{'vehicle': ['car', 'bus']}], CLASSES)
    assert hierarchy.names[0] == ('vehicle', 'road', 'sidewalk')
    assert hierarchy.information(1).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ('levels', 'message'),
    [
        ([{'flat': ['road', 'lawn']}], "names the class 'lawn'; the classes are road"),
        ([{'a': ['road', 'car'], 'b': ['road']}], "names 'road' twice"),
        ([LEVELS[0], {'x': ['road', 'car']}], 'level 2 divides a group of the level before among'),
        ([{'x': ['road']}], 'level 1 of the hierarchy is no coarser'),
        ([], 'at least one level'),
        ([{'x': ['road', 'car'], 'y': []}], 'a group without classes'),
        ([{'car': ['bus', 'road']}], "calls a group 'car', which is a class outside"),
        (3, 'a hierarchy is a list of levels, each a dict from names of groups'),
        (['road'], "got \\['road'\\]"),
        ('ade20k', "unknown hierarchy 'ade20k'; known: camvid, cityscapes"),
    ],
)
def test_bad_taxonomies_are_named(levels, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_config(levels, CLASSES)


def test_votes_without_the_levels_are_refused():
    plain = Votes(np.zeros(2, int), np.array([3, 4]), 5, 5)
    with pytest.raises(ValueError, match='sample them with the same `hierarchy`'):
        certify(plain, tau=0.75, alpha=0.01, hierarchy=Hierarchy(LEVELS, CLASSES))


def test_wrong_certificates_that_are_allowed_are_taken_from_the_levels():
    hierarchy = Hierarchy(LEVELS, CLASSES)
    votes = votes_of(np.full((5, 10), 2), np.full((60, 10), 2), hierarchy)
    record = VotesRecord(votes, {}, label=np.full(10, 2))
    settings = CertifySettings(0.75, 0.01, 'kfwer', k=4)
    (counts,) = evaluate([record], [settings], Task(4, hierarchy=hierarchy))
    rates = counts.rates()
    assert rates['certAcc'] == rates['CIG'] == rates['certAcc_level0'] == pytest.approx(0.7)
    assert rates['certAcc_level1'] == pytest.approx(0.7)
    assert math.isnan(rates['cCIG'])


def test_the_numbers_of_groups_survive_a_file_that_sorts_its_keys(tmp_path):
    # 'vehicle' comes first and is sorted last.
    hierarchy = Hierarchy([{'vehicle': ['car', 'bus'], 'flat': ['road', 'sidewalk']}], CLASSES)
    votes = votes_of(np.full((5, 1), 3), np.full((60, 1), 2), hierarchy)
    save_votes(tmp_path / 'v.npz', VotesRecord(votes, {'hierarchy': hierarchy.spec()}))
    kept = load_votes(tmp_path / 'v.npz')
    again = Hierarchy.from_spec(kept.meta['hierarchy'])
    assert again.names == hierarchy.names
    np.testing.assert_array_equal(again.groups[0], hierarchy.groups[0])
    assert again.members(1) == {'vehicle': ['car', 'bus'], 'flat': ['road', 'sidewalk']}
    certificate = certify(kept.votes, tau=0.75, alpha=0.01, hierarchy=again)
    assert certificate.level.tolist() == [1] and certificate.groups[0].tolist() == [0]


def test_coarser_counts_do_not_share_what_the_order_pays_for():
    # One sure component in front, then groups of probability exactly tau.
    hierarchy = Hierarchy(LEVELS, CLASSES)
    rng = np.random.default_rng(2)
    families, alpha, wrong = 400, 0.01, 0
    p = [0.4, 0.35, 0.25, 0.0]
    for _ in range(families):
        labels = rng.choice(4, (28, 40), p=p)
        labels[:, 0] = 0
        votes = votes_of(labels[:10], labels[10:], hierarchy)
        found = certify(votes, tau=0.75, alpha=alpha, procedure='ordered_holm', hierarchy=hierarchy)
        wrong += (found.level[1:] < 2).any()
    assert wrong / families <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / families)
