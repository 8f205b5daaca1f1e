import numpy as np
import pytest
import torch
from scipy.special import ndtr

from mmcert.certify import certify
from mmcert.perturbations import CyclicTranslation, GaussianNoise
from mmcert.sampling import (
    SamplingSettings,
    SegmentorOutputError,
    collect_looks,
    collect_votes,
    draw_seed,
    input_digest,
)
from mmcert.sampling.draws import ESTIMATION, SELECTION
from tests.sampling.support import sample_votes


class LinearSegmentor:
    """Component i has class 1 where w_i . x > b_i, so its probabilities are known exactly."""

    def __init__(self, features, components, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(components, features, generator=generator)
        self.offsets = torch.randn(components, generator=generator)

    def __call__(self, batch):
        stacked = torch.stack(list(batch)).flatten(1)
        return (stacked @ self.weights.T > self.offsets).long()

    def distances(self, x):
        """Signed l2 distance of x to each component's boundary, positive in class 1."""
        return ((self.weights @ x.flatten() - self.offsets) / self.weights.norm(dim=1)).numpy()


def collect(segment, x, sigma=0.25, **arguments):
    settings = {'n0': 10, 'n': 50, 'num_classes': 2, 'seed': 3, **arguments}
    return sample_votes(segment, x, GaussianNoise(sigma), **settings)


@pytest.fixture
def x():
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('batch_size', [1, 3, 7, 50, 1000])
def test_votes_do_not_depend_on_the_batch_size(x, batch_size):
    segment = LinearSegmentor(60, 40)
    expected, found = collect(segment, x), collect(segment, x, batch_size=batch_size)
    np.testing.assert_array_equal(found.hits, expected.hits)
    np.testing.assert_array_equal(found.guess, expected.guess)


@pytest.mark.parametrize('n0', [6, 0])
def test_the_runner_up_is_second_in_the_draws_that_chose_the_guess(x, n0):
    seen = []

    def segment(batch):
        # Five classes, the third of which never occurs.
        values = torch.stack(list(batch))[:, 0]
        labels = torch.tensor([0, 1, 3, 4])[(values * 4).long().clamp(0, 3)]
        seen.append(labels)
        return labels

    votes = collect(segment, x, sigma=0.1, n0=n0, n=9, num_classes=5)
    chosen = torch.cat(seen)[: n0 or 9].numpy()
    assert votes.choosing_draws == len(chosen)
    for place in np.ndindex(votes.guess.shape):
        counts = np.bincount(chosen[(slice(None), *place)], minlength=5)
        assert votes.guess[place] == counts.argmax()
        counts[counts.argmax()] = 0
        assert votes.runner_up_hits[place] == counts.max()
        assert votes.runner_up[place] == counts.argmax() * (counts.max() > 0)
    assert 0 < np.count_nonzero(votes.runner_up_hits) < votes.num_components


def test_votes_change_with_the_seed_and_with_the_input(x):
    segment = LinearSegmentor(60, 40)
    assert (collect(segment, x).hits != collect(segment, x, seed=4).hits).any()
    seen = []
    for image in (x, x + 1e-6):
        collect(lambda batch: seen.append(batch[0]) or segment(batch), image, n0=1, n=1)
    assert (seen[0] - seen[2]).abs().max() > 0.01


def test_every_draw_is_fresh_and_used_once(x):
    seen = []

    def segment(batch):
        seen.extend(batch)
        return torch.zeros(len(batch), 2, dtype=torch.long)

    collect(segment, x, n0=20, n=200)
    assert len(seen) == 220
    assert len({input_digest(image) for image in seen}) == 220


def test_estimation_draws_do_not_depend_on_the_number_of_selection_draws(x):
    def draws(n0):
        seen = []
        collect(
            lambda batch: seen.extend(batch) or torch.zeros(len(batch), 1, dtype=torch.long),
            x,
            n0=n0,
            n=5,
        )
        return seen[n0:]

    for first, second in zip(draws(2), draws(9), strict=True):
        assert torch.equal(first, second)


def test_seeds_of_one_input_differ_in_the_bits_that_the_cpu_generator_keeps():
    digest = bytes(16)
    seeds = [
        draw_seed(0, digest, stage, index) % 2**32
        for stage in (SELECTION, ESTIMATION)
        for index in range(50_000)
    ]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ValueError, match='draw index'):
        draw_seed(0, digest, ESTIMATION, 2**31)


def test_the_noise_has_its_law(x):
    seen = []

    def segment(batch):
        seen.extend(batch)
        return torch.zeros(len(batch), 1, dtype=torch.long)

    collect(segment, x, sigma=0.5, n=2000)
    noise = (torch.stack(seen) - x).double()
    count = noise.numel()
    assert abs(noise.mean()) < 5 * 0.5 / count**0.5
    assert noise.std() == pytest.approx(0.5, rel=5 / (2 * count) ** 0.5)
    # Draws are independent of each other: their correlations are those of white noise.
    flat = noise.flatten(1) / 0.5
    correlation = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert correlation.abs().max() < 7 / flat.shape[1] ** 0.5


