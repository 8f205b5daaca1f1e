"""Trains Fast-SCNN on CamVid by each training recipe in equal time, and certifies the results.

All recipes start from one clean model and get the same processor time: the time of a step is
measured first, and the schedule is as long as the budget allows. Processor time, of one thread, is
the same on a machine that others use. Every step leaves its result in the work folder, and an
interrupted run continues. At the end, all runs of one budget go into one file. ``--ensemble`` makes
one model of a recipe's three seeds, by the mean of their logits, and certifies it.
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
    IMAGES,
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
    'consistency, weight 4': 'consistency4-s0.25-scale0.5-300',
    'SmoothAdv': 'smoothadv-s0.25-scale0.5-300',
    'CAT-RS': 'catrs-s0.25-scale0.5-300',
    'distillation': 'distillation-s0.25-scale0.5-300',
    'distillation and consistency': 'distillation-consistency-s0.25-scale0.5-300',
}
"""The configs by what the table calls them."""
SCALE = 0.5
DRAWS = 300
TAUS = {0.25: {0.75: '0.17', 0.9131: '0.34'}, 0.5: {0.75: '0.34', 0.91: '0.67'}}
"""The radii that thresholds buy, for each noise level."""
SEEDS = range(3)
PICTURED = 9
"""The certified test image that is drawn under each recipe."""
NOISY_DRAWS = 4
SHORT, LONG = 4, 16
"""Steps of the two runs whose difference is the time of a step."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=20.0, help='processor time of each recipe')
    parser.add_argument('--images', type=int, default=50, help='test images, evenly spaced')
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument('--seed', type=int, default=0, choices=SEEDS)
    seeds.add_argument('--ensemble', action='store_true', help='of all seeds, trained before')
    parser.add_argument('--sigma', type=float, default=0.25, choices=TAUS, help='noise level')
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
        one = Recipe(name, args, args.sigma, None if args.ensemble else args.seed)
        if args.step in (None, 'train'):
            one.train()
        if args.step in (None, 'certify'):
            one.certify()
    if args.step in (None, 'gather'):
        gather(args)
    return 0


