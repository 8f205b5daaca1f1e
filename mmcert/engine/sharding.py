"""Restricts a test run to the images of one shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset

from mmcert.votes.shards import Shard

SOURCE_KEYS = ('img_path', 'lidar_path', 'pts_filename')
"""Where a data set says which file an input comes from."""


class ShardedDataset(Subset):
    """The images of one shard, with what evaluators and mmcert read of their data set."""

    def __init__(self, dataset: Any, shard: Shard) -> None:
        super().__init__(dataset, shard.positions(len(dataset)))
        for name in ('metainfo', 'ignore_index'):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedDataset:
        """The same: mmengine copies a data loader's config with all that is in it."""
        return self


def sharded_loader(runner: Runner, shard: Shard) -> DataLoader:
    """The runner's test data loader, over the images of a shard alone.

    It is built as mmengine builds it, so that samplers, batches and the processes of the job divide
    the shard as they would divide the data set.

    Raises:
        ValueError: If there are more shards than images.
    """
    cfg = dict(runner.cfg.test_dataloader)
    # The data set has been cut to so many batches already.
    cfg.pop('num_batch_per_epoch', None)
    cfg['dataset'] = ShardedDataset(runner.test_dataloader.dataset, shard)
    different = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.build_dataloader(cfg, seed=runner.seed, diff_rank_seed=different)


def source_names(dataset: Any) -> list[str]:
    """The file that each input comes from, without folder and ending; empty if it is not known."""
    if not hasattr(dataset, 'get_data_info'):
        return [''] * len(dataset)
    infos = map(dataset.get_data_info, range(len(dataset)))
    return [
        next((Path(str(info[key])).stem for key in SOURCE_KEYS if info.get(key)), '')
        for info in infos
    ]


def file_sizes(dataset: Any) -> list[list[int]]:
    """Bytes of the files that each entry of a data set names: its input, its label map and so on.

    They tell apart folders in which files have the same names.
    """
    if not hasattr(dataset, 'get_data_info'):
        return []
    return [_sizes(dataset.get_data_info(index)) for index in range(len(dataset))]


def _sizes(info: Any) -> list[int]:
    if isinstance(info, Mapping):
        return [size for key in sorted(info, key=str) for size in _sizes(info[key])]
    if not isinstance(info, str):
        return []
    try:
        return [Path(info).stat().st_size] if Path(info).is_file() else []
    except (OSError, ValueError):  # Text that can be no path.
        return []
