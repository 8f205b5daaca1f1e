"""Prepares the frameworks."""

from tests.browser import browser  # noqa: F401
from tests.openmmlab import make_config  # noqa: F401
