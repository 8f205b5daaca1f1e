"""The report of a run on clouds, and what a browser shows of it."""

import json

import numpy as np
import pytest

pytest.importorskip('mmdet3d')

from mmengine.registry import DefaultScope

from mmcert.certify import ABSTAIN_LABEL
from mmcert.engine.clouds import CloudFinder
from mmcert.report.attack_folder import AttackFolder
from mmcert.report.explorer import ranked, write_report
from mmcert.report.results_folder import ResultsFolder
from mmcert.report.tiles import unpack
from tests.browser import needs_browser
from tests.engine import test_clouds
from tests.tools.test_report import CHOOSE, Page, put_attacks, shown, text_of


@pytest.fixture
def clouds(tmp_path):
    """Results of three clouds, and their config."""
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        cfg = test_clouds.config(tmp_path, dict(sigma=0.5, n=100, draw_every=0), clouds=3)
        test_clouds.run(cfg)
        yield ResultsFolder(tmp_path / 'work/certified'), cfg


def test_a_page_of_clouds_has_their_points(clouds, tmp_path):
    results, cfg = clouds
    written = write_report(results, tmp_path / 'page.html', CloudFinder(cfg))
    assert (written.shown, written.missing) == (3, 0)
    page = Page(tmp_path / 'page.html')
    assert 'Previous cloud' in page.text and 'All 3 clouds.' in page.text
    for index, line in enumerate(results.lines):
        found = results.image(line)
        tile = json.loads(page.scripts[f'tile-{index}'])
        np.testing.assert_array_equal(shown(page, index)[0]['hits'], found.record.votes.hits)
        points = np.asarray(test_clouds.ToyClouds(clouds=3)[index]['inputs']['points'])[:, :3]
        steps = unpack(tile['points'], (-1, 3)).astype(float)
        # A scale and a shift apart, the points themselves.
        extent = (points.max(axis=0) - points.min(axis=0)).max()
        middle = (points.max(axis=0) + points.min(axis=0)) / 2
        np.testing.assert_allclose((steps / 65535 - 0.5) * extent + middle, points, atol=1e-3)
    found, _ = put_attacks(results, tmp_path / 'attacks')
    attacks = AttackFolder(tmp_path / 'attacks')
    write_report(results, tmp_path / 'page.html', CloudFinder(cfg), attacks=attacks)
    maps, tile = shown(Page(tmp_path / 'page.html'), 0)
    moved = 0.002 * attacks.changes(found)[0][0].astype(float)
    far = np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(maps['attack0_moved'] * tile['lengths']['attack0'], far, atol=2e-3)
    before, after = (
        unpack(packed, (-1, 3)).astype(float)
        for packed in (tile['points'], tile['attacked']['attack0_points'])
    )
    # A scale apart, how the points were moved.
    scale = np.vdot(after - before, moved) / np.vdot(moved, moved)
    np.testing.assert_allclose((after - before) / scale, moved, atol=1e-3)
    assert write_report(results, tmp_path / 'page.html').missing == 3
    assert json.loads(Page(tmp_path / 'page.html').scripts['tile-0'])['missing']


@needs_browser
def test_a_browser_turns_clouds_and_names_their_points(clouds, tmp_path, browser):
    results, cfg = clouds
    put_attacks(results, tmp_path / 'attacks')
    attacks = AttackFolder(tmp_path / 'attacks')
    write_report(results, tmp_path / 'page.html', CloudFinder(cfg), attacks=attacks)
    found = results.image(ranked(results.lines)[0])
    browser.open(tmp_path / 'page.html')
    browser.wait("document.querySelector('#legend').children.length > 0")
    browser.wait("document.querySelector('#settings-table').getAttribute('aria-busy') === 'false'")
    assert text_of(browser, '#image-name') == found.name
    assert text_of(browser, '#settings-status').endswith('every point as in the certificate.')
    browser.run("document.querySelector('.view').focus()")
    seen = "[...document.querySelectorAll('.cloud')].map((canvas) => canvas.toDataURL())"
    before = browser.run(seen)
    browser.key('ArrowLeft')
    turned = browser.run(seen)
    assert before[0] != turned[0] and before[1] != turned[1]
    browser.key('0')
    assert browser.run(seen) == before
    for point in range(3):
        browser.key(']')
        words = text_of(browser, '#readout')
        votes, label = found.record.votes, found.labels[point]
        assert words.startswith(f'Point {point}: ')
        guess = results.summary['classes'][votes.guess[point]]
        assert f'Smoothed model: {guess}, {votes.hits[point]} of 100 draws agree' in words
        assert ('Abstained.' in words) == (label == ABSTAIN_LABEL)
    browser.run("document.querySelector('#panes').scrollIntoView()")
    box = browser.run("""(() => {
      const box = document.querySelector('.view').getBoundingClientRect();
      return [box.left, box.top, box.width, box.height];
    })()""")
    named = set()
    for across in np.linspace(0.3, 0.7, 12):
        browser.mouse('Moved', box[0] + across * box[2], box[1] + 0.5 * box[3])
        named.add(text_of(browser, '#readout').split(':')[0])
    assert len(named) > 1

    # What was found under attack stands where the attack moved the points to.
    browser.run("location.hash = '#image-0'")
    layers = "[...document.querySelector('.layer').options].map((option) => option.value)"
    browser.wait(f"{layers}.includes('attack_moved')")
    pictures = []
    for layer in ('smoothed', 'attack_smoothed_attacked', 'attack_moved'):
        browser.run(CHOOSE % ("document.querySelector('.layer')", layer))
        pictures.append(browser.run(seen)[0])
    assert len(set(pictures)) == 3
    browser.run("document.querySelector('.view').focus()")
    browser.key(']')
    assert 'Moved by 0.' in text_of(browser, '#readout')
    assert browser.faults == []