class Recipe:
    """One recipe with one seed, or the ensemble of all seeds, in a work folder of its own."""

    def __init__(self, name: str, args: argparse.Namespace, sigma: float, seed: int | None) -> None:
        self.name, self.args, self.sigma, self.seed = name, args, sigma, seed
        self.config = CONFIGS / f'fast-scnn_{RECIPES[name]}_camvid-360x480.py'
        noisy = RECIPES[name].removesuffix('-300').replace('s0.25', f's{sigma:g}')
        which = 'ensemble' if seed is None else f'seed{seed}'
        self.folder = args.work_dirs / 'recipes' / f'{noisy}-{args.minutes:g}min-{which}'
        self.options = [f'load_from={args.clean}', f'randomness.seed={seed}']
        self.options.append(f'custom_hooks.0.sigma={sigma}')
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
        """Trains for as many steps as the budget allows, or joins what was trained."""
        if self.seed is None:
            self.done('training', self._joined)
            return
        seconds = self.done('step', self._seconds_per_step)
        steps = max(50, round(60 * self.args.minutes / seconds))
        print(f'{self.name}: {seconds:.2f} s a step, {steps} steps')
        self.done('training', lambda: self._trained(steps))

    def certify(self) -> None:
        """Certifies the test images, and measures the base model under noise."""
        config, checkpoint = self.model
        out = self.certified.parent
        inputs = evenly_spaced(self.args.images, 233, endpoint=False)
        if not (self.certified / 'summary.json').exists():
            run_tool(
                'test', config, checkpoint, f'--work-dir={out}', '--cfg-options',
                f'smoothing.sigma={self.sigma}', f'smoothing.scales={SCALE}',
                f'smoothing.n={DRAWS}', chosen_inputs(inputs),
            )  # fmt: skip
        name = f'certified-{self.args.images}'
        self.done(name, lambda: self._figures(config, checkpoint, inputs))

    @property
    def model(self) -> tuple[Path, Path]:
        """Config and checkpoint to certify."""
        if self.seed is None:
            return self.folder / 'ensemble.py', self.folder / 'ensemble.pth'
        steps = json.loads((self.folder / 'training.json').read_text())['steps']
        config = CONFIGS / 'segcertify-s0.25-n100_fast-scnn_camvid-360x480.py'
        return config, self.folder / 'train' / f'iter_{steps}.pth'

    @property
    def certified(self) -> Path:
        """The folder of the certificates."""
        return self.folder / f'certify-{self.args.images}' / 'certified'

    def _seconds_per_step(self) -> float:
        short, long = (
            self._run(self.folder / 'step', steps, 'val_dataloader.dataset.indices=[0]')
            for steps in (SHORT, LONG)
        )
        return (long - short) / (LONG - SHORT)

    def _joined(self) -> dict[str, float]:
        members = [Recipe(self.name, self.args, self.sigma, seed) for seed in SEEDS]
        (config, *_), checkpoints = zip(*(member.model for member in members), strict=True)
        run_tool('ensemble', self.folder / 'ensemble.pth', '--member', config, *checkpoints)
        trained = [member.done('training', dict) for member in members]
        return {key: sum(one[key] for one in trained) for key in trained[0]}

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

    def _figures(self, config: Path, checkpoint: Path, inputs: list[int]) -> Results:
        (votes,) = self.certified.glob('votes-*')
        run_tool(
            'certify', votes, '--no-plot', '--tau', *TAUS[self.sigma], '--alpha', 0.001,
            '--procedure', 'holm', 'ordered_holm', '--selection', 'holdout', 'auto',
        )  # fmt: skip
        (offline,) = self.certified.glob('offline-*/offline.json')
        summary = json.loads((self.certified / 'summary.json').read_text())
        return {
            'rates': summary['rates'],
            'images': summary['images'],
            'offline': json.loads(offline.read_text()),
            'noisy_accuracy': noisy_accuracy(config, checkpoint, inputs, self.sigma),
        }


def noisy_accuracy(config: Path, checkpoint: Path, inputs: list[int], sigma: float) -> float:
    """Share of the labelled pixels that the base model gets right in single noisy images."""
    import torch
    from mmengine.config import Config

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    from mmseg.apis import init_model
    from mmseg.registry import DATASETS

    from mmcert.certifier.images import to_unit_range
    from mmcert.models import ImageSegmentor
    from mmcert.perturbations import GaussianNoise

    model = init_model(str(config), str(checkpoint), device='cpu')
    cfg = Config.fromfile(config)
    dataset = DATASETS.build(cfg.test_dataloader.dataset | {'indices': inputs})
    noise, right, total = GaussianNoise(sigma), 0, 0
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
    """Writes the results of all finished runs into one file, and the picture."""
    rows, pictured = [], []
    for sigma in TAUS:
        for name in RECIPES:
            for seed in (*SEEDS, None):
                one = Recipe(name, args, sigma, seed)
                figures = one.folder / f'certified-{args.images}.json'
                if not figures.exists():
                    continue
                row = json.loads(figures.read_text())
                row['offline'] = [
                    {key: found[key] for key in KEPT if key in found}
                    for found in row['offline']['rows']
                ]
                run = {'name': name, 'config': one.config.stem, 'sigma': sigma, 'seed': seed}
                rows.append({**run, **one.done('training', dict), **row})
                if (sigma, seed) == (0.25, 0):
                    pictured.append(one)
    content = {
        'machine': machine(),
        'budget': args.minutes,
        'start': '/'.join(args.clean.parts[-2:]),
        'draws': DRAWS,
        'rows': rows,
    }
    write_results('recipes', content, f'{len(rows)} runs')
    if pictured:
        draw(pictured)


