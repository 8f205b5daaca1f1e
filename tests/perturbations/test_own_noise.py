"""A new noise distribution in a user's module certifies, stores votes and answers offline."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcert.certifier import CertificationPlan, Certifier
from mmcert.certify import CertifySettings
from mmcert.perturbations import CLASSES, from_spec
from mmcert.sampling import SamplingSettings

ROOT = Path(__file__).parents[2]

MODULE = '''
from dataclasses import dataclass

from mmcert.perturbations import AdditiveNoise, Distribution, register


@dataclass(frozen=True)
class Box(Distribution):
    """Uniform on [-width / 2, width / 2]. A shift by xi leaves prod_k (1 - |xi_k| / width) of the
    cube, at least 1 - ||xi||_1 / width: no class loses more than ||xi||_1 / width.
    """

    width: float
    norm = 'l1'
    formula = 'Uniform, of width {width:g} about 0'

    def fill(self, values, generator):
        return values.uniform_(generator=generator).sub_(0.5).mul_(self.width)

    def _reach(self, tau, target):
        return self.width * (tau - target)


@register
class BoxNoise(AdditiveNoise):
    def __init__(self, width):
        self.width = width
        super().__init__(Box(width))
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    assert len(MODULE.strip().splitlines()) <= 30
    (tmp_path / 'box_noise.py').write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module('box_noise')
    CLASSES.pop('BoxNoise', None)
    sys.modules.pop('box_noise', None)


def segment(images):
    return (torch.stack(images)[:, 0] > 0.5).long()


def test_noise_of_ones_own_certifies_stores_and_answers_offline(module, tmp_path):
    noise = module.BoxNoise(0.5)
    assert noise.radius(0.75) == pytest.approx(0.125)
    assert from_spec(json.loads(json.dumps(noise.spec()))).spec() == noise.spec()
    draws = noise.sample(torch.full((3, 40, 50), 0.5), torch.Generator().manual_seed(0))
    assert 0.24 < (draws - 0.5).abs().max() < 0.255

    sampling = SamplingSettings(n0=10, n=100, num_classes=2)
    plan = CertificationPlan(noise, CertifySettings(0.75, 0.01, 'holm', 'holdout'), sampling)
    image = torch.linspace(0, 1, 40).reshape(1, 1, 40)
    label = segment([image])[0].numpy()
    store = plan.open_store(tmp_path / 'votes', weights='threshold')
    result = Certifier(plan, store=store).certify(segment, image, label=label)
    certified = result.certificate.certified
    # The smoothed class is sure where the box does not reach 1/2.
    assert certified[0, :8].all() and certified[0, -8:].all() and not certified.all()
    assert (result.maps['pred'][certified] == label[certified]).all()
    guarantee = result.to_dict()['promise']
    assert (guarantee['norm'], guarantee['radius']) == ('l1', pytest.approx(0.125))
    assert 'no perturbation of l1 norm up to 0.125' in guarantee['description']

    # An attack within the radius, of all its mass on one pixel, leaves a class that is certified.
    for pixel in np.flatnonzero(certified[0]):
        attacked = image.clone()
        attacked[0, 0, pixel] += 0.12 if label[0, pixel] == 0 else -0.12
        parameters = noise.draw(attacked, [torch.Generator().manual_seed(s) for s in range(400)])
        share = (segment(list(noise.apply(attacked, parameters)))[:, 0, pixel]).double().mean()
        assert (share > 0.5) == bool(label[0, pixel])

    # Votes are answered without the model, by a tool that imports the module.
    command = [sys.executable, ROOT / 'tools/certify.py', tmp_path / 'votes', '--tau', '0.75']
    command += ['--alpha', '0.01', '--procedure', 'holm', '--selection', 'holdout', '--no-plot']
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [*command, '--import', 'box_noise'],
        env={**os.environ, 'PYTHONPATH': paths},
        capture_output=True,
        text=True,
    )
    assert 'BoxNoise(width=0.5)' in done.stdout, done.stderr
    answer = next(tmp_path.rglob('offline.json'))
    (row,) = json.loads(answer.read_text())['rows']
    assert row['certAcc'] == pytest.approx(certified.mean())
