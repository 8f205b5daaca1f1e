"""Certification of a plain PyTorch model, without any framework."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmcert.attacks import exhaustive
from mmcert.certifier import (
    CertificationPlan,
    Certifier,
    UnrepeatableModelError,
    entries,
    weights_digest,
)
from mmcert.certify import CertifySettings, Hierarchy, InfeasiblePlanError
from mmcert.certify.planning import StoppingRule
from mmcert.perturbations import Enumeration, GaussianNoise, TransformationCells
from mmcert.report.pictures import certificate_picture
from mmcert.sampling import LogitMaps, SamplingSettings, collect_enumerated, collect_votes
from mmcert.transformations import build
from mmcert.votes import FingerprintError, VotesFileError, VotesStore, read_folder
from mmcert.votes.recertify import Task, evaluate

NOISE = GaussianNoise(0.25)
LEVELS = Hierarchy([{'both': ['one', 'two']}], ['one', 'two', 'three'])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1)


@pytest.fixture
def image():
    return torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1))


def plan_of(n=100, procedure='ordered_holm', **options):
    sampling = SamplingSettings(n0=8, n=n, num_classes=3, batch_size=7)
    return CertificationPlan(NOISE, CertifySettings(0.6, 0.01, procedure), sampling, **options)


def segment_of(model, log=None):
    def segment(images):
        if log is not None:
            log.append(len(images))
        return model(torch.stack(list(images))).argmax(1)

    return segment


def test_votes_certificate_and_maps_are_those_of_the_parts(model, image):
    plan, segment = plan_of(), segment_of(model)
    label = segment([image])[0].numpy()
    result = Certifier(plan).certify(segment, image, label=label)
    with torch.no_grad():
        votes = collect_votes(segment, image, NOISE, plan.sampling)
    assert (result.votes.hits == votes.hits).all() and (result.votes.guess == votes.guess).all()
    certified = result.certificate.certified
    assert 0 < certified.mean() < 1
    assert (result.maps['cert'] == np.where(certified, votes.guess, 254)).all()
    assert (result.maps['base'] == label).all() and (result.maps['label'] == label).all()
    assert (result.maps['radius'][result.maps['radius'] > 0] <= NOISE.radius(0.99999)).all()
    rates = result.counts().rates()
    assert rates['certAcc'] == pytest.approx((result.maps['cert'] == label).mean())
    described = entries(result.to_dict())
    assert described['certified'] == certified.sum() and described['radius'] == NOISE.radius(0.6)
    assert described['kind'] == 'certificate' and described['precision'] == {'device': 'cpu'}


def test_scores_give_an_order_that_no_draw_had_a_part_in(model, image):
    def scores(images):
        return LogitMaps(model(torch.stack(list(images))), (12, 16))

    result = Certifier(plan_of()).certify(scores, image)
    probabilities = model(image[None])[0].softmax(0).topk(2, dim=0).values
    expected = ((probabilities[0] - probabilities[1]) * 255).to(torch.uint8).numpy()
    assert (result.record.margin == expected).all()
    assert 'margin' in result.to_dict()['test']['order']
    # The same votes as of labels, which have no margin.
    labels = Certifier(plan_of()).certify(segment_of(model), image)
    assert (result.votes.hits == labels.votes.hits).all() and labels.record.margin is None


def test_stored_votes_are_found_and_other_models_and_plans_refused(model, image, tmp_path):
    plan, log = plan_of(), []
    store = plan.open_store(tmp_path, weights_digest(model))
    first = Certifier(plan, store=store).certify(segment_of(model, log), image, name='a')
    checked = 6 + 7
    assert sum(log) == 1 + checked + 108 + 1, 'base prediction, passes of 2 and 7, draws, again'
    again = Certifier(plan, store=store)
    found = again.certify(segment_of(model, log), image, name='a', label=first.maps['pred'])
    assert sum(log) == 1 + checked + 108 + 1 + 1, (
        'nothing was sampled, the clean input was labelled'
    )
    assert (found.maps['cert'] == first.maps['cert']).all()
    # Another label, the same votes; they answer other settings without the model.
    [record] = read_folder(tmp_path)
    assert (record.label == first.maps['pred']).all()
    [counts] = evaluate([record], [CertifySettings(0.9, 0.01)], Task(3))
    assert counts.rates()['certAcc'] <= found.counts().rates()['certAcc']
    with pytest.raises(VotesFileError, match='of another input'):
        again.certify(segment_of(model), image + 0.01, name='a')
    for other in (plan.open_store(tmp_path, 'x'), plan_of(n=99).open_store(tmp_path, 'x')):
        with pytest.raises(FingerprintError):
            Certifier(plan, store=other).certify(segment_of(model), image, name='a')


def test_a_store_of_another_plan_or_device_is_refused(model, image, tmp_path):
    plan = plan_of()
    store = plan.open_store(tmp_path, 'w')
    Certifier(plan, store=store).certify(segment_of(model), image, name='a')
    with pytest.raises(
        FingerprintError, match=r"'sigma': 0.25, .*} there, {'sigma': 0.5, .*} here"
    ):
        Certifier(replace(plan, perturbation=GaussianNoise(0.5)), store=store)
    with pytest.raises(FingerprintError, match='seed: None there, 0 here'):
        Certifier(plan, store=VotesStore(tmp_path / 'x', {**plan.spec(), 'seed': None}))
    record = store.get('a')
    store.put('a', replace(record, meta={**record.meta, 'precision': {'device': 'cuda'}}))
    with pytest.raises(VotesFileError, match='sampled on cuda, this run is on cpu'):
        Certifier(plan, store=store).certify(segment_of(model), image, name='a')


def test_a_checkpoint_outlives_a_changed_label(model, image, tmp_path):
    plan = plan_of(n=None, stopping=StoppingRule(5000, 0.0), save_seconds=0)
    store = plan.open_store(tmp_path, 'w')

    def broken(images):
        if store.path('a').exists() and store.get_checkpoint('a'):
            raise KeyboardInterrupt
        return segment_of(model)(images)

    def stopped(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Certifier(plan, store=store).certify(broken, image, name='a')
    assert store.get_checkpoint('a')['_position'].tolist()[2] > 0
    with pytest.raises(KeyboardInterrupt):
        label = np.zeros((12, 16), dtype=int)
        Certifier(plan, store=store).certify(stopped, image, name='a', label=label)
    assert store.get('a').label is not None and store.get_checkpoint('a') is not None


def test_a_function_that_works_in_place_leaves_the_input_alone(model, image):
    def shifted(images):
        return segment_of(model)([one.sub_(0.2) for one in images])

    def pure(images):
        return segment_of(model)([one - 0.2 for one in images])

    before = image.clone()
    found, expected = (Certifier(plan_of()).certify(f, image) for f in (shifted, pure))
    assert (found.maps['base'] == expected.maps['base']).all()
    assert (found.votes.hits == expected.votes.hits).all() and torch.equal(image, before)


class Overlapping(GaussianNoise):
    """Says what certificates say."""

    def _extra(self, tau):
        return {'promise': 'everything', 'seed': 7}


class Posing(GaussianNoise):
    """Would be named for another perturbation."""

    def _extra(self, tau):
        return {'type': 'LaplaceNoise'}


class Batched(GaussianNoise):
    """Draws all parameters of a batch from its first generator."""

    def draw(self, inputs, generators):
        return super().draw(inputs, [generators[0]] * len(generators))


def test_perturbations_that_break_their_word_are_refused(model, image):
    result = Certifier(replace(plan_of(), perturbation=Overlapping(0.25))).certify(
        segment_of(model), image
    )
    with pytest.raises(ValueError, match='must not say promise, seed'):
        result.to_dict()
    result = Certifier(replace(plan_of(), perturbation=Posing(0.25))).certify(
        segment_of(model), image
    )
    with pytest.raises(ValueError, match="two entries would be perturbation.type .* rename 'type'"):
        result.to_dict()
    with pytest.raises(ValueError, match='draws of Batched.* must be independent'):
        Certifier(replace(plan_of(), perturbation=Batched(0.25))).certify(segment_of(model), image)


@pytest.mark.parametrize('looks', [False, True])
def test_an_input_that_was_broken_off_goes_on(model, image, tmp_path, looks):
    options = dict(n=None, stopping=StoppingRule(300, 0.0)) if looks else {}
    plan = plan_of(**options, save_seconds=0)
    whole = Certifier(plan).certify(segment_of(model), image)
    log = []

    def broken(images):
        if sum(log) > 57:
            raise KeyboardInterrupt
        return segment_of(model, log)(images)

    store = plan.open_store(tmp_path, weights_digest(model))
    with pytest.raises(KeyboardInterrupt):
        Certifier(plan, store=store).certify(broken, image)
    log.clear()
    rest = Certifier(plan, store=store).certify(segment_of(model, log), image)
    assert sum(log) < whole.votes.n + 15 - 30
    assert rest.votes.looks == whole.votes.looks
    assert (rest.votes.hits == whole.votes.hits).all()
    assert ('stopped' in rest.to_dict()['sampling']) == looks


def dropping(images):
    scores = torch.stack(list(images)).mul(255).long() % 3
    return torch.nn.functional.dropout(scores.float(), 0.5).long()[:, 0].clamp(max=2)


def stateful(images, passes=[]):  # noqa: B006
    passes.append(0)
    return torch.full((len(images), 12, 16), len(passes) % 2)


def drawing_scores(images):
    return LogitMaps(torch.randn(len(images), 3, 6, 8), (12, 16))


def seeded_in_every_pass(images):
    # The same in every pass, and another number at each place of the batch.
    scores = torch.stack(list(images))
    made = torch.Generator().manual_seed(0)
    return (scores + 0.1 * torch.randn(scores.shape, generator=made)).argmax(1)


def behind_another(images):
    scores = torch.stack(list(images))
    return (scores + torch.cat([scores[:1], scores[:-1]])).argmax(1)


def before_another(images):
    scores = torch.stack(list(images))
    return (scores * 2 - torch.cat([scores[1:] ** 2, scores[-1:] ** 2])).argmax(1)


def in_a_crowd(images):
    scores = torch.stack(list(images))
    return (scores - scores.mean(0) if len(scores) > 2 else scores).argmax(1)


class BatchStatistics:
    """Normalised by the batch, as by a model that was left in training mode."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3)
        )

    def __call__(self, images):
        return self.model(torch.stack(list(images))).argmax(1)


