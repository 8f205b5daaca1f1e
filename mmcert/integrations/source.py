"""The images of a folder and a model of any library, for runs beside their certificates."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier import CertifiedInput
from mmcert.integrations.folder import ImageFile, check_labels
from mmcert.integrations.image_model import ImageSegmentor
from mmcert.integrations.smoothed import Smoothed, repeatable_kernels
from mmcert.report.tiles import class_colours
from mmcert.runs.source import Source


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image of a folder: the stem of its name, and its label map, integers, shape (H, W)."""

    stem: str
    label: NDArray[np.integer] | None


class FolderSource(Source[LabelledImage]):
    """The images of a folder under a model.

    Args:
        smoothed (Smoothed): The model, with a ``results_dir``.
        files (Sequence[ImageFile]): The images, at least one.
        logger (logging.Logger): Gets progress and tables.
        reduce_labels (bool): Whether 0 in the label maps means "no class", and 1 the first class.
    """

    def __init__(
        self,
        smoothed: Smoothed,
        files: Sequence[ImageFile],
        logger: logging.Logger,
        *,
        reduce_labels: bool = False,
    ) -> None:
        if smoothed.results_dir is None:
            raise ValueError('runs need a folder for their results: give results_dir')
        smoothed.start(files[0].read())
        self._smoothed, self._files, self._reduce = smoothed, files, reduce_labels
        self._segmentor = smoothed.model.segmentor(len(smoothed.classes))
        self.plan, self.classes = smoothed.plan, smoothed.classes
        self.palette = class_colours(len(self.classes)).tolist()
        self.ignore_index, self.device = smoothed.ignore_index, smoothed.model.device
        self.out_dir, self.logger = Path(smoothed.results_dir), logger

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._files)

    @property
    def sampling(self) -> dict[str, Any]:
        """What determines the votes."""
        return self._smoothed.sampling

    @property
    def identity(self) -> dict[str, Any]:
        """What certificates say of the model."""
        return self._smoothed.identity

    def read(self, index: int) -> tuple[torch.Tensor, LabelledImage]:
        """An image as a run over the folder takes it."""
        file = self._files[index]
        raw, _ = self._smoothed.tensors(file.read())
        label = file.read_label(self._reduce, self.ignore_index)
        return raw, LabelledImage(file.image.stem, label)

    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        """The image in [0, 1] units."""
        return self._smoothed.clean_input(raw)

    def segmentor(self, raw: torch.Tensor, sample: LabelledImage) -> ImageSegmentor:
        """The model, the same for all images."""
        return self._segmentor

    def name(self, sample: LabelledImage, digest: bytes) -> str:
        """Its file and its content."""
        return self._smoothed.name_of(sample.stem, digest)

    def shape(self, raw: torch.Tensor, sample: LabelledImage) -> tuple[int, ...]:
        """Its height and width."""
        return tuple(raw.shape[1:])

    def label(self, sample: LabelledImage) -> NDArray[np.integer] | None:
        """Its label map."""
        return sample.label

    def certify(self, raw: torch.Tensor, sample: LabelledImage) -> CertifiedInput:
        """Its votes."""
        return self._smoothed.certify_tensor(raw, sample.label, sample.stem)

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Without kernels that differ from process to process."""
        return repeatable_kernels()

    def check_inputs(self, indices: Sequence[int]) -> None:
        """Looks at their label maps."""
        check_labels(self._smoothed, [self._files[index] for index in indices], self._reduce)

    def require_gradient(self) -> None:
        """Refuses models that return label maps, and those that ONNX Runtime runs."""
        model = self._smoothed.model
        if not self._smoothed.has_gradient:
            raise ValueError(
                f'{model.name} ({model.library}) has no gradient from its labels to the image, so '
                'it cannot be attacked'
            )
