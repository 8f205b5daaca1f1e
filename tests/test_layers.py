"""Imports point downwards, and the lower layers need none of the frameworks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / 'mmcert'

# What each subpackage may import of mmcert, and of the heavy packages.
ALLOWED = {
    'certify': set(),
    'files': set(),
    'metrics': {'certify'},
    'votes': {'certify', 'metrics', 'files'},
    'safe_loading': set(),
    'network_file': {'safe_loading'},
    'surrogates': {'network_file', 'transformations'},
    'denoisers': {'network_file', 'perturbations', 'safe_loading', 'version'},
    'transformations': set(),
    'attacks': {'certify', 'perturbations', 'sampling', 'transformations'},
    'corruptions': {'attacks', 'perturbations', 'sampling', 'transformations'},
    'perturbations': {'certify', 'surrogates', 'transformations'},
    'sampling': {'certify', 'perturbations'},
    'report': {'certify', 'metrics', 'votes', 'files'},
    'certifier': {
        'certify', 'metrics', 'votes', 'files', 'perturbations', 'sampling', 'report', 'version',
    },
    'runs': {
        'attacks', 'certifier', 'certify', 'corruptions', 'files', 'metrics', 'perturbations',
        'report', 'sampling', 'transformations', 'votes',
    },
    'integrations': {
        'certifier', 'certify', 'metrics', 'votes', 'perturbations', 'runs', 'sampling', 'report',
        'safe_loading', 'version',
    },
    'compat': set(),
    'cli': {'compat', 'files', 'pointops'},
    'scenes': {'files'},
    'fields': {'votes'},
    'version': set(),
    'registry': {'safe_loading'},
    'datasets': {'files', 'perturbations', 'registry', 'scenes', 'transformations'},
    'models': {
        'attacks', 'certifier', 'certify', 'denoisers', 'metrics', 'votes', 'perturbations',
        'sampling',
        'surrogates', 'transformations', 'registry', 'fields',
    },
    'pointops': set(),
    'zoo': {'files', 'version'},
    'evaluation': {
        'certifier', 'certify', 'metrics', 'votes', 'report', 'files', 'registry', 'fields',
    },
    'visualization': {'certifier', 'registry', 'denoisers', 'fields', 'report', 'surrogates'},
    'engine': {
        'certifier', 'certify', 'cli', 'denoisers', 'metrics', 'votes', 'files', 'fields',
        'perturbations', 'runs', 'sampling', 'models', 'evaluation', 'visualization', 'registry',
        'version', 'report', 'compat', 'pointops', 'transformations', 'zoo',
        'safe_loading',
    },
}  # fmt: skip

ALLOWED['commands'] = set(ALLOWED)
ALLOWED['__main__'] = {'commands'}

FRAMEWORKS = {'mmengine', 'mmcv', 'mmseg', 'mmdet3d'}
HEAVY = {
    'certify': FRAMEWORKS | {'torch', 'cv2', 'prettytable', 'matplotlib'},
    'metrics': FRAMEWORKS | {'torch', 'cv2', 'prettytable', 'matplotlib'},
    'votes': FRAMEWORKS | {'torch', 'cv2', 'prettytable', 'matplotlib'},
    'cli': {'numpy', 'scipy', 'torch'},
    '__main__': {'numpy', 'scipy', 'torch'},
    'scenes': FRAMEWORKS | {'torch'},
    'zoo': FRAMEWORKS | {'cv2', 'matplotlib'},
    'files': FRAMEWORKS | {'torch', 'cv2', 'prettytable', 'matplotlib', 'numpy', 'scipy'},
    'perturbations': FRAMEWORKS,
    'surrogates': FRAMEWORKS,
    'denoisers': FRAMEWORKS,
    'network_file': FRAMEWORKS,
    'transformations': FRAMEWORKS,
    'attacks': FRAMEWORKS,
    'corruptions': FRAMEWORKS,
    'sampling': FRAMEWORKS,
    'certifier': FRAMEWORKS,
    'report': FRAMEWORKS | {'torch'},
    'runs': FRAMEWORKS,
    'integrations': FRAMEWORKS,
    'pointops': FRAMEWORKS,
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield node.module


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: str(p.name))
def test_imports_point_downwards(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    if layer == '__init__':
        return
    for module in imported_modules(path):
        top, *rest = module.split('.')
        if top == 'mmcert' and rest:
            assert rest[0] == layer or rest[0] in ALLOWED[layer], f'{path} imports {module}'
        assert top not in HEAVY.get(layer, set()), f'{path} imports {module}'


def test_every_subpackage_has_a_layer():
    found = {p.name.removesuffix('.py') for p in PACKAGE.iterdir()} - {
        '__init__',
        '__pycache__',
        '.mim',
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ('module', 'absent'),
    [
        ('mmcert', ['numpy', 'torch', 'mmengine']),
        (
            'mmcert.certify',
            ['torch', 'mmengine', 'cv2', 'matplotlib', 'scipy.stats', 'scipy.optimize'],
        ),
        ('mmcert.sampling', ['mmengine', 'mmcv', 'mmseg', 'cv2']),
        ('mmcert.certifier', ['mmengine', 'mmcv', 'mmseg', 'cv2']),
        ('mmcert.transformations', ['mmengine', 'mmcv', 'mmseg', 'cv2', 'scipy']),
        ('mmcert.denoisers', ['mmengine', 'mmcv', 'mmseg', 'cv2', 'diffusers']),
        ('mmcert.attacks', ['mmengine', 'mmcv', 'mmseg', 'cv2']),
        (
            'mmcert.corruptions',
            ['mmengine', 'mmcv', 'mmseg', 'cv2', 'imagecorruptions', 'skimage', 'numba'],
        ),
        ('mmcert.report', ['torch', 'mmengine']),
        ('mmcert.runs.attacking', ['mmengine', 'mmcv', 'mmseg', 'imagecorruptions']),
        (
            'mmcert.integrations',
            ['mmengine', 'mmcv', 'mmseg', 'cv2', 'transformers', 'torchvision', 'onnxruntime'],
        ),
        ('mmcert.pointops', ['mmengine', 'mmcv', 'mmdet3d']),
        ('mmcert.commands.main', ['numpy', 'torch', 'mmengine', 'argcomplete']),
        ('mmcert.commands.certify', ['numpy', 'torch', 'mmengine', 'cv2']),
    ],
)
def test_importing_a_layer_loads_nothing_above_it(module, absent):
    code = f'import sys, {module}; print([m for m in {absent!r} if m in sys.modules])'
    loaded = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    ).stdout
    assert loaded.strip() == '[]'
