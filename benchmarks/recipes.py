"""Trains Fast-SCNN on CamVid by each training recipe in equal time, and certifies the results.

All recipes start from one clean model and get the same processor time: the time of a step is
measured first, and the schedule is as long as the budget allows. Processor time, of one thread, is
the same on a machine that others use. Every step leaves its result in the work folder, and an
interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study import (
    ROOT,
    WORK_DIRS,
    Results,
    chosen_inputs,
    evenly_spaced,
    machine,
    on_machine,
    percent,
    run_tool,
    table,
    two,
    write_results,
)

CONFIGS = ROOT / 'configs' / 'camvid'
CLEAN = 'fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth'
RECIPES = {
    'noise at scale 1': 'noise-s0.25-300',
    'noise': 'noise-s0.25-scale0.5-300',
    'consistency': 'consistency-s0.25-scale0.5-300',
    'SmoothAdv': 'smoothadv-s0.25-scale0.5-300',
    'CAT-RS': 'catrs-s0.25-scale0.5-300',
    'distillation': 'distillation-s0.25-scale0.5-300',
    'distillation and consistency': 'distillation-consistency-s0.25-scale0.5-300',
}
"""The configs by what the table calls them."""
SCALE = 0.5
SIGMA = 0.25
DRAWS = 300
TAUS = {0.75: '0.17', 0.9131: '0.34'}
"""Thresholds by the radius that they buy at this noise."""
NOISY_DRAWS = 4
SHORT, LONG = 4, 16
"""Steps of the two runs whose difference is the time of a step."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=20.0, help='processor time of each recipe')
    parser.add_argument('--images', type=int, default=50, help='test images, evenly spaced')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', nargs='+', choices=RECIPES, default=list(RECIPES))
    parser.add_argument('--clean', type=Path, help='checkpoint of the clean model')
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--step', choices=['train', 'certify', 'gather'], help='this step alone')
    return parser.parse_args()


def main() -> int:
    """Runs what is missing and gathers the results."""
    args = parse_args()
    args.clean = args.clean or args.work_dirs / CLEAN
    for name in args.only:
        one = Recipe(name, args)
        if args.step in (None, 'train'):
            one.train()
        if args.step in (None, 'certify'):
            one.certify()
    if args.step in (None, 'gather'):
        gather(args)
    return 0


