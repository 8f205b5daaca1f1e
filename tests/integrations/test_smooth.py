"""Certification of plain PyTorch segmentors by ``mmcert.smooth``."""

from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mmcert
from mmcert.certifier import entries
from mmcert.integrations import Preprocessing
from mmcert.integrations.smoothed import to_tensor
from mmcert.perturbations import Enumeration, LaplaceNoise
from mmcert.votes import FingerprintError, VotesFileError, read_folder

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Model(nn.Module):
    """Three scores, in one of the ways in which libraries return them."""

    def __init__(self, wrap=lambda scores: scores, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.conv(images))


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def smooth(model, **options):
    given = {'mean': MEAN, 'std': STD, 'sigma': 0.25, 'tau': 0.6, 'n0': 5, 'n': 60, 'alpha': 0.01}
    return mmcert.smooth(model, **{**given, **options})


def test_certificate_prediction_and_votes_of_a_module(image):
    smoothed = smooth(Model().train(), classes=['a', 'b', 'c'])
    assert not smoothed.model.module.training
    label = np.full((9, 12), 255)
    label[:4] = 1
    result = smoothed.certify(image, label=label)
    assert (smoothed.predict(image) == result.maps['pred']).all()
    assert (smoothed.votes(image).hits == result.votes.hits).all()
    certified = result.maps['cert'] != 254
    assert (
        0 < certified.mean() < 1 and (result.maps['cert'] == result.maps['pred'])[certified].all()
    )
    share = f'{certified.mean():.1%} of 108 components certified'
    assert repr(result) == f"<CertifiedInput '{result.record.meta['name']}': {share}>"
    assert result.counts().rates()['certAcc'] == (result.maps['cert'][:4] == 1).mean()
    said = entries(result.to_dict())
    assert said['certified_space'] == 'the original image' and said['norm'] == 'l2'
    assert said['model']['architecture'] == 'Model' and said['precision']['precision'] == 'fp32'
    assert said['model']['preprocessing']['mean'] == MEAN


@pytest.mark.parametrize(
    'wrap',
    [
        lambda scores: {'aux': scores.flip(1), 'out': scores},
        lambda scores: (scores, scores.mean((2, 3))),
        lambda scores: [scores],
        Output,
    ],
    ids=['torchvision', 'tuple', 'list', 'transformers'],
)
def test_scores_are_found_in_what_libraries_return(image, wrap):
    expected = smooth(Model()).votes(image)
    assert (smooth(Model(wrap)).votes(image).hits == expected.hits).all()


