"""Attacks on segmentors that can be called: torch, and no OpenMMLab package."""

from mmcert.attacks.parameters import ParameterAttack, exhaustive, gradient

__all__ = ['ParameterAttack', 'exhaustive', 'gradient']
