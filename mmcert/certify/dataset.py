"""What the certificates of many inputs say together, each input being certified at its own alpha.

An input *fails* if one of its certificates is wrong; with count certificates, if k or more are. The
draws of different inputs are independent. Equal inputs have equal draws, so they fail together. The
number of *distinct* inputs that fail is therefore stochastically at most binomial, with D trials of
probability alpha, whatever the inputs are. The number of all inputs that fail is at most the sum of
as many of the largest multiplicities.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from mmcert.certify.checks import check_alpha, check_draws
from mmcert.certify.rounding import AtMost


@dataclass(frozen=True)
class DatasetStatement:
    """What holds for M inputs that are certified at significance level alpha each.

    Attributes:
        images (int): M.
        distinct (int): D, how many of them differ.
        alpha (float): Significance level of each input.
        expected_failures (float): Bound of the expected number of inputs that fail, M * alpha (by
            linearity; holds under any dependence).
        all_hold (float): Lower bound of the probability that no input fails, (1 - alpha)^D;
            without independence it would be 1 - D * alpha.
        failures (int): With probability at least ``confidence``, no more inputs fail: the sum of
            the q largest multiplicities, where q is that quantile of the binomial distribution
            with D trials.
        confidence (float): Of ``failures``.
        alpha_for_all (float): Level for each input, alpha / D, at which alpha holds for all M
            inputs together.
    """

    images: int
    distinct: int
    alpha: float
    expected_failures: float
    all_hold: float
    failures: int
    confidence: float
    alpha_for_all: float

    def describe(self) -> str:
        """The statement in one sentence."""
        copies = ''
        if self.distinct < self.images:
            copies = (
                f', of which {self.distinct} differ (copies share their draws: they fail together)'
            )
        # Rounded to the side on which the bounds still hold.
        all_hold = math.floor(self.all_hold * 1e4) / 1e4
        expected = math.ceil(self.expected_failures * 1e4) / 1e4
        which = f'all {self.images} inputs' if self.images > 1 else 'the one input'
        # That none fails is said already.
        most = f'; P(at most {self.failures} fail) >= {AtMost(self.confidence):g}' * (
            self.failures > 0
        )
        return (
            f'over {which}{copies}: P(none fails) >= {all_hold:g}; '
            f'expected number that fail <= {expected:g}{most} (an input fails if one of its '
            'certificates is wrong, or k of them where fewer than k may be)'
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures and their description, as JSON values."""
        return {**asdict(self), 'description': self.describe()}


def dataset_statement(
    images: int, alpha: float, confidence: float = 0.999, digests: Iterable[str] | None = None
) -> DatasetStatement:
    """What the certificates of M inputs say together.

    ``digests`` has one string per input, equal for equal inputs; by default all inputs differ. For
    the other arguments, see ``DatasetStatement``.

    Raises:
        ValueError: If a value is out of range, or there are not M digests.

    Examples:
        >>> from mmcert.certify.dataset import dataset_statement
        >>> found = dataset_statement(233, alpha=0.001)
        >>> found.failures, round(found.all_hold, 3)
        (3, 0.792)
    """
    images, alpha = check_draws(images, 'images'), check_alpha(alpha)
    copies = [1] * images if digests is None else sorted(Counter(digests).values(), reverse=True)
    if sum(copies) != images:
        raise ValueError(f'{images} inputs need a digest each, got {sum(copies)}')
    distinct = len(copies)
    quantile = int(np.argmax(special.bdtr(np.arange(distinct + 1), distinct, alpha) >= confidence))
    return DatasetStatement(
        images=images,
        distinct=distinct,
        alpha=alpha,
        expected_failures=images * alpha,
        all_hold=(1 - alpha) ** distinct,
        failures=sum(copies[:quantile]),
        confidence=confidence,
        alpha_for_all=alpha / distinct,
    )
