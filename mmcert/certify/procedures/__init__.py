"""Multiple testing procedures: one class each, in a registry that is open to your own.

``base.Procedure`` says what each must guarantee; the proofs are in docs/theory.

Examples:
    >>> import numpy as np
    >>> from mmcert.certify.binomial import p_value_table
    >>> from mmcert.certify.procedures import PROCEDURES, Family, get_procedure
    >>> list(PROCEDURES)
    ['bonferroni', 'holm', 'kfwer', 'ordered_holm']
    >>> hits = np.array([30, 29, 20])
    >>> family = Family(hits, p_value_table(30, 0.75, 'holdout'), alpha=0.005)
    >>> {name: get_procedure(name).run(family).mask.tolist() for name in ('bonferroni', 'holm')}
    {'bonferroni': [True, False, False], 'holm': [True, True, False]}
"""

from mmcert.certify.procedures.base import (
    PROCEDURES,
    Family,
    Procedure,
    Rejections,
    get_procedure,
    register,
)
from mmcert.certify.procedures.bonferroni import Bonferroni
from mmcert.certify.procedures.holm import Holm
from mmcert.certify.procedures.kfwer import KFWER
from mmcert.certify.procedures.ordered_holm import OrderedHolm

__all__ = [
    'KFWER',
    'PROCEDURES',
    'Bonferroni',
    'Family',
    'Holm',
    'OrderedHolm',
    'Procedure',
    'Rejections',
    'get_procedure',
    'register',
]
