"""``tools/verify.py`` finds every certificate in order, and names whatever was changed."""

import ast
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from scipy.special import ndtri

from mmcert import certifier
from mmcert.certifier import CertificationPlan, CertifiedInput, Certifier, entries
from mmcert.certifier.results import write_certificate
from mmcert.certify import CertifySettings, Hierarchy, Votes
from mmcert.certify.binomial import p_value_table
from mmcert.certify.planning import StoppingRule
from mmcert.certify.procedures import PROCEDURES, Family
from mmcert.perturbations import (
    CoordinateNoise,
    Enumeration,
    GaussianNoise,
    InputThreshold,
    TransformationCells,
    from_spec,
)
from mmcert.sampling import SamplingSettings
from mmcert.votes import Grid, VotesRecord, load_votes, save_votes
from tests.verification import SCHEMA, TOOL, load_verify

CLASSES = ['car', 'bus', 'road', 'sky']
LEVELS = Hierarchy([{'vehicle': ['car', 'bus']}, {'thing': ['car', 'bus', 'sky']}], CLASSES)
NOISE = GaussianNoise(0.25)


@pytest.fixture(scope='module')
def verify():
    return load_verify()


def random_votes(n0=10, n=100, shape=(12, 16), looks=(), groups=(), seed=0):
    """Votes of draws of one class or another, most of them sure."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, shape)
    sure = 1 - rng.exponential(0.08, shape).clip(0, 0.75)

    def draw(count):
        labels = np.broadcast_to(truth, (count, *shape)).copy()
        wrong = rng.random(labels.shape) > sure
        labels[wrong] = (labels[wrong] + rng.integers(1, 4, wrong.sum())) % 4
        return labels

    first, draws = draw(n0), draw(n)

    def of(members):
        chosen = members[first] if n0 else members[draws]
        counts = np.stack([(chosen == c).sum(0) for c in range(members.max() + 1)])
        guess = counts.argmax(0)
        agree = members[draws] == guess
        return Votes(
            guess, agree.sum(0), n, n0, (members[first] == guess).sum(0), looks,
            tuple(agree[:look].sum(0) for look in looks[:-1]),
        )  # fmt: skip

    votes = of(np.arange(4))
    return replace(votes, group_votes=tuple(of(np.asarray(members)) for members in groups))


def put(folder, votes, settings, perturbation=NOISE, threshold=None, **more):
    """Stores votes and writes what they certify; returns the two files."""
    looks, hierarchy = votes.looks, LEVELS if votes.group_votes else None
    rest = {key: more.pop(key) for key in ('margin', 'grid') if key in more}
    plan = CertificationPlan(
        perturbation,
        settings,
        SamplingSettings(n0=votes.n0, n=None if looks else votes.n, num_classes=4),
        hierarchy,
        StoppingRule(votes.n) if looks else None,
    )
    store = plan.open_store(folder / 'votes', weights='f00d')
    meta = {'name': 'a', 'digest': '0' * 32, 'precision': {'device': 'cpu'}}
    record = VotesRecord(votes, meta, base=votes.guess, **rest)
    store.put('a', record)
    identity = {'weights': 'f00d', 'versions': {'numpy': np.__version__}}
    return write(folder, CertifiedInput(store.get('a'), plan, threshold, identity))


def write(folder, result, name='a'):
    document = result.to_dict()
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(document)
    assert [(error.json_path, error.message) for error in errors] == []
    write_certificate(folder / 'certificates', name, document, result.maps)
    return folder / 'certificates' / f'{name}.json', folder / 'votes' / f'{name}.npz'


def test_it_stands_alone():
    allowed = {'numpy', 'scipy'} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(TOOL.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split('.')[0] for name in names} <= allowed
    assert len(TOOL.read_text().splitlines()) < 580


def test_the_schema_is_one():
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema['properties']['version']['const'] == 1
    assert [*schema['properties']][2:-1] == list(certifier.document.GROUPS)


@pytest.mark.parametrize('selection', ['holdout', 'same_draws', 'auto'])
@pytest.mark.parametrize('procedure', sorted(PROCEDURES))
def test_every_procedure_and_selection_is_verified(verify, tmp_path, procedure, selection):
    for index, tau in enumerate((0.5, 0.75, 0.9)):
        settings = CertifySettings(
            tau, 0.01, procedure, selection, 0.05 if procedure == 'kfwer' else None
        )
        margin = np.random.default_rng(1).integers(0, 256, (12, 16))
        votes = random_votes(seed=index)
        files = put(tmp_path / str(index), votes, settings, margin=margin)
        said = entries(json.loads(files[0].read_text()))
        assert 0 < said['certified'] < said['components'], 'a case that shows something'
        assert verify.Check(*files).problems == []


@pytest.mark.parametrize('procedure', sorted(PROCEDURES))
@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
def test_hierarchies_and_looks_are_verified(verify, tmp_path, procedure, selection):
    for looks in ((), (30, 60, 120), (90,)):
        votes = random_votes(n=looks[-1] if looks else 80, looks=looks, groups=LEVELS.groups)
        k = 3 if procedure == 'kfwer' else None
        settings = CertifySettings(0.8, 0.01, procedure, selection, k)
        files = put(tmp_path / str(looks), votes, settings)
        assert min(json.loads(files[0].read_text())['promise']['certified_by_level']) > 0
        assert verify.Check(*files).problems == []


def test_orders_grids_clouds_thresholds_and_runs_without_selection_draws(verify, tmp_path):
    margin = np.random.default_rng(1).integers(0, 256, (12, 16))
    for order in ('margin', 'selection', 'auto'):
        settings = CertifySettings(0.75, 0.01, selection='holdout', order=order)
        files = put(tmp_path / order, random_votes(), settings, margin=margin)
        assert verify.Check(*files).problems == []
        files = put(tmp_path / f'{order}-without', random_votes(), replace(settings, order='auto'))
        assert verify.Check(*files).problems == []
    settings = CertifySettings(0.75, 0.01, 'kfwer', 'holdout', 4)
    grid = Grid(np.repeat(np.arange(12), 3), np.sort(np.arange(40) % 16))
    files = put(tmp_path / 'grid', random_votes(), settings, grid=grid)
    assert json.loads(files[0].read_text())['promise']['may_be_wrong'] == 3 * 3 * 3
    assert verify.Check(*files).problems == []
    settings = CertifySettings(0.75, 0.01)
    files = put(tmp_path / 'cloud', random_votes(shape=(200,)), settings, CoordinateNoise(0.1))
    assert not files[0].with_suffix('.png').exists()
    assert verify.Check(*files).problems == []
    files = put(tmp_path / 'none', random_votes(n0=0), settings)
    assert verify.Check(*files).problems == []
    threshold = InputThreshold(0.8, 'certificate', {'displacement': float(ndtri(0.8))})
    files = put(tmp_path / 'own', random_votes(), settings, threshold=threshold)
    assert json.loads(files[0].read_text())['test']['tau'] == 0.8
    assert verify.Check(*files).problems == []


def bright(images):
    """Class 1 where a pixel is brighter than 1/2, and class 0 elsewhere."""
    return (torch.stack(list(images))[:, 0] > 0.5).long()


def certified(folder, perturbation, settings, **sampling):
    sampling = SamplingSettings(num_classes=2, **sampling)
    plan = CertificationPlan(perturbation, settings, sampling)
    store = plan.open_store(folder / 'votes', weights='brighter than 1/2')
    image = torch.rand(1, 10, 12, generator=torch.Generator().manual_seed(3)).round() * 0.8 + 0.1
    result = Certifier(plan, store=store).certify(bright, image, name='a')
    found = Certifier(plan, store=store).certify(bright, image, name='a')
    assert found.to_dict() == result.to_dict(), 'a run that finds the votes says the same'
    return write(folder, result)


@pytest.mark.parametrize('extra_radius', [0.0, 0.02])
def test_cells_and_enumerations_are_verified(verify, tmp_path, extra_radius):
    cells = TransformationCells(
        'brightness', low=-0.1, high=0.1, noise=NOISE, extra_radius=extra_radius
    )
    files = certified(tmp_path / 'cells', cells, CertifySettings(0.5, 0.01), n0=10, n=400)
    document = json.loads(files[0].read_text())
    assert document['promise']['certified'] > 0
    assert 'cells' not in entries(document), 'no table needs them'
    assert verify.Check(*files).problems == []
    cells = document['test']['cells']
    smaller = cells['null_probabilities'][0]
    cells['null_probabilities'][0] = [q / 2 for q in smaller]
    files[0].write_text(json.dumps(document))
    edit_document(files[0], lambda d: None, verify.digest)
    assert any('test.cells: it says' in line for line in verify.Check(*files).problems)
    cells['null_probabilities'] = [[0.5] * len(row) for row in cells['null_probabilities']]
    files[0].write_text(json.dumps(document))
    assert any('test.cells: they give' in line for line in verify.Check(*files).problems)
    files = certified(tmp_path / 'all', Enumeration('brightness', [-0.1, 0.1]), None, n0=0, n=None)
    assert verify.Check(*files).problems == []


def test_radii_are_those_of_the_perturbations(verify):
    laws = [
        {'type': 'Exponential', 'mean': 3.0}, {'type': 'FoldedNormal', 'sigma': 0.7},
        {'type': 'Uniform', 'width': 2.0, 'one_sided': True},
    ]  # fmt: skip
    specs = [
        {'type': 'GaussianNoise', 'sigma': 0.25}, {'type': 'LaplaceNoise', 'b': 0.2},
        {'type': 'PooledNoise', 'factor': 4, 'sigma': 0.1}, {'type': 'Twist', 'sigma': 0.3},
        {'type': 'CyclicTranslation', 'sigma': 2.0}, {'type': 'CoordinateNoise', 'sigma': 0.3},
        {'type': 'AxisRotation', 'sigma': 0.3}, {'type': 'PointTranslation', 'sigma': 0.3},
        {'type': 'LogScale', 'sigma': 0.3}, {'type': 'Shear', 'sigma': 0.3},
        {'type': 'Taper', 'sigma': 0.3},
        {'type': 'TwistRotation', 'sigma_twist': 0.3, 'sigma_rotation': 0.1},
        {'type': 'RotationScale', 'sigma_rotation': 0.3, 'sigma_scale': 0.1},
        *({'type': 'GaussianBlur', 'law': law} for law in laws),
    ]  # fmt: skip
    for perturbation in map(from_spec, specs):
        given = perturbation.spec()
        kind = given.pop('type')
        for tau, target in ((0.5, 0.5), (0.75, 0.5), (0.99, 2 / 3), (0.6, 0.75)):
            found = verify.radius_of(kind, given, tau, target)
            assert found == pytest.approx(perturbation.radius(tau, target)), kind
    assert verify.radius_of('Rotation3D', {'sigma': 0.3}, 0.9) is None


def test_rejections_are_those_of_the_procedures(verify):
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, size = int(rng.integers(5, 60)), int(rng.integers(1, 80))
        tau, selection = rng.uniform(0.5, 0.9), rng.choice(['holdout', 'same_draws'])
        table = p_value_table(n, float(tau), str(selection), size)
        hits = rng.binomial(n, rng.beta(9, 1, size))
        order, pending = rng.permutation(size), rng.random(size) < rng.choice([0.5, 1.0])
        k, alpha = int(rng.integers(1, 4)), float(rng.choice([0.001, 0.05, 0.3]))
        for name, rule in PROCEDURES.items():
            fewer = k if rule.takes_k else 1
            ours = rule.run(Family(hits, table, alpha, fewer, order, pending))
            mask, cutoff = verify.reject(name, hits, table, alpha, fewer, order, pending)
            np.testing.assert_array_equal(mask, ours.mask)
            assert cutoff == ours.cutoff or not pending.any() or name == 'bonferroni'


def edit_document(path, change, digests=None):
    document = json.loads(path.read_text())
    change(document)
    if digests is not None:  # As somebody would who knows how they are made.
        parts = document['digest']['parts']
        for group in certifier.document.GROUPS:
            parts[f'statement {group}'] = digests(document[group])
        document['digest']['all'] = digests(parts)
    path.write_text(json.dumps(document))


CHANGES = {
    'promise.radius': lambda d: d['promise'].update(radius=0.2),
    'promise.certified': lambda d: d['promise'].update(certified=1),
    'promise.k': lambda d: d['promise'].update(k=2),
    'promise.kind': lambda d: d['promise'].update(kind='exact'),
    'promise.confidence': lambda d: d['promise'].update(confidence=0.9999),
    'test.tau': lambda d: d['test'].update(tau=0.8),
    'test.alpha': lambda d: d['test'].update(alpha=0.001),
    'test.procedure': lambda d: d['test'].update(procedure='bonferroni'),
    'test.tested_tau': lambda d: d['test'].update(tested_tau=0.7),
    'sampling.n:': lambda d: d['sampling'].update(n=1000),
    'sampling.n0': lambda d: d['sampling'].update(n0=20),
    'sampling.seed': lambda d: d['sampling'].update(seed=1),
    'model.base.weights': lambda d: d['model']['base'].update(weights='beef'),
    'model.precision': lambda d: d['model'].update(precision={'device': 'cuda'}),
    'input.digest': lambda d: d['input'].update(digest='1' * 32),
    'perturbation.parameters': lambda d: d['perturbation'].update(parameters={'sigma': 0.5}),
    'perturbation.type': lambda d: d['perturbation'].update(type='LaplaceNoise'),
    'promise.joint_radius.max': lambda d: d['promise']['joint_radius'].update(max=9.0),
    'promise.joint_radius.median': lambda d: d['promise']['joint_radius'].update(median=9.0),
    'promise.joint_radius.selection': lambda d: d['promise']['joint_radius'].update(
        selection='all'
    ),
    'promise.norm': lambda d: d['promise'].update(norm='linf'),
    'promise.unit': lambda d: d['promise'].update(unit='levels of an 8-bit image'),
    'promise.text': lambda d: d['promise'].update(text='nothing at all is wrong'),
    'promise.linf_radius': lambda d: d['promise'].update(linf_radius=9.0),
    'promise.certified_by_level': lambda d: d['promise'].update(certified_by_level=[192]),
    'model.base.weights: it says None': lambda d: d['model']['base'].pop('weights'),
    'input.space': lambda d: d['input'].update(space='original'),
    'test.cells': lambda d: d['test'].update(cells={}),
    'test.selection': lambda d: d['test'].update(selection='same_draws'),
}


@pytest.fixture
def files(tmp_path):
    settings = CertifySettings(0.75, 0.01, 'holm', 'holdout')
    return put(tmp_path, random_votes(), settings)


@pytest.mark.parametrize('name', CHANGES)
def test_a_changed_entry_is_named(verify, files, name):
    edit_document(files[0], CHANGES[name])
    group = name.partition('.')[0]
    problems = verify.Check(*files).problems
    assert f'digest: statement {group} is not what the certificate was made of' in problems
    assert any(line.startswith(name) for line in problems), problems


@pytest.mark.parametrize('name', CHANGES)
def test_a_changed_entry_is_named_when_its_digest_was_changed_as_well(verify, files, name):
    edit_document(files[0], CHANGES[name], verify.digest)
    problems = verify.Check(*files).problems
    assert not any(line.startswith('digest') for line in problems)
    assert any(line.startswith(name) for line in problems), problems


@pytest.mark.parametrize(
    'asked',
    [
        {'tau': float('nan')}, {'tau': 1.5}, {'tau': 0.4}, {'alpha': float('inf')}, {'alpha': 1.0},
        {'k': 3}, {'k': 2.5, 'procedure': 'kfwer'}, {'procedure': 'none'}, {'order': 'by hits'},
        {'name': 'x'},
    ],
)  # fmt: skip
def test_what_are_no_settings_is_refused(verify, files, asked):
    # Comparisons with NaN are false: without this, everything would be rejected.
    edit_document(files[0], lambda d: d['test']['asked'].update(asked), verify.digest)
    with pytest.raises(ValueError, match='are no settings|is no number'):
        verify.Check(*files)


def test_a_threshold_of_the_tests_that_is_no_number_is_refused(verify, files):
    text = files[0].read_text().replace('"selection": "holdout"', '"selection": "holdout",'
                                        '"tested_tau": NaN')  # fmt: skip
    files[0].write_text(text)
    with pytest.raises(ValueError, match='NaN is no number'):
        verify.Check(*files)
    files[0].write_text(text.replace('NaN', '1e999'))
    with pytest.raises(ValueError, match='1e999 is no number'):
        verify.Check(*files)


def test_a_key_that_occurs_twice_is_refused(verify, files):
    text = files[0].read_text()
    # Readers differ in which one they take.
    files[0].write_text(text.replace('"radius":', '"radius": 9.0, "radius":'))
    with pytest.raises(ValueError, match='a key occurs twice'):
        verify.Check(*files)


def test_selection_and_tested_tau_follow_from_the_plan(verify, tmp_path):
    votes = random_votes(n0=60, n=60)
    files = put(tmp_path, votes, CertifySettings(0.5, 0.01, 'holm'))
    document = json.loads(files[0].read_text())
    assert document['test']['selection'] == 'same_draws' and document['test']['tested_tau'] > 0.5
    before = files[0].read_text()
    for change in ({'tested_tau': 0.75}, {'selection': 'holdout', 'tested_tau': 0.5}):
        files[0].write_text(before)
        edit_document(files[0], lambda d, change=change: d['test'].update(change), verify.digest)
        found = [line.partition(':')[0] for line in verify.Check(*files).problems]
        assert found == [f'test.{name}' for name in sorted(change)]


def test_entries_and_maps_that_nothing_checks_are_named(verify, files):
    edit_document(files[0], lambda d: d.update({'robust to linf 9': {}}))
    assert verify.Check(*files).problems[-1] == 'robust to linf 9: this has no place here'
    document = json.loads(files[0].read_text())
    del document['robust to linf 9']
    files[0].write_text(json.dumps(document))
    npz = files[0].with_suffix('.npz')
    arrays = dict(np.load(npz))
    np.savez(npz, **arrays, linf_radius=arrays['radius'] + 9, labels=arrays['radius'].astype(int))
    problems = verify.Check(*files).problems
    assert 'map.linf_radius: this has no place here' in problems
    assert 'map labels: there are two, a PNG and one in the NPZ file' in problems


@pytest.mark.parametrize(
    ('name', 'value'), [('hits', -1), ('hits', 101), ('selection_hits', 11), ('guess', 254)]
)
def test_votes_that_are_no_counts_are_refused(verify, tmp_path, name, value):
    files = put(tmp_path, random_votes(), CertifySettings(0.75, 0.01, selection='same_draws'))
    arrays = dict(np.load(files[1]))
    # A count of -1 would be read as the largest one.
    arrays[f'{name}-level0'] = arrays[f'{name}-level0'].astype(int)
    arrays[f'{name}-level0'][2, 3] = value
    np.savez(files[1], **arrays)
    with pytest.raises(ValueError, match=f'no counts of so many draws: {name}-level0'):
        verify.Check(*files)


def test_hits_that_fall_from_look_to_look_are_refused(verify, tmp_path):
    looks = (30, 60)
    files = put(tmp_path, random_votes(n=60, looks=looks), CertifySettings(0.8, 0.01))
    arrays = dict(np.load(files[1]))
    arrays['hits-look0-level0'] = np.full_like(arrays['hits-look0-level0'], 30)
    np.savez(files[1], **arrays)
    with pytest.raises(ValueError, match='no counts of so many draws: hits-look0'):
        verify.Check(*files)


def test_exact_certificates_and_cells_have_no_radius_beside_their_set(verify, tmp_path):
    files = certified(tmp_path / 'all', Enumeration('brightness', [-0.1, 0.1]), None, n0=0, n=None)
    edit_document(files[0], lambda d: d['promise'].update(radius=9.0), verify.digest)
    assert verify.Check(*files).problems == ['promise.radius: this has no place here']
    cells = TransformationCells('brightness', low=-0.1, high=0.1, noise=NOISE)
    files = certified(tmp_path / 'cells', cells, CertifySettings(0.5, 0.01), n0=10, n=400)
    edit_document(files[0], lambda d: d['promise'].update(radius=9.0), verify.digest)
    assert verify.Check(*files).problems == ['promise.radius: it says 9.0, but None is right']


def test_an_enumeration_of_fewer_parameters_is_named(verify, tmp_path):
    files = certified(tmp_path, Enumeration('brightness', [-0.1, 0.1]), None, n0=0, n=None)
    record = load_votes(files[1])
    tried = {**record.meta['sampling']['perturbation'], 'values': [-0.1, 0.0, 0.1]}
    record.meta['sampling']['perturbation'] = tried
    save_votes(files[1], record)

    def change(document):
        document['perturbation']['parameters']['values'] = tried['values']

    edit_document(files[0], change, verify.digest)
    expected = 'votes: n is not the number of parameters that are to be tried'
    assert expected in verify.Check(*files).problems


def test_it_says_what_it_verified(verify, files):
    count, total, tried = (json.loads(files[0].read_text())['promise'][name]
                           for name in ('certified', 'components', 'radius'))  # fmt: skip
    assert verify.Check(*files).holds == [
        f'{count} of {total} components are certified; no certificate of this input is wrong, but '
        'for a probability of 0.01',
        'perturbation: GaussianNoise {"sigma": 0.25}',
        f'up to a radius of {tried}: l2, [0, 1] image units',
    ]


def test_settings_that_were_changed_throughout_give_another_map(verify, files):
    def bolder(document):
        document['test'].update(alpha=0.5, asked={**document['test']['asked'], 'alpha': 0.5})
        document['promise'].update(confidence=0.5)

    edit_document(files[0], bolder, verify.digest)
    problems = verify.Check(*files).problems
    assert any(line.startswith('map labels at (') for line in problems)
    assert any(line.startswith('map radius at (') for line in problems)


def test_one_pixel_of_a_map_is_named(verify, files):
    import cv2

    png = files[0].with_suffix('.png')
    labels = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    at = tuple(np.argwhere(labels == 254)[5].tolist())
    changed = labels.copy()
    changed[at] = 1
    cv2.imwrite(str(png), changed)
    problems = verify.Check(*files).problems
    assert 'digest: maps labels is not what the certificate was made of' in problems
    expected = f'map labels at {at}: it says 1, but the votes give 254 (1 of {labels.size} differ)'
    assert expected in problems
    cv2.imwrite(str(png), labels)
    npz = files[0].with_suffix('.npz')
    radius = np.load(npz)['radius']
    radius[3, 4] += 0.01
    np.savez(npz, radius=radius)
    assert any(line.startswith('map radius at (3, 4)') for line in verify.Check(*files).problems)
    npz.unlink()
    assert any(line.startswith('map radius') for line in verify.Check(*files).problems)


@pytest.mark.parametrize('name', ['hits', 'guess', 'selection_hits', 'margin', 'n', 'seed'])
def test_one_changed_vote_is_named(verify, tmp_path, name):
    settings = CertifySettings(0.75, 0.01, selection='same_draws')
    margin = np.full((12, 16), 9)
    files = put(tmp_path, random_votes(), settings, margin=margin)
    record = load_votes(files[1])
    if name == 'seed':
        record.meta['sampling']['seed'] = 7
    elif name == 'margin':
        record.margin[0, 0] += 1
    elif name == 'n':
        record = replace(record, votes=replace(record.votes, n=200))
    else:
        array = getattr(record.votes, name)
        array[2, 3] = array[2, 3] - 1 if array[2, 3] else 1
    save_votes(files[1], record)
    problems = verify.Check(*files).problems
    if name == 'seed':
        assert problems == ['sampling.seed: it says 0, but 7 is right']
    else:
        level = '' if name in ('margin', 'n') else '-level0'
        text = f'digest: votes {name}{level} is not what the certificate was made of'
        assert text in problems


def test_votes_that_chose_their_class_are_no_holdout(verify, tmp_path):
    files = put(tmp_path, random_votes(n0=0), CertifySettings(0.75, 0.01, 'holm', 'same_draws'))

    def change(document):
        document['test']['asked']['selection'] = document['test']['selection'] = 'holdout'

    edit_document(files[0], change, verify.digest)
    with pytest.raises(ValueError, match='do not allow the selection holdout'):
        verify.Check(*files)


def test_a_label_map_with_a_palette_is_refused(verify, tmp_path):
    from PIL import Image

    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), 'P')
    image.putpalette([0, 0, 255] * 256)  # Looks the same everywhere.
    image.save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='no plain grey image'):
        verify.read_png(tmp_path / 'a.png')


@pytest.mark.parametrize('shape', [(3, 5), (40, 33)])
def test_label_maps_are_read_as_opencv_writes_them(verify, tmp_path, shape):
    import cv2

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, shape), np.add.outer(*map(np.arange, shape)) % 254]
    for number, image in enumerate(images):
        for strategy in (cv2.IMWRITE_PNG_STRATEGY_DEFAULT, cv2.IMWRITE_PNG_STRATEGY_FILTERED):
            path = tmp_path / f'{number}.png'
            cv2.imwrite(str(path), image.astype(np.uint8), [cv2.IMWRITE_PNG_STRATEGY, strategy])
            np.testing.assert_array_equal(verify.read_png(path), image)


@pytest.mark.parametrize(
    ('certificate', 'votes', 'message'),
    [
        ('nowhere', '.', 'there is no file or folder'),
        ('.', 'nowhere', 'there is no file or folder'),
        ('.', '.', 'there are no certificates (*.json) in'),
        ('results', '.', 'results holds results: give its folder certificates-*'),
        ('.', 'results', 'results holds results: give its folder votes-*'),
    ],
)
def test_paths_that_hold_nothing_are_named(
    verify, tmp_path, monkeypatch, capsys, certificate, votes, message
):
    for kind in ('certificates', 'votes'):
        (tmp_path / f'results/{kind}-0123').mkdir(parents=True)
    arguments = [str(tmp_path / certificate), '--votes', str(tmp_path / votes)]
    monkeypatch.setattr(sys, 'argv', ['verify.py', *arguments])
    with pytest.raises(SystemExit, match='2'):
        verify.main()
    assert message in capsys.readouterr().err
