"""Writes one HTML page of a run: its promise and figures, and all images with their maps.

The page needs no server and no network. It opens in a browser, and shows for each pixel its class,
votes and radius. Images of more than 20 MB go into a folder beside the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmcert.cli import UsageError, check_out_file, command, tool_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('results', help='folder of results: work_dirs/NAME/certified')
    parser.add_argument('--out', help='HTML file to write (default: report.html in the results)')
    parser.add_argument(
        '--images', type=int, metavar='N', help='how many to show, from worst to best (all)'
    )
    parser.add_argument(
        '--data', help='folder of the data set, where images are found by name and content '
        '(default: that of the run)'
    )  # fmt: skip
    parser.add_argument('--votes', help='folder of the votes, if it is not in the results')
    parser.add_argument(
        '--attack',
        metavar='FOLDER',
        nargs='+',
        help='what mmcert attack wrote: RESULTS/attacks-* (none)',
    )
    parser.add_argument(
        '--corruptions',
        metavar='FOLDER',
        nargs='+',
        help='what mmcert corruptions wrote: RESULTS/corruptions-* (none)',
    )
    return parser.parse_args(argv)


@command
def main() -> int:
    """Writes the page, and says where."""
    args = parse_args()
    from mmcert.report.attack_folder import AttackFolder
    from mmcert.report.corruption_folder import CorruptionFolder
    from mmcert.report.explorer import find_nothing, write_report
    from mmcert.report.results_folder import ResultsFolder

    results = ResultsFolder(args.results, args.votes)
    attacked, corrupted = only('--attack', args.attack), only('--corruptions', args.corruptions)
    attacks = None if attacked is None else AttackFolder(attacked)
    corruptions = None if corrupted is None else CorruptionFolder(corrupted)
    find = finder(results, args.data)
    out = Path(args.out or results.folder / 'report.html')
    check_out_file(out, '--out' if args.out else 'the page')
    report = write_report(results, out, find, args.images, radius_at(results), attacks, corruptions)
    if report.missing and find is not find_nothing:
        where = f' in {folder}' if (folder := getattr(find, 'folder', None)) else ''
        missing = f'{report.missing} of {report.shown} {results.word}s were not found{where}'
        print(f'note: {missing}: --data says where else they are')
    beside = f', which needs {report.folder} beside it' if report.folder else ''
    print(f'wrote {out}{beside}: open it in a browser')
    return 0


def only(option: str, folders: list[str] | None) -> str | None:
    """The folder that was given, if one was; a shell may have made several of ``attacks-*``."""
    if folders is None:
        return None
    if len(folders) == 1:
        return folders[0]
    raise UsageError(f'{option} takes one folder; there are several: {", ".join(folders)}')


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


def finder(results: Any, folder: str | None) -> Any:
    """What finds the inputs: in a folder, or where the run said that they are.

    A run of a config left that in its work folder.
    """
    from mmcert.report.explorer import find_nothing
    from mmcert.report.inputs import ImageFinder, data_folder

    images = results.word == 'image'
    if folder is not None and images:
        return ImageFinder(folder)
    name = results.summary['certificate']['model'].get('config')
    if name is None and images:
        return _find_in(data_folder(results.folder))
    config = results.folder.parent / (name or '')
    if not config.is_file():
        return _find_in(None)
    from mmcert.compat import enable_mmcv_lite

    try:
        enable_mmcv_lite()
        from mmengine.config import Config

        cfg = Config.fromfile(config)
        dataset = cfg.test_dataloader.dataset
        if images:
            return _find_in(dataset.get('data_root'))
        if folder is not None:
            dataset.data_root = folder
        from mmcert.engine.clouds import CloudFinder

        return CloudFinder(cfg)
    except Exception as error:
        print(
            f'note: cannot read {config} ({type(error).__name__}: {error}), so inputs are not found'
        )
        return find_nothing


def _find_in(folder: Any) -> Any:
    """What finds images in the folder of a run; says so if that is not known or not there."""
    from mmcert.report.explorer import find_nothing
    from mmcert.report.inputs import ImageFinder

    if folder and Path(folder).is_dir():
        return ImageFinder(folder)
    what = 'the run does not say where its data set is'
    if folder:
        what = f'the data set of the run was in {folder}, and there is no such folder'
    print(f'note: {what}: --data says where it is', flush=True)
    return find_nothing
