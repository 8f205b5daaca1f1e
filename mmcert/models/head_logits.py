"""Logits as they leave the head, of models that mmsegmentation's own code takes to labels."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.model import BaseModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder

from mmcert.models.segmentor import is_stock


def is_plain(base: BaseModel) -> bool:
    """Whether labels follow from the last head's logits in the way of mmsegmentation itself."""
    if not isinstance(base, EncoderDecoder) or base.test_cfg.get('mode', 'whole') != 'whole':
        return False
    head = last_head(base)
    names = ('forward', 'predict', 'inference', 'whole_inference', 'postprocess_result')
    return (
        is_stock(base, EncoderDecoder, names)
        and 'encode_decode' not in vars(base)
        and 'predict_by_feat' not in vars(head)
        and getattr(type(head), 'predict_by_feat', None) is BaseDecodeHead.predict_by_feat
    )


def last_head(base: BaseModel) -> BaseDecodeHead:
    """The head whose logits count: the last one of a cascade."""
    head = base.decode_head
    return head[-1] if isinstance(head, torch.nn.ModuleList) else head


def map_size(maps: torch.Tensor) -> tuple[int, int]:
    """Height and width of maps (..., H, W)."""
    height, width = maps.shape[-2:]
    return height, width


def head_logits(
    base: BaseModel, inputs: torch.Tensor, metas: list[dict[str, Any]]
) -> tuple[torch.Tensor, tuple[int, int]] | None:
    """The logits of a batch before the head resizes them, and the size that it would give them.

    Args:
        base (BaseModel): A model that ``is_plain``.
        inputs (torch.Tensor): What its preprocessor delivers, shape (B, C, H, W).
        metas (list[dict]): The metainfo of each image.

    Returns:
        tuple | None: Logits of shape (B, K, h, w) and the size (H', W'); None if the model goes on
        computing with resized logits.
    """
    head: Any = last_head(base)
    taken: list[tuple[torch.Tensor, tuple[int, int]]] = []

    def take(logits: torch.Tensor, metas: list[dict]) -> torch.Tensor:
        # One value shows what size the head would resize to.
        resized = BaseDecodeHead.predict_by_feat(head, logits[:1, :1, :1, :1], metas)
        taken.append((logits, map_size(resized)))
        return logits

    with replaced(head, 'predict_by_feat', take):
        logits = base.inference(inputs, metas)
    if not taken:
        return logits, map_size(logits)
    if len(taken) > 1 or taken[0][0] is not logits:
        return None
    return taken[0]


@contextlib.contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Gives one object a method of its own for a while."""
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
