"""Addressed draws in batches through the base model."""

from collections.abc import Callable, Iterator

import torch

from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.partition import Partition
from mmcert.sampling.batching import BatchSize
from mmcert.sampling.draws import ESTIMATION, SELECTION, draw_seed, input_digest
from mmcert.sampling.label_decoding import kernel_for
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import (
    NOT_FINITE,
    Output,
    SegmentorOutputError,
    checked_labels,
    label_maps,
    not_finite,
)
from mmcert.sampling.settings import SamplingSettings

Segment = Callable[[list[torch.Tensor]], Output]
"""A base model: a list of B perturbed inputs in, B label maps out."""


class Passes:
    """The base model's outputs for draws of one input; arguments as of ``collect_votes``.

    Raises:
        ValueError: If the input is not one of the perturbation.
    """

    def __init__(
        self,
        segment: Segment,
        inputs: torch.Tensor,
        perturbation: Perturbation,
        settings: SamplingSettings,
        digest: bytes | None,
        partition: Partition | None = None,
    ) -> None:
        if not isinstance(inputs, torch.Tensor):
            raise ValueError(
                f'the input must be a torch tensor, got {type(inputs).__name__}: '
                'torch.from_numpy makes one of an array'
            )
        if not inputs.is_floating_point():
            raise ValueError(
                f'the input must be floating point, got {inputs.dtype}: convert it first'
            )
        perturbation.check(inputs)
        self.segment, self.perturbation, self.settings = segment, perturbation, settings
        self.batch_size = BatchSize.of(settings.batch_size)
        self.device = inputs.device
        # The order in memory decides which value gets which random number.
        self.inputs = inputs.clone(memory_format=torch.contiguous_format)
        self._given = inputs
        self.digest = input_digest(inputs) if digest is None else digest
        self._bad: torch.Tensor | None = None
        self.partition = partition
        if partition is None and perturbation.has_partition:
            assert settings.n is not None, 'cells are for a number of draws'
            self.partition = perturbation.partition(self.inputs, settings.n)
        if self.partition is not None:
            self.partition.require(self.inputs, perturbation.spec(), settings.n)

    def outputs(self, stage: int, indices: range) -> Iterator[torch.Tensor | LogitMaps]:
        """Runs the base model on the draws of some numbers.

        Yields, batch by batch, label maps or their scores: at the positions of the clean input, or,
        of draws around the centres of a partition, as the model gives them.
        """
        position = 0

        def one_pass(count: int) -> torch.Tensor | LogitMaps:
            return self._run(stage, indices[position : position + count])

        while position < len(indices):
            output = self.batch_size.run(one_pass, self.device, len(indices) - position)
            position += len(output)
            yield output

    def require_sound(self) -> None:
        """Refuses earlier passes that changed the input, or whose scores were not finite."""
        self.require_finite()
        if not torch.allclose(self.inputs, self._given, rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                f'the input was changed while it was sampled, by {self.perturbation!r} or the base '
                'model: `apply` must return new tensors, which the model may change'
            )

    def require_finite(self) -> None:
        """Refuses scores of earlier passes that were not finite."""
        if self._bad is not None and bool(self._bad):
            raise SegmentorOutputError(NOT_FINITE)

    def _run(self, stage: int, indices: range) -> torch.Tensor | LogitMaps:
        """One pass. What takes memory belongs to it, since it may be repeated with fewer draws.

        Each draw has a generator of its own on the input's device. A CUDA device has the draws
        queued before the pass that needs them. On the CPU, threads that make draws while the model
        computes cost the model more than they save.
        """
        perturbation = self.perturbation
        around_centres = stage == ESTIMATION and self.partition is not None
        if perturbation.enumerated is None:
            parameters = perturbation.draw(self.inputs, self._generators(stage, indices))
        else:
            parameters = perturbation.enumerated[indices.start : indices.stop].to(self.device)
        if around_centres:
            assert self.partition is not None
            perturbed = self.partition.apply(parameters, indices.start)
        else:
            perturbed = list(perturbation.apply(self.inputs, parameters))
        moves = perturbation.moves_labels
        if not moves or perturbation.has_partition:
            # Nothing reads them any more, and the model may need the memory.
            parameters = torch.empty(0)
        output = self._checked(self.segment(perturbed), len(indices))
        if moves:
            labels = label_maps(output, self.settings.num_classes)
            if labels.shape[-2:] != self.inputs.shape[-2:]:
                raise SegmentorOutputError(
                    f'{self.perturbation!r} moves the content, so label maps must have the size of '
                    f'the image, {tuple(self.inputs.shape[-2:])}; got {tuple(labels.shape[-2:])}. '
                    "Leave out resolution='logits', and any resizing in the test pipeline"
                )
            if perturbation.has_partition:
                return labels
            selecting = stage == SELECTION
            method = perturbation.map_labels if selecting else perturbation.labels_for_hits
            mapped = method(labels, parameters)
            if mapped.shape != labels.shape or mapped.is_floating_point():
                raise ValueError(
                    f'{method.__name__} of {self.perturbation!r} must return integer labels of '
                    f'shape {tuple(labels.shape)}, got {mapped.dtype}, {tuple(mapped.shape)}'
                )
            return mapped
        # A kernel reads scores in place, which takes no memory.
        if isinstance(output, LogitMaps) and kernel_for(output) is not None:
            return output
        return label_maps(output, self.settings.num_classes)

    def _generators(self, stage: int, indices: range) -> list[torch.Generator]:
        generators = []
        for index in indices:
            generator = torch.Generator(self.device)
            generator.manual_seed(draw_seed(self.settings.seed, self.digest, stage, index))
            generators.append(generator)
        return generators

    def _checked(self, output: Output, batch: int) -> torch.Tensor | LogitMaps:
        if not isinstance(output, LogitMaps):
            return checked_labels(output, batch, self.settings.num_classes).to(self.device)
        if len(output) != batch:
            raise SegmentorOutputError(
                f'{batch} inputs must give {batch} maps of scores, got {len(output)}'
            )
        output = output.with_scores(output.scores.to(self.device))
        bad = not_finite(output.scores)
        self._bad = bad if self._bad is None else self._bad | bad
        # Asking a CUDA device for an answer would hold up the next pass.
        if self._bad.device.type == 'cpu':
            self.require_finite()
        return output


def require_separate_draws(perturbation: Perturbation, inputs: torch.Tensor) -> None:
    """Raises ``ValueError`` if the parameters of a draw depend on the others of its batch."""

    def last(*seeds: int) -> torch.Tensor:
        generators = [torch.Generator(inputs.device).manual_seed(seed) for seed in seeds]
        return perturbation.draw(inputs, generators)[-1]

    if not torch.equal(last(0, 1), last(1)):
        raise ValueError(
            f'draws of {perturbation!r} must be independent, but one is another in a batch of two '
            'than alone: row j of what `draw` returns must depend on generator j and the shape of '
            'the input alone, and on no other random numbers'
        )
