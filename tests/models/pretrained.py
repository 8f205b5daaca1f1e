"""Certifies a scene under a config of mmsegmentation with a backbone of mmpretrain.

A program, run by ``test_mmpretrain.py``: mmpretrain must be there before OpenMMLab is imported.
"""

import sys
from pathlib import Path

from tests.integrations.libraries import FOLDER, library

HERE = Path(sys.prefix) / 'mmpretrain'
"""Where `make venv-test` puts mmpretrain."""


def main(config, folder):
    """Prints what is certified of a scene; weights are random."""
    sys.path.append(str(HERE))
    for path in FOLDER.glob('torchvision*'):  # Alone: mmpretrain fails beside transformers 5.
        (folder / path.name).symlink_to(path)
    library('torchvision', folder)
    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    import mmseg

    from tests.openmmlab import DEMO

    stock = Config.fromfile(Path(mmseg.__file__).parent / '.mim/configs' / config)
    cfg = Config.fromfile(DEMO)
    cfg.model = stock.model
    cfg.model.data_preprocessor.pop('size', None)
    cfg.model.backbone.init_cfg = cfg.model.pretrained = None
    for part in ('decode_head', 'auxiliary_head'):
        if part in cfg.model:
            cfg.model[part].update(num_classes=8, norm_cfg=dict(type='BN'))
    if 'neck' in cfg.model:
        cfg.model.neck.norm_cfg = dict(type='BN')
    cfg.model.test_cfg = dict(mode='whole')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.update(data_root=str(folder), size=(64, 96), num_images=1)
    cfg.work_dir = str(folder / 'work')
    cfg.default_hooks.smoothing = dict(type='mmcert.SmoothingHook')
    cfg.smoothing = dict(sigma=0.25, tau=0.6, n0=3, n=12, alpha=0.01, strict_weights=False)
    metrics = Runner.from_cfg(cfg).test()
    print('abstained from', metrics['certified/abstain'])


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))
