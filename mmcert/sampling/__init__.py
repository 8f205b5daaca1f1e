"""Draws and votes for any segmentor that can be called: torch, and no OpenMMLab package."""

from mmcert.sampling.batching import BatchSize
from mmcert.sampling.collect import collect_looks, collect_votes
from mmcert.sampling.draws import draw_seed, input_digest
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import SegmentorOutputError
from mmcert.sampling.partial import Keeper, Partial
from mmcert.sampling.team import Team

__all__ = [
    'BatchSize',
    'Keeper',
    'LogitMaps',
    'Partial',
    'SegmentorOutputError',
    'Team',
    'collect_looks',
    'collect_votes',
    'draw_seed',
    'input_digest',
]
