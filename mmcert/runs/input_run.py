"""What runs share that go through some inputs of a source, and hold certificates beside them.

They take the votes of a run that certified where that left some, certify other inputs when it comes
to it, and store what they find input by input, so that a run continues where it was stopped.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier import CertificationPlan, CertifiedInput
from mmcert.certify import Certificate, InfeasiblePlanError
from mmcert.certify.checks import check_draws
from mmcert.runs.source import OpenSegmentor, Source
from mmcert.sampling import input_digest
from mmcert.votes import VotesFileError, read_folder
from mmcert.votes.store import differences, fingerprint


class InputRun(ABC):
    """A run over evenly spaced inputs of a source.

    Args:
        source (Source): The model and its inputs.
        limit (int | None): How many inputs, evenly spaced; None for all.

    Attributes:
        source (Source): The same.
        plan (CertificationPlan): What is smoothed, sampled and tested.
        indices (list[int]): Numbers of the inputs in the source.
        settings (dict): What determines the results, as JSON values, once they were ``open``-ed.
        folder (Path): Where results go, from then on.
        computed (int): How many inputs something was computed of: all was stored of the others.

    Raises:
        ValueError: If the smoothing does not go with such a run.
    """

    doing = ''
    shown_by = ''

    def __init__(self, source: Source[Any], limit: int | None = None) -> None:
        self.source, self.plan = source, source.plan
        self.computed = 0
        self.check()
        total = len(source)
        count = total if limit is None else min(check_draws(limit, 'the number of inputs'), total)
        self.indices = [number * total // count for number in range(count)]
        source.check_inputs(self.indices)

    @abstractmethod
    def check(self) -> None:
        """Refuses a smoothing that does not go with the run, with a ValueError."""

    def open(self, settings: dict[str, Any]) -> None:
        """Fixes what determines the results, as JSON values, and so the folder that they go to."""
        self.settings = settings
        data = self.source.data_of(self.indices)
        name = fingerprint({**self.source.sampling, **data, **settings})
        self.folder = self.source.out_dir / f'{self.doing}-{name}'

    @property
    def note_on_votes(self) -> str:
        """Says that the votes in the results are not those of this run, if there are only others.

        They are found by their settings, and sampled if there are none.
        """
        sampling = json.loads(json.dumps(self.source.sampling))
        found: list[dict[str, Any]] = []
        for folder in sorted(self.source.out_dir.glob('votes-*')):
            # None may be there yet, or be damaged: these are not what is asked for.
            with contextlib.suppress(FileNotFoundError, VotesFileError):
                found.append(next(read_folder(folder)).meta.get('sampling', {}))
        if not found or sampling in found:
            return ''
        closest = min((differences(one, sampling) for one in found), key=len)
        return (
            f'note: the votes in {self.source.out_dir} were sampled otherwise ({closest}), so that '
            'new ones are sampled; they are taken where the options are those of that run'
        )

    @property
    def how_to_look(self) -> str:
        """The command that shows what was found beside the certificates, for the end of a log."""
        results = self.source.out_dir
        first = 'to look at them'
        if not (results / 'summary.json').is_file():
            first += ', once mmcert certify has certified these inputs as well'
        return f'{first}: mmcert report {results} {self.shown_by} {self.folder}'

    def left(self, number: int, seconds: float) -> str:
        """What is left after so many inputs, in words; those that were stored took no time."""
        if not self.computed:
            return 'as stored'
        rest = seconds / self.computed * (len(self.indices) - number)
        return f'about {timedelta(seconds=round(rest))} left'

    def counted(self) -> str:
        """How many inputs there are, with their word."""
        count = len(self.indices)
        return f'{count} {self.plan.input_word}{"s" * (count != 1)}'


def require_pixels(plan: CertificationPlan) -> None:
    """Refuses a plan whose label maps are not those of the input's own components.

    Raises:
        ValueError: If they are not.
    """
    if plan.input_to_dict().get('resolution', 'image') != 'image':
        raise ValueError("attacks and corruptions need label maps of pixels: resolution='image'")


class Item:
    """One input of a run.

    Attributes:
        index (int): Its number in the source.
        raw (torch.Tensor): As the pipeline delivers it, on the model's device.
        sample (Any): What else is known of it.
        clean (torch.Tensor): What is perturbed.
        segment (OpenSegmentor): The base model as a function of that.
        name (str): Its name in the store.
    """

    def __init__(self, run: InputRun, index: int) -> None:
        source = run.source
        self.raw, self.sample = source.read(index)
        self._run, self.index = run, index
        self.clean = source.clean_input(self.raw)
        run.plan.perturbation.check(self.clean)
        self.segment = self.segmentor(self.raw)
        self._digest = input_digest(self.raw)
        self.name = source.name(self.sample, self._digest)

    def segmentor(self, raw: torch.Tensor) -> OpenSegmentor:
        """The base model as a function of what is perturbed of an input with this one's sample."""
        return self._run.source.segmentor(raw, self.sample)

    @cached_property
    def certified(self) -> CertifiedInput:
        """Its votes; they are sampled if there are none."""
        return self._run.source.certify(self.raw, self.sample)

    def infeasible(self, tau: float) -> str:
        """Why nothing can be certified at another threshold with so few draws; empty if it can."""
        plan = self._run.plan
        settings = replace(plan.test_settings, tau=tau)
        try:
            replace(plan, settings=settings).require_feasible(self.components)
        except InfeasiblePlanError as error:
            return str(error)
        return ''

    def certificate(self, tau: float) -> Certificate:
        """The certificate at another threshold, from the same votes."""
        settings = replace(self._run.plan.test_settings, tau=tau)
        return self.certified.record.certify(settings)

    @property
    def components(self) -> int:
        """How many components are labelled."""
        return self._run.source.components(self.raw, self.sample)

    @property
    def digest(self) -> str:
        """The digest of the input."""
        return self._digest.hex()

    @cached_property
    def guess(self) -> NDArray[np.int64]:
        """The smoothed model's classes of the clean input."""
        return self.certified.votes.guess.astype(np.int64)

    @cached_property
    def label(self) -> NDArray[np.int64] | None:
        """The ground truth."""
        label = self._run.source.label(self.sample)
        return None if label is None else np.asarray(label).astype(np.int64)