@pytest.mark.parametrize(
    'segment',
    [
        dropping, stateful, drawing_scores, BatchStatistics(), seeded_in_every_pass, behind_another,
        before_another, in_a_crowd,
    ],
)  # fmt: skip
def test_a_function_that_is_not_deterministic_is_refused(image, tmp_path, segment):
    plan = plan_of()
    certifier = Certifier(plan, store=plan.open_store(tmp_path, 'x'))
    for _ in range(2):  # A refused input is not taken for a checked one.
        with pytest.raises(
            UnrepeatableModelError, match=r'differ at \d+ of 192 components'
        ) as error:
            certifier.certify(segment, image)
    assert 'model.eval()' in str(error.value) and 'seed inside' in str(error.value)
    assert not list(tmp_path.rglob('*.npz')), 'nothing was sampled'


def test_two_passes_are_compared_once(model, image):
    log, certifier = [], Certifier(plan_of())
    certifier.certify(segment_of(model, log), image)
    certifier.certify(segment_of(model, log), image + 0.01)
    assert log[:5] == [1, 2, 2, 2, 7] and sum(log) == 2 * (1 + 108) + 6 + 7 + 1


@pytest.mark.parametrize('options', [{}, {'n': None, 'stopping': StoppingRule(300, 0.0)}])
def test_a_function_that_changes_as_it_is_called_is_refused(model, image, tmp_path, options):
    calls = []

    def tiring(images):
        calls.append(len(images))
        labels = segment_of(model)(images)
        return labels if sum(calls) < 60 else (labels + 1) % 3

    plan = plan_of(**options)
    certifier = Certifier(plan, store=plan.open_store(tmp_path, 'x'))
    with pytest.raises(UnrepeatableModelError, match='otherwise after its draws than before'):
        certifier.certify(tiring, image)
    assert options or not list(tmp_path.rglob('*.npz')), 'nothing was stored'


