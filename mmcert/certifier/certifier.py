"""Certifies one input after the other, with votes that are stored, found again and shared."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier.plan import CertificationPlan
from mmcert.certifier.result import CertifiedInput
from mmcert.certifier.segmentor import (
    FEW,
    MANY,
    PlainSegmentor,
    Segmentor,
    UnrepeatableModelError,
    count_differing,
)
from mmcert.certify import ABSTAIN_LABEL, InfeasiblePlanError, min_draws
from mmcert.perturbations import InputThreshold, Partition
from mmcert.sampling import (
    BatchSize,
    Checkpoint,
    Checkpointer,
    ProcessGroup,
    collect_enumerated,
    collect_looks,
    collect_votes,
    input_digest,
)
from mmcert.sampling.batching import is_out_of_memory
from mmcert.sampling.passes import Segment, require_separate_draws
from mmcert.votes import VotesFileError, VotesRecord, VotesStore

Label = NDArray[np.integer]

SCARCE = 0.995
"""Where a class needs a larger share of the draws than this, hardly any is certified."""


class Certifier:
    """Certifies the labels that a base model gives to inputs, each input by itself.

    The theorem is about a deterministic function: what the base model makes of an input must depend
    on that input alone, not on random numbers, earlier calls or other inputs of the batch. Call
    ``model.eval()``, and seed inside the function whatever it draws. Before the first input is
    sampled, passes of a plain function over it, without noise, must agree, also beside other
    inputs of a batch; and so must one after its draws.

    Votes that lie in the store are found again, and an input that was broken off goes on where it
    stopped. Before an input is sampled, the plan is checked: the first input that cannot be
    certified with so few draws is an error, later ones are warned of.

    With an ``Enumeration`` the base model itself is certified, at every parameter of a finite set:
    nothing is drawn or tested, and the plan has no settings.

    Args:
        plan (CertificationPlan): What to sample and test.
        store (VotesStore | None): Where votes are kept and found again, see ``plan.open_store``.
            Its fingerprint must cover ``plan.spec()``, which is checked, and the base model. Of
            that only the labels of the first input with votes are checked: otherwise votes found
            in it are taken for those of the function that is given.
        identity (Mapping | None): What the certificates say of the base model, as JSON values.
        on_draws (Callable | None): Called as ``on_draws(name, done)`` after each batch of draws.
        logger (logging.Logger | None): Gets the warnings.
        processes (ProcessGroup | None): Processes that share the draws of every input: each calls
            ``certify`` with the same inputs in the same order.

    Raises:
        ValueError: If there are more classes than a label map with abstentions can tell apart.
        FingerprintError: If the store is that of another plan.

    Examples:
        >>> import tempfile
        >>> from mmcert.certify import CertifySettings
        >>> from mmcert.perturbations import GaussianNoise
        >>> from mmcert.sampling import SamplingSettings
        >>> def segment(images):  # Class 1 where a pixel is brighter than 1/2.
        ...     return (torch.stack(images)[:, 0] > 0.5).long()
        >>> sampling = SamplingSettings(n0=10, n=100, num_classes=2)
        >>> plan = CertificationPlan(GaussianNoise(0.25), CertifySettings(0.75, 0.001), sampling)
        >>> store = plan.open_store(tempfile.mkdtemp(), weights='threshold at 1/2')
        >>> image = torch.linspace(0, 1, 8).reshape(1, 1, 8)
        >>> label = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
        >>> result = Certifier(plan, store=store).certify(segment, image, label=label)
        >>> result.maps['cert'].tolist()  # 254 where it abstains.
        [[0, 0, 254, 254, 254, 254, 1, 1]]
        >>> result.counts().rates()['certAcc'], round(result.to_dict()['promise']['radius'], 3)
        (0.5, 0.169)
    """

    def __init__(
        self,
        plan: CertificationPlan,
        *,
        store: VotesStore | None = None,
        identity: Mapping[str, Any] | None = None,
        on_draws: Callable[[str, int], None] | None = None,
        logger: logging.Logger | None = None,
        processes: ProcessGroup | None = None,
    ) -> None:
        if plan.sampling.num_classes > ABSTAIN_LABEL:
            raise ValueError(
                f'{plan.sampling.num_classes} classes: label maps carry "abstain" as '
                f'{ABSTAIN_LABEL}, so at most {ABSTAIN_LABEL} classes can be certified'
            )
        if store is not None:
            store.require(plan.spec())
        self.plan, self.store = plan, store
        known = {} if store is None else {'weights': store.sampling.get('weights')}
        self.identity = {**known, **(identity or {})}
        self.on_draws = on_draws
        self.logger = logger or logging.getLogger('mmcert')
        self.processes = processes or ProcessGroup()
        self._feasible = self._repeatable = self._steady = self._told = self._recognised = False
        # What was found for inputs of each size holds for the next one.
        self._batch_sizes: defaultdict[torch.Size, BatchSize] = defaultdict(
            lambda: BatchSize.of(plan.sampling.batch_size, self.logger)
        )

    @torch.no_grad()
    def certify(
        self,
        segment: Segment | Segmentor,
        inputs: torch.Tensor,
        *,
        label: Label | None = None,
        name: str | None = None,
        digest: bytes | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> CertifiedInput:
        """Certifies one input.

        Args:
            segment (Callable | Segmentor): The base model: a deterministic function as in
                ``collect_votes``, or an object that also knows how clear its labels are and answers
                for its own repeatability.
            inputs (torch.Tensor): The input, in the units of the perturbation; images in [0, 1].
            label (np.ndarray | None): Its ground truth, in the shape of the label maps.
            name (str | None): Its name in the store, a legal file name; by default one that its
                content decides.
            digest (bytes | None): Its address among all inputs; by default that of its content.
            shape (tuple[int, ...] | None): Shape of its label maps, if known: votes of another
                shape under this name are refused before anything runs.

        Returns:
            CertifiedInput: The votes, and what they certify.

        Raises:
            ValueError: If the input is not one of the perturbation, draws of it depend on others of
                their batch, or the name has a folder in it.
            UnrepeatableModelError: If passes of a function over the first input differ.
            ProcessGroupError: If processes that share the draws have other inputs, plans or models.
            InfeasiblePlanError: If the draws are too few for the first input, before it is sampled.
            VotesFileError: If the store holds votes of another input under this name, of another
                device, or, at the first that it finds, of a model that labels the input otherwise.
        """
        plan, processes = self.plan, self.processes
        model: Segmentor = (
            segment  # type: ignore[assignment]
            if hasattr(segment, 'with_margin')
            else PlainSegmentor(segment, plan.sampling.num_classes)
        )
        digest = digest or input_digest(inputs)
        name = name or f'{plan.input_word}-{digest.hex()[:8]}'
        if Path(name).name != name:
            raise ValueError(f'a name must be that of a file without a folder, got {name!r}')
        plan.perturbation.check(inputs)
        self._require_same_everywhere(digest)
        threshold = plan.perturbation.input_threshold(inputs)
        # The first process has the store; the others hear what it finds.
        device = inputs.device.type
        found = processes.broadcast(lambda: self._stored(name, digest, device, label, shape))
        record_of: Callable[..., VotesRecord]
        partition = None
        if found is not None:
            record_of, clean = partial(replace, found), found.votes.guess
            labels = found.base
        else:
            meta: dict[str, Any] = {'name': name, 'digest': digest.hex()}
            if plan.perturbation.has_partition:
                assert plan.sampling.n is not None, 'the plan has a number of draws'
                partition = plan.perturbation.partition(inputs, plan.sampling.n)
                meta['partition'] = dict(partition.details)
                meta['cells'] = partition.to_dict()
            record_of, clean = self._begin(model, inputs, meta, label)
            labels = clean
        num_components = clean.size
        self._require_feasible(name, num_components, threshold, partition)
        if found is not None and not self._recognised:
            processes.broadcast(lambda: self._require_recognised(model, inputs, found))
            self._recognised = True
        if found is not None and plan.stopping is None:
            return CertifiedInput(found, plan, threshold, self.identity)
        if not self._repeatable:
            with processes.fail_together(inputs.device):
                self._require_repeatable(model, inputs)
            self._repeatable = True
        settings = replace(
            plan.sampling,
            batch_size=self._batch_sizes[inputs.shape],
            groups=() if plan.hierarchy is None else plan.hierarchy.groups,
        )
        draws_of = model, inputs, plan.perturbation, settings
        options: dict[str, Any] = {
            'digest': digest,
            'on_draws': None if self.on_draws is None else partial(self.on_draws, name),
            'checkpointer': self._checkpointer(name, digest + device.encode(), labels, found),
            'processes': processes,
        }
        if plan.stopping is None:
            if plan.perturbation.enumerated is None:
                votes = collect_votes(*draws_of, partition=partition, **options)
            else:
                votes = collect_enumerated(*draws_of, clean=clean, **options)
            processes.broadcast(lambda: self._finish(model, inputs, record_of(votes=votes)))
        else:
            votes = collect_looks(
                *draws_of,
                first=min(plan.first_look(num_components), plan.stopping.budget),
                next_look=lambda votes: self._next_look(
                    model, inputs, record_of(votes=votes), found
                ),
                start=None if found is None else found.votes,
                **options,
            )
        self._steady = True
        return CertifiedInput(record_of(votes=votes), plan, threshold, self.identity)

    def _require_same_everywhere(self, digest: bytes) -> None:
        """Refuses processes whose draws, added up, would be those of no model and no input."""
        identity = {key: self.identity.get(key) for key in ('weights', 'model')}
        self.processes.require_same({'input': digest.hex(), **identity, **self.plan.spec()})

    def _begin(
        self, model: Segmentor, inputs: torch.Tensor, meta: dict[str, Any], label: Label | None
    ) -> tuple[Callable[..., VotesRecord], Label]:
        """Labels the clean input: what makes a record of its votes, and the labels."""
        # A copy: the model may work in place.
        base, margin = model.with_margin(inputs.clone())
        labelled = base.cpu().numpy(), None if margin is None else margin.cpu().numpy()
        # All processes go on with what the first one has.
        clean, clearness = self.processes.broadcast(lambda: labelled)
        # Sorted as in files: a run that finds them must write the same certificate.
        precision = dict(sorted(self.processes.broadcast(model.to_dict).items()))
        record_of = partial(
            VotesRecord, label=label, base=clean, margin=clearness, grid=model.grid,
            meta={**meta, 'precision': precision},
        )  # fmt: skip
        return record_of, clean

    def _require_repeatable(self, model: Segmentor, inputs: torch.Tensor) -> None:
        """Refuses draws and labels that depend on their batch or on the pass."""
        batch = self._batch_sizes[inputs.shape].expected
        if batch > 1:
            require_separate_draws(self.plan.perturbation, inputs)
        for size in sorted({batch, min(batch, 2), 1}, reverse=True):
            try:
                model.require_repeatable(inputs, batch=size)
                return
            except (RuntimeError, MemoryError) as error:
                # So many at once may not fit.
                if size == 1 or not is_out_of_memory(error):
                    raise

    def _require_steady(self, model: Segmentor, inputs: torch.Tensor, record: VotesRecord) -> None:
        """Refuses a model that labels the clean input otherwise once draws were taken."""
        if record.base is None:
            return
        margin = None if record.margin is None else torch.from_numpy(record.margin)
        before = torch.from_numpy(np.asarray(record.base)), margin
        labels, clear = model.with_margin(inputs.clone())
        after = labels.cpu(), None if clear is None else clear.cpu()
        differing, total = count_differing(before, after), labels.numel()
        if differing > FEW * total and model.to_dict().get('repeatable', True):
            if self.store is not None:
                self.store.drop_checkpoint(record.meta['name'])
            raise UnrepeatableModelError(
                f'the base model labels the input otherwise after its draws than before, at '
                f'{differing} of {total} components: it changes as it is called, or with time, but '
                'what is smoothed must be a function of its input alone. These draws are not stored'
            )

    def _require_recognised(
        self, model: Segmentor, inputs: torch.Tensor, found: VotesRecord
    ) -> None:
        """Refuses votes of a model of the same name and weights that computes something else.

        Code, and what reads the scores, is in no digest. A check, not a proof.
        """
        if found.base is None:
            return
        labels, margin = model.with_margin(inputs.clone())
        differing = labels.cpu().numpy() != found.base
        if margin is not None and found.margin is not None:
            # Other processors and versions round otherwise.
            differing &= (margin.cpu().numpy() > 1) | (found.margin > 1)
        if differing.mean() > MANY and model.to_dict().get('repeatable', True):
            raise VotesFileError(
                f'the votes stored as {found.meta["name"]} are of another base model: it labels '
                f'{differing.sum()} of {differing.size} components of the clean input otherwise '
                'than this one, though it has the same weights. Give another folder for the votes'
            )

    def _next_look(
        self, model: Segmentor, inputs: torch.Tensor, record: VotesRecord, found: VotesRecord | None
    ) -> int | None:
        """Stores the votes of a look, and decides about the next one."""
        assert self.plan.stopping is not None
        if found is None or record.votes is not found.votes:
            self._finish(model, inputs, record)
        certificate = record.certify(self.plan.settings, self.plan.hierarchy)
        return self.plan.stopping.decide(record.votes, certificate).next_look

    def _finish(self, model: Segmentor, inputs: torch.Tensor, record: VotesRecord) -> None:
        """Stores votes that were sampled, of the first input after a last check of the model."""
        if not self._steady:
            self._require_steady(model, inputs, record)
        if self.store is not None:
            self.store.put(record.meta['name'], record)

    def _stored(
        self,
        name: str,
        digest: bytes,
        device: str,
        label: Label | None,
        shape: tuple[int, ...] | None,
    ) -> VotesRecord | None:
        """The input's votes in the store, beside today's label: annotations may change."""
        if self.store is None or (found := self.store.get(name)) is None:
            return None
        theirs = found.spread(found.votes.guess).shape
        if found.meta.get('digest') != digest.hex() or shape not in (None, theirs):
            raise VotesFileError(
                f'the votes stored as {name} are of another {self.plan.input_word}; delete that '
                'file and run again'
            )
        if (found.votes.table is not None) != self.plan.perturbation.has_partition:
            raise VotesFileError(
                f'the votes stored as {name} are no scores of pooled tests, or are some where none '
                'belong: delete that file and run again'
            )
        if (other := found.meta.get('precision', {}).get('device', device)) != device:
            # It has other generators and other rounding.
            raise VotesFileError(
                f'the votes stored as {name} were sampled on {other}, this run is on {device}: '
                'keep one folder for each device'
            )
        if self.plan.stopping is None:
            # Left by a run that was killed between the two files.
            self.store.drop_checkpoint(name)
        same = found.label is not None and label is not None and np.array_equal(found.label, label)
        if label is not None and not same:
            found = replace(found, label=label)
            # The checkpoint of the next look stays.
            self.store.put(name, found, keep_checkpoint=True)
        return found

    def _checkpointer(
        self, name: str, address: bytes, labels: Label | None, found: VotesRecord | None
    ) -> Checkpointer | None:
        """Stores the counts of an input that is under way, and gives back earlier ones of it.

        The ``address`` is that of the input, with the device that it is sampled on; the ``labels``
        of the clean input tell models apart.
        """
        store, processes = self.store, self.processes
        arrays = processes.broadcast(
            lambda: store.get_checkpoint(name) if store is not None else None
        )
        if store is None and processes.size == 1:
            return None
        if labels is not None:
            given = np.ascontiguousarray(labels, dtype=np.int64).tobytes()
            address += hashlib.blake2b(given, digest_size=8).digest()
        mark = np.frombuffer(address, dtype=np.uint8)
        checkpoint = None
        if arrays is not None and np.array_equal(arrays.pop('_input', mark[:0]), mark):
            checkpoint = Checkpoint.from_arrays(arrays)
            if found is not None and checkpoint.start < found.votes.n:
                # Of an earlier look, left in the same way.
                checkpoint = None
        if checkpoint is not None and processes.rank == 0:
            self.logger.info('%s: %d draws were sampled before', name, checkpoint.done)

        def save(current: Checkpoint) -> None:
            if store is not None:
                store.put_checkpoint(name, {**current.to_arrays(), '_input': mark})

        return Checkpointer(save, self.plan.save_seconds, checkpoint)

    def _require_feasible(
        self,
        name: str,
        num_components: int,
        input_threshold: InputThreshold | None,
        partition: Partition | None,
    ) -> None:
        """Refuses a plan that can certify nothing, or warns if it served earlier inputs."""
        plan = self.plan
        try:
            plan.require_feasible(num_components, input_threshold, partition)
        except InfeasiblePlanError as error:
            # Later inputs may be larger: those abstain everywhere, and nothing done is lost. And
            # where an attack moves an input too far, its votes may answer for smaller attacks.
            if not self._feasible:
                if input_threshold is None:
                    raise
                plan.require_feasible(num_components)
            # mmengine's logger shows a message once, and compares them before they are formatted.
            self.logger.warning(
                f'{name}: this {plan.input_word} will be abstained from everywhere: {error}'
            )
            return
        if partition is not None and not self._told:
            self._told = True
            self._tell_needed(name, partition)
        if not self._feasible and input_threshold is None and plan.is_scarce(num_components):
            plain = plan.test_settings.without_order()
            self.logger.warning(
                'n=%s is too small for more than what %s can certify one after the other: %s needs '
                'at least %d draws to begin',
                plan.sampling.n,
                plan.test_settings.procedure,
                plain.procedure,
                min_draws(plain, num_components, plan.sampling.n0),
            )
        self._feasible = True

    def _tell_needed(self, name: str, partition: Partition) -> None:
        """Says, before the first input is sampled, what share of the draws a class needs."""
        needed = partition.details.get('needed_probability')
        if needed is None or needed > SCARCE:
            self.logger.warning(
                f'{name}: n={partition.draws} is so small for this attack set that hardly any '
                'component will be certified: even a class with all draws only just passes. Take '
                'more draws, a smaller attack set or more noise; mmcert plan says how many'
            )
        else:
            self.logger.info(
                f'{name}: a class needs about {needed:.3f} of the {partition.draws} draws, all '
                'over the attack set'
            )
