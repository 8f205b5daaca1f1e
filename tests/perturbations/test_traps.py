"""Mistakes in a perturbation of one's own that could make a certificate wrong are refused."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch

from mmcert.perturbations import (
    AdditiveNoise,
    BrightnessContrast,
    GaussianNoise,
    Perturbation,
    PooledNoise,
    Rotation3D,
    TransformationCells,
)
from mmcert.perturbations.clouds import PointTransformation
from mmcert.perturbations.distributions import Distribution, Gaussian
from mmcert.transformations import Rotation


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize(
    ('perturbation', 'name'),
    [
        (GaussianNoise(0.25), 'sigma'),
        (GaussianNoise(0.25), 'noise'),
        (BrightnessContrast(0.2, 0.01), 'sigma_b'),
        (Rotation3D(0.5), 'scales'),
        (PooledNoise(2, 0.2), 'factor'),
        (TransformationCells('rotation', -1, 1, GaussianNoise(0.2)), 'noise'),
        (TransformationCells('rotation', -1, 1, GaussianNoise(0.2)), 'high'),
    ],
)
def test_what_draws_and_radius_depend_on_is_fixed(perturbation, name):
    with pytest.raises(AttributeError, match='make a new perturbation'):
        setattr(perturbation, name, 2.0)


def test_a_fixed_perturbation_is_copied_and_pickled():
    cells = TransformationCells('rotation', -1, 1, GaussianNoise(0.2))
    for other in (copy.deepcopy(cells), pickle.loads(pickle.dumps(cells))):
        assert other.spec() == cells.spec()


def test_noise_that_is_returned_and_not_filled_in_is_refused():
    @dataclass(frozen=True)
    class Returned(Distribution):
        sigma: float
        norm = 'l2'
        formula = 'N(0, {sigma:g}^2)'

        def fill(self, values, generator):
            return torch.randn(values.shape, generator=generator) * self.sigma

        def _reach(self, tau, target):
            return 0.0

    noise = AdditiveNoise(Returned(0.25))
    with pytest.raises(ValueError, match='in place'):
        noise.draw(torch.zeros(3, 4, 4), generators(2))


def test_a_distribution_derived_from_the_gaussian_draws_its_own_values():
    class Twice(Gaussian):
        def fill(self, values, generator):
            return values.normal_(0, 2 * self.sigma, generator=generator)

    drawn = Twice(1.0).fill_batch(torch.empty(2, 10_000), generators(2))
    assert drawn.std() == pytest.approx(2, rel=0.05)


def test_maps_of_labels_that_nobody_would_call_are_refused():
    with pytest.raises(TypeError, match='moves_labels'):

        class Silent(GaussianNoise):
            def map_labels(self, labels, parameters):
                return labels.flip(-1)


def test_cells_that_nobody_cut_are_refused():
    class Cells(GaussianNoise):
        has_partition = True

    with pytest.raises(NotImplementedError, match='must override partition'):
        Cells(0.25).partition(torch.zeros(3, 4, 4), 10)


def test_parameters_of_different_scales_have_the_radius_of_the_smallest():
    class TwoScales(PointTransformation):
        def __init__(self):
            self.scales = (1.0, 0.01)

        def _move(self, points, parameter):
            return points

    assert TwoScales().radius(0.9) == pytest.approx(0.0128, rel=0.01)


def test_cells_of_a_transformation_that_has_no_name_of_its_own_are_refused():
    class Other(Rotation):
        pass

    with pytest.raises(ValueError, match='would be taken for those of'):
        TransformationCells(Other(), -1, 1, GaussianNoise(0.2))


def test_a_perturbation_with_the_spec_of_another_has_no_address():
    class Copy(GaussianNoise):
        def spec(self):
            return {'type': 'GaussianNoise', 'sigma': self.sigma}

    with pytest.raises(ValueError, match=r"return \{\*\*super\(\)\.spec\(\), 'type': 'Copy'"):
        Copy(0.25).address()
    assert isinstance(Copy(0.25), Perturbation)
