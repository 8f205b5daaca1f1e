"""From integer counts to claims: statistics of votes, on NumPy and SciPy alone.

Start with ``Votes`` and ``certify``; ``binomial`` and ``multiple_testing`` hold the tests,
``planning`` says what a number of draws can certify at all, ``tallies`` turns certificates and
labels into rates, and ``votes`` and ``store`` keep votes on disk.
"""

from mmcert.certify.certificate import ABSTAIN_LABEL, Certificate, certify
from mmcert.certify.planning import InfeasiblePlanError, min_draws, require_feasible
from mmcert.certify.store import FingerprintError, VotesStore, read_folder
from mmcert.certify.tallies import IGNORE_INDEX, Tally, tally, total
from mmcert.certify.votes import Votes, VotesFileError, VotesRecord, load_votes, save_votes

__all__ = [
    'ABSTAIN_LABEL',
    'IGNORE_INDEX',
    'Certificate',
    'FingerprintError',
    'InfeasiblePlanError',
    'Tally',
    'Votes',
    'VotesFileError',
    'VotesRecord',
    'VotesStore',
    'certify',
    'load_votes',
    'min_draws',
    'read_folder',
    'require_feasible',
    'save_votes',
    'tally',
    'total',
]
