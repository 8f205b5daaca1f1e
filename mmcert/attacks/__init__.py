"""Attacks on segmentors that can be called: torch, and no OpenMMLab package."""

from mmcert.attacks.l2 import SEA_RADII, Ascent, Ball, Steps, ascend, perturbed
from mmcert.attacks.losses import LOSSES, SEA_LOSSES, Goal
from mmcert.attacks.parameters import ParameterAttack, exhaustive, gradient
from mmcert.attacks.smoothed import SmoothedScores, attack_input

__all__ = [
    'LOSSES',
    'SEA_LOSSES',
    'SEA_RADII',
    'Ascent',
    'Ball',
    'Goal',
    'ParameterAttack',
    'SmoothedScores',
    'Steps',
    'ascend',
    'attack_input',
    'exhaustive',
    'gradient',
    'perturbed',
]
