"""Numbers in words: rounded to the side on which what is said of them still holds."""

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

GENERAL = re.compile(r'(?:\.(\d+))?g')


class AtMost(float):
    """A number that is rounded down where it is put in words, so that 'up to' says no more.

    Its shortest decimal form counts, so that 0.3 stays 0.3. With another format than 'g' it is
    rounded as any number.

    >>> radius = 0.32038789
    >>> f'{radius:.4g}, {AtMost(radius):.4g}, {AtMost(0.3):g}, {AtMost(1 - 1e-9):g}'
    '0.3204, 0.3203, 0.3, 0.999999'
    """

    _rounding = ROUND_FLOOR

    def __format__(self, spec: str) -> str:
        """The number as text."""
        found = GENERAL.fullmatch(spec)
        if found is None:
            return super().__format__(spec)
        digits = max(int(found[1] or 6), 1)
        exact = Decimal(float.__repr__(self))
        if not exact.is_finite():
            return super().__format__(spec)
        rounded = Context(prec=digits, rounding=self._rounding).create_decimal(exact)
        return format(float(rounded), f'.{digits}g')


class AtLeast(AtMost):
    """A number that is rounded up where it is put in words.

    >>> f'{AtLeast(0.68061):.4g}, {AtLeast(0.002):g}'
    '0.6807, 0.002'
    """

    _rounding = ROUND_CEILING