class Recipe:
    """One recipe with one seed, in a work folder of its own."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args
        self.config = CONFIGS / f'fast-scnn_{RECIPES[name]}_camvid-360x480.py'
        budget = f'{args.minutes:g}min-seed{args.seed}'
        self.folder = args.work_dirs / 'recipes' / f'{RECIPES[name].removesuffix("-300")}-{budget}'
        self.options = [f'load_from={args.clean}', f'randomness.seed={args.seed}']
        if name.startswith('distillation'):
            self.options.append(f'custom_hooks.0.objectives.0.teacher.checkpoint={args.clean}')

    def done(self, step: str, measure: Callable[[], Any]) -> Any:
        """The result of a step, measured if it is not there yet."""
        path = self.folder / f'{step}.json'
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            content = measure()
            path.write_text(json.dumps(content, indent=1))
        return json.loads(path.read_text())

    def train(self) -> None:
        """Trains for as many steps as the budget allows."""
        seconds = self.done('step', self._seconds_per_step)
        steps = max(50, round(60 * self.args.minutes / seconds))
        print(f'{self.name}: {seconds:.2f} s a step, {steps} steps')
        self.done('training', lambda: self._trained(steps))

    def certify(self) -> None:
        """Certifies the test images, and measures the base model under noise."""
        checkpoint = self.folder / 'train' / f'iter_{self.done("training", dict)["steps"]}.pth'
        config = CONFIGS / 'segcertify-s0.25-n100_fast-scnn_camvid-360x480.py'
        out = self.folder / f'certify-{self.args.images}'
        inputs = evenly_spaced(self.args.images, 233, endpoint=False)
        if not (out / 'certified' / 'summary.json').exists():
            run_tool(
                'test', config, checkpoint, f'--work-dir={out}', '--cfg-options',
                f'smoothing.sigma={SIGMA}', f'smoothing.scales={SCALE}', f'smoothing.n={DRAWS}',
                chosen_inputs(inputs),
            )  # fmt: skip
        name = f'certified-{self.args.images}'
        self.done(name, lambda: self._figures(out, config, checkpoint, inputs))

    def _seconds_per_step(self) -> float:
        short, long = (
            self._run(self.folder / 'step', steps, 'val_dataloader.dataset.indices=[0]')
            for steps in (SHORT, LONG)
        )
        return (long - short) / (LONG - SHORT)

    def _trained(self, steps: int) -> dict[str, float]:
        started = time.monotonic()
        seconds = self._run(
            self.folder / 'train', steps, 'default_hooks.checkpoint.interval=50',
            f'param_scheduler.1.end={steps}', resume=True,
        )  # fmt: skip
        wall = time.monotonic() - started
        return {'steps': steps, 'processor_minutes': seconds / 60, 'minutes': wall / 60}

    def _run(self, folder: Path, steps: int, *options: str, resume: bool = False) -> float:
        """Trains in one thread; returns the processor time in seconds."""
        os.environ['OMP_NUM_THREADS'] = '1'
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_tool(
            'train', self.config, f'--work-dir={folder}', *(['--resume'] if resume else []),
            '--cfg-options', *self.options, f'train_cfg.max_iters={steps}',
            f'train_cfg.val_interval={steps}', *options,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)

    def _figures(self, out: Path, config: Path, checkpoint: Path, inputs: list[int]) -> Results:
        (votes,) = (out / 'certified').glob('votes-*')
        run_tool('certify', votes, '--no-plot', '--tau', *TAUS, '--alpha', 0.001, '--procedure',
                 'holm', 'ordered_holm', '--selection', 'holdout', 'auto')  # fmt: skip
        (offline,) = (out / 'certified').glob('offline-*/offline.json')
        summary = json.loads((out / 'certified' / 'summary.json').read_text())
        return {
            'rates': summary['rates'],
            'images': summary['images'],
            'offline': json.loads(offline.read_text()),
            'noisy_accuracy': noisy_accuracy(config, checkpoint, inputs),
        }


def noisy_accuracy(config: Path, checkpoint: Path, inputs: list[int]) -> float:
    """Share of the labelled pixels that the base model gets right in single noisy images."""
    import torch
    from mmengine.config import Config

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    from mmseg.apis import init_model
    from mmseg.registry import DATASETS

    from mmcert.models import ImageSegmentor
    from mmcert.models.image_segmentor import to_unit_range
    from mmcert.perturbations import GaussianNoise

    model = init_model(str(config), str(checkpoint), device='cpu')
    cfg = Config.fromfile(config)
    dataset = DATASETS.build(cfg.test_dataloader.dataset | {'indices': inputs})
    noise, right, total = GaussianNoise(SIGMA), 0, 0
    for index in range(len(dataset)):
        item = dataset[index]
        image, sample = to_unit_range(item['inputs']), item['data_samples']
        labels = sample.gt_sem_seg.data[0]
        generators = [
            torch.Generator().manual_seed(index * NOISY_DRAWS + k) for k in range(NOISY_DRAWS)
        ]
        noisy = list(noise.apply(image, noise.draw(image, generators)))
        with torch.no_grad():
            found = ImageSegmentor(model, sample, scales=(SCALE,)).labels(noisy)
        labelled = (labels != 255).expand_as(found)
        right += int((found == labels)[labelled].sum())
        total += int(labelled.sum())
    return right / total


def gather(args: argparse.Namespace) -> None:
    """Writes the results of all finished recipes into one file."""
    rows = []
    for name in RECIPES:
        one = Recipe(name, args)
        figures = one.folder / f'certified-{args.images}.json'
        if not figures.exists():
            print(f'not run yet: {name}')
            continue
        row = json.loads(figures.read_text())
        row['offline'] = [
            {key: found[key] for key in KEPT if key in found} for found in row['offline']['rows']
        ]
        rows.append({'name': name, 'config': one.config.stem, **one.done('training', dict), **row})
    content = {
        'machine': machine(),
        'budget': args.minutes,
        'seed': args.seed,
        'start': '/'.join(args.clean.parts[-2:]),
        'draws': DRAWS,
        'rows': rows,
    }
    write_results('recipes', content, f'{len(rows)} of {len(RECIPES)} recipes')


KEPT = ('tau', 'alpha', 'procedure', 'selection', 'radius', 'certAcc', 'mIoU', 'abstain')
"""What is kept of each answer from the votes."""


def answer(row: Results, tau: float, procedure: str = 'holm') -> Results:
    """What the votes of a recipe say at a threshold."""
    selection = 'holdout' if procedure == 'holm' else 'auto'
    return next(
        found
        for found in row['offline']
        if (found['tau'], found['procedure'], found['selection']) == (tau, procedure, selection)
    )


def render(results: Results) -> list[str]:
    """Each recipe: the base model, and what is certified at both radii."""
    if not results:
        return ['Not measured yet.']
    radii = list(TAUS.values())
    rows = [
        ('recipe', 'clean', 'under noise', 'smoothed', *(f'certified at {r}' for r in radii),
         *(f'mIoU at {r}' for r in radii), f'abstain at {radii[0]}', 'steps'),
    ]  # fmt: skip
    for row in results['rows']:
        found = [answer(row, tau) for tau in TAUS]
        rows.append(
            (
                row['name'], two(row['rates']['base_aAcc']), two(row['noisy_accuracy']),
                two(row['rates']['smoothed_aAcc']),
                *(two(one['certAcc']) for one in found), *(two(one['mIoU']) for one in found),
                percent(found[0]['abstain']), str(row['steps']),
            )
        )  # fmt: skip
    return [
        *table(rows),
        '',
        'The first columns are the accuracy of the base model on clean images and on single noisy '
        'ones, and of the smoothed model. '
        f'{results["rows"][0]["images"]} test images at input scale {SCALE}, sigma {SIGMA}, n0 = '
        f'10, n = {results["draws"]}, alpha = 0.001 per image, procedure holm. Each recipe '
        f'trained for {results["budget"]:g} minutes of one thread from {results["start"]}, seed '
        f'{results["seed"]}, computed on {on_machine(results)}.',
    ]


TABLES = {'recipes': render}

if __name__ == '__main__':
    sys.exit(main())
