"""What the documentation site takes from the package and from notebooks.

From the package it takes the reference, and tables in its pages.

The reference goes to ``docs/reference/api`` and is not kept in git. The tables stand between marks
in pages that are; a test says when one is out of date, and ``make docs`` writes it anew.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / 'mmcert'
API = DOCS / 'reference' / 'api'
SCHEMA = PACKAGE / 'certifier' / 'certificate.schema.json'


def setup(app) -> None:
    """Writes pages before they are read, and checks afterwards that nothing is missing."""
    show_notebooks(app)
    show_methods_with_randomness()
    write_api_pages()
    write_tables()
    app.connect('autodoc-process-docstring', keep_colons, priority=100)
    app.connect('autodoc-process-docstring', escape_signs, priority=900)
    app.connect('doctree-read', hide_object)
    app.connect('env-check-consistency', check_complete)


def show_notebooks(app) -> None:
    """Lets Sphinx read notebooks as pages."""
    from myst_parser.parsers.sphinx_ import MystParser

    class NotebookParser(MystParser):
        """Reads a notebook as the Markdown that it is but for its outputs."""

        supported = ('ipynb',)

        def parse(self, inputstring, document):
            """Parses the text of a notebook."""
            super().parse(notebook_page(inputstring, Path(document['source']).name), document)

    app.add_source_suffix('.ipynb', 'ipynb')
    app.add_source_parser(NotebookParser)


def notebook_page(text: str, name: str) -> str:
    """A notebook as a page in Markdown, without outputs.

    Args:
        text (str): The notebook.
        name (str): Its file name, for the link to it.
    """
    parts = []
    for cell in json.loads(text)['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        elif source.startswith('!'):
            parts.append('```shell\n' + source.replace('\n!', '\n')[1:] + '\n```')
        else:
            parts.append(f'```python\n{source}\n```')
    parts.insert(1, f'The notebook itself: {{download}}`{name}`.')
    return '\n\n'.join(parts) + '\n'


def show_methods_with_randomness() -> None:
    """Lets autodoc look at methods under mmcv's ``cache_randomness`` without an instance."""
    from mmcv.transforms.utils import cache_randomness

    bind = cache_randomness.__get__
    cache_randomness.__get__ = lambda self, obj, cls: (
        self.func if obj is None else bind(self, obj, cls)
    )


