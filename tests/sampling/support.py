"""What the tests of sampling share."""

from dataclasses import fields

from mmcert.sampling import SamplingSettings, collect_looks, collect_votes

SETTINGS = [field.name for field in fields(SamplingSettings)]


def _settings(arguments):
    chosen = {name: arguments.pop(name) for name in SETTINGS if name in arguments}
    return SamplingSettings(**chosen), arguments


def sample_votes(segment, inputs, perturbation, **arguments):
    """``collect_votes`` with the fields of its settings as keywords."""
    settings, others = _settings(arguments)
    return collect_votes(segment, inputs, perturbation, settings, **others)


def sample_looks(segment, inputs, perturbation, **arguments):
    """``collect_looks`` with the fields of its settings as keywords."""
    settings, others = _settings({'n': None, **arguments})
    return collect_looks(segment, inputs, perturbation, settings, **others)
