"""What is kept of each certified input of a data set."""

from __future__ import annotations

from typing import Any

from mmcert.metrics.confusion import ConfusionCounts
from mmcert.metrics.counts import PackedCounts

COPIED = (
    'kind', 'components', 'certified', 'n', 'num_values', 'stopped', 'next_look_would_certify',
    'attack_on_this_input',
)  # fmt: skip
"""Entries of each certificate that its line of ``images.jsonl`` repeats."""


class InputResult:
    """One certified input.

    Args:
        name (str): Its name.
        certificate (dict): What its certificate says, see ``mmcert.certifier.entries``.
        counts (ConfusionCounts): How the certificate meets the ground truth; kept packed.
    """

    def __init__(self, name: str, certificate: dict[str, Any], counts: ConfusionCounts) -> None:
        self.name, self.certificate = name, certificate
        self._counts = PackedCounts(counts)

    @property
    def counts(self) -> ConfusionCounts:
        """How the certificate meets the ground truth."""
        return self._counts.unpack()

    @property
    def draws(self) -> int:
        """Draws that it took, or the values of an enumeration."""
        entries = self.certificate
        if entries['kind'] == 'exact':
            return entries['num_values']
        return entries['n0'] + entries['n']

    def to_dict(self) -> dict[str, Any]:
        """Its rates and what its certificate says of it alone, as JSON values."""
        repeated = {key: self.certificate[key] for key in COPIED if key in self.certificate}
        exact = self.certificate['kind'] == 'exact'
        rates = exact_rates(self.counts) if exact else self.counts.rates()
        return {'name': self.name, **rates, **repeated}


def exact_rates(counts: ConfusionCounts) -> dict[str, float]:
    """The rates of an enumeration: without those of the smoothed model, for there is none."""
    return {key: rate for key, rate in counts.rates().items() if not key.startswith('smoothed')}
