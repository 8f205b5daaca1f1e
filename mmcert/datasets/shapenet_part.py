"""ShapeNetPart: point clouds of single objects with labelled parts, and its pipeline.

The data set is Yi et al., "A scalable active framework for region annotation in 3D shape
collections", 2016, in the public layout with normals
(``shapenetcore_partanno_segmentation_benchmark_v0_normal``): ``synsetoffset2category.txt``,
``train_test_split/shuffled_{train,val,test}_file_list.json``, and ``<synset>/<id>.txt`` with a
point in each line, ``x y z nx ny nz label``. The y axis points up.

mmdetection3d is imported only when a shape is loaded.
"""

import colorsys
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from numpy.typing import NDArray

from mmcert.registry import DATASETS, TRANSFORMS

CATEGORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    'Airplane': ('02691156', ('body', 'wing', 'tail', 'engine')),
    'Bag': ('02773838', ('handle', 'body')),
    'Cap': ('02954340', ('panels', 'peak')),
    'Car': ('02958343', ('roof', 'hood', 'wheel', 'body')),
    'Chair': ('03001627', ('back', 'seat', 'leg', 'arm')),
    'Earphone': ('03261776', ('earpiece', 'headband', 'wire')),
    'Guitar': ('03467517', ('head', 'neck', 'body')),
    'Knife': ('03624134', ('blade', 'handle')),
    'Lamp': ('03636649', ('base', 'shade', 'canopy', 'post')),
    'Laptop': ('03642806', ('keyboard', 'screen')),
    'Motorbike': ('03790512', ('tank', 'seat', 'wheel', 'handlebar', 'light', 'body')),
    'Mug': ('03797390', ('handle', 'cup')),
    'Pistol': ('03948459', ('barrel', 'handle', 'trigger')),
    'Rocket': ('04099429', ('body', 'fin', 'nose')),
    'Skateboard': ('04225987', ('wheel', 'deck', 'truck')),
    'Table': ('04379243', ('top', 'leg', 'drawer')),
}
"""WordNet synset and part names of each category, in the order of the category ids.

The files only number the parts; these names say what the numbers mean.
"""
CLASSES = tuple(f'{name} {part}' for name, (_, parts) in CATEGORIES.items() for part in parts)
CATEGORY_PARTS = {
    name: tuple(i for i, label in enumerate(CLASSES) if label.startswith(f'{name} '))
    for name in CATEGORIES
}
"""The part labels of each category, 0 to 49."""


def _colour(category: int, rank: int, count: int) -> list[int]:
    """Colours that differ most within a category, none of them white."""
    hue = rank / count + 0.045 * category
    colour = colorsys.hsv_to_rgb(hue % 1, 0.8, (0.95, 0.75)[rank % 2])
    return [round(255 * channel) for channel in colour]


SPLITS = {'train': ['train'], 'val': ['val'], 'trainval': ['train', 'val'], 'test': ['test']}
"""The file lists of each split."""


