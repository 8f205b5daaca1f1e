"""Fixtures shared by all tests."""

import gc
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VECTORS = ROOT.parent / 'shared' / 'vectors' / 'vectors.json'


@pytest.fixture(scope='session')
def vectors():
    """Independent numbers by group; the tests' own oracles do without them."""
    if not VECTORS.exists():
        pytest.skip(f'the independent vectors are not at {VECTORS}')
    groups = {}
    for vector in json.loads(VECTORS.read_text())['vectors']:
        groups.setdefault(vector['group'], []).append(vector)
    return groups


def pytest_collection_modifyitems(items):
    """Skips what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker('cuda')]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture
def openmmlab():
    """For tests of the lower layers that meet the frameworks."""
    pytest.importorskip('mmengine')
    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    pytest.importorskip('mmseg')


@pytest.fixture(scope='session')
def scenes_root(tmp_path_factory):
    """Where tests draw street scenes."""
    return tmp_path_factory.mktemp('street_scenes')


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A small data set of synthetic shapes in ShapeNetPart's layout."""
    from mmcert.datasets.part_shapes import write_part_shapes
    from tests.datasets.support import COUNTS

    root = tmp_path_factory.mktemp('shapes') / 'made'
    write_part_shapes(root, COUNTS, points=300)
    return root


@pytest.fixture
def mmdet3d_scope():
    """For tests that build what mmdetection3d registers."""
    from mmengine.registry import init_default_scope

    pytest.importorskip('mmdet3d')
    init_default_scope('mmdet3d')
    yield
    init_default_scope('mmseg')


def pytest_collection_finish():
    """Spares the garbage collector what the imports made: mmengine collects for every data set."""
    gc.collect()
    gc.freeze()
