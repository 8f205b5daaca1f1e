"""The study of training recipes."""

import pytest


@pytest.fixture
def recipes(load):
    return load('recipes')


def row(name, certified):
    answers = [
        {'tau': tau, 'procedure': 'holm', 'selection': 'holdout', 'certAcc': value, 'mIoU': 0.3,
         'abstain': 0.2}
        for tau, value in zip((0.75, 0.9131), certified, strict=True)
    ]  # fmt: skip
    rates = {'base_aAcc': 0.8, 'smoothed_aAcc': 0.82}
    return {
        'name': name, 'offline': answers, 'rates': rates, 'noisy_accuracy': 0.81, 'images': 5,
        'steps': 240,
    }  # fmt: skip


def test_the_table_has_a_row_for_each_recipe(recipes):
    machine = {'processor': 'P', 'cores': 2}
    results = {
        'rows': [row('noise', (0.73, 0.65)), row('CAT-RS', (0.7, 0.6))],
        'machine': machine, 'budget': 4.0, 'seed': 0, 'start': 'clean.pth', 'draws': 300,
    }  # fmt: skip
    lines = recipes.render(results)
    assert lines[2] == '| noise | 0.80 | 0.81 | 0.82 | 0.73 | 0.65 | 0.30 | 0.30 | 20 % | 240 |'
    assert lines[3].startswith('| CAT-RS |')
    assert '4 minutes of one thread from clean.pth' in lines[-1]
    assert recipes.render({}) == ['Not measured yet.']


def test_the_thresholds_buy_the_radii_that_the_table_names(recipes):
    from mmcert.perturbations import GaussianNoise

    for tau, radius in recipes.TAUS.items():
        assert f'{GaussianNoise(recipes.SIGMA).radius(tau):.2f}' == radius


def test_every_recipe_has_its_config(recipes):
    for name in recipes.RECIPES:
        path = recipes.CONFIGS / f'fast-scnn_{recipes.RECIPES[name]}_camvid-360x480.py'
        assert path.exists()