@DATASETS.register_module()
class ShapeNetPartDataset(BaseDataset):
    """Objects of 16 categories with 50 part labels, each category having its own labels.

    A sample starts its pipeline with ``lidar_path`` (the shape's file), ``shape_id``
    ('<synset>/<id>'), ``category`` (name), ``category_id`` (0 to 15), ``sample_idx`` (its number in
    the split) and, in test mode, ``eval_ann_info``. The pipeline sets how many points are used, and
    whether with normals: ``LoadShape``, ``CentreAndScale``, ``SampleShapePoints``,
    ``AppendCategory``.

    Args:
        data_root (str): Folder in the public layout; see the module's docstring.
        split (str): 'train', 'val', 'trainval' or 'test'.
        categories (Sequence[str] | None): Keeps these categories only, with the same labels and
            category ids.
        **kwargs: Passed to ``mmengine.dataset.BaseDataset``.

    Raises:
        ValueError: If the split or a category is unknown, or a file list is malformed.
        FileNotFoundError: If the folder or one of its lists is missing.

    >>> ShapeNetPartDataset.METAINFO['category_parts']['Mug']
    (36, 37)
    """

    METAINFO = {
        'classes': CLASSES,
        'palette': [
            _colour(category, rank, len(parts))
            for category, parts in enumerate(CATEGORY_PARTS.values())
            for rank in range(len(parts))
        ],
        'categories': tuple(CATEGORIES),
        'category_parts': CATEGORY_PARTS,
        'label2cat': dict(enumerate(CLASSES)),
        'ignore_index': 255,
        'up_axis': 1,
    }

    def __init__(
        self,
        data_root: str = 'data/shapenetcore_partanno_segmentation_benchmark_v0_normal',
        split: str = 'train',
        categories: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {", ".join(SPLITS)}, got {split!r}')
        unknown = set(categories or ()) - set(CATEGORIES)
        if unknown:
            raise ValueError(
                f'unknown categories: {", ".join(sorted(unknown))}; '
                f'the data set has {", ".join(CATEGORIES)}'
            )
        self.split = split
        self.categories = tuple(CATEGORIES if categories is None else categories)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One sample for each shape of the split; see the class."""
        root = Path(self.data_root)
        if not root.is_dir():
            raise FileNotFoundError(
                f'there is no folder {root}. Put ShapeNetPart with normals there '
                '(shapenetcore_partanno_segmentation_benchmark_v0_normal, from '
                'https://shapenet.cs.stanford.edu), or take mmcert.PartShapesDataset, which makes '
                'synthetic shapes in the same layout.'
            )
        names = _read_synsets(root)
        kept = []
        for part in SPLITS[self.split]:
            path = root / 'train_test_split' / f'shuffled_{part}_file_list.json'
            for entry in json.loads(_read(path, f'the list of the {part} split')):
                synset, _, shape = entry.removeprefix('shape_data/').partition('/')
                if not shape or synset not in names:
                    raise ValueError(
                        f'{path}: {entry!r} is not shape_data/<synset>/<id> with a synset of '
                        'synsetoffset2category.txt'
                    )
                if (category := names[synset]) not in self.categories:
                    continue
                kept.append(
                    {
                        'lidar_path': str(root / synset / f'{shape}.txt'),
                        'shape_id': f'{synset}/{shape}',
                        'category': category,
                        'category_id': list(CATEGORIES).index(category),
                        **({'eval_ann_info': {}} if self.test_mode else {}),
                    }
                )
        return kept


def _read(path: Path, what: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f'{what} is missing: {path}')
    return path.read_text()


def _read_synsets(root: Path) -> dict[str, str]:
    """The category of each synset, as ``synsetoffset2category.txt`` has it."""
    path = root / 'synsetoffset2category.txt'
    names = {}
    for number, line in enumerate(_read(path, 'the list of categories').splitlines(), start=1):
        if not (fields := line.split()):
            continue
        if len(fields) != 2 or fields[0] not in CATEGORIES:
            raise ValueError(
                f'{path}, line {number}: {line!r} is not a category and its synset; '
                f'categories are {", ".join(CATEGORIES)}'
            )
        names[fields[1]] = fields[0]
    return names


def read_shape(path: str | Path, category: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Reads a shape's file: coordinates and normals (N, 6), and part labels (N,).

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the category is unknown, or the file has a malformed line, a coordinate that
            is not finite, or a label of another category; the message names the file.
    """
    if category not in CATEGORY_PARTS:
        raise ValueError(f'unknown category {category!r}; known: {", ".join(CATEGORY_PARTS)}')
    lines = _read(Path(path), f'the file of a {category} in the list').splitlines()
    if not lines:
        raise ValueError(f'{path} has no points')
    try:
        values = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f'{path} has a malformed line: {error}') from error
    if values.shape[1] != 7:
        raise ValueError(
            f'{path} must have 7 columns, x y z nx ny nz label, but has {values.shape[1]}'
        )
    broken = np.flatnonzero(~np.isfinite(values[:, :3]).all(axis=1))
    if len(broken):
        first = broken[0]
        raise ValueError(
            f'{path}, line {first + 1}: the coordinates {values[first, :3]} are not finite'
        )
    foreign = np.flatnonzero(~np.isin(values[:, 6], CATEGORY_PARTS[category]))
    if len(foreign):
        raise ValueError(
            f'{path}, line {foreign[0] + 1}: label {values[foreign[0], 6]:g} is no part of '
            f'{category}, which has {CATEGORY_PARTS[category]}'
        )
    return values[:, :6].astype(np.float32), values[:, 6].astype(np.int64)


class _ShapeTransform(BaseTransform):
    """A transform that prints its arguments."""

    def __repr__(self) -> str:
        arguments = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({arguments})'


