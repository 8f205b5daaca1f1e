"""The seam between runs over inputs and the frameworks that the model and the inputs are of."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier import CertificationPlan, CertifiedInput, Segmentor
from mmcert.sampling import input_digest

Sample = TypeVar('Sample')


class OpenSegmentor(Segmentor, Protocol):
    """A base model as a function of one input that attacks can look into."""

    def scores(self, batch: torch.Tensor, /) -> torch.Tensor:
        """What labels follow from: gradients reach the inputs.

        Takes perturbed inputs, shape (B, ...); returns logits in single precision, shape
        (B, K, ...), the largest of which is the label: K = 2 for a binary head.
        """

    @property
    def base_alone(self) -> OpenSegmentor:
        """The base model as it is, without what smoothing puts in front of it."""


class Source(ABC, Generic[Sample]):
    """A model and its inputs, of whatever framework, as runs over them need it.

    An input is a raw tensor, as its pipeline delivers it, and a sample: what else is known of it.

    Attributes:
        plan (CertificationPlan): What is smoothed, sampled and tested.
        classes (list[str]): Names of the classes.
        palette (list): Colour of each class.
        ignore_index (int): Label of components without ground truth.
        device (torch.device): Where the model is.
        out_dir (Path): Folder of the certified results.
        logger (logging.Logger): Gets progress and tables.
        up_axis (int): Of clouds: the column that points up.
    """

    plan: CertificationPlan
    classes: list[str]
    palette: list[Any]
    ignore_index: int
    device: torch.device
    out_dir: Path
    logger: logging.Logger
    up_axis = 2

    @abstractmethod
    def __len__(self) -> int:
        """How many inputs there are."""

    @property
    def job_size(self) -> int:
        """How many of them a run certifies."""
        return len(self)

    @property
    @abstractmethod
    def sampling(self) -> dict[str, Any]:
        """What determines the votes, as JSON values."""

    def data_of(self, indices: Sequence[int]) -> dict[str, Any]:
        """What some inputs and their labels are, as JSON values.

        Another data set has other results, though the model and the place of results are the same.
        """
        digest = hashlib.blake2b(digest_size=8)
        for index in indices:
            raw, sample = self.read(index)
            address, label = input_digest(raw), self.label(sample)
            digest.update(f'{self.name(sample, address)} '.encode() + address)
            if label is not None:
                whole = np.ascontiguousarray(label, dtype=np.int64)
                digest.update(f'{whole.shape} '.encode() + whole.tobytes())
        return {
            'inputs': digest.hexdigest(),
            'classes': self.classes,
            'ignore_index': self.ignore_index,
        }

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What certificates say of the base model, as JSON values."""

    @abstractmethod
    def read(self, index: int) -> tuple[torch.Tensor, Sample]:
        """An input, on the device of the model.

        Raises:
            ValueError: If it cannot be certified as it is.
        """

    @abstractmethod
    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        """The tensor that draws are made of, in the units of the perturbation."""

    @abstractmethod
    def segmentor(self, raw: torch.Tensor, sample: Sample) -> OpenSegmentor:
        """The base model as a function of an input, to be looked into."""

    def sampled_segmentor(self, raw: torch.Tensor, sample: Sample) -> Segmentor:
        """The same, as votes are sampled."""
        return self.segmentor(raw, sample)

    @abstractmethod
    def name(self, sample: Sample, digest: bytes) -> str:
        """The name of an input in the store."""

    @abstractmethod
    def shape(self, raw: torch.Tensor, sample: Sample) -> tuple[int, ...]:
        """The shape of its label map."""

    @abstractmethod
    def label(self, sample: Sample) -> NDArray[np.integer] | None:
        """Its ground truth, if there is one."""

    @abstractmethod
    def certify(self, raw: torch.Tensor, sample: Sample) -> CertifiedInput:
        """Its votes; they are sampled and stored if there are none."""

    def components(self, raw: torch.Tensor, sample: Sample) -> int:
        """How many components of it are labelled."""
        return math.prod(self.shape(raw, sample))

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the model computes as it does when votes are sampled."""
        return contextlib.nullcontext()

    def check_inputs(self, indices: Sequence[int]) -> None:
        """Raises a ValueError for inputs that will be refused when it comes to them, if it can."""

    def require_gradient(self) -> None:
        """Raises a ValueError if no gradient reaches the inputs."""

    def differ_in_input_alone(self, raw: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether two raw inputs are the same but for what ``clean_input`` takes of them."""
        return raw.shape == other.shape

    def points_needed(self) -> int:
        """How many points an input must have at least, for the model to take it."""
        return 1


def class_palette(count: int) -> list[list[int]]:
    """A colour for each class where the data set has none."""
    hues = np.linspace(0, 179, count, endpoint=False).astype(np.uint8)
    hsv = np.stack([hues, np.full_like(hues, 180), np.full_like(hues, 220)], axis=1)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].tolist()
