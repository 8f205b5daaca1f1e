"""Draws and votes for any segmentor that can be called: torch, and no OpenMMLab package."""

from mmcert.sampling.collect import SegmentorOutputError, collect_looks, collect_votes
from mmcert.sampling.draws import draw_seed, input_digest

__all__ = ['SegmentorOutputError', 'collect_looks', 'collect_votes', 'draw_seed', 'input_digest']
