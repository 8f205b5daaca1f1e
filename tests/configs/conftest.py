"""Prepares the frameworks."""

import tests.openmmlab.conftest  # noqa: F401
