import pytest
from scipy import stats

from mmcert.perturbations import CLASSES, GaussianNoise, from_spec, register
from mmcert.perturbations.noise_level import validate_sigma_range


@pytest.mark.parametrize('sigma', [0.1, 0.25, 1.0])
@pytest.mark.parametrize('tau', [0.5, 0.75, 0.999])
def test_radius_is_where_the_worst_case_probability_meets_one_half(sigma, tau):
    # Neyman-Pearson: a half-space of probability tau, shifted by the radius, has probability 1/2.
    radius = GaussianNoise(sigma).radius(tau)
    assert stats.norm.cdf(stats.norm.ppf(tau) - radius / sigma) == pytest.approx(0.5)


def test_radius_matches_the_vectors(vectors):
    for vector in vectors['A_radius']:
        inputs = vector['inputs']
        if inputs['distribution'] == 'gaussian':
            found = GaussianNoise(inputs['scale']).radius(inputs['tau'])
            assert found == pytest.approx(vector['expected']['R'], rel=1e-9)


def test_a_registered_perturbation_of_ones_own_is_built_from_its_spec(monkeypatch):
    monkeypatch.setattr('mmcert.perturbations.base.CLASSES', dict(CLASSES))

    @register
    class Doubled(GaussianNoise):
        """Its spec names the class and its arguments."""

    with pytest.raises(ValueError, match="unknown perturbation 'Laplace'.*must be registered"):
        from_spec({'type': 'Laplace'})
    assert isinstance(from_spec(Doubled(0.3).spec()), Doubled)
    assert register(Doubled) is Doubled
    with pytest.raises(ValueError, match="another perturbation of the name 'Doubled'"):
        register(type('Doubled', (GaussianNoise,), {}))


@pytest.mark.parametrize(
    ('sigma', 'message'),
    [
        (0, 'must be positive, got 0'),
        (-0.25, 'must be positive, got -0.25'),
        (63.75, r'0-255 units.*sigma=0\.25\?'),
        (float('nan'), 'finite number'),
        ('0.25', 'finite number'),
        (True, 'finite number'),
    ],
)
def test_impossible_noise_levels_are_refused(sigma, message):
    with pytest.raises(ValueError, match=message):
        GaussianNoise(sigma)


def test_ranges_of_noise_levels():
    assert validate_sigma_range(0.25) == (0.25, 0.25)
    assert validate_sigma_range((0, 0.5)) == (0.0, 0.5)
    for bad in ((0.5, 0.25), (-0.1, 0.2), (0.1, 0.2, 0.3), (0, 127)):
        with pytest.raises(ValueError, match='sigma'):
            validate_sigma_range(bad)


@pytest.mark.parametrize('tau', [0.3, 1.0])
def test_radius_needs_a_legal_tau(tau):
    with pytest.raises(ValueError, match='tau'):
        GaussianNoise(0.25).radius(tau)
