"""Checks what the jobs of all shards have left in one folder, and writes the results of the whole.

Each line that it prints names one thing that is wrong: a shard that is missing or not finished, an
image without votes, a file that is damaged, belongs to no shard, or was sampled otherwise. Then the
exit code is 1 and nothing is written. When all is there, it counts the certificates from the votes
anew and writes ``summary.json`` and ``images.jsonl`` as one run over the data set would have.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcert.cli import UsageError, add_import, command, import_modules

if TYPE_CHECKING:
    from mmcert.report.summary import InputResult
    from mmcert.votes import VotesRecord
    from mmcert.votes.shards import Manifest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', help='folder of votes, or of results with one votes-* in it')
    parser.add_argument(
        '--shards', type=int, metavar='M', help='look at the shards i/M alone, if there are others'
    )
    parser.add_argument('--out', help='folder for the summary (default: that of the results)')
    add_import(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Names what is wrong, or writes and prints the summary."""
    args = parse_args()
    import_modules(args)
    votes, others = votes_folders(Path(args.folder))
    # Where a run writes them: beside a folder votes-*.
    beside = votes.name.startswith('votes-')
    out = Path(args.out or (votes.absolute().parent if beside else args.folder))
    problems: list[str] = []
    manifests = read_manifests(votes, args.shards, problems)
    for other in others if manifests else ():
        for one in read_manifests(other, args.shards, problems=[]):
            problems.append(
                f'{other}: shard {one.shard} was run otherwise than shard {manifests[0].shard} '
                f'({how_they_differ(one, manifests[0])}): run it again, or give the folder of '
                'votes that you mean'
            )
    results = read_votes(votes, manifests, problems)
    if problems:
        print('\n'.join(problems))
        print(f'nothing was merged (lines above: {len(problems)})', file=sys.stderr)
        return 1
    note_versions(results)

    from mmcert.report.summary import Summary, write_summary

    task = manifests[0].task
    summary = Summary(results, task['num_classes'], task['classes'])
    print(summary.describe())
    write_summary(summary, out)
    print(f'wrote {out / "summary.json"} and {out / "images.jsonl"}')
    return 0


