"""What may be said of many inputs at once, when each is certified at its own alpha.

The draws of different inputs are independent, and equal inputs have the same draws: they hold their
promise together or break it together. So the number of *distinct* inputs with a broken promise is
at most (stochastically) binomial with D trials of probability alpha, whatever the inputs are, and
that of all inputs at most the sum of as many of the largest multiplicities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from scipy import stats

from mmcert.certify.checks import check_alpha, check_draws


@dataclass(frozen=True)
class DatasetStatement:
    """Confidence over a data set of M inputs certified at level alpha each.

    Attributes:
        images (int): M.
        distinct (int): D, how many of them differ.
        alpha (float): Level of each input.
        expected_failures (float): Bound of the expected number of inputs whose promise is broken,
            M * alpha (by linearity; holds under any dependence).
        all_hold (float): Probability, at least, that no input's promise is broken, (1 - alpha)^D;
            without independence it would be 1 - D * alpha.
        failures (int): With probability at least ``confidence``, not more inputs fail than this:
            the sum of the q largest multiplicities, where q is that quantile of a binomial law with
            D trials.
        confidence (float): Of ``failures``.
        alpha_for_all (float): Level for each input, alpha / D, at which one may say of all M
            together what alpha says of one.
    """

    images: int
    distinct: int
    alpha: float
    expected_failures: float
    all_hold: float
    failures: int
    confidence: float
    alpha_for_all: float

    @property
    def words(self) -> str:
        """One sentence for a reader."""
        copies = ''
        if self.distinct < self.images:
            copies = (
                f', of which {self.distinct} differ (copies share their draws, and fail together)'
            )
        return (
            f'of all {self.images} inputs at once{copies}: with probability at least '
            f'{self.all_hold:.4g} none has a broken promise, at most {self.expected_failures:.3g} '
            f'are to be expected, and with probability at least {self.confidence:g} at most '
            f'{self.failures} {"has" if self.failures == 1 else "have"} one'
        )


def dataset_statement(
    images: int,
    alpha: float,
    confidence: float = 0.999,
    digests: Iterable[str] | None = None,
) -> DatasetStatement:
    """What the certificates of M inputs say together.

    Args:
        images (int): Number of inputs M, at least 1.
        alpha (float): Level of each input, in (0, 1).
        confidence (float): For the bound of the number of failures, in (0, 1).
        digests (Iterable[str] | None): What tells the inputs apart, one for each of them: equal
            inputs have equal digests. By default all of them differ.

    Returns:
        DatasetStatement: The figures.

    Raises:
        ValueError: If a value is out of range, or there are not M digests.
    """
    images, alpha = check_draws(images, 'images'), check_alpha(alpha)
    copies = [1] * images if digests is None else sorted(Counter(digests).values(), reverse=True)
    if sum(copies) != images:
        raise ValueError(f'{images} inputs need a digest each, got {sum(copies)}')
    distinct = len(copies)
    return DatasetStatement(
        images=images,
        distinct=distinct,
        alpha=alpha,
        expected_failures=images * alpha,
        all_hold=(1 - alpha) ** distinct,
        failures=sum(copies[: int(stats.binom.ppf(confidence, distinct, alpha))]),
        confidence=confidence,
        alpha_for_all=alpha / distinct,
    )
