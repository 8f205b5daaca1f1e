"""Writes one HTML page of a run: its promise and figures, and all images with their maps.

The page needs no server and no network. It opens in a browser, and shows for each pixel its class,
votes and radius. Images of more than 20 MB go into a folder beside the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mmcert.cli import UsageError, command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', help='folder that tools/test.py wrote: work_dirs/NAME/certified')
    parser.add_argument('--out', help='HTML file to write (default: report.html in the results)')
    parser.add_argument('--images', type=int, help='how many to show, from worst to best')
    parser.add_argument(
        '--data', help='folder of the data set, where images are found by name and content '
        "(default: that of the run's config)"
    )  # fmt: skip
    parser.add_argument('--votes', help='folder of the votes, if it is not in the results')
    return parser.parse_args(argv)


@command
def main() -> int:
    """Writes the page, and says where."""
    args = parse_args()
    from mmcert.report.explorer import find_no_picture, write_report
    from mmcert.report.inputs import ImageFinder
    from mmcert.report.results_folder import ResultsFolder

    results = ResultsFolder(args.results, args.votes)
    folder = args.data or data_folder(results)
    if folder is None:
        print('note: the data set of this run was not found: give its folder by --data', flush=True)
    find: Any = find_no_picture if folder is None else ImageFinder(folder)
    out = Path(args.out or results.folder / 'report.html')
    if out.is_dir():
        raise UsageError(f'--out takes an HTML file, and {out} is a folder')
    report = write_report(results, out, find, args.images, radius_at(results))
    if report.missing and folder is not None:
        print(f'note: {report.missing} of {report.shown} images were not found in {folder}')
    beside = f', which needs {report.folder} beside it' if report.folder else ''
    print(f'wrote {out}{beside}: open it in a browser')
    return 0


def radius_at(results: Any) -> Any:
    """From a threshold to the radius of certificates; None where there is none to tell."""
    from mmcert.perturbations import CLASSES, from_spec

    if results.votes_folder is None:
        return None
    record = results.image(results.lines[0]).record
    spec = record.meta['sampling']['perturbation']
    if spec.get('type') not in CLASSES or record.votes.enumerated:
        return None
    return from_spec(spec).radius


def data_folder(results: Any) -> str | None:
    """The data folder of the test data, by the config that the run left in its work folder."""
    from mmcert.compat import enable_mmcv_lite

    config = results.folder.parent / (results.summary['certificate']['model'].get('config') or '')
    if not config.is_file():
        return None
    try:
        enable_mmcv_lite()
        from mmengine.config import Config

        dataset = Config.fromfile(config).test_dataloader.dataset
    except Exception as error:
        print(f'note: cannot read {config} ({type(error).__name__}: {error})')
        return None
    folder = dataset.get('data_root')
    return folder if folder and Path(folder).is_dir() else None


if __name__ == '__main__':
    sys.exit(main())
