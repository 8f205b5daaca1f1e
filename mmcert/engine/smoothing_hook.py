"""The hook that turns a runner's segmentor into a smoothed one for testing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement

from mmcert.compat import reuse_freed_memory
from mmcert.engine.smoothing_config import Kind, SmoothingConfig
from mmcert.evaluation import CertifiedMetric
from mmcert.evaluation.maps import certified_maps
from mmcert.files import atomic_writer, remove_leftovers, write_json
from mmcert.metrics.confusion import IGNORE_INDEX
from mmcert.models.image_adapter import ImageAdapter
from mmcert.models.smoothed_segmentor import SmoothedSegmentor, SmoothingPlan
from mmcert.pointops import install_cpu_point_ops, needs_cuda
from mmcert.registry import HOOKS
from mmcert.sampling import ProcessGroup
from mmcert.sampling.draws import DRAW_SCHEME
from mmcert.version import __version__
from mmcert.visualization import CertifiedVisualizer
from mmcert.votes import VotesStore
from mmcert.votes.store import fingerprint

PROGRESS_SECONDS = 30.0
"""How often the draws of one image are reported while it takes long."""

UNALTERING = ('Load', 'Pack', 'Resize')
"""Transforms that leave the image alone, by the beginning of their names. A ``Resize`` is one as
long as the image keeps its size, which is checked for each image."""

MODEL_KEYS = ('model', 'data_preprocessor')
"""Top-level keys of a config that make the base model."""

PACKAGES = (
    'torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'numpy', 'scipy', 'opencv-python',
    'opencv-python-headless',
)  # fmt: skip


class CheckpointMismatchError(ValueError):
    """The checkpoint does not hold the weights of the model that would be certified."""


@HOOKS.register_module()
class SmoothingHook(Hook):
    """Certifies the model under test, as ``smoothing=dict(...)`` in the config says.

    Once the checkpoint is loaded, ``runner.model`` is replaced by an
    ``mmcert.models.SmoothedSegmentor`` around it and an ``mmcert.evaluation.CertifiedMetric`` joins
    the evaluator; after the test both are taken away again. Training and validation are not
    touched. Add it to any config with
    ``default_hooks = dict(smoothing=dict(type='mmcert.SmoothingHook'))``.

    Raises:
        ValueError: Before anything runs, if the config has no valid ``smoothing``.
    """

    # After the hooks that change weights when an epoch begins (EMAHook), before the checkpoints'.
    priority = 'LOW'

    def __init__(self) -> None:
        self.config: SmoothingConfig | None = None
        self._mismatch: list[str] | None = None
        self._wrapped: Any = None
        self._undo = contextlib.ExitStack()
        self._metric: CertifiedMetric | None = None
        self._visualizer: CertifiedVisualizer | None = None

    def before_run(self, runner: Runner) -> None:
        """Reads and checks ``smoothing``."""
        self.config = smoothing_of(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Notes which weights the checkpoint lacks or has too many; mmengine only warns of them."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(checkpoint, Mapping):
            return
        state = checkpoint.get('state_dict', checkpoint)
        theirs = {
            re.sub(r'^module\.', '', key): tuple(value.shape)
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        self._mismatch = (
            [f'missing {key}' for key in sorted(ours.keys() - theirs.keys())]
            + [f'unexpected {key}' for key in sorted(theirs.keys() - ours.keys())]
            + [
                f'{key} has shape {theirs[key]}, the model {ours[key]}'
                for key in sorted(ours.keys() & theirs.keys())
                if ours[key] != theirs[key]
            ]
        )

    def after_train(self, runner: Runner) -> None:
        """Forgets what was loaded to start from: the weights are the training's now."""
        self._mismatch = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Puts the smoothed model in place of the base model."""
        config = self.config
        assert config is not None, 'before_run comes first'
        self._restore(runner)
        base = _unwrap(runner.model)
        if config.strict_weights:
            self._check_weights(runner)
        dataset = runner.test_dataloader.dataset
        meta = dict(getattr(dataset, 'metainfo', {}))
        classes = meta.get('classes') or [str(index) for index in range(base.num_classes)]
        plan = config.plan(classes)
        if isinstance(plan.adapter, ImageAdapter) and plan.adapter.space == 'original':
            _check_pipeline(dataset)
        ignore_index = getattr(dataset, 'ignore_index', IGNORE_INDEX)
        self.out_dir = Path(config.out_dir or Path(runner.work_dir) / 'certified')
        sampling = _sampling(runner, base, plan)
        guarantee = plan.perturbation.guarantee(plan.settings.tau)
        # One set of votes answers several attack sets, each in a folder of its own.
        asked = {key: value for key, value in guarantee.items() if key == 'attack'}
        self._run_name = fingerprint({**sampling, **asked, 'settings': asdict(plan.settings)})
        remove_leftovers(self._certificates)
        identity = {
            'weights': sampling['weights'],
            'model': sampling['model'],
            'config': Path(runner.cfg.filename or '').name,
            'checkpoint': Path(str(runner.cfg.get('load_from') or '')).name,
            'device': next(base.parameters()).device.type,
            'versions': versions(),
        }
        provenance = {
            **identity,
            **{
                key: value
                for key, value in plan.adapter.statement().items()
                if key in ('resolution', 'certified_space')
            },
            'classes': list(classes),
            'num_classes': len(classes),
            'ignore_index': ignore_index,
        }
        if next(base.parameters()).device.type == 'cpu':
            reuse_freed_memory()
        smoothed = SmoothedSegmentor(
            base,
            plan,
            classes,
            store=self._store(runner, sampling, provenance),
            identity=identity,
            on_draws=_DrawProgress(runner.logger, plan.most_draws),
            logger=runner.logger,
            processes=self._team(runner),
        )
        self._undo.enter_context(plan.numerics.applied_to(base))
        self._wrapped, runner.model = runner.model, smoothed
        self._metric = CertifiedMetric(
            len(classes), ignore_index, plan.hierarchy, out_dir=str(self.out_dir)
        )
        self._metric.dataset_meta = meta
        runner.test_evaluator.metrics.append(self._metric)
        nodes = {} if plan.hierarchy is None else {'hierarchy': plan.hierarchy.nodes}
        self._visualizer = _visualizer(runner, {**meta, **nodes})
        self._progress = _Progress(len(runner.test_dataloader), plan.adapter.word)
        self._images = 0
        if plan.perturbation.per_input_threshold:
            # What each input's threshold is, and whether it is proven, is known when it comes.
            aim = f'{plan.perturbation}, each {plan.adapter.word} at the threshold that this takes'
        else:
            aim = (
                f'to be certified with probability {1 - plan.settings.alpha:g} per '
                f'{plan.adapter.word}: {guarantee["words"]}'
            )
        runner.logger.info(f'smoothing: {plan.words()}; {aim}')

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Writes the certificates, draws pictures, and reports progress."""
        config, metric = self.config, self._metric
        if outputs is None or config is None or metric is None or data_batch is None:
            return
        raws = runner.model.plan.adapter.inputs(data_batch)
        for sample, (raw, _) in zip(outputs, raws, strict=True):
            self._write_certificate(sample)
            if config.draw_every and self._images % config.draw_every == 0:
                self._draw(sample, raw)
            self._images += 1
        rates = metric.running.rates()
        kinds = {sample.metainfo['certificate']['kind'] for sample in outputs}
        word = 'estimated' if 'estimate' in kinds else 'certified'
        runner.logger.info(
            f'{self._progress.batch_done(runner.model.sampled)}; so far {word} accuracy '
            f'{rates["certAcc"]:.4f}, abstain {rates["abstain"]:.4f}'
        )

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Hands the certified metrics to the visualisation backends."""
        if metrics and is_main_process():
            ours = {k: v for k, v in metrics.items() if k.startswith(('certified/', 'estimated/'))}
            runner.visualizer.add_scalars(ours, step=_iteration(runner))

    def after_test(self, runner: Runner) -> None:
        """Puts the base model back."""
        self._restore(runner)
        runner.logger.info(f'certificates, votes and figures: {self.out_dir}')

    def _restore(self, runner: Runner) -> None:
        """Undoes ``before_test_epoch``, after a test or after one that was broken off."""
        if self._wrapped is not None:
            runner.model, self._wrapped = self._wrapped, None
            self._undo.close()
            runner.test_evaluator.metrics.remove(self._metric)

    def _team(self, runner: Runner) -> ProcessGroup:
        """The processes that share each image's draws; by default each has images of its own."""
        assert self.config is not None
        processes = ProcessGroup.of_all_processes()
        if self.config.distribute == 'images' or processes.size == 1:
            return ProcessGroup()
        batches = len(runner.test_dataloader)
        counts = [processes.broadcast(lambda: batches, rank) for rank in range(processes.size)]
        if len(set(counts)) > 1:
            raise ValueError(
                f"distribute='draws' has all processes work on each other's images in turn, but "
                f'their data loaders have {counts} batches: set '
                'test_dataloader.sampler.round_up=True'
            )
        return processes

    def _check_weights(self, runner: Runner) -> None:
        if self._mismatch is None and _iteration(runner) == 0:
            raise CheckpointMismatchError(
                'no checkpoint was loaded: the model has its initial weights. Give a checkpoint '
                '(or load_from), or set smoothing.strict_weights=False to certify it as it is'
            )
        if self._mismatch:
            shown = '; '.join(self._mismatch[:5])
            more = f' and {len(self._mismatch) - 5} more' if len(self._mismatch) > 5 else ''
            raise CheckpointMismatchError(
                f'the checkpoint does not fit the model: {shown}{more}. A certificate would be '
                'about another model. Check that config and checkpoint belong together, or set '
                'smoothing.strict_weights=False if the difference does not matter'
            )

    def _store(
        self, runner: Runner, sampling: dict[str, Any], provenance: dict[str, Any]
    ) -> VotesStore | None:
        assert self.config is not None
        folder = self.config.votes_dir
        if folder is None:
            return None
        if folder == 'auto':
            folder = str(self.out_dir / f'votes-{fingerprint(sampling)}')
        store = VotesStore(folder, sampling, provenance)
        found = len(list(store.folder.glob('*.npz')))
        if found:
            runner.logger.info(f'{found} {self.config.kind}s have votes in {folder} already')
        return store

    @property
    def _certificates(self) -> Path:
        return self.out_dir / f'certificates-{self._run_name}'

    def _write_certificate(self, sample: BaseDataElement) -> None:
        folder = self._certificates
        folder.mkdir(parents=True, exist_ok=True)
        name = sample.metainfo['name']
        found = certified_maps(sample.to_dict())
        labels = found['cert'].astype(np.uint8)
        maps: dict[str, Any] = {'radius': found['radius']}
        if labels.ndim == 2:
            with atomic_writer(folder / f'{name}.png') as file:
                file.write(cv2.imencode('.png', labels)[1].tobytes())
        else:
            maps['labels'] = labels
        if 'levels' in found:
            level, *nodes = found['levels'].astype(np.uint8)
            maps |= {'level': level, **{f'nodes{i}': node for i, node in enumerate(nodes, 1)}}
        with atomic_writer(folder / f'{name}.npz') as file:
            np.savez_compressed(file, **maps)
        write_json(folder / f'{name}.json', sample.metainfo['certificate'])

    def _draw(self, sample: BaseDataElement, raw: torch.Tensor) -> None:
        assert self._visualizer is not None and self.config is not None
        if self.config.kind == 'cloud':
            picture = self._visualizer.compose_cloud(raw.cpu().numpy(), sample)
        else:
            image = mmcv.imread(sample.get('img_path'), channel_order='rgb')
            picture = self._visualizer.compose(image, sample)
        folder = Path(self.config.show_dir or self.out_dir / f'vis-{self._run_name}')
        picture = mmcv.rgb2bgr(picture)
        mmcv.imwrite(picture, str(folder / f'{sample.metainfo["name"]}.png'))


