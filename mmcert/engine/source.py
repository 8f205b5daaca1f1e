"""A model of OpenMMLab and its test data, for runs over inputs beside their certificates."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, autocast
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certifier import CertifiedInput, Segmentor
from mmcert.engine.base_model import inner
from mmcert.engine.pipeline import require_unaltered_images
from mmcert.engine.provenance import RunInfo
from mmcert.engine.smoothing_config import smoothing_of
from mmcert.engine.weights import mismatches, require_loaded
from mmcert.models.image_adapter import ImageAdapter
from mmcert.models.segmentor import RepeatableSegmentor
from mmcert.models.smoothed_segmentor import SmoothedSegmentor
from mmcert.runs.source import Source, class_palette
from mmcert.votes.shards import Shard


class RunnerSource(Source[BaseDataElement]):
    """The model and the test data of a runner.

    Args:
        runner (Runner): Of a config with ``smoothing``; its checkpoint is loaded here, if it has
            one.

    Raises:
        ValueError: If the smoothing is not valid, the checkpoint does not fit, or the pipeline
            alters images that are to be certified as they are.
    """

    def __init__(self, runner: Runner) -> None:
        self._config = smoothing_of(runner)
        if runner.cfg.get('load_from'):
            checkpoint = runner.load_checkpoint(runner.cfg.load_from)
            if self._config.strict_weights:
                require_loaded(mismatches(inner(runner.model), checkpoint))
        self._run = run = RunInfo(runner)
        self.plan = self._plan = self._config.plan(run.classes)
        self._adapter, self._base = self._plan.adapter, run.base.eval().requires_grad_(False)
        if isinstance(self._adapter, ImageAdapter) and self._adapter.space == 'original':
            require_unaltered_images(run.dataset)
        self.classes, self.ignore_index, self.device = run.classes, run.ignore_index, run.device
        self.palette = run.metainfo.get('palette') or class_palette(len(run.classes))
        self.up_axis = run.metainfo.get('up_axis', 2)
        self.out_dir, self.logger = self._config.results_dir(run.work_dir), runner.logger

    def __len__(self) -> int:
        """Length of the test data."""
        return len(self._run.dataset)

    @property
    def job_size(self) -> int:
        """With a shard, how many inputs that has."""
        shard = self._config.shard
        return len(self) if shard is None else len(Shard.parse(shard).positions(len(self)))

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """What determines the votes."""
        return self._run.sampling(self._plan)

    @property
    def identity(self) -> dict[str, Any]:
        """What certificates say of the base model."""
        return self._smoothed.certifier.identity

    @cached_property
    def _smoothed(self) -> SmoothedSegmentor:
        """What certifies, with the store of votes."""
        identity = self._run.identity(self.sampling)
        provenance = self._run.provenance(self._plan, identity)
        store = self._config.open_store(self.out_dir, self.sampling, provenance)
        return SmoothedSegmentor(
            self._base, self._plan, store=store, identity=identity, logger=self.logger
        )

    def read(self, index: int) -> tuple[torch.Tensor, BaseDataElement]:
        """What the test pipeline makes of an entry of the data set."""
        ((raw, sample),) = self._adapter.inputs(pseudo_collate([self._run.dataset[index]]))
        self._adapter.check(raw, sample)
        return raw.to(self.device), sample

    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        """In the units of the perturbation."""
        return self._adapter.clean_input(raw)

    def segmentor(self, raw: torch.Tensor, sample: BaseDataElement) -> RepeatableSegmentor:
        """The base model, neither compiled nor in graphs: these are for sampling."""
        precision = replace(self._plan.precision, compile=False, cuda_graphs=False)
        return self._adapter.segmentor(self._base, raw, sample, precision)

    def sampled_segmentor(self, raw: torch.Tensor, sample: BaseDataElement) -> Segmentor:
        """The base model as the plan has it."""
        return self._plan.segmentor(self._base, raw, sample)

    def name(self, sample: BaseDataElement, digest: bytes) -> str:
        """Its file and its content."""
        return self._adapter.name(sample, digest)

    def shape(self, raw: torch.Tensor, sample: BaseDataElement) -> tuple[int, ...]:
        """The shape of its label map."""
        return self._adapter.shape(raw, sample)

    def label(self, sample: BaseDataElement) -> NDArray[np.integer] | None:
        """The ground truth of its components."""
        return self._adapter.label(sample)

    def certify(self, raw: torch.Tensor, sample: BaseDataElement) -> CertifiedInput:
        """Its votes."""
        return self._smoothed.certify(raw, sample)

    def components(self, raw: torch.Tensor, sample: BaseDataElement) -> int:
        """Its pixels or points, or the points of the head's grid."""
        if not self._adapter.certifies_grid_points:
            return super().components(raw, sample)
        segment = self.sampled_segmentor(raw, sample)
        with torch.no_grad():
            return segment.with_margin(self.clean_input(raw))[0].numel()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The precision of the plan, and that of the test loop."""
        with self._plan.precision.applied_to(self._base), autocast(enabled=self._run.fp16):
            yield

    def differ_in_input_alone(self, raw: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether the columns that are not perturbed are the same."""
        return self._adapter.differ_in_input_alone(raw, other)

    def points_needed(self) -> int:
        """Of the backbone."""
        return self._adapter.points_needed(self._base)


@contextlib.contextmanager
def source_without_traces(cfg: Config) -> Iterator[RunnerSource]:
    """The source of a config whose runner leaves nothing in the work folder, and logs warnings."""
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        if cfg.get('visualizer'):
            # mmengine keeps one of each name, with the folder that it began in.
            cfg.visualizer.name = Path(folder).name
        cfg.log_level = 'WARNING'
        yield RunnerSource(Runner.from_cfg(cfg))
