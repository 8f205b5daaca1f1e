"""Digests of the code of the user's own, and of what modules hold beside their weights."""

import functools
import sys
from types import FunctionType, SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from mmcert.certifier import attributes_digest, code_digest

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


def test_code_of_libraries_is_not_in_the_digest(tmp_path, monkeypatch):
    assert code_digest(nn.TransformerEncoderLayer(4, 2), FunctionType) == ''
    (tmp_path / 'model-1.0.dist-info').mkdir()
    module = SimpleNamespace(__file__=str(tmp_path / 'model/model.py'))
    monkeypatch.setitem(sys.modules, 'model', module)
    assert code_digest(model(file=str(tmp_path / 'model/model.py'))) == ''


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
