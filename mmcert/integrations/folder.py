"""Certifies the images of a folder, and writes what a run of the hook writes."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import logging
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmcert.certifier import CertifiedInput, entries
from mmcert.certifier.progress import Progress
from mmcert.certifier.results import ResultsWriter, asked_attack, results_name
from mmcert.integrations.smoothed import Smoothed
from mmcert.metrics.confusion import total
from mmcert.metrics.results import InputResult
from mmcert.report.confidence import confidence_picture
from mmcert.report.inputs import ENDINGS, write_data_folder
from mmcert.report.pictures import certificate_picture, certificate_title
from mmcert.report.summary import Summary, write_summary
from mmcert.report.tiles import class_colours
from mmcert.sampling import ProcessGroup
from mmcert.votes.shards import Manifest, Shard
from mmcert.votes.store import fingerprint

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width; OpenCV turns the image."""

ORIENTATION = 274
"""The EXIF entry of the orientation."""

PNG_BEGINS = 8
"""Bytes before the chunks of a PNG, each of which has length, kind, data and checksum."""

DEPTH = (
    '{} has more than 8 bits for each colour, but images of whole levels from 0 to 255 are '
    'certified: convert it'
)
"""What is said of an image of another depth."""


@dataclass(frozen=True)
class Header:
    """What the header of a picture says.

    Attributes:
        size (tuple[int, int]): Height and width.
        mode (str): Pillow's name of its channels.
        deep (bool): Whether they have more than 8 bits.
    """

    size: tuple[int, int]
    mode: str
    deep: bool


