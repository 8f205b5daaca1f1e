"""Part segmentation on mmdetection3d's PointNet++: the shape's category is an input.

mmdetection3d 1.4 segments scenes and has no part segmentation. What is added is what the published
PointNet++ part segmentation does (Qi, Yi, Su, Guibas 2017, section 4 and its public code): the
category enters as a one-hot vector before the last feature propagation, next to the points' own
coordinates and normals, and a prediction is one of the parts of that category.

For weights that were trained with Pointnet_Pointnet2_pytorch, as those of SegCertify's authors
were, there is what its model does otherwise: ``GroupingPointSAModule``, and the options
``squared_distance`` of the head and ``repeat_coordinates`` of the segmentor.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import GroupAll, three_interpolate, three_nn
from mmdet3d.models.decode_heads import PointNet2Head
from mmdet3d.models.layers import PointFPModule
from mmdet3d.models.layers.pointnet_modules import PointSAModuleMSG
from mmdet3d.models.layers.pointnet_modules.builder import SA_MODULES
from mmdet3d.models.segmentors import EncoderDecoder3D
from torch import Tensor

from mmcert.models.point_segmentor import points_needed
from mmcert.registry import MODELS

FOREIGN_LOGIT = -1e4
"""Logit of parts of other categories: far below any other, and finite in half precision too."""


@SA_MODULES.register_module()
class GroupingPointSAModule(PointSAModuleMSG):
    """mmdetection3d's set abstraction, whose last level groups all points around the origin.

    Args:
        num_point (int): Number of points to sample; at 1 nothing is sampled: the module groups all
            points, with their coordinates as they are, and returns the origin.
        **kwargs: Passed to ``PointSAModuleMSG``.
    """

    def __init__(self, num_point: int, **kwargs: Any) -> None:
        super().__init__(num_point=num_point, **kwargs)
        self.groups_all = num_point == 1
        if self.groups_all:
            self.groupers = torch.nn.ModuleList([GroupAll() for _ in self.mlps])

    def _sample_points(self, points_xyz: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        if not self.groups_all:
            return super()._sample_points(points_xyz, *args)
        origin = points_xyz.new_zeros(len(points_xyz), 1, 3)
        return origin, origin[..., 0].long()


class SquaredPointFPModule(PointFPModule):
    """mmdetection3d's feature propagation with weights of one over the squared distance."""

    def forward(
        self, target: Tensor, source: Tensor, target_feats: Tensor, source_feats: Tensor
    ) -> Tensor:
        """Features (B, C, n) at ``target`` (B, n, 3) from those (B, C', m) at ``source``."""
        distance, indices = three_nn(target, source)
        weight = 1 / (distance**2 + 1e-8)
        weight = weight / weight.sum(dim=2, keepdim=True)
        features = three_interpolate(source_feats, indices, weight)
        if target_feats is not None:
            features = torch.cat([features, target_feats], dim=1)
        return self.mlps(features[..., None])[..., 0]


