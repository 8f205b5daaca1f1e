"""From integer counts to claims: statistics of votes, on NumPy and SciPy alone.

Start with ``Votes``, ``Terms`` and ``certify``, whose docstrings state what is promised; the proofs
are in docs/proofs.md. ``binomial``, ``multiple_testing`` and ``procedures`` hold the tests,
``selection`` says which draws they count, ``sequential`` handles the looks at votes that still come
in, ``simultaneous`` radii that hold at all thresholds together, ``taxonomy`` coarser claims.
``planning`` says what a number of draws can certify, ``tallies``, ``worst_case`` and ``dataset``
turn certificates and labels into rates, ``offline`` answers from stored votes, ``votes`` and
``store`` keep them, and ``baselines`` has the methods to compare with.
"""

from mmcert.certify.certificate import ABSTAIN_LABEL, Certificate, certify, certify_record
from mmcert.certify.planning import InfeasiblePlanError, min_draws, require_feasible
from mmcert.certify.simultaneous import joint_radii
from mmcert.certify.store import FingerprintError, VotesStore, read_folder
from mmcert.certify.tallies import IGNORE_INDEX, Tally, tally, total
from mmcert.certify.taxonomy import Taxonomy
from mmcert.certify.terms import Terms
from mmcert.certify.votes import Votes, VotesFileError, VotesRecord, load_votes, save_votes

__all__ = [
    'ABSTAIN_LABEL',
    'IGNORE_INDEX',
    'Certificate',
    'FingerprintError',
    'InfeasiblePlanError',
    'Tally',
    'Taxonomy',
    'Terms',
    'Votes',
    'VotesFileError',
    'VotesRecord',
    'VotesStore',
    'certify',
    'certify_record',
    'joint_radii',
    'load_votes',
    'min_draws',
    'read_folder',
    'require_feasible',
    'save_votes',
    'tally',
    'total',
]
