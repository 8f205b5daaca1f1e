"""Checks what the jobs of all shards have left in one folder, and counts the whole.

It needs the manifests and the votes: no model, no data set, no GPU.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmcert.certify import Certificate, CertifySettings, Hierarchy
from mmcert.metrics.results import InputResult
from mmcert.votes.recertify import Task, evaluate
from mmcert.votes.record import VotesFileError, VotesRecord, load_votes
from mmcert.votes.shards import (
    FOLDER,
    Manifest,
    ManifestError,
    Shard,
    dataset_digest,
    manifest_paths,
)
from mmcert.votes.store import differences, fingerprint

COMPARED = (
    'alpha', 'procedure', 'selection', 'k', 'n0', 'n', 'num_values', 'components', 'certified',
    'certified_by_level',
)  # fmt: skip
"""Entries of a certificate that must come out of its votes as the job wrote them."""


class Merger:
    """The shards of one division of a data set, and what is wrong with them.

    Args:
        folder (str | os.PathLike): A folder of votes, or one of results with folders ``votes-*`` in
            it. Of those the one with most shards is meant; shards in others were run otherwise.
        count (int | None): The number of shards of the division, if only one is to be looked at; by
            default the newest manifest decides.

    Attributes:
        votes (Path): The folder of votes.
        manifests (list[Manifest]): One of each shard, in the order of the shards if all of them
            agree, and otherwise with those first that most others agree with.
        problems (list[str]): What is wrong, a line for each thing; empty if all is there.
        results (list[InputResult]): The certificates of all images in the order of the data set,
            counted anew from the votes; empty if there are problems.

    Raises:
        FileNotFoundError: If there is no such folder, or no manifest in it.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> task = {'num_classes': 2, 'classes': ['near', 'far'], 'ignore_index': 255}
        >>> images = ['street-1', 'street-2']
        >>> shard = Manifest.of(Shard(1, 2), images, sampling={}, settings={}, task=task)
        >>> shard.begin(folder)
        >>> for line in Merger(folder).problems:
        ...     print(line)
        shard 1/2: has not finished
        shard 2/2: missing, no job has begun it (1 images)
        image 0 (street-1): no votes, shard 1/2 should have it
    """

    def __init__(self, folder: str | os.PathLike[str], count: int | None = None) -> None:
        self.votes, others = _votes_folders(Path(folder))
        self.problems: list[str] = []
        self.manifests = _of_one_division(self.votes, count, self.problems)
        for other in others if self.manifests else ():
            for one in _of_one_division(other, count, problems=[]):
                first = self.manifests[0]
                self.problems.append(
                    f'{other}: shard {one.shard} was run otherwise than shard {first.shard} '
                    f'({_how_they_differ(one, first)}): run it again, or give the folder of '
                    'votes that you mean'
                )
        results = self._read_votes()
        self.results = [] if self.problems else self._in_order(results)

    @property
    def task(self) -> dict[str, Any]:
        """``num_classes``, ``classes`` and ``ignore_index`` of all shards; without manifests none.

        They are those of ``Manifest.task``.
        """
        return dict(self.manifests[0].task) if self.manifests else {}

    def notes(self) -> list[str]:
        """Where jobs ran with different versions of packages, which votes files allow."""
        versions: dict[str, set[str]] = {}
        for result in self.results:
            for package, version in result.certificate['model'].get('versions', {}).items():
                versions.setdefault(package, set()).add(version)
        return [
            f'jobs ran with different versions of {package}: {", ".join(sorted(found))}'
            for package, found in versions.items()
            if len(found) > 1
        ]

    def _read_votes(self) -> dict[str, InputResult]:
        """Reads every votes file, and counts the certificates of the images anew, by name."""
        votes, manifests, problems = self.votes, self.manifests, self.problems
        files = {path.stem: path for path in sorted(votes.glob('*.npz'))}
        for manifest in manifests:
            problems += _missing_images(votes, manifest, files)
        certified = {
            image['name']: (manifest, image)
            for manifest in manifests
            for image in manifest.images or ()
        }
        names = {image['certificate']['input']: name for name, (_, image) in certified.items()}
        # Of a shard whose manifest is not there nobody knows the images.
        known = manifests and len(manifests) == manifests[0].shard.count
        under_way = {source for one in manifests if one.images is None for source in one.sources}
        results: dict[str, InputResult] = {}
        for name, path in files.items():
            problem = None
            try:
                record = load_votes(path)
            except VotesFileError as error:
                problems.append(str(error))
                continue
            if not manifests or (problem := _sampled_otherwise(record, manifests)):
                pass
            elif name in certified:
                # A shard that was run otherwise has been named.
                if certified[name][0].agreement() == manifests[0].agreement():
                    problem, results[name] = self._count(record, *certified[name])
            elif record.meta.get('digest') in names:
                twin = names[record.meta['digest']]
                problem = f'is a duplicate, of the same image as {twin}: delete it'
            elif known and name.rpartition('-')[0] not in under_way:
                problem = 'belongs to no shard of the data set: move it elsewhere'
            if problem:
                problems.append(f'{path}: {problem}')
        return results

    @cached_property
    def _settings(self) -> CertifySettings | None:
        if not self.manifests[0].settings:
            return None  # An enumeration has none.
        try:
            return CertifySettings(**self.manifests[0].settings)
        except TypeError as error:
            raise ManifestError(
                f'{self.votes / FOLDER}: written by another version of mmcert ({error})'
            ) from error

    @cached_property
    def _task(self) -> Task:
        task, hierarchy = self.task, self.manifests[0].sampling.get('hierarchy')
        return Task(
            task['num_classes'],
            task['ignore_index'],
            None if hierarchy is None else Hierarchy.from_spec(hierarchy),
        )

    def _count(
        self, record: VotesRecord, manifest: Manifest, image: Mapping[str, Any]
    ) -> tuple[str, InputResult]:
        """Certifies the votes of an image anew and counts, with what is wrong with them."""
        certificate = image['certificate']
        # Where the attack set gives each image a threshold of its own, its certificate has it.
        settings = self._settings and replace(self._settings, tau=certificate['tau'])
        found: list[Certificate] = []
        (counts,) = evaluate([record], [settings], self._task, lambda _, __, one: found.append(one))
        ours, theirs = (
            {key: entries.get(key) for key in COMPARED}
            for entries in (found[0].to_dict(), certificate)
        )
        problem = ''
        if record.meta.get('digest') != certificate['input']:
            problem = f'holds the votes of another image than shard {manifest.shard} certified'
        elif differing := differences(theirs, ours):
            problem = (
                f'gives another certificate than shard {manifest.shard} wrote ({differing}): run '
                'that shard again'
            )
        return problem, InputResult(image['name'], certificate, counts)

    def _in_order(self, results: dict[str, InputResult]) -> list[InputResult]:
        return [results[image['name']] for image in _interleaved(self.manifests, 'images')]


def _votes_folders(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of votes that is meant, the one with most shards, and others beside it."""
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}')
    if manifest_paths(folder):
        return folder, []
    inside = [path for path in sorted(folder.glob('votes-*')) if manifest_paths(path)]
    if not inside:
        raise FileNotFoundError(
            f'no job has left the manifest of a shard in {folder}: give the folder of votes (in a '
            'config: `smoothing.votes_dir`) of runs with `smoothing.shard` or --shard; results of '
            'one run need no merging'
        )
    inside.sort(key=lambda path: len(manifest_paths(path)), reverse=True)
    return inside[0], inside[1:]


