"""Checks certificates of mmcert against the votes that they follow from.

This file stands alone: it needs Python, NumPy and SciPy, and nothing of mmcert. From the votes it
computes anew what a certificate claims, and says "verified" or all that differs; exit code 0 or 1:
    python verify.py certificates-0123/image.json --votes votes-4567          (or two whole folders)

Votes cannot show that they are of draws of the model (tools/redraw.py takes some again); that tau,
tested_tau, selection and the like were fixed before they were seen; nor what follows from the input
itself: how far an attack moves it, and the probabilities of hits in cells. Proofs: docs/theory.
"""

import argparse
import functools
import hashlib
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
from scipy import special, stats

UNITLESS = 'SurrogateTransform', 'TwistRotation', 'RotationScale'  # Radii in standard deviations.
OF_LAW = """GaussianNoise PooledNoise LaplaceNoise CoordinateNoise GaussianBlur CyclicTranslation
            AxisRotation PointTranslation LogScale Shear Twist Taper"""


def p_values(hits, n, tau, selection, total):
    """p-values, by the hits, of "the class has probability at most tau", for total components."""
    found = stats.binom.sf(hits - 1, n, tau)
    if selection == 'same_draws':  # The counted draws chose the class as well.
        other = total * stats.binom.sf(hits - 1, n, 1 - np.asarray(tau))
        found = np.where(hits > np.multiply(tau, n - 1) + 1, found + other, 1.0)
    return np.clip(found, np.finfo(float).tiny, 1.0)


def reject(procedure, hits, table, alpha, k, order, pending):
    """Which pending components one run rejects, and the hits that any other would need.

    ``table`` has the p-value of each number of hits. What is not pending was rejected before.
    """
    total, left, now = hits.size, pending.copy(), pending
    if procedure == 'ordered_holm':
        while now.any():  # Of m that are left, those with m p <= alpha fall, as in Holm's.
            cutoff = np.count_nonzero(table > alpha / max(left.sum(), 1))
            at_cutoff, now = np.append(table, 0.0)[cutoff], left & (hits >= cutoff)
            # What that leaves of alpha pays for the first ones with one hit less.
            queue = order[left[order]]
            step = np.arange(1, len(queue) + 1) * (table[cutoff - 1] - at_cutoff)
            paid = len(queue) * at_cutoff + step <= alpha
            now[queue[paid & (hits[queue] == cutoff - 1)]] = True
            left &= ~now
        found, level = pending & ~left, alpha / max(left.sum(), 1)
    else:  # Step down: the smallest p-value first, at the level that those before it leave.
        ranked = np.flatnonzero(pending)
        ranked = ranked[np.argsort(-hits[ranked], kind='stable')]
        before = total - len(ranked) + np.arange(len(ranked) + 1)
        rest = np.maximum(total + k - np.maximum(before + 1, k), 1)  # Holm's procedure is k = 1.
        levels = k * alpha / (0 * rest + total if procedure == 'bonferroni' else rest)
        stop = np.argmax(np.append(table[hits[ranked]] > levels[:-1], True))
        found, level = np.isin(np.arange(total), ranked[:stop]), levels[stop]
    return found, np.count_nonzero(table > level)


def radius_of(kind, given, tau, target=0.5):
    """Largest attack under which a probability above tau stays above target; None if not known.

    See docs/theory/radii.md. ``given`` are the parameters of a perturbation.
    """
    if kind == 'TransformationCells':
        return given['extra_radius'] if target == 0.5 else 0.0
    if target >= tau:
        return 0.0
    normal, tail = special.ndtri(tau) - special.ndtri(target), math.log((1 - target) / (1 - tau))
    folded = special.ndtri((1 + tau) / 2) - special.ndtri((1 + target) / 2)
    if kind in OF_LAW.split():
        law = given.get('law', {'type': 'Laplace' if 'b' in given else 'Gaussian', **given})
        name, size = {
            'Gaussian': ('sigma', normal), 'Laplace': ('b', tail), 'Exponential': ('mean', tail),
            'Uniform': ('width', tau - target), 'FoldedNormal': ('sigma', folded),
        }[law['type']]  # fmt: skip
        return float(given.get('factor', 1) * law[name] * size)
    return float(normal) if kind in UNITLESS else None


