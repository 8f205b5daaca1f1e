"""The user's ``smoothing=dict(...)``, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from mmcert.certifier.images import RESOLUTIONS, SPACES
from mmcert.certifier.plan_settings import PlanSettings, is_number
from mmcert.certify.checks import check_draws
from mmcert.cli import check_out
from mmcert.denoisers import Denoising
from mmcert.engine.base_model import Modality, inner, modality_of, prepare_for_clouds
from mmcert.engine.perturbations import build
from mmcert.engine.weights import check_weights
from mmcert.models.adapter import Adapter
from mmcert.models.denoisers import build_denoising
from mmcert.models.image_adapter import ImageAdapter, Space
from mmcert.models.image_segmentor import Resolution
from mmcert.models.precision import PrecisionSettings
from mmcert.models.smoothed_segmentor import SmoothingPlan
from mmcert.perturbations import Perturbation
from mmcert.votes import VotesStore
from mmcert.votes.shards import Shard
from mmcert.votes.store import fingerprint

DISTRIBUTE = ('images', 'draws')
"""What the processes of a run may share."""

CONFIDENCE = ('pictures', 'arrays', None)
"""What may be written of the confidence in each component."""

OF_TESTS = (
    'tau', 'n0', 'n', 'budget', 'min_gain', 'alpha', 'procedure', 'selection', 'k', 'order',
    'hierarchy', 'seed',
)  # fmt: skip
"""Keys that mean nothing where nothing is drawn."""

SHORTHAND = {'image': 'mmcert.GaussianNoise', 'cloud': 'mmcert.CoordinateNoise'}
"""The perturbation that ``sigma`` alone stands for."""

ONLY_FOR = {
    'image': ('denoiser', 'scales', 'flip', 'space', 'resolution', 'channels_last'),
    'cloud': ('noise_dims', 'runs'),
}
"""Keys that mean something for one modality only."""

FOLDERS = ('out_dir', 'votes_dir', 'show_dir')
"""Keys that name a folder."""


def check_config(cfg: Mapping[str, Any]) -> SmoothingPlan | None:
    """Refuses a config with which no run should begin, before anything is built and logged.

    Looks at the weights that it loads, and at ``smoothing``. Where ``default_scope`` does not tell
    what the model takes, the run itself will.

    Returns:
        SmoothingPlan | None: The plan without classes, as far as a config tells it.

    Raises:
        ValueError: If there are no weights in the checkpoint, ``smoothing`` is no dict, a key or
            value is not legal, or a folder cannot be written.
    """
    scope, smoothing = cfg.get('default_scope'), cfg.get('smoothing')
    plan = None
    if smoothing is not None and scope in ('mmseg', 'mmdet3d'):
        if not isinstance(smoothing, Mapping):
            raise ValueError(f'smoothing must be a dict, got {smoothing!r}')
        modality: Modality = 'image' if scope == 'mmseg' else 'cloud'
        plan = SmoothingConfig.from_cfg(dict(smoothing), modality).plan()
        for key in FOLDERS:
            if (folder := smoothing.get(key)) not in (None, 'auto'):
                check_out(folder, f'smoothing.{key}')
    if cfg.get('load_from'):
        check_weights(cfg['load_from'])
    return plan


@dataclass(frozen=True)
class SmoothingConfig(PlanSettings):
    """The keys of ``smoothing=dict(...)`` in a config.

    Those of ``PlanSettings``, and what belongs to a model of OpenMMLab and its run.

    Attributes:
        denoiser (dict | None): What the noisy image goes through first, inside the smoothed
            function: ``type`` and ``checkpoint``; and ``sigma``, where that is not the noise's.
        scales (float | Sequence[float]): Input scales inside the smoothed function.
        flip (bool): Whether the smoothed function averages with the mirrored image.
        space (str): 'original' (the default), or 'model' where the test pipeline resizes first.
        resolution (str): 'image' (the default), or 'logits' to smooth the label map on the head's
            own grid: another model, with fewer hypotheses.
        noise_dims (Sequence[int]): For clouds: the columns that are perturbed.
        runs (int): For clouds: passes of the base model that are averaged, each with the points
            in another order.
        precision (str): 'fp32', or 'bf16' or 'fp16' for autocast.
        channels_last (bool): Memory format of images and weights.
        compile (bool | str): Whether ``torch.compile`` compiles backbone and neck, or its mode.
        cuda_graphs (bool): Whether backbone and neck are replayed as CUDA graphs.
        distribute (str): What several processes share: 'images' (each certifies its own), or
            'draws' (all sample the same image).
        shard (str | None): Certifies one shard of the data set: '3/16' is the third of each 16
            images. For independent jobs that share a votes folder.
        out_dir (str | None): Where results go; by default ``certified`` in the work folder.
        votes_dir (str | None): Where votes are kept and found again; 'auto' is a folder in
            ``out_dir`` named by the fingerprint, None keeps none.
        confidence (str | None): What is written of the confidence in each pixel or point:
            'pictures' (with the arrays that they show; of clouds with ``draw_every`` alone),
            'arrays', or None.
        draw_every (int): Draws a picture of every so-many-th image, and hands it to the
            visualisation backends of the runner; 0 draws none.
        show_dir (str | None): Where pictures go; by default ``vis-*`` in ``out_dir``.
        strict_weights (bool): Refuses a checkpoint with missing or unexpected weights.
    """

    denoiser: Mapping[str, Any] | None = None
    scales: float | Sequence[float] = 1.0
    flip: bool = False
    space: Space = 'original'
    resolution: Resolution = 'image'
    noise_dims: Sequence[int] = (0, 1, 2)
    runs: int = 1
    precision: str = 'fp32'
    channels_last: bool = False
    compile: bool | str = False
    cuda_graphs: bool = False
    distribute: str = 'images'
    shard: str | None = None
    out_dir: str | None = None
    votes_dir: str | None = 'auto'
    confidence: str | None = 'pictures'
    draw_every: int = 0
    show_dir: str | None = None
    strict_weights: bool = True
    modality: Modality = 'image'

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any], modality: Modality = 'image') -> SmoothingConfig:
        """Reads and checks ``smoothing`` as the user wrote it, for a model of some modality.

        Raises:
            ValueError: If a key is unknown or a value out of range.
        """
        legal = [field.name for field in fields(cls) if field.name != 'modality']
        unknown = sorted(set(cfg) - set(legal))
        if unknown:
            raise ValueError(
                f'unknown key{"s" if len(unknown) > 1 else ""} in `smoothing`: '
                f'{", ".join(unknown)}. Legal keys: {", ".join(legal)}.'
            )
        config = cls(**cfg, modality=modality)
        # Not by their values: a default that somebody wrote down would be ignored silently.
        if config.plan().settings is None and (given := [key for key in OF_TESTS if key in cfg]):
            raise ValueError(
                'an enumeration draws nothing and tests nothing: leave '
                f'{", ".join(given)} out of `smoothing` (`_delete_=True` drops what a base config '
                'has set)'
            )
        return config

    def plan(self, classes: Sequence[str] | None = None) -> SmoothingPlan:
        """Builds what the sampler needs; ValueError if a value is out of range.

        Without the names of the classes it only checks: the plan has one class and no hierarchy.
        """
        self.require_one_perturbation()
        perturbation = self._build_perturbation()
        _check_choice('distribute', self.distribute, DISTRIBUTE)
        _check_choice('confidence', self.confidence, CONFIDENCE)
        if self.shard is not None:
            Shard.parse(self.shard)
            if self.votes_dir is None:
                raise ValueError('shard needs a folder of votes: votes_dir must not be None')
        for name in ('flip', 'strict_weights'):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f'{name} must be True or False, got {getattr(self, name)!r}')
        for name in FOLDERS:
            if not isinstance(getattr(self, name), (str, os.PathLike, type(None))):
                raise ValueError(f'{name} must name a folder, got {getattr(self, name)!r}')
        if type(self.draw_every) is not int or self.draw_every < 0:
            raise ValueError(f'draw_every must be an integer >= 0, got {self.draw_every!r}')
        return SmoothingPlan(
            **self.plan_parts(perturbation, classes),
            adapter=self._adapter(perturbation),
            precision=PrecisionSettings(
                self.precision, self.channels_last, self.compile, self.cuda_graphs
            ),
        )

    def results_dir(self, work_dir: str | os.PathLike[str]) -> Path:
        """Where the results of a run go that has this work folder."""
        return Path(self.out_dir or Path(work_dir) / 'certified')

    def open_store(
        self, results_dir: Path, sampling: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> VotesStore | None:
        """The folder of votes of such draws in a folder of results, if votes are kept."""
        if self.votes_dir is None:
            return None
        auto = results_dir / f'votes-{fingerprint(sampling)}'
        return VotesStore(
            auto if self.votes_dir == 'auto' else self.votes_dir, sampling, provenance
        )

    def _build_perturbation(self) -> Perturbation:
        shorthand = {'type': SHORTHAND[self.modality], 'sigma': self.sigma}
        return build(self.perturbation or shorthand)

    @cached_property
    def _denoising(self) -> Denoising | None:
        """The denoiser, loaded once for all plans."""
        if self.denoiser is None:
            return None
        perturbation = self._build_perturbation()
        if perturbation.enumerated is not None:
            raise ValueError(
                'an enumeration certifies the base model itself, without noise: leave denoiser out'
            )
        return build_denoising(self.denoiser, perturbation)

    def _adapter(self, perturbation: Perturbation) -> Adapter[Any]:
        """What brings this kind of input to the model."""
        other: Modality = 'cloud' if self.modality == 'image' else 'image'
        for field in fields(self):
            value = getattr(self, field.name)
            # Configs give lists for tuples.
            value = tuple(value) if isinstance(value, list) else value
            if field.name in ONLY_FOR[other] and value != field.default:
                raise ValueError(
                    f'`smoothing.{field.name}` is for {other}s; this model takes {self.modality}s'
                )
        of_images = self.modality == 'image'
        adapter = self._image_adapter() if of_images else self._cloud_adapter(perturbation)
        if perturbation.domain != adapter.domain:
            raise ValueError(
                f'{perturbation!r} is for {perturbation.domain}, but this model takes '
                f'{self.modality}s'
            )
        return adapter

    def _image_adapter(self) -> Adapter[Any]:
        _check_choice('space', self.space, SPACES)
        _check_choice('resolution', self.resolution, RESOLUTIONS)
        scales = tuple(self.scales) if isinstance(self.scales, Sequence) else (self.scales,)
        if not scales or not all(is_number(scale) and 0 < scale <= 4 for scale in scales):
            raise ValueError(f'scales must be numbers in (0, 4], got {self.scales!r}')
        return ImageAdapter(
            tuple(map(float, scales)),
            self.flip,
            self.space,
            self.resolution,
            self._denoising,
        )

    def _cloud_adapter(self, perturbation: Perturbation) -> Adapter[Any]:
        # mmdetection3d is needed for clouds alone, and takes seconds to import.
        from mmcert.models.cloud_adapter import CloudAdapter

        dims = tuple(self.noise_dims)
        legal = all(isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0 for dim in dims)
        if not dims or not legal or len(set(dims)) < len(dims):
            raise ValueError(
                f'noise_dims must be different column numbers >= 0, got {self.noise_dims!r}'
            )
        if dims != (0, 1, 2) and type(perturbation).__name__ != 'CoordinateNoise':
            raise ValueError(
                f'{perturbation!r} moves points in space: noise_dims must be (0, 1, 2), got {dims}'
            )
        return CloudAdapter(dims, check_draws(self.runs, 'runs'), perturbation.num_columns == 6)


def smoothing_of(runner: Runner) -> SmoothingConfig:
    """The ``smoothing`` of a runner's config, checked for what its model takes.

    Raises:
        ValueError: If there is none, or it is not valid.
    """
    smoothing = runner.cfg.get('smoothing')
    if smoothing is None:
        raise ValueError(
            'the config has the hook mmcert.SmoothingHook but no `smoothing`; add for example '
            'smoothing=dict(sigma=0.25, tau=0.75, n0=10, n=100, alpha=1e-3)'
        )
    base = inner(runner.model)
    modality = modality_of(base)
    if modality == 'cloud':
        prepare_for_clouds(base)
    return SmoothingConfig.from_cfg(dict(smoothing), modality)


def _check_choice(name: str, value: Any, legal: Collection[str | None]) -> None:
    if value not in legal:
        raise ValueError(f'{name} must be one of {", ".join(map(str, legal))}, got {value!r}')
