"""What may be said of many images at once, when each is certified at its own alpha.

The draws of different images are independent (copies of one image share theirs), so the number of
different images with a broken promise is at most (stochastically) binomial with M trials of
probability alpha, whatever the images are.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from mmcert.certify.checks import check_alpha, check_draws


@dataclass(frozen=True)
class DatasetStatement:
    """Confidence over a data set of M images certified at level alpha each.

    Attributes:
        images (int): M.
        alpha (float): Level of each image.
        expected_failures (float): Bound of the expected number of images whose promise is broken,
            M * alpha (by linearity; holds under any dependence).
        all_hold (float): Probability, at least, that no image's promise is broken, (1 - alpha)^M;
            without independence it would be 1 - M * alpha.
        failures (int): If all images differ, with probability at least ``confidence``, not more
            images fail than this.
        confidence (float): Of ``failures``.
        alpha_for_all (float): Level for each image, alpha / M, at which one may say of all M
            together what alpha says of one.
    """

    images: int
    alpha: float
    expected_failures: float
    all_hold: float
    failures: int
    confidence: float
    alpha_for_all: float

    @property
    def words(self) -> str:
        """One sentence for a reader."""
        return (
            f'of all {self.images} inputs at once: with probability at least {self.all_hold:.4g} '
            f'none has a broken promise, at most {self.expected_failures:.3g} are to be expected, '
            f'and with probability at least {self.confidence:g} at most {self.failures} '
            f'{"has" if self.failures == 1 else "have"} one'
        )


def dataset_statement(images: int, alpha: float, confidence: float = 0.999) -> DatasetStatement:
    """What the certificates of M images say together.

    Args:
        images (int): Number of images M, at least 1.
        alpha (float): Level of each image, in (0, 1).
        confidence (float): For the bound of the number of failures, in (0, 1).

    Returns:
        DatasetStatement: The figures.

    Raises:
        ValueError: If a value is out of range.
    """
    images, alpha = check_draws(images, 'images'), check_alpha(alpha)
    return DatasetStatement(
        images=images,
        alpha=alpha,
        expected_failures=images * alpha,
        all_hold=(1 - alpha) ** images,
        failures=int(stats.binom.ppf(confidence, images, alpha)),
        confidence=confidence,
        alpha_for_all=alpha / images,
    )
