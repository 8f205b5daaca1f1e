"""Draws and votes for any segmentor that can be called: torch, and no OpenMMLab package."""

from mmcert.sampling.batching import BatchSize
from mmcert.sampling.checkpoint import Checkpoint, Checkpointer
from mmcert.sampling.collect import collect_enumerated, collect_looks, collect_votes
from mmcert.sampling.draws import draw_seed, input_digest
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import SegmentorOutputError
from mmcert.sampling.process_group import ProcessGroup
from mmcert.sampling.settings import SamplingSettings

__all__ = [
    'BatchSize',
    'Checkpoint',
    'Checkpointer',
    'LogitMaps',
    'ProcessGroup',
    'SamplingSettings',
    'SegmentorOutputError',
    'collect_enumerated',
    'collect_looks',
    'collect_votes',
    'draw_seed',
    'input_digest',
]