def draw(recipes: list[Recipe]) -> None:
    """One image certified under each recipe, and how sure the best of them is of its pixels."""
    import cv2

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()

    from mmcert.datasets import CamVidDataset
    from mmcert.perturbations import GaussianNoise
    from mmcert.report.confidence import confidence_picture
    from mmcert.report.pictures import ABSTAIN_COLOR, arranged, paint, titled, with_legend
    from mmcert.report.results_folder import ResultsFolder
    from mmcert.votes.confidence import confidence_maps

    def write(name: str, picture: Any) -> None:
        path = IMAGES / name
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        print(f'wrote {path.relative_to(ROOT)}')

    palette, classes = (CamVidDataset.METAINFO[key] for key in ('palette', 'classes'))
    certified = {}
    for one in recipes:
        folder = ResultsFolder(one.certified)
        found = folder.image(folder.lines[PICTURED])
        title = f'{one.name}: {found.rates["certAcc"]:.2f}'
        certified[title] = paint(found.labels, palette, ABSTAIN_COLOR)
        if one.name == 'consistency' and found.record is not None:
            radius = GaussianNoise(one.sigma).radius
            maps = confidence_maps(found.record, alpha=0.001, radius=radius)
            write('confidence.jpg', confidence_picture(maps, palette, classes))
    name = found.name.rsplit('-', 1)[0]
    image = cv2.imread(str(ROOT / 'data/camvid/images/test' / f'{name}.jpg'))
    label = cv2.imread(str(ROOT / 'data/camvid/annotations/test' / f'{name}.png'), -1)
    panels = {'image': image[..., ::-1], 'label': paint(label, palette), **certified}
    small = {
        title: cv2.resize(panel, (320, 240), interpolation=cv2.INTER_NEAREST)
        for title, panel in panels.items()
    }
    colours = dict(zip(classes, palette, strict=True)) | {'abstained': ABSTAIN_COLOR}
    write('recipes.jpg', with_legend(arranged([titled(*item) for item in small.items()]), colours))


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
    lines = []
    for sigma, radii in TAUS.items():
        names = [n for n in RECIPES if any(r['name'] == n for r in _runs(results, sigma))]
        if not names:
            continue
        heading = ['recipe', 'clean', 'under noise', 'smoothed']
        heading += [f'certified at {r}' for r in radii.values()]
        heading += [f'mIoU at {r}' for r in radii.values()]
        rows = [[*heading, f'abstain at {next(iter(radii.values()))}', 'steps']]
        rows += [_row(_runs(results, sigma, name), name, list(radii)) for name in names]
        lines += [f'sigma = {sigma:g}:', '', *table(rows), '']
    return [
        *lines,
        'The first columns are the accuracy of the base model on clean images and on single noisy '
        'ones, and of the smoothed model. "a to b" is the range over the seeds of a row. '
        + _settings(results),
    ]


def render_headline(results: Results) -> list[str]:
    """The README's rows: plain noise beside the recipe that certifies most, at each radius."""
    if not results:
        return []
    rows = [('CamVid, Fast-SCNN trained with', 'l2 radius', 'base accuracy', 'certified accuracy',
             'certified mIoU', 'abstain')]  # fmt: skip
    for sigma, radii in TAUS.items():
        names = {run['name'] for run in _runs(results, sigma)}
        for tau, radius in radii.items():
            if not names or (sigma, radius) == (0.5, '0.34'):
                continue  # Less noise certifies more at this radius.
            best = max(names, key=lambda name: _mean(_runs(results, sigma, name), tau, 'certAcc'))
            for name in sorted({'noise', best} & names, key=list(RECIPES).index):
                runs = _runs(results, sigma, name)
                rows.append(
                    (
                        f'{name}, sigma {sigma:g}', radius,
                        two(sum(run['rates']['base_aAcc'] for run in runs) / len(runs)),
                        two(_mean(runs, tau, 'certAcc')), two(_mean(runs, tau, 'mIoU')),
                        percent(_mean(runs, tau, 'abstain')),
                    )
                )  # fmt: skip
    first = results['rows'][0]
    return [
        *table(rows),
        '',
        f'{first["images"]} test images of 360 x 480, input scale {SCALE}, n = '
        f'{results["draws"]}, alpha = 0.001 per image; each recipe trained for '
        f'{results["budget"]:g} minutes of one CPU core from one clean model; means over the seeds '
        'that were run. Each row beside noise is the best of several recipes on these same images.',
    ]


