"""The network: shapes, units of the range, files, and what the certificate needs of it."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from mmcert.surrogates import Surrogate, load_surrogate, save_surrogate
from mmcert.surrogates.network import FREQUENCIES, convolution_norm
from mmcert.transformations import TRANSFORMATIONS, Brightness

SMALL = dict(latent_channels=4, stride=4, width=8)


def make(transformation='brightness', low=-0.3, high=0.3, seed=0, **sizes):
    torch.manual_seed(seed)
    return Surrogate(transformation, low, high, **{**SMALL, **sizes})


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# Shapes


@pytest.mark.parametrize('size', [(8, 12), (9, 13), (1, 1), (3, 30)])
@pytest.mark.parametrize('hidden', [(), (6,), (6, 5)])
def test_images_of_any_size_come_back_in_it(size, hidden):
    surrogate = make(hidden=hidden, stride=4)
    images, u = torch.rand(2, 3, *size), torch.zeros(2, 1)
    latents = surrogate.encode(images)
    assert latents.shape == (2, 4, -(-size[0] // 4), -(-size[1] // 4))
    assert surrogate.shift(u).shape == (2, 4, 1, 1)
    out = surrogate(images, u, torch.zeros_like(latents))
    assert out.shape == images.shape and bool(out.isfinite().all())
    torch.testing.assert_close(out, surrogate(images, u))


def test_images_of_a_batch_do_not_influence_each_other():
    surrogate, images, u = make(hidden=(6,)), torch.rand(3, 3, 10, 14), torch.rand(3, 1)
    for index in range(3):
        alone = surrogate(images[index : index + 1], u[index : index + 1])
        torch.testing.assert_close(surrogate(images, u)[index : index + 1], alone)


def test_the_same_vector_is_added_at_every_place():
    surrogate, images = make(), torch.rand(1, 3, 10, 14)
    u = torch.tensor([[0.7]])
    expected = surrogate.decode(
        surrogate.encode(images) + surrogate.shift(u).expand(1, 4, 3, 4), (10, 14)
    )
    torch.testing.assert_close(surrogate(images, u), expected)
    bias = surrogate.parameter_encoder.bias.detach().double()
    at = surrogate.shift(u)[0, :, 0, 0].double()
    torch.testing.assert_close(at, surrogate.matrix()[:, 0] * u[0].double() + bias)


def test_a_surrogate_can_be_trained():
    surrogate = make(hidden=(6,))
    images, u = torch.rand(2, 3, 9, 9), torch.rand(2, 1)
    surrogate(images, u).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in surrogate.parameters())


# Units of the range


@pytest.mark.parametrize(
    ('transformation', 'low', 'high', 'anchor', 'scale'),
    [
        ('brightness', -0.3, 0.3, 0, 0.3),
        ('brightness', -0.4, 0.1, 0, -0.4),
        ('brightness', 0.1, 0.3, 0.1, 0.2),
        ('brightness', -0.3, -0.1, -0.1, -0.2),
        ('defocus_blur', 0, 3, 0, 3),
        ('zoom_blur', 1, 1.25, 1, 0.25),
        ('jpeg', 20, 90, 90, -70),
    ],
)
def test_the_anchor_is_the_mildest_end_and_the_scale_reaches_the_farther_one(
    transformation, low, high, anchor, scale
):
    surrogate = make(transformation, low, high)
    assert surrogate.anchor.item() == anchor
    assert surrogate.scale.item() == pytest.approx(scale)
    u = surrogate.normalized(numbers([low], [anchor], [high]))
    assert u.abs().max() == pytest.approx(1)
    assert u[1].item() == 0
    torch.testing.assert_close(
        surrogate.parameters_at(u)[u[:, 0] >= 0], numbers([low], [anchor], [high])[u[:, 0] >= 0]
    )


def test_where_the_range_begins_at_the_anchor_negative_u_is_mirrored():
    surrogate = make('defocus_blur', 0, 3)
    u = numbers([-2.0], [-1.0], [-0.5], [0.0], [0.5], [1.0], [2.0])
    expected = numbers([3.0], [3.0], [1.5], [0.0], [1.5], [3.0], [3.0])
    torch.testing.assert_close(surrogate.parameters_at(u), expected)
    both = make('brightness', -0.2, 0.4)
    found = both.parameters_at(u)
    torch.testing.assert_close(found, numbers([-0.2], [-0.2], [-0.2], [0.0], [0.2], [0.4], [0.4]))


def test_parameters_that_must_be_whole_are_and_quality_falls():
    surrogate = make('jpeg', 20, 90)
    found = surrogate.parameters_at(numbers([0.0], [0.31], [-0.31], [1.0], [3.0]))
    assert found.flatten().tolist() == [90, 68, 68, 20, 20]
    surrogate.transformation.check_parameters(found)


def test_several_parameters_have_their_own_units():
    surrogate = make('translation', [-2, 0], [1, 8])
    assert surrogate.anchor.tolist() == [0, 0] and surrogate.scale.tolist() == [-2, 8]
    assert surrogate.matrix().shape == (4, 2)
    found = surrogate.parameters_at(numbers([-0.5, -0.5]))
    assert found.tolist() == [[1, 4]]
    assert surrogate.normalized(numbers([-1, 4])).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize('name', sorted(TRANSFORMATIONS))
def test_normalised_parameters_of_every_transformation_are_legal(name):
    transformation = TRANSFORMATIONS[name]
    low, high = [], []
    for p in transformation.parameters:
        start = p.low if p.identity is None else p.identity
        low.append(start)
        high.append(min(start + 4, p.high))
    surrogate = make(name, low, high)
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].expand(-1, len(low))
    surrogate.check_within(surrogate.parameters_at(u))


@pytest.mark.parametrize(
    ('make_it', 'message'),
    [
        (lambda: make('brightness', 0.3, 0.3), 'one range low < high'),
        (lambda: make('brightness', [[0.1], [0.2]], 0.3), 'one range low < high'),
        (lambda: make('brightness', -2, 0.3), r'shift must lie in \[-1, 1\]'),
        (lambda: make('brightnes'), "unknown transformation 'brightnes'"),
        (lambda: make(stride=3), 'stride must be even.*got stride 3'),
        (lambda: make(width=12), 'width a multiple of 8.*width 12'),
        (lambda: make(channels=0), 'channels must be at least 1, got 0'),
        (lambda: make(latent_channels=0), 'latent_channels must be at least 1'),
        (
            lambda: make().check_within(numbers([0.1], [0.4])),
            r'from \[-0.3\] to \[0.3\], got \[0.4',
        ),
        (lambda: make().encode(torch.rand(1, 4, 8, 8)), 'made for 3 channels, got 4'),
    ],
)
def test_impossible_arguments_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


# What the certificate needs


def test_a_parameter_encoder_that_is_not_linear_has_no_matrix():
    surrogate = make()
    assert surrogate.matrix().dtype == torch.float64
    surrogate.parameter_encoder = nn.Sequential(nn.Linear(1, 4), nn.Tanh())
    with pytest.raises(ValueError, match='linear F1'):
        surrogate.matrix()
    surrogate = make()
    surrogate.parameter_encoder.register_forward_hook(lambda module, args, out: out.tanh())
    with pytest.raises(ValueError, match='without hooks'):
        surrogate.matrix()
    surrogate = make()
    nn.utils.parametrizations.weight_norm(surrogate.parameter_encoder)
    with pytest.raises(ValueError, match='linear F1'):
        surrogate.matrix()


@pytest.mark.parametrize('hidden', [(), (6,), (6, 5)])
@pytest.mark.parametrize('stride', [2, 4])
def test_the_encoder_never_exceeds_its_lipschitz_constant(hidden, stride):
    for seed in range(4):
        encoder = make(hidden=hidden, stride=stride, seed=seed).image_encoder.double()
        constant = encoder.lipschitz()
        generator = torch.Generator().manual_seed(seed)
        a = torch.rand(8, 3, 11, 14, generator=generator, dtype=torch.float64)
        b = a + torch.randn(a.shape, generator=generator, dtype=torch.float64) * 10.0**-seed
        ratio = (encoder(a) - encoder(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
        assert ratio.max() <= constant


@pytest.mark.parametrize('hidden', [(), (5,)])
def test_the_worst_direction_is_below_the_lipschitz_constant_and_not_far(hidden):
    encoder = make(hidden=hidden, stride=4).image_encoder.double()
    clean = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(encoder, clean).reshape(-1, clean.numel())
    exact, bound = torch.linalg.matrix_norm(jacobian, 2), encoder.lipschitz()
    assert exact <= bound
    # The overlap of the patches costs a factor of at most 2, then 3 for each further layer.
    assert bound <= exact * 2 * 6 ** len(hidden) * 1.5


@pytest.mark.parametrize(
    ('size', 'stride', 'padding'), [(8, 4, 2), (3, 1, 1), (5, 2, 2), (4, 4, 0)]
)
def test_the_norm_of_a_convolution_is_bounded_and_nearly_reached(size, stride, padding):
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(6, 2, size, size, generator=generator, dtype=torch.float64)
    bound = convolution_norm(weight, stride)
    image = torch.randn(1, 2, 20 * stride, 20 * stride, generator=generator, dtype=torch.float64)
    for _ in range(150):  # Power iteration.
        out = torch.nn.functional.conv2d(image, weight, stride=stride, padding=padding)
        back = torch.nn.functional.conv_transpose2d(out, weight, stride=stride, padding=padding)
        side = (image.shape[-1] + 2 * padding - size) % stride
        back = torch.nn.functional.pad(back, (0, side, 0, side))
        reached = back.norm().sqrt()
        image = back / back.norm()
    assert reached <= bound <= 1.15 * reached


def symbol_norm(weight, stride, v, w):
    """Spectral norm of the symbol of a convolution at two frequencies, block by block."""
    blocks = range(weight.shape[-1] // stride)
    parts = weight.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))
    terms = [
        parts[:, :, a, :, b].flatten(1) * np.exp(-1j * (a * v + b * w))
        for a in blocks
        for b in blocks
    ]
    return float(torch.linalg.matrix_norm(sum(terms), 2))


@pytest.mark.parametrize(('blocks', 'stride'), [(1, 3), (2, 2), (3, 1), (4, 1), (5, 1), (2, 8)])
def test_the_norm_of_a_convolution_is_bounded_within_one_per_cent(blocks, stride):
    # The supremum itself, by ascent from a fine grid of frequencies.
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        side = blocks * stride
        weight = torch.randn(4, 2, side, side, generator=generator, dtype=torch.float64)
        grid = np.linspace(0, 2 * np.pi, 25)[:-1]
        start = max(
            ((v, w) for v in grid for w in grid), key=lambda p: symbol_norm(weight, stride, *p)
        )
        found = minimize(lambda p: -symbol_norm(weight, stride, *p), start, method='Nelder-Mead')  # noqa: B023
        bound = convolution_norm(weight, stride)
        assert -found.fun * (1 - 1e-9) <= bound <= -found.fun * 1.0098


@pytest.mark.parametrize('blocks', [2, 3, 6])
def test_the_bound_holds_where_the_norm_peaks_between_the_points_of_the_grid(blocks):
    # A Dirichlet kernel turned by half a step of the grid, along both axes: its peak is narrow, and
    # as far from the points as it can be.
    shift = np.pi / (FREQUENCIES * (blocks - 1))
    taps = torch.from_numpy(np.exp(1j * shift * np.arange(blocks)))
    kernel = taps[:, None] * taps
    # A complex factor is a real 2 x 2 matrix.
    weight = torch.stack(
        [torch.stack([kernel.real, -kernel.imag]), torch.stack([kernel.imag, kernel.real])]
    )
    exact = float(blocks**2)
    assert symbol_norm(weight, 1, shift, shift) == pytest.approx(exact)
    assert exact <= convolution_norm(weight, 1) <= 1.0098 * exact


# Files


def test_a_file_holds_the_surrogate(tmp_path):
    surrogate = make('contrast', -0.5, 0.4, hidden=(6,))
    save_surrogate(tmp_path / 'a.pth', surrogate)
    again = load_surrogate(tmp_path / 'a.pth')
    assert again.digest() == surrogate.digest() and again.spec() == surrogate.spec()
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    images, u = torch.rand(2, 3, 9, 11), torch.rand(2, 1)
    torch.testing.assert_close(again(images, u), surrogate.eval()(images, u), rtol=0, atol=0)
    spec = surrogate.spec()
    assert json.loads(json.dumps(spec)) == spec
    assert Surrogate(**spec).spec() == spec


def test_the_digest_tells_surrogates_apart():
    def digests():
        yield make(seed=0)
        yield make(seed=1)
        yield make(high=0.4)
        yield make('contrast')
        yield make(dict(type='contrast', pivot='zero'))
        changed = make(seed=0)
        changed.decoder.leave.bias.data[0] += 1e-6
        yield changed

    found = [surrogate.digest() for surrogate in digests()]
    assert len(set(found)) == len(found)
    assert make(seed=0).digest() == make(Brightness(), seed=0).digest() == found[0]


def test_files_of_something_else_are_refused(tmp_path):
    torch.save({'state_dict': make().state_dict()}, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='model.pth is not a surrogate.*train_surrogate'):
        load_surrogate(tmp_path / 'model.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='list.pth is not a surrogate'):
        load_surrogate(tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_text('surrogate')
    with pytest.raises(ValueError, match='text.pth is not a surrogate'):
        load_surrogate(tmp_path / 'text.pth')
    with pytest.raises(FileNotFoundError, match='mmcert train_surrogate CONFIG'):
        load_surrogate(tmp_path / 'none.pth')
    state = make().state_dict()
    state.pop('decoder.leave.bias')
    torch.save({'surrogate': make().spec(), 'state_dict': state}, tmp_path / 'part.pth')
    with pytest.raises(RuntimeError, match='decoder.leave.bias'):
        load_surrogate(tmp_path / 'part.pth')
