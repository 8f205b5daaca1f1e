"""Writes a run as images, masks, heat maps and figures, and opens them as a dataset of FiftyOne."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from mmcert.cli import UsageError, check_out, command, tool_parser
from mmcert.commands.report import finder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('results', help='folder of results: work_dirs/NAME/certified')
    parser.add_argument(
        '--data', help='folder of the data set, where images are found by name and content '
        '(default: that of the run)'
    )  # fmt: skip
    parser.add_argument('--out', help='folder to write (default: fiftyone in the results)')
    parser.add_argument('--votes', help='folder of the votes, if it is not in the results')
    parser.add_argument(
        '--dataset', metavar='NAME',
        help='also make a dataset of this name in the database of FiftyOne, if it is installed',
    )  # fmt: skip
    return parser.parse_args(argv)


@command
def main() -> int:
    """Writes the folder, and says what is in it."""
    args = parse_args()
    if args.dataset is not None and importlib.util.find_spec('fiftyone') is None:
        raise UsageError(
            'FiftyOne is not installed: `pip install "mmcert[fiftyone]"`, or leave out --dataset'
        )
    from mmcert.report.fiftyone_export import export_samples, open_in_fiftyone
    from mmcert.report.results_folder import ResultsFolder

    results = ResultsFolder(args.results, args.votes)
    out = Path(args.out or results.folder / 'fiftyone')
    check_out(out, '--out' if args.out else 'the folder')
    exported = export_samples(results, out, finder(results, args.data))
    if exported.missing:
        listed = ', '.join(exported.missing[:3]) + ', ...' * (len(exported.missing) > 3)
        print(f'note: {len(exported.missing)} images were not found: {listed}')
    if exported.without_votes:
        print('note: without votes there are certified maps and radii alone')
    print(f'wrote {out}: {exported.samples} images')
    if args.dataset is not None:
        dataset = open_in_fiftyone(out, args.dataset)
        print(f'dataset {dataset.name} is in FiftyOne: fiftyone app launch {dataset.name}')
    return 0
