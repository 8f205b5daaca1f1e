"""The smoothed model: certifies each input that it is tested on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certify import (
    ABSTAIN_LABEL,
    Certificate,
    CertifySettings,
    Hierarchy,
    InfeasiblePlanError,
    Votes,
    joint_radii,
    min_draws,
    require_feasible,
)
from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.planning import StoppingRule, can_certify, first_look
from mmcert.certify.selection import settle_joint
from mmcert.certify.sequential import GROWTH
from mmcert.models.adapter import Adapter, Segmentor
from mmcert.models.numerics import Numerics
from mmcert.perturbations import InputThreshold, Perturbation
from mmcert.sampling import (
    BatchSize,
    Checkpoint,
    Checkpointer,
    ProcessGroup,
    SamplingSettings,
    collect_looks,
    collect_votes,
)
from mmcert.votes import VotesFileError, VotesRecord, VotesStore

ARITHMETIC = (
    'draws are rounded to a fixed grid before the base model sees them, and what the base model '
    'computes is part of it; the law of the random numbers is taken as ideal, and so are '
    'transformations, which are computed in double precision'
)
"""What certificates say of arithmetic."""


@dataclass(frozen=True)
class SmoothingPlan:
    """What to sample and what to test.

    Attributes:
        perturbation (Perturbation): Law of the draws.
        settings (CertifySettings): What to certify under.
        n0 (int): Number of selection draws; may be 0 unless the selection is 'holdout'.
        n (int | None): Number of estimation draws; None leaves it to ``stopping``.
        stopping (StoppingRule | None): When group-sequential sampling stops.
        batch_size (int | str): Draws per forward pass, or 'auto'.
        seed (int): Seed of the draws.
        adapter (Adapter): What kind of input is smoothed, and how it reaches the base model.
        hierarchy (Hierarchy | None): Coarser levels to certify where the class cannot be.
        numerics (Numerics): How the base model computes.
        save_seconds (float): How often the votes of an input that takes long are stored.
    """

    perturbation: Perturbation
    settings: CertifySettings
    n0: int
    n: int | None
    stopping: StoppingRule | None
    batch_size: int | str
    seed: int
    adapter: Adapter[Any]
    hierarchy: Hierarchy | None = None
    numerics: Numerics = field(default_factory=Numerics)
    save_seconds: float = 120.0

    def segmentor(self, base: BaseModel, raw: torch.Tensor, sample: BaseDataElement) -> Segmentor:
        """The function to smooth, for one input."""
        return self.adapter.segmentor(base, raw, sample, self.numerics)

    @property
    def most_draws(self) -> int:
        """Most draws that an input can take."""
        if self.n is not None:
            return self.n0 + self.n * self.perturbation.num_cells
        assert self.stopping is not None
        return self.n0 + self.stopping.budget

    def sampling_spec(self) -> dict[str, Any]:
        """What determines the votes of a given base model, as JSON values."""
        spec: dict[str, Any] = {
            'perturbation': self.perturbation.spec(),
            'n0': self.n0,
            'n': 'auto' if self.n is None else self.n,
            'seed': self.seed,
            **self.adapter.spec(),
            'hierarchy': None if self.hierarchy is None else self.hierarchy.spec(),
        }
        # What is left at its default is left out: votes of earlier versions are found by it.
        if numerics := self.numerics.spec():
            spec['numerics'] = numerics
        if self.n is None:
            # The looks follow from the settings; the budget only says how many of them are taken.
            spec['looks_for'] = asdict(self.settings)
        return spec

    def settings_for(self, input_threshold: InputThreshold | None) -> CertifySettings:
        """The settings for an input: its own threshold, where it has one and that is larger."""
        if input_threshold is None:
            return self.settings
        return replace(self.settings, tau=max(self.settings.tau, input_threshold.tau))

    def require_feasible(
        self, num_components: int, input_threshold: InputThreshold | None = None
    ) -> None:
        """Refuses a plan that cannot certify anything.

        Args:
            num_components (int): Components of one input, K.
            input_threshold (InputThreshold | None): What the perturbation says of that input.

        Raises:
            InfeasiblePlanError: If nothing can be certified; the message says what could.
        """
        if self.stopping is None:
            assert self.n is not None
            require_feasible(self.n, self.settings_for(input_threshold), num_components, self.n0)
        else:
            self.stopping.require_look(first_look(self.settings, num_components, self.n0))

    def is_scarce(self, num_components: int) -> bool:
        """Whether only the components that an order puts first can be certified."""
        return self.n is not None and not can_certify(
            self.n, self.settings.without_order(), num_components, self.n0
        )

    def words(self) -> str:
        """The draws, for a log."""
        if self.stopping is None:
            cells = f'{self.perturbation.num_cells} x ' * (self.perturbation.num_cells > 1)
            return f'{self.n0} + {cells}{self.n} draws per {self.adapter.word}'
        return f'{self.n0} + up to {self.stopping.budget} draws per {self.adapter.word}, in looks'


def selections_of(perturbation: Perturbation, n0: int) -> tuple[str, ...]:
    """The selections that a perturbation and the number of selection draws leave open."""
    legal = SELECTIONS if n0 != 0 else ('same_draws',)
    if not perturbation.selection_counts and (n0 != 0 or perturbation.num_cells > 1):
        return tuple(selection for selection in legal if selection == 'holdout')
    return legal


class SmoothedSegmentor(BaseModel):
    """Randomized smoothing around a trained segmentor (SegCertify).

    ``test_step`` certifies every input by itself and returns samples with

    * ``pred_sem_seg``: the smoothed model's majority class, without abstention,
    * ``cert_sem_seg``: the same with 254 where it abstains,
    * ``cert_radius``: the certified radius of each component, all of them jointly valid (float32),
    * ``cert_levels``: with a hierarchy, the certified level of each component and then the nodes of
      each level, shape (1 + L, ...),
    * ``base_sem_seg``: the base model's prediction on the clean input (for clouds the names end in
      ``_pts_seg``),
    * metainfo ``certificate``: the settings of the certificate, as JSON values.

    Args:
        base (BaseModel): The base model; its parameters are shared, not copied.
        plan (SmoothingPlan): What to sample and test.
        classes (Sequence[str]): Names of the C classes, at most 254.
        store (VotesStore | None): Where votes are kept and found again.
        identity (Mapping | None): What the certificates say of the base model, as JSON values.
        on_draws (Callable | None): Called as ``on_draws(name, done)`` after each batch of draws.
        logger (logging.Logger | None): Gets the warnings.
        processes (ProcessGroup | None): Processes that share the draws of every input: they go
            through the inputs of each of them in turn, and must all be given equally many.

    Attributes:
        sampled (int): Inputs that were sampled, as opposed to found in the store.

    Raises:
        ValueError: If there are more classes than a label map with abstentions can tell apart.
    """

    def __init__(
        self,
        base: BaseModel,
        plan: SmoothingPlan,
        classes: Sequence[str],
        store: VotesStore | None = None,
        identity: Mapping[str, Any] | None = None,
        on_draws: Callable[[str, int], None] | None = None,
        logger: logging.Logger | None = None,
        processes: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if len(classes) > ABSTAIN_LABEL:
            raise ValueError(
                f'{len(classes)} classes: label maps carry "abstain" as {ABSTAIN_LABEL}, so at '
                f'most {ABSTAIN_LABEL} classes can be certified'
            )
        self.base = base
        self.plan = plan
        self.num_classes = len(classes)
        self.store = store
        self.identity = dict(identity or {})
        self.on_draws = on_draws
        self.logger = logger or logging.getLogger('mmcert')
        self.processes = processes or ProcessGroup()
        self._feasible = False
        self.sampled = 0
        self._batch_sizes: dict[tuple[int, ...], BatchSize] = {}

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

        Args:
            data (dict): From the data loader: ``inputs`` and ``data_samples``.

        Returns:
            list[BaseDataElement]: The samples with the fields named above.

        Raises:
            ValueError: If an input cannot be certified as the pipeline delivers it.
            InfeasiblePlanError: If n is too small for the first input, before it is sampled.
        """
        plan, adapter = self.plan, self.plan.adapter
        mine = adapter.inputs(data)

        def checked() -> list[tuple[torch.Tensor, BaseDataElement]]:
            for raw, sample in mine:
                adapter.check(raw, sample)
                plan.perturbation.check(adapter.perturbed_part(raw))
            return mine

        # All processes of a group sample the inputs of each of them in turn.
        for owner in range(self.processes.size):
            theirs = self.processes.broadcast(checked, owner)
            for raw, sample in mine if owner == self.processes.rank else theirs:
                raw = raw.to(next(self.base.parameters()).device)
                input_threshold = plan.perturbation.input_threshold(adapter.perturbed_part(raw))
                record = self._record(raw, sample, input_threshold)
                if owner == self.processes.rank:
                    self._certified(record, sample, input_threshold)
        return [sample for _, sample in mine]

    def _certified(
        self, record: VotesRecord, sample: BaseDataElement, input_threshold: InputThreshold | None
    ) -> BaseDataElement:
        """The sample with what its votes certify."""
        plan, votes, settings = self.plan, record.votes, self.plan.settings_for(input_threshold)
        certificate = record.certify(settings, plan.hierarchy)
        # As tools/certify.py does: what is counted is settled for all thresholds, not for this one.
        counted = settle_joint(votes, settings.alpha, settings.selection)
        radii = joint_radii(
            votes, alpha=settings.alpha, radius=plan.perturbation.radius, selection=counted
        )
        maps: dict[str, NDArray[Any]] = {
            'pred': np.asarray(votes.guess, dtype=np.int64),
            'cert': np.asarray(certificate.label_map(), dtype=np.int64),
            'base': np.asarray(record.base, dtype=np.int64),
            'radius': radii,
        }
        if record.label is not None:
            maps['label'] = np.asarray(record.label)
        if certificate.level is not None:
            maps['levels'] = np.stack([certificate.level, *certificate.groups]).astype(np.int64)
        spread = {k: m if k == 'label' else record.spread(m) for k, m in maps.items()}
        plan.adapter.attach(sample, spread)
        statement = {
            **certificate.to_dict(),
            'joint_radius': self._joint_statement(radii, counted),
            **self._further_statements(votes, certificate, settings.tau),
            **plan.adapter.statement(),
            # The last word on the stage, where it says one.
            **plan.perturbation.guarantee(settings.tau),
            'input_kind': plan.adapter.word,
            'component_kind': plan.adapter.component,
            'wrong_pixels': (certificate.k - 1) * record.pixels_per_component,
            'seed': plan.seed,
            'arithmetic': ARITHMETIC,
            'numerics': record.meta.get('numerics', 'not recorded'),
            'input': record.meta['digest'],
            'model': self.identity,
        }
        if plan.perturbation.num_cells > 1:
            # n estimation draws were taken of each.
            statement['num_cells'] = plan.perturbation.num_cells
        if input_threshold is not None:
            statement['attack_on_this_input'] = {
                'tau': input_threshold.tau,
                **input_threshold.statement,
            }
            if input_threshold.kind == 'estimate':
                statement['kind'] = 'estimate'
                statement['promise'] = 'none: the threshold was not proven to suffice'
                del statement['confidence']
        sample.set_metainfo({'name': record.meta['name'], 'certificate': statement})
        return sample

    def _joint_statement(self, radii: NDArray[np.float32], selection: str) -> dict[str, Any]:
        """What the certificate says of the radius map."""
        return {
            'words': (
                'the radius map holds at all its pixels at once, by itself with probability '
                f'{1 - self.plan.settings.alpha:g}; together with the certificate above, '
                'alpha counts twice'
            ),
            'selection': selection,
            'median': float(np.median(radii)) if radii.size else 0.0,
            'max': float(radii.max(initial=0.0)),
        }

    def _further_statements(
        self, votes: Votes, certificate: Certificate, tau: float
    ) -> dict[str, Any]:
        """What the certificate says beside its procedure: nodes, and how sampling ended."""
        plan = self.plan
        statements: dict[str, Any] = {}
        if plan.hierarchy is not None:
            radius = plan.perturbation.radius
            statements['hierarchy'] = {
                'words': (
                    'radius keeps the class of the smoothed model within a node, where classes are '
                    'merged before they are counted; argmax_radius keeps the most frequent single '
                    'class within it'
                ),
                'levels': [
                    {
                        name: {
                            'classes': members,
                            'radius': radius(tau),
                            'argmax_radius': radius(tau, len(members) / (len(members) + 1)),
                        }
                        for name, members in level.items()
                    }
                    for level in map(
                        plan.hierarchy.members, range(1, len(plan.hierarchy.groups) + 1)
                    )
                ],
            }
        if plan.stopping is not None:
            decision = plan.stopping.decide(votes, certificate)
            statements['stopped'] = decision.reason
            statements['next_look_would_certify'] = {
                'kind': 'estimate',
                'share_of_components': decision.gain,
                'draws': votes.n * GROWTH,
            }
        return statements

    def _record(
        self, raw: torch.Tensor, sample: BaseDataElement, input_threshold: InputThreshold | None
    ) -> VotesRecord:
        """The input's votes, from the store as far as they are there."""
        plan, processes, adapter = self.plan, self.processes, self.plan.adapter
        digest = adapter.digest(raw)
        name = adapter.name(sample, digest)
        label = adapter.label(sample)
        shape = adapter.shape(raw, sample)
        # The first process has the store; the others hear what it finds.
        found = processes.broadcast(lambda: self._found(name, digest, label, shape))
        if found is not None:
            self._check_feasible(name, found.votes.num_components, input_threshold)
            if plan.stopping is None:
                return found
        self.sampled += 1
        segment = plan.segmentor(self.base, raw, sample)
        clean = adapter.perturbed_part(raw)
        meta: dict[str, Any] = {'name': name, 'digest': digest.hex()}
        if found is None:
            base, margin = (part.cpu().numpy() for part in segment.with_margin(clean))
            base, margin = processes.broadcast(lambda: (base, margin))
            self._check_feasible(name, base.size, input_threshold)
            # Sorted as in files: a run that finds them must write the same certificate.
            meta['numerics'] = dict(sorted(processes.broadcast(segment.statement).items()))

        def record_of(votes: Votes) -> VotesRecord:
            if found is not None:
                return replace(found, votes=votes)
            return VotesRecord(votes, meta, label, base, margin, segment.grid)

        on_draws = self.on_draws
        sampling = SamplingSettings(
            n0=plan.n0,
            n=plan.n,
            num_classes=self.num_classes,
            seed=plan.seed,
            batch_size=self._batch_size(tuple(raw.shape)),
            groups=() if plan.hierarchy is None else plan.hierarchy.groups,
        )
        options: dict[str, Any] = {
            'digest': digest,
            'on_draws': None if on_draws is None else lambda done: on_draws(name, done),
            'checkpointer': self._checkpointer(name, digest, found),
            'processes': processes,
        }
        if plan.n is not None:
            votes = collect_votes(segment, clean, plan.perturbation, sampling, **options)
            processes.broadcast(lambda: self._keep(name, record_of(votes)))
            return record_of(votes)

        def next_look(votes: Votes) -> int | None:
            assert plan.stopping is not None
            if found is None or votes is not found.votes:
                self._keep(name, record_of(votes))
            certificate = record_of(votes).certify(plan.settings, plan.hierarchy)
            return plan.stopping.decide(votes, certificate).next_look

        assert plan.stopping is not None
        components = base.size if found is None else found.votes.num_components
        wanted = first_look(plan.settings, components, plan.n0)
        votes = collect_looks(
            segment,
            clean,
            plan.perturbation,
            sampling,
            first=min(wanted, plan.stopping.budget),
            next_look=next_look,
            start=None if found is None else found.votes,
            **options,
        )
        return record_of(votes)

    def _batch_size(self, shape: tuple[int, ...]) -> BatchSize:
        """What was found for inputs of this size."""
        if shape not in self._batch_sizes:
            self._batch_sizes[shape] = BatchSize(self.plan.batch_size, self.logger)
        return self._batch_sizes[shape]

    def _found(
        self,
        name: str,
        digest: bytes,
        label: NDArray[np.integer] | None,
        shape: tuple[int, ...],
    ) -> VotesRecord | None:
        """The input's votes in the store, beside today's label."""
        if self.store is None or (found := self.store.get(name)) is None:
            return None
        self._check_found(found, name, digest, shape)
        if self.plan.stopping is None:
            # Left by a run that was killed between the two files.
            self.store.drop_checkpoint(name)
        return self._with_label(found, label)

    def _checkpointer(
        self, name: str, digest: bytes, found: VotesRecord | None
    ) -> Checkpointer | None:
        """What keeps the votes of an input that is under way, after those that were found."""
        store, processes = self.store, self.processes
        arrays = processes.broadcast(
            lambda: store.get_checkpoint(name) if store is not None else None
        )
        if store is None and processes.size == 1:
            return None
        mark = np.frombuffer(digest, dtype=np.uint8)
        partial = None
        if arrays is not None and np.array_equal(arrays.pop('_input', mark[:0]), mark):
            partial = Checkpoint.from_arrays(arrays)
            if found is not None and partial.start < found.votes.n:
                # Of an earlier look, left in the same way.
                partial = None
        if partial is not None and processes.rank == 0:
            self.logger.info('%s: %d draws were sampled before', name, partial.done)

        def save(current: Checkpoint) -> None:
            if store is not None:
                store.put_checkpoint(name, {**current.to_arrays(), '_input': mark})

        return Checkpointer(save, self.plan.save_seconds, partial)

    def _keep(self, name: str, record: VotesRecord) -> None:
        if self.store is not None:
            self.store.put(name, record)

    def _check_found(
        self, found: VotesRecord, name: str, digest: bytes, shape: tuple[int, ...]
    ) -> None:
        theirs = found.spread(found.votes.guess).shape
        if found.meta.get('digest') != digest.hex() or theirs != shape:
            word = self.plan.adapter.word
            raise VotesFileError(
                f'the votes stored as {name} are of another {word}; delete that file and run again'
            )

    def _with_label(self, found: VotesRecord, label: NDArray[np.integer] | None) -> VotesRecord:
        """The stored votes beside today's label: annotations may change, votes do not."""
        if label is None or (found.label is not None and np.array_equal(found.label, label)):
            return found
        assert self.store is not None
        current = replace(found, label=label)
        self.store.put(found.meta['name'], current)
        return current

    def _check_feasible(
        self, name: str, num_components: int, input_threshold: InputThreshold | None
    ) -> None:
        plan = self.plan
        try:
            plan.require_feasible(num_components, input_threshold)
        except InfeasiblePlanError as error:
            # Later inputs may be larger: those abstain everywhere, and nothing done is lost. And
            # where an attack moves an input too far, its votes may answer for smaller attacks.
            if not self._feasible:
                if input_threshold is None:
                    raise
                plan.require_feasible(num_components)
            word = self.plan.adapter.word
            # mmengine's logger shows a message once, and compares them before they are formatted.
            self.logger.warning(f'{name}: this {word} will be abstained from everywhere: {error}')
            return
        if not self._feasible and input_threshold is None and plan.is_scarce(num_components):
            self.logger.warning(
                'n=%s is too small for more than what %s can certify one after the other: %s needs '
                'at least %d draws to begin',
                plan.n,
                plan.settings.procedure,
                plan.settings.without_order().procedure,
                min_draws(plan.settings.without_order(), num_components, plan.n0),
            )
        self._feasible = True
