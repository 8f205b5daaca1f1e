"""Votes on disk: files, the folder of a run, and answers from them without the model."""

from mmcert.votes.recertify import Task, evaluate, radius_curve
from mmcert.votes.record import Grid, VotesFileError, VotesRecord, load_votes, save_votes
from mmcert.votes.store import FingerprintError, VotesStore, fingerprint, read_folder, votes_folder

__all__ = [
    'FingerprintError',
    'Grid',
    'Task',
    'VotesFileError',
    'VotesRecord',
    'VotesStore',
    'evaluate',
    'fingerprint',
    'load_votes',
    'radius_curve',
    'read_folder',
    'save_votes',
    'votes_folder',
]