def test_hits_have_the_known_probabilities(x):
    segment = LinearSegmentor(60, 300)
    votes = collect(segment, x, n=2000, batch_size=500)
    side = 2 * votes.guess - 1
    expected = ndtr(side * segment.distances(x) / 0.25)
    error = votes.hits / 2000 - expected
    standard = np.sqrt(np.maximum(expected * (1 - expected), 1e-4) / 2000)
    assert np.abs(error / standard).max() < 5


@pytest.mark.parametrize('tau', [0.6, 0.75, 0.9])
@pytest.mark.parametrize('procedure', ['holm', 'bonferroni'])
def test_no_certificate_exceeds_the_true_distance(tau, procedure):
    sigma, alpha, radius = 0.25, 1e-3, GaussianNoise(0.25).radius(tau)
    certified_in_all = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(1, 5, 5, generator=generator)
        segment = LinearSegmentor(25, 500, seed)
        votes = collect(segment, x, sigma=sigma, n=200, seed=seed, batch_size=100)
        certified = certify(votes, tau=tau, alpha=alpha, procedure=procedure).certified
        signed = (2 * votes.guess - 1) * segment.distances(x)
        assert (signed[certified] > radius).all()
        # Far from the boundary almost every component is certified: the test has power.
        far = signed > radius + 3 * sigma
        assert certified[far].mean() > 0.99
        certified_in_all += certified.sum()
    assert certified_in_all > 1000


def test_fwer_of_the_whole_path_at_the_null_boundary():
    # All components lie exactly at the distance where P = tau: every certificate is an error.
    tau, sigma, alpha, families = 0.75, 0.25, 0.1, 300
    weights = torch.eye(30)
    x = torch.zeros(30)
    offsets = torch.full((30,), -GaussianNoise(sigma).radius(tau))
    errors = 0
    for seed in range(families):
        votes = collect_votes(
            lambda batch: (torch.stack(batch) @ weights.T > offsets).long(),
            x,
            GaussianNoise(sigma),
            SamplingSettings(n0=10, n=60, num_classes=2, seed=seed, batch_size=70),
        )
        errors += certify(votes, tau=tau, alpha=alpha).certified.any()
    assert errors / families <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / families)


def test_ties_of_the_selection_go_to_the_lowest_class(x):
    answers = iter([3, 1, 1, 3, 2])

    def segment(batch):
        return torch.tensor([[next(answers, 0)] for _ in batch])

    assert collect(segment, x, n0=5, n=1, num_classes=4, batch_size=2).guess.tolist() == [1]


def test_lists_of_label_maps_and_narrow_integers_are_accepted(x):
    def segment(batch):
        return [np.ones((2, 3), dtype=np.uint8) for _ in batch]

    votes = collect(segment, x)
    assert votes.hits.shape == (2, 3)
    assert (votes.hits == 50).all()


def test_boolean_label_maps_are_two_classes(x):
    votes = collect(lambda batch: torch.stack(batch)[:, 0] > -10, x)
    assert (votes.guess == 1).all()


def test_progress_is_reported(x):
    done = []
    collect(LinearSegmentor(60, 2), x, batch_size=8, on_draws=done.append)
    assert sum(done) == 60
    assert max(done) == 8


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (torch.full((8, 3), 2), r'returned 2, but there are 2 classes'),
        (torch.full((8, 3), -1), 'returned -1'),
        (torch.zeros(8, 3), 'integers, got torch.float32'),
        (torch.zeros(5, 3, dtype=torch.long), '8 inputs must give 8 label maps'),
    ],
)
def test_outputs_that_are_no_label_maps_are_refused(x, labels, message):
    with pytest.raises(SegmentorOutputError, match=message):
        collect(lambda batch: labels, x, n0=8)


def test_a_label_map_that_changes_shape_is_refused(x):
    shapes = iter([3, 4, 4, 4])
    with pytest.raises(SegmentorOutputError, match='changed shape'):
        collect(
            lambda batch: torch.zeros(len(batch), next(shapes), dtype=torch.long),
            x,
            n0=8,
            n=8,
        )


@pytest.mark.parametrize('name', ['n', 'batch_size', 'num_classes'])
def test_counts_must_be_positive_integers(x, name):
    with pytest.raises(ValueError, match=f'{name} must be an integer of at least 1'):
        collect(LinearSegmentor(60, 2), x, **{name: 0})


def test_integer_images_are_refused(x):
    with pytest.raises(ValueError, match='floating point, got torch.uint8'):
        collect(LinearSegmentor(60, 2), x.to(torch.uint8))


def noisy_classes(images):
    """Labels by the value of the noisy image: three classes."""
    batch = torch.stack(list(images))[:, 0]
    return (batch > 0.4).long() + (batch > 0.7).long()


def sampled(x, **arguments):
    return sample_votes(
        noisy_classes, x, GaussianNoise(0.25), num_classes=3, seed=1,
        **({'n0': 10, 'n': 40} | arguments),
    )  # fmt: skip


