"""Measures how a report of 500 images of 360 x 480 pixels opens in a headless Chromium.

The results are drawn: street scenes as labels, and votes that are sure inside of objects and
doubtful at their edges. Sixteen of them, certified as ``tools/test.py`` would, stand for all images
under other names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from study import ROOT, Results, machine, write_results

sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from mmcert.certifier import CertificationPlan
    from mmcert.votes import VotesRecord
    from tests.browser import Browser

DRAWN = 16
HEIGHT, WIDTH = 360, 480
N0, N = 10, 100
SHOWN = "document.querySelector('#legend').children.length > 0"
DONE = "document.querySelector('#settings-table').getAttribute('aria-busy') === 'false'"
CHANGE = """
document.querySelector('#%s').value = '%s';
document.querySelector('#%s').dispatchEvent(new Event('%s'));
"""


def main() -> int:
    """Writes results and their report, opens it, and stores times and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--repetitions', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_results(folder, args.images)
        started = time.perf_counter()
        written = write(folder)
        content = {'machine': machine(), 'images': args.images, 'size': [HEIGHT, WIDTH]}
        content['seconds_to_write'] = time.perf_counter() - started
        content['bytes'] = sum(file.stat().st_size for file in written)
        content['page_bytes'] = written[0].stat().st_size
        content['opened'] = [opened(written[0]) for _ in range(args.repetitions)]
    write_results('report_size', content)
    return 0


def draw_results(folder: Path, images: int) -> None:
    """Writes a results folder and its images."""
    from mmcert.certifier import CertificationPlan, CertifiedInput, entries
    from mmcert.certifier.results import write_certificate
    from mmcert.certify import CertifySettings
    from mmcert.metrics.results import InputResult
    from mmcert.perturbations import GaussianNoise
    from mmcert.report.summary import Summary, write_summary
    from mmcert.sampling import SamplingSettings
    from mmcert.scenes import CLASSES
    from mmcert.votes import save_votes

    plan = CertificationPlan(
        GaussianNoise(0.25),
        CertifySettings(0.75, 0.001, 'holm', 'holdout'),
        SamplingSettings(n0=N0, n=N, num_classes=len(CLASSES)),
    )
    identity = {'weights': 'drawn', 'versions': {'numpy': np.__version__}}
    votes, certificates, data = (
        folder / name for name in ('certified/votes-drawn', 'certified/certificates-drawn', 'data')
    )
    data.mkdir(parents=True)
    votes.mkdir(parents=True)
    results = []
    for index in range(DRAWN):
        image, record = draw(index, plan)
        certified = CertifiedInput(record, plan, identity=identity)
        document = certified.to_dict()
        # The plan speaks of inputs, and the page has to know that they are images.
        document['input'] |= {'input_type': 'image', 'component_type': 'pixel'}
        name = f'{index:04d}-drawn'
        write_certificate(certificates, name, document, certified.maps)
        save_votes(votes / f'{name}.npz', record)
        cv2.imwrite(str(data / f'{index:04d}.png'), image)
        results.append(InputResult(name, entries(document), certified.counts()))
    for index in range(DRAWN, images):
        for where in (votes, certificates):
            for file in where.glob(f'{index % DRAWN:04d}-drawn.*'):
                os.link(file, where / f'{index:04d}-drawn{file.suffix}')
        os.link(data / f'{index % DRAWN:04d}.png', data / f'{index:04d}.png')
        of = results[index % DRAWN]
        results.append(InputResult(f'{index:04d}-drawn', of.certificate, of.counts))
    write_summary(Summary(results[:images], len(CLASSES), list(CLASSES)), folder / 'certified')


