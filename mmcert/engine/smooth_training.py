"""Trains a segmentor on noisy copies, with the objectives of a recipe, by one line in a config."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample

from mmcert.engine.perturbations import build as build_perturbation
from mmcert.models.head_logits import last_head, replaced
from mmcert.models.image_segmentor import rescaled
from mmcert.models.objectives import Objective, TrainingStep, with_two_channels
from mmcert.models.training_noise import ImageUnits, TrainingNoise
from mmcert.registry import HOOKS, MODELS


@HOOKS.register_module()
class SmoothTraining(Hook):
    """Trains a segmentor of mmsegmentation so that smoothing it certifies much.

    While training runs, the segmentor's ``loss`` sees noisy copies of the batch in place of the
    images, and returns what the objectives add. Nothing is added to the model: its checkpoints are
    those of the plain segmentor, and mixed precision, accumulation of gradients, EMA, resuming and
    distributed training work as without the hook.

    The noise acts where the certificate's acts: on the image as the training pipeline delivers it,
    at its size, in [0, 1] units. A model that is certified with ``smoothing.scales=s`` is best
    trained with ``scale=s``: the noisy images are resized by it inside the step, as the smoothed
    function will do, and so are the labels that the model's losses compare with. That is most of
    a light model's step: losses at the full size cost more than its layers.

    Args:
        sigma (float | Sequence[float] | Mapping | None): Noise level, or how each image draws its
            own, as for ``mmcert.models.TrainingNoise``.
        perturbation (Mapping | None): Instead of ``sigma``, the config of a perturbation of images.
        copies (int): Noisy copies of each image in a step. The model sees ``copies`` times the
            batch: lower the batch size to keep time and memory.
        prob (float): Share of the copies that get noise; the others stay clean.
        warmup (int): Iterations over which ``sigma`` rises linearly from 0.
        scale (float): Factor by which the noisy images and their labels are resized.
        objectives (Sequence): Configs or names of objectives, such as ``mmcert.Consistency``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> hook = SmoothTraining(sigma=0.25, copies=2, objectives=['mmcert.Consistency'])
        >>> hook.noise.copies, len(hook.objectives)
        (2, 1)
    """

    def __init__(
        self,
        sigma: float | Sequence[float] | Mapping[str, Any] | None = None,
        perturbation: Mapping[str, Any] | None = None,
        copies: int = 1,
        prob: float = 1.0,
        warmup: int = 0,
        scale: float = 1.0,
        objectives: Sequence[Mapping[str, Any] | str] = (),
    ) -> None:
        built = None if perturbation is None else build_perturbation(perturbation)
        self.noise = TrainingNoise(sigma, built, copies, prob, warmup)
        if not 0 < scale <= 4:
            raise ValueError(f'scale must lie in (0, 4], got {scale}')
        self.sigma, self.scale = sigma, scale
        configs = [{'type': o} if isinstance(o, str) else dict(o) for o in objectives]
        self.objectives: list[Objective] = [MODELS.build(config) for config in configs]

    def before_train(self, runner: Runner) -> None:
        """Gives the segmentor its loss on noisy copies."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(model, EncoderDecoder):
            raise ValueError(
                'mmcert.SmoothTraining trains segmentors of images (an EncoderDecoder of '
                f'mmsegmentation), got {type(model).__name__}'
            )
        for objective in self.objectives:
            objective.start(model)
        if 'loss' in vars(model):
            raise ValueError('the segmentor trains under another mmcert.SmoothTraining already')
        own = model.loss

        def loss(inputs: torch.Tensor, data_samples: list) -> dict[str, torch.Tensor]:
            if not model.training:
                return own(inputs, data_samples)
            return self._loss(model, own, inputs, data_samples, runner.iter)

        model.loss = loss
        self._model = model

    def after_train(self, runner: Runner) -> None:
        """Gives the segmentor its own loss back, and says how to certify it."""
        vars(self._model).pop('loss', None)
        last = Path(runner.work_dir, 'last_checkpoint')
        if runner.cfg.filename is None or not last.is_file():
            return
        if runner.cfg.get('smoothing') is None:
            if not isinstance(self.sigma, Real):
                return
            options = f' --cfg-options smoothing.sigma={self.sigma:g}'
            options += '' if self.scale == 1 else f' smoothing.scales={self.scale:g}'
        else:
            options = ''
        runner.logger.info(
            f'to certify it: mmcert test {runner.cfg.filename} {last.read_text().strip()}{options}'
        )

    def before_test_epoch(self, runner: Runner) -> None:
        """Warns of a test that certifies at another scale than the config trains at."""
        smoothing = runner.cfg.get('smoothing')
        if smoothing is None:
            return
        scales = smoothing.get('scales', 1.0)
        if self.scale not in (scales if isinstance(scales, Sequence) else (scales,)):
            runner.logger.warning(
                f'the config trains at scale={self.scale:g} (mmcert.SmoothTraining) and certifies '
                f'at smoothing.scales={scales}: a model certifies most at the scale at which it '
                f'was trained, smoothing.scales={self.scale:g}'
            )

    def _loss(
        self,
        model: EncoderDecoder,
        own: Any,
        inputs: torch.Tensor,
        samples: list[Any],
        iteration: int,
    ) -> dict[str, torch.Tensor]:
        units = ImageUnits.of(model)
        sizes = [tuple(sample.metainfo['img_shape'][:2]) for sample in samples]

        def forward(images: torch.Tensor) -> torch.Tensor:
            with _as_in_testing(model):
                return with_two_channels(model(rescaled(images, self.scale), mode='tensor'))

        step = TrainingStep(
            clean=inputs,
            noisy=self.noise.draw(inputs, sizes, units, iteration),
            labels=torch.stack([sample.gt_sem_seg.data[0] for sample in samples]),
            ignore_index=last_head(model).ignore_index,
            iteration=iteration,
            units=units,
            sizes=sizes,
            forward=forward,
        )
        for objective in self.objectives:
            objective.change(step)
        copies = len(step.noisy)
        with _taken_logits(model) as taken:
            images = rescaled(step.noisy.flatten(0, 1), self.scale)
            if self.scale != 1:
                samples = _labelled_at(step.labels, tuple(images.shape[-2:]), samples)
            losses = own(images, list(samples) * copies)
        if any(objective.needs_logits for objective in self.objectives):
            if len(taken) != 1 or not isinstance(taken[0], torch.Tensor):
                raise ValueError(
                    f'an objective needs the logits of {type(last_head(model)).__name__}, whose '
                    'loss_by_feat does not take them as one tensor'
                )
            step.logits = with_two_channels(taken[0]).unflatten(0, (copies, len(inputs)))
        if any(objective.replaces_loss for objective in self.objectives):
            losses = {
                name: value
                for name, value in losses.items()
                if not (name.startswith('decode') and 'loss' in name)
            }
        for objective in self.objectives:
            added = objective.losses(step)
            if taken_names := sorted(added.keys() & losses.keys()):
                raise ValueError(f'two objectives have the losses {", ".join(taken_names)}')
            losses.update(added)
        return losses


def _labelled_at(
    labels: torch.Tensor, size: tuple[int, ...], samples: list[Any]
) -> list[SegDataSample]:
    """The samples with labels (B, H, W) of another size, each of the nearest pixel."""
    resized = F.interpolate(labels[:, None].float(), size, mode='nearest-exact').long()
    return [
        SegDataSample(metainfo=sample.metainfo, gt_sem_seg=PixelData(data=own))
        for sample, own in zip(samples, resized, strict=True)
    ]


@contextlib.contextmanager
def _as_in_testing(model: torch.nn.Module) -> Iterator[None]:
    """Sets every module to testing, and then to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _taken_logits(model: EncoderDecoder) -> Iterator[list[Any]]:
    """What the last head's own loss is computed from, while the model runs."""
    head: Any = last_head(model)
    taken: list[Any] = []
    own = head.loss_by_feat

    def take(logits: Any, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        taken.append(logits)
        return own(logits, *arguments, **options)

    with replaced(head, 'loss_by_feat', take):
        yield taken