def digest(values):
    """SHA-256 of an array (shape, then values of 64 bits) or of JSON values (sorted, no spaces)."""
    if isinstance(values, np.ndarray):
        kind = '<f8' if values.dtype.kind == 'f' else '<i8'
        data = f'{list(values.shape)}'.encode() + values.astype(kind).tobytes()
    else:
        data = json.dumps(values, sort_keys=True, separators=(',', ':')).encode()
    return hashlib.sha256(data).hexdigest()


def read_png(path):
    """An 8-bit grey image: inflated, and the prediction of each value from those before undone."""
    data, at, packed, rows = path.read_bytes(), 8, b'', []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], 'big')
        packed += data[at + 8 : at + 8 + size] * (data[at + 4 : at + 8] == b'IDAT')
        at += size + 12
    width = int.from_bytes(data[16:20], 'big')
    lines = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(-1, width + 1)
    for method, *values in lines.tolist():
        left, corner, row = 0, 0, []
        for value, up in zip(values, rows[-1] if rows else [0] * width, strict=True):
            near = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            paeth = (left, up, corner)[near.index(min(near))]
            left, corner = (value + (0, left, up, (left + up) // 2, paeth)[method]) % 256, up
            row.append(left)
        rows.append(row)
    return np.array(rows, dtype=np.uint8)


class Check:
    """One certificate beside its votes; ``problems`` has a line for everything that differs."""

    def __init__(self, path, votes_path):
        self.says, self.problems, self.note = json.loads(path.read_text()), [], ''
        if (self.says.get('format'), self.says.get('version')) != ('mmcert certificate', 1):
            self.problems.append('format: this is no certificate of version 1')
            return
        self.votes, maps = dict(np.load(votes_path)), path.with_suffix('.npz')
        self.maps = dict(np.load(maps)) if maps.exists() else {}
        if path.with_suffix('.png').exists():
            self.maps['labels'] = read_png(path.with_suffix('.png'))
        self.check_digests(self.says.pop('digest'))
        self.check_origin(json.loads(self.votes['meta'].tobytes()))
        if 'enumerated' in self.votes:
            self.check_claims(self.votes['hits-level0'] == self.votes['n'], 1, 'exact', 1.0)
        else:
            self.check_tests()

    def same(self, group, facts, says=None):
        """Compares entries with what was found; numbers up to what SciPy's versions may differ."""
        for name, found in facts.items():
            given = (self.says[group] if says is None else says).get(name)
            near = isinstance(found, float) and isinstance(given, (int, float))
            if not (math.isclose(given, found, rel_tol=1e-6) if near else given == found):
                self.problems.append(f'{group}.{name}: it says {given!r}, but {found!r} is right')

    def same_map(self, name, found, tolerance=0.0):
        """Compares a map with what was found for each component, at the pixels that show it."""
        if 'rows' in self.votes:
            found = found[self.votes['rows'][:, None], self.votes['columns']]
        says = self.maps.get(name, np.empty(0)).astype(float)
        says = says if says.shape == found.shape else np.full(found.shape, np.nan)
        if len(off := np.argwhere(~(abs(says - found) <= tolerance * abs(found)))):
            at = tuple(off[0].tolist())
            text = f'map {name} at {at}: it says {says[at]:g}, but the votes give {found[at]:g}'
            self.problems.append(f'{text} ({len(off)} of {found.size} differ)')

    def check_digests(self, given):
        """Were votes, maps or statement changed after the certificate was written?"""
        theirs, votes = given['parts'], self.votes
        found = {f'maps {name}': self.maps[name] for name in self.maps}
        tested = votes.keys() - {'format', 'meta', 'label', 'base', 'runner_up', 'runner_up_hits'}
        found |= {f'votes {name}': votes[name] for name in tested}
        found |= {f'statement {k}': v for k, v in self.says.items() if isinstance(v, dict)}
        for name in sorted(found.keys() | theirs.keys()):
            if name not in found or digest(found[name]) != theirs.get(name):
                self.problems.append(f'digest: {name} is not what the certificate was made of')
        self.same('digest', {'all': digest(theirs)}, given)

    def check_origin(self, meta):
        """Do the votes say of their sampling what the certificate says of it?"""
        votes, sampling, base = self.votes, meta['sampling'], self.says['model']['base']
        spec, looks, n = dict(sampling['perturbation']), votes['looks'].tolist(), int(votes['n'])
        tree = sampling.get('hierarchy') or {'classes': [], 'levels': []}
        self.groups = [[[name, [name]] for name in tree['classes']], *tree['levels']]
        self.same('input', {'digest': meta['digest']})
        self.same('perturbation', {'type': spec.pop('type'), 'parameters': spec})
        self.same('model', {'precision': meta.get('precision')})
        self.same('model.base', {k: sampling[k] for k in base if k in ('weights', 'model')}, base)
        facts = {key: sampling.get(key) for key in ('seed', 'n0')} | {'looks': looks or None}
        self.same('sampling', {**facts, 'num_values' if 'enumerated' in votes else 'n': n})
        planned = sampling.get('n', n), sampling.get('n0', 0), looks, n
        doubled = [looks[0] * 2**i for i in range(len(looks))]
        if planned != ('auto' if looks else n, votes['n0'], doubled, (looks or [n])[-1]):
            self.problems.append('votes: n, n0 or looks are not those of the sampling')
        if looks:  # Their sizes are fixed beforehand: the first follows from these settings.
            self.same('test', {'asked': sampling['looks_for']})

    def check_claims(self, certified, k, kind, confidence):
        """The label map, and how much is promised of it."""
        self.same_map('labels', np.where(certified, self.votes['guess-level0'], 254))
        pixels = [max(np.bincount(self.votes.get(axis, [0]))) for axis in ('rows', 'columns')]
        self.same('promise', {'k': k, 'may_be_wrong': int((k - 1) * math.prod(pixels))})
        self.same('promise', {'components': certified.size, 'certified': int(certified.sum())})
        self.same('promise', {'kind': kind, 'confidence': confidence})

    def check_tests(self):
        """Thresholds, tests and radii."""
        votes, asked, guess = self.votes, self.says['test']['asked'], self.votes['guess-level0']
        total, n0, alpha, k = guess.size, int(votes['n0']), asked['alpha'], asked['k'] or 1
        k = min(k if k >= 1 else max(1, int(k * total)), total)
        attack = self.says['input'].get('attack_on_this_input', {})
        if 'displacement' in attack:  # How far the attack moves the noisy input, in its noise.
            moved = max(float(special.ndtr(attack['displacement'])), 0.5)
            self.same('attack_on_this_input', {'tau': min(moved, math.nextafter(1, 0))}, attack)
        tau, selection = max(asked['tau'], attack.get('tau', 0.5)), self.says['test']['selection']
        self.same('test', {'tau': tau, 'alpha': alpha, 'procedure': asked['procedure']})
        tested = self.says['test'].get('tested_tau', tau)
        illegal = asked['selection'] not in ('auto', selection) or tested < tau
        illegal |= selection == 'holdout' and n0 == 0
        illegal |= 'table' in votes and (tau, selection) != (0.5, 'holdout')
        if illegal:
            self.problems.append('test: these votes do not allow this selection, tau or tested_tau')
        # The order of ordered_holm: by the margin or draws that are not counted.
        same, rank = selection == 'same_draws', votes.get('margin', np.zeros(guess.shape)) + 0.0
        if asked['order'] != 'margin' and not same and 'selection_hits-level0' in votes:
            rank += 256.0 * votes['selection_hits-level0']
        order = np.argsort(-rank.ravel(), kind='stable')
        # Where each level of the hierarchy lies within the next one, the classes first.
        levels, inside = range(int(votes['levels']) + 1), [rank == rank]
        for i in reversed(levels[:-1]):
            lower, upper = self.groups[i : i + 2]
            above = [[m[1][0] in up[1] for up in upper].index(True) for m in lower]
            within = np.array(above)[votes[f'guess-level{i}']] == votes[f'guess-level{i + 1}']
            inside.insert(0, inside[0] & within)
        found, stages = np.zeros((len(levels), total), dtype=bool), []
        for look, n in enumerate(votes['looks'].tolist() or [int(votes['n'])]):
            share = alpha / ((look + 1) * (look + 2)) if len(votes['looks']) else alpha
            key = f'hits-look{look}' if f'hits-look{look}-level0' in votes else 'hits'
            counts = [votes[f'{key}-level{i}'].astype(int) for i in levels]
            stages.append((counts[0], n, share))
            if same and n0:
                counts, n = [counts[i] + votes[f'selection_hits-level{i}'] for i in levels], n + n0
            table = votes.get('table', p_values(np.arange(n + 1), n, tested, selection, total))
            hits = [np.where(inside[i], counts[i], 0).ravel() for i in levels]
            now, cutoff = reject(asked['procedure'], hits[0], table, share, k, order, ~found[0])
            found |= [now, *(hits[i] >= cutoff for i in levels[1:])]
        estimate = self.says['perturbation'].get('attack', {}).get('mode') == 'sampled'
        kind = 'estimate' if estimate else 'count certificate' if k > 1 else 'certificate'
        self.check_claims(found[0].reshape(guess.shape), k, kind, None if estimate else 1 - alpha)
        if len(levels) > 1:
            level = np.where(found.any(axis=0), found.argmax(axis=0), len(levels))
            self.same_map('level', level.reshape(guess.shape))
        for i in levels[1:]:
            self.same_map(f'groups{i}', votes[f'guess-level{i}'])
        self.check_radii(tau, stages)

    def check_radii(self, tau, stages):
        """The radius of all, those of groups, and the joint ones; of cells the p-values."""
        promise, says = self.says['promise'], self.says['perturbation']
        radius = functools.partial(radius_of, says['type'], says['parameters'])
        if 'table' in self.votes:
            cells, worst = self.says['test']['cells'], 0.0
            for centres, q in zip(cells['centres'], cells['null_probabilities'], strict=True):
                n = np.take(cells['draws'], centres)  # The p-value if all of these draws are hits:
                worst = max(worst, np.prod(np.power(q, n)) * (1 + 1e-10 + 1e-14 * n.sum()))
            ours = np.exp(math.log(max(min(worst, 1.0), 1e-40)) * np.arange(4001) / 4000)
            if not np.allclose(ours, self.votes['table'], rtol=1e-9, atol=0):
                self.problems.append('test.cells: they give other p-values than the votes have')
        if radius(0.75) is None and 'radius' in promise:
            self.note = f', but no radius: this file has no formula for {says["type"]}'
            return
        self.same('promise', {'radius': radius(tau)} if 'radius' in promise else {})
        for level in promise.get('hierarchy', {'levels': []})['levels']:
            for name, group in level.items():
                m = len(group['classes'])
                facts = {'radius': radius(tau), 'argmax_radius': radius(tau, m / (m + 1))}
                self.same(f'promise.hierarchy.{name}', facts, group)
        if 'table' not in self.votes:  # Lower confidence bounds of all probabilities together.
            same, joint = promise['joint_radius']['selection'] == 'same_draws', 0.0
            for hits, n, share in stages:
                hits = hits + same * self.votes.get('selection_hits-level0', 0)
                n += same * int(self.votes['n0'])
                k = np.arange(1, n + 1)
                bounds = special.betaincinv(k, n - k + 1, share / hits.size / (1 + same))
                radii = [radius(p) if p > 0.5 else 0.0 for p in np.nan_to_num(bounds)]
                joint = np.maximum(joint, np.array([0.0, *radii])[hits])
            self.same_map('radius', joint, 1e-6)


def main():
    """Checks the certificate that is named, or all in a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('certificate', type=Path, help='a JSON file, or a folder of them')
    parser.add_argument('--votes', type=Path, required=True, help='the votes file, or the folder')
    args, failed = parser.parse_args(), False
    folder = args.certificate.is_dir()
    paths = sorted(args.certificate.glob('*.json')) if folder else [args.certificate]
    for path in paths:
        votes = args.votes / f'{path.stem}.npz' if args.votes.is_dir() else args.votes
        try:
            check = Check(path, votes)
            problems, note = check.problems, check.note
        except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
            problems, note = [f'cannot be checked: {error!r}'], ''
        failed |= bool(problems)
        print(f'{path.stem}: {"not " if problems else ""}verified{note}', *problems, sep='\n  ')
    return int(failed or not paths)


if __name__ == '__main__':
    sys.exit(main())
