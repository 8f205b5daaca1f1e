"""An mmsegmentation visualiser that shows where a certified model abstains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.structures import BaseDataElement
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from numpy.typing import NDArray

from mmcert.registry import VISUALIZERS
from mmcert.visualization.clouds import draw_cloud

ABSTAIN_COLOR = (255, 255, 255)
UNLABELLED_COLOR = (0, 0, 0)
TITLE_HEIGHT = 22
BACKGROUND = 32


def paint(
    labels: NDArray[np.integer],
    palette: Sequence[Sequence[int]],
    other: Sequence[int] = UNLABELLED_COLOR,
) -> NDArray[np.uint8]:
    """Colours a label map.

    Args:
        labels (np.ndarray): Classes, shape (H, W).
        palette (Sequence): RGB colour of each class, 0-255.
        other (Sequence[int]): Colour of values that are no class: ignored, or abstained from.

    Returns:
        np.ndarray: RGB image, shape (H, W, 3), uint8.
    """
    table = np.full((256, 3), other, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[np.clip(labels, 0, 255)]


@VISUALIZERS.register_module()
class CertifiedVisualizer(SegLocalVisualizer):
    """Draws image, label, base prediction and certified map side by side.

    Abstentions are white in the certified map, pixels without ground truth black in the label. A
    sample without a certified map is drawn as mmsegmentation draws it.

    Args:
        name (str): Name of the instance, as mmengine wants one.
        abstain_color (Sequence[int]): RGB colour of abstentions, 0-255.
        **kwargs: Passed to ``mmseg.visualization.SegLocalVisualizer``.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        abstain_color: Sequence[int] = ABSTAIN_COLOR,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.abstain_color = tuple(abstain_color)

    @property
    def dataset_meta(self) -> Any:
        """Classes and palette; mmengine sets them in the first process alone, and all draw."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self._dataset_meta = dataset_meta

    @master_only
    def add_datasample(
        self,
        name: str,
        image: NDArray[np.uint8],
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool | None = True,
    ) -> None:
        """Draws one sample; the arguments are those of ``SegLocalVisualizer``."""
        if data_sample is None or 'cert_sem_seg' not in data_sample or not draw_pred:
            super().add_datasample(
                name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file, step,
                with_labels,
            )  # fmt: skip
            return
        drawn = self.compose(image, data_sample, draw_gt)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(drawn), out_file)
        else:
            self.add_image(name, drawn, step)

    def compose(
        self, image: NDArray[np.uint8], sample: SegDataSample, draw_gt: bool = True
    ) -> NDArray[np.uint8]:
        """The picture of one certified sample.

        Args:
            image (np.ndarray): RGB image at its original size, shape (H, W, 3), uint8.
            sample (SegDataSample): With ``cert_sem_seg``, ``base_sem_seg`` and maybe a label.
            draw_gt (bool): Whether to show the label.

        Returns:
            np.ndarray: RGB picture, uint8: the panels below their titles, in one row or two.
        """
        palette = self.dataset_meta['palette']
        panels = [('image', image)]
        if draw_gt and 'gt_sem_seg' in sample:
            panels.append(('label', paint(_array(sample, 'gt_sem_seg'), palette)))
        if 'base_sem_seg' in sample:
            panels.append(('base model', paint(_array(sample, 'base_sem_seg'), palette)))
        certificate = sample.metainfo.get('certificate', {})
        title = 'certified'
        if 'attack_on_this_input' in certificate:
            title += f', tau {certificate["tau"]:.3f}'
            if certificate['kind'] == 'estimate':
                title += ' (an estimate)'
        elif 'radius' in certificate:
            title += f', {certificate["norm"]} {certificate["radius"]:.3g}'
        certified = paint(_array(sample, 'cert_sem_seg'), palette, self.abstain_color)
        panels.append((title, certified))
        if 'cert_levels' in sample:
            levels = sample.get('cert_levels').data.cpu().numpy()
            panels.append(('certified, with coarser nodes', self._levels(certified, levels)))
        if 'cert_radius' in sample:
            radii = sample.get('cert_radius').data.squeeze(0).cpu().numpy()
            panels.append((f'joint radius, 0 to {radii.max(initial=0.0):.3g}', heat_map(radii)))
        return _arranged([_titled(title, panel) for title, panel in panels])

    def compose_cloud(
        self, cloud: NDArray[np.floating], sample: BaseDataElement, draw_gt: bool = True
    ) -> NDArray[np.uint8]:
        """The picture of one certified cloud.

        Args:
            cloud (np.ndarray): The cloud, shape (N, D), coordinates first.
            sample (BaseDataElement): With ``cert_pts_seg``, ``base_pts_seg`` and maybe a label.
            draw_gt (bool): Whether to show the label.

        Returns:
            np.ndarray: RGB picture, uint8: label, base prediction, certified points (abstentions
            white) and joint radii.
        """
        meta = self.dataset_meta
        palette, up = meta['palette'], meta.get('up_axis', 2)
        titles = {'gt_pts_seg': 'label', 'base_pts_seg': 'base model', 'cert_pts_seg': 'certified'}
        certificate = sample.metainfo.get('certificate', {})
        if certificate.get('norm'):
            titles['cert_pts_seg'] += f', {certificate["norm"]} {certificate["radius"]:.3g}'
        panels = []
        for field, title in titles.items():
            if field in sample and (draw_gt or field != 'gt_pts_seg'):
                labels = np.asarray(sample.get(field).pts_semantic_mask)
                other = self.abstain_color if field == 'cert_pts_seg' else UNLABELLED_COLOR
                colours = paint(labels, palette, other)
                panels.append((title, draw_cloud(cloud[:, :3], colours, up)))
        radii = np.asarray(sample.get('cert_radius').radius)
        colours = heat_map(radii[None])[0]
        title = f'joint radius, 0 to {radii.max(initial=0.0):.3g}'
        panels.append((title, draw_cloud(cloud[:, :3], colours, up)))
        return _arranged([_titled(title, panel) for title, panel in panels])

    def _levels(
        self, certified: NDArray[np.uint8], levels: NDArray[np.integer]
    ) -> NDArray[np.uint8]:
        """The certified map with the mean colour of its classes where a node is certified."""
        palette = np.asarray(self.dataset_meta['palette'], dtype=np.float64)
        level, *nodes = levels
        drawn = certified.copy()
        for index, node_map in enumerate(nodes, start=1):
            here = level == index
            for node in np.unique(node_map[here]):
                members = self.node_classes(index, int(node))
                drawn[here & (node_map == node)] = palette[members].mean(axis=0).round()
        return drawn

    def node_classes(self, level: int, node: int) -> list[int]:
        """The classes in a node of ``dataset_meta['hierarchy']``, given as nodes of the classes."""
        return np.flatnonzero(self.dataset_meta['hierarchy'][level - 1] == node).tolist()


def heat_map(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draws numbers as colours, from dark to bright (the largest), with white for 0.

    Args:
        values (np.ndarray): Numbers >= 0, shape (H, W).

    Returns:
        np.ndarray: RGB image, shape (H, W, 3), uint8.
    """
    scale = float(values.max(initial=0.0))
    shades = np.clip(values / max(scale, 1e-12) * 255, 0, 255).astype(np.uint8)
    mapped = cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS)
    colours = np.array(mapped[..., ::-1], dtype=np.uint8)
    colours[values <= 0] = ABSTAIN_COLOR
    return colours


def _array(sample: SegDataSample, field: str) -> NDArray[np.integer]:
    return sample.get(field).data.squeeze(0).cpu().numpy()


def _arranged(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels of one size in a row, in two where there are more than four."""
    columns = len(panels) if len(panels) <= 4 else -(-len(panels) // 2)
    blank = np.full_like(panels[0], BACKGROUND)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    rows[-1] += [blank] * (columns - len(rows[-1]))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _titled(title: str, panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bar = np.full((TITLE_HEIGHT, panel.shape[1], 3), BACKGROUND, dtype=np.uint8)
    cv2.putText(
        bar, title, (5, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
    )
    return np.pad(
        np.concatenate([bar, panel]), ((0, 0), (0, 4), (0, 0)), constant_values=BACKGROUND
    )
