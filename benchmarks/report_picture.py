"""Takes a picture of the demo's report in a headless Chromium, for the docs.

``make demo`` writes the report. The picture shows the top of the page, and one image below it while
another tau is tried.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from study import IMAGES, ROOT, WORK_DIRS

sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.browser import Browser

PAGE = WORK_DIRS / 'demo/certified/report.html'
FIT = 'document.querySelector("%s").getBoundingClientRect().%s + scrollY'
POINT = """(() => {
  const { left, top, width, height } = document.querySelector('.view').getBoundingClientRect();
  return [left + 0.6 * width, top + 0.6 * height];
})()"""
TRY = """
(async () => {
  const [image] = document.querySelectorAll('.layer');
  image.value = 'image';
  image.dispatchEvent(new Event('change'));
  const tau = document.querySelector('#tau');
  tau.value = Number(tau.value) + %d;
  tau.dispatchEvent(new Event('input'));
})()
"""


def main() -> int:
    """Opens the page, tries a setting, and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--page', type=Path, default=PAGE, help='the report (%(default)s)')
    parser.add_argument('--steps', type=int, default=7, help='positions that tau is moved by')
    args = parser.parse_args()
    from tests.browser import Browser

    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(folder)
        try:
            browser.open(args.page.absolute())
            done = (
                "document.querySelector('#settings-table')?.getAttribute('aria-busy') === 'false'"
            )
            browser.wait(done)
            top = taken(browser, 0, browser.run(FIT % ('.headlines', 'bottom')) + 16)
            browser.run(TRY % args.steps)
            browser.wait("document.documentElement.classList.contains('exploring')")
            browser.wait(done)
            browser.run("document.querySelector('#panes').scrollIntoView()")
            browser.mouse('Moved', *browser.run(POINT))
            start = browser.run(FIT % ('#settings', 'top')) - 3
            views = taken(browser, start, browser.run(FIT % ('#legend', 'bottom')) + 16)
        finally:
            browser.close()
    line = np.full((8, top.shape[1], 3), 128, dtype=np.uint8)
    path = IMAGES / 'report.jpg'
    picture = np.concatenate([top, line, views])
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 75])
    print(f'wrote {path}')
    return 0


def taken(browser: Browser, top: float, bottom: float) -> NDArray[np.uint8]:
    """The page between two heights, BGR."""
    width = browser.run('document.documentElement.clientWidth')
    clip = {'x': 0, 'y': top, 'width': width, 'height': bottom - top, 'scale': 1}
    shot = browser.send('Page.captureScreenshot', clip=clip, captureBeyondViewport=True)
    found = cv2.imdecode(np.frombuffer(base64.b64decode(shot['data']), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return np.asarray(found, dtype=np.uint8)


if __name__ == '__main__':
    sys.exit(main())
