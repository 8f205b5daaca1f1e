"""Attacks on certified points of synthetic shapes: none may lose its class inside the radius.

Takes the votes and the checkpoint that ``benchmarks/part_shapes.py`` left, attacks each shape
within the certified l2 radius, and samples the smoothed model anew at the attacked cloud. A
certified point counts as broken where its class has less than half of the probability beyond doubt,
by a binomial test of the new draws at 0.001 over all tested points. The attacks are gradient ascent
through the smoothed model (PGD, the mean over noise draws), on all certified points or on the ones
closest to abstention, and a random direction. They look for errors; they prove nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from part_shapes import ALPHA, Model, load
from study import WORK_DIRS, Results, evenly_spaced, machine, table, write_results

if TYPE_CHECKING:
    import torch

    from mmcert.certify import CertifySettings
    from mmcert.models.point_segmentor import PointSegmentor
    from mmcert.perturbations import CoordinateNoise
    from mmcert.votes import VotesRecord

WEAKEST = 20


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS / 'part_shapes')
    parser.add_argument('--sigma', type=float, default=0.25)
    parser.add_argument('--tau', type=float, default=0.75)
    parser.add_argument('--shapes', type=int, default=8)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--draws', type=int, default=8, help='noise draws of each gradient')
    parser.add_argument('--new-draws', type=int, default=200, help='at each attacked cloud')
    return parser.parse_args()


def main() -> int:
    """Attacks and writes what happened."""
    args = parse_args()

    from mmcert.certify import CertifySettings
    from mmcert.models.cloud_adapter import CloudAdapter
    from mmcert.models.precision import PrecisionSettings
    from mmcert.perturbations import CoordinateNoise
    from mmcert.sampling import input_digest
    from mmcert.votes import read_folder

    model = Model(args.sigma, normals=True)
    base, dataset = load(model, args.work_dirs)
    folder = args.work_dirs / f'{model.config.stem}-n1000' / 'certified'
    records = {
        record.meta['digest']: record for record in read_folder(next(folder.glob('votes-*')))
    }
    noise, adapter = CoordinateNoise(args.sigma), CloudAdapter()

    def digest_of(item: dict[str, Any]) -> str:
        return input_digest(item['inputs']['points']).hex()

    settings = CertifySettings(args.tau, ALPHA, 'holm', 'holdout')
    items = (dataset[index] for index in range(len(dataset)))
    known = [item for item in items if digest_of(item) in records]
    chosen = evenly_spaced(min(args.shapes, len(known)), len(known))
    rows: list[dict[str, Any]] = []
    for item in (known[index] for index in chosen):
        raw, record = item['inputs']['points'], records[digest_of(item)]
        segment = adapter.segmentor(base, raw, item['data_samples'], PrecisionSettings())
        rows += attacked(segment, adapter.clean_input(raw), record, settings, noise, args)
        print(rows[-3]['shape'], [(r['attack'], r['changed'], r['broken']) for r in rows[-3:]])
    broken = sum(row['broken'] for row in rows)
    content = {
        'machine': machine(), 'sigma': args.sigma, 'tau': args.tau, 'alpha': ALPHA,
        'radius': noise.radius(args.tau), 'steps': args.steps, 'gradient_draws': args.draws,
        'new_draws': args.new_draws, 'broken': broken, 'rows': rows,
    }  # fmt: skip
    write_results('part_attack', content, f'{broken} certified points broken')
    return int(broken > 0)


def attacked(
    segment: PointSegmentor,
    clean: torch.Tensor,
    record: VotesRecord,
    settings: CertifySettings,
    noise: CoordinateNoise,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """What the attacks do to one shape."""
    import numpy as np
    import torch

    from mmcert.attacks import Ball, Goal, SmoothedScores, Steps, attack_input, perturbed
    from mmcert.attacks.judge import class_counts, hits_of, minority_p_values
    from mmcert.sampling import SamplingSettings

    certificate = record.certify(settings)
    points = np.flatnonzero(certificate.certified)
    guess = torch.from_numpy(record.votes.guess.astype(np.int64))
    weakest = points[np.argsort(record.votes.hits[points], kind='stable')[:WEAKEST]]
    radius = noise.radius(settings.tau)
    generator = torch.Generator().manual_seed(1)
    chosen = {'gradient, all points': points, 'gradient, weakest points': weakest}
    where = {name: torch.zeros_like(guess, dtype=torch.bool) for name in chosen}
    steps = Steps(args.steps, first=0.5, last=None, keep='last')
    deltas = {
        name: attack_input(
            SmoothedScores(segment.scores, noise, args.draws, generator, True, 'losses'),
            clean, Goal(guess, where[name].index_fill(0, torch.from_numpy(those), True), 'ce'),
            radius, steps=steps,
        ).delta[0]
        for name, those in chosen.items()
    }  # fmt: skip
    deltas['random direction'] = Ball(radius).random(clean[None], generator)[0]
    sampling = SamplingSettings(1, None, segment.base.num_classes, seed=12345, batch_size=16)
    rows = []
    for name, delta in deltas.items():
        moved = perturbed(clean, delta, radius)
        counts = class_counts(segment, moved, noise, sampling, args.new_draws)
        hits = hits_of(counts, record.votes.guess)[points]
        fewer = minority_p_values(hits, args.new_draws)
        tested = max(len(points), 1) * 3 * args.shapes
        rows.append(
            {
                'shape': record.meta['name'],
                'attack': name,
                'norm': float((moved.double() - clean.double()).norm()),
                'certified': len(points),
                'points': len(guess),
                'changed': int((hits <= args.new_draws / 2).sum()),
                'broken': int((fewer < 0.001 / tested).sum()),
                'least_share': float(hits.min(initial=args.new_draws) / args.new_draws),
            }
        )
    return rows


def render(results: Results) -> list[str]:
    """What attacks within the radius do to certified points."""
    rows = [('attack', 'shapes', 'certified points', 'below half of the draws', 'broken')]
    names = list(dict.fromkeys(row['attack'] for row in results['rows']))
    for name in names:
        mine = [row for row in results['rows'] if row['attack'] == name]
        sums = (str(sum(row[key] for row in mine)) for key in ('certified', 'changed', 'broken'))
        rows.append((name, str(len(mine)), *sums))
    return [
        *table(rows),
        '',
        f'Attacks of l2 norm {results["radius"]:.3f} (the certified radius, sigma = '
        f'{results["sigma"]:g}, tau = {results["tau"]:g}) on synthetic shapes, '
        f'{results["steps"]} gradient steps of {results["gradient_draws"]} draws each; '
        f'{results["new_draws"]} new draws at each attacked cloud. "Broken": the class has less '
        'than half of the probability beyond doubt (binomial test).',
    ]


TABLES = {'part_attack': render}

if __name__ == '__main__':
    sys.exit(main())
