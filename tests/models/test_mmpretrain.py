"""Models with backbones of mmpretrain."""

import re

import pytest

from tests.forks import run_program
from tests.models.pretrained import HERE

CONFIGS = {
    'ConvNeXt': 'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'PoolFormer': 'poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py',
}


@pytest.mark.slow
@pytest.mark.skipif(not HERE.is_dir(), reason='needs mmpretrain, see requirements')
@pytest.mark.parametrize('name', CONFIGS)
def test_stock_configs_of_mmsegmentation_are_certified(name, tmp_path):
    printed = run_program('tests.models.pretrained', CONFIGS[name], tmp_path)
    assert f"type='mmpretrain.{name}'" in printed and 'cert. mIoU' in printed
    assert 0 <= float(re.search(r'abstained from (\S+)', printed)[1]) <= 1