def _iteration(runner: Runner) -> int:
    """The training iteration; ``runner.iter`` would load the training data to find out."""
    loop = runner._train_loop
    return loop.iter if isinstance(loop, BaseLoop) else 0


def smoothing_of(runner: Runner) -> SmoothingConfig:
    """The ``smoothing`` of a runner's config, for what its model takes.

    Args:
        runner (Runner): With its model built.

    Returns:
        SmoothingConfig: Checked.

    Raises:
        ValueError: If there is none, or it is not valid.
    """
    smoothing = runner.cfg.get('smoothing')
    if smoothing is None:
        raise ValueError(
            'the config has the hook mmcert.SmoothingHook but no `smoothing`; add for example '
            'smoothing=dict(sigma=0.25, tau=0.75, n0=10, n=100, alpha=1e-3)'
        )
    base = runner.model.module if is_model_wrapper(runner.model) else runner.model
    kind = kind_of(base)
    if kind == 'cloud':
        prepare_for_clouds(base)
    return SmoothingConfig.from_cfg(dict(smoothing), kind)


def kind_of(base: torch.nn.Module) -> Kind:
    """What a model takes: 'cloud' for mmdetection3d's segmentors, else 'image'."""
    # Not imported for the answer: a model of mmdetection3d has brought it along.
    segmentors = sys.modules.get('mmdet3d.models.segmentors')
    three = segmentors is not None and isinstance(base, segmentors.Base3DSegmentor)
    return 'cloud' if three else 'image'


