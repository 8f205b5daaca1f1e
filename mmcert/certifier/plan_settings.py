"""The settings of a plan as users say them, with what the perturbation leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcert.certifier.plan import selections_of
from mmcert.certify import CertifySettings, Hierarchy
from mmcert.certify.checks import check_draws
from mmcert.certify.hierarchy import levels_of
from mmcert.certify.planning import StoppingRule
from mmcert.certify.selection import possible
from mmcert.certify.settings import PROCEDURE, SELECTION
from mmcert.perturbations import Perturbation
from mmcert.sampling import SamplingSettings


@dataclass(frozen=True)
class PlanSettings:
    """What to sample and what to test: the part of ``smoothing=dict(...)`` that knows no framework.

    Attributes:
        sigma (float | None): Noise level, in [0, 1] image units or in the unit of a cloud's
            coordinates: shorthand for ``perturbation=dict(type='mmcert.GaussianNoise',
            sigma=sigma)``, for clouds ``mmcert.CoordinateNoise``.
        perturbation (dict | Perturbation | None): The perturbation, in a config as a dict; this or
            ``sigma`` is needed.
        tau (float | None): Probability threshold in [0.5, 1); by default 0.75. Where the
            perturbation is given an attack set, each image has a threshold of its own, and this is
            the least, by default 0.5.
        n0 (int): Number of selection draws; may be 0 unless ``selection='holdout'``.
        n (int | str): Number of estimation draws, or 'auto' to sample in looks until more draws
            would add little.
        budget (int | None): With n='auto', most estimation draws per image.
        min_gain (float): With n='auto', stops when the next look is not expected to certify at
            least this share of the pixels in addition.
        alpha (float): Bound of the error probability per image, in (0, 1).
        procedure (str): Multiple testing procedure: 'bonferroni', 'holm', 'kfwer', 'ordered_holm',
            or your own (``mmcert.certify.procedures``). SegCertify as published is 'holm' with
            ``selection='holdout'``.
        selection (str): 'holdout', 'same_draws' or 'auto', see ``mmcert.certify.CertifySettings``.
        k (int | float | None): For 'kfwer': fewer than k certificates of an image may be wrong; a
            number, or a share of the pixels.
        order (str): For 'ordered_holm': 'auto', 'margin' or 'selection'.
        hierarchy (str | Sequence | None): Class groups to fall back on when the class cannot
            be certified: 'cityscapes', 'camvid', or a list of levels, each a dict from group names
            to classes.
        batch_size (int | str): Draws per forward pass; 'auto' finds it while sampling.
        seed (int): Seed of the draws.
        save_seconds (float): How often the votes of an image that takes long are stored.
    """

    sigma: float | None = None
    perturbation: Any = None
    tau: float | None = None
    n0: int = 10
    n: int | str = 100
    budget: int | None = None
    min_gain: float = 0.01
    alpha: float = 1e-3
    procedure: str = PROCEDURE
    selection: str = SELECTION
    k: int | float | None = None
    order: str = 'auto'
    hierarchy: Any = None
    batch_size: int | str = 8
    seed: int = 0
    save_seconds: float = 120.0

    def require_one_perturbation(self) -> None:
        """Refuses settings with neither or both of ``sigma`` and ``perturbation``."""
        if (self.sigma is None) == (self.perturbation is None):
            raise ValueError(
                'smoothing needs either sigma (for example sigma=0.25) or perturbation, not both'
            )

    def plan_parts(
        self, perturbation: Perturbation, classes: Sequence[str] | None
    ) -> dict[str, Any]:
        """What a ``CertificationPlan`` is built of; ValueError if a value is out of range.

        Without the names of the classes it only checks: the plan has one class and no hierarchy.
        """
        exact = perturbation.enumerated is not None
        settings = None if exact else self._settings(perturbation)
        n, stopping = (None, None) if exact else self._estimation_draws(perturbation)
        if type(self.seed) is not int:
            raise ValueError(f'seed must be an integer, got {self.seed!r}')
        if not is_number(self.save_seconds) or self.save_seconds < 0:
            raise ValueError(
                f'save_seconds must be a number of at least 0, got {self.save_seconds!r}'
            )
        hierarchy = None
        if self.hierarchy is not None:
            levels = levels_of(self.hierarchy)
            hierarchy = None if classes is None else Hierarchy(levels, classes)
        sampling = SamplingSettings(
            n0=0 if settings is None else self._selection_draws(settings, perturbation),
            n=n,
            num_classes=1 if classes is None else len(classes),
            seed=self.seed,
            batch_size=self.batch_size,
        )
        return {
            'perturbation': perturbation,
            'settings': settings,
            'sampling': sampling,
            'stopping': stopping,
            'hierarchy': hierarchy,
            'save_seconds': float(self.save_seconds),
        }

    def _settings(self, perturbation: Perturbation) -> CertifySettings:
        """The settings, with what the perturbation leaves open."""
        tau = self.tau
        if tau is None:
            tau = 0.5 if perturbation.per_input_threshold else 0.75
        if perturbation.has_partition and self.hierarchy is not None:
            raise ValueError(
                f'{type(perturbation).__name__} cuts attack sets into cells, for which groups are '
                'not counted: leave hierarchy out'
            )
        return CertifySettings(tau, self.alpha, self.procedure, self.selection, self.k, self.order)

    def _selection_draws(self, settings: CertifySettings, perturbation: Perturbation) -> int:
        legal = selections_of(perturbation, 0)
        if self.n0 == 0 and possible(settings, legal) == ('same_draws',):
            if self.n == 'auto' or self.hierarchy is not None:
                raise ValueError(
                    "n='auto' and a hierarchy need a guess from selection draws: n0 must be at "
                    'least 1'
                )
            return 0
        return check_draws(self.n0, 'n0')

    def _estimation_draws(
        self, perturbation: Perturbation
    ) -> tuple[int | None, StoppingRule | None]:
        """The number of estimation draws, or the rule that decides it."""
        if isinstance(self.n, str):
            if self.n != 'auto':
                raise ValueError(f"n must be an integer or 'auto', got {self.n!r}")
            if perturbation.has_partition:
                raise ValueError("n='auto' does not go with cells: give n as a number")
            if perturbation.per_input_threshold:
                raise ValueError(
                    "n='auto' needs one threshold for all images, but with an attack set each has "
                    'its own: give n as a number'
                )
            if self.budget is None:
                raise ValueError(
                    "n='auto' needs a budget, the most estimation draws per image, for example "
                    'budget=1000'
                )
            return None, StoppingRule(self.budget, self.min_gain)
        if self.budget is not None:
            raise ValueError(f"budget goes with n='auto', got n={self.n!r}")
        return check_draws(self.n), None


def is_number(value: Any) -> bool:
    """Whether a value is an integer or a float, and not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
