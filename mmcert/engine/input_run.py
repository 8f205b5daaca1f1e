"""What tools share that go through some inputs of the test data, and hold certificates beside them.

They take the votes of ``tools/test.py`` where that left some, certify other inputs when it comes to
it, and store what they find input by input, so that a run continues where it was stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from numpy.typing import NDArray

from mmcert.certifier import CertifiedInput
from mmcert.certify import Certificate, InfeasiblePlanError
from mmcert.engine.base_model import inner
from mmcert.engine.pipeline import require_unaltered_images
from mmcert.engine.provenance import RunInfo
from mmcert.engine.smoothing_config import smoothing_of
from mmcert.engine.weights import mismatches, require_loaded
from mmcert.models.image_adapter import ImageAdapter
from mmcert.models.segmentor import RepeatableSegmentor
from mmcert.models.smoothed_segmentor import SmoothedSegmentor
from mmcert.sampling import input_digest
from mmcert.votes.store import fingerprint


class InputRun(ABC):
    """A run over evenly spaced inputs of the test data.

    Args:
        runner (Runner): Of a config with ``smoothing``; its checkpoint is loaded here.
        images (int | None): How many inputs, evenly spaced in the test data; None for all.

    Attributes:
        config (SmoothingConfig): The ``smoothing`` of the config.
        run (RunInfo): What the runner says of data and model.
        plan (SmoothingPlan): What is smoothed, sampled and tested.
        base (BaseModel): The base model, without gradients of its weights.
        indices (list[int]): Numbers of the inputs in the test data.
        smoothed (SmoothedSegmentor): What certifies, with the store of votes.
        settings (dict): What determines the results, as JSON values, once they were ``open``-ed.
        folder (Path): Where results go, from then on.
        palette (list): Colour of each class.

    Raises:
        ValueError: If the smoothing does not go with such a run.
    """

    doing = ''

    def __init__(self, runner: Runner, images: int | None = None) -> None:
        self.config = smoothing_of(runner)
        checkpoint = runner.load_checkpoint(runner.cfg.load_from)
        if self.config.strict_weights:
            require_loaded(mismatches(inner(runner.model), checkpoint))
        self.run = run = RunInfo(runner)
        self.plan = self.config.plan(run.classes)
        self.base = run.base.eval().requires_grad_(False)
        adapter = self.plan.adapter
        if isinstance(adapter, ImageAdapter):
            if adapter.resolution != 'image':
                raise ValueError(f"{self.doing} need label maps of pixels: resolution='image'")
            if adapter.space == 'original':
                require_unaltered_images(run.dataset)
        self.check()
        total = len(run.dataset)
        count = total if images is None else min(images, total)
        self.indices = [number * total // count for number in range(count)]
        self.sampling = run.sampling(self.plan)
        identity = run.identity(self.sampling)
        self._out_dir = self.config.results_dir(run.work_dir)
        provenance = run.provenance(self.plan, identity)
        store = self.config.open_store(self._out_dir, self.sampling, provenance)
        self.smoothed = SmoothedSegmentor(
            self.base, self.plan, store=store, identity=identity, logger=runner.logger
        )
        self.palette = run.metainfo.get('palette') or _colours(len(run.classes))

    @abstractmethod
    def check(self) -> None:
        """Refuses a smoothing that does not go with the run, with a ValueError."""

    def open(self, settings: dict[str, Any]) -> None:
        """Fixes what determines the results, as JSON values, and so the folder that they go to."""
        self.settings = settings
        self.folder = self._out_dir / f'{self.doing}-{fingerprint({**self.sampling, **settings})}'

    def counted(self) -> str:
        """How many inputs there are, with their word."""
        count = len(self.indices)
        return f'{count} {self.plan.adapter.word}{"s" * (count != 1)}'


class Item:
    """One input of a run.

    Attributes:
        index (int): Its number in the test data.
        raw (torch.Tensor): As the pipeline delivers it, on the model's device.
        sample (BaseDataElement): Its sample.
        clean (torch.Tensor): What is perturbed.
        segment (RepeatableSegmentor): The base model as a function of that.
        name (str): Its name in the store.
    """

    def __init__(self, run: InputRun, index: int) -> None:
        adapter, base = run.plan.adapter, run.base
        ((raw, self.sample),) = adapter.inputs(pseudo_collate([run.run.dataset[index]]))
        adapter.check(raw, self.sample)
        run.plan.perturbation.check(adapter.clean_input(raw))
        self._run, self.index = run, index
        self.raw = raw.to(next(base.parameters()).device)
        self.clean = adapter.clean_input(self.raw)
        self.segment = self.segmentor(self.raw)
        self._digest = input_digest(self.raw)
        self.name = adapter.name(self.sample, self._digest)

    def segmentor(self, raw: torch.Tensor) -> RepeatableSegmentor:
        """The base model as a function of what is perturbed of an input with this one's sample."""
        run = self._run
        # Compiled models and graphs are for sampling.
        precision = replace(run.plan.precision, compile=False, cuda_graphs=False)
        return run.plan.adapter.segmentor(run.base, raw, self.sample, precision)

    @cached_property
    def certified(self) -> CertifiedInput:
        """Its votes; they are sampled if there are none."""
        return self._run.smoothed.certify(self.raw, self.sample)

    def infeasible(self, tau: float) -> str:
        """Why nothing can be certified at another threshold with so few draws; empty if it can."""
        plan = self._run.plan
        settings = replace(plan.test_settings, tau=tau)
        try:
            replace(plan, settings=settings).require_feasible(self.components)
        except InfeasiblePlanError as error:
            return str(error)
        return ''

    def certificate(self, tau: float) -> Certificate:
        """The certificate at another threshold, from the same votes."""
        settings = replace(self._run.plan.test_settings, tau=tau)
        return self.certified.record.certify(settings)

    @property
    def components(self) -> int:
        """How many components are labelled."""
        return math.prod(self._run.plan.adapter.shape(self.raw, self.sample))

    @property
    def digest(self) -> str:
        """The digest of the input."""
        return self._digest.hex()

    @cached_property
    def guess(self) -> NDArray[np.int64]:
        """The smoothed model's classes of the clean input."""
        return self.certified.votes.guess.astype(np.int64)

    @cached_property
    def label(self) -> NDArray[np.int64] | None:
        """The ground truth."""
        label = self._run.plan.adapter.label(self.sample)
        return None if label is None else np.asarray(label).astype(np.int64)


def _colours(count: int) -> list[list[int]]:
    """A colour for each class where the data set has none."""
    hues = np.linspace(0, 179, count, endpoint=False).astype(np.uint8)
    hsv = np.stack([hues, np.full_like(hues, 180), np.full_like(hues, 220)], axis=1)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].tolist()