@TRANSFORMS.register_module()
class LoadShape(_ShapeTransform):
    """Loads a shape's points and part labels.

    Required keys: ``lidar_path``, ``category``. Adds ``points`` (``CameraPoints``, whose rotation
    axis y is the shapes' vertical; columns x, y, z and, with normals, nx, ny, nz, named 'normal' in
    ``attribute_dims``) and ``pts_semantic_mask`` (int64, (N,)), the latter also in
    ``eval_ann_info`` where the sample has one.

    Args:
        use_normals (bool): Whether the points carry their normals.
    """

    def __init__(self, use_normals: bool = True) -> None:
        self.use_normals = use_normals

    def transform(self, results: dict) -> dict:
        """Reads the file; see ``read_shape``."""
        from mmdet3d.structures import CameraPoints

        values, labels = read_shape(results['lidar_path'], results['category'])
        if self.use_normals:
            if not np.isfinite(values).all():
                raise ValueError(f'{results["lidar_path"]} has a normal that is not finite')
            results['points'] = CameraPoints(values, 6, attribute_dims=dict(normal=[3, 4, 5]))
        else:
            results['points'] = CameraPoints(values[:, :3], 3)
        return _with_labels(results, labels)


def _with_labels(results: dict, labels: NDArray[np.int64]) -> dict:
    results['pts_semantic_mask'] = labels
    if 'eval_ann_info' in results:
        results['eval_ann_info']['pts_semantic_mask'] = labels
    return results


@TRANSFORMS.register_module()
class CentreAndScale(_ShapeTransform):
    """Moves the mean of the points to the origin and scales the farthest one to distance 1.

    The cloud then lies in the unit ball, whose radius is the unit of noise levels and radii.
    Normals and other attributes do not change. As in the public PointNet++ training, place it
    before ``SampleShapePoints``, so that all points of the shape count.

    Modified key: ``points``.

    Raises:
        ValueError: If all points are the same.
    """

    def transform(self, results: dict) -> dict:
        """Changes the coordinates of ``results['points']``."""
        points = results['points']
        centred = points.tensor[:, :3] - points.tensor[:, :3].mean(dim=0)
        size = centred.norm(dim=1).max()
        if not size > 0:
            raise ValueError(
                f'{results.get("lidar_path", "the cloud")} has no extent: all {len(centred)} '
                'points are the same'
            )
        points.tensor[:, :3] = centred / size
        return results


@TRANSFORMS.register_module()
class SampleShapePoints(_ShapeTransform):
    """Keeps a random subset of a shape's points, the same number for every shape.

    A shape with fewer points (many of ShapeNetPart's have fewer than 2048) keeps all of them, and
    is filled up with points drawn again with replacement.

    Required and modified keys: ``points``, ``pts_semantic_mask``, also in ``eval_ann_info``.
    ``shape_id`` is required with a seed.

    Args:
        num_points (int): Number of points kept.
        seed (int | None): With a seed every shape has one fixed subset, in any order and process of
            loading; without, each loading draws a new one.

    Raises:
        ValueError: If ``num_points`` is not positive.
    """

    def __init__(self, num_points: int = 2048, seed: int | None = None) -> None:
        if num_points < 1:
            raise ValueError(f'num_points must be at least 1, got {num_points}')
        self.num_points = num_points
        self.seed = seed

    def transform(self, results: dict) -> dict:
        """Draws the subset."""
        if self.seed is None:
            # mmengine seeds the legacy NumPy generator of each worker.
            rng = np.random.default_rng(np.random.randint(2**31))
        else:
            rng = np.random.default_rng((self.seed, zlib.crc32(results['shape_id'].encode())))
        available = len(results['points'])
        chosen = rng.permutation(available)[: self.num_points]
        if available < self.num_points:
            again = rng.integers(available, size=self.num_points - available)
            chosen = np.concatenate([chosen, again])
        results['points'] = results['points'][torch.from_numpy(chosen)]
        return _with_labels(results, results['pts_semantic_mask'][chosen])


@TRANSFORMS.register_module()
class AppendCategory(_ShapeTransform):
    """Appends the shape's category as one-hot columns to every point.

    The category thus travels with the points through mmdetection3d to ``mmcert.PartSegmentor``,
    which reads the last columns. Place it after all transforms that look at the points.

    Required key: ``category_id``. Modified key: ``points``, with 'category' in ``attribute_dims``.

    Raises:
        ValueError: If the category id is out of range.
    """

    def transform(self, results: dict) -> dict:
        """Widens ``results['points']``."""
        category, count = results['category_id'], len(CATEGORIES)
        if not 0 <= category < count:
            raise ValueError(
                f'category id {category} of {results.get("shape_id", "the sample")} must lie in '
                f'0 to {count - 1}'
            )
        points = results['points']
        width = points.tensor.shape[1]
        one_hot = points.tensor.new_zeros(len(points), count)
        one_hot[:, category] = 1
        columns = list(range(width, width + count))
        results['points'] = type(points)(
            torch.cat([points.tensor, one_hot], dim=1),
            width + count,
            attribute_dims={**(points.attribute_dims or {}), 'category': columns},
        )
        return results
