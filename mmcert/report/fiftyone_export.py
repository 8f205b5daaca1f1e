"""A run as a folder of masks and heat maps, and as a dataset of FiftyOne.

The folder is plain: 8-bit PNG files and a ``samples.json``. It is written without FiftyOne, which
is needed only where the folder becomes a dataset of its database.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL
from mmcert.files import legal_json, write_json
from mmcert.report.results_folder import ResultsFolder, StoredResult
from mmcert.votes.confidence import NO_RUNNER_UP, confidence_maps

FORMAT, VERSION = 'mmcert samples', 1
"""What ``samples.json`` calls itself."""

NO_CLASS = 0
"""Value of masks without a label or a runner-up. FiftyOne shows nothing there: class c is c + 1."""

ABSTAINED = ABSTAIN_LABEL + 1
"""Value of masks where nothing is certified."""

Picture = NDArray[np.uint8]
"""An RGB image, shape (H, W, 3)."""


@dataclass(frozen=True)
class Exported:
    """What a folder holds.

    Attributes:
        samples (int): Number of images.
        missing (list[str]): Names of the results whose image was not found, which are left out.
        without_votes (bool): Whether there were no votes, so that only certified maps are there.
    """

    samples: int
    missing: list[str]
    without_votes: bool


def export_samples(
    results: ResultsFolder,
    out: str | os.PathLike[str],
    find_picture: Callable[[StoredResult], Picture | None],
) -> Exported:
    """Writes the images of a run with their masks, heat maps and figures.

    ``data`` holds the images, ``masks/FIELD`` label maps and ``heatmaps/FIELD`` maps of numbers,
    all as ``NAME.png`` with 8 bits a channel. In masks class c is c + 1, 0 is no class, and 255
    means abstained. In heat maps 255 is 1, or the largest radius of the run. ``samples.json`` says
    all that in words, lists the files of each image, and has its figures.

    Args:
        results (ResultsFolder): The run.
        out (str | os.PathLike): The folder to write; one of an earlier export is replaced.
        find_picture (Callable): Returns the image of a result, RGB; None leaves it out.

    Returns:
        Exported: What was written.

    Raises:
        FileExistsError: If there is something else at ``out``.
        FileNotFoundError: If no image is found; an earlier export is kept.
        ValueError: If these are not results of images, or files do not belong together.
    """
    out = Path(out)
    if results.word != 'image':
        raise ValueError(f'{results.folder} has results of a {results.word}: only images go there')
    if out.exists() and not _is_export(out):
        raise FileExistsError(f'{out} exists and is no earlier export: give another folder')
    largest, folder = _largest_radius(results), out.with_name(f'{out.name}.partial')
    shutil.rmtree(folder, ignore_errors=True)
    missing, samples, without_votes = list[str](), list[dict[str, Any]](), False
    for line in results.lines:
        result = results.image(line)
        picture = find_picture(result)
        if picture is None:
            missing.append(line['name'])
            continue
        without_votes |= result.record is None
        samples.append(_write_sample(folder, result, picture, largest))
    if not samples:
        raise FileNotFoundError('none of the images was found: --data says where the data set is')
    write_json(folder / 'samples.json', _content(results, largest, samples))
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)
    return Exported(len(samples), missing, without_votes)


def open_in_fiftyone(folder: str | os.PathLike[str], name: str) -> Any:
    """Makes a persistent dataset of FiftyOne of a folder that ``export_samples`` wrote.

    Its samples have the masks as ``Segmentation``, the heat maps as ``Heatmap``, and the figures as
    ``figures.certAcc`` and so on. It refers to the files, which must stay where they are.

    Args:
        folder (str | os.PathLike): The folder.
        name (str): Name of the dataset; one of this name is replaced if it is of such a folder.

    Returns:
        fiftyone.Dataset: The dataset.

    Raises:
        ImportError: If FiftyOne is not installed (the extra ``fiftyone``).
        ValueError: If there is another dataset of that name.
    """
    import fiftyone

    folder = Path(folder).absolute()
    content = json.loads((folder / 'samples.json').read_text())
    if fiftyone.dataset_exists(name):
        if fiftyone.load_dataset(name).info.get('format') != FORMAT:
            raise ValueError(f'FiftyOne has another dataset {name!r}: give another name')
        fiftyone.delete_dataset(name)
    dataset = fiftyone.Dataset(name, persistent=True)
    dataset.default_mask_targets = {int(k): text for k, text in content['mask_targets'].items()}
    dataset.info = {key: content[key] for key in content if key not in ('samples', 'mask_targets')}
    samples = []
    for entry in content['samples']:
        fields = {
            key: fiftyone.Segmentation(mask_path=str(folder / path))
            for key, path in entry['masks'].items()
        } | {
            key: fiftyone.Heatmap(map_path=str(folder / path), range=[0, 255])
            for key, path in entry['heatmaps'].items()
        }
        fields['figures'] = fiftyone.DynamicEmbeddedDocument(**entry['figures'])
        path = str(folder / entry['filepath'])
        samples.append(fiftyone.Sample(filepath=path, mmcert_name=entry['name'], **fields))
    dataset.add_samples(samples, dynamic=True)
    return dataset


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / 'samples.json').read_text()).get('format') == FORMAT
    except (OSError, ValueError):
        return False


def _largest_radius(results: ResultsFolder) -> float:
    """The largest joint radius of a run; 0 where there are none."""
    largest = 0.0
    for line in results.lines:
        file = results.certificates / f'{line["name"]}.npz'
        if file.is_file():
            with np.load(file, allow_pickle=False) as stored:
                if 'radius' in stored:
                    largest = max(largest, float(stored['radius'].max(initial=0.0)))
    return largest


def _write_sample(
    folder: Path, result: StoredResult, picture: Picture, largest: float
) -> dict[str, Any]:
    """Writes the files of an image, and returns its entry of ``samples.json``."""
    name = result.name
    found = {'masks': _masks(result), 'heatmaps': _heats(result, largest)}
    paths = {
        kind: {key: f'{kind}/{key}/{name}.png' for key in maps} for kind, maps in found.items()
    }
    _write(folder / 'data' / f'{name}.png', picture[..., ::-1])
    for kind, maps in found.items():
        for key, values in maps.items():
            _write(folder / paths[kind][key], values)
    figures = {key: value for key, value in result.rates.items() if key != 'name'}
    return {'name': name, 'filepath': f'data/{name}.png', **paths, 'figures': figures}


def _masks(result: StoredResult) -> dict[str, NDArray[np.uint8]]:
    """Label maps as FiftyOne shows them."""
    masks = {'certified': np.where(result.labels == ABSTAIN_LABEL, ABSTAINED, result.labels + 1)}
    if (record := result.record) is not None:
        provenance = record.meta['provenance']
        number, ignored = provenance['num_classes'], provenance['ignore_index']
        maps = confidence_maps(record)
        masks['smoothed'] = maps['guess'] + 1
        if 'runner_up' in maps:
            none = maps['runner_up'] == NO_RUNNER_UP
            masks['runner_up'] = np.where(none, NO_CLASS, maps['runner_up'].astype(int) + 1)
        if record.base is not None:
            masks['base'] = record.spread(record.base).astype(int) + 1
        if record.label is not None:
            label = record.label.astype(int)
            known = (label != ignored) & (label >= 0) & (label < number)
            masks['ground_truth'] = np.where(known, label + 1, NO_CLASS)
    return {key: values.astype(np.uint8) for key, values in masks.items()}


def _heats(result: StoredResult, largest: float) -> dict[str, NDArray[np.uint8]]:
    """Maps of numbers, with 255 for 1 or for the largest radius."""
    heats: dict[str, Any] = {}
    if result.record is not None:
        promise, test = result.certificate['promise'], result.certificate['test']
        joint = promise.get('joint_radius')
        options = {} if joint is None else {'alpha': test['alpha'], 'selection': joint['selection']}
        maps = confidence_maps(result.record, **options)
        heats = {key: maps[key] for key in ('vote_share', 'lower_bound') if key in maps}
    if 'radius' in result.maps and largest > 0:
        heats['radius'] = result.maps['radius'] / largest
    # Rounded down: a value read from such a map is proven where the map's is.
    return {key: np.floor(values * 255).astype(np.uint8) for key, values in heats.items()}


def _content(
    results: ResultsFolder, largest: float, samples: list[dict[str, Any]]
) -> Mapping[str, Any]:
    """What ``samples.json`` says."""
    summary = results.summary
    shared, classes = summary['certificate'], summary['classes']
    number = len(summary['per_class']['certIoU'])
    targets = {NO_CLASS: 'no class', ABSTAINED: 'abstained'}
    targets |= {c + 1: name for c, name in enumerate(classes or map(str, range(number)))}
    return legal_json(
        {
            'format': FORMAT,
            'version': VERSION,
            'mask_targets': {str(value): targets[value] for value in sorted(targets)},
            'masks': 'class c is c + 1; 0 is no class; 255 in certified maps means abstained',
            'heatmaps': (
                '255 is 1; of radius it is largest_radius. vote_share and runner_up are estimates; '
                'lower_bound and radius hold at all pixels of an image with probability 1 - alpha'
            ),
            'largest_radius': largest,
            'certificate': shared,
            'rates': summary['rates'],
            'samples': samples,
        }
    )


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels)):
        raise OSError(f'cannot write {path}')
