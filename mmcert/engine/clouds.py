"""Finds the clouds that certificates are of, in the test data of a config."""

from collections.abc import Iterator

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from numpy.typing import NDArray

from mmcert.report.results_folder import StoredResult
from mmcert.sampling.draws import input_digest


class CloudFinder:
    """Finds clouds by what they hold, as the test pipeline of a config delivers them.

    ``axes`` are the coordinates of the pipeline in the order in which they are returned.

    Args:
        cfg (Config): The config of the run.
    """

    def __init__(self, cfg: Config) -> None:
        init_default_scope(cfg.get('default_scope', 'mmdet3d'))
        self._dataset = DATASETS.build(cfg.test_dataloader.dataset)
        up = self._dataset.metainfo.get('up_axis', 2)
        self.axes = [(up + step) % 3 for step in (1, 2, 0)]
        self._read: dict[str, NDArray[np.float32]] = {}
        self._unread = self._delivered()

    def _delivered(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Digest and coordinates of each cloud of the data set."""
        for index in range(len(self._dataset)):
            points = self._dataset[index]['inputs']['points']
            yield input_digest(points).hex(), points[:, :3].numpy().astype(np.float32)

    def __call__(self, result: StoredResult) -> NDArray[np.float32] | None:
        """The coordinates of a cloud, shape (N, 3), the last one up; None if it is not there."""
        digest = result.certificate['input']['digest']
        while digest not in self._read:
            found = next(self._unread, None)
            if found is None:
                return None
            self._read[found[0]] = found[1]
        return self._read[digest][:, self.axes]
