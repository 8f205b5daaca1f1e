"""The smoothed model of OpenMMLab: certifies each input that it is tested on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from mmcert.certifier import CertificationPlan, CertifiedInput, Certifier, Segmentor
from mmcert.certifier.segmentor import autocast_dtype
from mmcert.models.adapter import Adapter
from mmcert.models.precision import PrecisionSettings
from mmcert.sampling import ProcessGroup, input_digest


@dataclass(frozen=True)
class SmoothingPlan(CertificationPlan):
    """A ``CertificationPlan`` for a model of OpenMMLab.

    Attributes:
        adapter (Adapter): What sort of input is smoothed, and how it reaches the base model.
        precision (PrecisionSettings): How the base model computes.
    """

    adapter: Adapter[Any] = field(kw_only=True)
    precision: PrecisionSettings = field(default_factory=PrecisionSettings, kw_only=True)

    @property
    def input_word(self) -> str:
        """What an input is called."""
        return self.adapter.word

    @property
    def component_word(self) -> str:
        """What a component is called."""
        return self.adapter.component

    def input_to_dict(self) -> dict[str, Any]:
        """What certificates say of inputs and components, as JSON values."""
        return {
            **self.adapter.to_dict(),
            'input_type': self.input_word,
            'component_type': self.component_word,
        }

    def describe(self) -> str:
        """The draws, and what is smoothed beside the base model, for a log."""
        return f'{super().describe()}{self.adapter.describe()}'

    def segmentor(self, base: BaseModel, raw: torch.Tensor, sample: BaseDataElement) -> Segmentor:
        """The function to smooth, for one input."""
        return self.adapter.segmentor(base, raw, sample, self.precision)

    @property
    def code(self) -> tuple[Any, ...]:
        """What makes the draws, and what denoises them."""
        denoising = getattr(self.adapter, 'denoising', None)
        return super().code if denoising is None else (*super().code, denoising.denoiser)

    def spec(self) -> dict[str, Any]:
        """What determines the votes of a given base model, as JSON values."""
        spec = {**super().spec(), **self.adapter.spec()}
        # What is left at its default is left out.
        if precision := self.precision.spec():
            spec['precision'] = precision
        return spec


class SmoothedSegmentor(BaseModel):
    """Randomized smoothing around a trained segmentor (SegCertify).

    ``test_step`` certifies every input by itself and returns samples with

    * ``pred_sem_seg``: the smoothed model's majority class, without abstention,
    * ``cert_sem_seg``: the same with 254 where it abstains,
    * ``cert_radius``: the certified radius of each component, all of them jointly valid (float32);
      none for pooled tests, and none for an enumeration, whose ``pred_sem_seg`` is the base
      model's class,
    * ``cert_levels``: with a hierarchy, the certified level of each component and then the groups
      of each level, shape (1 + L, ...),
    * ``vote_share``, ``cert_lower_bound``, ``runner_up_sem_seg`` and ``runner_up_share``: how sure
      it is, see ``mmcert.votes.confidence`` (as far as the votes tell it),
    * ``base_sem_seg``: the base model's prediction on the clean input (for clouds the names end in
      ``_pts_seg``),
    * metainfo ``certificate``: the document of the certificate, see ``mmcert.certifier.document``.

    Processes go through the inputs of each of them in turn, and must all be given equally many.

    Args:
        base (BaseModel): The base model; its parameters are shared, not copied.
        plan (SmoothingPlan): What to sample and test.
        processes (ProcessGroup | None): Processes that share the draws of every input.
        autocast (bool | None): Whether the loop around it computes under autocast, as the name of
            the votes says; None does not look.
        **options: Further options of ``Certifier``: ``store``, ``identity``, ``on_draws``,
            ``logger``.

    Raises:
        ValueError: If there are more classes than a label map with abstentions can tell apart.
    """

    def __init__(
        self,
        base: BaseModel,
        plan: SmoothingPlan,
        *,
        processes: ProcessGroup | None = None,
        autocast: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.base, self.plan, self.autocast = base, plan, autocast
        self.processes = processes or ProcessGroup()
        self.certifier = Certifier(plan, processes=self.processes, **options)

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Runs the base model; smoothing happens in ``test_step`` alone."""
        return self.base(inputs, data_samples, mode=mode)

    @torch.no_grad()
    def test_step(self, data: dict[str, Any]) -> list[BaseDataElement]:
        """Certifies a batch of inputs, one after the other; their sizes may differ.

        Takes the data loader's ``inputs`` and ``data_samples``, and returns the samples with the
        fields named above.

        Raises:
            ValueError: If an input cannot be certified as the pipeline delivers it, or the loop
                computes under another autocast than it says.
            InfeasiblePlanError: If n is too small for the first input, before it is sampled.
        """
        adapter, processes = self.plan.adapter, self.processes
        found = autocast_dtype(next(self.base.parameters()).device.type)
        if self.autocast is not None and self.autocast != (found is not None):
            raise ValueError(
                f'the test loop has fp16={self.autocast}, but computes '
                f'{"without autocast" if found is None else f"under autocast to {found}"}: votes '
                'are named by its attribute fp16, so set that'
            )
        mine = adapter.inputs(data)

        def checked() -> list[tuple[torch.Tensor, BaseDataElement]]:
            for raw, sample in mine:
                adapter.check(raw, sample)
                self.plan.perturbation.check(adapter.clean_input(raw))
            return mine

        # All processes of a group sample the inputs of each of them in turn.
        for owner in range(processes.size):
            theirs = processes.broadcast(checked, owner)
            for raw, sample in mine if owner == processes.rank else theirs:
                certified = self.certify(raw, sample)
                if owner == processes.rank:
                    adapter.attach(sample, {**certified.maps, **certified.confidence})
                    name = certified.record.meta['name']
                    sample.set_metainfo({'name': name, 'certificate': certified.to_dict()})
        return [sample for _, sample in mine]

    def certify(self, raw: torch.Tensor, sample: BaseDataElement) -> CertifiedInput:
        """Certifies one input of the data loader, which was checked, and leaves its sample alone.

        The votes of the store are taken where there are some.
        """
        adapter = self.plan.adapter
        raw = raw.to(next(self.base.parameters()).device)
        digest = input_digest(raw)
        return self.certifier.certify(
            self.plan.segmentor(self.base, raw, sample),
            adapter.clean_input(raw),
            label=adapter.label(sample),
            name=adapter.name(sample, digest),
            digest=digest,
            shape=adapter.shape(raw, sample),
        )
