"""Where votes come from: what determines them, and what else is worth recording."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from mmcert.certifier import code_digest, weights_digest
from mmcert.engine.base_model import unwrap
from mmcert.metrics.confusion import IGNORE_INDEX
from mmcert.models.ensemble import SegmentorEnsemble
from mmcert.models.smoothed_segmentor import SmoothingPlan
from mmcert.version import versions
from mmcert.votes.store import fingerprint

MODEL_KEYS = ('model', 'data_preprocessor')
"""Top-level keys of a config that make the base model."""

IN_VOTES = ('resolution', 'certified_space', 'denoiser')
"""What votes files record of the smoothed function, of what certificates say of it."""

PACKAGES = (
    'torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'numpy', 'scipy', 'opencv-python',
    'opencv-python-headless', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation',
)  # fmt: skip


class RunInfo:
    """What certification reads of a runner that is about to test.

    Args:
        runner (Runner): The runner.

    Attributes:
        base (BaseModel): The base model, unwrapped, and ``device``, where it runs.
        dataset (Any): The test data set, and its ``metainfo``, ``classes`` (names; their numbers
            where there are no names) and ``ignore_index``.
        batches (int): Batches of the test data loader.
        cfg (Mapping): The runner's config, and its ``work_dir``.
        fp16 (bool): Whether the test loop runs under autocast.

    Raises:
        TypeError: If the model cannot be smoothed.
    """

    def __init__(self, runner: Runner) -> None:
        self.base = unwrap(runner.model)
        self.device = next(self.base.parameters()).device
        self.dataset = runner.test_dataloader.dataset
        self.metainfo = dict(getattr(self.dataset, 'metainfo', {}))
        self.classes = list(self.metainfo.get('classes') or map(str, range(self.base.num_classes)))
        self.ignore_index = getattr(self.dataset, 'ignore_index', IGNORE_INDEX)
        self.batches = len(runner.test_dataloader)
        self.cfg, self.work_dir = runner.cfg, runner.work_dir
        # Of the loop itself: one of the user's own may have another default than the config says.
        self.fp16 = bool(getattr(runner.test_loop, 'fp16', False))

    def sampling(self, plan: SmoothingPlan) -> dict[str, Any]:
        """All that determines the votes of an input, as JSON values."""
        # Other devices have other generators and other rounding: their votes do not mix.
        on_cpu = self.device.type == 'cpu'
        code = code_digest(self.base)
        return {
            **({} if on_cpu else {'arithmetic': plan.precision.to_dict(self.device)}),
            **({'code': code} if code else {}),
            **plan.spec(),
            'fp16': self.fp16,
            'weights': weights_digest(self.base),
            'model': fingerprint(_plain({key: self.cfg.get(key) for key in MODEL_KEYS})),
            'data': _dataset_spec(self.cfg['test_dataloader']['dataset']),
        }

    def identity(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """What certificates say of the base model, given what determines the votes."""
        return {
            'weights': sampling['weights'],
            'model': sampling['model'],
            **self._ensemble(),
            'config': Path(self.cfg.filename or '').name,
            'checkpoint': Path(str(self.cfg.get('load_from') or '')).name,
            'device': self.device.type,
            'versions': versions(PACKAGES),
        }

    def _ensemble(self) -> dict[str, Any]:
        if not isinstance(self.base, SegmentorEnsemble):
            return {}
        return {'ensemble_of': len(self.base.members), 'base_model': self.base.describe()}

    def provenance(self, plan: SmoothingPlan, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What votes files record besides, so that they can be read without the data set."""
        space = plan.adapter.to_dict()
        return {
            **identity,
            **{key: space[key] for key in IN_VOTES if key in space},
            'classes': self.classes,
            'num_classes': len(self.classes),
            'ignore_index': self.ignore_index,
        }


def _dataset_spec(cfg: Any) -> Any:
    """What a data set's config says of its images, without the folder it lies in."""
    if isinstance(cfg, (list, tuple)):
        return [_dataset_spec(item) for item in cfg]
    if not isinstance(cfg, Mapping):
        return cfg
    return _plain(
        {
            key: _dataset_spec(value) if key in ('dataset', 'datasets') else value
            for key, value in cfg.items()
            if key not in ('data_root', 'indices', 'metainfo')
        }
    )


def _plain(value: Any) -> Any:
    """Configs as JSON values, without the order and the types that do not matter."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))
