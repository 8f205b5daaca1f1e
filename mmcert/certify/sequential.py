"""Group-sequential certification: the number of draws need not be chosen beforehand.

The looks at the votes come after n_1 < n_2 < ... draws, numbers that are fixed beforehand: only
whether to go on may depend on the votes, not how far. Look l applies the procedure to the
components that are still uncertified, at alpha_l, where the alpha_l add up to alpha; then one may
stop or go on, by any rule (Bartroff and Song, "Sequential tests of multiple hypotheses controlling
type I and II familywise error rates", Journal of Statistical Planning and Inference 2014). The
first false certificate falls to look l with probability at most alpha_l; the proof is in
docs/theory/further-claims.md.

With alpha_l = alpha / (l (l + 1)), which add up to alpha over infinitely many looks, the budget of
draws may be raised later, and the votes sampled so far stay good.
"""

import math

from mmcert.certify.checks import check_alpha, check_draws

GROWTH = 2
"""Each look takes so many times the draws of the one before. As the first look does not depend on
the budget either, a larger budget continues what a smaller one began."""


def spend(alpha: float, look: int) -> float:
    """The share of alpha that one look may spend, counted from 1: alpha / (look * (look + 1)).

    It is never 0: at least the smallest positive number, which is far below every p-value.

    Raises:
        ValueError: If a value is out of range.
    """
    look = check_draws(look, 'look')
    return max(check_alpha(alpha) / (look * (look + 1)), math.ulp(0.0))
