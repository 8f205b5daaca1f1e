"""Makes the denoisers known to configs, by ``type='mmcert.Name'``."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmcert.denoisers import CLASSES, Denoiser, Denoising
from mmcert.perturbations import GaussianNoise, Perturbation, TransformationCells
from mmcert.perturbations.noise_level import validate_sigma
from mmcert.registry import DENOISERS


def denoiser_class(cfg: Mapping[str, Any]) -> type[Denoiser]:
    """The class that a config names.

    Raises:
        ValueError: If it names none, or none that is known.
    """
    name = cfg.get('type')
    cls = DENOISERS.get(name) if isinstance(name, str) else None
    if cls is None:
        known = ', '.join(f'mmcert.{known}' for known in sorted(CLASSES))
        raise ValueError(
            f'a denoiser needs a type that is known, such as {known}; got {name!r}. One of your '
            'own is registered by @mmcert.registry.DENOISERS.register_module()'
        )
    return cls


def build_denoising(cfg: Mapping[str, Any], perturbation: Perturbation) -> Denoising:
    """Loads the denoiser that stands before a model under some perturbation.

    Args:
        cfg (Mapping): ``type`` and ``checkpoint``; maybe ``sigma``, by default that of the noise;
            and what the class's ``from_checkpoint`` takes besides.
        perturbation (Perturbation): Where the noise comes from.

    Raises:
        ValueError: If a key is missing, or the noise level that the denoiser must be told.
        FileNotFoundError: If there is no such checkpoint.
    """
    if not isinstance(cfg, Mapping):
        raise ValueError(f'smoothing.denoiser must be a dict, got {cfg!r}')
    cls, options = denoiser_class(cfg), {k: v for k, v in cfg.items() if k != 'type'}
    checkpoint = options.pop('checkpoint', None)
    if not isinstance(checkpoint, str) or not checkpoint:
        raise ValueError(
            f'smoothing.denoiser needs a checkpoint, for example denoiser=dict(type={cfg["type"]!r}'
            ", checkpoint='work_dirs/denoisers/NAME/denoiser.pth')"
        )
    noise = perturbation
    if isinstance(perturbation, TransformationCells):
        noise = perturbation.noise
    sigma = options.pop('sigma', None)
    if sigma is not None:
        sigma = validate_sigma(sigma, 'smoothing.denoiser.sigma')
    elif isinstance(noise, GaussianNoise):
        sigma = noise.sigma
    try:
        denoiser = cls.from_checkpoint(checkpoint, **options)
    except TypeError as error:
        raise ValueError(f'smoothing.denoiser: {cls.__name__}: {error}') from error
    _check_level(denoiser, sigma)
    return Denoising(denoiser, sigma, Path(checkpoint).name)


def _check_level(denoiser: Denoiser, sigma: float | None) -> None:
    """Refuses a missing noise level, and warns of one that the denoiser was not made for."""
    if sigma is None:
        if denoiser.told:
            raise ValueError(
                f'{type(denoiser).__name__} must be told the noise level, and the perturbation has '
                'none: set smoothing.denoiser.sigma'
            )
        return
    low, high = denoiser.low, denoiser.high
    if not low * 0.99 <= sigma <= high * 1.01:
        made_for = f'{low:g}' if low == high else f'{low:g} to {high:g}'
        print_log(
            f'the denoiser was made for noise of sigma {made_for}, the noise here has {sigma:g}: '
            'the certificates hold, but expect fewer of them',
            logger='current',
            level=logging.WARNING,
        )


for _name, _cls in CLASSES.items():
    DENOISERS.register_module(name=_name, module=_cls)
