"""Several segmentors as one: the mean of their logits.

Members that were trained alike from other seeds agree where an image is clear and err differently
where it is not, so the mean varies less under noise than any of them. Smoothed classifiers abstain
less then (Horvath, Mueller, Fischer, Vechev, "Boosting Randomized Smoothing with Variance
Reduced Classifiers", ICLR 2022). A pass costs as much as one of each member.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmcert.models.head_logits import head_logits, is_plain, last_head
from mmcert.registry import MODELS


class MeanHead(BaseDecodeHead):
    """The mean of logits, in the place of a head; it has no weights.

    Args:
        num_classes (int): Number of classes K.
        align_corners (bool): How the mean is resized to the image.
    """

    def __init__(self, num_classes: int, align_corners: bool) -> None:
        super().__init__(1, 1, num_classes=num_classes, align_corners=align_corners, init_cfg=None)
        del self.conv_seg

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The mean of the logits of all members, each of shape (B, K, h, w)."""
        return torch.stack(tuple(inputs)).mean(dim=0)


@MODELS.register_module()
class SegmentorEnsemble(EncoderDecoder):
    """A segmentor whose logits are the mean of those of its members.

    The logits of each member are resized to the image and then averaged with equal weights. Where
    the members' heads have one grid they are averaged on it, which is the same, as resizing is
    linear. Every member normalises and pads the image by its own preprocessor, and may have any
    backbone, head and test mode. ``tools/ensemble.py`` makes config and checkpoint of an ensemble
    from those of its members.

    Members are trained by themselves; ``loss`` refuses.

    Args:
        members (Sequence[dict]): Configs of mmsegmentation segmentors with the same classes, at
            least two, each with its ``data_preprocessor``.
        data_preprocessor (dict | None): None: the images reach the members as they are, in 0-255.
        pretrained, train_cfg (None): As ``mmseg.apis.init_model`` passes them to every segmentor.

    Raises:
        ValueError: If there are fewer than two members, their numbers of classes differ, one has a
            binary head of one channel, or an option is given that the members have.
        TypeError: If a member is no mmsegmentation segmentor with a decode head.

    Example:
        >>> from mmengine.config import ConfigDict
        >>> from mmseg.utils import register_all_modules
        >>> register_all_modules()
        >>> member = ConfigDict(
        ...     type='EncoderDecoder',
        ...     data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0], std=[64.0]),
        ...     backbone=dict(type='UNet', in_channels=1, base_channels=4, num_stages=1,
        ...                   strides=(1,), enc_num_convs=(1,), dec_num_convs=(), downsamples=(),
        ...                   enc_dilations=(1,), dec_dilations=()),
        ...     decode_head=dict(type='FCNHead', in_channels=4, in_index=0, channels=4,
        ...                      num_convs=0, concat_input=False, num_classes=3),
        ...     test_cfg=dict(mode='whole'),
        ... )
        >>> ensemble = SegmentorEnsemble([member, member]).eval()
        >>> ensemble.num_classes, len(ensemble.members)
        (3, 2)
        >>> ensemble(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    members: Any

    def __init__(
        self,
        members: Sequence[dict[str, Any]],
        data_preprocessor: dict[str, Any] | None = None,
        pretrained: str | None = None,
        train_cfg: dict[str, Any] | None = None,
    ) -> None:
        options = {
            'data_preprocessor': data_preprocessor,
            'pretrained': pretrained,
            'train_cfg': train_cfg,
        }
        for name, value in options.items():
            if value is not None:
                raise ValueError(
                    f'an ensemble takes no {name}: each member has its own, in its config'
                )
        if len(members) < 2:
            raise ValueError(f'an ensemble needs at least two members, got {len(members)}')
        # Its parts are the members, in place of a backbone and a head with weights.
        super(EncoderDecoder, self).__init__(data_preprocessor=dict(type='SegDataPreProcessor'))
        self.members = torch.nn.ModuleList([MMSEG_MODELS.build(member) for member in members])
        for number, member in enumerate(self.members):
            _check_member(number, member, self.members[0])
        corners = {last_head(member).align_corners for member in self.members}
        self._resized_alike = len(corners) == 1
        self.decode_head = MeanHead(self.members[0].num_classes, corners == {True})
        self.num_classes = self.out_channels = self.decode_head.num_classes
        self.align_corners = self.decode_head.align_corners
        self.train_cfg, self.test_cfg = ConfigDict(), ConfigDict(mode='whole')

    def describe(self) -> str:
        """What the ensemble is, for certificates."""
        return (
            f'the mean of the logits of {len(self.members)} segmentors, each resized to the image'
        )

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """The logits of every member for images (B, C, H, W) in 0-255.

        All of them have shape (B, K, h, w) on one grid, or (B, K, H, W) if the members differ.
        """
        found = [_on_own_grid(member, inputs) for member in self.members]
        shared = [logits for logits in found if logits is not None]
        alike = self._resized_alike and len({logits.shape for logits in shared}) == 1
        if alike and len(shared) == len(found):
            return shared
        size = inputs.shape[-2:]
        return [
            _at_size(member, inputs) if logits is None else _resized(logits, size, member)
            for member, logits in zip(self.members, found, strict=True)
        ]

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> NoReturn:
        """Refuses: members are trained one by one."""
        raise NotImplementedError(
            'an ensemble is not trained as a whole: train its members, then put them together '
            'with mmcert ensemble'
        )


def _check_member(number: int, member: Any, first: Any) -> None:
    name = f'member {number} ({type(member).__name__})'
    if not isinstance(member, EncoderDecoder) or not hasattr(member, 'decode_head'):
        raise TypeError(f'{name} is not an mmsegmentation segmentor with a decode head')
    if member.out_channels == 1:
        raise ValueError(
            f'{name} has a binary head of one channel; an ensemble averages the logits of all '
            'classes: give the head two channels'
        )
    if member.num_classes != first.num_classes:
        raise ValueError(
            f'{name} has {member.num_classes} classes, member 0 has {first.num_classes}: all '
            'members must have the same classes'
        )


def _preprocessed(member: Any, images: Tensor) -> tuple[Tensor, list[SegDataSample]]:
    """What a member's own preprocessor makes of images in 0-255."""
    size = tuple(images.shape[-2:])
    samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in images]
    data = dict(inputs=list(images), data_samples=samples)
    data = member.data_preprocessor(data, False)
    inputs = data['inputs']
    if images.is_contiguous(memory_format=torch.channels_last):
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return inputs, data['data_samples']


def _on_own_grid(member: Any, images: Tensor) -> Tensor | None:
    """A member's logits as they leave its head, if nothing but resizing to the image follows."""
    if not is_plain(member):
        return None
    inputs, samples = _preprocessed(member, images)
    if inputs.shape[-2:] != images.shape[-2:]:
        return None  # Padding has to be cut off.
    found = head_logits(member, inputs, [sample.metainfo for sample in samples])
    if found is None or found[1] != tuple(images.shape[-2:]):
        return None
    return found[0]


def _at_size(member: Any, images: Tensor) -> Tensor:
    """A member's logits, resized by its own ``predict`` to the size of the image."""
    inputs, samples = _preprocessed(member, images)
    outputs = member(inputs, samples, mode='predict')
    return torch.stack([output.seg_logits.data for output in outputs])


def _resized(logits: Tensor, size: Sequence[int], member: Any) -> Tensor:
    corners = last_head(member).align_corners
    return F.interpolate(logits, size=tuple(size), mode='bilinear', align_corners=corners)
