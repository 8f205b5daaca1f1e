"""Digests of the code of the user's own, and of what modules hold beside their weights."""

import enum
import functools
import sys
from dataclasses import dataclass
from types import FunctionType, ModuleType, SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from mmcert.certifier import CertificationPlan, attributes_digest, code_digest
from mmcert.certifier.code import _named
from mmcert.certify import CertifySettings
from mmcert.perturbations import GaussianNoise
from mmcert.sampling import SamplingSettings

MODEL = """
import torch
SCALE = 2
def helper(x):
    return x * SCALE
class Model(torch.nn.Module):
    offset = 1
    @torch.no_grad()
    def forward(self, x):
        # A comment.
        return helper(x) + self.offset
model = Model()
"""


def model(code=MODEL, file='model.py'):
    names = {'__name__': 'model', '__file__': file}
    exec(compile(code, file, 'exec'), names)
    return names['model']


def test_comments_places_and_calls_change_nothing():
    expected = code_digest(model())
    again = model(MODEL.replace('# A comment.', '').replace('SCALE = 2', '\n\nSCALE = 2'), 'b.py')
    for _ in range(100):
        again(torch.zeros(1))
    assert code_digest(again) == expected and len(expected) == 16


@pytest.mark.parametrize(
    ('old', 'new'),
    [('x * SCALE', 'x / SCALE'), ('SCALE = 2', 'SCALE = 3'), ('offset = 1', 'offset = 2'),
     ('helper(x) +', 'helper(x) -'), ('x * SCALE', 'x * len("a/b")')],
)  # fmt: skip
def test_code_that_runs_is_in_the_digest(old, new):
    assert code_digest(model(MODEL.replace(old, new))) != code_digest(model())


def test_hooks_and_functions_that_were_set_are_in_the_digest():
    expected = code_digest(model())
    hooked, replaced, wrapped = model(), model(), model()
    hooked.register_forward_hook(lambda module, inputs, output: -output)
    replaced.forward = lambda x: -x
    wrapped.forward = functools.partial(lambda scale, x: scale * x, 3)
    found = {expected, *map(code_digest, (hooked, replaced, wrapped))}
    assert len(found) == 4


def test_objects_that_have_anything_under_any_name_are_gone_through():
    with_mock = model()
    with_mock.made = mock.Mock()
    assert code_digest(with_mock) == code_digest(model())


def test_functions_in_collections_and_objects_are_in_the_digest():
    class Call:
        def __init__(self, function):
            self.function = function

        def __call__(self, x):
            return self.function(x)

    for held in (lambda one: [one], lambda one: {'a': (one,)}, Call):
        found = set()
        for function in (lambda x: x, lambda x: -x):
            module = nn.Identity()
            module.held = held(function)
            found.add(code_digest(module))
        assert len(found) == 2


def test_code_of_libraries_is_not_in_the_digest(tmp_path, monkeypatch):
    assert code_digest(nn.TransformerEncoderLayer(4, 2), FunctionType) == ''
    (tmp_path / 'model-1.0.dist-info').mkdir()
    module = SimpleNamespace(__file__=str(tmp_path / 'model/model.py'))
    monkeypatch.setitem(sys.modules, 'model', module)
    assert code_digest(model(file=str(tmp_path / 'model/model.py'))) == ''


def test_the_number_of_a_process_changes_nothing():
    found = set()
    for number in (0, 1):
        ranked = model(MODEL.replace('SCALE', f'LOCAL_RANK = {number}\nSCALE', 1).replace(
            'x * SCALE', 'x * SCALE if LOCAL_RANK == 0 else x * SCALE'
        ))  # fmt: skip
        ranked.rank = number
        found.add((code_digest(ranked), attributes_digest(ranked)))
    assert len(found) == 1


def test_what_a_module_does_not_print_is_in_the_digest():
    def digest(heads=2, activation='relu', **attributes):
        layer = nn.TransformerEncoderLayer(4, heads, activation=activation)
        for name, value in attributes.items():
            setattr(layer, name, value)
        return attributes_digest(layer)

    assert digest() == digest() == digest(folder='/one/place') == digest(cache={'size': 1})
    found = {
        digest(), digest(heads=1), digest(activation='gelu'), digest(scale=1.5),
        digest(mean=torch.ones(2)), digest(mean=torch.zeros(2)), digest(mean=[0.5, None]),
    }  # fmt: skip
    assert len(found) == 7


