"""The seam between the certifier and the inputs that a model of OpenMMLab takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from mmengine.model import BaseModel
from numpy.typing import NDArray

from mmcert.models.precision import PrecisionSettings
from mmcert.models.segmentor import RepeatableSegmentor

Sample = TypeVar('Sample')

Maps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Adapter(ABC, Generic[Sample]):
    """How a sort of input is fed, smoothed, labelled and handed back.

    Attributes:
        word (str): What an input is called.
        component (str): What a component is called.
        domain (str): The ``Perturbation.domain`` that goes with it.
    """

    word: ClassVar[str]
    component: ClassVar[str]
    domain: ClassVar[str]

    @property
    def certifies_grid_points(self) -> bool:
        """Whether the components are grid points, which only the model can count."""
        return False

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What determines the votes, as JSON values."""

    @abstractmethod
    def inputs(self, data: dict[str, Any]) -> list[tuple[torch.Tensor, Sample]]:
        """The raw inputs of a batch from the data loader, each with its data sample."""

    @abstractmethod
    def check(self, raw: torch.Tensor, sample: Sample) -> None:
        """Refuses an input that cannot be certified as it is, before anything is sampled.

        Raises:
            ValueError: If there is such a reason; the message says what to do.
        """

    @abstractmethod
    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        """The tensor that draws are made of, in the units of the perturbation."""

    @abstractmethod
    def segmentor(
        self, base: BaseModel, raw: torch.Tensor, sample: Sample, precision: PrecisionSettings
    ) -> RepeatableSegmentor:
        """The function to smooth, for one input."""

    @abstractmethod
    def source(self, sample: Sample) -> str:
        """The file that a sample came from; empty if it does not say."""

    @abstractmethod
    def label(self, sample: Sample) -> NDArray[np.integer] | None:
        """The ground truth of the components, if the sample has one."""

    @abstractmethod
    def shape(self, raw: torch.Tensor, sample: Sample) -> tuple[int, ...]:
        """The shape of label maps as they are handed back."""

    @abstractmethod
    def attach(self, sample: Sample, maps: Maps) -> None:
        """Adds maps to a sample, in the fields that ``mmcert.fields`` names."""

    def differ_in_input_alone(self, raw: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether two raw inputs are the same but for what ``clean_input`` takes of them."""
        return raw.shape == other.shape

    def points_needed(self, base: BaseModel) -> int:
        """How many points an input must have at least, for the model to take it."""
        return 1

    def describe(self) -> str:
        """What the smoothed function has beside the base model, for a log."""
        return ''

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the certified space and the components, as JSON values."""

    def name(self, sample: Sample, digest: bytes) -> str:
        """A name for files: where the sample came from, and what it holds."""
        return f'{Path(self.source(sample) or self.word).stem}-{digest.hex()[:8]}'