def test_a_tie_that_falls_otherwise_at_another_place_of_a_batch_is_rounding(image):
    def rounded(images):
        scores = torch.stack(list(images))[:, :2].clone()
        scores[:, :, 0] = 0.5
        scores[-1, 0, 0] += 1e-7
        return LogitMaps(scores, (12, 16))

    assert Certifier(plan_of()).certify(rounded, image).votes.n > 0


def test_where_inputs_go_one_by_one_or_two_do_not_fit_the_passes_have_one(model, image):
    plan = plan_of()
    alone, log = replace(plan, sampling=replace(plan.sampling, batch_size=1)), []
    Certifier(alone).certify(segment_of(model, log), image)
    assert set(log) == {1} and sum(log) == 1 + 2 + 108 + 1
    log.clear()

    def small(images):
        if len(images) > 1:
            raise MemoryError
        return segment_of(model, log)(images)

    Certifier(plan).certify(small, image)
    assert sum(log) == 1 + 2 + 108 + 1


def test_groups_are_counted_where_there_is_a_hierarchy(model, image):
    result = Certifier(plan_of(hierarchy=LEVELS)).certify(segment_of(model), image)
    level, groups = result.maps['levels']
    assert set(np.unique(level)) <= {0, 1, 2} and (groups <= 1).all()
    assert ((level == 0) == result.certificate.certified).all()
    levels = result.to_dict()['promise']['hierarchy']['levels']
    assert levels[0]['both']['classes'] == ['one', 'two']
    drawn = certificate_picture(
        (image * 255).byte().permute(1, 2, 0).numpy(), result.maps, [(9, 9, 9)] * 3,
        hierarchy=LEVELS,
    )  # fmt: skip
    assert drawn.dtype == np.uint8