class Mode(enum.Enum):
    NEAREST = 'nearest'
    BILINEAR = 'bilinear'


@dataclass
class Config:
    heads: int


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        (Mode.NEAREST, Mode.BILINEAR),
        (Config(1), Config(2)),
        (functools.partial(torch.sum, dim=1), functools.partial(torch.sum, dim=2)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        ((..., None), (None, ...)),
    ],
)
def test_values_of_all_kinds_are_told_apart(one, other):
    found = []
    for value in (one, other):
        module = nn.Identity()
        module.value = value
        found.append(attributes_digest(module))
    assert found[0] != found[1]


class Weights(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))

    def forward(self, x):
        return x * self.weight


def test_weights_that_are_frozen_into_a_program_are_in_the_digest():
    one, other = (torch.jit.freeze(torch.jit.script(Weights(value).eval())) for value in (1.0, 2.0))
    assert not one.state_dict() and repr(one) == repr(other)
    assert attributes_digest(one) != attributes_digest(other)


def test_graphs_are_in_the_digest():
    class Doubled(nn.Identity):
        def forward(self, x):
            return x * 2

    found = {attributes_digest(torch.fx.symbolic_trace(one)) for one in (nn.Identity(), Doubled())}
    assert len(found) == 2


class Unlike(type):
    def __eq__(cls, other):
        raise RuntimeError

    __hash__ = type.__hash__


class Odd(metaclass=Unlike):
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self):
        raise RuntimeError

    __eq__ = __hash__ = __bool__ = __repr__ = __call__


def test_no_object_stops_a_run():
    def digests():
        module, circle, partial = model(), [1], functools.partial(print)
        circle.append(circle)
        partial.__setstate__((partial, (partial,), {}, {}))
        module.odd, module.circle, module.partial = Odd(), circle, partial
        return code_digest(module), attributes_digest(module)

    assert digests() == digests()
    assert digests()[0] != code_digest(nn.Identity()), 'the class is seen'
    other = model(MODEL.replace('offset = 1', 'offset = 2'))
    other.odd = Odd()
    assert code_digest(other) != digests()[0]


@pytest.mark.parametrize(
    ('old', 'new'),
    [('x * 2', 'x * 3'), ('FACTOR = 1', 'FACTOR = 2'), ('[..., None]', '[None, ...]')],
)
def test_code_of_modules_that_are_named_is_in_the_digest(old, new):
    helpers = 'FACTOR = 1\ndef double(x):\n    return (x * 2)[..., None]\n'
    code = MODEL.replace('def helper', 'import helpers\ndef helper').replace(
        'x * SCALE', 'helpers.double(x) * helpers.FACTOR'
    )

    def digest(text):
        module = ModuleType('helpers')
        module.__file__ = 'helpers.py'
        exec(text, vars(module))
        with mock.patch.dict(sys.modules, helpers=module):
            return code_digest(model(code))

    assert digest(helpers) == digest(helpers)
    assert digest(helpers) != digest(helpers.replace(old, new))


def test_code_that_makes_the_draws_is_in_the_spec_of_a_plan():
    class Shifted(GaussianNoise):
        shift = 0.0

    def spec(kind):
        return CertificationPlan(kind(0.25), settings, sampling).spec()

    settings, sampling = CertifySettings(0.75, 0.01), SamplingSettings(n0=5, n=20, num_classes=3)

    first = spec(Shifted)
    assert 'code_of_draws' not in spec(GaussianNoise) and spec(Shifted) == first
    Shifted.shift = 0.5
    assert spec(Shifted) != first


def test_a_module_under_several_names_is_named_by_the_first_in_all_processes():
    helpers = ModuleType('helpers')
    helpers.__file__, helpers.FACTOR = 'helpers.py', 2
    names = [f'm{number:02d}' for number in range(50)]
    found = _named({*names, 'FACTOR'}, dict.fromkeys(names, helpers))
    assert [name for name in found if 'FACTOR' in name] == ['m49.FACTOR']
