"""Training of denoisers through mmengine's runner."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.structures import BaseDataElement

from mmcert.certifier.images import PIXEL_RANGE
from mmcert.models.denoisers import denoiser_class
from mmcert.models.image_segmentor import rescaled
from mmcert.models.precision import PrecisionSettings
from mmcert.registry import MODELS
from mmcert.transformations import check_images


@MODELS.register_module()
class DenoiserModel(BaseModel):
    """A denoiser in training, before any segmentor or through a frozen one.

    Salman et al., "Denoised smoothing: a provable defense for pretrained classifiers", NeurIPS
    2020. The noise is drawn on the device. The first loss is the mean squared error. The others are
    the stability objective: the frozen segmentor should make of the denoised image what it makes of
    the clean one. They are the cross-entropy of each pixel to the clean prediction, and the mean
    squared difference of the logits. No labels are used. Nothing of the segmentor is stored with
    the denoiser, and one denoiser serves many segmentors.

    Args:
        denoiser (Mapping): Config of the denoiser: ``type``, ``sigma`` (or a range, from which each
            image draws its own level uniformly) and sizes.
        segmentor (Mapping | None): ``config`` and ``checkpoint`` of a segmentor, and maybe
            ``scale``, the input scale at which it will be certified.
        mse (float): Weight of the mean squared error.
        cross_entropy (float): Weight of the cross-entropy to the clean prediction.
        logits (float): Weight of the mean squared difference of the logits.
        stability_begin (int): Iteration at which the stability objective sets in.
        precision (str): 'fp32', or 'bf16' or 'fp16' for autocast, on a CPU as well.
        data_preprocessor (Mapping | None): Must bring images into [0, 1].

    Raises:
        ValueError: If a weight is negative, or all are zero, or there is a checkpoint without a
            config.
        FileNotFoundError: If the segmentor's config or checkpoint is not there.
    """

    def __init__(
        self,
        denoiser: Mapping[str, Any],
        segmentor: Mapping[str, Any] | None = None,
        mse: float = 1.0,
        cross_entropy: float = 1.0,
        logits: float = 0.1,
        stability_begin: int = 0,
        precision: str = 'fp32',
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        arguments = {key: value for key, value in denoiser.items() if key != 'type'}
        self.denoiser = denoiser_class(denoiser)(**arguments)
        self.weights = {'mse': mse, 'cross_entropy': cross_entropy, 'logits': logits}
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f'{name} must be a number of at least 0, got {weight}')
        self.stability_begin, self.precision = stability_begin, PrecisionSettings(precision)
        # In a tuple: it is no part of this model, and gets into no checkpoint or optimiser.
        self._frozen = () if segmentor is None else (FrozenSegmentor(**segmentor),)
        if mse == 0 and (segmentor is None or cross_entropy == logits == 0):
            raise ValueError('all losses have weight 0')

    @property
    def segmentor(self) -> 'FrozenSegmentor | None':
        """The segmentor of the stability objective, if there is one."""
        return self._frozen[0] if self._frozen else None

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Losses of images (B, C, H, W) in [0, 1], or what is reported of held-out images.

        With mode 'loss' a dict of losses; with 'predict' the samples with ``noisy_psnr`` and
        ``psnr`` (of the noisy and the denoised image, in dB, at the largest noise level) and, with
        a segmentor, ``noisy_agreement`` and ``agreement`` (share of pixels that keep their clean
        prediction); with 'tensor' the images denoised.

        Raises:
            ValueError: If the images are not in [0, 1].
        """
        if mode == 'tensor':
            return self.denoiser(inputs, self.denoiser.high)
        check_images(inputs)
        if mode == 'loss':
            with self.precision.autocast(inputs.device):
                return self.losses(inputs)
        return self._judged(inputs, list(data_samples or ()))

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of a batch of images (B, C, H, W); ``psnr`` and ``agreement`` are logged."""
        low, high = self.denoiser.low, self.denoiser.high
        sigma = low + (high - low) * torch.rand(len(images), device=images.device)
        noisy = images + sigma[:, None, None, None] * torch.randn_like(images)
        denoised = self.denoiser(noisy, sigma)
        error = F.mse_loss(denoised, images)
        losses = {'psnr': _psnr(error.detach())}
        if self.weights['mse']:
            losses['loss_mse'] = self.weights['mse'] * error
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        if self.segmentor is not None and iteration >= self.stability_begin:
            losses |= self._stability(self.segmentor, images, denoised)
        return losses

    def _stability(
        self, segmentor: 'FrozenSegmentor', images: torch.Tensor, denoised: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            wanted = segmentor(images).float()
            labels = _labels(wanted)
        found = segmentor(denoised).float()
        losses = {'agreement': (_labels(found) == labels).float().mean()}
        if weight := self.weights['cross_entropy']:
            losses['loss_cross_entropy'] = weight * _cross_entropy(found, labels)
        if weight := self.weights['logits']:
            losses['loss_logits'] = weight * F.mse_loss(found, wanted)
        return losses

    @torch.no_grad()
    def _judged(
        self, images: torch.Tensor, samples: list[BaseDataElement]
    ) -> list[BaseDataElement]:
        sigma = self.denoiser.high
        for index, image in enumerate(images):
            sample = samples[index] if index < len(samples) else BaseDataElement()
            # The same noise at each call: checkpoints are compared.
            generator = torch.Generator(image.device).manual_seed(index)
            noisy = image + sigma * torch.empty_like(image).normal_(generator=generator)
            denoised = self.denoiser(noisy[None], sigma)[0]
            judged = {
                name: float(_psnr(F.mse_loss(made, image)))
                for name, made in (('noisy_psnr', noisy), ('psnr', denoised))
            }
            if self.segmentor is not None:
                clean, of_noisy, of_denoised = (
                    _labels(self.segmentor(made[None])) for made in (image, noisy, denoised)
                )
                judged['noisy_agreement'] = float((of_noisy == clean).float().mean())
                judged['agreement'] = float((of_denoised == clean).float().mean())
            sample.set_metainfo(judged)
            samples[index : index + 1] = [sample]
        return samples


class FrozenSegmentor:
    """A trained mmsegmentation model as a differentiable function from images to logits.

    Args:
        config (str): Its config file.
        checkpoint (str): Its weights; they must fit.
        scale (float): Factor of the input size.

    Raises:
        ValueError: If the scale is not positive.
        FileNotFoundError: If the config or the checkpoint is not there.
    """

    def __init__(self, config: str, checkpoint: str, scale: float = 1.0) -> None:
        if not 0 < scale <= 4:
            raise ValueError(f'scale must lie in (0, 4], got {scale}')
        for path in (config, checkpoint):
            if '://' not in path and not Path(path).is_file():
                raise FileNotFoundError(f'the segmentor of the stability objective: no file {path}')
        cfg = Config.fromfile(config)
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
            model = MODELS.build(cfg.model)
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
        self.model = revert_sync_batchnorm(model).eval().requires_grad_(False)
        self.scale, self.name = scale, Path(config).stem

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H', W') of images (B, C, H, W) in [0, 1] units."""
        model = self.model.to(images.device)
        batch = rescaled(images * PIXEL_RANGE, self.scale)
        inputs = model.data_preprocessor({'inputs': list(batch)}, False)['inputs']
        meta = {'ori_shape': batch.shape[-2:], 'img_shape': inputs.shape[-2:]}
        meta |= {'pad_shape': inputs.shape[-2:], 'padding_size': [0] * 4}
        return model.encode_decode(inputs, [dict(meta) for _ in inputs])


def _labels(logits: torch.Tensor) -> torch.Tensor:
    """Labels (B, H, W) of logits (B, C, H, W)."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))


def _psnr(error: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB, of a mean squared error in [0, 1] units."""
    return -10 * torch.log10(error.clamp_min(1e-12))
