"""The smoothed model: certifies each image that it is tested on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from numpy.typing import NDArray

from mmcert.certify import (
    ABSTAIN_LABEL,
    VotesFileError,
    VotesRecord,
    VotesStore,
    certify,
    require_feasible,
)
from mmcert.certify.planning import InfeasiblePlanError
from mmcert.models.image_segmentor import ImageSegmentor, to_unit_range
from mmcert.perturbations import Perturbation
from mmcert.sampling import collect_votes, input_digest

Space = Literal['original', 'model']

SPACE_WORDS = {
    'original': 'the original image',
    'model': (
        'the image as the test pipeline delivers it to the model, after its resizing: the radius '
        'does not transfer to the original image'
    ),
}
"""Where the certified perturbations live, as every result says it."""


@dataclass(frozen=True)
class SmoothingPlan:
    """What to sample and what to test.

    Attributes:
        perturbation (Perturbation): Law of the draws.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER per image, in (0, 1).
        procedure (str): Multiple testing procedure.
        n0 (int): Number of selection draws.
        n (int): Number of estimation draws.
        batch_size (int): Draws per forward pass.
        seed (int): Seed of the draws.
        scales (tuple[float, ...]): Input scales inside the smoothed function.
        flip (bool): Whether the smoothed function averages with the mirrored image.
        space (str): 'original' or 'model', see ``SPACE_WORDS``.
    """

    perturbation: Perturbation
    tau: float
    alpha: float
    procedure: str
    n0: int
    n: int
    batch_size: int
    seed: int
    scales: tuple[float, ...]
    flip: bool
    space: Space

    def sampling_spec(self) -> dict[str, Any]:
        """What determines the votes of a given base model, as JSON values."""
        return {
            'perturbation': self.perturbation.spec(),
            'n0': self.n0,
            'n': self.n,
            'seed': self.seed,
            'scales': list(self.scales),
            'flip': self.flip,
            'space': self.space,
        }


class SmoothedSegmentor(BaseModel):
    """Randomized smoothing around a trained segmentor (SegCertify).

    ``test_step`` certifies every image by itself and returns samples with

    * ``pred_sem_seg``: the smoothed model's majority class, without abstention,
    * ``cert_sem_seg``: the same with 254 where it abstains,
    * ``base_sem_seg``: the base model's prediction on the clean image,
    * metainfo ``certificate``: the terms of the certificate, as JSON values.

    Args:
        base (BaseModel): The base model; its parameters are shared, not copied.
        plan (SmoothingPlan): What to sample and test.
        num_classes (int): Number of classes C, at most 254.
        store (VotesStore | None): Where votes are kept and found again.
        identity (Mapping | None): What the certificates say of the base model, as JSON values.
        on_draws (Callable | None): Called as ``on_draws(name, done)`` after each batch of draws.
        logger (logging.Logger | None): Gets the warnings.

    Raises:
        ValueError: If there are more classes than a label map with abstentions can tell apart.
    """

    def __init__(
        self,
        base: BaseModel,
        plan: SmoothingPlan,
        num_classes: int,
        store: VotesStore | None = None,
        identity: Mapping[str, Any] | None = None,
        on_draws: Callable[[str, int], None] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        if num_classes > ABSTAIN_LABEL:
            raise ValueError(
                f'{num_classes} classes: label maps carry "abstain" as {ABSTAIN_LABEL}, so at most '
                f'{ABSTAIN_LABEL} classes can be certified'
            )
        self.base = base
        self.plan = plan
        self.num_classes = num_classes
        self.store = store
        self.identity = dict(identity or {})
        self.on_draws = on_draws
        self.logger = logger or logging.getLogger('mmcert')
        self._feasible = False

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Runs the base model; smoothing happens in ``test_step`` alone."""
        return self.base(inputs, data_samples, mode=mode)

    @torch.no_grad()
    def test_step(self, data: dict[str, Any]) -> list[SegDataSample]:
        """Certifies a batch of images, one after the other; their sizes may differ.

        Args:
            data (dict): ``inputs``, a list of raw images (C, H, W) in 0-255, and ``data_samples``.

        Returns:
            list[SegDataSample]: The samples with the fields named above.

        Raises:
            ValueError: If the pipeline resized an image although ``space`` is 'original', or does
                not deliver raw images.
            InfeasiblePlanError: If n is too small for the first image, before it is sampled.
        """
        return [
            self._certify_image(image, sample)
            for image, sample in zip(data['inputs'], data['data_samples'], strict=True)
        ]

    def _certify_image(self, image: torch.Tensor, sample: SegDataSample) -> SegDataSample:
        self._check_space(image, sample)
        self._check_feasible(int(np.prod(sample.ori_shape[:2])))
        record = self._votes(image, sample)
        plan, votes = self.plan, record.votes
        certificate = certify(votes, tau=plan.tau, alpha=plan.alpha, procedure=plan.procedure)
        maps = {
            'pred_sem_seg': votes.guess,
            'cert_sem_seg': certificate.label_map(),
            'base_sem_seg': record.base,
        }
        for field, labels in maps.items():
            data = torch.from_numpy(np.asarray(labels, dtype=np.int64))[None]
            sample.set_data({field: PixelData(data=data)})
        statement = {
            **certificate.statement(),
            **plan.perturbation.guarantee(plan.tau),
            'space': plan.space,
            'certified_space': SPACE_WORDS[plan.space],
            'stage': (
                'added to the image as the test pipeline delivers it, before input scaling, '
                'normalisation and padding, not clipped'
            ),
            'scales': list(plan.scales),
            'flip': plan.flip,
            'seed': plan.seed,
            'arithmetic': 'taken as exact',
            'input': record.meta['digest'],
            'model': self.identity,
        }
        sample.set_metainfo({'name': record.meta['name'], 'certificate': statement})
        return sample

    def _votes(self, image: torch.Tensor, sample: SegDataSample) -> VotesRecord:
        """The image's votes, from the store if they are there."""
        image = image.to(next(self.base.parameters()).device)
        digest = input_digest(image)
        name = f'{Path(sample.metainfo.get("img_path") or "image").stem}-{digest.hex()[:8]}'
        label = sample.gt_sem_seg.data[0].cpu().numpy() if 'gt_sem_seg' in sample else None
        if self.store is not None:
            found = self.store.get(name)
            if found is not None:
                self._check_found(found, name, digest, sample)
                return self._with_label(found, label)
        segment = ImageSegmentor(self.base, sample, self.plan.scales, self.plan.flip)
        unit = to_unit_range(image)
        base = segment([unit])[0].cpu().numpy()
        on_draws = self.on_draws
        votes = collect_votes(
            segment,
            unit,
            self.plan.perturbation,
            n0=self.plan.n0,
            n=self.plan.n,
            num_classes=self.num_classes,
            seed=self.plan.seed,
            batch_size=self.plan.batch_size,
            digest=digest,
            on_draws=None if on_draws is None else lambda done: on_draws(name, done),
        )
        record = VotesRecord(votes, {'name': name, 'digest': digest.hex()}, label=label, base=base)
        if self.store is not None:
            self.store.put(name, record)
        return record

    def _check_found(
        self, found: VotesRecord, name: str, digest: bytes, sample: SegDataSample
    ) -> None:
        expected = tuple(sample.ori_shape[:2])
        if found.meta.get('digest') != digest.hex() or found.votes.guess.shape != expected:
            raise VotesFileError(
                f'the votes stored as {name} are of another image; delete that file and run again'
            )

    def _with_label(self, found: VotesRecord, label: NDArray[np.integer] | None) -> VotesRecord:
        """The stored votes beside today's label: annotations may change, votes do not."""
        if label is None or (found.label is not None and np.array_equal(found.label, label)):
            return found
        assert self.store is not None
        current = replace(found, label=label)
        self.store.put(found.meta['name'], current)
        return current

    def _check_space(self, image: torch.Tensor, sample: SegDataSample) -> None:
        meta = sample.metainfo
        size, original = tuple(image.shape[-2:]), tuple(meta['ori_shape'][:2])
        if self.plan.space == 'original' and (size != original or meta.get('flip')):
            raise ValueError(
                f'the test pipeline changed the image ({original} originally, {size} at the model, '
                f'flip={meta.get("flip", False)}) before the noise could be added, so a radius '
                'would not hold for the original image. Either remove the resizing from the test '
                'pipeline and move it into the smoothed function (`smoothing.scales`), or set '
                "`smoothing.space='model'` to certify the resized image, which the result then says"
            )

    def _check_feasible(self, num_components: int) -> None:
        plan = self.plan
        try:
            require_feasible(plan.n, plan.tau, plan.alpha, num_components)
        except InfeasiblePlanError as error:
            # Later images may be larger: those abstain everywhere, and nothing done is lost.
            if not self._feasible:
                raise
            self.logger.warning('this image will be abstained from everywhere: %s', error)
        self._feasible = True
