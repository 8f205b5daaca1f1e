"""mmcv-lite, and where runs continue."""

import importlib.machinery
import logging
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from mmcert import compat

LITE = isinstance(sys.modules.get('mmcv._ext'), compat._MissingExtension)


@pytest.mark.skipif(not LITE, reason='the full mmcv is installed here')
def test_a_missing_operator_names_itself_and_the_remedy():
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(compat.MissingCompiledOpError, match=r"'nms' was called.*make venv-full"):
        nms(boxes, torch.ones(1), 0.5)


@pytest.mark.skipif(not LITE, reason='the full mmcv is installed here')
def test_it_acts_once_and_says_so_once():
    code = (
        'import logging; logging.basicConfig(format="%(message)s", level="INFO");'
        'from mmcert.compat import enable_mmcv_lite as e; print(e(), e()); import mmcv.ops'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['True', 'True']
    assert done.stderr.count('mmcv-lite is installed') == 1


def test_it_is_inert_with_the_compiled_extension(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    spec = importlib.machinery.ModuleSpec('mmcv._ext', None)
    monkeypatch.setattr(importlib.machinery.PathFinder, 'find_spec', lambda *args: spec)
    with caplog.at_level(logging.WARNING):
        assert compat.enable_mmcv_lite() is False
    assert 'mmcv._ext' not in sys.modules
    assert not caplog.records


def test_it_is_inert_without_mmcv(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert compat.enable_mmcv_lite() is False


def test_resuming_means_the_work_folder_and_not_what_fine_tuning_starts_from(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='other.pth', resume=False))
    compat.resume_from_work_dir(cfg)
    assert (cfg.resume, cfg.load_from) == (False, 'other.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
    compat.resume_from_work_dir(cfg)
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'iter_3.pth'))
