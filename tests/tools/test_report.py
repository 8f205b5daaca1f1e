"""The report of a run: what is in its page, and what a browser shows of it."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from scipy.special import ndtri

from mmcert.certify import ABSTAIN_LABEL
from mmcert.report import attack_folder, explorer, tiles
from mmcert.report.attacks import MODELS
from mmcert.report.corruptions import mean_rates
from mmcert.report.explorer import HEADLINES, SCRIPTS
from mmcert.report.inputs import ImageFinder, content_digest
from mmcert.report.results_folder import ResultsFolder
from mmcert.report.tiles import unpack
from mmcert.sampling.draws import input_digest
from tests.browser import needs_browser
from tests.openmmlab import ROOT, run_tool

ASSETS = ROOT / 'mmcert/report/assets'
LEVELS = [{'flat': ['road', 'sidewalk'], 'tall': ['building', 'tree', 'sign', 'sky']}]
ALONE = {'br', 'path', 'canvas', 'circle', 'img', 'input', 'line', 'link', 'meta', 'polyline'}


class Page(HTMLParser):
    """What a page consists of; fails where elements are not closed as they were opened."""

    def __init__(self, path):
        super().__init__()
        self.open, self.values, self.scripts, self.links = [], {}, {}, []
        self.text, self.visible, self.ids = '', '', []
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [value for key, value in attrs.items() if key in ('src', 'href')]
        if 'id' in attrs:
            self.ids.append(attrs['id'])
        if tag not in ALONE - {'canvas'}:
            self.open.append((tag, attrs))

    def handle_endtag(self, tag):
        if tag not in ALONE - {'canvas'}:
            assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        tag, attrs = self.open[-1] if self.open else (None, {})
        if tag == 'script':
            name = attrs.get('id', 'script')
            self.scripts[name] = self.scripts.get(name, '') + data
        elif tag == 'data':
            of = next((a['id'] for _, a in reversed(self.open) if 'id' in a), None)
            self.values[of] = float(attrs['value'])
        self.text += data
        if tag not in ('script', 'style'):
            self.visible += data


@pytest.fixture
def results(make_config, tmp_path):
    """The results of a run on three small images, with a hierarchy."""
    cfg = make_config(images=3, smoothing=dict(sigma=0.05, hierarchy=LEVELS))
    cfg.dump(tmp_path / 'config.py')
    work = tmp_path / 'work'
    run_tool('tools/test.py', tmp_path / 'config.py', cfg.load_from, '--work-dir', work)
    return work / 'certified'


def shown(page, index):
    """The maps of an image of a page, and its other entries."""
    tile = json.loads(page.scripts[f'tile-{index}'])
    maps = {
        name: unpack(packed, (*tile['shape'], *[3] * name.endswith('_change')))
        for name, packed in tile['maps'].items()
    }
    return maps, tile


def test_the_page_says_what_the_summary_says(results):
    printed = run_tool('tools/report.py', results)
    assert f'wrote {results / "report.html"}: open it in a browser' in printed
    assert 'note' not in printed
    page = Page(results / 'report.html')
    summary = json.loads((results / 'summary.json').read_text())
    rates = {key: summary['rates'][key] for key in HEADLINES}
    assert {key: page.values[f'rate-{key}'] for key in HEADLINES} == rates
    for word in ('with probability 0.99 per image', 'l2 norm', 'both hold with probability 0.98.',
                 'at least 0.9702, none has a wrong certificate', *summary['classes'],
                 summary['certificate']['model']['weights'], 'mmsegmentation'):  # fmt: skip
        assert word in page.text, word
    assert len(page.ids) == len(set(page.ids))
    # Nothing is loaded, from nowhere.
    assert all(link.startswith(('data:', '#')) for link in page.links), page.links
    text = re.sub(r'base64,[\w+/=]+', '', (results / 'report.html').read_text())
    assert not re.search(r'https?:|//[a-z]+\.', text)
    images = json.loads(page.scripts['page'])['images']
    assert [image['name'] for image in images] == [
        json.loads(line)['name'] for line in (results / 'images.jsonl').read_text().splitlines()
    ]


def test_the_page_has_the_votes_of_every_pixel(results):
    run_tool('tools/report.py', results)
    page, folder = Page(results / 'report.html'), ResultsFolder(results)
    names = json.loads(page.scripts['page'])['names']
    grouped = 0
    for index, line in enumerate(folder.lines):
        maps, tile = shown(page, index)
        found = folder.image(line)
        votes = found.record.votes
        expected = {'hits': votes.hits, 'smoothed': votes.guess, 'certified': found.labels,
                    'base': found.record.base, 'label': found.record.label}  # fmt: skip
        for name, values in expected.items():
            np.testing.assert_array_equal(maps[name], values, err_msg=name)
        np.testing.assert_array_equal(np.take(tile['radii'], maps['radius']), found.maps['radius'])
        assert tile['votes'] == {'kind': 'draws', 'n': 40, 'most': 40, 'choosing': 4}
        seen = votes.runner_up_hits > 0
        np.testing.assert_array_equal(maps['runner_up'][seen], votes.runner_up[seen])
        assert (maps['runner_up'][~seen] == 255).all()
        # Groups stand where the class has no certificate and a group has one.
        here = found.maps['level'] == 1
        grouped += here.sum()
        groups = [names[value] for value in np.unique(maps['groups'][here])]
        assert all(name.endswith(' (group)') for name in groups)
        np.testing.assert_array_equal(maps['groups'][~here], found.labels[~here])
        # The image is the one that was certified.
        data = base64.b64decode(tile['image'].partition(',')[2])
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[:2] == found.labels.shape
    assert grouped


def test_images_are_found_by_what_they_hold(results, tmp_path):
    folder = ResultsFolder(results)
    first, second = (folder.image(line) for line in folder.lines[:2])
    (config,) = results.parent.glob('*.py')
    root = Path(Config.fromfile(config).test_dataloader.dataset.data_root)
    stem = first.name.rpartition('-')[0]
    image = next(
        path for path in root.rglob(f'images/{stem}.png')
        if content_digest(cv2.imread(str(path))) == first.certificate['input']['digest']
    )  # fmt: skip
    # Other files of the name, and a link that leads back.
    for name, source in (('a', next(root.rglob(f'annotations/{stem}.png'))), ('b', image)):
        (tmp_path / 'data' / name).mkdir(parents=True)
        shutil.copy(source, tmp_path / 'data' / name / f'{stem}.png')
    (tmp_path / 'data/a/back').symlink_to(tmp_path / 'data')
    find = ImageFinder(tmp_path / 'data')
    np.testing.assert_array_equal(find(first), cv2.imread(str(image))[..., ::-1])
    assert find(second) is None
    tensor = torch.from_numpy(cv2.imread(str(image))).permute(2, 0, 1)
    assert input_digest(tensor).hex() == first.certificate['input']['digest']


def test_large_pages_keep_their_images_beside_them(results, tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, 'INLINE_BYTES', 6_000)
    out = tmp_path / 'pages/r.html'
    (tmp_path / 'pages/r_files').mkdir(parents=True)
    (tmp_path / 'pages/r_files/7.js').touch()
    printed = run_tool('tools/report.py', results, '--out', out)
    assert f'which needs {tmp_path / "pages/r_files"} beside it' in printed
    assert sorted(p.name for p in (tmp_path / 'pages/r_files').iterdir()) == [
        '0.js', '1.js', '2.js'
    ]  # fmt: skip
    page = Page(out)
    assert 'tile-0' not in page.scripts
    name = ResultsFolder(results).lines[1]['name']
    text = (tmp_path / 'pages/r_files/1.js').read_text()
    assert text.startswith('mmcertTile(1, {"name":"' + name) and text.endswith(');\n')


def test_few_images_go_from_the_worst_to_the_best(results, tmp_path):
    run_tool('tools/report.py', results, '--images', 2, '--data', tmp_path, '--out',
             tmp_path / 'r.html')  # fmt: skip
    page = Page(tmp_path / 'r.html')
    found = [image['certAcc'] for image in json.loads(page.scripts['page'])['images']]
    every = [line['certAcc'] for line in ResultsFolder(results).lines]
    assert sorted(found) == [min(every), max(every)]
    assert '2 of 3 images' in page.text
    summary = json.loads((results / 'summary.json').read_text())
    assert page.values['rate-certAcc'] == summary['rates']['certAcc']
    # There are no images in that folder.
    assert all('image' not in shown(page, index)[1] for index in range(2))


def test_without_votes_there_are_certificates(results, tmp_path):
    (folder,) = results.glob('votes-*')
    shutil.rmtree(folder)
    run_tool('tools/report.py', results)
    page = Page(results / 'report.html')
    assert set(shown(page, 0)[0]) == {'certified', 'radius'}
    assert 'not kept' in json.loads(page.scripts['page'])['settings']['reason']
    assert 'Over the radius' not in page.text


def test_what_does_not_fit_is_refused(results, tmp_path):
    def refused(*arguments):
        printed = run_tool('tools/report.py', *arguments, expect=2)
        assert printed.startswith('error: ') and printed.count('\n') == 1
        return printed

    assert 'there is no summary.json in' in refused(tmp_path)
    assert 'at least 1, got 0' in refused(results, '--images', 0)
    assert 'there is no folder nowhere' in refused(results, '--data', 'nowhere')
    assert 'is a folder' in refused(results, '--out', tmp_path)
    assert 'not a folder' in refused(results, '--out', results / 'summary.json/page.html')
    (folder,) = results.glob('votes-*')
    shutil.copytree(folder, results / 'votes-copy')
    assert 'there must be one folder with the votes' in refused(results)
    names = sorted(folder.glob('*.npz'))
    shutil.copy(names[0], folder / names[1].name)
    assert 'is not what the certificate' in refused(results, '--votes', folder)
    (map_file,) = results.glob(f'certificates-*/{names[0].stem}.png')
    kept = map_file.read_bytes()
    cv2.imwrite(str(map_file), 1 - cv2.imread(str(map_file), cv2.IMREAD_UNCHANGED))
    assert 'map of labels beside' in refused(results, '--votes', results / 'votes-copy')
    map_file.write_bytes(kept)
    document = json.loads(map_file.with_suffix('.json').read_text())
    del document['digest']
    map_file.with_suffix('.json').write_text(json.dumps(document))
    assert 'older version' in refused(results, '--votes', results / 'votes-copy')
    summary = json.loads((results / 'summary.json').read_text())
    del summary['certificate']['input_type']
    (results / 'summary.json').write_text(json.dumps(summary))
    assert 'an older version' in refused(results)


@pytest.mark.parametrize(
    ('smoothing', 'kind'),
    [
        (dict(perturbation=dict(type='mmcert.Enumeration', transformation='rotation',
                                values=[-3.0, 2.0])), 'values'),
        (dict(sigma=None, tau=None, n0=4, n=40, perturbation=dict(
            type='mmcert.TransformationCells', transformation=dict(type='rotation'), low=-0.1,
            high=0.1, noise=dict(type='mmcert.GaussianNoise', sigma=0.5))), 'score'),
    ],
)  # fmt: skip
def test_votes_are_named_for_what_they_are(make_config, tmp_path, smoothing, kind):
    cfg = make_config(images=1)
    cfg.smoothing = dict(batch_size=16) | smoothing
    cfg.dump(tmp_path / 'config.py')
    run_tool('tools/test.py', tmp_path / 'config.py', cfg.load_from, '--work-dir', tmp_path / 'w')
    run_tool('tools/report.py', tmp_path / 'w/certified')
    page = Page(tmp_path / 'w/certified/report.html')
    maps, tile = shown(page, 0)
    assert tile['votes']['kind'] == kind and 'image' in tile
    assert maps['hits'].max() <= tile['votes']['most']
    reason = json.loads(page.scripts['page'])['settings']['reason']
    assert {'values': 'by enumeration', 'score': 'tested together'}[kind] in reason
    for word in {'values': ['verified by enumeration'], 'score': ['with probability']}[kind]:
        assert word in page.text
    # Of one image there is no best one, and no more to say of all images together.
    assert 'Worst and best' not in page.text and 'together:' not in page.text
    assert 'Over the radius' not in page.text


@pytest.mark.skipif(shutil.which('node') is None, reason='needs node to read JavaScript')
def test_scripts_have_no_syntax_error():
    for name in SCRIPTS:
        subprocess.run(['node', '--check', ASSETS / name], check=True)


def pixel(browser, row, column, side=0):
    """Where a pixel of the whole image is in the window."""
    place = browser.run(f"""(() => {{
      const view = document.querySelectorAll('.view')[{side}];
      const box = view.getBoundingClientRect();
      return [box.left + view.clientLeft, box.top + view.clientTop,
              view.clientWidth / view.querySelector('canvas').width];
    }})()""")
    left, top, scale = place
    return left + (column + 0.5) * scale, top + (row + 0.5) * scale


def text_of(browser, selector):
    return browser.run(f"document.querySelector('{selector}')?.textContent ?? ''")


PRESSED = '#legend [aria-pressed=true]'


def check_words(words, result, classes, row, column):
    """Whether the words at a pixel are those of its votes."""
    votes, at = result.record.votes, (row, column)
    assert words.startswith(f'Row {row}, column {column}: ')
    guess = f'Smoothed model: {classes[votes.guess[at]]}, {votes.hits[at]} of 40 draws agree'
    assert guess in words
    if result.labels[at] != ABSTAIN_LABEL:
        assert f'Certified: {classes[result.labels[at]]}.' in words
    else:
        assert ('Abstained.' in words) == (result.maps['level'][at] == ABSTAIN_LABEL)
    radius = float(result.maps['radius'][at])
    assert ('Joint radius: None.' in words) == (radius <= 0)
    if radius > 0:
        found = re.search(r'Joint radius: ([\d.e-]+) \(l2, \[0, 1\]', words)[1]
        assert float(found) == pytest.approx(radius, rel=1e-3)
        bound = float(re.search(r'a probability of at least ([\d.]+)\.', words)[1])
        assert 0.05 * ndtri(bound) == pytest.approx(radius, abs=2e-4)
    assert f'Base model: {classes[result.record.base[at]]}.' in words
    if times := votes.runner_up_hits[at]:
        second = f'Runner-up: {classes[votes.runner_up[at]]}, {times} of the 4 draws that chose'
    else:
        second = 'No runner-up: all of the 4 draws that chose the class agree.'
    assert second in words
    truth = result.record.label[at]
    assert ('No ground truth.' if truth == 255 else f'Label: {classes[truth]}.') in words


@needs_browser
@pytest.mark.parametrize('beside', [False, True])
def test_a_browser_shows_what_the_votes_say(results, browser, monkeypatch, beside):
    if beside:
        monkeypatch.setattr(tiles, 'INLINE_BYTES', 0)
    run_tool('tools/report.py', results)
    folder = ResultsFolder(results)
    worst, second, _ = explorer.ranked(folder.lines)
    result, classes = folder.image(worst), folder.summary['classes']
    browser.open(results / 'report.html')
    browser.wait("document.querySelector('#legend').children.length > 0")
    assert text_of(browser, '#image-name') == worst['name']
    browser.run("document.querySelector('#panes').scrollIntoView()")
    for row, column in [(0, 0), (7, 40), (20, 21), (31, 47)]:
        for side in (0, 1):
            browser.mouse('Moved', *pixel(browser, row, column, side))
            check_words(text_of(browser, '#readout'), result, classes, row, column)

    # A click shows the class of the layer alone, and Escape all of them.
    browser.click(*pixel(browser, 20, 21))
    assert text_of(browser, PRESSED) == classes[result.record.votes.guess[20, 21]]
    browser.key('Escape')
    assert text_of(browser, PRESSED) == ''
    browser.key('ArrowRight')
    assert text_of(browser, '#readout').startswith('Row 20, column 22: ')

    # Every layer, by its key; zoom and pan, in step.
    layers = []
    for number in range(1, 10):
        browser.key(str(number))
        layers.append(browser.run("document.querySelector('.layer').value"))
    assert layers == ['image', 'label', 'base', 'smoothed', 'certified', 'groups', 'radius',
                      'share', 'runner_up']  # fmt: skip
    stages = "[...document.querySelectorAll('.stage')].map((stage) => stage.style.transform)"
    whole, _ = browser.run(stages)
    x, y = pixel(browser, 20, 21)
    browser.mouse('Wheel', x, y, deltaX=0, deltaY=-400)
    browser.wait(f'{stages}[0] !== {json.dumps(whole)}')
    zoomed = browser.run(stages)
    browser.mouse('Pressed', x, y)
    browser.mouse('Moved', x - 60, y - 40, buttons=1)
    browser.mouse('Released', x - 60, y - 40)
    panned = browser.run(stages)
    assert zoomed[0] == zoomed[1] and panned[0] == panned[1] and panned[0] != zoomed[0]
    assert text_of(browser, PRESSED) == ''
    browser.key('0')
    assert browser.run(stages) == [whole, whole]

    browser.key('n')
    browser.wait("document.querySelector('#readout').textContent.startsWith('Point')")
    assert text_of(browser, '#image-name') == second['name']
    for control in ('#attack-control', '#k-control', '#settings-progress'):
        style = f"getComputedStyle(document.querySelector('{control}')).display"
        assert browser.run(style) == 'none', control
    # The Tab key reaches one image of the list, and the arrow keys the others.
    tabbed = "[...document.querySelectorAll('#thumbnails button')].map((one) => one.tabIndex)"
    assert browser.run(tabbed) == [-1, 0, -1]
    browser.run("document.querySelectorAll('#thumbnails button')[1].focus()")
    for key, expected in (('ArrowRight', 2), ('Home', 0), ('ArrowLeft', 0), ('End', 2)):
        browser.key(key)
        assert browser.run('Number(document.activeElement.dataset.index)') == [
            folder.lines.index(line) for line in explorer.ranked(folder.lines)
        ][expected]  # fmt: skip
    assert text_of(browser, '#note') == ''
    assert browser.faults == []
    assert all(url.startswith(('data:', 'file:')) for url in browser.requests)


def put_attacks(results, folder, weights=None, broken=()):
    """Writes what ``tools/attack.py`` leaves of attacks on the first of the results.

    There are two sets; the second one as an older version left it.
    """
    found = results.image(results.lines[0])
    summary, votes = results.summary, found.record.votes
    shared, attacks = summary['certificate'], [
        {'model': 'base', 'attack': 'ce', 'accuracy': 0.2, 'certified': None, 'doubtful': None,
         'broken': None},
        {'model': 'smoothed', 'attack': 'ce', 'accuracy': 0.4, 'certified': 70, 'doubtful': 2,
         'broken': len(broken)},
    ]  # fmt: skip
    rates = {'accuracy': 0.5, 'mIoU': 0.25, 'abstain': 0.1}
    content = {
        'settings': {'losses': ['ce'], 'steps': 3, 'guarantee': {
            key: shared[key] for key in ('perturbation', 'parameters')}},
        'identity': {'weights': weights or shared['model']['weights']},
        'attack_sets': [{
            'attack_set': name, 'tau': tau, 'attacks': attacks,
            'rates': {name: {**rates, 'accuracy': 0.9 - 0.1 * place}
                      for place, name in enumerate(MODELS)},
        } for name, tau in (('l2 0.3', 0.7), ('l2 0.6', 0.8))],
        'failures': [{'input': found.name, 'attack': 'ce', 'attack_set': 'l2 0.3',
                      'components': list(broken)}] if broken else [],
    }  # fmt: skip
    folder.mkdir()
    (folder / 'summary.json').write_text(json.dumps(content))
    maps = {
        'base_attacked': (votes.guess + 1) % 8,
        'smoothed_attacked': votes.guess,
        'certified': np.where(votes.hits == 40, votes.guess, ABSTAIN_LABEL),
    }
    shape = (*votes.guess.shape, 3)
    changes = np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)
    more = {'perturbation': changes, 'perturbation_step': 0.002}
    for name in ('l2 0.3', 'l2 0.6'):
        file = folder / f'00000-{name.replace(" ", "-")}.npz'
        facts = {'name': found.name, 'attack_set': name,
                 'digest': found.certificate['input']['digest']}  # fmt: skip
        file.with_suffix('.json').write_text(json.dumps(facts))
        np.savez(file, **{f'map_{name}': map_ for name, map_ in maps.items()}, **more)
        more = {}
    return found, maps


def test_attacks_stand_beside_certificates(results, tmp_path):
    folder = ResultsFolder(results)
    found, maps = put_attacks(folder, tmp_path / 'attacks')
    run_tool('tools/report.py', results, '--attack', tmp_path / 'attacks')
    page = Page(results / 'report.html')
    for word in ('1 image was attacked', 'No certified component lost its class beyond doubt',
                 'l2 0.3', 'smoothed, attacked', 'tau 0.7, the least that covers it'):  # fmt: skip
        assert word in page.text, word
    for name, values in maps.items():
        np.testing.assert_array_equal(shown(page, 0)[0][f'attack0_{name}'], values)
    assert not any(name.startswith('attack') for name in shown(page, 1)[0])
    put_attacks(folder, tmp_path / 'broken', broken=[{}, {}])
    run_tool('tools/report.py', results, '--attack', tmp_path / 'broken')
    text = Page(results / 'report.html').text
    assert f'Broken certificates: {found.name}, attack ce within l2 0.3, 2 components.' in text
    put_attacks(folder, tmp_path / 'other', weights='of another model')
    for wrong, word in ((tmp_path / 'other', 'it has weights of another model'),
                        (results, 'is no summary of attacks'),
                        (tmp_path, 'there is no summary.json in')):  # fmt: skip
        printed = run_tool('tools/report.py', results, '--attack', wrong, expect=2)
        assert printed.startswith('error: ') and word in printed, printed


@needs_browser
def test_a_browser_shows_attacks_pixel_by_pixel(results, tmp_path, browser):
    folder = ResultsFolder(results)
    found, maps = put_attacks(folder, tmp_path / 'attacks')
    run_tool('tools/report.py', results, '--attack', tmp_path / 'attacks')
    classes = folder.summary['classes']
    browser.open((results / 'report.html'), '#image-0')
    browser.wait("document.querySelector('#legend').children.length > 0")
    assert text_of(browser, '#image-name') == found.name
    browser.run("document.querySelector('#panes').scrollIntoView()")
    for row, column in [(0, 0), (20, 21), (31, 47)]:
        browser.mouse('Moved', *pixel(browser, row, column))
        base, smoothed, certified = (map_[row, column] for map_ in maps.values())
        claim = 'not certified' if certified == ABSTAIN_LABEL else f'certified {classes[certified]}'
        assert (
            f'Under attack, l2 0.3: Smoothed model: {classes[smoothed]}; {claim} at this radius. '
            f'Base model, attacked by itself: {classes[base]}.'
        ) in text_of(browser, '#readout')
    assert text_of(browser, '#note') == ''

    # Perturbation and attacked image, pixel by pixel.
    with np.load(tmp_path / 'attacks/00000-l2-0.3.npz') as stored:
        change = 0.002 * stored['perturbation'][20, 21]
    words = ', '.join(
        f'{name} {"-" if value < 0 else "+"}{abs(value):.2g}'
        for name, value in zip(('red', 'green', 'blue'), change, strict=True)
    )
    browser.mouse('Moved', *pixel(browser, 20, 21))
    assert f'Changed by {words}.' in text_of(browser, '#readout')
    for side, layer in enumerate(('attack_change', 'attack_image')):
        browser.run(CHOOSE % (f'document.querySelectorAll(".layer")[{side}]', layer))
    photo, scaled, attacked = (
        np.array(browser.run(PIXEL % (side, kind, 21, 20)))[:3]
        for side, kind in ((0, 'photo'), (0, 'overlay'), (1, 'overlay'))
    )
    np.testing.assert_allclose(attacked, np.clip(photo + 255 * change, 0, 255), atol=0.51)
    end = 0.002 * 127
    np.testing.assert_allclose(scaled, 127.5 + 127.5 * change / end, atol=0.51)
    scales = browser.run("[...document.querySelectorAll('.scale')].map((text) => text.textContent)")
    assert scales == ['-0.25+0.25 in each of red, green and blue, x 2; grey: none.',
                      'No value was changed by more than 65 of 255 levels.']  # fmt: skip

    # Another set, as an older version left it, and an image that was not attacked.
    browser.run(CHOOSE % ("document.querySelector('#attack-set')", 1))
    names = "[...document.querySelector('.layer').options].map((option) => option.textContent)"
    assert browser.run(names)[-3:] == list(attack_folder.LAYERS.values())
    assert 'perturbation' not in browser.run(names)
    assert 'Under attack, l2 0.6' in text_of(browser, '#readout')
    assert 'it was not stored' in text_of(browser, '#note')
    browser.key('n')
    browser.wait("document.querySelector('#note').textContent.includes('was not attacked')")
    assert browser.faults == []


CHOOSE = '(() => { const select = %s; select.value = %r;'
CHOOSE += " select.dispatchEvent(new Event('change')); })()"
PIXEL = """[...document.querySelectorAll('.pane')[%d].querySelector('.%s').getContext('2d')
  .getImageData(%d, %d, 1, 1).data]"""


@needs_browser
def test_a_missing_folder_of_images_is_said(results, browser, monkeypatch):
    monkeypatch.setattr(tiles, 'INLINE_BYTES', 0)
    run_tool('tools/report.py', results)
    shutil.rmtree(results / 'report_files')
    browser.open(results / 'report.html')
    browser.wait("document.querySelector('#readout').textContent.includes('cannot be shown')")
    assert 'keep that folder beside the page' in text_of(browser, '#readout')


@needs_browser
def test_every_button_does_something(results, browser):
    run_tool('tools/report.py', results)
    browser.open(results / 'report.html')
    browser.wait("document.querySelector('#legend').children.length > 0")
    buttons = browser.run("[...document.querySelectorAll('button')].map((button) => button.id)")
    # Those without an id are thumbnails and the legend.
    looked = '#next #previous #zoom-in #fit #zoom-in #zoom-out #legend>button #clear #theme #fixed'
    extremes = " [...document.querySelectorAll('.extremes a')].at(-1)"
    seen = """[document.querySelector('#image-name').textContent,
      document.querySelector('.stage').style.transform,
      document.querySelectorAll('[aria-pressed=true]').length,
      document.querySelector('#settings-status').textContent,
      document.documentElement.style.colorScheme].join()"""
    steps = [f"document.querySelector('{name}')" for name in looked.split()]
    steps += ["[...document.querySelectorAll('#thumbnails button')].at(-1)", extremes]
    for step in steps:
        before = browser.run(seen)
        if step is extremes:
            browser.key('p')
            browser.wait(f'{seen} !== {json.dumps(before)}')
            before = browser.run(seen)
        if '#fixed' in step:
            browser.run(
                "document.querySelector('#tau').value = 0;"
                "document.querySelector('#tau').dispatchEvent(new Event('input'))"
            )
            browser.wait("document.documentElement.classList.contains('exploring')")
            before = browser.run(seen)
        browser.run(f'{step}.click()')
        browser.wait(f'{seen} !== {json.dumps(before)}')
    assert {name for name in buttons if name} == {
        name.removeprefix('#') for name in looked.split() if '>' not in name
    }
    assert browser.faults == []


CONTRASTS = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === 'rgba(0, 0, 0, 0)' && element.parentElement
      ? ground(element.parentElement) : colour;
  };
  return ['p', '.claim', 'dt', '.headlines dd', 'a', 'button', 'select', 'th', '#settings-note',
          'figcaption', 'svg text'].map((name) => {
    const element = document.querySelector(name);
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [light(ink), light(ground(element))].sort((a, b) => a - b);
    return [name, (other + 0.05) / (one + 0.05)];
  });
})()"""


