"""Smoothing through a surrogate: its law, its thresholds, and certificates that are known."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtr, ndtri
from torch import nn

from mmcert.attacks import exhaustive
from mmcert.certify import certify
from mmcert.perturbations import InputThreshold, SurrogateTransform, from_spec
from mmcert.perturbations.base import LARGEST_TAU
from mmcert.sampling import SamplingSettings, collect_votes
from mmcert.surrogates import AttackSet, Surrogate, build_attack_set, save_surrogate
from mmcert.transformations import Brightness, build

SIZE, LATENT = (8, 12), (5, 2, 3)
SCALES = {'sigma1': 0.5, 'sigma2': 0.25}
ATTACK = dict(values=[-0.1, 0.2])


class ReadOut(nn.Module):
    """H: writes the latent into the first values of an image of zeros."""

    def forward(self, latents, size):
        images = latents.new_zeros(len(latents), 2 * size[0] * size[1])
        images[:, : latents[0].numel()] = latents.flatten(1)
        return images.reshape(len(latents), 2, *size)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image(*shape, seed=1):
    return 0.2 + 0.6 * torch.rand(shape or (2, *SIZE), generator=generator(seed))


def make(transformation='brightness', low=-0.3, high=0.3, seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {'channels': 2, 'latent_channels': 5, 'stride': 4, 'width': 8, **sizes}
    return Surrogate(transformation, low, high, **sizes)


def linear(attack=None, gain=0.7, **scales):
    """With a linear latent that is read as it is; ``gain`` makes the attacks small."""
    surrogate = make()
    surrogate.decoder = ReadOut()
    surrogate.image_encoder.layers[0].weight.data *= gain
    return SurrogateTransform(surrogate, **{**SCALES, **scales}, attack=attack)


def law(perturbation, x):
    """Mean and covariance of the latent, in its order in memory."""
    surrogate = perturbation.surrogate
    bias = surrogate.parameter_encoder.bias.double()[:, None, None]
    mean = (copy.deepcopy(surrogate.image_encoder).double()(x.double()[None])[0] + bias).flatten()
    stacked = torch.kron(surrogate.matrix(), torch.ones(6, 1, dtype=torch.float64))
    covariance = perturbation.sigma1**2 * stacked @ stacked.T
    return mean.numpy(), (covariance + perturbation.sigma2**2 * torch.eye(30)).numpy()


def seeds(count, first=0):
    return [generator(seed) for seed in range(first, first + count)]


def draws_of(perturbation, x, generators):
    return perturbation.apply(x, perturbation.draw(x, generators))


# Draws


@pytest.mark.parametrize('transformation', ['brightness', 'rotation'])
def test_draws_depend_on_the_generator_alone(transformation):
    perturbation, x = SurrogateTransform(make(transformation, -1, 1), **SCALES), image()
    x = x[..., :11]
    kept = x.clone()
    first = perturbation.sample(x, generator(5))
    assert first.dtype == torch.float32 and first.shape == x.shape
    torch.rand(3)
    assert torch.equal(first, perturbation.sample(x, generator(5)))
    assert not torch.equal(first, perturbation.sample(x, generator(6)))
    many = draws_of(perturbation, x, [generator(6), generator(5), generator(7)])
    # The decoder rounds by the size of the batch.
    torch.testing.assert_close(many[1], first, rtol=0, atol=1e-5)
    assert torch.equal(x, kept)
    again = SurrogateTransform(make(transformation, -1, 1), **SCALES)
    assert torch.equal(first, again.sample(x, generator(5)))


def test_an_attack_set_does_not_change_the_draws():
    x = image()
    plain, attacked = linear(), linear(ATTACK)
    assert torch.equal(plain.sample(x, generator(3)), attacked.sample(x, generator(3)))
    assert plain.spec() == attacked.spec() == linear(dict(values=[0.3])).spec()
    assert not plain.per_input_threshold and attacked.per_input_threshold


def test_the_latent_has_its_law():
    perturbation, x, count = linear(), image(), 6000
    draws = draws_of(perturbation, x, seeds(count)).flatten(1)[:, :30].double().numpy()
    mean, covariance = law(perturbation, x)
    deviations = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * deviations / count**0.5).all()
    # In the coordinates in which it is standard.
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    off = np.cov(white) - np.eye(30)
    assert np.abs(off).max() < 6 * (2 / count) ** 0.5
    assert stats.kstest(white.ravel(), stats.norm.cdf).pvalue > 1e-4


def test_the_two_noises_are_independent_for_latents_of_any_size():
    # Few random numbers are drawn one by one, from pairs of which torch keeps the second.
    for size in ((4, 4), (4, 8), (8, 12)):
        perturbation = linear(sigma2=1.0)
        x = image(2, *size)
        parameters = perturbation.draw(x, seeds(4000))
        u = parameters[:, 0].numpy() / 0.5
        values = math.prod(perturbation._latent(x).shape)
        draws = perturbation.apply(x, parameters).flatten(1)[:, :values].double()
        shift = perturbation._shift(parameters[:, :1])
        noise = draws - (shift + perturbation._latent(x).double()).flatten(1)
        joint = np.column_stack([u, noise.numpy()])
        off = np.corrcoef(joint.T) - np.eye(joint.shape[1])
        assert np.abs(off).max() < 6 / 4000**0.5


def test_the_precision_of_the_model_does_not_reach_the_latent():
    perturbation, x = linear(), image()
    exact = draws_of(perturbation, x, seeds(4))
    with torch.autocast('cpu', torch.bfloat16):
        again = draws_of(linear(), x, seeds(4))
    assert torch.equal(exact, again)
    mean, _ = law(perturbation, x)
    noiseless = linear(sigma1=1e-12, sigma2=1e-12).sample(x, generator()).flatten()[:30]
    np.testing.assert_allclose(noiseless.double().numpy(), mean, rtol=2e-7, atol=3e-7)


def test_the_image_is_encoded_again_when_it_is_another():
    perturbation, x = linear(), image()

    def fresh(inputs):
        return linear().sample(inputs, generator(3))

    def found(inputs):
        return perturbation.sample(inputs, generator(3))

    assert torch.equal(found(x), fresh(x))
    other = image(seed=2)
    assert torch.equal(found(other), fresh(other)) and torch.equal(found(x), fresh(x))
    x += 0.1
    assert torch.equal(found(x), fresh(x))
    x.data[0, 0, 0] = 0.9
    assert torch.equal(found(x), fresh(x))
    x.numpy()[0, 1, 1] = 0.9
    assert torch.equal(found(x), fresh(x))
    # Where it lies in memory says nothing, nor does its type.
    assert torch.equal(found(x.clone()), fresh(x))
    assert found(x.double()).dtype == torch.float64
    torch.testing.assert_close(found(x.double()).float(), fresh(x))
    smaller = image(2, 4, 12)
    assert torch.equal(found(smaller), fresh(smaller))
    with torch.inference_mode():
        inference = image(seed=4) * 1
        assert torch.equal(found(inference), fresh(inference))
        inference *= 0.5
        assert torch.equal(found(inference), fresh(inference))


def test_the_encoding_is_computed_once_for_an_image(monkeypatch):
    perturbation, x, calls = linear(), image(), []
    latent = perturbation._displacement.latent
    monkeypatch.setattr(
        perturbation._displacement, 'latent', lambda inputs: calls.append(1) or latent(inputs)
    )
    for seed in range(5):
        perturbation.sample(x, generator(seed))
    assert len(calls) == 1
    draws_of(perturbation, image(seed=3), seeds(4))
    assert len(calls) == 2


def test_the_surrogate_is_a_copy():
    surrogate, x = make(), image()
    perturbation = SurrogateTransform(surrogate, **SCALES)
    first = perturbation.sample(x, generator())
    for parameter in surrogate.parameters():
        parameter.data += 1
    surrogate.train()
    assert torch.equal(SurrogateTransform(make(), **SCALES).sample(x, generator()), first)
    assert torch.equal(perturbation.sample(image(seed=1), generator()), first)
    assert not perturbation.surrogate.training
    assert torch.equal(copy.deepcopy(perturbation).sample(x, generator()), first)


# Thresholds


def test_the_threshold_is_that_of_the_largest_displacement():
    perturbation, x = linear(ATTACK), image()
    input_threshold = perturbation.input_threshold(x)
    mean, covariance = law(perturbation, x)
    largest = 0.0
    for shift in ATTACK['values']:
        delta = law(perturbation, x + shift)[0] - mean
        largest = max(largest, math.sqrt(delta @ np.linalg.solve(covariance, delta)))
    statement = input_threshold.details
    assert statement['largest_found'] == pytest.approx(largest, rel=1e-5)
    assert statement['worst_parameter'] == [0.2]
    assert statement['displacement'] == pytest.approx(largest * 1.0001 + 1e-4, rel=1e-5)
    assert input_threshold.tau == ndtr(statement['displacement']) > 0.5
    assert perturbation.radius(input_threshold.tau) == pytest.approx(statement['displacement'])
    assert (input_threshold.kind, statement['supremum_by']) == ('certificate', 'finite')
    assert json.loads(json.dumps(statement)) == statement
    assert linear().input_threshold(x) is None


def test_the_threshold_depends_on_the_image_alone():
    perturbation, x = linear(ATTACK), image()
    first = perturbation.input_threshold(x)
    draws_of(perturbation, x, seeds(3))
    perturbation.input_threshold(image(seed=2))
    assert perturbation.input_threshold(x) == first == linear(ATTACK).input_threshold(x.clone())
    twice = SurrogateTransform(perturbation.surrogate, 0.5, 0.125, ATTACK).input_threshold(x)
    assert twice.tau > first.tau


def test_an_estimate_is_called_one():
    sampled = linear(dict(range=(-0.1, 0.2), mode='sampled', points=7))
    input_threshold = sampled.input_threshold(image())
    assert input_threshold.kind == 'estimate'
    assert input_threshold.details['supremum_by'] == 'sampled'
    assert input_threshold.details['parameters_looked_at'] == 7
    words = sampled.guarantee(input_threshold.tau).describe()
    assert words.startswith('an estimate, from parameters that were sampled: no brightness')
    assert 'estimate' not in linear(ATTACK).guarantee(0.9).describe()


def test_the_bound_of_the_paper_is_stated_as_an_estimate():
    statement = linear(ATTACK).input_threshold(image()).details['paper']
    assert statement['kind'] == 'estimate' and 'sampled parameters' in statement['description']
    assert statement['radius_needed'] == pytest.approx(0.2 / 0.3)
    assert statement['tau'] == pytest.approx(
        ndtr(statement['coefficient'] * statement['radius_needed'])
    )
    # Of a range that does not begin at the identity, the attack still comes all the way from it.
    away = SurrogateTransform(make(low=0.1), **SCALES, attack=dict(values=[0.15]))
    assert away.input_threshold(image()).details['paper']['radius_needed'] == pytest.approx(0.75)
    jpeg = SurrogateTransform(
        make('jpeg', 20, 90, channels=3), **SCALES, attack=dict(values=[50, 80])
    )
    assert 'paper' not in jpeg.input_threshold(image(3, 8, 8)).details


@pytest.mark.parametrize(
    ('transformation', 'low', 'high'),
    [('rotation', -10, 10), ('zoom_blur', 1, 1.2), ('rotational_blur', 0, 4), ('contrast', -1, 1)],
)
def test_every_kind_of_transformation_has_a_threshold(transformation, low, high):
    surrogate = make(transformation, low, high)
    attack = dict(values=[(low + high) / 2, high], transformation=transformation)
    input_threshold = SurrogateTransform(surrogate, **SCALES, attack=attack).input_threshold(
        image()
    )
    assert 0.5 < input_threshold.tau < 1
    assert input_threshold.details['paper']['coefficient'] >= 2


def test_what_moves_too_far_has_a_threshold_that_nothing_reaches():
    input_threshold = linear(dict(values=[0.3]), gain=1e4).input_threshold(image())
    assert input_threshold.tau == LARGEST_TAU < 1
    assert input_threshold.details['displacement'] > 100


@pytest.mark.parametrize('tau', [math.nan, 1.0, 0.4])
def test_a_threshold_that_is_none_is_refused(tau):
    with pytest.raises(ValueError, match='tau must lie in'):
        InputThreshold(tau, 'certificate', {})


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="kind must be 'certificate' or 'estimate'"):
        InputThreshold(0.9, 'proof', {})


# Certificates that are known: a linear latent, and thresholds on linear functions of it


def half_spaces(weights, levels):
    """A base model of K components: 1 where weights . z > level."""
    weights = torch.from_numpy(np.asarray(weights, dtype=np.float32))
    levels = torch.from_numpy(np.asarray(levels, dtype=np.float32))

    def segment(batch):
        latents = torch.stack(batch).flatten(1)[:, :30]
        return (latents @ weights.T > levels).long()

    return segment


def probabilities(perturbation, x, weights, levels):
    """Of label 1, exactly."""
    mean, covariance = law(perturbation, x)
    spread = np.sqrt(np.einsum('ki,ij,kj->k', weights, covariance, weights))
    return ndtr((weights @ mean - levels) / spread)


def at_the_clean_image(perturbation, x, weights, wanted):
    """Levels at which label 1 has the wanted probabilities on the clean image."""
    mean, covariance = law(perturbation, x)
    spread = np.sqrt(np.einsum('ki,ij,kj->k', weights, covariance, weights))
    return weights @ mean - ndtri(wanted) * spread


def worst_direction(perturbation, x, shift):
    """The half-space that an attack leaves fastest (Neyman-Pearson)."""
    mean, covariance = law(perturbation, x)
    return -np.linalg.solve(covariance, law(perturbation, x + shift)[0] - mean)


@pytest.mark.parametrize('procedure', ['holm', 'ordered_holm'])
@pytest.mark.parametrize('seed', range(3))
def test_no_certified_class_is_lost_to_the_attack(procedure, seed):
    perturbation, x = linear(ATTACK), image()
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(300, 30))
    # Among random directions stand the worst ones.
    weights[:100] = worst_direction(perturbation, x, 0.2) + 0.05 * weights[:100]
    levels = at_the_clean_image(perturbation, x, weights, rng.uniform(0.55, 1, 300))
    tau = perturbation.input_threshold(x).tau
    votes = collect_votes(
        half_spaces(weights, levels),
        x,
        perturbation,
        SamplingSettings(n0=10, n=300, num_classes=2, seed=seed, batch_size=64),
    )
    certificate = certify(votes, tau=tau, alpha=1e-6, procedure=procedure)
    assert 10 < certificate.certified.sum() < 290
    for shift in (0.0, *ATTACK['values']):
        ones = probabilities(perturbation, x + shift, weights, levels)
        kept = np.where(votes.guess == 1, ones, 1 - ones)[certificate.certified]
        assert (kept > 0.5).all()
    # The attack takes some of those that are not certified.
    lost = probabilities(perturbation, x + 0.2, weights, levels) < 0.5
    assert lost.sum() > 5


def test_at_the_threshold_the_worst_class_has_half_left():
    perturbation, x = linear(dict(values=[0.2])), image()
    worst = worst_direction(perturbation, x, 0.2)[None]
    tau = perturbation.input_threshold(x).tau
    levels = at_the_clean_image(perturbation, x, worst, tau)
    left = probabilities(perturbation, x + 0.2, worst, levels)[0]
    # What is above a half is the margin for single precision.
    assert 0.5 < left < 0.5 + 1e-3


def test_the_family_wise_error_stays_below_alpha_at_the_null_boundary():
    perturbation, x, alpha, runs = linear(dict(values=[0.2])), image(), 0.2, 250
    tau = perturbation.input_threshold(x).tau
    worst = worst_direction(perturbation, x, 0.2)
    rng = np.random.default_rng(0)
    # Independent of each other under the noise, all at the threshold: each certificate is wrong.
    _, covariance = law(perturbation, x)
    root = np.linalg.cholesky(covariance)
    basis = np.linalg.qr(np.column_stack([root.T @ worst, rng.normal(size=(30, 5))]))[0].T
    weights = np.linalg.solve(root.T, basis.T).T
    weights[0] *= np.sign(weights[0] @ worst)
    levels = at_the_clean_image(perturbation, x, weights, tau - 1e-12)
    segment, failed = half_spaces(weights, levels), 0
    for seed in range(runs):
        votes = collect_votes(
            segment,
            x,
            perturbation,
            SamplingSettings(n0=6, n=40, num_classes=2, seed=seed, batch_size=46),
        )
        certificate = certify(votes, tau=tau, alpha=alpha, procedure='ordered_holm')
        failed += bool((certificate.certified & (votes.guess == 1)).any())
    assert stats.binomtest(failed, runs, alpha, alternative='greater').pvalue > 1e-3
    # It is no empty promise: the level is used to some extent.
    assert failed > 0


def test_a_class_with_room_to_spare_is_certified():
    perturbation, x = linear(ATTACK), image()
    input_threshold = perturbation.input_threshold(x)
    weights = worst_direction(perturbation, x, 0.2)[None].repeat(40, axis=0)
    wanted = ndtr(input_threshold.details['displacement'] + 1.5)
    levels = at_the_clean_image(perturbation, x, weights, wanted)
    votes = collect_votes(
        half_spaces(weights, levels),
        x,
        perturbation,
        SamplingSettings(n0=10, n=400, num_classes=2, batch_size=64),
    )
    assert certify(votes, tau=input_threshold.tau, alpha=1e-3).certified.all()
    assert not certify(votes, tau=LARGEST_TAU, alpha=1e-3).certified.any()


# Labels that move with the content


def rotated(degrees=90.0, **options):
    return SurrogateTransform(make('rotation', -degrees, degrees), **SCALES, **options)


def test_labels_are_moved_back_by_what_each_draw_moved():
    perturbation = rotated(30.0)
    transformation = perturbation.surrogate.transformation
    rows, columns = torch.meshgrid(torch.arange(41), torch.arange(51), indexing='ij')
    labels = ((rows - 10 > columns / 2).long() + (columns > 30))[None].expand(40, -1, -1)
    parameters = perturbation.draw(labels, seeds(40))
    theta = 30 * parameters[:, :1]
    moved = transformation.labels(labels, theta, ignore_index=0)
    back = perturbation.map_labels(moved, parameters)
    # Away from the edges of the pattern, where two nearest pixels differ from one.
    smooth = labels.float()[:, None]
    edges = nn.functional.max_pool2d(smooth, 5, 1, 2) != -nn.functional.max_pool2d(-smooth, 5, 1, 2)
    inside = (back >= 0) & ~edges[:, 0]
    inside[:, [0, 1, -2, -1]] = inside[..., [0, 1, -2, -1]] = False
    assert inside.float().mean() > 0.5
    assert torch.equal(back[inside], labels[inside])
    assert (back == -1).any() and theta.abs().max() > 20
    middle = back[:, 20, 25]
    assert (middle == labels[0, 20, 25]).all()


def test_draws_far_outside_the_range_are_moved_back_as_well():
    perturbation = SurrogateTransform(make('rotation', -180, 180), 4.0, 0.25)
    labels = torch.zeros(30, 7, 7, dtype=torch.uint8)
    parameters = perturbation.draw(labels, seeds(30))
    assert parameters[:, 0].abs().max() > 2
    for verb in (perturbation.map_labels, perturbation.labels_for_hits):
        assert set(verb(labels, parameters).unique().tolist()) == {-1, 0}


def content_shares(perturbation, x, segment, count=4000):
    """Probabilities (C, H, W) that the place of a pixel's content is given each of two classes."""
    shares = torch.zeros(2, *x.shape[1:])
    for first in range(0, count, 500):
        parameters = perturbation.draw(x, seeds(500, first))
        labels = segment(perturbation.apply(x, parameters))
        back = perturbation.map_labels(labels, parameters)
        shares += torch.stack([(back == c).float().sum(0) for c in (0, 1)])
    return (shares / count).double()


