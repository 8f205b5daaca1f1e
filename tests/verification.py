"""What the tests of certificates share: their schema, and the tool that checks them."""

import importlib.util
from pathlib import Path

from mmcert import certifier

TOOL = Path(__file__).parents[1] / 'tools/verify.py'
SCHEMA = Path(certifier.__file__).parent / 'certificate.schema.json'


def load_verify():
    """``tools/verify.py`` as a module."""
    spec = importlib.util.spec_from_file_location('verify', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