def votes_folders(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of votes that is meant, the one with most shards, and others beside it."""
    from mmcert.votes.shards import manifest_paths

    if not folder.is_dir():
        raise UsageError(f'there is no folder {folder}')
    if manifest_paths(folder):
        return folder, []
    inside = [path for path in sorted(folder.glob('votes-*')) if manifest_paths(path)]
    if not inside:
        raise UsageError(
            f'no job has left the manifest of a shard in {folder}: give the folder of votes (in a '
            'config: `smoothing.votes_dir`) of runs with `smoothing.shard`'
        )
    inside.sort(key=lambda path: len(manifest_paths(path)), reverse=True)
    return inside[0], inside[1:]


def read_manifests(votes: Path, count: int | None, problems: list[str]) -> list[Manifest]:
    """Reads the manifests of one division of the data set, the newest if there are several.

    Args:
        votes (Path): The folder of votes.
        count (int | None): The number of shards of the division, if only one is to be looked at.
        problems (list[str]): Gets what is wrong with them.

    Returns:
        list[Manifest]: One of each shard, in the order of the shards if all of them agree, and
        otherwise with those first that most others agree with.
    """
    from mmcert.votes.shards import FOLDER, Manifest, ManifestError, Shard, manifest_paths

    found = []
    for path in sorted(manifest_paths(votes), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            manifest = Manifest.read(path)
        except ManifestError as error:
            problems.append(str(error))
            continue
        if count in (None, manifest.shard.count):
            found.append((path, manifest))
    if not found:
        if not problems:
            problems.append(f'{votes / FOLDER}: no manifest of a shard i/{count}')
        return []

    whole = found[0][1].shard.count
    usual = Counter(one.agreement() for _, one in found if one.shard.count == whole)
    common = usual.most_common(1)[0][0]
    first = next(one for _, one in found if one.agreement() == common)
    chosen: dict[int, Manifest] = {}
    for path, manifest in found:
        shard = manifest.shard
        if shard.count != whole:
            problem = (
                f'{path}: shard {shard} is of another division, the newest is into {whole}: '
                'delete it, or choose one with --shards'
            )
        elif shard.index in chosen:
            problem = f'{path}: a second manifest of shard {shard}: delete one of them'
        else:
            chosen[shard.index] = manifest
            problem = what_is_wrong(path, manifest, first)
        problems += filter(None, [problem])
    for index in sorted(set(range(1, whole + 1)) - set(chosen)):
        shard = Shard(index, whole)
        images = len(shard.positions(first.total))
        problems.append(f'shard {shard}: missing, no job has begun it ({images} images)')
    # The first one stands for all: it is of those that agree.
    return sorted(chosen.values(), key=lambda one: (one.agreement() != common, one.shard.index))


def what_is_wrong(path: Path, manifest: Manifest, first: Manifest) -> str:
    """What is wrong with the manifest of a shard, beside that of another one; empty if nothing."""
    shard, images = manifest.shard, manifest.images
    if manifest.agreement() != first.agreement():
        return (
            f'{path}: shard {shard} was run otherwise than shard {first.shard} '
            f'({how_they_differ(manifest, first)}): run it again'
        )
    if images is None:
        return f'shard {shard}: has not finished'
    if len(images) != len(manifest.sources):
        return f'shard {shard}: reports {len(images)} of {len(manifest.sources)} images'
    return ''


def how_they_differ(theirs: Manifest, ours: Manifest) -> str:
    """Which settings or images of two shards differ."""
    from mmcert.votes.store import differences

    found = [
        differences(getattr(theirs, field), getattr(ours, field))
        for field in ('sampling', 'settings', 'task')
    ]
    if (theirs.total, theirs.dataset) != (ours.total, ours.dataset):
        found.append(
            f'the images of the data set: {theirs.total} there, {ours.total} here, or others'
        )
    return '; '.join(filter(None, found))


def read_votes(votes: Path, manifests: list[Manifest], problems: list[str]) -> list[InputResult]:
    """Reads every votes file, and counts the certificates of the images anew.

    Args:
        votes (Path): The folder.
        manifests (list[Manifest]): Of all shards; the votes should be as the first one says.
        problems (list[str]): Gets what is wrong with the files.

    Returns:
        list[InputResult]: The results in the order of the data set; empty if there are problems.
    """
    from mmcert.votes import VotesFileError, load_votes

    files = {path.stem: path for path in sorted(votes.glob('*.npz'))}
    for manifest in manifests:
        problems += missing_images(votes, manifest, files)
    certified = {
        image['name']: (manifest, image)
        for manifest in manifests
        for image in manifest.images or ()
    }
    names = {image['certificate']['input']: name for name, (_, image) in certified.items()}
    under_way = {source for one in manifests if one.images is None for source in one.sources}
    results: dict[str, InputResult] = {}
    for name, path in files.items():
        problem = None
        try:
            record = load_votes(path)
        except VotesFileError as error:
            problems.append(str(error))
            continue
        if not manifests or (problem := sampled_otherwise(record, manifests[0])):
            pass
        elif name in certified:
            problem, results[name] = count(record, *certified[name])
        elif record.meta.get('digest') in names:
            twin = names[record.meta['digest']]
            problem = f'is a duplicate, of the same image as {twin}: delete it'
        elif name.rpartition('-')[0] not in under_way:
            problem = 'belongs to no shard of the data set: move it elsewhere'
        if problem:
            problems.append(f'{path}: {problem}')
    if problems:
        return []
    jobs, total = len(manifests), manifests[0].total
    order = (manifests[position % jobs].images[position // jobs] for position in range(total))
    return [results[image['name']] for image in order]


def missing_images(votes: Path, manifest: Manifest, files: dict[str, Path]) -> list[str]:
    """Names the images of a shard that have no votes."""
    shard, positions = manifest.shard, manifest.shard.positions(manifest.total)
    if manifest.images is not None:
        lost = [image['name'] for image in manifest.images if image['name'] not in files]
        return [f'{votes / name}.npz: missing; shard {shard} had sampled it' for name in lost]
    sampled = Counter(name.rpartition('-')[0] for name in files)
    begun = {path.stem.rpartition('-')[0] for path in votes.glob('*.part')}
    lines = []
    for position, source in zip(positions, manifest.sources, strict=True):
        if sampled[source]:
            sampled[source] -= 1
        elif source:
            state = 'only a checkpoint' if source in begun else 'no votes'
            lines.append(f'image {position} ({source}): {state}, shard {shard} should have it')
    return lines


def sampled_otherwise(record: VotesRecord, manifest: Manifest) -> str | None:
    """Says in what the votes of a file were sampled otherwise than a shard; None if in nothing."""
    from mmcert.votes.store import differences, fingerprint

    theirs = record.meta.get('sampling', {})
    if record.meta.get('fingerprint') == fingerprint(manifest.sampling) and (
        theirs == manifest.sampling
    ):
        return None
    found = differences(theirs, manifest.sampling) or 'another fingerprint'
    return f'sampled otherwise than shard {manifest.shard} ({found})'


def count(
    record: VotesRecord, manifest: Manifest, image: dict[str, Any]
) -> tuple[str | None, InputResult]:
    """Certifies the votes of an image anew and counts, with what is wrong with them."""
    from mmcert.certify import Certificate, CertifySettings, Hierarchy
    from mmcert.report.summary import InputResult
    from mmcert.votes import Task, evaluate

    certificate, task = image['certificate'], manifest.task
    hierarchy = manifest.sampling.get('hierarchy')
    # Where the attack set gives each image a threshold of its own, its certificate has it.
    settings = replace(CertifySettings(**manifest.settings), tau=certificate['tau'])
    found: list[Certificate] = []
    (counts,) = evaluate(
        [record],
        [settings],
        Task(
            task['num_classes'],
            task['ignore_index'],
            None if hierarchy is None else Hierarchy.from_spec(hierarchy),
        ),
        lambda _, __, one: found.append(one),
    )
    problem = None
    if record.meta.get('digest') != certificate['input']:
        problem = f'holds the votes of another image than shard {manifest.shard} certified'
    elif found[0].to_dict()['certified'] != certificate['certified']:
        problem = (
            f'certifies {found[0].to_dict()["certified"]} {certificate["component_type"]}s, in '
            f'shard {manifest.shard} it was {certificate["certified"]}: run that shard again'
        )
    return problem, InputResult(image['name'], certificate, counts)


def note_versions(results: list[InputResult]) -> None:
    """Says where jobs ran with different versions of packages, which votes files allow."""
    versions: dict[str, set[str]] = {}
    for result in results:
        for package, version in result.certificate['model'].get('versions', {}).items():
            versions.setdefault(package, set()).add(version)
    for package, found in versions.items():
        if len(found) > 1:
            print(f'note: jobs ran with different versions of {package}: {", ".join(found)}')


if __name__ == '__main__':
    sys.exit(main())
