"""The parameters of a transformation that an attacker may choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmcert.transformations import Transformation, build

POINTS = {'finite': 0, 'lipschitz': 400, 'sampled': 50}
"""By mode, how many parameters of a range are looked at by default."""


@dataclass(frozen=True, eq=False)
class AttackSet:
    """Parameters of a transformation, and how a supremum over them is found.

    Attributes:
        mode (str): 'finite' looks at each of ``values``: exact. 'lipschitz' looks at points of an
            interval and bounds what lies between them by a proven Lipschitz constant.
            'sampled' looks at points of a range alone, which bounds a supremum from below: what
            follows from it is an estimate.
        values (torch.Tensor): For 'finite' the set itself, else the ends (low, high) of the range;
            shape (N, P), float64.
        points (int): Most parameters that are looked at in a range.
        transformation (Mapping | None): Config of the transformation whose parameters they are;
            None leaves that open.

    Raises:
        ValueError: If the mode is not known, or the values are not what it takes.
    """

    mode: str
    values: torch.Tensor
    points: int
    transformation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values, dtype=torch.float64).clone()
        object.__setattr__(self, 'values', values)  # Ours alone: nobody changes it afterwards.
        if self.mode not in POINTS:
            raise ValueError(f'mode must be one of {", ".join(POINTS)}, got {self.mode!r}')
        if values.dim() != 2 or values.numel() == 0 or not bool(values.isfinite().all()):
            raise ValueError(
                f'an attack set needs finite parameters of shape (N, P), got {self.values}'
            )
        if self.mode == 'finite':
            return
        if len(values) != 2 or bool((values[0] > values[1]).any()):
            raise ValueError(f'mode={self.mode!r} takes a range low <= high, got {values.tolist()}')
        if self.mode == 'lipschitz' and values.shape[1] > 1:
            raise ValueError(
                f"mode='lipschitz' takes one parameter, got {values.shape[1]}: give values"
            )
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 2:
            raise ValueError(f'points must be an integer of at least 2, got {self.points!r}')

    @property
    def kind(self) -> str:
        """'certificate' or, where the supremum is only sampled, 'estimate'."""
        return 'estimate' if self.mode == 'sampled' else 'certificate'

    def check_of(self, transformation: Transformation) -> None:
        """Refuses a set of another transformation than this, with a ValueError."""
        if self.transformation is not None:
            _check_same(self.transformation, transformation)

    def spec(self) -> dict[str, Any]:
        """As in a config, as JSON values."""
        if self.mode == 'finite':
            return {'mode': self.mode, 'values': _plain(self.values)}
        return {'mode': self.mode, 'range': _plain(self.values.T), 'points': self.points}

    def describe(self, transformation: Transformation) -> str:
        """The set in words, for example 'defocus_blur with radius (px) in {1, 2, 3}'."""
        names = ', '.join(
            p.name if p.unit == p.name else f'{p.name} ({p.unit})'
            for p in transformation.parameters
        )
        if self.mode == 'finite':
            shown = ', '.join(_number(row) for row in self.values.tolist())
            return f'{transformation.name} with {names} in {{{shown}}}'
        ends = [f'[{low:.15g}, {high:.15g}]' for low, high in self.values.T.tolist()]
        return f'{transformation.name} with {names} in {" x ".join(ends)}'


def build_attack_set(
    attack: AttackSet | Mapping[str, Any], transformation: Transformation
) -> AttackSet:
    """Reads the attack set of a config.

    Args:
        attack (AttackSet | Mapping): ``values``, a list of parameters (lists of P numbers where P >
            1), for a finite set; or ``range``, (low, high) (a pair for each parameter where P > 1)
            with ``mode`` 'lipschitz' (one parameter) or 'sampled' and maybe ``points``. With
            ``transformation``, its name or config, the set is checked to be of that one.
        transformation (Transformation): Whose parameters they are.

    Raises:
        ValueError: If the set is empty, a parameter is out of range, a key is unknown, the mode
            does not go with it, or it is of another transformation.
    """
    if isinstance(attack, AttackSet):
        attack.check_of(transformation)
        transformation.check_parameters(attack.values)
        return attack
    if not isinstance(attack, Mapping):
        raise ValueError(f'an attack set is a dict such as dict(values=[1, 2, 3]), got {attack!r}')
    given = dict(attack)
    meant = given.pop('transformation', transformation.name)
    _check_same(build(meant).spec() if isinstance(meant, Mapping) else meant, transformation)
    unknown = sorted(set(given) - {'values', 'range', 'mode', 'points'})
    if unknown or ('values' in given) == ('range' in given):
        raise ValueError(
            f'an attack set needs either values or range (with mode and points), got {attack}'
        )
    mode = given.get('mode', 'finite' if 'values' in given else None)
    if mode not in POINTS or (mode == 'finite') != ('values' in given):
        raise ValueError(
            "an attack set with values is 'finite'; one with a range needs mode='lipschitz' (a "
            f"certificate) or mode='sampled' (an estimate), got mode={mode!r}"
        )
    if 'values' in given:
        if 'points' in given:
            raise ValueError('points belong to a range: of values, each is looked at')
        values = transformation.finite(given['values'])
    else:
        values = transformation.ends(given['range'])
    return AttackSet(mode, values, given.get('points', POINTS[mode]), transformation.spec())


def _check_same(meant: Mapping[str, Any] | str, transformation: Transformation) -> None:
    name = meant if isinstance(meant, str) else meant['type']
    made_for: Any = transformation.name
    if name == made_for and not isinstance(meant, str):
        name, made_for = meant, transformation.spec()
    if name != made_for:
        raise ValueError(f'the attack is {name}, but the surrogate was made for {made_for}')


def _plain(rows: torch.Tensor) -> list[Any]:
    values = rows.tolist()
    return [row[0] for row in values] if rows.shape[1] == 1 else values


def _number(row: Sequence[float]) -> str:
    shown = ', '.join(f'{value:.15g}' for value in row)
    return shown if len(row) == 1 else f'({shown})'