def test_a_plan_that_can_certify_nothing_is_refused_before_it_costs(model, image, caplog):
    log, plan = [], plan_of(n=5, procedure='holm')
    with pytest.raises(InfeasiblePlanError, match='smallest n'):
        Certifier(plan).certify(segment_of(model, log), image)
    assert log == [1], "the base model's own prediction alone"
    small = torch.rand(3, 1, 1)
    certifier = Certifier(plan_of(n=9, procedure='holm'))
    certifier.certify(segment_of(model), small)
    large = certifier.certify(segment_of(model), torch.rand(3, 40, 40))
    assert not large.certificate.certified.any()
    assert 'abstained from everywhere' in caplog.text


def test_a_plan_settles_the_selection_that_its_perturbation_allows():
    cells = TransformationCells('rotation', -10, 10, GaussianNoise(0.25))
    settings = replace(plan_of().settings, tau=0.5)
    plan = replace(plan_of(n=30), perturbation=cells, settings=settings)
    assert (plan_of().settings.selection, plan.settings.selection) == ('auto', 'holdout')
    for changes, message in (
        (dict(selection='same_draws'), "set selection='holdout' or 'auto'"),
        (dict(order='selection'), "set order='margin' or 'auto'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(plan, settings=replace(settings, **changes))
    with pytest.raises(ValueError, match='leave tau out, got 0.75'):
        replace(plan, settings=replace(settings, tau=0.75))
    without = SamplingSettings(n0=0, n=30, num_classes=3)
    for changes in (
        dict(perturbation=cells, sampling=without, settings=settings),
        dict(sampling=without, settings=replace(plan_of().settings, selection='holdout')),
        dict(sampling=without, settings=replace(plan_of().settings, order='selection')),
    ):
        with pytest.raises(ValueError, match='n0=0 does not go with.* n0 must be at least 1'):
            replace(plan_of(), **changes)


def test_hits_are_not_taken_for_scores_of_pooled_tests(model, image, tmp_path):
    cells = TransformationCells('brightness', 0, 0.01, GaussianNoise(0.25))
    sampling = SamplingSettings(n0=3, n=60, num_classes=3)
    plan = CertificationPlan(cells, CertifySettings(0.5, 0.01), sampling)
    store = plan.open_store(tmp_path, weights='a')
    found = Certifier(plan, store=store).certify(segment_of(model), image, name='one')
    assert found.votes.table is not None and found.record.meta['partition']['cells']
    assert 'radius' not in found.maps and 'joint_radius' not in found.to_dict()['promise']
    again = Certifier(plan, store=store).certify(segment_of(model), image, name='one')
    assert again.to_dict() == found.to_dict()
    votes = replace(found.votes, table=None, hits=np.minimum(found.votes.hits, 60))
    store.put('one', replace(found.record, votes=votes))
    with pytest.raises(VotesFileError, match='no scores of pooled tests'):
        Certifier(plan, store=store).certify(segment_of(model), image, name='one')


def test_plans_and_class_numbers_are_checked():
    with pytest.raises(ValueError, match='either the number of estimation draws'):
        plan_of(n=None)
    with pytest.raises(ValueError, match='either the number of estimation draws'):
        plan_of(stopping=StoppingRule(100))
    many = SamplingSettings(n0=1, n=1, num_classes=255)
    with pytest.raises(ValueError, match='255 classes'):
        Certifier(CertificationPlan(NOISE, CertifySettings(0.6, 0.01), many))


# --- enumeration ---

TURNS = [-6.0, -2.5, 1.0, 4.0, 7.0]


def enumeration(values=TURNS, transformation='rotation', batch_size=3, **options):
    sampling = SamplingSettings(n0=0, n=None, num_classes=3, batch_size=batch_size)
    return CertificationPlan(Enumeration(transformation, values), None, sampling, **options)


@pytest.mark.parametrize(
    ('transformation', 'values'),
    [
        ('rotation', TURNS),
        ({'type': 'translation', 'padding': 'cyclic'}, [[1, 2], [0.3, -1.4]]),
        ('defocus_blur', [1, 2, 3]),
        ('jpeg', [60, 20]),
    ],
)
def test_enumeration_certifies_what_exhaustive_search_finds_robust(
    model, image, transformation, values
):
    segment = segment_of(model)
    clean = segment([image])[0]
    found = exhaustive(
        lambda attacked: segment([attacked.float()])[0],
        image.double(),
        build(transformation),
        values,
        clean,
    )
    result = Certifier(enumeration(values, transformation)).certify(segment, image)
    certified = result.certificate.certified
    assert 0 < certified.mean() < 1
    assert (certified == found.robust.numpy()).all()
    assert (result.maps['cert'] == np.where(certified, clean, 254)).all()
    assert (result.maps['pred'] == clean.numpy()).all() and 'radius' not in result.maps


def test_an_enumeration_runs_the_model_once_for_each_parameter(model, image):
    log = []
    plan = enumeration(batch_size=1)
    result = Certifier(plan).certify(segment_of(model, log), image)
    # The clean image, two passes that must agree, the set, and the clean image again.
    assert len(log) == 1 + 2 + len(TURNS) + 1
    assert plan.most_draws == result.votes.n == len(TURNS) and result.votes.n0 == 0
    assert plan.describe() == '5 parameters per input, each tried once'


def test_an_exact_certificate_speaks_of_no_test(model, image):
    result = Certifier(enumeration()).certify(segment_of(model), image)
    values = entries(result.to_dict())
    assert (values['kind'], values['confidence'], values['num_values']) == ('exact', 1.0, 5)
    assert json.loads(json.dumps(values)) == values
    tests = {'tau', 'alpha', 'procedure', 'selection', 'radius', 'joint_radius', 'seed', 'n', 'n0'}
    assert not tests & values.keys()
    assert 'random numbers' not in values['arithmetic']
    with pytest.raises(ValueError, match='no radius'):
        _ = result.joint_radii
    with pytest.raises(ValueError, match='no radius'):
        _ = result.joint_selection


def test_neither_seed_nor_batches_change_an_enumeration(model, image, tmp_path):
    votes = []
    for batch_size, seed in ((1, 0), (2, 1), (64, 2)):
        plan = enumeration(batch_size=batch_size)
        plan = replace(plan, sampling=replace(plan.sampling, seed=seed))
        store = plan.open_store(tmp_path / str(seed), 'w')
        Certifier(plan, store=store).certify(segment_of(model), image)
        (file,) = (tmp_path / str(seed)).glob('*.npz')
        votes.append(file.read_bytes())
    assert votes[0] == votes[1] == votes[2]


def test_an_enumeration_is_found_again_and_goes_on_where_it_stopped(model, image, tmp_path):
    plan = enumeration(np.linspace(-5, 5, 40), save_seconds=0.0)
    whole = Certifier(plan).certify(segment_of(model), image)
    store, left = plan.open_store(tmp_path, 'w'), [9]

    def broken(images):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return segment_of(model)(images)

    with pytest.raises(KeyboardInterrupt):
        Certifier(plan, store=store).certify(broken, image)
    log = []
    again = Certifier(plan, store=store).certify(segment_of(model, log), image)
    assert (again.votes.hits == whole.votes.hits).all()
    assert sum(log[5:]) < 40
    log.clear()
    third = Certifier(plan, store=store).certify(segment_of(model, log), image)
    assert log == [1] and third.votes.enumerated
    assert third.to_dict() == again.to_dict()
    with pytest.raises(FingerprintError, match='perturbation'):
        Certifier(enumeration(), store=store)


def test_plans_of_draws_and_of_enumerations_do_not_mix(model, image):
    plan = enumeration()
    for change in (
        {'settings': CertifySettings(0.6, 0.01)},
        {'sampling': SamplingSettings(n0=0, n=5, num_classes=3)},
        {'sampling': SamplingSettings(n0=3, n=None, num_classes=3)},
        {'hierarchy': LEVELS},
        {'stopping': StoppingRule(100)},
    ):
        with pytest.raises(ValueError, match='tries every parameter of its set and tests nothing'):
            replace(plan, **change)
    with pytest.raises(ValueError, match='draws at random: settings are needed'):
        replace(plan_of(), settings=None)
    with pytest.raises(ValueError, match='collect_enumerated'):
        collect_votes(segment_of(model), image, plan.perturbation, plan_of().sampling)
    with pytest.raises(ValueError, match='draws at random'):
        collect_enumerated(segment_of(model), image, NOISE, plan.sampling, clean=image[0] > 0)