def test_an_image_has_the_same_votes_however_it_is_given(image):
    smoothed = smooth(Model())
    expected = smoothed.certify(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for given in (Image.fromarray(image), tensor, tensor / 255, (tensor / 255).double()):
        found = smoothed.certify(given)
        assert found.record.meta == expected.record.meta
        assert (found.votes.hits == expected.votes.hits).all()
    # Values between the levels are another image.
    assert to_tensor(tensor / 255 * 0.999).dtype == torch.float32


def test_preprocessing_is_inside_the_smoothed_function(image):
    """Labels of a draw are those of the model on the noisy image at its own size."""
    preprocessing = Preprocessing(MEAN, STD, size=(6, 8), padded_to=4)
    model = Model()
    smoothed = smooth(model, mean=None, std=None, preprocessing=preprocessing)
    smoothed.start(image)
    noisy = torch.rand(3, 9, 12, dtype=torch.float64).float()
    segment = smoothed.model.segmentor(3)
    labels, margin = segment.with_margin(noisy.flip(0))
    small = nn.functional.interpolate(
        noisy[None], size=(6, 8), mode='bilinear', antialias=True, align_corners=False
    )
    normalised = (small - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        scores = model(nn.functional.pad(normalised, (0, 0, 0, 2)))[..., :6, :8]
    scores = nn.functional.interpolate(scores, size=(9, 12), mode='bilinear', align_corners=False)
    assert (labels == scores.argmax(1)[0]).all() and margin.shape == (9, 12)


def test_a_binary_model_has_two_classes(image):
    smoothed = smooth(Model(channels=1))
    expected = smoothed.certify(image)
    assert expected.maps['pred'].max() <= 1 and len(smoothed.classes) == 2
    # The same model with its sigmoid, once that is said.
    probabilities = Model(torch.sigmoid, channels=1)
    with pytest.raises(ValueError, match="say one_channel='probabilities'"):
        smooth(probabilities).certify(image)
    of_probabilities = smooth(probabilities, one_channel='probabilities')
    found = of_probabilities.certify(image)
    assert (found.maps['base'] == expected.maps['base']).all()
    assert (found.votes.hits == expected.votes.hits).mean() > 0.99, 'up to ties'
    assert found.to_dict()['model']['base']['one_channel'] == 'probabilities'
    near = smooth(Model(lambda scores: 1.2 * torch.sigmoid(scores) - 0.1, channels=1))
    with pytest.raises(ValueError, match="say one_channel='probabilities'"):
        near.certify(image)
    as_scores = smooth(probabilities, one_channel='scores')
    assert as_scores.certify(image).maps['base'].all(), 'a sigmoid is above 0'
    assert as_scores.sampling['model'] != of_probabilities.sampling['model']


@pytest.mark.parametrize(
    ('wrap', 'channels', 'said', 'message'),
    [
        (torch.round, 1, None, 'all whole numbers: return labels as integers'),
        (torch.neg, 1, 'probabilities', 'which are no probabilities'),
        (torch.neg, 3, 'scores', 'returns 3 channels, but one_channel='),
        (lambda scores: scores.argmax(1), 3, 'scores', 'returns labels, but one_channel='),
        (torch.neg, 1, 'logits', 'one_channel must be scores or probabilities'),
    ],
)
def test_what_one_channel_holds_is_not_guessed(image, wrap, channels, said, message):
    with pytest.raises(ValueError, match=message):
        smooth(Model(lambda scores: wrap(3 * scores), channels), one_channel=said).certify(image)


def test_labels_of_a_model_need_the_number_of_classes(image):
    read = {'read': lambda scores: scores.argmax(1)}
    with pytest.raises(ValueError, match='returns labels: give classes'):
        smooth(Model(), **read).certify(image)
    found = smooth(Model(), classes=3, **read).votes(image)
    assert (found.hits == smooth(Model()).votes(image).hits).all()


def test_stored_votes_are_found_and_those_of_others_refused(image, tmp_path):
    smoothed = smooth(Model(), votes_dir=tmp_path)
    first = smoothed.certify(image, name='a')
    [record] = read_folder(tmp_path)
    assert record.meta['provenance']['num_classes'] == 3
    found = smooth(Model(), votes_dir=tmp_path).certify(image, name='a')
    assert (found.votes.hits == first.votes.hits).all()
    others = [
        smooth(Model(), votes_dir=tmp_path, mean=0.5),
        smooth(Model(), votes_dir=tmp_path, n=50),
    ]
    other = Model()
    other.conv.bias.data += 1
    for one in (*others, smooth(other, votes_dir=tmp_path)):
        with pytest.raises(FingerprintError):
            one.certify(image, name='a')
    [path] = tmp_path.glob('a-*.npz')
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VotesFileError):
        smooth(Model(), votes_dir=tmp_path).certify(image, name='a')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'sigma': None}, 'needs either sigma'),
        ({'sgima': 1}, 'unknown: sgima; legal settings'),
        ({'device': 'cuda'}, r"smooth takes no device: .* first, by model\.to\('cuda'\)"),
        ({'mean': None}, 'one of them is missing'),
        ({'mean': None, 'std': None}, 'say what happens to an image'),
        ({'std': 0}, 'std not 0'),
        ({'tau': 0.3}, 'tau must lie in'),
        ({'n': 'many'}, "n must be an integer or 'auto'"),
        ({'classes': 4}, 'has 3 classes, but 4 were given'),
        ({'read': lambda scores: scores[:, 0]}, 'must return scores'),
        ({'read': lambda scores: None}, 'must return'),
        ({'read': lambda scores: scores.argmax(1, keepdim=True)}, 'got torch.int64 of shape'),
        ({'n': 2}, 'cannot certify'),
    ],
)
def test_what_is_wrong_is_said_in_a_line(image, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        smooth(Model(), **options).certify(image)
    assert '\n' not in str(refused.value)


def test_models_that_cannot_be_certified_are_refused(image):
    broken = Model()
    broken.conv.weight.data[0, 0, 0, 0] = float('nan')
    with pytest.raises(ValueError, match=r'conv.weight of Model have NaN'):
        smooth(broken)
    with pytest.raises(TypeError, match='no torch.nn.Module'):
        smooth(lambda images: images)
    with pytest.raises(TypeError, match='dict with seg, in which no scores were found'):
        smooth(Model(lambda scores: {'seg': scores})).certify(image)
    with pytest.raises(TypeError, match='tuple, in which 2 scores were found: give read='):
        smooth(Model(lambda scores: (scores, scores.flip(1)))).certify(image)


@pytest.mark.parametrize('taken', [1, 4])
def test_a_model_of_other_channels_is_refused_in_a_line(image, taken):
    with pytest.raises(ValueError, match=r'fails on an RGB image of 9 x 12 .*take 3 channels'):
        smooth(nn.Conv2d(taken, 3, 1)).certify(image)


class Halves(nn.Module):
    """Joins two resolutions, as a U-Net does: the size must be even."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.same = nn.Conv2d(3, 2, 2, stride=2), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        coarse = nn.functional.interpolate(self.down(images), scale_factor=2)
        return self.same(images) + coarse.mean(1, keepdim=True)


def test_an_image_of_an_odd_size_is_refused_or_padded(image):
    with pytest.raises(ValueError, match=r'fails on an RGB image of 9 x 12 .* padded_to'):
        smooth(Halves()).certify(image)
    padded = Preprocessing(MEAN, STD, padded_to=2)
    result = smooth(Halves(), mean=None, std=None, preprocessing=padded).certify(image)
    assert result.maps['cert'].shape == (9, 12)


@pytest.mark.parametrize(
    ('dtype', 'said'),
    [(torch.float16, 'fp16'), (torch.bfloat16, 'bf16'), (torch.float64, 'float64')],
)
def test_weights_of_other_number_types_are_certified_and_named(image, dtype, said):
    try:
        torch.nn.functional.conv2d(
            torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 1, 1).to(dtype)
        )
    except RuntimeError as error:
        pytest.skip(f'this torch has none on the CPU: {error}')
    result = smooth(Model().to(dtype)).certify(image)
    assert entries(result.to_dict())['precision']['precision'] == said
    full = smooth(Model()).certify(image)
    assert np.abs(result.votes.hits - full.votes.hits).max() <= 6
    # Half precision overflows where the weights do.
    if dtype == torch.float16:
        model = Model()
        model.conv.weight.data *= 1e5
        with pytest.raises(ValueError, match='NaN or infinite'):
            smooth(model.to(dtype)).certify(image)


def test_a_model_that_is_trained_on_is_no_longer_the_one_that_was_smoothed(image):
    model = Model()
    smoothed = smooth(model)
    before = smoothed.votes(image)
    model.train()
    with pytest.raises(ValueError, match='Model is in training mode'):
        smoothed.certify(image)
    model.eval().load_state_dict(Model().state_dict())
    assert (smoothed.votes(image).hits == before.hits).all()
    # Neither of these counts up a version of the parameter.
    model.conv.bias.data += 1
    with pytest.raises(ValueError, match='have changed since it was smoothed'):
        smoothed.certify(image)
    normalised = nn.Sequential(Model(), nn.BatchNorm2d(3))
    smoothed = smooth(normalised)
    normalised[1].running_mean += 1
    with pytest.raises(ValueError, match='have changed since it was smoothed'):
        smoothed.certify(image)


class Flipped(Model):
    """Code of its own, and what no digest sees."""

    table = {'turned': False}

    def forward(self, images):
        scores = super().forward(images).flip(1)
        return scores.flip(1) if self.table['turned'] else scores


@pytest.mark.parametrize(
    'change',
    [
        lambda model: model.register_forward_hook(lambda module, images, scores: -scores),
        lambda model: setattr(model, 'scale', 2.0),
        lambda model: model.add_module('wrap', nn.Identity().eval()),
    ],
    ids=['hook', 'value', 'part'],
)
def test_a_model_that_is_changed_is_no_longer_the_one_that_was_smoothed(image, change):
    model = Model(nn.ReLU())
    model.scale = 1.0
    smoothed = smooth(model)
    smoothed.certify(image)
    change(model)
    with pytest.raises(ValueError, match='has other parts, hooks or values'):
        smoothed.certify(image)


def test_a_model_that_notes_something_at_each_pass_is_the_same(image):
    class Timed(Model):
        seconds = 0.0

        def forward(self, images):
            self.seconds += 0.5
            return super().forward(images)

    model = Timed()
    smoothed = smooth(model)
    for _ in range(2):
        smoothed.certify(image)
    model.scale = 2.0
    with pytest.raises(ValueError, match='has other parts, hooks or values'):
        smoothed.certify(image)


def test_votes_of_another_function_of_the_same_weights_are_refused(image, tmp_path):
    first = smooth(Model(), votes_dir=tmp_path).certify(image)
    again = smooth(Model(), votes_dir=tmp_path).certify(image)
    assert (again.maps['cert'] == first.maps['cert']).all()
    hooked = Model()
    hooked.register_forward_hook(lambda module, images, scores: scores.flip(1))
    for other in (
        smooth(Model(), votes_dir=tmp_path, read=lambda scores: scores.flip(1)),
        smooth(Model(wrap=torch.neg), votes_dir=tmp_path),
        smooth(hooked, votes_dir=tmp_path),
        smooth(Flipped(), votes_dir=tmp_path),
    ):
        with pytest.raises(FingerprintError):
            other.certify(image)
    smooth(Flipped(), votes_dir=tmp_path / 'other').certify(image)
    turned = Flipped()
    turned.table = {'turned': True}
    with pytest.raises(VotesFileError, match='are of another base model: it labels'):
        smooth(turned, votes_dir=tmp_path / 'other').certify(image)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((4, 5), dtype=np.uint8), 'must be RGB'),
        (np.zeros((4, 5, 4), dtype=np.uint8), 'must be RGB'),
        ('photos/one.png', 'photos/one.png is a path: read the image first'),
        (torch.zeros(1, 4, 5), 'must have shape'),
        (torch.zeros(3, 4, 5, dtype=torch.long), 'uint8 or floating point'),
        (torch.full((3, 4, 5), 200.0), 'levels of 0-255 are uint8'),
        (torch.full((3, 4, 5), -2.0), 'normalisation belongs to the model'),
        (torch.full((3, 4, 5), float('nan')), r'values in \[nan'),
        (np.zeros((4, 5, 3), dtype=np.uint16), 'uint8 or floating point, got uint16'),
        (Image.new('HSV', (4, 5)), r'has mode HSV: take image.convert'),
    ],
)
def test_what_is_no_image_in_unit_range_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        to_tensor(image)


def test_autocast_is_refused_for_the_certificate_would_name_another_number_type(image):
    smoothed = smooth(Model())
    smoothed.start(image)
    for one in (smoothed, smooth(Model())):
        with (
            torch.autocast('cpu', torch.bfloat16),
            pytest.raises(ValueError, match='autocast is on'),
        ):
            one.certify(image)


def test_a_name_has_no_folder(image, tmp_path):
    with pytest.raises(ValueError, match=r"without a folder, got '../one-\w+'"):
        smooth(Model(), votes_dir=tmp_path / 'votes').certify(image, name='../one')
    assert not list(tmp_path.rglob('*.npz'))


def test_weights_that_no_state_dict_has_are_in_the_name(image):
    """Of modules in a list or dict, and of those that ``read`` holds."""

    def name_of(seed, hide=lambda head: None, read=lambda head: None):
        model = Model()
        torch.manual_seed(seed)
        head = nn.Conv2d(3, 3, 1)
        model.hidden = hide(head)
        smoothed = smooth(model, read=read(head))
        smoothed.start(image)
        return smoothed.sampling['model']

    for how in (
        {'hide': lambda head: [head]},
        {'hide': lambda head: {'head': head}},
        {'read': lambda head: lambda scores: head(scores)},
    ):
        assert name_of(0, **how) == name_of(0, **how) != name_of(1, **how)


class Packed(Model):
    """As dynamically quantised modules are: their weights are no tensors."""

    def get_extra_state(self):
        return torch.qint8


def test_quantised_weights_are_refused_in_a_line():
    with pytest.raises(ValueError, match='_extra_state of Packed is quantised by torch'):
        smooth(Packed())


def test_a_program_whose_weights_cannot_be_named_is_refused():
    program = torch.jit.optimize_for_inference(torch.jit.script(nn.Conv2d(3, 2, 1).eval()))
    if 'MKLDNN' not in program.code:
        pytest.skip('torch has no oneDNN here')
    with pytest.raises(ValueError, match='before torch.jit.optimize_for_inference'):
        smooth(program)


def test_labels_of_other_images_or_classes_are_refused(image):
    smoothed = smooth(Model())
    with pytest.raises(ValueError, match=r'9 x 12 pixels.* got int64 of shape \(12, 9\)'):
        smoothed.certify(image, label=np.zeros((12, 9), dtype=int))
    with pytest.raises(ValueError, match='has class 7, but the model has 3 classes'):
        smoothed.certify(image, label=np.full((9, 12), 7))


def test_no_certificate_exceeds_the_distance_to_the_boundary():
    """Units, order of channels, normalisation and draws all have to agree for this to hold."""
    weights = torch.tensor([0.7, 0.2, 0.1])  # Of red, green and blue.
    model = nn.Conv2d(3, 1, 1)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    with torch.no_grad():
        model.weight.copy_((weights * std)[None, :, None, None])
        model.bias.fill_(float((weights * mean).sum()) - 0.5)
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    result = smooth(model, one_channel='scores', n=200, tau=0.75).certify(image)
    score = (image / 255) @ weights.double().numpy() - 0.5
    assert (result.maps['base'] == (score > 0)).all()
    distance = (2 * result.maps['pred'] - 1) * score / float(weights.norm())
    certified, radius = result.maps['cert'] != 254, result.to_dict()['promise']['radius']
    assert (distance[certified] > radius).all() and certified[distance > radius + 0.3].all()
    assert 0.1 < certified.mean() < 0.9


def test_it_says_what_it_is_in_a_line():
    said = 'sigma=0.25, tau=0.6, n0=5, n=60, alpha=0.01'
    end = "procedure='ordered_holm', radius=0.06333, device=cpu>"
    assert repr(smooth(Model())) == f'<Smoothed Model: {said}, {end}'
    looks = smooth(Model(), sigma=None, perturbation=LaplaceNoise(0.1), n='auto', budget=90)
    assert "LaplaceNoise(b=0.1), tau=0.6, n0=5, n='auto' (at most 90)" in repr(looks)
    tried = smooth(Model(), sigma=None, perturbation=Enumeration('rotation', values=[-2, 2]))
    assert repr(tried).startswith('<Smoothed Model: Enumeration(')


def test_where_the_weights_are_is_said_if_they_cannot_be_used(image):
    with pytest.raises(ValueError, match='"meta", which holds no values: load the checkpoint'):
        smooth(Model().to('meta'))
    smoothed = smooth(Model())
    smoothed.model.module.to('meta')
    with pytest.raises(ValueError, match='was on cpu when it was smoothed, and is on meta now'):
        smoothed.certify(image)

    def fails(scores):
        raise RuntimeError('Expected all tensors to be on the same device')

    smoothed = smooth(Model(fails))
    advice = r"on cpu and cuda:0: bring .* model\.to\('cuda:0'\)"
    places = mock.patch.object(smoothed.model, '_places', lambda: ['cpu', 'cuda:0'])
    with places, pytest.raises(ValueError, match=advice):
        smoothed.certify(image)
