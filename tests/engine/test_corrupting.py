"""The tool for corruptions: stored results, bounds beside rates, and the alarm."""

import json

import pytest

from mmcert.corruptions import Cover, Coverage
from mmcert.runs.corrupting import CorruptionOptions, read_corrupted
from tests.engine.test_attacking import MODEL
from tests.openmmlab import run_tool

pytest.importorskip('imagecorruptions', reason='the extra `corruptions` is not installed')

POOLED = dict(
    perturbation=dict(type='mmcert.PooledNoise', factor=8, sigma=0.25),
    n0=4, n=60, tau=0.6, alpha=0.01, procedure='holm', selection='holdout',
)  # fmt: skip


@pytest.fixture
def corrupt(make_config, tmp_path):
    """Runs the tool; returns what it printed, and the folders of results."""
    runs = iter(range(100))

    def run(*options, images=2, expect=0, **smoothing):
        cfg = make_config(images=images, model=MODEL)
        cfg.pop('data_preprocessor')
        cfg.smoothing = smoothing or POOLED
        path = tmp_path / f'config{next(runs)}.py'
        cfg.dump(path)
        printed = run_tool(
            'tools/corruptions.py', path, cfg.load_from, '--work-dir', tmp_path / 'work',
            '--draws', 20, *options, expect=expect,
        )  # fmt: skip
        return printed, sorted((tmp_path / 'work' / 'certified').glob('corruptions-*'))

    return run


def summary_of(folder):
    return json.loads((folder / 'summary.json').read_text())


def test_rates_stand_beside_bounds_and_a_run_is_continued(corrupt):
    options = ('--corruptions', 'pixelate', 'fog', '--severities', 1, 5)
    printed, (folder,) = corrupt(*options)
    assert 'smoothed, at least' in printed
    summary = summary_of(folder)
    assert summary['models'] == ['base', 'smoothed']
    assert summary['broken'] == []
    pixelate, fog = summary['corruptions']
    assert (fog['category'], fog['corruption']) == ('weather', 'fog')
    for found in pixelate['severities']:
        assert found['certified']['inputs'] == 2
        for rate in ('accuracy', 'mIoU'):
            assert 0 < found['certified'][rate] <= found['rates']['smoothed'][rate]
        assert 0 < found['distance']['max'] <= summary['reach']
    assert fog['severities'][1]['certified'] is None
    assert fog['severities'][1]['distance']['min'] > summary['reach']
    assert fog['mean']['base']['drop'] > 0.1
    assert 'l2' in summary['measure']
    assert (folder / 'corruptions.png').stat().st_size > 1000
    assert '| pixelate | smoothed, at least |' in (folder / 'corruptions.md').read_text()
    # What is there is taken as it is; what is lost comes again as it was.
    assert len(list(folder.glob('*.npz'))) == 2 * 5
    gone = folder / '00001-pixelate-5.npz'
    before = read_corrupted(gone).facts
    gone.unlink()
    kept = (folder / '00001-pixelate-1.npz').stat().st_mtime_ns
    _, (again,) = corrupt(*options)
    assert again == folder
    repeated = summary_of(folder)
    assert repeated.pop('identity')['weights'] == summary.pop('identity')['weights']
    assert repeated == summary
    assert read_corrupted(gone).facts == before
    assert (folder / '00001-pixelate-1.npz').stat().st_mtime_ns == kept


def test_a_certificate_that_does_not_hold_is_reported(corrupt, monkeypatch):
    class Credulous(Coverage):
        def of(self, inputs, name, severity, rotation=None):
            return Cover(True, 0.55, 1.0)

    monkeypatch.setattr('mmcert.runs.corrupting.coverage', lambda *_: Credulous())
    printed, (folder,) = corrupt(
        '--corruptions', 'contrast', 'fog', '--severities', 5, images=1, expect=1
    )
    assert 'BROKEN CERTIFICATE' in printed
    broken = summary_of(folder)['broken'][0]
    assert broken['corruption'] in ('fog', 'contrast')
    assert broken['components'] > 0
    assert broken['input'] in printed


def test_an_enumeration_bounds_the_base_model(corrupt):
    exact = dict(perturbation=dict(type='mmcert.Enumeration', transformation='jpeg', values=[25]))
    options = ('--corruptions', 'jpeg_compression', '--severities', 1, 2)
    printed, (folder,) = corrupt(*options, images=1, **exact)
    summary = summary_of(folder)
    assert (summary['models'], summary['bounded']) == (['base'], 'base')
    covered, other = summary['corruptions'][0]['severities']
    assert covered['certified']['accuracy'] <= covered['rates']['base']['accuracy']
    assert covered['certified']['share'] > 0.5
    assert other['certified'] is None
    assert 'exact' in printed
    printed, _ = corrupt(*options, '--compare', 'smoothed', expect=2, **exact)
    assert 'there is no smoothed model: an enumeration smooths nothing' in printed


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match='severities must be of 1 to 5'):
        CorruptionOptions(severities=(0,))
    with pytest.raises(ValueError, match='models must be of base, smoothed, denoised'):
        CorruptionOptions(models=('certified',))
    with pytest.raises(ValueError, match='draws must be at least 1'):
        CorruptionOptions(draws=0)
