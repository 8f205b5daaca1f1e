"""The settings that votes are certified under."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace

from mmcert.certify.binomial import SELECTIONS, check_selection
from mmcert.certify.checks import check_alpha, check_k, check_tau
from mmcert.certify.procedures import PROCEDURES, Procedure, get_procedure

PROCEDURE = 'ordered_holm'
"""The default procedure, of runs and tools alike."""

SELECTION = 'auto'
"""The default selection, of runs and tools alike."""

SELECTION_CHOICES = ('auto', *SELECTIONS)
"""Legal selections of the settings."""

ORDERS = ('auto', 'margin', 'selection')
"""Where the order of the components may come from."""


@dataclass(frozen=True)
class CertifySettings:
    """The settings to certify votes under.

    Attributes:
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the error probability per input, in (0, 1).
        procedure (str): Name of the multiple testing procedure, see ``mmcert.certify.procedures``.
        selection (str): 'holdout' tests the guess on the estimation draws alone, as SegCertify
            does. 'same_draws' counts the selection draws as well, at the price of a second term in
            the p-value (see ``binomial.same_draws_p_values``). 'auto' is whichever needs less to
            begin, chosen from the plan alone (see ``selection.settle``); where the order or the
            votes allow only one, it is that one.
        k (int | float | None): For procedures that take it ('kfwer'): fewer than k certificates may
            be wrong; a number, or a share of the components in (0, 1).
        order (str): For procedures that take an order ('ordered_holm'): where it comes from.
            'margin' is the margin of the base model, behind its denoiser if there is one, on the
            clean input; 'selection' is the selection votes, ties by the margin (not with
            'same_draws', since the order must not depend on counted draws); 'auto' is the first of
            selection and margin that is allowed and stored.

    Raises:
        ValueError: If a value is out of range or does not go with another.

    Examples:
        >>> from mmcert.certify import CertifySettings
        >>> CertifySettings(tau=0.75, alpha=0.001).procedure
        'ordered_holm'
        >>> CertifySettings(0.75, 0.001, 'kfwer', k=0.001).k_for(172_800)
        172
    """

    tau: float
    alpha: float
    procedure: str = PROCEDURE
    selection: str = SELECTION
    k: int | float | None = None
    order: str = 'auto'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'tau', check_tau(self.tau))
        object.__setattr__(self, 'alpha', check_alpha(self.alpha))
        check_selection(self.selection, SELECTION_CHOICES)
        if self.rule.takes_k and self.k is None:
            raise ValueError(
                f'{self.procedure} needs k; for example k=0.001 (--k 0.001 in commands) allows one '
                'certificate in a thousand components to be wrong'
            )
        if self.k is not None:
            if not self.rule.takes_k:
                names = ', '.join(name for name, rule in PROCEDURES.items() if rule.takes_k)
                raise ValueError(
                    f'k belongs to the procedure {names}: leave it out with {self.procedure}'
                )
            check_k(self.k, 1)
            # NumPy's numbers are no JSON values.
            number = int if isinstance(self.k, numbers.Integral) else float
            object.__setattr__(self, 'k', number(self.k))
        if self.order not in ORDERS:
            raise ValueError(f'order must be one of {", ".join(ORDERS)}, got {self.order!r}')
        if self.order == 'selection' and self.selection == 'same_draws':
            raise ValueError(
                "order='selection' would order the components by draws that selection='same_draws' "
                "counts, which is not valid: use order='margin'"
            )

    @property
    def rule(self) -> Procedure:
        """The procedure itself."""
        return get_procedure(self.procedure)

    def without_order(self) -> CertifySettings:
        """The settings that the components meet which an order puts last."""
        return replace(self, procedure=self.rule.without_order.name, order='auto')

    def critical_value(self, num_components: int) -> float:
        """Largest p-value that the very first rejection may have."""
        return self.rule.critical_value(self.alpha, num_components, self.k_for(num_components))

    def k_for(self, num_components: int) -> int:
        """``k`` as a number, at most K; 1 for the procedures that take none."""
        if self.k is None:
            return 1
        return min(check_k(self.k, num_components), max(num_components, 1))
