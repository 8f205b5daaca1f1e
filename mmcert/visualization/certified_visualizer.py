"""An mmsegmentation visualiser that shows where a certified model abstains."""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.structures import BaseDataElement
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from numpy.typing import NDArray

from mmcert.certifier import entries
from mmcert.fields import certified_maps, confidence_of
from mmcert.registry import VISUALIZERS
from mmcert.report.confidence import confidence_picture
from mmcert.report.pictures import ABSTAIN_COLOR, certificate_picture, certificate_title
from mmcert.report.tiles import class_colours


@VISUALIZERS.register_module()
class CertifiedVisualizer(SegLocalVisualizer):
    """Draws image, label, base prediction and certified map side by side, above a legend.

    A second picture, of the name with ``-confidence`` at its end, shows the maps of confidence.

    Abstentions have ``abstain_color`` in the maps of certificates and radii, pixels without ground
    truth are black in the label. A sample without a certified map is drawn as mmsegmentation draws
    it.

    Args:
        name (str): Name of the instance, as mmengine wants one.
        abstain_color (Sequence[int]): RGB colour of abstentions, 0-255.
        **kwargs: Passed to ``mmseg.visualization.SegLocalVisualizer``.
    """

    def __init__(
        self, name: str = 'visualizer', abstain_color: Sequence[int] = ABSTAIN_COLOR, **kwargs: Any
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
        pictures = {None: drawn, 'confidence': self.compose_confidence(image, data_sample)}
        for ending, picture in pictures.items():
            if out_file is not None:
                mmcv.imwrite(mmcv.rgb2bgr(picture), _extended(out_file, ending))
            else:
                self.add_image(_extended(name, ending), picture, step)

    def compose(
        self, data: NDArray[Any], sample: BaseDataElement, draw_gt: bool = True
    ) -> NDArray[np.uint8]:
        """The RGB picture of one certified sample, see ``report.pictures.certificate_picture``.

        Args:
            data (np.ndarray): RGB image at its original size, shape (H, W, 3), uint8, or the cloud,
                shape (N, D), coordinates first.
            sample (BaseDataElement): What the smoothed model returned.
            draw_gt (bool): Whether to show the label.
        """
        meta, maps = self.dataset_meta, certified_maps(sample.to_dict())
        if not draw_gt:
            maps.pop('label', None)
        return certificate_picture(
            data,
            maps,
            meta['palette'],
            meta.get('classes') or (),
            title=certificate_title(entries(sample.metainfo.get('certificate', {}))),
            hierarchy=meta.get('hierarchy'),
            up=meta.get('up_axis', 2),
            abstain_color=self.abstain_color,
        )

    def compose_confidence(self, data: NDArray[Any], sample: BaseDataElement) -> NDArray[np.uint8]:
        """The RGB picture of the confidence in one sample, see ``report.confidence``.

        The arguments are those of ``compose``; only a cloud is drawn with its ``data``.
        """
        meta, maps = self.dataset_meta, confidence_of(certified_maps(sample.to_dict()))
        classes = meta.get('classes') or ()
        # Each input has such a picture, also of data sets without a palette.
        number = max(len(classes), int(maps['guess'].max(initial=0)) + 1)
        return confidence_picture(
            maps,
            meta.get('palette') or class_colours(number).tolist(),
            classes,
            points=data if maps['guess'].ndim == 1 else None,
            up=meta.get('up_axis', 2),
        )


def _extended(name: str, ending: str | None) -> str:
    """A name of a file or picture with something before its suffix."""
    if ending is None:
        return name
    stem, dot, suffix = name.rpartition('.')
    return f'{stem}-{ending}.{suffix}' if dot else f'{name}-{ending}'
