"""A segmentor of images of any library as a function from images in [0, 1] to labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from mmcert.certifier import PlainSegmentor, attributes_digest, code_digest, weights_digest
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.sampling import LogitMaps
from mmcert.sampling.batching import is_out_of_memory
from mmcert.sampling.logit_maps import logits_of, resized_scores
from mmcert.votes.store import fingerprint

OUTPUTS = ('out', 'logits')
"""Where libraries put the scores: torchvision in a dict, transformers in an attribute."""

ONE_CHANNEL = ('scores', 'probabilities')
"""What the only channel of a model may hold: before the sigmoid, or after it."""

OVERSHOOT = 0.5
"""How far bicubic resizing may take probabilities out of [0, 1]: torch's does by up to 0.45."""

CLEAR = 1e-6
"""A probability is read as being so far from 0 and 1 at least, where its logit is finite."""


class ImageModel(ABC):
    """A model of some library that labels the pixels of an image.

    Called with perturbed images, each (3, H, W) in [0, 1] units with blue as the first channel (the
    order of OpenCV, in which the draws of OpenMMLab models are made), it returns their label maps,
    or the scores that give them on the model's own grid. What happens in between, resizing and
    normalisation as well, is part of the smoothed function.

    Args:
        preprocessing (Preprocessing): What happens to an image before the model.
        threshold (float): Of the probability, where the model has one channel, the foreground's.

    Attributes:
        one_channel (str | None): What that channel holds, of ``ONE_CHANNEL``. None takes what can
            only be scores for scores, and refuses the rest.
    """

    library = 'torch'
    one_channel: str | None = None

    def __init__(self, preprocessing: Preprocessing, threshold: float = 0.5) -> None:
        self.preprocessing = preprocessing
        if not 0 < threshold < 1:
            raise ValueError(f'threshold must be in (0, 1), got {threshold}')
        self.threshold = threshold

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where images must be."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the model calls itself."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, where the model knows them."""
        return []

    @property
    def reduces_labels(self) -> bool:
        """Whether 0 in a label map means "no class", and 1 the first class."""
        return False

    @property
    def has_gradient(self) -> bool:
        """Whether scores come with a gradient, as attacks need it."""
        return True

    @abstractmethod
    def weights(self) -> str:
        """Digest of the weights.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """

    @abstractmethod
    def structure(self) -> str:
        """What the labels depend on besides the weights, in words that differ where it does."""

    @abstractmethod
    def arithmetic(self) -> dict[str, Any]:
        """What certificates say of how the model computes, as JSON values."""

    @abstractmethod
    def output(self, inputs: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Scores (B, C, h, w), or labels (B, h', w'), of prepared images.

        ``size`` is that of the label maps; labels should have it.
        """

    def read_one_channel(self, holds: str) -> None:
        """Says what the only channel of the model holds.

        Raises:
            ValueError: If it is none of ``ONE_CHANNEL``.
        """
        if holds not in ONE_CHANNEL:
            raise ValueError(f'one_channel must be {" or ".join(ONE_CHANNEL)}, got {holds!r}')
        self.one_channel = holds

    @property
    def code(self) -> tuple[Any, ...]:
        """What runs: code of the user's own in it is part of what determines the labels."""
        return (self,)

    def spec(self) -> dict[str, Any]:
        """What determines the labels beside the weights, as JSON values."""
        code = code_digest(*self.code)
        return {
            **({'code': code} if code else {}),
            **self.reading(),
            'name': self.name,
            'structure': fingerprint({'structure': self.structure()}),
            'preprocessing': self.preprocessing.to_dict(),
            'threshold': self.threshold,
        }

    def reading(self) -> dict[str, Any]:
        """What one channel holds, as JSON values; nothing of scores, which are the usual."""
        probable = self.one_channel == 'probabilities'
        return {'one_channel': 'probabilities'} if probable else {}

    def __call__(self, images: list[torch.Tensor]) -> LogitMaps | torch.Tensor:
        """Labels a batch of perturbed images."""
        batch = torch.stack(list(images)).flip(1)
        size = batch.shape[-2], batch.shape[-1]
        inputs, inside = self.preprocessing(batch)
        found = self.output(inputs, size)
        if not isinstance(found, torch.Tensor):
            raise ValueError(
                f'{self.name} must return scores or labels, got {type(found).__name__}'
            )
        if found.dim() == 3 and not found.is_floating_point():
            return _at_size(found, size)
        if found.dim() != 4 or len(found) != len(batch) or not found.is_floating_point():
            raise ValueError(
                f'{self.name} must return scores (B, C, h, w) or integer labels (B, H, W), got '
                f'{found.dtype} of shape {tuple(found.shape)} for {len(batch)} images'
            )
        threshold = self.threshold if found.shape[1] == 1 else None
        if threshold is not None and self.one_channel == 'probabilities':
            found = self._logits(found)
        whole = inputs.shape[-2], inputs.shape[-1]
        if whole == inside:
            return LogitMaps(found, size, threshold=threshold)
        # What was added to the image is cut off before the scores are resized to its own size.
        maps = LogitMaps(found, whole, window=(0, 0, *inside), threshold=threshold)
        if inside == size:
            return maps
        return LogitMaps(resized_scores(maps), size, threshold=threshold)

    def _logits(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The scores of probabilities (B, 1, h, w): what the sigmoid was taken of."""
        low, high = (float(value) for value in probabilities.aminmax())
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            raise ValueError(
                f'{self.name} returns one channel with values in [{low:.3g}, {high:.3g}], which '
                "are no probabilities: say one_channel='scores' (--one-channel scores)"
            )
        return probabilities.float().logit(eps=CLEAR)

    def num_classes(self, image: torch.Tensor) -> int | None:
        """Number of classes, by a pass over an image (3, H, W); None if it returns labels.

        Raises:
            ValueError: If the model fails on it, or returns one channel that may be other than
                scores, and ``one_channel`` does not say what it holds.
        """
        try:
            found = self([image])
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            height, width = image.shape[1:]
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f'{self.name} fails on an RGB image of {height} x {width} pixels: {line}. '
                f'{self.advice}'
            ) from error
        channels = found.scores.shape[1] if isinstance(found, LogitMaps) else None
        if channels != 1 and self.one_channel is not None:
            what = 'labels' if channels is None else f'{channels} channels'
            raise ValueError(
                f'{self.name} returns {what}, but one_channel={self.one_channel!r} was given: '
                'leave it out'
            )
        if not isinstance(found, LogitMaps) or channels != 1:
            return channels
        scores = found.scores
        low, high = (float(value) for value in scores.aminmax())
        described = f'{self.name} returns one channel with values in [{low:.3g}, {high:.3g}]'
        if self.one_channel is None and low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
            raise ValueError(
                f"{described}: say one_channel='probabilities' (--one-channel probabilities) if "
                f'class 1 is where they are above {self.threshold:g}, or scores if it is where '
                'their sigmoid is'
            )
        if self.one_channel is None and torch.equal(scores, scores.round()):
            raise ValueError(
                f'{described}, all whole numbers: return labels as integers, by read=..., or say '
                "one_channel='scores' (--one-channel scores)"
            )
        return 2

    @property
    def advice(self) -> str:
        """What to do if the model fails on an image."""
        return (
            'It must take 3 channels and this size: Preprocessing has size, multiple and padded_to'
        )

    def require_unchanged(self) -> None:
        """Raises a ValueError if it is no longer the model that was looked at."""
        return

    def segmentor(self, num_classes: int) -> ImageSegmentor:
        """The function that is smoothed."""
        return ImageSegmentor(self, num_classes)


class ImageSegmentor(PlainSegmentor):
    """An ``ImageModel`` as the certifier and attacks want it."""

    def __init__(self, model: ImageModel, num_classes: int) -> None:
        super().__init__(model, num_classes)
        self.model = model

    @property
    def base_alone(self) -> ImageSegmentor:
        """The same: nothing stands in front of the model."""
        return self

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, H, W) of images (B, 3, H, W) in [0, 1] units, with their gradients.

        The largest is the label: of one score and a threshold they are background and foreground.

        Raises:
            ValueError: If the model returns labels, which have no gradient.
        """
        found = self.model(list(batch))
        if not isinstance(found, LogitMaps):
            raise ValueError(f'{self.model.name} returns labels, and no gradient goes through them')
        return logits_of(found)

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the arithmetic, as JSON values."""
        return {**super().to_dict(), **self.model.arithmetic()}


class ModuleModel(ImageModel):
    """A PyTorch module that takes images (B, 3, h, w) and returns scores.

    These are a tensor (B, C, h', w'), or the entry ``out`` or ``logits`` of what it returns, or the
    only such tensor in a tuple or list.

    Args:
        module (torch.nn.Module): The model; it is put into ``eval`` mode.
        preprocessing (Preprocessing): What happens to an image before.
        threshold (float): See ``ImageModel``.
        read (Callable | None): Takes what the module returns, and returns scores or labels.

    Examples:
        >>> model = ModuleModel(torch.nn.Conv2d(3, 4, 1), Preprocessing([0.5], [0.25]))
        >>> model([torch.rand(3, 8, 12)]).shape, model.num_classes(torch.rand(3, 8, 12))
        (torch.Size([8, 12]), 4)
    """

    def __init__(
        self,
        module: torch.nn.Module,
        preprocessing: Preprocessing,
        threshold: float = 0.5,
        read: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        super().__init__(preprocessing, threshold)
        self.module, self.read = module.eval(), read or scores_of
        self._looked_at: dict[str, Any] | None = None
        self._held: dict[tuple[str, str], Any] | None = None
        self._passing: set[tuple[str, str]] = set()
        self.moved()

    def moved(self) -> None:
        """Looks where the module is, after it was brought to another device or number type."""
        first = next(self._tensors(), torch.empty(0))
        if 'meta' in self._places():
            raise ValueError(
                f'{self.name} has weights on the device "meta", which holds no values: load the '
                'checkpoint into the model first'
            )
        self._device = first.device
        self._dtype = first.dtype if first.is_floating_point() else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return self._device

    @property
    def name(self) -> str:
        """Class of the module."""
        return type(self.module).__name__

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()

    def _places(self) -> list[str]:
        """The devices that its weights are on."""
        return sorted({str(one.device) for one in self._tensors()})

    @property
    def advice(self) -> str:
        """To bring all of it to one device, if it is on several."""
        if len(places := self._places()) > 1:
            return (
                f'Its weights are on {" and ".join(places)}: bring all of it to one device, for '
                f"example by model.to('{places[-1]}')"
            )
        return super().advice

    def weights(self) -> str:
        """Digest of all parameters and buffers; those that torch has quantised have none."""
        for name, tensor in self.module.state_dict().items():
            if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
                raise ValueError(
                    f'{name} of {self.name} is quantised by torch, and no digest names such '
                    'weights: certify the model as an ONNX file'
                )
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(
                    f'the weights {name} of {self.name} have NaN or infinite values: the '
                    'checkpoint is damaged'
                )
        for part in self.module.modules():
            if isinstance(part, torch.jit.ScriptModule) and 'ConstantMKLDNN' in part.code:
                raise ValueError(
                    f'{self.name} holds weights in a layout of which no digest can be made: smooth '
                    'it as it was before torch.jit.optimize_for_inference'
                )
        self._looked_at = self._sums()
        return weights_digest(self.module)

    def _sums(self) -> dict[str, Any]:
        """The sum of the bits of each tensor, in words: a digest would take 20 times as long.

        Version counters see neither buffers nor what is written through ``.data``.
        """
        tensors = dict(self.module.named_buffers()) | dict(self.module.state_dict())
        return {name: (one.dtype, one.shape, _sum_of_bits(one)) for name, one in tensors.items()}

    def require_unchanged(self) -> None:
        """Refuses a module that was trained since: the certificate would name other weights.

        Raises:
            ValueError: If parameters or buffers have other values or are on another device, if a
                part of it is in training mode, or if it has other parts, hooks, numbers or text.
        """
        if any(part.training for part in self.module.modules()):
            raise ValueError(
                f'{self.name} is in training mode, in which labels depend on the rest of a batch: '
                'call eval() before'
            )
        now = next(self._tensors(), torch.empty(0)).device
        if now != self._device:
            raise ValueError(
                f'{self.name} was on {self._device} when it was smoothed, and is on {now} now: '
                'call mmcert.smooth again'
            )
        if self._looked_at is not None and self._sums() != self._looked_at:
            raise ValueError(
                f'the weights of {self.name} have changed since it was smoothed: call '
                'mmcert.smooth again, for votes and certificates name the weights'
            )
        if self._held is not None and self._holds() != self._held:
            raise ValueError(
                f'{self.name} has other parts, hooks or values than when it was smoothed: call '
                'mmcert.smooth again, for votes and certificates name the model'
            )

    def num_classes(self, image: torch.Tensor) -> int | None:
        """See ``ImageModel``; what the module holds is noted after its first pass."""
        before = self._holds()
        found = super().num_classes(image)
        after = self._holds()
        # A time, say, is another one after each pass.
        self._passing |= {
            key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
        }
        self._held = self._holds()
        return found

    def _holds(self) -> dict[tuple[str, str], Any]:
        """Parts, hooks, and values that passes leave alone: whole numbers may count or cache."""
        found = dict[tuple[str, str], Any]()
        for place, part in self.module.named_modules():
            hooks = *part._forward_hooks.values(), *part._forward_pre_hooks.values()
            found[place, ''] = part, *hooks
            found |= {
                (place, name): value
                for name, value in vars(part).items()
                if type(value) in (bool, float, str) and (place, name) not in self._passing
            }
        return found

    @property
    def code(self) -> tuple[Any, ...]:
        """Module and reader too."""
        return self, self.module, self.read

    def structure(self) -> str:
        """The module as it prints itself, and what it holds beside that."""
        return f'{self.module!r}\n{attributes_digest(self.module)}'

    def arithmetic(self) -> dict[str, Any]:
        """Number type and device."""
        return arithmetic_of(self._dtype, self.device)

    def output(self, inputs: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What the module returns."""
        return self.read(self.module(inputs.to(self._dtype)))


def arithmetic_of(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What certificates say of a computation by torch, as JSON values."""
    names = {torch.float32: 'fp32', torch.bfloat16: 'bf16', torch.float16: 'fp16'}
    found: dict[str, Any] = {
        'precision': names.get(dtype, str(dtype).removeprefix('torch.')),
        'device': device.type,
    }
    if device.type == 'cuda':
        found['tf32'] = {
            'convolutions': bool(torch.backends.cudnn.allow_tf32),
            'matrix_products': bool(torch.backends.cuda.matmul.allow_tf32),
        }
    return found


def _sum_of_bits(tensor: torch.Tensor) -> int:
    found = tensor.detach().contiguous().flatten().view(torch.uint8)
    if found.storage_offset() % 8:
        found = found.clone()
    whole = len(found) // 8 * 8
    # Sums of words are carried modulo 2^64.
    return int(found[:whole].view(torch.int64).sum()) + int(found[whole:].sum())


def scores_of(output: Any) -> torch.Tensor:
    """The scores in what a model returns.

    Raises:
        TypeError: If there are none, or several without a name.
    """
    candidates = [output]
    what = type(output).__name__
    if isinstance(output, Mapping):
        candidates = [output[key] for key in OUTPUTS if key in output][:1]
        what = f'{what} with {", ".join(map(str, output))}'
    elif not isinstance(output, torch.Tensor):
        candidates = [getattr(output, 'logits', None)]
        if candidates == [None] and isinstance(output, (tuple, list)):
            candidates = [one for one in output if isinstance(one, torch.Tensor) and one.dim() == 4]
    if len(candidates) != 1 or not isinstance(candidates[0], torch.Tensor):
        several = len(candidates) > 1
        raise TypeError(
            f'the model returns {what}, in which '
            f'{len(candidates) if several else "no"} scores were found: give read=..., a function '
            'from it to scores (B, C, h, w)'
        )
    return candidates[0]


def _at_size(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Label maps at a size: each pixel gets the label of the nearest one."""
    if tuple(labels.shape[-2:]) == size:
        return labels.long()
    exact = labels[:, None].to(torch.float64)
    return F.interpolate(exact, size=size, mode='nearest-exact')[:, 0].long()