def check_content(before, after, displacement):
    """Neyman-Pearson: what had p before has at least Phi(z(p) - D) after, up to sampling."""
    error = 5 * 0.5 / 4000**0.5
    least = ndtr(ndtri((before - error).clamp(1e-9, 1).numpy()) - displacement)
    assert (after.numpy() >= least - error).all()


def thresholded(images):
    return (images[:, 0] > images[:, 0].flatten(1).median(1).values[:, None, None]).long()


@pytest.mark.parametrize('shift', [(2, 0), (-1, 3), (4, -4)])
def test_the_content_keeps_its_class_where_a_translation_takes_it(shift):
    surrogate = make(dict(type='translation', padding='cyclic'), [-4, -4], [4, 4])
    perturbation = SurrogateTransform(surrogate, 1.0, 0.5, dict(values=[shift]))
    assert perturbation.moves_labels
    x = image(2, 8, 8)
    attacked = surrogate.transformation(x[None], torch.tensor(shift))[0]
    displacement = perturbation.input_threshold(x).details['displacement']
    assert displacement > math.hypot(*shift) / 4
    before = content_shares(perturbation, x, thresholded)
    after = content_shares(perturbation, attacked, thresholded)
    # The content of v is at v + shift now.
    dx, dy = shift
    check_content(before, after.roll((-dy, -dx), (1, 2)), displacement)


