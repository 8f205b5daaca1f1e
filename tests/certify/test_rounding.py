"""Numbers in words never say more than the numbers themselves."""

import math

import numpy as np
import pytest

from mmcert.certify.rounding import AtLeast, AtMost


@pytest.mark.parametrize('spec', ['.4g', 'g', '.3g', '.0g'])
def test_words_are_on_the_right_side_and_no_more_than_a_digit_away(spec):
    rng = np.random.default_rng(0)
    digits = {'g': 6, '.0g': 1}.get(spec) or int(spec[1])
    for value in [*10 ** rng.uniform(-9, 9, 2000), 0.1, 0.3, 0.5, 1.0, 0.0, 1 - 1e-9, 123456789.0]:
        low, high = float(format(AtMost(value), spec)), float(format(AtLeast(value), spec))
        assert low <= value <= high
        assert high - low <= 10.0 ** (1 - digits) * value
        if float(format(float(value), spec)) == value:
            assert low == high == value, 'a number of so few digits stays as it is'


def test_other_formats_and_numbers_are_those_of_floats():
    assert f'{AtMost(2.0):.2f} {AtMost(math.inf):.4g} {AtMost(math.nan):g}' == '2.00 inf nan'
    assert AtMost(0.25) * 2 == 0.5 and repr(AtMost(0.25)) == '0.25'
