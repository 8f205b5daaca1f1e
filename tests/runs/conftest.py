"""Prepares the frameworks."""

from tests.openmmlab import make_config  # noqa: F401
