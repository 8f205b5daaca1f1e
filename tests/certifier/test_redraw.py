"""Draws that are taken again agree with honest votes, and give forged ones away."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmcert.certifier import CertificationPlan, Certifier
from mmcert.certifier.redraw import redraw
from mmcert.certify import CertifySettings, Hierarchy
from mmcert.certify.planning import StoppingRule
from mmcert.perturbations import Enumeration, GaussianNoise, TransformationCells
from mmcert.sampling import LogitMaps, SamplingSettings
from mmcert.votes import Grid

NOISE = GaussianNoise(0.25)
LEVELS = Hierarchy([{'both': ['one', 'two']}], ['one', 'two', 'three'])


@pytest.fixture(scope='module')
def segment():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    return lambda images: model(torch.stack(list(images))).argmax(1)


@pytest.fixture
def image():
    return torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1))


def plan_of(perturbation=NOISE, tau=0.6, n0=8, n=60, **options):
    settings = None if perturbation.enumerated is not None else CertifySettings(tau, 0.01)
    sampling = SamplingSettings(n0=n0, n=n, num_classes=3, batch_size=7)
    return CertificationPlan(perturbation, settings, sampling, **options)


@pytest.mark.parametrize('draws', [1, 20, 1000])
@pytest.mark.parametrize(
    'plan',
    [
        plan_of(hierarchy=LEVELS),
        plan_of(n0=0),
        plan_of(n=None, stopping=StoppingRule(300, 0.0)),
        plan_of(TransformationCells('brightness', -0.01, 0.01, noise=NOISE), 0.5, n=200),
        plan_of(Enumeration('rotation', [-3.0, 0.0, 2.0]), n0=0, n=None),
    ],
    ids=['hierarchy', 'one-stage', 'looks', 'cells', 'enumeration'],
)
def test_honest_votes_are_confirmed(segment, image, plan, draws):
    record = Certifier(plan).certify(segment, image).record
    found = redraw(segment, image, record, plan, draws=draws, seed=5)
    assert not found.contradicted.any()
    assert found.decided.any() == (record.votes.table is None)
    assert all(count == min(draws, total) for count, total in found.draws.values())


def test_votes_that_were_made_unanimous_are_found_out(segment, image):
    plan = plan_of()
    record = Certifier(plan).certify(segment, image).record
    doubtful = record.votes.hits < 45
    forged = np.where(doubtful, record.votes.n, record.votes.hits)
    record = replace(record, votes=replace(record.votes, hits=forged))
    found = redraw(segment, image, record, plan, draws=20)
    assert doubtful.any() and not found.contradicted[~doubtful].any()
    assert found.contradicted[doubtful].mean() > 0.95
    assert 'is impossible' in found.describe()


def test_all_draws_find_a_single_vote_and_a_guess(segment, image):
    plan = plan_of()
    record = Certifier(plan).certify(segment, image).record
    hits, guess = record.votes.hits.copy(), record.votes.guess.copy()
    hits[2, 3] = hits[2, 3] - 1 if hits[2, 3] else 1
    record_hits = replace(record, votes=replace(record.votes, hits=hits))
    found = redraw(segment, image, record_hits, plan, draws=60)
    assert np.argwhere(found.contradicted).tolist() == [[2, 3]]
    guess[1, 1] = (guess[1, 1] + 1) % 3
    found = redraw(segment, image, replace(record, votes=replace(record.votes, guess=guess)), plan)
    assert found.contradicted[1, 1]


def test_another_model_is_found_out(segment, image):
    plan = plan_of()
    record = Certifier(plan).certify(segment, image).record
    found = redraw(lambda images: (segment(images) + 1) % 3, image, record, plan, draws=20)
    assert found.contradicted.mean() > 0.9


@pytest.mark.parametrize('other', ['noise', 'seed', 'image'])
def test_votes_that_were_sampled_otherwise_than_they_say_are_found_out(segment, image, other):
    plan, drawn, theirs = plan_of(), plan_of(), image
    if other == 'noise':
        drawn = plan_of(GaussianNoise(0.05))
    elif other == 'seed':
        drawn = replace(plan, sampling=replace(plan.sampling, seed=1))
    else:
        theirs = image.flip(-1)
    record = Certifier(drawn).certify(segment, theirs).record
    found = redraw(segment, image, record, plan, draws=20)
    assert found.contradicted.sum() > 10


def test_a_margin_that_was_made_of_the_hits_is_found_out(image):
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 3, 3, padding=1)

    def scored(images):
        return LogitMaps(model(torch.stack(list(images))), (12, 16))

    plan = plan_of()
    record = Certifier(plan).certify(scored, image).record
    assert not redraw(scored, image, record, plan).contradicted.any()
    # It would put first what has one hit too few, which the order pays for.
    forged = replace(record, margin=255 - record.margin)
    assert redraw(scored, image, forged, plan).contradicted.mean() > 0.9


def test_another_grid_is_found_out(segment, image):
    record = Certifier(plan_of()).certify(segment, image).record
    forged = replace(record, grid=Grid(np.zeros(12, dtype=int), np.arange(16)))
    assert redraw(segment, image, forged, plan_of()).contradicted.all()


def test_other_cells_than_those_of_the_input_are_found_out(segment, image):
    plan = plan_of(TransformationCells('brightness', -0.01, 0.01, noise=NOISE), 0.5, n=200)
    record = Certifier(plan).certify(segment, image).record
    cells = record.meta['cells']
    nearer = [[q - 0.01 for q in row] for row in cells['null_probabilities']]
    record.meta['cells'] = {**cells, 'null_probabilities': nearer}
    assert redraw(segment, image, record, plan).contradicted.all()
