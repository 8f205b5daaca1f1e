"""Trains HRNetV2-W18 with noise on CamVid at full size and certifies it, on one GPU in 10 minutes.

``make gpu-train`` runs it with the environment's Python, ``make gpu-train PYTHON_GPU=python3`` with
another one that has torch and mmsegmentation on mmcv or mmcv-lite. No pretrained weights are needed
and no network. It runs ``tools/train.py`` and then ``tools/test.py`` with the configs

* ``configs/camvid/hrnet18_noise-s0.25-3k_camvid-360x480.py``, in mixed precision on a GPU;
* ``configs/camvid/segcertify-s0.25-n100_hrnet18_camvid-360x480.py``, on all test images,

and writes ``benchmarks/results/gpu_train.json``, which ``update_readme.py`` renders.

**Time.** ``--minutes`` is a limit and holds whatever the machine: when its share is over, training
is stopped and its last checkpoint is certified; when the limit is over, certifying is stopped. We
*estimate*, and have not measured, that one H100 or H200 needs 4 to 6 minutes for the 3,000
iterations, and 1 to 2 for the 233 images (25,630 passes, at the speed that ``gpu_check.py``
measured).

**Killed or stopped?** The same command goes on: training from its last checkpoint, certifying from
the votes that there are. Training that was stopped by the limit counts as finished: delete the work
folder to train anew.

``--device cpu --quick`` runs all of it at a tiny size, to try this program out. Its figures say
nothing, and go into the work folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_check import stop, what_is_missing
from study import RESULTS, ROOT, WORK_DIRS, Results, machine, on_machine, percent, table, two

sys.path.insert(0, str(ROOT))

from mmcert.cli import UsageError, command
from mmcert.files import write_json

CONFIGS = ROOT / 'configs' / 'camvid'
TRAINING = CONFIGS / 'hrnet18_noise-s0.25-3k_camvid-360x480.py'
CERTIFICATION = CONFIGS / 'segcertify-s0.25-n100_hrnet18_camvid-360x480.py'
MODEL = 'HRNetV2-W18'
TRAINING_SHARE = 0.65
"""Share of the time after which training is stopped."""
DATA = ROOT / 'data' / 'camvid'
SPLITS = ('train', 'val', 'test')
CROPS = ('0.1', '1.2')
"""Where the training pipeline crops, in each of its two branches."""
QUICK = {
    'train_cfg.max_iters': 4,
    'train_cfg.val_interval': 4,
    'default_hooks.checkpoint.interval': 2,
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.indices': '[0]',
    'test_dataloader.dataset.indices': '[0,1]',
    'model.data_preprocessor.size': '(64,96)',
    **dict.fromkeys(
        (f'train_dataloader.dataset.pipeline.2.transforms.{place}.crop_size' for place in CROPS),
        '(64,96)',
    ),
    'smoothing.batch_size': 10,
    'smoothing.scales': 0.25,
}
"""What ``--quick`` sets: 4 iterations, 2 images at a quarter of their size."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10.0, help='when it stops at the latest')
    parser.add_argument('--data', type=Path, default=DATA, help='folder of CamVid')
    parser.add_argument(
        '--work-dir', type=Path, help='by default work_dirs/gpu_train, with _quick if it is that'
    )
    parser.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    parser.add_argument('--quick', action='store_true', help='tiny: tries out this program')
    parser.add_argument(
        '--out', type=Path,
        help='the JSON file; by default that of the tables, or one in the work folder if the run '
        'is quick or on a CPU',
    )  # fmt: skip
    args = parser.parse_args()
    args.work_dir = args.work_dir or WORK_DIRS / f'gpu_train{"_quick" * args.quick}'
    return args


@command
def main() -> int:
    """Trains, certifies, and writes the results."""
    started = time.monotonic()
    args = parse_args()
    # As after Ctrl-C, the tool that runs is ended first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    refuse_what_is_missing(args)
    run = Run(args, started)
    iterations = run.train()
    if not run.certify():
        return 1
    measured = args.device == 'cuda' and not args.quick
    out = args.out or (RESULTS if measured else args.work_dir) / 'gpu_train.json'
    content = run.results(iterations)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, content)
    print('\n'.join(render(content)))
    print(f'wrote {out}; {time.monotonic() - started:.0f} s')
    return 0


