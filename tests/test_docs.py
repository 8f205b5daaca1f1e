"""What the pages say is so: their code runs, their links lead somewhere, their tables are fresh."""

import ast
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcert.compat import enable_mmcv_lite
from mmcert.perturbations import BrightnessContrast, Enumeration
from mmcert.transformations import build

ROOT = Path(__file__).parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted(
    path for path in DOCS.rglob('*.md') if not {'_build', 'api'} & set(path.relative_to(DOCS).parts)
)
LINKING = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'SECURITY.md',
    *sorted(ROOT.glob('configs/*/README.md')),
    *PAGES,
]
GUIDES = sorted(DOCS.glob('tutorials/*.md')) + sorted(DOCS.glob('how-to/*.md'))

ELSEWHERE = {'transformers', 'smp', 'torchvision'}
"""Tutorials that need a library and run in tests/integrations."""

DIFF = re.compile(
    r'^```diff\n--- a/[^\n]+\n\+\+\+ b/([^\n]+)\n@@\n(.*?)^```', re.MULTILINE | re.DOTALL
)
RUN_BLOCK = re.compile(r'(?<!<!-- not run -->\n)^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(path):
    return BLOCK.findall(path.read_text())


def runnable(path):
    """The blocks of a page that are programs; a comment marks those of configs."""
    return RUN_BLOCK.findall(path.read_text())


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_python_blocks_of_pages_are_python(page):
    for code in blocks(page):
        ast.parse(code)


@pytest.mark.parametrize(
    'page', [page for page in GUIDES if runnable(page) and page.stem not in ELSEWHERE], ids=name
)
def test_programs_of_guides_run(page, tmp_path):
    """The blocks of a page are one program, and run after its edits of the package, if any."""
    edits = DIFF.findall(page.read_text())
    if edits:
        shutil.copytree(ROOT / 'mmcert', tmp_path / 'mmcert')
    for path, edit in edits:
        apply(tmp_path / path, edit)
    program = '\n'.join(runnable(page))
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(tmp_path if edits else ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # A print followed by a comment says what it shows.
    said = re.findall(r'^\s*print\(.*\)  # (.+)$', program, re.MULTILINE)
    shown = done.stdout.splitlines()
    assert [line for line in said if line not in shown] == []


def apply(path, edit):
    """Applies a hunk of a diff, wherever in the file its lines are: there must be one place."""
    lines = edit.splitlines(keepends=True)
    old, new = (''.join(x[1:] for x in lines if x[0] in signs) for signs in (' -', ' +'))
    text = path.read_text()
    assert text.count(old) == 1, f'{path} has changed; the guide shows\n{old}'
    path.write_text(text.replace(old, new))


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', re.sub(r'```.*?```', '', text, flags=re.DOTALL), re.M)
    plain = [re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings]
    return {heading.strip().replace(' ', '-') for heading in plain}


@pytest.mark.parametrize('page', LINKING, ids=name)
def test_links_lead_to_files_of_the_repository(page):
    text = page.read_text()
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        # The build of the site checks names of the package.
        if re.match(r'\w+:|#mmcert\.', target):
            continue
        path, _, anchor = target.partition('#')
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f'{name(page)} links to {target}'
        if anchor and found.suffix == '.md':
            assert anchor in anchors(found.read_text()), f'{name(page)} links to {target}'


def test_commands_of_pages_name_files_that_exist():
    for page in LINKING:
        for path in re.findall(
            r'\b(?:tools|benchmarks|configs)/[\w\-./]+\.(?:py|md)\b', page.read_text()
        ):
            assert list(ROOT.glob(path)), f'{name(page)} names {path}'


@pytest.fixture(scope='module')
def site_pages():
    spec = importlib.util.spec_from_file_location('site_pages', DOCS / 'site_pages.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'page',
    [
        'reference/smoothing.md', 'reference/procedures.md', 'reference/certificate.md',
        'how-to/attack-sets.md',
    ],
)  # fmt: skip
def test_tables_of_pages_are_those_of_the_package(site_pages, page):
    enable_mmcv_lite()
    assert page in site_pages.TABLES and len(site_pages.TABLES) == 4
    assert site_pages.with_table(page) == (DOCS / page).read_text(), '`make docs`'


@pytest.fixture(scope='module')
def camera_attacks(site_pages):
    return site_pages.camera_attacks()


def test_the_attack_sets_of_the_guide_do_something_to_an_image(camera_attacks):
    image = torch.rand(3, 180, 240, generator=torch.Generator().manual_seed(0))
    for attack in camera_attacks:
        low, high, values = attack.rounded()
        known = build(attack.transformation).identity.tolist()
        ends = [np.ravel(one).tolist() for one in (low, high)] if values is None else values
        moving = [end for end in ends if end[0] != known[0] or attack.values]
        enumeration = Enumeration(attack.transformation, moving)
        for attacked in enumeration.apply(image, enumeration.enumerated):
            assert (attacked - image).abs().max() > 0.01, attack.what


def test_the_guide_has_a_config_for_each_of_its_attack_sets(camera_attacks):
    folder, ending = ROOT / 'configs/attack_sets', '_fast-scnn_camvid-180x240'
    enable_mmcv_lite()
    from mmengine.config import Config

    from mmcert.engine import SmoothingConfig

    names = [attack.config + ending for attack in camera_attacks]
    assert sorted(path.stem for path in folder.glob('*.py')) == sorted(names)
    assert all(
        f'`{attack.config}`' in (folder / 'README.md').read_text() for attack in camera_attacks
    )
    for attack, name in zip(camera_attacks, names, strict=True):
        smoothing = Config.fromfile(folder / f'{name}.py').smoothing
        plan = SmoothingConfig.from_cfg(dict(smoothing)).plan()
        found, (low, high, values) = plan.perturbation, attack.rounded()
        if isinstance(found, BrightnessContrast):
            tau = plan.test_settings.tau
            assert found.covers(tau)
            if attack.transformation == 'contrast':
                wanted = [float(f'{math.exp(end):.3g}') for end in (attack.low, attack.high)]
                assert list(found.contrast_range) == wanted
            else:
                assert attack.transformation == 'brightness'
                assert max(-low, high) <= found.radius(tau) <= 1.15 * max(-low, high)
            continue
        assert found.transformation.name == attack.transformation
        if isinstance(found, Enumeration):
            assert found.values == values
        else:
            assert (found.low, found.high) == (low, high)


def test_all_keys_of_smoothing_are_in_the_reference(site_pages):
    enable_mmcv_lite()
    from mmcert.engine.smoothing_config import SmoothingConfig

    with pytest.raises(ValueError, match='Legal keys: ') as refused:
        SmoothingConfig.from_cfg({'no such key': 1})
    keys = str(refused.value).partition('Legal keys: ')[2].rstrip('.').split(', ')
    shown = re.findall(r'^\| `(\w+)`', site_pages.smoothing_keys(), re.MULTILINE)
    assert set(keys) == set(shown)


def test_every_module_is_on_a_page_of_the_reference(site_pages, tmp_path, monkeypatch):
    monkeypatch.setattr(site_pages, 'API', tmp_path)
    site_pages.write_api_pages()
    text = '\n'.join(path.read_text() for path in tmp_path.glob('*.md'))
    assert set(site_pages.modules()) == set(re.findall(r'automodule:: (\S+)', text))