def _readable(votes: Path, count: int | None, problems: list[str]) -> list[tuple[Path, Manifest]]:
    """The manifests of the divisions that are looked at, the newest first."""
    found = []
    paths = sorted(manifest_paths(votes), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        try:
            manifest = Manifest.read(path)
        except ManifestError as error:
            problems.append(str(error))
            continue
        if count in (None, manifest.shard.count):
            found.append((path, manifest))
    if not found and not problems:
        problems.append(f'{votes / FOLDER}: no manifest of a shard i/{count}')
    return found


def _of_one_division(votes: Path, count: int | None, problems: list[str]) -> list[Manifest]:
    """The manifests of the newest division; ``problems`` gets what is wrong with any."""
    found = _readable(votes, count, problems)
    if not found:
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
            problem = _what_is_wrong(path, manifest, first)
        problems += filter(None, [problem])
    there = {path.stem for path in manifest_paths(votes)}
    for index in sorted(set(range(1, whole + 1)) - set(chosen)):
        shard = Shard(index, whole)
        if shard.file_name in there:
            continue  # It cannot be read.
        images = len(shard.positions(first.total))
        problems.append(f'shard {shard}: missing, no job has begun it ({images} images)')
    # The first one stands for all: it is of those that agree.
    in_order = sorted(chosen.values(), key=lambda one: (one.agreement() != common, one.shard.index))
    if not problems and dataset_digest(_interleaved(in_order, 'sources')) != first.dataset:
        problems.append(
            f'{votes / FOLDER}: the images of the shards do not make up the data set, as if one '
            'had those of another: delete the manifests and run all shards again'
        )
    return in_order


def _interleaved(manifests: Sequence[Manifest], field: str) -> list[Any]:
    """What all shards, in their order, have in a field, in the order of the data set."""
    jobs, total = len(manifests), manifests[0].total
    return [getattr(manifests[place % jobs], field)[place // jobs] for place in range(total)]


def _what_is_wrong(path: Path, manifest: Manifest, first: Manifest) -> str:
    """What is wrong with the manifest of a shard, beside that of another one; empty if nothing."""
    shard, images = manifest.shard, manifest.images
    if manifest.agreement() != first.agreement():
        return (
            f'{path}: shard {shard} was run otherwise than shard {first.shard} '
            f'({_how_they_differ(manifest, first)}): run it again'
        )
    if images is None:
        return f'shard {shard}: has not finished'
    if len(images) != len(manifest.sources):
        return f'shard {shard}: reports {len(images)} of {len(manifest.sources)} images'
    return ''


def _how_they_differ(theirs: Manifest, ours: Manifest) -> str:
    """Which settings or images of two shards differ."""
    found = [
        differences(getattr(theirs, field), getattr(ours, field))
        for field in ('sampling', 'settings', 'task')
    ]
    if (theirs.total, theirs.dataset) != (ours.total, ours.dataset):
        found.append(
            f'the images of the data set: {theirs.total} there, {ours.total} here, or others'
        )
    return '; '.join(filter(None, found))


def _missing_images(votes: Path, manifest: Manifest, files: dict[str, Path]) -> list[str]:
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


def _sampled_otherwise(record: VotesRecord, manifests: Sequence[Manifest]) -> str:
    """Says in what the votes of a file were sampled otherwise than all shards, else nothing."""
    theirs, mark = record.meta.get('sampling', {}), record.meta.get('fingerprint')
    if any(theirs == one.sampling and mark == fingerprint(one.sampling) for one in manifests):
        return ''
    found = differences(theirs, manifests[0].sampling) or 'another fingerprint'
    return f'sampled otherwise than shard {manifests[0].shard} ({found})'