def prepare_for_clouds(base: torch.nn.Module) -> None:
    """Gives a model of clouds the point operators that mmcv lacks on the CPU.

    Raises:
        RuntimeError: If the model needs operators that exist for CUDA only.
    """
    install_cpu_point_ops()
    missing = needs_cuda(base)
    if missing and next(base.parameters()).device.type == 'cpu':
        raise RuntimeError(
            f'{type(base).__name__} runs on a CUDA device only: {"; ".join(missing)}'
        )


class _Progress:
    """How fast inputs are certified; those whose votes were found say nothing of it."""

    def __init__(self, batches: int, word: str) -> None:
        self.batches, self.word, self.done, self.sampled = batches, word, 0, 0
        self.sampled_batches, self.seconds = 0, 0.0
        self.last = time.monotonic()

    def batch_done(self, sampled: int) -> str:
        """Counts a batch.

        Args:
            sampled (int): Inputs that were sampled since the beginning.

        Returns:
            str: Batches done, rate and remaining time, for a log.
        """
        now = time.monotonic()
        if sampled > self.sampled:
            self.seconds += now - self.last
            self.sampled_batches += 1
        self.sampled, self.last, self.done = sampled, now, self.done + 1
        words = f'certified {self.done}/{self.batches} batches'
        if not sampled:
            return f'{words} from stored votes'
        remaining = self.seconds / self.sampled_batches * (self.batches - self.done)
        each = self.seconds / sampled
        return f'{words}, {each:.1f} s per {self.word}, about {_duration(remaining)} left'