def modules() -> dict[str, bool]:
    """All public modules of the package, and whether each is itself a package."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
        package = parts[-1] == '__init__'
        parts = parts[:-1] if package else parts
        if len(parts) > 1 and not any(part.startswith(('_', '.')) for part in parts):
            found['.'.join(parts)] = package
    return found


def write_api_pages() -> None:
    """One page for each part of the package, with all of its modules."""
    pages: dict[str, list[str]] = {}
    for module, package in modules().items():
        name = module.split('.')[1]
        heading = '#' if module == f'mmcert.{name}' else '##'
        # A package shows what it defines itself: each name has one place.
        options = ['   :ignore-module-all:'] if package else []
        pages.setdefault(name, []).extend(
            [
                f'{heading} {module}', '',
                '```{eval-rst}', f'.. automodule:: {module}', *options, '```', '',
            ]
        )  # fmt: skip
    names = sorted(pages)
    for old in {path.stem for path in API.glob('*.md')} - {*names, 'index'}:
        (API / f'{old}.md').unlink()
    for name in names:
        _write(API / f'{name}.md', '\n'.join(pages[name]))
    _write(
        API / 'index.md',
        '# The package\n\nEvery public module, class and function, from its docstring.\n\n'
        '```{toctree}\n:maxdepth: 1\n\n' + '\n'.join(names) + '\n```\n',
    )


def smoothing_keys() -> str:
    """The table of all keys of ``smoothing``, from the docstring of their class."""
    from mmcert.certifier.plan_settings import PlanSettings
    from mmcert.engine.smoothing_config import SmoothingConfig

    described: dict[str, str] = {}
    for cls in (PlanSettings, SmoothingConfig):
        described |= attributes(inspect.getdoc(cls) or '')
    rows = ['| key | meaning | default |', '| --- | --- | --- |']
    for field in fields(SmoothingConfig):
        if field.name in described:
            default = '-' if field.default is None else f'`{field.default!r}`'
            meaning = described[field.name].replace('``', '`').replace('|', r'\|')
            rows.append(f'| `{field.name}` | {meaning} | {default} |')
    return '\n'.join(rows)


def procedures() -> str:
    """The table of all procedures, from their registry, with links to the pages of this site."""
    from mmcert.certify.procedures import PROCEDURES

    rows = ['| procedure | promise, with probability 1 - alpha per input | source |']
    rows.append('| --- | --- | --- |')
    for name, procedure in PROCEDURES.items():
        with_k = ' with `k`' if procedure.takes_k else ''
        rows.append(f'| `{name}`{with_k} | {procedure.promise} | {procedure.source} |')
    return re.sub(r'docs/theory/([\w-]+)\.md', r'[proof](../theory/\1.md)', '\n'.join(rows))


def certificate_entries() -> str:
    """A table of the entries of each group of a certificate, from its JSON schema."""
    groups = json.loads(SCHEMA.read_text())['properties']
    lines: list[str] = []
    for group, schema in groups.items():
        if 'properties' not in schema:
            if group not in ('format', 'version'):
                lines += [f'**`{group}`**: {_lower(schema["description"])}', '']
            continue
        lines += [f'**`{group}`**: {_lower(schema["description"])}', '']
        lines += ['| entry | meaning |', '| --- | --- |']
        for name, entry in schema['properties'].items():
            choices = ', '.join(f'`{choice}`' for choice in entry.get('enum', ()))
            shown = f' One of {choices}.' if choices else ''
            lines.append(f'| `{name}` | {entry["description"]}{shown} |')
            lines += [
                f'| `{name}.{key}` | {inner["description"]} |'
                for key, inner in entry.get('properties', {}).items()
            ]
        lines.append('')
    return '\n'.join(lines).rstrip()


def _lower(text: str) -> str:
    return f'{text[0].lower()}{text[1:]}'


class AttackSet(NamedTuple):
    """What may happen to a camera, and the parameters that it means.

    ``low`` and ``high`` are the ends of a range, or ``values`` are those of a finite set.
    ``config`` certifies it.
    """

    what: str
    formula: str
    transformation: str
    config: str
    low: Any = None
    high: Any = None
    values: Any = None

    def rounded(self) -> tuple[Any, Any, Any]:
        """``low``, ``high`` and ``values`` to three digits, as pages and configs have them."""
        return tuple(map(_three_digits, (self.low, self.high, self.values)))


def _three_digits(value: Any) -> Any:
    if isinstance(value, list):
        return [_three_digits(one) for one in value]
    return None if value is None else float(f'{value:.3g}')


def camera_attacks() -> list[AttackSet]:
    """What may happen to the dash camera of the page on attack sets."""
    from mmcert.transformations.camera import Camera, brightened, exposed, vibrated

    camera = Camera(focal_mm=6, f_number=2, sensor_mm=6.93, width_px=240)
    turn, swept, step = camera.turned, camera.turned(vibrated(0.1, 50, 1 / 100)), 1 / 3
    shifts = [share * turn(0.5) for share in (-1, -0.5, 0.5, 1)]
    return [
        AttackSet(
            'the camera rolls by up to 1 degree', 'angle', 'rotation', 'roll', -1, 1
        ),
        AttackSet(
            'it pitches by 0.5 degrees, or by half of that', 'dy = f tan(angle)', 'translation',
            'pitch', values=[[0, shift] for shift in shifts],
        ),
        AttackSet(
            'it yaws by 0.5 degrees, or by half of that', 'dx = f tan(angle)', 'translation',
            'yaw', values=[[shift, 0] for shift in shifts],
        ),
        AttackSet(
            'the lens zooms from 6 to up to 6.3 mm', "f' / f", 'scaling', 'zoom',
            1, camera.zoomed(6.3),
        ),
        AttackSet(
            'the camera is up to 0.2 m nearer to what was 10 m away', 'd / (d - 0.2)', 'scaling',
            'approach', 1, camera.approached(0.2, 10),
        ),
        AttackSet(
            'the lens is focused as near as 0.3 m, the scene 20 m away',
            'half of f² / N · \\|1/s - 1/d\\| / (1 - f/s)', 'defocus_blur', 'out-of-focus',
            0, camera.defocus_radius(20, focused=0.3),
        ),
        AttackSet(
            'the mount vibrates up and down by up to 0.1 degrees at 50 Hz, 1/100 s',
            'f tan(2 a sin(pi · hertz · t))', 'motion_blur', 'vibration', [0, 90], [swept, 90],
        ),
        AttackSet(
            'the camera yaws at up to 30 degrees per second, 1/60 s', 'f tan(speed · t)',
            'motion_blur', 'yaw-blur', [0, 0], [turn(30 / 60), 0],
        ),
        AttackSet(
            'an object 10 m away crosses at up to 10 m/s, 1/100 s', 'f v t / d', 'motion_blur',
            'crossing-blur', [0, 0], [camera.passed(10 / 100, 10), 0],
        ),
        AttackSet(
            'the camera rolls at up to 60 degrees per second, 1/60 s',
            'speed · t / 2, to either side', 'rotational_blur', 'roll-blur', 0, 60 / 60 / 2,
        ),
        AttackSet(
            'it drives at up to 30 m/s towards what is 10 m away, 1/60 s', 'd / (d - v t)',
            'zoom_blur', 'driving-blur', 1, camera.approached(30 / 60, 10),
        ),
        AttackSet(
            'exposure is off by up to 1/3 stop (EV), to either side',
            'log_factor = EV ln 2 / gamma, pivot zero', 'contrast', 'exposure',
            exposed(-step), exposed(step),
        ),
        AttackSet(
            'the same, matched at a medium grey', '0.18^(1/gamma) (2^(EV/gamma) - 1)',
            'brightness', 'exposure-at-mid-grey', brightened(-step), brightened(step),
        ),
        AttackSet(
            'the black level is off by up to 8 of 255', 'levels / 255', 'brightness',
            'black-level', -8 / 255, 8 / 255,
        ),
        AttackSet(
            'images are encoded with gamma up to 2.4 in place of 2.2', 'old / new', 'gamma',
            'encoding-gamma', 2.2 / 2.4, 1,
        ),
    ]  # fmt: skip


def attack_sets() -> str:
    """The table of what happens to a camera, with the attack sets that it means."""
    lines = [
        '| what happens | parameter | `transformation` | attack set | config |',
        '| --- | --- | --- | --- | --- |',
    ]
    for row in camera_attacks():
        low, high, values = row.rounded()
        shown = f'`{_shown(low)}` to `{_shown(high)}`' if values is None else f'`{_shown(values)}`'
        lines.append(
            f'| {row.what} | {row.formula} | `{row.transformation}` | {shown} | `{row.config}` |'
        )
    return '\n'.join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f'[{", ".join(map(_shown, value))}]'
    return f'{value:g}'


TABLES = {
    'reference/smoothing.md': smoothing_keys,
    'reference/procedures.md': procedures,
    'reference/certificate.md': certificate_entries,
    'how-to/attack-sets.md': attack_sets,
}
"""The pages with a table from the package, and what makes it."""


def with_table(name: str) -> str:
    """A page with its table as the package has it today."""
    text = (DOCS / name).read_text()
    begin, end = '<!-- from the package: begin -->\n', '\n<!-- from the package: end -->'
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return before + begin + TABLES[name]() + end + after


def write_tables() -> None:
    """Brings the tables up to date."""
    for name in TABLES:
        _write(DOCS / name, with_table(name))


def attributes(docstring: str) -> dict[str, str]:
    """The text of each entry of a docstring's ``Attributes``."""
    section = docstring.partition('Attributes:\n')[2]
    section = re.split(r'\n(?=\S)', section)[0]
    found = re.findall(r'^ {4}(\w+) \(.+?\): (.+(?:\n {5,}.+)*)', section, flags=re.MULTILINE)
    return {name: ' '.join(text.split()) for name, text in found}


