"""The hook that turns a runner's segmentor into a smoothed one for testing."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certifier.progress import Progress
from mmcert.certifier.results import ResultsWriter, asked_attack, results_name
from mmcert.compat import reuse_freed_memory
from mmcert.engine.base_model import inner
from mmcert.engine.pipeline import require_unaltered_images
from mmcert.engine.provenance import RunInfo
from mmcert.engine.results import write_sample
from mmcert.engine.sharding import file_sizes, sharded_loader, source_names
from mmcert.engine.smoothing_config import smoothing_of
from mmcert.engine.weights import mismatches, require_loaded
from mmcert.evaluation import CertifiedMetric
from mmcert.models.image_adapter import ImageAdapter
from mmcert.models.smoothed_segmentor import SmoothedSegmentor, SmoothingPlan
from mmcert.registry import HOOKS
from mmcert.sampling import ProcessGroup
from mmcert.visualization import CertifiedVisualizer
from mmcert.votes.shards import Manifest, Shard
from mmcert.votes.store import fingerprint


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
        self._mismatches: list[str] | None = None
        self._undo = contextlib.ExitStack()
        self._finish_shard: Callable[..., None] | None = None

    def before_run(self, runner: Runner) -> None:
        """Reads and checks ``smoothing``."""
        self.config = smoothing_of(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Notes which weights do not fit."""
        if isinstance(checkpoint, Mapping):
            self._mismatches = mismatches(inner(runner.model), checkpoint)

    def after_train(self, runner: Runner) -> None:
        """Forgets what the training started from: the weights are its own now."""
        self._mismatches = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Puts the smoothed model in place of the base model, and the metric beside the others."""
        self._undo.close()  # What a test that was broken off has left.
        config, loop = self.config, runner.test_loop
        shard = None if config.shard is None else Shard.parse(config.shard)
        if shard is not None:
            self._undo.callback(setattr, loop, 'dataloader', loop.dataloader)
            whole = loop.dataloader.dataset
            sources, sizes = source_names(whole), file_sizes(whole)
            loop.dataloader = sharded_loader(runner, shard)
        run, processes = RunInfo(runner), ProcessGroup()
        if config.strict_weights:
            trained = self._mismatches is None and _iteration(runner) > 0
            require_loaded([] if trained else self._mismatches)
        plan = config.plan(run.classes)
        if isinstance(plan.adapter, ImageAdapter) and plan.adapter.space == 'original':
            require_unaltered_images(run.dataset)
        if config.distribute == 'draws':
            processes = _processes_in_step(run.batches)
        if run.device.type == 'cpu':
            reuse_freed_memory()

        sampling = run.sampling(plan)
        identity = run.identity(sampling)
        name = results_name(plan, sampling)
        self.out_dir = config.results_dir(run.work_dir)
        self._writer = ResultsWriter(
            self.out_dir / f'certificates-{name}',
            self.out_dir / f'confidence-{name}',
            Path(config.show_dir or self.out_dir / f'vis-{name}'),
            config.draw_every,
            config.confidence,
            partial(_log_picture, runner),
        )
        self._visualizer = _visualizer(runner, plan, run)
        store = config.open_store(self.out_dir, sampling, run.provenance(plan, identity))
        if store is not None and (found := len(list(store.folder.glob('*.npz')))):
            where = f'{found} {plan.adapter.word}s have votes in {store.folder} already'
            runner.logger.info(where)
        self._finish_shard, results_dir = None, self.out_dir
        if shard is not None:
            assert store is not None
            # Jobs of other shards may write to the same folders.
            results_dir = self.out_dir / f'shard-{shard.file_name}'
            task = {
                'num_classes': len(run.classes),
                'classes': run.metainfo.get('classes') or (),
                'ignore_index': run.ignore_index,
                'file_sizes': fingerprint({'bytes': sizes}),
                **asked_attack(plan),
            }
            settings = plan.settings_to_dict()
            manifest = Manifest.of(shard, sources, sampling=sampling, settings=settings, task=task)
            manifest.begin(store.folder, write=is_main_process())
            self._finish_shard = partial(manifest.finish, store.folder)
        self._progress = Progress(
            run.batches, plan.most_draws, plan.adapter.word, runner.logger, processes.size
        )
        smoothed = SmoothedSegmentor(
            run.base,
            plan,
            store=store,
            identity=identity,
            on_draws=self._progress.on_draws,
            logger=runner.logger,
            processes=processes,
            autocast=run.fp16,
        )
        self._metric = CertifiedMetric(
            len(run.classes), run.ignore_index, plan.hierarchy, out_dir=str(results_dir)
        )
        self._metric.dataset_meta = run.metainfo

        self._undo.enter_context(plan.precision.applied_to(run.base))
        self._undo.callback(setattr, runner, 'model', runner.model)
        self._undo.callback(runner.test_evaluator.metrics.remove, self._metric)
        runner.model = smoothed
        runner.test_evaluator.metrics.append(self._metric)
        runner.logger.info(f'smoothing: {plan.describe()}; {plan.aim()}')

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Writes the certificates, draws pictures, and reports progress."""
        if outputs is None or data_batch is None:
            return
        inputs = runner.model.plan.adapter.inputs(data_batch)
        for sample, (raw, _) in zip(outputs, inputs, strict=True):
            write_sample(self._writer, self._visualizer, sample, raw)
        kinds = {sample.metainfo['certificate']['promise']['kind'] for sample in outputs}
        word = 'estimated' if 'estimate' in kinds else 'certified'
        rates = self._metric.running.rates()
        runner.logger.info(
            f'{self._progress.batch_done(len(outputs))}; so far {word} accuracy '
            f'{rates["certAcc"]:.4f}, abstain {rates["abstain"]:.4f}'
        )

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Hands the certified metrics to the visualisation backends, and records a whole shard."""
        if metrics and is_main_process():
            ours = {k: v for k, v in metrics.items() if k.startswith(('certified/', 'estimated/'))}
            runner.visualizer.add_scalars(ours, step=_iteration(runner))
        if self._finish_shard is not None and (summary := self._metric.summary) is not None:
            self._finish_shard([(one.name, one.certificate) for one in summary.results])

    def after_test(self, runner: Runner) -> None:
        """Puts the base model back."""
        self._undo.close()
        runner.logger.info(f'certificates, votes and figures: {self.out_dir}')
        next_command = f'to look at them: mmcert report {self.out_dir}'
        if self._finish_shard is not None:
            next_command = f'once all shards have run: mmcert merge {self.out_dir}'
        runner.logger.info(next_command)


def _log_picture(runner: Runner, name: str, picture: NDArray[np.uint8]) -> None:
    """Hands a picture to the visualisation backends, whichever visualiser the config has."""
    runner.visualizer.add_image(name, picture, _iteration(runner))


def _iteration(runner: Runner) -> int:
    """The training iteration; ``runner.iter`` would load the training data to find out."""
    loop = runner._train_loop
    return loop.iter if isinstance(loop, BaseLoop) else 0


def _processes_in_step(batches: int) -> ProcessGroup:
    """All processes, for sharing the draws of each input; they must have equally many batches."""
    processes = ProcessGroup.of_all_processes()
    counts = [processes.broadcast(lambda: batches, rank) for rank in range(processes.size)]
    if len(set(counts)) > 1:
        raise ValueError(
            f"distribute='draws' has all processes work on each other's images in turn, but "
            f'their data loaders have {counts} batches: set '
            'test_dataloader.sampler.round_up=True'
        )
    return processes


def _visualizer(runner: Runner, plan: SmoothingPlan, run: RunInfo) -> CertifiedVisualizer:
    """The runner's visualiser if it draws certificates, else one that does."""
    visualizer = runner.visualizer
    if not isinstance(visualizer, CertifiedVisualizer):
        visualizer = CertifiedVisualizer(name=f'mmcert-{get_rank()}')
    visualizer.dataset_meta = {**run.metainfo, 'hierarchy': plan.hierarchy}
    return visualizer