@needs_browser
def test_text_is_legible_in_both_themes(results, browser):
    run_tool('tools/report.py', results)
    browser.open(results / 'report.html')
    browser.wait("document.querySelector('#legend').children.length > 0")
    grounds = set()
    for _ in range(2):
        browser.run("document.querySelector('#theme').click()")
        grounds.add(browser.run('getComputedStyle(document.body).backgroundColor'))
        # The least that WCAG 2.1 asks for (AA).
        assert [item for item in browser.run(CONTRASTS) if item[1] < 4.5] == []
    assert len(grounds) == 2
    # On paper everything is light, whatever was chosen.
    browser.send('Emulation.setEmulatedMedia', media='print')
    assert browser.run('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert browser.run("getComputedStyle(document.querySelector('#explorer')).display") == 'none'


def test_the_assets_are_packaged():
    from setuptools import find_packages

    assert 'mmcert.report' in find_packages(str(ROOT), include=['mmcert*'])
    assert 'report/assets/*' in (ROOT / 'setup.py').read_text()
    assert {path.suffix for path in ASSETS.iterdir()} == {'.html', '.css', '.js'}


def test_estimates_are_not_called_certificates(results):
    """As of a run whose attack set was only sampled."""
    (folder,) = results.glob('certificates-*')
    for file in folder.glob('*.json'):
        document = json.loads(file.read_text())
        document['promise'] |= {'kind': 'estimate', 'description': 'an estimate of something'}
        file.write_text(json.dumps(document))
    summary = json.loads((results / 'summary.json').read_text())
    summary['certificate'] |= {'kind': 'estimate', 'description': 'an estimate of something'}
    del summary['all_images']
    lines = [json.loads(line) for line in (results / 'images.jsonl').read_text().splitlines()]
    for line in lines:
        line |= {'kind': 'estimate', 'attack_on_this_input': {'tau': 0.7}}
    (results / 'images.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    (results / 'summary.json').write_text(json.dumps(summary))
    run_tool('tools/report.py', results)
    page = Page(results / 'report.html')
    seen = page.visible[: page.visible.index('The setting of a certificate is fixed')]
    config = summary['certificate']['model']['config']
    # The names of the config and of the data's space are not ours to choose.
    seen = seen.replace(config, '').replace(summary['certificate']['certified_space'], '')
    assert re.findall('.*(?:certif|promise).*', seen, flags=re.IGNORECASE) == []
    assert 'estimated accuracy' in seen and 'Estimated results of 3 images, without proof' in seen
    names = [layer['name'] for layer in json.loads(page.scripts['page'])['layers']]
    assert 'certified map' not in names and 'estimated map, not proven' in names


def put_corruptions(results, folder, covered=True):
    """Writes what ``tools/corruptions.py`` leaves."""
    shared = results.summary['certificate']
    clean = {'base': {'accuracy': 0.9, 'mIoU': 0.8}, 'smoothed': {'accuracy': 0.8, 'mIoU': 0.7}}
    entries = [
        {'severity': severity, 'rates': {
            model: {key: value - 0.1 * severity for key, value in rates.items()}
            for model, rates in clean.items()
        }, 'distance': None, 'broken': 0,
         'certified': {'inputs': 1, 'share': 0.5, 'accuracy': 0.4, 'mIoU': 0.3}
         if covered and severity == 1 else None}
        for severity in (1, 3)
    ]  # fmt: skip
    mean = {
        model: mean_rates({e['severity']: e['rates'][model] for e in entries}, rates, 'blur')
        for model, rates in clean.items()
    }
    summary = {
        'format': 'mmcert corruptions', 'version': 1, 'input_type': 'image',
        'settings': {'severities': [1, 3], 'inputs': 3, 'draws': 20, 'guarantee': {
            key: shared[key] for key in ('perturbation', 'parameters')}},
        'identity': {'weights': shared['model']['weights']},
        'models': ['base', 'smoothed'], 'bounded': 'smoothed', 'measure': None, 'reach': None,
        'clean': clean, 'mean': mean, 'broken': [],
        'corruptions': [{'corruption': 'glass_blur', 'category': 'blur', 'severities': entries,
                         'mean': mean}],
    }  # fmt: skip
    folder.mkdir()
    (folder / 'summary.json').write_text(json.dumps(summary))


def test_corruptions_stand_beside_certificates(results, tmp_path):
    put_corruptions(ResultsFolder(results), tmp_path / 'some')
    put_corruptions(ResultsFolder(results), tmp_path / 'none', covered=False)
    run_tool('tools/report.py', results, '--corruptions', tmp_path / 'some')
    page = Page(results / 'report.html')
    for word in ('over 3 images', 'glass blur', 'lower bounds that certificates prove',
                 'smoothed, at least'):  # fmt: skip
        assert word in page.text, word
    run_tool('tools/report.py', results, '--corruptions', tmp_path / 'none')
    page = Page(results / 'report.html')
    assert 'No certificate covers any of these corruptions' in page.text
    assert 'lower bounds' not in page.text
    printed = run_tool('tools/report.py', results, '--corruptions', results, expect=2)
    assert 'is no summary of corruptions' in printed