@dataclass(frozen=True)
class ImageFile:
    """An image with its label map, if there is one."""

    image: Path
    label: Path | None

    @cached_property
    def header(self) -> Header:
        """Size and mode of the image.

        Raises:
            ValueError: If it is no picture, or has more than 8 bits for each colour.
        """
        found = _header(self.image)
        if found.deep:
            raise ValueError(DEPTH.format(self.image))
        return found

    def sizes(self) -> list[int]:
        """Bytes of the image, and of its label map: files of a name are told apart by them."""
        return [path.stat().st_size for path in (self.image, self.label) if path is not None]

    def read(self) -> NDArray[np.uint8]:
        """The image, RGB, shape (H, W, 3); a grey one three times, and without an alpha channel.

        Raises:
            ValueError: If it cannot be read, or has more than 8 bits for each colour.
        """
        with _opened(self.image) as opened:
            # OpenCV makes the missing part of a JPEG grey.
            if opened.format in ('JPEG', 'MPO'):
                opened.load()
        found = cv2.imread(str(self.image), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if found is None:
            raise ValueError(f'{self.image} cannot be read as an image')
        if found.dtype != np.uint8:
            raise ValueError(DEPTH.format(self.image))
        return np.ascontiguousarray(found[..., ::-1], dtype=np.uint8)

    def read_label(self, reduced: bool, ignore_index: int) -> NDArray[np.int64] | None:
        """The label map, shape (H, W); ``reduced``: 0 means "no class", and 1 the first class."""
        if self.label is None:
            return None
        with _opened(self.label) as opened:
            label = np.array(opened)
        if label.ndim != 2 or label.dtype.kind not in 'iub':
            raise ValueError(
                f'{self.label} must hold a class number for each pixel, got {label.dtype} of shape '
                f'{label.shape}'
            )
        label = label.astype(np.int64)
        if not reduced:
            return label
        nothing = (label == 0) | (label == ignore_index)
        return np.where(nothing, ignore_index, label - 1)


def find_images(
    images: Path,
    labels: Path | None = None,
    *,
    image_suffix: str | None = None,
    label_suffix: str = '.png',
    limit: int | None = None,
) -> list[ImageFile]:
    """The images of a folder and all folders in it, each with its label map.

    The label map of ``IMAGES/a/b.jpg`` is ``LABELS/a/b.png``: what follows ``image_suffix``, or the
    ending of the file, is replaced by ``label_suffix``. All files are looked at, so that nothing is
    missing when it comes to them.

    Args:
        images (Path): The folder.
        labels (Path | None): That of the label maps.
        image_suffix (str | None): How the names of images end; by default in that of any picture.
        label_suffix (str): How those of label maps end.
        limit (int | None): Takes so many images, evenly spaced.

    Raises:
        FileNotFoundError: If there are no images, a label map is missing, or a link leads nowhere.
        ValueError: If a file is no picture or its name no text, a label map has another size than
            its image, or copies of an image have other label maps.
    """
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {folder}')
        if folder is not None and not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(f'the folder {folder} cannot be read: permission denied')
    found = sorted(path for path in _files_in(images) if _is_image(path, image_suffix))
    if not found:
        wanted = image_suffix or ', '.join(sorted(ENDINGS))
        raise FileNotFoundError(f'no images in {images} (names that end in {wanted})')
    if limit is not None and limit < len(found):
        found = [found[index * len(found) // limit] for index in range(limit)]
    files = []
    for path in found:
        _require_readable_name(path)
        name = path.relative_to(images).as_posix()
        stem = name.removesuffix(image_suffix or path.suffix)
        files.append(ImageFile(path, None if labels is None else labels / (stem + label_suffix)))
    missing = [file.label for file in files if file.label is not None and not file.label.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(files)} images have no label map, for example {missing[0]} is '
            'not there (see --image-suffix and --label-suffix)'
        )
    for file in files:
        size = file.header.size
        if file.label is not None and (other := _header(file.label).size) != size:
            raise ValueError(
                f'{file.label} has {other[0]} x {other[1]} pixels, but its image {file.image} has '
                f'{size[0]} x {size[1]}'
            )
    _check_copies(files)
    return files


def _check_copies(files: Sequence[ImageFile]) -> None:
    """Refuses copies of an image that share their votes, but not what these are compared with."""
    alike: defaultdict[tuple[str, int], list[ImageFile]] = defaultdict(list)
    for file in files:
        if file.label is not None:
            alike[file.image.stem, file.image.stat().st_size].append(file)
    for several in alike.values():
        # None is read where no other one could be its copy.
        first_of: dict[bytes, ImageFile] = {}
        for file in several if len(several) > 1 else ():
            first = first_of.setdefault(hashlib.blake2b(file.image.read_bytes()).digest(), file)
            assert first.label is not None and file.label is not None
            if not filecmp.cmp(first.label, file.label, shallow=False):
                raise ValueError(
                    f'{first.image} and {file.image} are the same image with the same name, but '
                    f'have different label maps, {first.label} and {file.label}: rename one'
                )


def _files_in(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files of a folder and of those in it; links are followed, though in no circle."""
    place = folder.resolve()
    if place not in above:
        for path in folder.iterdir():
            if path.is_dir():
                yield from _files_in(path, above | {place})
            else:
                yield path


def _require_readable_name(path: Path) -> None:
    """Refuses what no reader opens: OpenCV crashes on names that are no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f'the name of {str(path)!r} is no text in UTF-8: rename it') from None
    if not path.is_file():
        what = 'a link to a file that is not there' if path.is_symlink() else 'no file'
        raise FileNotFoundError(f'{path} is {what}')


def _is_image(path: Path, suffix: str | None) -> bool:
    return path.name.endswith(suffix) if suffix else path.suffix.lower() in ENDINGS


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, of which only the header is read; what goes wrong names it."""
    try:
        with Image.open(path) as opened:
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError(f'{path} is no picture') from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ValueError(f'{path} cannot be read: {reason}') from error


def _header(path: Path) -> Header:
    """What the header of a picture says."""
    with _opened(path) as opened:
        width, height = opened.size
        # Before anything is decoded.
        layout = str([tile[3] for tile in getattr(opened, 'tile', ())])
        exif = _exif_of_png(path, opened) if opened.format == 'PNG' else opened.getexif()
        sideways = exif.get(ORIENTATION) in SIDEWAYS
        deep = opened.mode.startswith(('I', 'F')) or ';16' in layout
        return Header((width, height) if sideways else (height, width), opened.mode, deep)


def _exif_of_png(path: Path, opened: Image.Image) -> Image.Exif:
    """The EXIF data of a PNG that is whole; Pillow would decode it for data behind the pixels.

    Raises:
        OSError: If its end is missing.
    """
    found = kind = b''
    with path.open('rb') as file:
        file.seek(PNG_BEGINS)
        while kind != b'IEND':
            length, kind = struct.unpack('>I4s', _whole(file, 8))
            if kind == b'eXIf':
                found = _whole(file, length)
            else:
                file.seek(length, os.SEEK_CUR)
            _whole(file, 4)  # The checksum.
    if any(key in opened.info for key in ('exif', 'Raw profile type exif')):
        return opened.getexif()
    exif = Image.Exif()
    exif.load(found)
    return exif


def _whole(file: IO[bytes], count: int) -> bytes:
    """So many bytes of a file."""
    found = file.read(count)
    if len(found) < count:
        raise OSError('image file is truncated')
    return found


def describe_modes(files: Sequence[ImageFile]) -> list[str]:
    """What is done to images that are not RGB, a line for each kind."""
    modes = [file.header.mode for file in files]
    grey = sum(mode in ('1', 'L', 'LA') for mode in modes)
    alpha = sum(mode in ('LA', 'RGBA', 'PA') for mode in modes)
    other = sum(mode in ('CMYK', 'YCbCr', 'LAB', 'HSV') for mode in modes)
    return [
        f'note: {count} of {len(files)} images {what}'
        for count, what in (
            (grey, 'are grey: each is certified as an RGB image, with three equal channels'),
            (alpha, 'have an alpha channel, which is left out'),
            (other, 'have other colours than RGB: each is certified as OpenCV converts it'),
        )
        if count
    ]


def check_labels(smoothed: Smoothed, files: Sequence[ImageFile], reduced: bool) -> None:
    """Looks at label maps, before anything is sampled.

    Raises:
        ValueError: If one of them is no label map for the model; the message names it.
    """
    for file in files:
        label = file.read_label(reduced, smoothed.ignore_index)
        if label is not None:
            try:
                smoothed.checked_label(label, (label.shape[0], label.shape[1]))
            except ValueError as error:
                raise ValueError(f'{file.label}: {error}') from error


class FolderRun:
    """A run over the images of a folder.

    Writes into ``results_dir`` of the model what the hook writes: ``votes-*``, ``certificates-*``,
    ``confidence-*``, ``vis-*``, ``summary.json`` and ``images.jsonl``. All tools that read results
    or votes take them.

    Several processes either divide the images (``processes``), or share the draws of each
    (``smoothed.processes``). With a ``shard`` the run is a job of several: it leaves a manifest
    beside the votes, its own summary goes to ``shard-*``, and ``mmcert merge`` makes the whole of
    all shards. Neither changes votes or certificates.

    Args:
        smoothed (Smoothed): The model, with a ``results_dir``.
        files (Sequence[ImageFile]): The images, at least one.
        logger (logging.Logger): Gets progress and tables.
        draw_every (int): Draws a picture of every so-many-th image; 0 draws none.
        confidence (str | None): What is written of the confidence in each pixel: 'pictures' (with
            their arrays), 'arrays' or None.
        reduce_labels (bool): Whether 0 in the label maps means "no class", and 1 the first class.
        processes (ProcessGroup | None): Processes that divide the images.
        shard (Shard | None): Certifies one shard of the images.
        images (Path | None): The folder of the images, for ``mmcert report`` to find them in.
    """

    def __init__(
        self,
        smoothed: Smoothed,
        files: Sequence[ImageFile],
        logger: logging.Logger,
        *,
        draw_every: int = 0,
        confidence: str | None = None,
        reduce_labels: bool = False,
        processes: ProcessGroup | None = None,
        shard: Shard | None = None,
        images: Path | None = None,
    ) -> None:
        if smoothed.results_dir is None:
            raise ValueError('a run needs a folder for its results: give results_dir')
        self.smoothed, self.files, self.logger = smoothed, files, logger
        self.out_dir = Path(smoothed.results_dir)
        self.draw_every, self.confidence = draw_every, confidence
        self.reduce_labels = reduce_labels
        self.processes, self.shard = processes or ProcessGroup(), shard
        self.images = images

    @property
    def numbers(self) -> range:
        """Numbers of the images of this job, of all its processes."""
        total = len(self.files)
        return range(total) if self.shard is None else self.shard.positions(total)

    def run(self) -> Summary:
        """Certifies the images, and writes the summary; all processes get it.

        Raises:
            ValueError: If an image or its label map cannot be certified; what is done is kept.
        """
        smoothed, numbers = self.smoothed, self.numbers
        # The same image in all processes and shards.
        smoothed.start(self.files[0].read())
        store = smoothed.store
        assert store is not None, 'a run keeps its votes'
        names = [file.image.name for file in self.files]
        self.processes.require_same({'images': names, **smoothed.sampling})
        is_first = self.processes.rank == smoothed.processes.rank == 0
        manifest = None if self.shard is None else self._manifest(self.shard)
        mine = numbers[self.processes.rank :: self.processes.size]
        if mine and self.files[mine[0]].label is not None:
            self.logger.info('looking at %d label maps', len(mine))
        with self.processes.fail_together(torch.device('cpu')):
            check_labels(smoothed, [self.files[number] for number in mine], self.reduce_labels)
        if manifest is not None:
            manifest.begin(store.folder, write=is_first)
        found = self.processes.gather(list(self._results(mine)))
        results = [found[place % len(found)][place // len(found)] for place in range(len(numbers))]
        summary = Summary(results, len(smoothed.classes), smoothed.classes)
        if is_first:
            # Jobs of other shards may write to the same folder.
            name = '' if self.shard is None else f'shard-{self.shard.file_name}'
            write_summary(summary, self.out_dir / name)
            if self.images is not None:
                write_data_folder(self.out_dir, self.images)
            if manifest is not None:
                manifest.finish(store.folder, [(one.name, one.certificate) for one in results])
        return summary

    def _manifest(self, shard: Shard) -> Manifest:
        """What the shard should hold."""
        smoothed = self.smoothed
        task = {
            'num_classes': len(smoothed.classes),
            'classes': smoothed.classes,
            'ignore_index': smoothed.ignore_index,
            'reduce_labels': self.reduce_labels,
            'labelled': self.files[0].label is not None,
            'file_sizes': fingerprint({'bytes': [file.sizes() for file in self.files]}),
            **asked_attack(smoothed.plan),
        }
        return Manifest.of(
            shard,
            [file.image.stem for file in self.files],
            sampling=smoothed.sampling,
            settings=smoothed.plan.settings_to_dict(),
            task=task,
        )

    def _results(self, numbers: Sequence[int]) -> Iterator[InputResult]:
        """Certifies images and writes what there is of each."""
        smoothed, plan = self.smoothed, self.smoothed.plan
        name = results_name(plan, smoothed.sampling)
        writer = ResultsWriter(
            self.out_dir / f'certificates-{name}',
            self.out_dir / f'confidence-{name}',
            self.out_dir / f'vis-{name}',
            self.draw_every,
            self.confidence,
        )
        progress = Progress(len(numbers), plan.most_draws, 'image', self.logger, unit='images')
        smoothed.on_draws = progress.on_draws
        self.logger.info('smoothing: %s; %s', plan.describe(), plan.aim())
        for note in describe_modes([self.files[number] for number in numbers]):
            self.logger.info(note)
        running = total([], len(smoothed.classes))
        for number in numbers:
            file = self.files[number]
            certified = self._certify(file)
            counts = certified.counts(smoothed.ignore_index)
            document, image_name = certified.to_dict(), certified.record.meta['name']
            if smoothed.processes.rank == 0:
                writer.write(
                    image_name,
                    document,
                    certified.maps,
                    certified.confidence,
                    partial(self._draw, file, certified),
                    partial(self._draw_confidence, certified),
                    number,
                )
            running = running + counts
            so_far = f'abstain {running.rates()["abstain"]:.4f}'
            if file.label is not None:
                so_far = f'certified accuracy {running.rates()["certAcc"]:.4f}, {so_far}'
            self.logger.info('%s; so far %s', progress.batch_done(1), so_far)
            yield InputResult(image_name, entries(document), counts)

    def _certify(self, file: ImageFile) -> CertifiedInput:
        image = file.read()
        label = file.read_label(self.reduce_labels, self.smoothed.ignore_index)
        try:
            return self.smoothed.certify(image, label, file.image.stem)
        except ValueError as error:
            raise ValueError(f'{file.image}: {error}') from error

    def _draw(self, file: ImageFile, certified: CertifiedInput) -> NDArray[np.uint8]:
        return certificate_picture(
            file.read(),
            certified.maps,
            class_colours(len(self.smoothed.classes)).tolist(),
            self.smoothed.classes,
            title=certificate_title(entries(certified.to_dict())),
            hierarchy=self.smoothed.plan.hierarchy,
        )

    def _draw_confidence(self, certified: CertifiedInput) -> NDArray[np.uint8]:
        classes = self.smoothed.classes
        colours = class_colours(len(classes)).tolist()
        return confidence_picture(certified.confidence, colours, classes)
