"""The study of training recipes."""

import pytest


@pytest.fixture
def recipes(load):
    return load('recipes')


def run(name, certified, seed=0):
    answers = [
        {'tau': tau, 'procedure': 'holm', 'selection': 'holdout', 'certAcc': value, 'mIoU': 0.3,
         'abstain': 0.2}
        for tau, value in zip((0.75, 0.9131), certified, strict=True)
    ]  # fmt: skip
    rates = {'base_aAcc': 0.8, 'smoothed_aAcc': 0.82}
    return {
        'name': name, 'offline': answers, 'rates': rates, 'noisy_accuracy': 0.81, 'images': 5,
        'steps': 240, 'sigma': 0.25, 'seed': seed,
    }  # fmt: skip


def test_the_table_has_a_row_for_each_recipe(recipes):
    machine = {'processor': 'P', 'cores': 2}
    runs = [run('noise', (0.73, 0.65)), run('CAT-RS', (0.7, 0.6)), run('CAT-RS', (0.71, 0.6), 1)]
    results = {
        'rows': runs, 'machine': machine, 'budget': 4.0, 'start': 'clean.pth', 'draws': 300,
    }  # fmt: skip
    lines = recipes.render(results)
    assert lines[0] == 'sigma = 0.25:'
    assert lines[4] == (
        '| noise | 0.800 | 0.810 | 0.820 | 0.730 | 0.650 | 0.300 | 0.300 | 0.200 | 240 |'
    )
    assert lines[5].startswith('| CAT-RS (2 seeds) |')
    assert '| 0.700 to 0.710 | 0.600 |' in lines[5]
    assert '4 minutes of one thread from clean.pth' in lines[-1]
    assert recipes.render({}) == ['Not measured yet.']
    assert recipes.render_ensemble(results) == ['Not measured yet.']
    runs.append(run('CAT-RS', (0.75, 0.65), None))
    assert recipes.render(results) == lines
    assert [line.split(' | ')[0] for line in recipes.render_ensemble(results)[2:5]] == [
        '| CAT-RS, seed 0', '| CAT-RS, seed 1', '| CAT-RS, ensemble',
    ]  # fmt: skip


def test_the_thresholds_buy_the_radii_that_the_table_names(recipes):
    from mmcert.perturbations import GaussianNoise

    for sigma, taus in recipes.TAUS.items():
        for tau, radius in taus.items():
            assert f'{GaussianNoise(sigma).radius(tau):.2f}' == radius


def test_every_recipe_has_its_config(recipes):
    for name in recipes.RECIPES:
        path = recipes.CONFIGS / f'fast-scnn_{recipes.RECIPES[name]}_camvid-360x480.py'
        assert path.exists()
