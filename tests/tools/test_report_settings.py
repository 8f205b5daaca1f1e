"""Other settings in the page of a report: the same numbers as those of ``tools/certify.py``."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mmcert.certify import CertifySettings, Hierarchy, Votes, certify_votes
from mmcert.report import tiles
from mmcert.report.exploration import ALPHAS, COUNTS, PROCEDURES, RATES, TAUS
from mmcert.report.results_folder import ResultsFolder
from mmcert.votes import Task, evaluate
from tests.browser import needs_browser
from tests.openmmlab import ROOT, run_tool
from tests.tools.test_report import LEVELS, pixel, text_of

pytestmark = needs_browser

STATISTICS = ROOT / 'mmcert/report/assets/statistics.js'
CERTIFY = """%s.map(([settings, votes]) => {
  const found = mmcertStatistics.certify(settings, votes);
  return votes.hits.map((value, at) => value >= found.cutoff || found.extra.includes(at));
})"""


def some_votes(rng, n0, n, components):
    """Votes that are certified in part at most thresholds, and a margin."""
    shares = rng.choice([0.5, 0.8, 0.97, 0.99, 1.0], components)
    hits = rng.binomial(n, shares)
    votes = Votes(np.zeros(components, int), hits, n, n0, rng.binomial(n0, shares))
    return votes, rng.integers(0, 256, components)


def test_the_browser_certifies_what_python_certifies(browser, tmp_path):
    (tmp_path / 'page.html').write_text(f'<script>{STATISTICS.read_text()}</script>')
    browser.open(tmp_path / 'page.html')
    rng = np.random.default_rng(0)
    asked, expected = [], []
    for n0, n, components in [(10, 100, 300), (5, 40, 1), (20, 400, 2000), (2, 9, 50)]:
        votes, margin = some_votes(rng, n0, n, components)
        margin = None if components == 50 else margin
        for selection in ('holdout', 'same_draws'):
            ((hits, counted),) = votes.stages(selection)
            ranks = margin
            if selection == 'holdout':
                ranks = votes.selection_hits.astype(int)
                ranks = ranks if margin is None else 256 * ranks + margin
            for _ in range(40):
                tau, alpha = rng.choice(TAUS), rng.choice(ALPHAS)
                procedure = str(rng.choice(PROCEDURES))
                k = (
                    [0.003, *COUNTS][rng.integers(len(COUNTS) + 1)]
                    if procedure == 'kfwer'
                    else None
                )
                settings = CertifySettings(float(tau), float(alpha), procedure, selection, k)
                certificate = certify_votes(votes, settings, margin=margin)
                expected.append(certificate.certified.tolist())
                counts = np.bincount(hits, minlength=counted + 1).tolist()
                given = {'selection': selection, 'counts': counts, 'hits': hits.tolist(),
                         'ranks': None if ranks is None else ranks.tolist()}  # fmt: skip
                asked.append([asdict(settings), given])
    found = browser.run(CERTIFY % json.dumps(asked))
    assert found == expected
    certified = [np.mean(mask) for mask in expected]
    assert np.mean(np.greater(certified, 0) & np.less(certified, 1)) > 0.2


@pytest.mark.parametrize(
    'smoothing',
    [
        dict(sigma=0.05, hierarchy=LEVELS),
        pytest.param(
            dict(sigma=0.08, procedure='ordered_holm', selection='same_draws'),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(sigma=0.08, procedure='ordered_holm', selection='holdout'), marks=pytest.mark.slow
        ),
        pytest.param(dict(sigma=0.08, procedure='kfwer', k=0.01), marks=pytest.mark.slow),
    ],
    ids=['held out, with groups', 'same draws, in an order', 'held out, in an order', 'counted'],
)
def test_sliders_give_the_figures_of_the_command_line(
    make_config, tmp_path, browser, monkeypatch, smoothing
):
    if 'selection' in smoothing:
        # The images lie beside the page.
        monkeypatch.setattr(tiles, 'INLINE_BYTES', 0)
    cfg = make_config(images=3, smoothing=smoothing)
    cfg.dump(tmp_path / 'config.py')
    run_tool('tools/test.py', tmp_path / 'config.py', cfg.load_from, '--work-dir', tmp_path / 'w')
    run_tool('tools/report.py', tmp_path / 'w/certified')
    folder = ResultsFolder(tmp_path / 'w/certified')
    results = [folder.image(line) for line in folder.lines]
    records = [result.record for result in results]
    shared, meta = folder.summary['certificate'], records[0].meta
    spec = meta['sampling'].get('hierarchy')
    task = Task(
        meta['provenance']['num_classes'], meta['provenance']['ignore_index'],
        None if spec is None else Hierarchy.from_spec(spec),
    )  # fmt: skip
    browser.open(folder.folder / 'report.html')
    browser.wait(DONE)
    said = "document.querySelector('#settings-status').textContent"
    # At the settings of the run, the page finds the certificates again.
    assert browser.run(said).endswith('every pixel as in the certificate.')
    k = f', k {smoothing["k"]}' if 'k' in smoothing else ''
    assert f'tau {shared["tau"]}, alpha {shared["alpha"]}, {shared["procedure"]}{k}.' in (
        browser.run(said)
    )
    for key, rate in folder.summary['rates'].items():
        if key in RATES:
            assert float(browser.run(CELL % ('all', key))) == pytest.approx(rate, abs=1e-12)
    name = text_of(browser, '#image-name')
    (place,) = [place for place, line in enumerate(folder.lines) if line['name'] == name]
    browser.run("document.querySelector('#panes').scrollIntoView()")
    shares = []
    for tau, alpha, procedure, k in [
        (0.5, 0.01, 'bonferroni', None), (0.6, 0.05, 'holm', None),
        (0.6, 0.1, 'ordered_holm', None), (0.6, 0.001, 'kfwer', 50),
        (0.7, 0.02, 'ordered_holm', None), (0.51, 1e-7, 'holm', None),
        (0.53, 1e-3, 'ordered_holm', None),
    ]:  # fmt: skip
        chosen = {'tau': tau, 'alpha': alpha, 'procedure': procedure}
        for key, value in (chosen if k is None else chosen | {'k': k}).items():
            move(browser, key, value)
        browser.wait(DONE)
        shown = browser.run("getComputedStyle(document.querySelector('#k-note')).display")
        assert (shown == 'none') == (k is None)
        settings = CertifySettings(tau, alpha, procedure, shared['selection'], k)
        for column, wanted in (('all', records), ('this', records[place : place + 1])):
            rates = evaluate(wanted, [settings], task)[0].rates()
            for key in ('certAcc', 'mIoU', 'abstain'):
                shown = float(browser.run(CELL % (column, key)))
                assert shown == pytest.approx(rates[key], abs=1e-12), (column, key, settings)
        shares.append(rates['certified_share'])
        words = browser.run(said)
        assert words.startswith(f'Exploration, no promise: tau {tau}, alpha ')
        assert 'At this tau the radius is ' in words
        certificate = records[place].certify(settings, task.hierarchy)
        for row, column in [(0, 0), (7, 40), (20, 21), (31, 47), (16, 16)]:
            browser.mouse('Moved', *pixel(browser, row, column))
            said_here = text_of(browser, '#readout')
            guess = folder.summary['classes'][int(certificate.guess[row, column])]
            at = f'Other settings: No promise: {guess}.'
            assert (at in said_here) == certificate.certified[row, column], said_here
            assert 'Other settings' in said_here
    layers = "[...document.querySelectorAll('.layer')].map((layer) => layer.value)"
    assert browser.run(layers)[1] == 'explored'
    browser.run("document.querySelector('#fixed').click()")
    browser.wait(f"{said}.startsWith('Fixed beforehand')")
    assert browser.run(layers)[1] == 'certified'
    assert len(set(shares)) > 3
    assert browser.faults == []


CELL = "document.querySelector('#explored-%s-%s').dataset.value"
DONE = "document.querySelector('#settings-table').getAttribute('aria-busy') === 'false'"


def move(browser, key, value):
    """Moves a slider to a value, or chooses a procedure."""
    place = browser.run(f"""(() => {{
      const page = JSON.parse(document.getElementById('page').textContent);
      const control = document.getElementById({json.dumps(key)});
      const values = page.settings[{json.dumps(key + 's')}];
      const wanted = {json.dumps(value)};
      control.value = control.type === 'range' ? values.indexOf(wanted) : wanted;
      control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change'));
      return values.indexOf(wanted);
    }})()""")
    assert place >= 0, (key, value)