def draw(index: int, plan: CertificationPlan) -> tuple[Any, VotesRecord]:
    """A scene, BGR, and votes on it."""
    from mmcert.certify import Votes
    from mmcert.report.inputs import content_digest
    from mmcert.scenes import CLASSES, draw_scene
    from mmcert.votes import VotesRecord

    rng = np.random.default_rng(index)
    image, label = draw_scene(HEIGHT, WIDTH, (9, index))
    classes = len(CLASSES)
    inside = (label < classes).astype(np.uint8)
    away = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    guess = np.where(inside, label, np.roll(label, 1, axis=1)) % classes
    sure = 1 - 0.5 * np.exp(-away / 4)
    second = np.roll(guess, 9, axis=(0, 1))
    votes = Votes(
        guess,
        rng.binomial(N, sure),
        N,
        N0,
        rng.binomial(N0, sure),
        runner_up=second,
        runner_up_hits=rng.binomial(N0 // 2, 1 - sure),
    )
    margin = np.clip(255 * sure + rng.normal(0, 4, sure.shape), 0, 255).astype(np.uint8)
    meta = {
        'name': f'{index:04d}-drawn',
        'digest': content_digest(image),
        'sampling': {'perturbation': plan.perturbation.spec()},
        'provenance': {'num_classes': classes, 'ignore_index': 255},
    }
    record = VotesRecord(votes, meta, label=label, base=guess, margin=margin)
    return image, record


def write(folder: Path) -> list[Path]:
    """Writes the report of a results folder; returns its files, the page first."""
    from mmcert.perturbations import GaussianNoise
    from mmcert.report.explorer import write_report
    from mmcert.report.inputs import ImageFinder
    from mmcert.report.results_folder import ResultsFolder

    page = folder / 'report.html'
    results, find = ResultsFolder(folder / 'certified'), ImageFinder(folder / 'data')
    written = write_report(results, page, find, radius_at=GaussianNoise(0.25).radius)
    assert written.missing == 0
    return [page, *(written.folder.iterdir() if written.folder else ())]


def opened(page: Path) -> dict[str, float]:
    """Opens a page in a new browser: seconds, and memory of all its processes."""
    from tests.browser import Browser

    with tempfile.TemporaryDirectory() as temporary:
        browser = Browser(temporary)
        try:
            started, used = time.perf_counter(), processor_seconds(browser)
            browser.open(page)
            browser.wait(SHOWN)
            found = {
                'load': os.getloadavg()[0],
                'seconds_to_open': time.perf_counter() - started,
                'processor_seconds_to_open': processor_seconds(browser) - used,
            }
            browser.wait(DONE)
            found['bytes_of_memory'] = memory(browser)
            found['seconds_of_another_tau'], _ = seconds_of(browser, 'tau', 20)
            first = seconds_of(browser, 'procedure', 'ordered_holm')
            again = seconds_of(browser, 'tau', 25)
            for name, both in (('ordered_holm', first), ('ordered_holm_again', again)):
                found[f'seconds_of_{name}'], found[f'processor_seconds_of_{name}'] = both
            for _ in range(20):
                before = browser.run("document.querySelector('#image-name').textContent")
                browser.key('n')
                browser.wait(
                    f"document.querySelector('#image-name').textContent !== {json.dumps(before)}"
                )
                browser.wait(DONE)
            found['bytes_after_20_images'] = memory(browser)
            assert browser.faults == []
        finally:
            browser.close()
    return found


def seconds_of(browser: Browser, control: str, value: object) -> tuple[float, float]:
    """Time until the page shows another setting for all images: by the clock, and computed for."""
    started, used = time.perf_counter(), processor_seconds(browser)
    event = 'change' if control == 'procedure' else 'input'
    browser.run(CHANGE % (control, value, control, event))
    # All images are read, which takes long where other programs compute.
    browser.wait(DONE, seconds=600)
    return time.perf_counter() - started, processor_seconds(browser) - used


def processes(browser: Browser, name: str) -> list[str]:
    """The file of this name in ``/proc`` of each of a browser's processes that has not ended."""
    parents = {}
    for folder in Path('/proc').glob('[0-9]*'):
        if status := text_of(folder / 'stat'):
            parents[int(folder.name)] = int(status.rpartition(')')[2].split()[1])
    mine = {browser.process}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return [text for process in mine if (text := text_of(Path(f'/proc/{process}/{name}')))]


def text_of(file: Path) -> str:
    """The text of a file of a process; empty once that has ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ''


def processor_seconds(browser: Browser) -> float:
    """What a browser's processes have computed for so far, with those that have ended."""
    # A process's own time, and that of its children which have ended.
    ticks = (
        map(int, stat.rpartition(')')[2].split()[11:15]) for stat in processes(browser, 'stat')
    )
    return sum(map(sum, ticks)) / os.sysconf('SC_CLK_TCK')


def memory(browser: Browser) -> int:
    """Memory of a browser's processes; what they share is divided among them."""
    lines = (
        line.split() for text in processes(browser, 'smaps_rollup') for line in text.splitlines()
    )
    return sum(int(line[1]) * 1024 for line in lines if line[0] == 'Pss:')


def render(results: Results) -> list[str]:
    """A sentence for the guide."""
    if not results:
        return []
    opened = results['opened']
    height, width = results['size']
    cores, load = results['machine']['cores'], max(found['load'] for found in opened)
    busy = f', while {load:.0f} programs shared them' if load > cores else ''

    def worst(key: str) -> float:
        return max(found[key] for found in opened)

    return [
        f'A report of {results["images"]} images of {height} x {width} takes '
        f'{results["bytes"] / 1e6:.0f} MB, of which the page itself has '
        f'{results["page_bytes"] / 1e6:.1f} MB. Chromium opens it in '
        f'{worst("processor_seconds_to_open"):.1f} s of processor time '
        f'({worst("seconds_to_open"):.1f} s by the clock), shows another tau for all images in '
        f'{worst("seconds_of_another_tau"):.2f} s (with ordered Holm, in '
        f'{worst("processor_seconds_of_ordered_holm"):.1f} s of processor time at first, and in '
        f'{worst("processor_seconds_of_ordered_holm_again"):.1f} s then), and takes '
        f'{worst("bytes_of_memory") / 1e6:.0f} MB of memory, '
        f'{worst("bytes_after_20_images") / 1e6:.0f} MB after 20 images (the worst of '
        f'{len(opened)}; {cores} cores without a GPU{busy}).'
    ]


TABLES = {'report_size': render}

if __name__ == '__main__':
    sys.exit(main())