class _DrawProgress:
    """Reports the draws of an input that takes long."""

    def __init__(self, logger: Any, draws: int) -> None:
        self.logger, self.draws = logger, draws
        self.name, self.done, self.first, self.started, self.reported = '', 0, 0, 0.0, 0.0

    def __call__(self, name: str, done: int) -> None:
        now = time.monotonic()
        if name != self.name or self.done >= self.draws:
            # The rate is that of later draws: the first may be those of a run that goes on.
            self.name, self.done, self.first = name, 0, done
            self.started = self.reported = now
        self.done += done
        if now - self.reported >= PROGRESS_SECONDS and self.done < self.draws:
            self.reported = now
            rate = max(self.done - self.first, 1) / (now - self.started)
            self.logger.info(
                f'{name}: {self.done}/{self.draws} draws, {rate:.1f} per second, about '
                f'{_duration((self.draws - self.done) / rate)} left for this one'
            )


def _sampling(runner: Runner, base: BaseModel, plan: SmoothingPlan) -> dict[str, Any]:
    """All that determines the votes of an input, as JSON values."""
    model = {key: runner.cfg.get(key) for key in MODEL_KEYS}
    device = next(base.parameters()).device
    # Other devices have other generators and other rounding: their votes do not mix.
    other = {} if device.type == 'cpu' else {'arithmetic': plan.numerics.statement(device)}
    return {
        **other,
        **plan.sampling_spec(),
        'scheme': DRAW_SCHEME,
        'fp16': bool(getattr(runner.test_loop, 'fp16', False)),
        'weights': weights_digest(base),
        'model': fingerprint(_plain(model)),
        'data': _dataset_spec(runner.cfg.test_dataloader.dataset),
    }


