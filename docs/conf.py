"""Configuration of the documentation site; ``make docs`` builds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]

import site_pages  # noqa: E402

from mmcert.compat import enable_mmcv_lite  # noqa: E402
from mmcert.version import __version__  # noqa: E402

enable_mmcv_lite()

project = 'mmcert'
author = 'the mmcert authors'
copyright = f'2026, {author}'
release = version = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'sphinx-mathjax-offline',  # formulas without a network
]
exclude_patterns = ['_build']

myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist', 'attrs_inline']
myst_heading_anchors = 4
myst_url_schemes = ['http', 'https']
suppress_warnings = ['myst.header']  # included pages begin at any level

autodoc_typehints = 'none'  # the docstrings name types and shapes
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Roles that name something of ours must find it. The types of docstrings are prose.
nitpicky = True
nitpick_ignore_regex = [
    (r'py:.*', r'(?!mmcert\.).*'),
    (r'py:.*', r'mmcert\..*\._\w+'),  # private bases
    (r'py:obj', r'.*'),  # type variables
]

smartquotes = False  # quotes of values stay as they are typed in configs

html_theme = 'furo'
html_title = f'mmcert {release}'
html_copy_source = False
copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True


def setup(app):
    """Connects what is generated from the package."""
    site_pages.setup(app)
