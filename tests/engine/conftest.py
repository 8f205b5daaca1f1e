"""Prepares the frameworks, and checks every certificate that a test left beside its votes."""

import json

import pytest
from jsonschema import Draft202012Validator

from tests.openmmlab import make_config  # noqa: F401
from tests.verification import SCHEMA, load_verify


@pytest.fixture(autouse=True)
def every_certificate_is_verified(request, tmp_path):
    """Holds what a run has written against the schema, and against its votes."""
    yield
    if request.node.get_closest_marker('damages'):
        return
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    verify = load_verify()
    for path in tmp_path.rglob('certificates-*/*.json'):
        errors = validator.iter_errors(json.loads(path.read_text()))
        assert [(error.json_path, error.message) for error in errors] == [], path
        votes = [*path.parents[1].glob(f'votes-*/{path.stem}.npz')]
        problems = [verify.Check(path, file).problems for file in votes]
        assert [] in problems or not problems, problems