def weights_digest(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers, whatever file they came from.

    Args:
        model (torch.nn.Module): Any model.

    Returns:
        str: 16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    # Buffers outside the state dict, such as the preprocessor's mean, decide as well.
    tensors = dict(model.named_buffers()) | dict(model.state_dict())
    for key, value in sorted(tensors.items()):
        tensor = value.detach().contiguous().cpu()
        digest.update(f'{key}{tensor.dtype}{tuple(tensor.shape)}'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of mmcert, Python and the packages that a result depends on."""
    found = {'mmcert': __version__, 'python': platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _unwrap(model: Any) -> BaseModel:
    """The segmentor inside a runner's model; refuses what cannot be smoothed."""
    name = type(model).__name__
    if 'FullyShardedDataParallel' in name or 'FSDP' in name:
        raise TypeError(
            f'{name}: a model sharded over processes cannot be smoothed; test it with the plain '
            'or the DistributedDataParallel launcher'
        )
    base = model.module if is_model_wrapper(model) else model
    if isinstance(base, SmoothedSegmentor):
        raise TypeError('the model is smoothed already: the config has two smoothing hooks')
    if isinstance(base, BaseTTAModel):
        raise TypeError(
            'the model is wrapped for test-time augmentation, which draws outside the smoothed '
            'function. Test without --tta and set smoothing.scales and smoothing.flip instead'
        )
    if type(base).__name__ == 'DepthEstimator':
        raise TypeError('DepthEstimator predicts depth, not classes: there is nothing to certify')
    if not isinstance(base, BaseModel) or not hasattr(base, 'decode_head'):
        raise TypeError(
            f'{type(base).__name__} is not an mmsegmentation segmentor with a decode head'
        )
    return base


def _visualizer(runner: Runner, meta: Mapping[str, Any]) -> CertifiedVisualizer:
    visualizer = runner.visualizer
    if not isinstance(visualizer, CertifiedVisualizer):
        visualizer = CertifiedVisualizer(name=f'mmcert-{get_rank()}')
    visualizer.dataset_meta = dict(meta)
    return visualizer


def _check_pipeline(dataset: Any) -> None:
    """Refuses a test pipeline that may alter the image when the original one is to be certified."""
    for chain in _transforms(dataset):
        if not chain:
            raise ValueError(
                f'the test pipeline of {type(dataset).__name__} cannot be seen, so it may alter '
                "the image before the noise is added. Set `smoothing.space='model'` to certify the "
                'image as the pipeline delivers it, which the result then says'
            )
        # Two of them may lead away and back, which the size alone does not show.
        resizes = sum(name.startswith('Resize') for name in chain)
        for name in chain:
            if not name.startswith(UNALTERING) or resizes > 1:
                raise ValueError(
                    f'the test pipeline has {name}, which may alter the image before the noise is '
                    'added, so a radius would not hold for the original image. Remove it, or set '
                    "`smoothing.space='model'` to certify the image as the pipeline delivers it, "
                    'which the result then says'
                )


def _transforms(dataset: Any) -> list[list[str]]:
    """Names of the transforms that images go through, a list for each source of images."""
    if hasattr(dataset, 'dataset'):
        chains = _transforms(dataset.dataset)
    elif hasattr(dataset, 'datasets'):
        chains = [chain for item in dataset.datasets for chain in _transforms(item)]
    else:
        chains = [[]]
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    return [chain + [type(step).__name__ for step in steps] for chain in chains]


def _dataset_spec(cfg: Any) -> Any:
    """What a data set's config says of its images, without the folder it lies in."""
    if isinstance(cfg, (list, tuple)):
        return [_dataset_spec(item) for item in cfg]
    if not isinstance(cfg, Mapping):
        return cfg
    return _plain(
        {
            key: _dataset_spec(value) if key in ('dataset', 'datasets') else value
            for key, value in cfg.items()
            if key not in ('data_root', 'indices', 'metainfo')
        }
    )


def _plain(value: Any) -> Any:
    """Configs as JSON values, without the order and the types that do not matter."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}'