def refuse_what_is_missing(args: argparse.Namespace) -> None:
    """Says in one line all that is missing, and how to do without."""
    found = what_is_missing(args.device)
    missing = [
        f'{name} ({found[name]})' for name in ('a CUDA device', 'mmsegmentation') if name in found
    ]
    folders = [f'{kind}/{split}' for kind in ('images', 'annotations') for split in SPLITS]
    if lacking := [folder for folder in folders if not any((args.data / folder).glob('*'))]:
        missing.append(
            f'CamVid (no files in {args.data / lacking[0]}; configs/camvid/README.md says how to '
            'bring it there)'
        )
    if missing:
        hint = '; --device cpu --quick tries this program out' * ('a CUDA device' in found)
        raise UsageError(f'gpu-train needs {" and ".join(missing)}{hint}')


class Run:
    """The two tools, in processes of their own that end when their time is over.

    Args:
        args (argparse.Namespace): The command line.
        started (float): When this program began, on the monotonic clock.
    """

    def __init__(self, args: argparse.Namespace, started: float) -> None:
        self.work_dir, self.quick, self.minutes = args.work_dir, args.quick, args.minutes
        self.started, self.cuda = started, args.device == 'cuda'
        self.certified = args.work_dir / 'certified'
        self.options = {
            f'{split}_dataloader.dataset.data_root': args.data.resolve() for split in SPLITS
        }
        if args.quick:
            self.options |= QUICK
        self._times = args.work_dir / 'times.json'

    @property
    def times(self) -> dict[str, Any]:
        """Seconds of each part in all calls, the final checkpoint (or None), and more.

        ``stopped`` says whether the limit ended the training.
        """
        if self._times.exists():
            return json.loads(self._times.read_text())
        return {'training': 0.0, 'certification': 0.0, 'checkpoint': None, 'stopped': False}

    def train(self) -> int:
        """Trains, or goes on, until it is through or its time is over; returns the iterations."""
        if self.times['checkpoint'] is None:
            options = ['--resume', *(['--amp'] if self.cuda else [])]
            done = self._tool('training', 'train', TRAINING, *options, share=TRAINING_SHARE)
            last = self.work_dir / 'last_checkpoint'
            checkpoint = Path(last.read_text().strip()).name if last.exists() else ''
            if not checkpoint:
                raise UsageError(
                    f'training had no checkpoint after {TRAINING_SHARE * self.minutes:.1f} '
                    'minutes: give it more with --minutes'
                )
            if not done:
                print('training was stopped by the limit; its last checkpoint is certified')
            self._note(checkpoint=checkpoint, stopped=not done)
        found = re.fullmatch(r'iter_(\d+)\.pth', self.times['checkpoint'])
        assert found is not None
        return int(found[1])

    def certify(self) -> bool:
        """Certifies all images, or goes on; says how far it came if its time is over."""
        checkpoint = self.work_dir / self.times['checkpoint']
        done = self._tool('certification', 'test', CERTIFICATION, checkpoint)
        if not done:
            votes = len(list(self.certified.glob('votes-*/*.npz')))
            print(
                f'stopped by the limit of {self.minutes:g} minutes: {votes} images have votes; '
                'the same command goes on'
            )
        return done

    def _tool(
        self, part: str, tool: str, config: Path, *arguments: object, share: float = 1.0
    ) -> bool:
        """Runs a tool until it is through; False if its time was over before.

        Raises:
            subprocess.CalledProcessError: If it fails.
        """
        options = dict(self.options)
        if tool == 'test':
            options['smoothing.out_dir'] = self.certified
        else:
            options = {k: v for k, v in options.items() if not k.startswith('smoothing.')}
        line = [
            sys.executable, ROOT / 'tools' / f'{tool}.py', config, *arguments, '--work-dir',
            self.work_dir, '--cfg-options', *(f'{key}={value}' for key, value in options.items()),
        ]  # fmt: skip
        paths = filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')])
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
        if not self.cuda:
            environment['CUDA_VISIBLE_DEVICES'] = ''
        began = time.monotonic()
        left = share * 60 * self.minutes - (began - self.started)
        running = subprocess.Popen(
            list(map(str, line)), cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code: int | None = running.wait(timeout=max(left, 0.0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(running)
            self._note(**{part: self.times[part] + time.monotonic() - began})
        if code:
            raise subprocess.CalledProcessError(code, line)
        return code == 0

    def _note(self, **values: Any) -> None:
        """Stores how far this work folder is."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        write_json(self._times, {**self.times, **values})

    def results(self, iterations: int) -> Results:
        """What is written, as JSON values."""
        summary = json.loads((self.certified / 'summary.json').read_text())
        times = self.times
        return {
            'machine': machine(gpu=self.cuda),
            'versions': versions(),
            'model': MODEL,
            'quick': self.quick,
            'iterations': iterations,
            'stopped': times['stopped'],
            'minutes': self.minutes,
            'seconds': {part: times[part] for part in ('training', 'certification')},
            **{key: summary[key] for key in ('images', 'certificate', 'rates', 'per_class')},
            'classes': summary['classes'],
        }


def versions() -> dict[str, str]:
    """Versions of what computed."""
    found = {}
    for name in ('torch', 'mmengine', 'mmsegmentation', 'mmcv', 'mmcv-lite', 'numpy'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def render(results: Results) -> list[str]:
    """The base model, the smoothed model, and what is certified."""
    if not results:
        return ['Not measured yet: no GPU was at hand.']
    rates, settings = results['rates'], results['certificate']
    seconds = results['seconds']
    return [
        *table(
            [
                ('model', 'radius', 'accuracy', 'mIoU', 'abstain'),
                (
                    f'{results["model"]}, clean image', '-',
                    two(rates['base_aAcc']), two(rates['base_mIoU']), '-',
                ),
                (
                    'smoothed, without certification', '-',
                    two(rates['smoothed_aAcc']), two(rates['smoothed_mIoU']), '-',
                ),
                (
                    'certified', f'{settings["radius"]:.3f}', two(rates['certAcc']),
                    two(rates['mIoU']), percent(rates['abstain']),
                ),
            ]
        ),
        '',
        f'From scratch, {results["iterations"]:,} iterations with noise '
        f'{settings["parameters"]["sigma"]:g}{" (stopped by the limit)" * results["stopped"]}: '
        f'{minutes(seconds["training"])}. '
        f'{results["images"]} test images, tau = {settings["tau"]:g}, n0 = {settings["n0"]}, '
        f'n = {settings["n"]}, alpha = {settings["alpha"]:g} per image, procedure '
        f'{settings["procedure"]}, seed {settings["seed"]}: {minutes(seconds["certification"])}. '
        f'Computed on {on_machine(results)} '
        f'({", ".join(f"{name} {found}" for name, found in results["versions"].items())}).'
        + ' Only a try of the program: these figures say nothing.' * results['quick'],
    ]  # fmt: skip


def render_headline(results: Results) -> list[str]:
    """The README's row; nothing before it was measured."""
    if not results:
        return []
    rates, settings, seconds = results['rates'], results['certificate'], results['seconds']
    total = math.ceil((seconds['training'] + seconds['certification']) / 60)
    return table(
        [
            (f'CamVid, {results["model"]}', 'l2 radius', 'base accuracy', 'certified accuracy',
             'certified mIoU', 'abstain'),
            (
                f'from scratch, trained with noise and certified in {total} minutes on one '
                f'{results["machine"].get("gpu", "CPU")}; {results["images"]} test images',
                f'{settings["radius"]:.3f}', two(rates['base_aAcc']), two(rates['certAcc']),
                two(rates['mIoU']), percent(rates['abstain']),
            ),
        ]
    )  # fmt: skip


def minutes(seconds: float) -> str:
    """Seconds as minutes, for a sentence."""
    return f'{seconds / 60:.1f} minutes'


TABLES = {'gpu_train': render, 'gpu_train:headline': render_headline}

if __name__ == '__main__':
    sys.exit(main())