def test_selection_hits_count_the_draws_that_chose_the_guess(x):
    votes = sampled(x)
    assert (votes.selection_hits * 3 >= 10).all()
    # One draw: it chooses its own class.
    assert (sampled(x, n0=1).selection_hits == 1).all()


def test_without_selection_draws_the_guess_is_the_top_of_the_counted_ones(x):
    votes = sampled(x, n0=0)
    assert votes.n0 == 0 and votes.selection_hits is None
    assert (votes.hits * 3 >= 40).all()
    # The same estimation draws, so a held-out guess that agrees has the same hits.
    held_out = sampled(x)
    same = held_out.guess == votes.guess
    assert same.any()
    np.testing.assert_array_equal(held_out.hits[same], votes.hits[same])
    assert (votes.hits >= held_out.hits).all()


def test_coarse_votes_are_counted_from_the_same_draws(x):
    votes = sampled(x, groups=[[0, 1, 1], [0, 0, 0]])
    plain = sampled(x)
    np.testing.assert_array_equal(votes.guess, plain.guess)
    np.testing.assert_array_equal(votes.hits, plain.hits)
    pair, everything = votes.group_votes
    assert (everything.hits == 40).all() and (everything.selection_hits == 10).all()
    alone = sampled(x, groups=[[0, 1, 1]])
    np.testing.assert_array_equal(alone.group_votes[0].hits, pair.hits)
    inside = pair.guess == np.array([0, 1, 1])[votes.guess]
    assert (pair.hits >= votes.hits)[inside].all()
    merged = collect_votes(
        lambda images: (noisy_classes(images) > 0).long(),
        x,
        GaussianNoise(0.25),
        SamplingSettings(num_classes=2, seed=1, n0=10, n=40),
    )
    np.testing.assert_array_equal(pair.guess, merged.guess)
    np.testing.assert_array_equal(pair.hits, merged.hits)


def test_looks_are_prefixes_of_one_run_and_may_be_continued(x):
    def looked(sizes, start=None):
        stops = iter(sizes)
        return collect_looks(
            noisy_classes,
            x,
            GaussianNoise(0.25),
            SamplingSettings(num_classes=3, n=None, seed=1, n0=10),
            first=20,
            next_look=lambda votes: next((s for s in stops if s > votes.n), None),
            start=start,
        )

    whole = looked([40, 80])
    assert whole.looks == (20, 40, 80)
    for hits, n in zip([*whole.history, whole.hits], whole.looks, strict=True):
        np.testing.assert_array_equal(hits, sampled(x, n=n).hits)
    continued = looked([40, 80], start=looked([]))
    assert continued.looks == whole.looks
    np.testing.assert_array_equal(continued.hits, whole.hits)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'n0': 0, 'groups': [[0, 1, 1]]}, 'n0 must be at least 1'),
        ({'groups': [[0, 1]]}, 'one group for each of 3 classes'),
        ({'n0': True}, 'n0 must be an integer'),
    ],
)
def test_what_cannot_be_counted_is_refused(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampled(x, **arguments)


def test_inputs_of_another_unit_or_kind_are_refused_before_sampling():
    def never(images):
        raise AssertionError

    def ask(image):
        collect_votes(never, image, GaussianNoise(0.25), SamplingSettings(n0=2, n=5, num_classes=2))

    with pytest.raises(ValueError, match=r'image in \[0, 1\].*got values from 255 to 255'):
        ask(torch.full((3, 4, 4), 255.0))
    with pytest.raises(ValueError, match='torch tensor, got ndarray'):
        ask(np.zeros((3, 4, 4), dtype=np.float32))


class Sloppy(CyclicTranslation):
    """Breaks one rule of perturbations at a time."""

    def __init__(self, sigma, rule):
        super().__init__(sigma)
        self.rule = rule

    def apply(self, inputs, parameters):
        moved = super().apply(inputs, parameters)
        return [inputs.add_(0.1)] * len(moved) if self.rule == 'in place' else moved

    def map_labels(self, labels, parameters):
        mapped = super().map_labels(labels, parameters)
        return {'shape': mapped[0], 'type': mapped.float()}.get(self.rule, mapped)


@pytest.mark.parametrize(
    ('rule', 'message'),
    [
        ('in place', 'input was changed.*apply` must return new tensors'),
        ('shape', r'map_labels of .* integer labels of shape \(8, 4, 5\), got torch.int64, \(4, 5'),
        ('type', 'map_labels of .* integer labels of .* got torch.float32'),
    ],
)
def test_perturbations_that_break_a_rule_are_refused(x, rule, message):
    before = x.clone()
    with pytest.raises(ValueError, match=message):
        sample_votes(
            lambda batch: (torch.stack(list(batch))[:, 0] > 0.5).long(), x, Sloppy(1.0, rule),
            n0=10, n=50, num_classes=2,
        )  # fmt: skip
    assert torch.equal(x, before)