def half_plane(images):
    """A base model that is blind to the image: class 1 on the left."""
    return (
        (torch.arange(images.shape[-1]) < images.shape[-1] // 2)
        .long()
        .expand(len(images), *images.shape[2:])
    )


def test_a_blind_model_is_certified_as_far_as_the_content_stays_on_its_side():
    # The content at column c is given class 1 while c + 4 u < 6, with u ~ N(0, 1).
    surrogate = make(dict(type='translation', padding='cyclic'), [-4, -4], [4, 4])
    surrogate.image_encoder.layers[0].weight.data.zero_()
    surrogate.parameter_encoder.weight.data.zero_()
    perturbation = SurrogateTransform(surrogate, 0.3, 0.5, dict(values=[(1, 0), (-2, 0)]))
    input_threshold = perturbation.input_threshold(image(2, 8, 24))
    assert input_threshold.details['largest_found'] == pytest.approx(2 / 4 / 0.3)
    shares = content_shares(perturbation, image(2, 8, 24), half_plane)
    edges = np.arange(-40, 41)
    weights = ndtr((edges + 0.5) / 1.2) - ndtr((edges - 0.5) / 1.2)
    exact = ((np.arange(24)[:, None] + edges) % 24 < 12) @ weights
    assert np.abs(shares[1].numpy() - exact).max() < 5 * 0.5 / 4000**0.5
    # At the threshold, the class survives both attacks: it is known where each content goes.
    certified = exact > input_threshold.tau
    assert 0 < certified.sum() < 12
    for step in (1, -2):
        assert (np.roll(exact, -step)[certified] > 0.5).all()
    votes = collect_votes(
        half_plane_of_list,
        image(2, 8, 24),
        perturbation,
        SamplingSettings(n0=10, n=600, num_classes=2, batch_size=50),
    )
    found = certify(votes, tau=input_threshold.tau, alpha=1e-3).certified & (votes.guess == 1)
    assert found.any() and not found[:, ~certified].any()


def half_plane_of_list(batch):
    return half_plane(torch.stack(batch))


def test_the_content_keeps_its_class_where_a_quarter_turn_takes_it():
    # By 90 degrees, pixels go to pixels.
    perturbation = SurrogateTransform(make('rotation', -90, 90), 1.0, 2.0, dict(values=[90, -90]))
    x = image(2, 9, 9)
    transformation = perturbation.surrogate.transformation
    before = content_shares(perturbation, x, thresholded)
    for angle, turns in ((90.0, 1), (-90.0, -1)):
        attacked = transformation(x[None], angle)[0].clamp(0, 1)
        torch.testing.assert_close(attacked, x.rot90(turns, (1, 2)), rtol=0, atol=1e-5)
        after = content_shares(perturbation, attacked, thresholded)
        at = torch.tensor([[angle]], dtype=torch.float64)
        displacement = perturbation._displacement(x, at).item()
        # Where the content at v went, read back at v.
        check_content(before, after.rot90(-turns, (1, 2)), displacement)


def blind(name, low, high, options=None):
    """A surrogate whose images do not depend on the image."""
    surrogate = make(dict(type=name, **(options or {})), low, high)
    surrogate.image_encoder.layers[0].weight.data.zero_()
    surrogate.parameter_encoder.weight.data.zero_()
    return surrogate


@pytest.mark.parametrize(
    ('name', 'padding', 'span', 'sigma', 'attacks'),
    [
        ('translation', 'cyclic', 4.0, 0.7, [0.5014, -0.3, 1.7]),
        ('rotation', 'reflection', 20.0, 3.0, [2.05, -3.4, 4.0]),
    ],
)
def test_certified_content_keeps_its_class_at_the_nearest_pixel(
    name, padding, span, sigma, attacks
):
    # Blind models that draw thin lines: half a pixel decides what is read there. Their smoothed
    # versions do not depend on the image, and are known from the quantiles of one parameter.
    shape, count = (13, 22), 501
    ends = ([-span] * 2, [span] * 2) if name == 'translation' else (-span, span)
    surrogate = blind(name, *ends, {'padding': padding})
    transformation, width = surrogate.transformation, len(surrogate.low)
    u = torch.zeros(count, width, dtype=torch.float64)
    u[:, 0] = torch.from_numpy(sigma * ndtri((np.arange(count) + 0.5) / count))
    columns = torch.arange(shape[1]).expand(shape)
    patterns = [(columns == 8).long(), (columns % 11 < 5).long()]
    if name == 'rotation':
        scattered = torch.rand(shape, generator=generator(4))
        patterns += [(scattered < 0.05).long(), (scattered < 0.5).long()]
    certified = 0
    for labels in patterns:
        maps = labels.expand(count, *shape)
        hits = transformation.read_agreed_content(maps, u, -1)
        reads = transformation.read_content(maps, u, -1)
        # Agreement includes what is read.
        assert ((hits == reads) | (hits == -1)).all()
        for attack in attacks:
            xi = [attack, 0.0][:width]
            asked = SurrogateTransform(surrogate, sigma / span, 0.5, dict(values=[xi]))
            tau = asked.input_threshold(image(2, *shape)).tau
            assert tau == pytest.approx(ndtr(abs(attack) / sigma), abs=1e-3)
            for c in (0, 1):
                known = (hits == c).double().mean(0) > tau + 2 / count
                # The smoothed model gives the class to the pixel, on the attacked image as well.
                smoothed = ((reads == c).double().mean(0) > 0.5).long()[None]
                there = transformation.labels_of_content(smoothed, xi, 0)[0]
                certified += int(known.sum())
                assert (there[known] == 1).all() and smoothed[0][known].all()
    assert certified > 500


def test_agreement_is_that_of_all_pixels_that_a_rounded_move_may_read():
    transformations = [build(dict(type='translation', padding='cyclic')), build('rotation')]
    labels = torch.randint(0, 3, (1, 9, 12), generator=generator(2))
    labels[:, :, :6] = 1
    for transformation in transformations:
        width, disagreed = len(transformation.parameters), 0
        for draw in range(60):
            u, xi = 3 * torch.randn(2, 1, width, generator=generator(draw), dtype=torch.float64)
            agreed = transformation.read_agreed_content(labels, u + xi, -1)[0]
            # At the attack, content is read at whole pixels, and carried on from there.
            after = transformation.read_content(labels, u, -1)
            read = transformation.read_content(after, xi, -1)[0]
            assert (read[agreed >= 0] == agreed[agreed >= 0]).all()
            disagreed += int((agreed < 0).sum())
        assert 0 < disagreed < 0.9 * 60 * labels.numel()


def test_the_reproducer_of_a_false_certificate_certifies_it_no_more():
    # Content at column 7 moves half a pixel, into the column 8 that the model calls another class.
    surrogate = blind('translation', [-4, -4], [4, 4], {'padding': 'cyclic'})
    perturbation = SurrogateTransform(surrogate, 0.7 / 4, 1.0, dict(values=[(0.5014, 0.0)]))
    x, labels = torch.full((2, 1, 16), 0.5), torch.ones(1, 16, dtype=torch.long)
    labels[:, 8] = 0
    votes = collect_votes(
        lambda batch: labels.expand(len(batch), -1, -1),
        x,
        perturbation,
        SamplingSettings(n0=4000, n=16_000, num_classes=2, batch_size=1000, seed=1),
    )
    tau = perturbation.input_threshold(x).tau
    found = certify(votes, tau=tau, alpha=0.05, procedure='holm', selection='holdout')
    smoothed = torch.from_numpy(votes.guess.astype(np.int64))
    # The attacked image is the clean one.
    attacked = exhaustive(
        lambda images: smoothed, x, surrogate.transformation, [(0.5014, 0.0)], smoothed
    )
    certified = torch.from_numpy(found.certified)
    assert certified.float().mean() > 0.6 and not (certified & ~attacked.robust).any()
    assert not attacked.robust[:, 7].any()


def test_an_attacked_image_can_be_certified_again():
    perturbation = linear(ATTACK)
    attacked = image() + 0.25
    assert attacked.max() > 1.04
    perturbation.check(attacked)
    assert 0.5 < perturbation.input_threshold(attacked).tau < 1


def test_content_that_left_the_frame_counts_as_no_class():
    surrogate = make(dict(type='translation'), [-6, -6], [6, 6])
    perturbation, x = SurrogateTransform(surrogate, 0.5, 0.5), image(2, 8, 8)

    def constant(label):
        return lambda batch: torch.full((len(batch), 8, 8), label)

    expected = None
    # Few classes and many are counted in different ways.
    for classes, label in ((3, 2), (60, 59)):
        votes = collect_votes(
            constant(label),
            x,
            perturbation,
            SamplingSettings(n0=20, n=100, num_classes=classes, groups=[np.arange(classes) // 2]),
        )
        assert (votes.guess == label).all()
        assert votes.hits.max() < 100 and votes.hits.min() > 0
        assert np.array_equal(votes.group_votes[0].hits, votes.hits)
        # Hits ask for more than the selection draws did, which must not count among them.
        assert votes.selection_hits is None and votes.group_votes[0].selection_hits is None
        assert expected is None or np.array_equal(expected, votes.hits)
        expected = votes.hits
        same = collect_votes(
            constant(label), x, perturbation, SamplingSettings(n0=0, n=100, num_classes=classes)
        )
        assert np.array_equal(same.hits, votes.hits)
    # The corner stays in one quarter of the draws, the middle more often.
    assert expected[0, 0] < expected[4, 4]


def test_what_cannot_be_certified_in_the_frame_of_the_content_is_refused():
    with pytest.raises(ValueError, match='scaling moves the labels, and its parameters do not add'):
        SurrogateTransform(make('scaling', 0.8, 1.2), **SCALES)
    with pytest.raises(ValueError, match=r'that has 0 in its middle, got \[0.0\] to \[10.0\]'):
        SurrogateTransform(make('rotation', 0, 10), **SCALES)
    with pytest.raises(ValueError, match='that has 0 in its middle'):
        SurrogateTransform(make('translation', [-1, 1], [1, 3]), **SCALES)


def test_where_theta_moves_labels_it_absorbs_nothing_in_the_words_either():
    guarantee = rotated().guarantee(0.9)
    assert guarantee.moves_labels and 'Mahalanobis' not in json.dumps(guarantee.to_dict())
    assert '|Delta - A1 u|^2 / sigma2^2' in guarantee.norm
    assert guarantee.claim.endswith('the pixel nearest to where its content has moved')
    assert 'Mahalanobis' in linear().guarantee(0.9).norm


# Statements, specs, bad inputs


def test_guarantees_say_what_is_attacked_and_how():
    perturbation = linear(ATTACK)
    guarantee = perturbation.guarantee(0.99)
    assert guarantee.attack_set == 'brightness with shift (image) in {-0.1, 0.2}'
    assert guarantee.extra['attack'] == {'mode': 'finite', 'values': [-0.1, 0.2]}
    assert guarantee.extra['operator'] == Brightness().operator()
    assert guarantee.radius == pytest.approx(ndtri(0.99))
    assert guarantee.claim.startswith('no brightness with shift (image) in {-0.1, 0.2} changes')
    # Without the threshold that the attack takes, nothing is promised.
    assert 'tested at the threshold that this takes on it' in guarantee.claim
    # The same words for all images: each has another threshold.
    assert guarantee.claim == perturbation.guarantee(0.6).claim
    plain = linear().guarantee(0.99)
    assert f'{ndtri(0.99):.4g}' in plain.claim and not plain.extra
    assert plain.parameters['surrogate']['digest'] == perturbation.surrogate.digest()


def test_a_node_keeps_less():
    perturbation = linear()
    assert perturbation.radius(0.9, 0.75) == pytest.approx(ndtri(0.9) - ndtri(0.75))
    assert perturbation.radius(0.6, 0.75) == 0
    with pytest.raises(ValueError, match='tau must lie in'):
        perturbation.radius(1.0)


@pytest.mark.parametrize('perturbation', [linear(ATTACK), rotated()], ids=['output', 'content'])
def test_the_spec_answers_without_the_weights(perturbation):
    spec = perturbation.spec()
    assert json.loads(json.dumps(spec)) == spec
    again = from_spec(json.loads(json.dumps(spec)))
    assert again.spec() == spec and again.domain == 'image'
    assert again.moves_labels == perturbation.moves_labels and not again.per_input_threshold
    assert again.radius(0.9) == perturbation.radius(0.9)
    plain = SurrogateTransform(perturbation.surrogate, **SCALES)
    assert again.guarantee(0.9) == plain.guarantee(0.9) and repr(again) == repr(plain)
    assert again.input_threshold(image()) is None
    for use in (
        lambda: again.sample(image(), generator()),
        lambda: again.check(image()),
        lambda: again.map_labels(torch.zeros(1, 8, 12), torch.zeros(1, 1)),
    ):
        with pytest.raises(ValueError, match='needs the surrogate itself, not its description'):
            use()
    with pytest.raises(ValueError, match='an attack set needs the surrogate itself'):
        SurrogateTransform(spec['surrogate'], **SCALES, attack=ATTACK)


def test_other_weights_or_scales_are_another_law():
    specs = [
        SurrogateTransform(make(seed=seed), **{**SCALES, **change}).spec()
        for seed, change in ((0, {}), (1, {}), (0, dict(sigma1=0.4)), (0, dict(sigma2=0.2)))
    ]
    assert len({json.dumps(spec) for spec in specs}) == 4
    assert specs[0] == SurrogateTransform(make(seed=0), **SCALES).spec()


def test_a_file_is_the_surrogate_in_it(tmp_path):
    save_surrogate(tmp_path / 'surrogate.pth', make())
    read = SurrogateTransform(str(tmp_path / 'surrogate.pth'), **SCALES, attack=ATTACK)
    made = SurrogateTransform(make(), **SCALES, attack=ATTACK)
    assert read.spec() == made.spec()
    assert torch.equal(read.sample(image(), generator()), made.sample(image(), generator()))
    assert read.input_threshold(image()) == made.input_threshold(image())
    assert str(tmp_path) not in json.dumps(read.guarantee(0.9).to_dict())
    assert repr(read).startswith('SurrogateTransform(brightness, sigma1=0.5, sigma2=0.25, attack=')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(sigma1=0), 'sigma1 must be positive'),
        (dict(sigma2=-1.0), 'sigma2 must be positive'),
        (dict(sigma2=math.nan), 'sigma2 must be a finite number'),
        (dict(attack=dict(values=[0.5])), r'from \[-0.3\] to \[0.3\], got \[0.5\]'),
        (dict(attack=dict(range=(0, 0.5), mode='sampled')), r'got \[0.5\]'),
        (dict(attack=dict(values=[0.1], transformation='jpeg')), 'the attack is jpeg'),
        (
            dict(attack=AttackSet('finite', torch.tensor([[50.0]]), 0)),
            'shift must lie in',
        ),
        (
            dict(attack=build_attack_set(dict(values=[0.1]), build('contrast'))),
            'the attack is contrast, but the surrogate was made for brightness',
        ),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SurrogateTransform(make(), **{**SCALES, **change})


def test_a_surrogate_without_a_matrix_is_refused():
    surrogate = make()
    surrogate.parameter_encoder = nn.Sequential(surrogate.parameter_encoder, nn.Tanh())
    with pytest.raises(ValueError, match='linear F1'):
        SurrogateTransform(surrogate, **SCALES)


def test_images_that_are_none_are_refused():
    perturbation = linear()
    perturbation.check(image())
    for x, message in (
        (image(3, 8, 12), 'made for 2 channels, the image has 3'),
        (image() * 255, r'image in \[0, 1\]'),
        (image()[0], r'an image, shape \(C, H, W\)'),
    ):
        with pytest.raises(ValueError, match=message):
            perturbation.check(x)
