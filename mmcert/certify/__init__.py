"""From integer counts to claims: statistics of votes, on NumPy and SciPy alone.

Start with ``Votes``, ``CertifySettings`` and ``certify``, whose docstrings state what is promised;
the proofs are in docs/theory. ``binomial`` and ``procedures`` hold the tests,
``selection`` says which draws they count, ``sequential`` handles looks at votes that still come in,
``simultaneous`` bounds that hold at all thresholds together, ``hierarchy`` coarser claims.
``planning`` says what a number of draws can certify, ``dataset`` what holds for many inputs
together, and ``audit`` measures error rates.
"""

from mmcert.certify.certificate import (
    ABSTAIN_LABEL,
    Certificate,
    certify,
    certify_enumerated,
    certify_votes,
)
from mmcert.certify.hierarchy import Hierarchy
from mmcert.certify.planning import InfeasiblePlanError, min_draws, require_feasible
from mmcert.certify.settings import CertifySettings
from mmcert.certify.simultaneous import joint_bounds, joint_radii
from mmcert.certify.votes import Votes

__all__ = [
    'ABSTAIN_LABEL',
    'Certificate',
    'CertifySettings',
    'Hierarchy',
    'InfeasiblePlanError',
    'Votes',
    'certify',
    'certify_enumerated',
    'certify_votes',
    'joint_bounds',
    'joint_radii',
    'min_draws',
    'require_feasible',
]
