"""Surrogates of semantic transformations (GSmooth), and how far an attack moves their latents.

torch only.
"""

from mmcert.surrogates.attack_sets import AttackSet, build_attack_set
from mmcert.surrogates.displacement import Displacement
from mmcert.surrogates.network import Surrogate, load_surrogate, save_surrogate

__all__ = [
    'AttackSet',
    'Displacement',
    'Surrogate',
    'build_attack_set',
    'load_surrogate',
    'save_surrogate',
]
