"""Checks certificates of mmcert against the votes that they follow from.

This file stands alone: it needs Python, NumPy and SciPy, and nothing of mmcert. From the votes it
computes anew what a certificate claims, and says "verified" and what, or all that differs; exit
code 0 or 1:
    python verify.py certificates-0123/image.json --votes votes-4567          (or two whole folders)

It does not read sentences (description, attack_set, stage, ...): what holds is what it prints.
Votes cannot show that they are of draws of the model (tools/redraw.py takes some again); that tau,
alpha and the like were fixed before they were seen; nor what follows from the input itself: how far
an attack moves it, and the probabilities of hits in cells. Proofs: docs/theory.
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

MEASURED = """
GaussianNoise PooledNoise TransformationCells | l2 | [0, 1] image units
LaplaceNoise | l1 | [0, 1] image units
CoordinateNoise PointTranslation | l2 | units of the coordinates as the pipeline delivers them
AxisRotation | absolute value | radians
LogScale | absolute value | natural logarithm of the factor
Shear | l2 | coefficients, without unit
Twist | absolute value | radians per unit of the coordinates as the pipeline delivers them
Taper | absolute value | 1 / unit of the coordinates as the pipeline delivers them
TwistRotation RotationScale | l2 of the parameters, each divided by its sigma | \
standard deviations of the parameters; semi_axes has the units of each
GaussianBlur | absolute value | \
variance of the kernel, pixels^2 of the image as it reaches the smoothed model
CyclicTranslation | l2 of (dy, dx), whole pixels | \
pixels of the image as it reaches the smoothed model
SurrogateTransform | Mahalanobis distance of the latent, under the distribution of its noise | \
standard deviations
SurrogateTransform-moves | of content moved by u and a latent moved by Delta: \
sqrt(|u|^2 / sigma1^2 + |Delta - A1 u|^2 / sigma2^2) | standard deviations
"""  # What the radius of each perturbation measures, and its unit.
MEASURES = {
    kind: measure
    for kinds, *measure in (line.split(' | ') for line in MEASURED.strip().splitlines())
    for kind in kinds.split()
}
UNITLESS = 'SurrogateTransform', 'TwistRotation', 'RotationScale'  # Radii in standard deviations.

SENTENCES = {  # Entries that are not read. Beside these and those that are checked, there are none.
    'promise': 'description family attack_set arithmetic',
    'promise.joint_radius': 'description',
    'promise.hierarchy': 'description levels',
    'sampling': 'stopped next_look_would_certify',
    'test': 'order alpha_spending',
    'input': 'input_type component_type certified_space',
    'digest': 'parts',
    'map': '',
}


def p_values(hits, n, tau, selection, total):
    """p-values, by the hits, of "the class has probability at most tau", for total components."""
    found = stats.binom.sf(hits - 1, n, tau)
    if selection == 'same_draws':  # The counted draws chose the class as well.
        other = total * stats.binom.sf(hits - 1, n, 1 - np.asarray(tau))
        found = np.where(hits > np.multiply(tau, n - 1) + 1, found + other, 1.0)
    return np.clip(found, np.finfo(float).tiny, 1.0)


def settle(asked, tau, alpha, k, total, n0, n, legal):
    """The selection, and the threshold of the tests: of the plan alone, see docs/theory.

    'auto' is the selection that needs the smaller probability to begin. Same draws are tested at
    the threshold that is best for the fewest hits that begin, or for later ones at no cost.
    """
    if asked['selection'] != 'auto':
        legal = [asked['selection']]
    elif asked['procedure'] == 'ordered_holm' and asked['order'] == 'selection':
        legal = ['holdout']
    first, found = k * alpha / total, []
    for selection in legal:
        counted, tested = n, tau
        if selection == 'same_draws':
            counted = n + n0
            tested = max(tau, best_tau(counted, total, first, asked['procedure']))
        table = p_values(np.arange(counted + 1), counted, tested, selection, total)
        hits = np.count_nonzero(table > first)
        even = special.betaincinv(hits, counted - hits + 1, 0.5) if hits <= counted else math.inf
        found.append((even, table[-1], selection == 'holdout', selection, tested))
    return min(found)[3:]


def best_tau(n, total, first, procedure):
    """The threshold of the tests of n same draws, whose first rejection takes the level first."""
    if n < 2:
        return 0.5
    hits = np.arange((n + 3) // 2, n + 1)
    taus = np.minimum(special.expit(math.log(total) / (2 * hits - 1 - n)), 1 - 1e-12)
    smallest = p_values(hits, n, taus, 'same_draws', total)
    later = first if procedure == 'bonferroni' else min(5 * first, 1.0)
    begin, after = (np.argmax(np.append(smallest[:-1] <= level, True)) for level in (first, later))
    free = p_values(hits[begin], n, taus[after], 'same_draws', total) <= first
    return float(taus[after if free else begin])


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
    if kind not in MEASURES:
        return None
    if target >= tau:
        return 0.0
    normal, tail = special.ndtri(tau) - special.ndtri(target), math.log((1 - target) / (1 - tau))
    folded = special.ndtri((1 + tau) / 2) - special.ndtri((1 + target) / 2)
    if kind in UNITLESS:
        return float(normal)
    law = given.get('law', {'type': 'Laplace' if 'b' in given else 'Gaussian', **given})
    name, size = {
        'Gaussian': ('sigma', normal), 'Laplace': ('b', tail), 'Exponential': ('mean', tail),
        'Uniform': ('width', tau - target), 'FoldedNormal': ('sigma', folded),
    }[law['type']]  # fmt: skip
    return float(given.get('factor', 1) * law[name] * size)


def digest(values):
    """SHA-256 of an array (shape, then values of 64 bits) or of JSON values (sorted, no spaces)."""
    if isinstance(values, np.ndarray):
        kind = '<f8' if values.dtype.kind == 'f' else '<i8'
        data = f'{list(values.shape)}'.encode() + values.astype(kind).tobytes()
    else:
        data = json.dumps(values, sort_keys=True, separators=(',', ':')).encode()
    return hashlib.sha256(data).hexdigest()


def read_json(text):
    """JSON in which no key occurs twice, and all numbers are some."""

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f'a key occurs twice among {[key for key, _ in pairs]}')
        return dict(pairs)

    def finite(number):
        if not math.isfinite(float(number)):
            raise ValueError(f'{number} is no number')
        return float(number)

    return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)


def read_arrays(path):
    """The arrays of an NPZ file, in which no name occurs twice."""
    with np.load(path, allow_pickle=False) as arrays:
        if len(set(arrays.files)) < len(arrays.files):
            raise ValueError(f'{path.name}: a name occurs twice among {arrays.files}')
        return dict(arrays)


def read_png(path):
    """An 8-bit grey image: inflated, and the prediction of each value from those before undone."""
    data, at, packed, rows = path.read_bytes(), 8, {}, []
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], 'big'), data[at + 4 : at + 8]
        packed[kind] = packed.get(kind, b'') + data[at + 8 : at + 8 + size]
        at += size + 12
    if packed.keys() != {b'IHDR', b'IDAT', b'IEND'} or data[24:29] != bytes([8, 0, 0, 0, 0]):
        raise ValueError(f'{path.name} is no plain grey image of 8 bits')  # No palette, say.
    width = int.from_bytes(data[16:20], 'big')
    lines = np.frombuffer(zlib.decompress(packed[b'IDAT']), dtype=np.uint8).reshape(-1, width + 1)
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
    """One certificate beside its votes.

    ``problems`` has a line for everything that differs; ``holds`` says what holds if there is none.
    """

    def __init__(self, path, votes_path):
        self.says, self.problems, self.holds = read_json(path.read_text()), [], []
        self.seen = {group: set(names.split()) for group, names in SENTENCES.items()}
        if (self.says.get('format'), self.says.get('version')) != ('mmcert certificate', 1):
            self.problems.append('format: this is no certificate of version 1')
            return
        self.votes, maps = read_arrays(votes_path), path.with_suffix('.npz')
        self.meta = read_json(self.votes['meta'].tobytes())
        self.maps = read_arrays(maps) if maps.exists() else {}
        if path.with_suffix('.png').exists():
            if 'labels' in self.maps:
                self.problems.append('map labels: there are two, a PNG and one in the NPZ file')
            self.maps['labels'] = read_png(path.with_suffix('.png'))
        self.check_digests()
        self.check_votes()
        self.check_origin(self.meta['sampling'])
        if 'enumerated' in self.votes:
            self.check_claims(self.votes['hits-level0'] == self.votes['n'], 1, 'exact', 1.0)
        else:
            self.check_tests()
        self.check_nothing_else()

    def same(self, group, facts, says=None, tolerance=0.0):
        """Compares entries with what was found, None for nothing; floats may differ by a share."""
        for name, found in facts.items():
            given = (self.says[group] if says is None else says).get(name)
            self.seen.setdefault(group, set()).add(name)
            near = isinstance(found, float) and isinstance(given, (int, float))
            if not (math.isclose(given, found, rel_tol=tolerance) if near else given == found):
                self.problems.append(f'{group}.{name}: it says {given!r}, but {found!r} is right')

    def same_map(self, name, found, tolerance=0.0):
        """Compares a map with what was found for each component, at the pixels that show it."""
        self.seen.setdefault('map', set()).add(name)
        if 'rows' in self.votes:
            found = found[self.votes['rows'][:, None], self.votes['columns']]
        says = self.maps.get(name, np.empty(0)).astype(float)
        says = says if says.shape == found.shape else np.full(found.shape, np.nan)
        if len(off := np.argwhere(~(abs(says - found) <= tolerance * abs(found)))):
            at = tuple(off[0].tolist())
            text = f'map {name} at {at}: it says {says[at]:g}, but the votes give {found[at]:g}'
            self.problems.append(f'{text} ({len(off)} of {found.size} differ)')

    def check_digests(self):
        """Were votes, maps or statement changed after the certificate was written?"""
        given, votes = self.says['digest'], self.votes
        theirs, found = given['parts'], {f'maps {name}': self.maps[name] for name in self.maps}
        tested = votes.keys() - {'format', 'meta', 'label', 'base', 'runner_up', 'runner_up_hits'}
        found |= {f'votes {name}': votes[name] for name in tested}
        groups = self.says.keys() - {'format', 'version', 'digest'}
        found |= {f'statement {group}': self.says[group] for group in groups}
        for name in sorted(found.keys() | theirs.keys()):
            if name not in found or digest(found[name]) != theirs.get(name):
                self.problems.append(f'digest: {name} is not what the certificate was made of')
        self.same('digest', {'algorithm': 'sha256', 'all': digest(theirs)})

    def check_votes(self):
        """Can these be counts of so many draws?"""
        votes, looks = self.votes, self.votes['looks'].tolist()
        n, n0, shape = int(votes['n']), int(votes['n0']), votes['guess-level0'].shape
        most = {'guess': 253, 'selection_hits': n0, 'margin': 255}
        most['hits'] = n if 'table' not in votes else len(votes['table']) - 1
        most |= {f'hits-look{index}': count for index, count in enumerate(looks[:-1])}
        wrong = [] if n >= 1 and n0 >= 0 else ['n or n0']
        for name, array in votes.items():
            if (largest := most.get(name.partition('-level')[0])) is not None:
                counts = array.dtype.kind in 'iu' and array.shape == shape
                if not counts or ((array < 0) | (array > largest)).any():
                    wrong.append(name)
        for level in range(int(votes['levels']) + 1):
            names = [*(f'hits-look{index}-level{level}' for index in range(len(looks) - 1))]
            counts = [votes[name].astype(int) for name in [*names, f'hits-level{level}']]
            for index, more in enumerate(np.diff(looks)):
                added = counts[index + 1] - counts[index]
                if ((added < 0) | (added > more)).any():
                    wrong.append(names[index])
        if wrong:
            raise ValueError(f'the votes are no counts of so many draws: {", ".join(wrong)}')

    def check_origin(self, sampling):
        """Do the votes say of their sampling what the certificate says of it?"""
        votes, meta, model = self.votes, self.meta, self.says['model']
        spec, looks, n = dict(sampling['perturbation']), votes['looks'].tolist(), int(votes['n'])
        tree = sampling.get('hierarchy') or {'classes': [], 'levels': []}
        self.groups = [[[name, [name]] for name in tree['classes']], *tree['levels']]
        space = sampling.get('space', 'model' if 'columns' in sampling else None)
        self.same('input', {'digest': meta['digest'], 'space': space})
        self.kind, self.given = spec.pop('type'), spec
        self.same('perturbation', {'type': self.kind, 'parameters': spec})
        self.same('model', {'precision': meta.get('precision', 'not recorded')})
        keys = sampling.keys() & {'weights', 'model'}
        self.same('model.base', {key: sampling[key] for key in keys}, model['base'])
        if 'space' in sampling:  # Of images: what the smoothed function does beside the model.
            steps = {'resolution': 'image', 'scales': None, 'flip': None}
            self.same('model', {key: sampling.get(key, steps[key]) for key in steps})
            denoiser, ours = sampling.get('denoiser'), model.get('denoiser')
            self.same('model', {'denoiser': denoiser and {**(ours or {}), **denoiser}})
        self.same('model', {key: sampling.get(key) for key in ('columns', 'runs')})
        facts = {key: sampling.get(key) for key in ('seed', 'n0')} | {'looks': looks or None}
        self.same('sampling', {**facts, 'num_values' if 'enumerated' in votes else 'n': n})
        planned = sampling.get('n', n), sampling.get('n0', 0), looks, n
        doubled = [looks[0] * 2**i for i in range(len(looks))]
        if planned != ('auto' if looks else n, votes['n0'], doubled, (looks or [n])[-1]):
            self.problems.append('votes: n, n0 or looks are not those of the sampling')
        if n != len(spec.get('values') or ()) and 'enumerated' in votes:
            self.problems.append('votes: n is not the number of parameters that are to be tried')
        if sampling.get('scheme', 2) != 2:
            self.problems.append('votes: these draws were not rounded to a grid, see docs/theory')
        if looks:  # Their sizes are fixed beforehand: the first follows from these settings.
            self.same('test', {'asked': sampling['looks_for']})

    def check_claims(self, certified, k, kind, confidence):
        """The label map, and how much is promised of it."""
        self.same_map('labels', np.where(certified, self.votes['guess-level0'], 254))
        pixels = [max(np.bincount(self.votes.get(axis, [0]))) for axis in ('rows', 'columns')]
        total, count = certified.size, int(certified.sum())
        text = 'no certificate of this input is wrong'
        text = text if k == 1 else f'fewer than k = {k} certificates of this input are wrong'
        proven, exact = kind != 'estimate', kind == 'exact'
        self.same('promise', {
            'kind': kind,
            'text': text if proven else 'none: the threshold was not proven to suffice',
            'confidence': confidence,
            'k': k,
            'may_be_wrong': int((k - 1) * math.prod(pixels)),
            'components': total,
            'certified': count,
        })  # fmt: skip
        sure = f', but for a probability of {1 - confidence:.9g}' if proven and not exact else ''
        self.holds.append(f'{count} of {total} components are certified; {text}{sure}')
        if not proven:
            self.holds[-1] = f'{count} of {total} components, as an estimate: nothing is proven'
        given = json.dumps(self.given)
        given = given if len(given) < 500 else 'with perturbation.parameters, those of the votes'
        self.holds.append(f'perturbation: {self.kind} {given}')

    def check_tests(self):
        """Thresholds, tests and radii."""
        votes, asked, guess = self.votes, self.says['test']['asked'], self.votes['guess-level0']
        total, n0, alpha, k = guess.size, int(votes['n0']), asked['alpha'], asked['k'] or 1
        legal = 0.5 <= asked['tau'] < 1 and 0 < alpha < 1 and (0 < k < 1 or k == int(k) >= 1)
        legal &= (asked['k'] is None) == (asked['procedure'] != 'kfwer')
        legal &= asked['procedure'] in ('bonferroni', 'holm', 'kfwer', 'ordered_holm')
        legal &= asked['order'] in ('auto', 'margin', 'selection')
        legal &= asked.keys() == {'tau', 'alpha', 'procedure', 'selection', 'k', 'order'}
        if not legal:
            raise ValueError(f'test.asked: {asked} are no settings')
        k = min(k if k >= 1 else max(1, int(k * total)), total)
        tau = max(asked['tau'], self.attack_threshold())
        # The selections that the draws allow, and the one that the plan settles.
        both = ['holdout', 'same_draws'] if 'selection_hits-level0' in votes else ['holdout']
        allowed, looks = both if n0 else ['same_draws'], votes['looks'].tolist()
        n, first = (looks[0], alpha / 2) if looks else (int(votes['n']), alpha)
        selection, tested = settle(asked, tau, first, k, total, n0, n, allowed)
        if selection not in allowed or ('table' in votes and (tau, selection) != (0.5, 'holdout')):
            raise ValueError(f'test: these votes do not allow the selection {selection} or tau')
        self.same('test', {'tau': tau, 'alpha': alpha, 'procedure': asked['procedure']})
        self.same('test', {'asked': asked, 'selection': selection})
        self.same('test', {'tested_tau': None if tested == tau else tested}, tolerance=1e-9)
        self.same('test', {'cells': self.meta.get('cells')})
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
        for look, n in enumerate(looks or [int(votes['n'])]):
            share = alpha / ((look + 1) * (look + 2)) if looks else alpha
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
        by_level = None
        if len(levels) > 1:
            level = np.where(found.any(axis=0), found.argmax(axis=0), len(levels))
            self.same_map('level', level.reshape(guess.shape))
            by_level = np.bincount(level, minlength=len(levels) + 1)[:-1].tolist()
        self.same('promise', {'certified_by_level': by_level})
        for i in levels[1:]:
            self.same_map(f'groups{i}', votes[f'guess-level{i}'])
        self.check_radii(tau, asked, stages)

    def attack_threshold(self):
        """The threshold that the attack set takes on this input: 1/2 if there is none."""
        attack = self.says['input'].get('attack_on_this_input')
        self.seen['input'].add('attack_on_this_input')
        if attack is None:
            return 0.5
        if 'table' in self.votes:  # Cells: what the votes file says of them.
            self.same('attack_on_this_input', {'tau': 0.5, **self.meta['partition']}, attack)
        elif 'displacement' in attack:  # How far the attack moves the noisy input, in its noise.
            moved = max(float(special.ndtr(attack['displacement'])), 0.5)
            moved = min(moved, math.nextafter(1, 0))
            self.same('attack_on_this_input', {'tau': moved}, attack, tolerance=1e-12)
        if not 0.5 <= attack['tau'] < 1:
            raise ValueError(f'attack_on_this_input.tau: {attack["tau"]} is no threshold')
        self.holds.append('taken from the certificate: what its attack set is on this input')
        return attack['tau']

    def check_radii(self, tau, asked, stages):
        """The radius of all, those of groups, and the joint ones; of cells the p-values."""
        votes, promise, kind = self.votes, self.says['promise'], self.kind
        radius = functools.partial(radius_of, kind, self.given)
        moved = self.given.get('surrogate', {}).get('transformation', {}).get('type')
        measured = kind + '-moves' * (moved in ('rotation', 'translation'))
        size, (norm, unit) = radius(tau), MEASURES.get(measured, (None, None))
        if size is None:
            self.holds.append(f'no radius was checked: this file has no formula for {kind}')
            self.seen['map'].add('radius')
            for group in ('promise', 'promise.joint_radius', 'promise.hierarchy'):
                self.seen[group] = {*self.says['promise'], *promise.get(group[8:], {})}
            return
        if 'table' in votes:
            self.check_cells(self.says['test']['cells'])
            if size == 0:
                size = norm = unit = None  # There is nothing beside the attack set.
        self.same('promise', {'norm': norm, 'unit': unit})
        self.same('promise', {'radius': size}, tolerance=1e-9)
        if size is not None:
            self.holds.append(f'up to a radius of {size}: {norm}, {unit}')
        self.check_shapes(size)
        self.check_groups(size, functools.partial(radius, tau))
        if 'table' not in votes:
            self.seen['promise'].add('joint_radius')
            self.check_joint_radii(radius, promise['joint_radius'], asked['selection'], stages)

    def check_shapes(self, size):
        """What a perturbation says of its radius besides."""
        given, says = self.given, self.says['perturbation']
        if self.kind in ('TwistRotation', 'RotationScale'):
            axes = {name[6:]: size * given[name] for name in given if name[:6] == 'sigma_'}
            self.same('perturbation.semi_axes', axes, says['semi_axes'], tolerance=1e-9)
        if self.kind == 'CyclicTranslation':
            squares = np.arange(-int(size), int(size) + 1) ** 2
            covered = np.count_nonzero(squares[:, None] + squares <= size**2)
            self.same('perturbation', {'covered_shifts': int(covered)})

    def check_groups(self, size, radius):
        """The radii of the groups of a hierarchy, and which classes they are of."""
        promise, groups = self.says['promise'], self.groups[1:]
        self.seen['promise'] |= {'hierarchy'} if groups else set()
        says = promise.get('hierarchy', {'levels': []})['levels']
        for level, named in zip(groups, says, strict=True):
            if {*named} != {name for name, _ in level}:
                self.problems.append(f'promise.hierarchy: a level has the groups {[*named]}')
            for name, classes in level:
                m, group = len(classes), f'promise.hierarchy.{name}'
                facts = {'radius': size, 'argmax_radius': radius(m / (m + 1))}
                self.same(group, {'classes': classes}, named[name])
                self.same(group, facts, named[name], tolerance=1e-9)

    def check_cells(self, cells):
        """The p-values that scores stand for: a geometric series to that of all hits."""
        worst = 0.0
        for centres, q in zip(cells['centres'], cells['null_probabilities'], strict=True):
            n = np.take(cells['draws'], centres)
            worst = max(worst, np.prod(np.power(q, n)) * (1 + 1e-10 + 1e-14 * n.sum()))
            if not 0.5 <= min(q) <= max(q) <= 1:  # A class that has 1/2 at the centre itself.
                self.problems.append('test.cells: a probability of a hit lies outside of [0.5, 1]')
        if sum(cells['draws']) != self.votes['n']:
            self.problems.append('test.cells: the draws around the centres are not n together')
        ours = np.exp(math.log(max(min(worst, 1.0), 1e-40)) * np.arange(4001) / 4000)
        table = self.votes['table']
        if table.shape != ours.shape or not np.allclose(ours, table, rtol=1e-9, atol=0):
            self.problems.append('test.cells: they give other p-values than the votes have')

    def check_joint_radii(self, radius, joint, selection, stages):
        """Lower confidence bounds of all probabilities together, by draws that 'auto' settles."""
        votes, n0, found = self.votes, int(self.votes['n0']), 0.0
        first, n, level = stages[0]
        if selection == 'auto':  # The larger bound of unanimous draws, (level / K)^(1 / n).
            log = math.log(level / first.size)
            more = (log - math.log(2)) / (n + n0) > log / n and 'selection_hits-level0' in votes
            selection = 'same_draws' if n0 == 0 or more else 'holdout'
        same = selection == 'same_draws'
        for hits, n, level in stages:
            hits, n = hits + same * votes.get('selection_hits-level0', 0), n + same * n0
            k = np.arange(1, n + 1)
            bounds = special.betaincinv(k, n - k + 1, level / hits.size / (1 + same))
            radii = [radius(p) if p > 0.5 else 0.0 for p in np.nan_to_num(bounds)]
            found = np.maximum(found, np.array([0.0, *radii])[hits])
        self.same_map('radius', found, 1e-6)
        facts = {'median': float(np.median(found)), 'max': float(found.max())}
        self.same('promise.joint_radius', {'selection': selection}, joint)
        self.same('promise.joint_radius', facts, joint, tolerance=1e-6)

    def check_nothing_else(self):
        """What is neither checked nor a sentence has no place in a certificate."""
        promise, checked = self.says['promise'], {'promise', 'sampling', 'test', 'input', 'digest'}
        groups = {'format', 'version', 'versions', 'perturbation', 'model', *checked}
        for name in sorted(self.says.keys() - groups):
            self.problems.append(f'{name}: this has no place here')
        given = {group: self.says[group] for group in checked}
        given |= {
            f'promise.{name}': promise.get(name, {}) for name in ('joint_radius', 'hierarchy')
        }
        for group, entries in {**given, 'map': self.maps}.items():
            for name in sorted({*entries} - self.seen.get(group, set())):
                self.problems.append(f'{group}.{name}: this has no place here')


def main():
    """Checks the certificate that is named, or all in a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('certificate', type=Path, help='a JSON file, or a folder of them')
    parser.add_argument('--votes', type=Path, required=True, help='the votes file, or the folder')
    args, failed = parser.parse_args(), False
    for path, kind in (args.certificate, 'certificates'), (args.votes, 'votes'):
        if not path.exists():
            parser.error(f'there is no file or folder {path}')
        if path.is_dir() and any(path.glob(f'{kind}-*')):
            parser.error(f'{path} holds results: give its folder {kind}-*')
    folder = args.certificate.is_dir()
    paths = sorted(args.certificate.glob('*.json')) if folder else [args.certificate]
    if not paths:
        parser.error(f'there are no certificates (*.json) in {args.certificate}')
    for path in paths:
        votes = args.votes / f'{path.stem}.npz' if args.votes.is_dir() else args.votes
        try:
            check = Check(path, votes)
            problems, holds = check.problems, check.holds
        except FileNotFoundError as error:
            problems, holds = [f'there is no file {error.filename}'], []
        except (OSError, LookupError, ValueError, TypeError, ArithmeticError, zlib.error) as error:
            problems, holds = [f'cannot be checked: {error!r}'], []
        failed |= bool(problems)
        verdict = 'not verified' if problems else 'verified'
        print(f'{path.stem}: {verdict}', *(problems or holds), sep='\n  ')
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
