"""What to sample and what to test."""

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmcert.certifier.code import code_digest
from mmcert.certify import CertifySettings, Hierarchy, InfeasiblePlanError, require_feasible
from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.planning import StoppingRule, can_certify, first_look
from mmcert.certify.rounding import AtMost
from mmcert.certify.selection import possible
from mmcert.metrics.confusion import IGNORE_INDEX
from mmcert.perturbations import Guarantee, InputThreshold, Partition, Perturbation
from mmcert.sampling import SamplingSettings
from mmcert.sampling.draws import DRAW_SCHEME
from mmcert.votes import VotesStore


@dataclass(frozen=True)
class CertificationPlan:
    """What is fixed before any input is seen.

    Attributes:
        perturbation (Perturbation): What the draws are of.
        settings (CertifySettings | None): What to certify under; None for an enumeration, which is
            no test.
        sampling (SamplingSettings): How to sample. Its ``groups`` follow from the hierarchy. An
            enumeration takes n0 = 0 and n = None: its set says how often the model runs.
        hierarchy (Hierarchy | None): Levels of class groups to fall back on when the class
            cannot be certified.
        stopping (StoppingRule | None): With ``sampling.n = None``: when looks end.
        save_seconds (float): How often the votes of an input that takes long are stored.

    Raises:
        ValueError: If neither n nor a stopping rule is given, or both; or if the perturbation or n0
            does not allow the selection or the order of the settings; or if an enumeration is given
            what only draws have, or draws come without settings.
    """

    perturbation: Perturbation
    settings: CertifySettings | None
    sampling: SamplingSettings
    hierarchy: Hierarchy | None = None
    stopping: StoppingRule | None = None
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Checks what decides the number of draws, and settles the only selection there is."""
        if self.perturbation.enumerated is not None:
            self._require_no_test()
            return
        if self.settings is None:
            raise ValueError(
                f'{self.perturbation!r} draws at random: settings are needed to test it'
            )
        if (self.sampling.n is None) == (self.stopping is None):
            raise ValueError(
                'give either the number of estimation draws n, or n=None and a stopping rule, got '
                f'n={self.sampling.n} and stopping={self.stopping}'
            )
        perturbation, settings, n0 = self.perturbation, self.settings, self.sampling.n0
        legal = selections_of(perturbation, n0)
        if settings.selection == 'auto' and legal == ('holdout',):
            # Before an input is sampled it must be known whether it can be certified.
            object.__setattr__(self, 'settings', replace(settings, selection='holdout'))
        if 'same_draws' not in legal and settings.selection == 'same_draws':
            raise ValueError(
                f'{type(perturbation).__name__}: the draws that choose the class cannot count as '
                'hits, since hits are of draws around other images or ask for more than the label '
                "at one pixel: set selection='holdout' or 'auto'"
            )
        if not set(possible(settings, legal)) & set(legal):
            raise ValueError(
                f'n0=0 does not go with {perturbation!r}, selection={settings.selection!r} and '
                f'order={settings.order!r}: n0 must be at least 1'
            )
        if perturbation.has_partition and settings.tau != 0.5:
            raise ValueError(
                f'{type(perturbation).__name__} is tested for a probability above 1/2 on the whole '
                f'attack set: leave tau out, got {settings.tau}'
            )
        by_votes = settings.rule.takes_order and settings.order == 'selection'
        if by_votes and not perturbation.selection_counts:
            raise ValueError(
                f"{perturbation!r}: order='selection' needs hits of the selection draws, which are "
                "not kept: set order='margin' or 'auto'"
            )

    def _require_no_test(self) -> None:
        """Refuses, for an enumeration, what belongs to draws and tests."""
        given = {
            'settings': self.settings is not None,
            'n': self.sampling.n is not None,
            'n0': self.sampling.n0 != 0,
            'a hierarchy': self.hierarchy is not None,
            'a stopping rule': self.stopping is not None,
        }
        if meaningless := [name for name, there in given.items() if there]:
            raise ValueError(
                f'{self.perturbation!r} tries every parameter of its set and tests nothing: it '
                'goes with settings=None, n0=0, n=None and no hierarchy or stopping rule; got '
                f'{", ".join(meaningless)}'
            )

    @property
    def input_word(self) -> str:
        """What an input is called."""
        return 'input'

    @property
    def component_word(self) -> str:
        """What a component is called."""
        return 'component'

    def input_to_dict(self) -> dict[str, Any]:
        """What certificates say of inputs and components, as JSON values."""
        return {
            'input_type': self.input_word,
            'component_type': self.component_word,
            'certified_space': 'the input as it is handed to the base model',
        }

    @property
    def most_draws(self) -> int:
        """Most draws that an input can take; of an enumeration, its parameters."""
        if self.perturbation.enumerated is not None:
            return len(self.perturbation.enumerated)
        n = self.stopping.budget if self.stopping else self.sampling.n
        assert n is not None
        return self.sampling.n0 + n

    @property
    def code(self) -> tuple[Any, ...]:
        """What makes the draws: code of the user's own in it is part of what determines them."""
        return type(self.perturbation), *getattr(self.perturbation, '__dict__', {}).values()

    def spec(self) -> dict[str, Any]:
        """What determines the votes of a given base model, as JSON values.

        It belongs into the fingerprint of a ``VotesStore``, beside a digest of the base model.
        """
        spec: dict[str, Any] = {
            'perturbation': self.perturbation.address(),
            'scheme': DRAW_SCHEME,
        }
        if code := code_digest(*self.code):
            spec['code_of_draws'] = code
        if self.settings is None:
            return spec
        spec |= {
            'n0': self.sampling.n0,
            'n': 'auto' if self.sampling.n is None else self.sampling.n,
            'seed': self.sampling.seed,
            'hierarchy': None if self.hierarchy is None else self.hierarchy.spec(),
        }
        if self.stopping is not None:
            # The looks follow from the settings; the budget only says how many of them are taken.
            spec['looks_for'] = asdict(self.settings)
        return spec

    def open_store(
        self, folder: str | os.PathLike[str], weights: str, ignore_index: int = IGNORE_INDEX
    ) -> VotesStore:
        """Opens a folder for the votes of one base model, which ``tools/certify.py`` can answer.

        Args:
            folder (str | os.PathLike): Where the votes files go; made if missing. Votes of another
                plan or model in it are refused.
            weights (str): What tells the base model from others: all that its labels depend on.
                ``weights_digest`` covers its tensors, but no code and no settings.
            ignore_index (int): Label of components without ground truth.
        """
        provenance = {
            **self.input_to_dict(),
            'num_classes': self.sampling.num_classes,
            'ignore_index': ignore_index,
        }
        return VotesStore(folder, {**self.spec(), 'weights': weights}, provenance)

    @property
    def test_settings(self) -> CertifySettings:
        """The settings; a ``ValueError`` for an enumeration, where nothing is tested."""
        if self.settings is None:
            raise ValueError(f'{self.perturbation!r} is no test: it has no settings, no radius')
        return self.settings

    def settings_to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; nothing for an enumeration."""
        return {} if self.settings is None else asdict(self.settings)

    def settings_for(self, input_threshold: InputThreshold | None) -> CertifySettings | None:
        """The settings for an input: its own threshold, where it has one and that is larger."""
        if input_threshold is None or self.settings is None:
            return self.settings
        return replace(self.settings, tau=max(self.settings.tau, input_threshold.tau))

    def guarantee(self, input_threshold: InputThreshold | None = None) -> Guarantee:
        """What certificates say; where inputs have thresholds of their own, at this one."""
        settings = self.settings_for(input_threshold)
        # An enumeration has no threshold: what it says is the same at any.
        return self.perturbation.guarantee(0.5 if settings is None else settings.tau)

    def first_look(self, num_components: int) -> int:
        """Estimation draws of the first look; with n fixed, all of them."""
        if self.sampling.n is not None:
            return self.sampling.n
        return first_look(self.test_settings, num_components, self.sampling.n0)

    def require_feasible(
        self,
        num_components: int,
        input_threshold: InputThreshold | None = None,
        partition: Partition | None = None,
    ) -> None:
        """Refuses a plan that cannot certify anything on an input of so many components.

        ``partition`` is that of the input, if it has one.

        Raises:
            InfeasiblePlanError: The message says what could.
        """
        if self.settings is None:
            return
        n = self.first_look(num_components)
        if self.stopping is not None:
            self.stopping.require_look(n)
        else:
            settings = self.settings_for(input_threshold)
            assert settings is not None
            require_feasible(n, settings, num_components, self.sampling.n0)
            critical = settings.critical_value(num_components)
            if partition is not None and partition.smallest > critical:
                raise InfeasiblePlanError(
                    f'n={n} draws cannot certify anything on this attack set: even unanimous votes '
                    f'have p-value {partition.smallest:.3g} > {critical:.3g} in its worst cell. '
                    'Take more draws, a smaller attack set or more noise'
                )

    def is_scarce(self, num_components: int) -> bool:
        """Whether only the components that an order puts first can be certified."""
        n, settings = self.sampling.n, self.settings
        if settings is None:
            return False
        plain = settings.without_order()
        return n is not None and not can_certify(n, plain, num_components, self.sampling.n0)

    def describe(self) -> str:
        """The draws, for a log."""
        n0, word = self.sampling.n0, self.input_word
        if self.settings is None:
            return f'{self.most_draws} parameters per {word}, each tried once'
        if self.stopping is not None:
            return f'{n0} + up to {self.stopping.budget} draws per {word}, in looks'
        return f'{n0} + {self.sampling.n} draws per {word}'

    def aim(self) -> str:
        """What is to be certified, for a log; the results tell it in full."""
        word = self.input_word
        if self.perturbation.per_input_threshold and not self.perturbation.has_partition:
            # The threshold of an input, and whether it is proven, is known once it is loaded.
            return f'{self.perturbation}, each {word} at the threshold that this takes'
        guarantee = self.guarantee()
        claim = guarantee.claim
        if guarantee.radius is not None:
            radius = f'{AtMost(guarantee.radius):.4g}'
            claim = f'radius {radius} ({guarantee.norm}, {guarantee.unit})'
        if self.settings is None:
            return f'to be verified by enumeration: {claim}'
        return f'to be certified with probability {1 - self.settings.alpha:g} per {word}: {claim}'


def selections_of(perturbation: Perturbation, n0: int) -> tuple[str, ...]:
    """The selections that a perturbation and the number of selection draws leave open."""
    legal = SELECTIONS if n0 != 0 else ('same_draws',)
    if not perturbation.selection_counts and (n0 != 0 or perturbation.has_partition):
        return tuple(selection for selection in legal if selection == 'holdout')
    return legal