def keep_colons(app, what, name, obj, options, lines: list[str]) -> None:
    """A colon in what describes a constant is no type: napoleon looks at the first line alone."""
    if what in ('data', 'attribute'):
        lines.insert(0, '')


def escape_signs(app, what, name, obj, options, lines: list[str]) -> None:
    """Bars and lone stars of a docstring mean themselves: absolute values, products, ``*args``."""
    for index, line in enumerate(lines):
        pieces = re.split(r'(``.*?``|(?<![\w*])\*\w[^*]*\w\*(?![\w*])|\*\*\w[^*]*\*\*)', line)
        for place in range(0, len(pieces), 2):
            pieces[place] = re.sub(r'(?<!\\)(\||\*(?! ))', r'\\\1', pieces[place])
        lines[index] = ''.join(pieces)


def hide_object(app, doctree) -> None:
    """Takes out the bases of a class that has none but ``object``."""
    from docutils import nodes

    for paragraph in list(doctree.findall(nodes.paragraph)):
        if paragraph.astext() == 'Bases: object':
            paragraph.parent.remove(paragraph)


def public_names() -> Iterator[str]:
    """Full names of all public functions, classes and methods that have a docstring."""
    for module in modules():
        path = Path(importlib.import_module(module).__file__ or '')
        yield from _documented(ast.parse(path.read_text()).body, module)


def _documented(body: list[ast.stmt], owner: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith('_'):
            continue
        if ast.get_docstring(node):
            yield f'{owner}.{node.name}'
        if isinstance(node, ast.ClassDef):
            yield from _documented(node.body, f'{owner}.{node.name}')


def check_complete(app, env) -> None:
    """Fails the build where a public docstring is on no page."""
    from sphinx.util import logging

    shown = set(env.domaindata['py']['objects'])
    missing = sorted(set(public_names()) - shown)
    if missing:
        logging.getLogger(__name__).warning('docstrings on no page: %s', ', '.join(missing))


def _write(path: Path, text: str) -> None:
    """Writes a file if it would change: what is unchanged is not read again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