@MODELS.register_module()
class PartPointNet2Head(PointNet2Head):
    """PointNet++'s head with the category and the points' own channels at the last level.

    The last feature propagation module gets, after the interpolated features, the category one-hot
    (num_categories channels), the coordinates (3) and whatever the backbone was given besides
    (3 with normals). ``fp_channels[-1][0]`` is the sum of all of these.

    Args:
        num_categories (int): Number of categories.
        squared_distance (bool): Whether features are interpolated with weights of one over the
            squared distance, as the original does, in place of mmdetection3d's one over the
            distance.
        **kwargs: Passed to ``mmdet3d.models.PointNet2Head``.
    """

    def __init__(
        self, num_categories: int = 16, squared_distance: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_categories = num_categories
        if squared_distance:
            norm_cfg = kwargs.get('fp_norm_cfg', dict(type='BN2d'))
            self.FP_modules = torch.nn.ModuleList(
                SquaredPointFPModule(mlp_channels=channels, norm_cfg=norm_cfg)
                for channels in kwargs['fp_channels']
            )

    def forward(self, feat_dict: dict) -> Tensor:
        """Logits (B, num_classes, N) from the backbone's features, finest level first.

        ``feat_dict`` has its ``sa_xyz`` and ``sa_features``, and ``category``, shape (B,
        num_categories).

        Raises:
            ValueError: If the last module is not made for the channels that it gets.
        """
        xyz, features = self._extract_input(feat_dict)
        category = feat_dict['category']
        own = [category[:, :, None].expand(-1, -1, xyz[0].shape[1]), xyz[0].transpose(1, 2)]
        if features[0] is not None:
            own.append(features[0])
        skips = [torch.cat(own, dim=1), *features[1:]]
        feature = features[-1]
        for i, module in enumerate(self.FP_modules):
            if i == self.num_fp - 1:
                self._check_channels(feature, skips[0], category)
            feature = module(xyz[-(i + 2)], xyz[-(i + 1)], skips[-(i + 2)], feature)
        return self.cls_seg(self.pre_seg_conv(feature))

    def _check_channels(self, feature: Tensor, own: Tensor, category: Tensor) -> None:
        last: Any = self.FP_modules[-1]
        wanted = last.mlps[0].conv.in_channels
        below, categories = feature.shape[1], category.shape[1]
        if below + own.shape[1] != wanted or categories != self.num_categories:
            raise ValueError(
                f'the last feature propagation module is made for {wanted} channels '
                f'(fp_channels[-1][0]) and {self.num_categories} categories, and gets '
                f'{below} channels from below, {categories} of the category and '
                f'{own.shape[1] - categories} of the points'
            )


@MODELS.register_module()
class PartSegmentor(EncoderDecoder3D):
    """A segmentor of single objects into the parts of their category.

    Points come as (N, C + num_categories) with the category one-hot in the last columns, as
    ``mmcert.AppendCategory`` puts them there. The backbone gets the C others, the head the one-hot.
    ``predict``, ``inference`` and ``encode_decode`` give parts of other categories the logit -1e4;
    the loss and ``_forward`` see all of them as they are.

    ``loss``, ``inference`` and ``_forward`` take clouds of one size as one batch; ``predict`` goes
    through them one by one, as mmdetection3d's does, and may get clouds of different sizes. On the
    CPU call ``mmcert.pointops.install_cpu_point_ops()`` before the model runs; mmcert's tools do.

    Args:
        category_parts (Sequence[Sequence[int]]): The part labels of each category, in the order
            of the category ids.
        repeat_coordinates (bool): Whether the coordinates are also the first of the features.
        **kwargs: Passed to ``mmdet3d.models.EncoderDecoder3D``. ``test_cfg.mode`` must be 'whole'.

    Raises:
        ValueError: If a part label is out of range, a category has none, or the test mode is
            not 'whole'.
    """

    allowed: Tensor

    def __init__(
        self,
        category_parts: Sequence[Sequence[int]],
        repeat_coordinates: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repeat_coordinates = repeat_coordinates
        if self.test_cfg is None or self.test_cfg.get('mode') != 'whole':
            raise ValueError(f"test_cfg must be dict(mode='whole'), got {self.test_cfg}")
        allowed = torch.zeros(len(category_parts), self.num_classes, dtype=torch.bool)
        for category, parts in enumerate(category_parts):
            if not len(parts) or not all(0 <= part < self.num_classes for part in parts):
                raise ValueError(
                    f'the parts of category {category} must be labels in 0 to '
                    f'{self.num_classes - 1}, at least one, got {list(parts)}'
                )
            allowed[category, list(parts)] = True
        self.register_buffer('allowed', allowed, persistent=False)

    @property
    def num_categories(self) -> int:
        """Number of categories."""
        return len(self.allowed)

    def split_category(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Splits points (B, N, C + num_categories) into channels (B, N, C) and one-hots.

        Raises:
            ValueError: If there are fewer points than the backbone samples first, or the last
                columns are not a one-hot that is the same for all points of a cloud.
        """
        width = points.shape[2] - self.num_categories
        needed = points_needed(self.backbone)
        if points.shape[1] < needed:
            raise ValueError(
                f'the backbone samples {needed} points first and got clouds of {points.shape[1]}'
            )
        if width < 3:
            raise ValueError(
                f'points must have x, y, z and {self.num_categories} columns of their category, '
                f'got {points.shape[2]} columns; is mmcert.AppendCategory in the pipeline?'
            )
        columns = points[:, :, width:]
        one_hot = columns[:, 0]
        correct = ((one_hot == 0) | (one_hot == 1)).all() and (one_hot.sum(dim=1) == 1).all()
        if not correct or not (columns == one_hot[:, None]).all():
            raise ValueError(
                f'the last {self.num_categories} columns of the points must be the one-hot of '
                'their category, the same for all points of a cloud; mmcert.AppendCategory makes '
                'them, and noise must leave them alone'
            )
        return points[:, :, :width].contiguous(), one_hot

    def extract_feat(self, batch_inputs: Tensor) -> dict:
        """Features of clouds (B, N, C + num_categories), and the one-hots as ``category``."""
        points, category = self.split_category(batch_inputs)
        if self.repeat_coordinates:
            points = torch.cat([points[..., :3], points], dim=-1)
        return {**super().extract_feat(points), 'category': category}

    def encode_decode(self, batch_inputs: Tensor, batch_input_metas: list[dict]) -> Tensor:
        """Logits (B, num_classes, N) of a batch of clouds, without parts of other categories."""
        logits = super().encode_decode(batch_inputs, batch_input_metas)
        category = batch_inputs[:, 0, -self.num_categories :].argmax(dim=1)
        return logits.masked_fill(~self.allowed[category][:, :, None], FOREIGN_LOGIT)

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses by name, over all classes; a ``ValueError`` if the clouds differ in size."""
        sizes = [tuple(points.shape) for points in batch_inputs_dict['points']]
        if len(set(sizes)) > 1:
            raise ValueError(
                f'clouds trained in one batch must have the same size, got {sizes}; '
                'mmcert.SampleShapePoints gives them one'
            )
        return super().loss(batch_inputs_dict, batch_data_samples)