def _mean(runs: list[Results], tau: float, key: str) -> float:
    """A rate at a threshold, over the seeds of a recipe."""
    return sum(answer(run, tau)[key] for run in runs) / len(runs)


def render_ensemble(results: Results) -> list[str]:
    """The ensemble of a recipe's seeds below each of them."""
    together = [row for row in results.get('rows', ()) if row['seed'] is None]
    if not together:
        return ['Not measured yet.']
    radii = TAUS[together[0]['sigma']]
    heading = ['model', 'passes for each draw', 'smoothed']
    heading += [
        f'{what} at {r}' for what in ('certified', 'mIoU', 'abstain') for r in radii.values()
    ]
    rows = [heading]
    for ensemble in together:
        for run in [*_runs(results, ensemble['sigma'], ensemble['name']), ensemble]:
            found = [answer(run, tau) for tau in radii]
            alone = run['seed'] is not None
            rows.append(
                [
                    f'{run["name"]}, ' + (f'seed {run["seed"]}' if alone else 'ensemble'),
                    '1' if alone else str(len(SEEDS)), f'{run["rates"]["smoothed_aAcc"]:.3f}',
                    *(f'{one[key]:.3f}' for key in ('certAcc', 'mIoU', 'abstain') for one in found),
                ]
            )  # fmt: skip
    return [*table(rows), '', _settings(results)]


def _settings(results: Results) -> str:
    """What all runs share."""
    return (
        f'{results["rows"][0]["images"]} test images at input scale {SCALE}, n0 = 10, n = '
        f'{results["draws"]}, alpha = 0.001 per image, procedure holm. Each recipe trained for '
        f'{results["budget"]:g} minutes of one thread from {results["start"]}: processor time, so '
        'that steps differ with what else the machine did. Computed on '
        f'{on_machine(results)}.'
    )


def _runs(results: Results, sigma: float, name: str | None = None) -> list[Results]:
    """The runs of a noise level, of all recipes or of one, with one seed each."""
    return [
        run
        for run in results['rows']
        if run['sigma'] == sigma and name in (None, run['name']) and run['seed'] is not None
    ]


def _row(runs: list[Results], name: str, taus: list[float]) -> list[str]:
    """The runs of a recipe with all seeds."""

    def over_seeds(pick: Callable[[Results], float]) -> str:
        values = [pick(run) for run in runs]
        low, high = f'{min(values):.3f}', f'{max(values):.3f}'
        return low if low == high else f'{low} to {high}'

    return [
        name + (f' ({len(runs)} seeds)' if len(runs) > 1 else ''),
        over_seeds(lambda run: run['rates']['base_aAcc']),
        over_seeds(lambda run: run['noisy_accuracy']),
        over_seeds(lambda run: run['rates']['smoothed_aAcc']),
        *(over_seeds(lambda run, t=tau: answer(run, t)['certAcc']) for tau in taus),
        *(over_seeds(lambda run, t=tau: answer(run, t)['mIoU']) for tau in taus),
        over_seeds(lambda run: answer(run, taus[0])['abstain']),
        str(round(sum(run['steps'] for run in runs) / len(runs))),
    ]


TABLES = {
    'recipes': render,
    'recipes:headline': render_headline,
    'recipes:ensemble': render_ensemble,
}

if __name__ == '__main__':
    sys.exit(main())
