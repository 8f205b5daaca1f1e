"""The smoothed version of a segmentor of images, for one call each."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier import CertificationPlan, CertifiedInput, Certifier
from mmcert.certifier.images import RESOLUTIONS, SPACES, to_unit_range
from mmcert.certifier.plan_settings import PlanSettings
from mmcert.certifier.segmentor import autocast_dtype
from mmcert.certify import Votes
from mmcert.certify.rounding import AtMost
from mmcert.integrations.image_model import ImageModel, ModuleModel
from mmcert.integrations.onnx import OnnxModel, is_session
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.integrations.smp import SmpModel, is_of_smp
from mmcert.integrations.transformers import TransformersModel, is_of_transformers
from mmcert.metrics.confusion import IGNORE_INDEX
from mmcert.perturbations import GaussianNoise, Perturbation
from mmcert.sampling import ProcessGroup, input_digest
from mmcert.version import versions
from mmcert.votes import VotesStore
from mmcert.votes.store import fingerprint

PACKAGES = (
    'torch', 'transformers', 'segmentation-models-pytorch', 'timm', 'torchvision', 'onnxruntime',
    'numpy', 'scipy', 'opencv-python', 'opencv-python-headless',
)  # fmt: skip
"""What a model may run on."""

LEAST, MOST = -0.5, 1.5
"""Values that an image in [0, 1] may have after an attack, and one that was normalised has not."""


STEPS: dict[str, Any] = {'scales': [1.0], 'flip': False}
"""What the hook could do to an image beside the model, and nothing here does."""


class ImagePlan(CertificationPlan):
    """A ``CertificationPlan`` for images at their own size."""

    @property
    def input_word(self) -> str:
        """What an input is called."""
        return 'image'

    @property
    def component_word(self) -> str:
        """What a component is called."""
        return 'pixel'

    def spec(self) -> dict[str, Any]:
        """What determines the votes of a given base model, as JSON values."""
        return {**super().spec(), **STEPS, 'space': 'original'}

    def input_to_dict(self) -> dict[str, Any]:
        """What certificates say of inputs and components, as JSON values."""
        return {
            **STEPS,
            'space': 'original',
            'certified_space': SPACES['original'],
            'resolution': 'image',
            'components_are': RESOLUTIONS['image'],
            'input_type': self.input_word,
            'component_type': self.component_word,
        }


def image_plan(settings: PlanSettings, classes: Sequence[str] | None = None) -> ImagePlan:
    """The plan of some settings; without the names of the classes it only checks.

    Raises:
        ValueError: If a setting is out of range, or the perturbation is not one of images.
    """
    settings.require_one_perturbation()
    perturbation: Perturbation = settings.perturbation or GaussianNoise(settings.sigma)  # type: ignore[arg-type]
    if perturbation.domain != 'image':
        raise ValueError(
            f'{perturbation!r} is for {perturbation.domain}, but this model takes images'
        )
    return ImagePlan(**settings.plan_parts(perturbation, classes))


def require_no_autocast(device: torch.device) -> None:
    """Refuses to compute in another number type than votes and certificates name.

    Raises:
        ValueError: If autocast is on.
    """
    if autocast_dtype(device.type) is not None:
        raise ValueError(
            'autocast is on, but votes and certificates name the number type of the weights: leave '
            'the autocast context, or smooth the model in half precision, such as '
            'model.to(torch.bfloat16)'
        )


def repeatable_kernels() -> contextlib.AbstractContextManager[Any]:
    """A context without kernels that are chosen by timing them: these differ by process."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32
    )


