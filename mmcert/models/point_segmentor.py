"""An mmdetection3d segmentor as a function from point coordinates to labels."""

from collections.abc import Sequence

import torch
from mmdet3d.models.data_preprocessors import Det3DDataPreprocessor
from mmdet3d.models.segmentors import EncoderDecoder3D
from mmdet3d.structures import Det3DDataSample
from mmengine.model import BaseModel

from mmcert.certifier.segmentor import Labelled, margins
from mmcert.models.precision import PrecisionSettings
from mmcert.models.randomness import content_number, joined
from mmcert.models.segmentor import RepeatableSegmentor, is_stock
from mmcert.sampling.outputs import require_finite

LEAST_PROBABILITY = 1e-7
"""Where mean probabilities stand for logits: smaller ones count as this one."""


class PointSegmentor(RepeatableSegmentor):
    """The function that is smoothed: the perturbed columns of a cloud to a label for each point.

    Everything behind the perturbed columns, shape (N, k), belongs to it: voxelisation, sliding
    blocks, random sampling inside the model, averaged runs. The orders of the points in averaged
    runs are seeded by the perturbed cloud itself, as are the model's own random numbers.

    Args:
        base (BaseModel): A trained mmdetection3d segmentor.
        cloud (torch.Tensor): The cloud as the pipeline delivers it, shape (N, D).
        data_sample (Det3DDataSample): Its sample; it is not modified.
        columns (Sequence[int]): Which columns are perturbed; the others stay as they are.
        runs (int): How many passes are averaged, each with the points in another random order,
            which decides where farthest point sampling begins and which neighbours a ball holds;
            1 keeps the order.
        precision (PrecisionSettings | None): How the model computes.
    """

    def __init__(
        self,
        base: BaseModel,
        cloud: torch.Tensor,
        data_sample: Det3DDataSample,
        columns: Sequence[int] = (0, 1, 2),
        runs: int = 1,
        precision: PrecisionSettings | None = None,
    ) -> None:
        self.cloud, self.metainfo = cloud, data_sample.metainfo
        self.columns, self.runs = list(columns), runs
        self._batched = _takes_batches(base)
        super().__init__(base, precision, self._batched, runs, *self.columns)

    def _output(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return self._scores(inputs).argmax(dim=1)

    def _with_margin(self, tensor: torch.Tensor) -> Labelled:
        (scores,) = self._scores([tensor])
        probabilities = scores if self.runs > 1 else scores.softmax(dim=0)
        return scores.argmax(dim=0), margins(probabilities)

    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, N) of the perturbed columns of clouds (B, N, k), with their gradients."""
        found = self._scores(list(batch))
        return found if self.runs == 1 else found.clamp(min=LEAST_PROBABILITY).log()

    def _other(self, inputs: torch.Tensor) -> torch.Tensor:
        """The cloud mirrored within its bounds: sliding windows may find no point of half of it."""
        return inputs.amin(dim=0) + inputs.amax(dim=0) - inputs

    def _scores(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Scores of all classes, (B, C, N): logits, or mean probabilities of several runs."""
        clouds = self.cloud.expand(len(inputs), -1, -1).clone()
        clouds[:, :, self.columns] = torch.stack(inputs).to(clouds.dtype)
        with self.precision.autocast(clouds.device):
            if self.runs == 1:
                scores = self._logits(clouds).float()
            else:
                scores = self._shuffled(clouds, inputs, 0)
                for run in range(1, self.runs):
                    scores = scores + self._shuffled(clouds, inputs, run)
                scores = scores / self.runs
        require_finite(scores)
        return scores

    def _shuffled(self, clouds: torch.Tensor, inputs: list[torch.Tensor], run: int) -> torch.Tensor:
        """Probabilities of clouds whose points go through the model in the order of a run."""
        orders = torch.stack([_order(tensor, run) for tensor in inputs]).to(clouds.device)
        shuffled = clouds.gather(1, orders[:, :, None].expand_as(clouds))
        scores = self._logits(shuffled).float().softmax(dim=1)
        return scores.gather(2, orders.argsort(dim=1)[:, None].expand_as(scores))

    def _logits(self, clouds: torch.Tensor) -> torch.Tensor:
        """Logits of clouds (B, N, D), shape (B, C, N)."""
        model = self._inferred if self._batched else self._predicted
        return joined(self._random.run(model, clouds))

    def _inferred(self, clouds: torch.Tensor) -> torch.Tensor:
        """Logits of clouds (B, N, D) that the model takes as they are, shape (B, C, N)."""
        return self.base.inference(clouds, [dict(self.metainfo) for _ in clouds], True)

    def _predicted(self, clouds: torch.Tensor) -> torch.Tensor:
        """Logits of one cloud (1, N, D) by the model's own ``predict``, shape (1, C, N)."""
        (cloud,) = clouds
        sample = Det3DDataSample(metainfo=dict(self.metainfo))
        data = {'inputs': {'points': [cloud]}, 'data_samples': [sample]}
        data = self.base.data_preprocessor(data, False)
        (output,) = self.base(**data, mode='predict')
        return output.pts_seg_logits.pts_seg_logits[None]


def points_needed(backbone: torch.nn.Module) -> int:
    """Most points that a layer of a backbone samples from a cloud; 0 if it does not say."""
    counts = [getattr(module, 'num_point', None) for module in backbone.modules()]
    lists = [count if isinstance(count, (list, tuple)) else [count] for count in counts if count]
    return max((int(value) for values in lists for value in values if value), default=0)


def _takes_batches(base: BaseModel) -> bool:
    """Whether clouds go through the model together, by its own code, one as any other."""
    preprocessor = base.data_preprocessor
    return (
        isinstance(base, EncoderDecoder3D)
        and base.test_cfg is not None
        and base.test_cfg.get('mode') == 'whole'
        and 'forward' not in vars(base)
        and is_stock(base, EncoderDecoder3D, ('predict', 'inference', 'postprocess_result'))
        and type(preprocessor) is Det3DDataPreprocessor
        and not preprocessor.voxel
        and not _mixes_clouds(base)
        and is_stock(
            preprocessor, Det3DDataPreprocessor, ('forward', 'cast_data', 'simple_process')
        )
    )


def _mixes_clouds(base: BaseModel) -> bool:
    """Whether a cloud's neighbours depend on what else is in its batch.

    mmcv's CUDA kernel for nearest neighbours takes every point to have 3 coordinates, so in the
    feature space of DGCNN it reads the numbers of other clouds.
    """
    on_cuda = next(base.parameters()).device.type == 'cuda'
    return on_cuda and any(type(module).__name__ == 'DGCNNGFModule' for module in base.modules())


def _order(tensor: torch.Tensor, run: int) -> torch.Tensor:
    """An order of points that their coordinates decide, shape (N,)."""
    generator = torch.Generator().manual_seed((content_number(tensor) << 8) + run)
    return torch.randperm(len(tensor), generator=generator)