class Smoothed:
    """A segmentor of images, smoothed (SegCertify): see ``smooth``.

    With ``votes_dir`` votes are kept and found again, an image that was broken off goes on where it
    stopped, and ``tools/certify.py`` answers other settings from that folder.

    Args:
        model (ImageModel): The model with what happens to an image before.
        settings (PlanSettings): What to sample and what to test; ``perturbation`` is an object.
        classes (Sequence[str] | int | None): Names of the classes, or their number; by default what
            the model says, or the number of its scores.
        votes_dir (str | os.PathLike | None): Folder for the votes; None keeps none.
        results_dir (str | os.PathLike | None): In place of it: a folder in which votes get one of
            their own, named by what determines them.
        ignore_index (int): Label of pixels without ground truth.
        identity (Mapping | None): Further facts for the certificates, as JSON values.
        on_draws (Callable | None): Called as ``on_draws(name, done)`` after each batch of draws.
        logger (logging.Logger | None): Gets the warnings.
        processes (ProcessGroup | None): Processes that share the draws of every image.

    Attributes:
        classes (list[str]): Names of the classes, once an image was seen.
        sampling (dict): What determines the votes, as JSON values, likewise.
        has_gradient (bool): Whether the model returns scores with a gradient, likewise.
        processes (ProcessGroup): Processes that share the draws of every image.

    Raises:
        ValueError: If the weights have NaN or infinite values, or a setting is out of range.
    """

    def __init__(
        self,
        model: ImageModel,
        settings: PlanSettings,
        *,
        classes: Sequence[str] | int | None = None,
        votes_dir: str | os.PathLike[str] | None = None,
        results_dir: str | os.PathLike[str] | None = None,
        ignore_index: int = IGNORE_INDEX,
        identity: Mapping[str, Any] | None = None,
        on_draws: Callable[[str, int], None] | None = None,
        logger: logging.Logger | None = None,
        processes: ProcessGroup | None = None,
    ) -> None:
        image_plan(settings)  # Refuses what is out of range now.
        self.model, self.settings = model, settings
        self.votes_dir, self.results_dir, self.ignore_index = votes_dir, results_dir, ignore_index
        self.weights = model.weights()
        # Before a pass, in which a model may note something.
        self._spec = fingerprint(model.spec())
        self._asked = classes
        self._identity = dict(identity or {})
        self.on_draws, self._logger = on_draws, logger
        self.processes = processes or ProcessGroup()
        self._certifier: Certifier | None = None
        self.classes: list[str] = []
        self.sampling: dict[str, Any] = {}
        self.has_gradient = False

    def __repr__(self) -> str:
        """The model, what is sampled and tested, and where."""
        settings, model = self.settings, self.model
        given = settings.perturbation or f'sigma={settings.sigma:g}'
        n = f'{settings.n!r} (at most {settings.budget})' if settings.budget else settings.n
        plan = image_plan(settings)
        asked = [str(given)]
        if plan.settings is not None:
            asked += [f'tau={plan.settings.tau:g}', f'n0={settings.n0}', f'n={n}']
            asked += [f'alpha={settings.alpha:g}', f'procedure={settings.procedure!r}']
            if (radius := plan.guarantee().radius) is not None:
                asked.append(f'radius={AtMost(radius):.4g}')
        return f'<Smoothed {model.name}: {", ".join(asked)}, device={model.device}>'

    @property
    def plan(self) -> CertificationPlan:
        """What is sampled and tested; a ValueError before the first image was seen."""
        return self._started.plan

    @property
    def identity(self) -> dict[str, Any]:
        """What certificates say of the model, once an image was seen."""
        return self._started.identity

    @property
    def store(self) -> VotesStore | None:
        """The folder of votes, once an image was seen."""
        return self._started.store

    @property
    def _started(self) -> Certifier:
        if self._certifier is None:
            raise ValueError('what the model returns is known once an image was seen')
        return self._certifier

    def start(self, image: Any) -> None:
        """Finds out about the classes by a pass over an image, and opens the folder of votes.

        ``certify`` does so with its first image.

        Raises:
            ValueError: If the model has another number of classes than there are names.
        """
        if self._certifier is None:
            self._start(self.tensors(image)[1])

    def certify(
        self, image: Any, label: NDArray[np.integer] | None = None, name: str | None = None
    ) -> CertifiedInput:
        """Certifies an image.

        Args:
            image (Any): RGB: a uint8 array (H, W, 3), an image of Pillow, or a tensor (3, H, W),
                uint8 or floating point in [0, 1].
            label (np.ndarray | None): Its ground truth, integers, shape (H, W).
            name (str | None): Its name among the votes, a legal file name; by default one that its
                content decides.

        Returns:
            CertifiedInput: The votes, and what they certify: ``maps``, ``to_dict()``, ``counts()``.

        Raises:
            ValueError: If image or label cannot be certified as they are, or if the model was
                trained since it was smoothed.
        """
        self.model.require_unchanged()
        raw, clean = self.tensors(image)
        if self._certifier is None:
            self._start(clean)
        if label is not None:
            label = self.checked_label(label, (clean.shape[1], clean.shape[2]))
        return self.certify_tensor(raw, label, name)

    def certify_tensor(
        self, raw: torch.Tensor, label: NDArray[np.integer] | None, name: str | None
    ) -> CertifiedInput:
        """The same for the first of ``tensors``, and a label that was checked."""
        require_no_autocast(self.model.device)
        digest, clean = input_digest(raw), self.clean_input(raw)
        with torch.no_grad(), repeatable_kernels():
            return self._started.certify(
                self.model.segmentor(len(self.classes)),
                clean,
                label=label,
                name=self.name_of(name, digest),
                digest=digest,
                shape=(clean.shape[1], clean.shape[2]),
            )

    def predict(self, image: Any) -> NDArray[np.int64]:
        """The smoothed model's class of each pixel, without abstentions, shape (H, W)."""
        return self.certify(image).maps['pred']

    def votes(self, image: Any) -> Votes:
        """The votes of an image: guess and hits of each pixel."""
        return self.certify(image).votes

    def checked_label(
        self, label: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.integer]:
        """A label map, if it is one for an image of this size.

        Raises:
            ValueError: If it is of another size, or has labels that are no classes.
        """
        label = np.asarray(label)
        if label.dtype.kind not in 'iub' or label.shape != shape:
            raise ValueError(
                f'the image has {shape[0]} x {shape[1]} pixels, so its label must be integers of '
                f'this shape, got {label.dtype} of shape {label.shape}'
            )
        label = label.astype(np.int64)
        count = len(self.classes)
        wrong = (label != self.ignore_index) & ((label < 0) | (label >= count))
        if wrong.any():
            raise ValueError(
                f'the label map has class {label[wrong].min()}, but the model has {count} classes, '
                f'0 to {count - 1}; {self.ignore_index} is for pixels without label'
            )
        return label

    @staticmethod
    def name_of(name: str | None, digest: bytes) -> str:
        """The name of an image among the votes."""
        return f'{name or "image"}-{digest.hex()[:8]}'

    def tensors(self, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the address of an image is made of, and what is perturbed, on the device."""
        raw = to_tensor(image).to(self.model.device)
        return raw, self.clean_input(raw)

    @staticmethod
    def clean_input(raw: torch.Tensor) -> torch.Tensor:
        """What is perturbed: the image in [0, 1] units."""
        return to_unit_range(raw) if raw.dtype == torch.uint8 else raw

    @torch.no_grad()
    def _start(self, clean: torch.Tensor) -> None:
        require_no_autocast(self.model.device)
        asked = self._asked if self._asked is not None else self.model.classes
        names = list(map(str, range(asked))) if isinstance(asked, int) else list(asked)
        found = self.model.num_classes(clean)
        if found is None and not names:
            raise ValueError(
                f'{self.model.name} returns labels: give classes, their names or number'
            )
        names = names or list(map(str, range(found or 0)))
        if found not in (None, len(names)):
            raise ValueError(f'{self.model.name} has {found} classes, but {len(names)} were given')
        plan = image_plan(self.settings, names)
        sampling = self._sampling_of(plan)
        identity = {
            'weights': sampling['weights'],
            'model': sampling['model'],
            **self.model_to_dict(),
            **self._identity,
            'device': self.model.device.type,
            'versions': versions(PACKAGES),
        }
        store, folder = None, self.votes_dir
        if folder is None and self.results_dir is not None:
            folder = Path(self.results_dir) / f'votes-{fingerprint(sampling)}'
        if folder is not None:
            provenance = {
                **identity,
                **{key: plan.input_to_dict()[key] for key in ('resolution', 'certified_space')},
                'classes': names,
                'num_classes': len(names),
                'ignore_index': self.ignore_index,
            }
            store = VotesStore(folder, sampling, provenance)
        self.classes, self.sampling = names, sampling
        self.has_gradient = self.model.has_gradient and found is not None
        self._certifier = Certifier(
            plan,
            store=store,
            identity=identity,
            on_draws=self._drawn,
            logger=self._logger,
            processes=self.processes,
        )

    def _drawn(self, name: str, done: int) -> None:
        if self.on_draws is not None:
            self.on_draws(name, done)

    def _sampling_of(self, plan: CertificationPlan) -> dict[str, Any]:
        """All that determines the votes of an image, as JSON values."""
        on_cpu = self.model.device.type == 'cpu'
        return {
            **({} if on_cpu else {'arithmetic': self.model.arithmetic()}),
            **plan.spec(),
            'weights': self.weights,
            'model': self._spec,
        }

    def model_to_dict(self) -> dict[str, Any]:
        """What certificates say of the base model, as JSON values."""
        return {
            'library': self.model.library,
            'architecture': self.model.name,
            'preprocessing': self.model.preprocessing.to_dict(),
            **self.model.reading(),
        }


def smooth(
    model: Any,
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    processor: Any = None,
    preprocessing: Preprocessing | None = None,
    read: Callable[[Any], torch.Tensor] | None = None,
    one_channel: str | None = None,
    classes: Sequence[str] | int | None = None,
    votes_dir: str | os.PathLike[str] | None = None,
    ignore_index: int = IGNORE_INDEX,
    **settings: Any,
) -> Smoothed:
    """Smooths a segmentor of images, so that its predictions can be certified.

    With probability at least 1 - alpha over the draws, all certified pixels of an image keep the
    smoothed model's class under every perturbation of the image, at its own size and in [0, 1]
    units, of l2 norm at most sigma * Phi^{-1}(tau): see ``GaussianNoise`` and the certificate.

    Args:
        model (Any): A ``torch.nn.Module`` that returns scores (B, C, h, w), such as one of
            segmentation-models-pytorch, torchvision or your own; a model of transformers; a session
            of ONNX Runtime; or an ``ImageModel``.
        mean (Sequence[float] | float | None): What is subtracted from an image in [0, 1] units; 0
            if nothing is.
        std (Sequence[float] | float | None): What it is then divided by; 1 for nothing.
        processor (Any): The library's own processor: what it does to an image is done, unless
            ``mean`` and ``std`` or ``preprocessing`` say otherwise. See ``Preprocessing.of``.
        preprocessing (Preprocessing | None): In place of ``mean`` and ``std``, with resizing.
        read (Callable | None): Takes what the model returns, and returns scores or integer labels.
        one_channel (str | None): Of a model with one channel: 'scores' if class 1 is where the
            sigmoid is above 1/2, 'probabilities' if it is where the values are. Needed where all
            values of the first image lie in or near [0, 1].
        classes (Sequence[str] | int | None): Names of the classes, or their number.
        votes_dir (str | os.PathLike | None): Folder where votes are kept and found again.
        ignore_index (int): Label of pixels without ground truth.
        **settings (Any): See ``PlanSettings``: ``sigma``, the noise level in [0, 1] units, or
            ``perturbation``, an object of ``mmcert.perturbations``; ``tau``, ``n0``, ``n``,
            ``alpha``, ``procedure`` and so on.

    Returns:
        Smoothed: With ``certify(image)``, ``predict(image)`` and ``votes(image)``.

    Raises:
        ValueError: If a value is out of range, or what happens to an image is not said.
        TypeError: If the model is none of these.

    Examples:
        >>> import mmcert
        >>> model = torch.nn.Conv2d(3, 2, 1)  # Class 1 where a pixel is brighter than 1/2.
        >>> _ = model.weight.data.copy_(torch.tensor([-1.0, 1])[:, None, None, None])
        >>> _ = model.bias.data.zero_()
        >>> smoothed = mmcert.smooth(model, mean=[0.5] * 3, std=[0.5] * 3, sigma=0.25)
        >>> image = np.linspace(0, 255, 8).astype(np.uint8)[None, :, None].repeat(3, axis=2)
        >>> smoothed.certify(image).maps['cert'].tolist()  # 254 where it abstains.
        [[0, 0, 0, 254, 254, 1, 1, 1]]
    """
    if 'device' in settings:
        raise ValueError(
            "smooth takes no device: all runs where the model's weights are, so bring it there "
            f'first, by model.to({settings["device"]!r})'
        )
    legal = [item.name for item in fields(PlanSettings)]
    if unknown := sorted(settings.keys() - set(legal)):
        raise ValueError(f'unknown: {", ".join(unknown)}; legal settings: {", ".join(legal)}')
    if not isinstance(model, ImageModel):
        given = preprocessing_of(mean, std, processor, preprocessing)
        model = image_model_of(model, given, read, processor)
    if one_channel is not None:
        model.read_one_channel(one_channel)
    return Smoothed(
        model,
        PlanSettings(**settings),
        classes=classes,
        votes_dir=votes_dir,
        ignore_index=ignore_index,
    )


def preprocessing_of(
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    processor: Any,
    preprocessing: Preprocessing | None,
) -> Preprocessing:
    """What was asked for: by hand, or what the processor does.

    Raises:
        ValueError: If nothing was said, or things that do not go together.
    """
    by_hand = mean is not None or std is not None
    if (by_hand and preprocessing is not None) or not (by_hand or preprocessing or processor):
        raise ValueError(
            'say what happens to an image in [0, 1] units before the model: mean and std (0 and 1 '
            'for nothing), processor, or preprocessing'
        )
    if preprocessing is not None:
        return preprocessing
    if not by_hand:
        return Preprocessing.of(processor)
    if mean is None or std is None:
        raise ValueError('mean and std belong together: one of them is missing')
    return Preprocessing(mean, std)  # type: ignore[arg-type]


def image_model_of(
    model: Any,
    preprocessing: Preprocessing,
    read: Callable[[Any], torch.Tensor] | None = None,
    processor: Any = None,
) -> ImageModel:
    """A model of any library as an ``ImageModel``.

    Raises:
        TypeError: If it is none that is known.
    """
    if is_session(model):
        return OnnxModel(model, preprocessing)
    if read is None and is_of_transformers(model):
        return TransformersModel(model, preprocessing, processor)
    if read is None and is_of_smp(model):
        return SmpModel(model, preprocessing)
    if isinstance(model, torch.nn.Module):
        return ModuleModel(model, preprocessing, read=read)
    raise TypeError(
        f'{type(model).__name__} is no torch.nn.Module and no session of ONNX Runtime; for a '
        'function there is mmcert.certifier.Certifier'
    )


def to_tensor(image: Any) -> torch.Tensor:
    """An RGB image as a tensor (3, H, W) with blue first, uint8 where its values are 8-bit levels.

    So the same image has the same draws however it is given, and in whatever library.

    Raises:
        ValueError: If it is no RGB image in 0-255 (uint8) or [0, 1] (floating point).
    """
    if isinstance(image, (str, os.PathLike)):
        raise ValueError(
            f"{image} is a path: read the image first, with Pillow Image.open(path).convert('RGB')"
        )
    if isinstance(image, torch.Tensor):
        tensor = image
    else:
        array = np.asarray(image)
        if isinstance(mode := getattr(image, 'mode', 'RGB'), str) and mode != 'RGB':
            raise ValueError(
                f'an image must be RGB, but this one of Pillow has mode {mode}: take '
                "image.convert('RGB')"
            )
        if array.dtype.kind != 'f' and array.dtype != np.uint8 and array.ndim == 3:
            raise ValueError(f'an image must be uint8 or floating point, got {array.dtype}')
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                f'an image must be RGB, an array (H, W, 3) or a tensor (3, H, W); got shape '
                f"{array.shape}; of another kind, Pillow makes one by image.convert('RGB')"
            )
        tensor = torch.from_numpy(np.require(array, requirements=['C', 'W'])).permute(2, 0, 1)
    if tensor.dim() != 3 or len(tensor) != 3 or tensor.numel() == 0:
        raise ValueError(f'an image must have shape (3, H, W), got {tuple(tensor.shape)}')
    tensor = tensor.detach().flip(0)
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise ValueError(f'an image must be uint8 or floating point, got {tensor.dtype}')
    tensor = tensor.float()
    low, high = (float(value) for value in tensor.aminmax())
    if not LEAST <= low <= high <= MOST:
        raise ValueError(
            f'the image has values in [{low:.4g}, {high:.4g}], but images in [0, 1] are certified: '
            'normalisation belongs to the model (mean, std), and levels of 0-255 are uint8'
        )
    levels = (tensor * 255).round().clamp(0, 255).to(torch.uint8)
    return levels if torch.equal(to_unit_range(levels), tensor) else tensor
