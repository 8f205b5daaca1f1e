"""Tries an installed mmcert in the current folder, which is empty and outside a checkout.

``dist_check.py`` and ``matrix.py`` run it with the Python of an environment. Models are tiny and
have random weights; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ('--sigma', '0.1', '--tau', '0.6', '--n0', '3', '--n', '20', '--alpha', '0.05')
NORMALISED = ('--mean', '0.4', '0.5', '0.6', '--std', '0.25')
DEMO = 'street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py'
CLOUDS = 'part_shapes/pointnet2-ssg-light_clean-20e_part-shapes-xyz-1024.py'

PLAIN = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1)
"""


def main() -> int:
    """Tries the parts that were named, after what every installation can do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', choices=[*PARTS, []], help='what is installed beside')
    parser.add_argument('--short', action='store_true', help='20 iterations in place of the demo')
    args = parser.parse_args()
    plain()
    if not {'mmseg', 'mmdet3d', 'mmpretrain'} & set(args.parts):
        mmcert('demo', fails=True, says="pip install 'mmcert[mmseg]'")
    for part in args.parts:
        PARTS[part](args.short)
        print(f'{part}: works')
    return 0


def mmcert(*words: object, fails: bool = False, says: str = '') -> str:
    """Runs the command; what it printed.

    Args:
        *words: Its arguments.
        fails (bool): Whether it must end with exit code 2.
        says (str): What must stand in its output.
    """
    return run(Path(sysconfig.get_path('scripts')) / 'mmcert', *words, fails=fails, says=says)


def run(*command: object, fails: bool = False, says: str = '') -> str:
    """Runs a command, see ``mmcert``."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 2 * fails or says not in done.stdout:
        raise SystemExit(f'{done.stdout}\n{command} ended with exit code {done.returncode}')
    return done.stdout


def certify(model: str, *options: str) -> None:
    """Certifies two drawn images under a model."""
    out = 'out-' + model.partition(':')[0]
    given = ('certify', '--model', model, '--images', 'images', '--labels', 'labels')
    mmcert(*given, *SETTINGS, *options, '--out', out, says='certificates, votes and figures')


def plain() -> None:
    """What needs no extra."""
    import cv2
    import numpy as np

    import mmcert as package

    if Path(package.__file__).is_relative_to(ROOT / 'mmcert'):
        raise SystemExit('this tries the checkout: install the package, and run it elsewhere')
    rng = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        Path(folder).mkdir()
    for name in ('a.png', 'b.png'):
        cv2.imwrite(f'images/{name}', rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
        cv2.imwrite(f'labels/{name}', rng.integers(0, 3, (32, 48), dtype=np.uint8))
    Path('model.py').write_text(PLAIN)
    mmcert('--version', says=package.__version__)
    for command in ('--help', ('certify', '--help'), ('completion', 'bash')):
        mmcert(*([command] if isinstance(command, str) else command))
    certify('py:model.py:build', *NORMALISED)
    (votes,) = Path('out-py').glob('votes-*')
    mmcert('recertify', votes, '--tau', '0.6', '0.7', '--out', 'out-py')
    mmcert('report', 'out-py')
    if not Path('out-py/report.html').is_file():
        raise SystemExit('there is no report')
    print('mmcert: works')


def mmseg(short: bool) -> None:
    """The demo from the installed package, or its steps with fewer iterations."""
    if not short:
        mmcert('demo', says='report.html')
        return
    config, folder = mim_folder() / 'configs' / DEMO, Path('work_dirs/demo')
    options = ('--work-dir', folder, '--cfg-options', 'test_dataloader.dataset.indices=[0,1]')
    mmcert('train', config, *options, 'train_cfg.max_iters=20', 'train_cfg.val_interval=20')
    (checkpoint,) = folder.glob('iter_*.pth')
    mmcert('test', config, checkpoint, *options, says='certified results of 2 images')
    mmcert('report', folder / 'certified')


def mim(short: bool) -> None:
    """``mim`` finds configs and tools."""
    del short
    scripts = Path(sysconfig.get_path('scripts'))
    run(scripts / 'mim', 'search', 'mmcert', '--field', 'model', says=Path(DEMO).stem)
    (votes,) = Path('out-py').glob('votes-*')
    run(scripts / 'mim', 'run', 'mmcert', 'certify', votes, '--tau', '0.6', says='cert. mIoU')


def mim_folder() -> Path:
    """Where an installation keeps configs and tools."""
    import mmcert as package

    return Path(package.__file__).parent / '.mim'


def mmdet3d(short: bool) -> None:
    """A stock PointNet++ gives labels of points on the CPU."""
    del short
    import torch

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmcert.engine.base_model import build_model
    from mmcert.pointops import install_cpu_point_ops

    init_default_scope('mmdet3d')
    install_cpu_point_ops()
    cfg = Config.fromfile(mim_folder() / 'configs' / CLOUDS)
    model = build_model(cfg).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 1024, 3))
    print(sorted(features))


def mmpretrain(short: bool) -> None:
    """A backbone that mmsegmentation's ConvNeXt configs name."""
    del short
    import torch

    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    from mmpretrain.models import ConvNeXt

    backbone = ConvNeXt({'depths': [1] * 4, 'channels': [8, 16, 24, 32]})
    print([tuple(level.shape) for level in backbone(torch.rand(1, 3, 32, 48))])


def transformers(short: bool) -> None:
    """A SegFormer."""
    del short
    import transformers as library

    config = library.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, id2label={0: 'road', 1: 'car', 2: 'sky'},
    )  # fmt: skip
    library.SegformerForSemanticSegmentation(config).save_pretrained('segformer')
    size = {'height': 32, 'width': 48}
    library.SegformerImageProcessor(size=size).save_pretrained('segformer')
    certify('hf:segformer')


def smp(short: bool) -> None:
    """A U-Net."""
    del short
    import segmentation_models_pytorch as library

    library.Unet(
        'resnet18', encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8), classes=3
    ).save_pretrained('unet')
    certify('smp:unet')


def torchvision(short: bool) -> None:
    """An LR-ASPP."""
    del short
    import torch
    from torchvision.models import segmentation

    model = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    torch.save(model.state_dict(), 'lraspp.pth')
    certify('torchvision:lraspp_mobilenet_v3_large:lraspp.pth')


def onnx(short: bool) -> None:
    """A convolution."""
    del short
    import numpy as np
    import onnx as library

    rng, floats = np.random.default_rng(0), library.TensorProto.FLOAT
    weights = [
        library.numpy_helper.from_array(rng.normal(size=size).astype('float32'), name)
        for name, size in (('weight', (3, 3, 3, 3)), ('bias', (3,)))
    ]
    node = library.helper.make_node(
        'Conv', ['image', 'weight', 'bias'], ['scores'], pads=[1, 1, 1, 1]
    )
    ends = [
        library.helper.make_tensor_value_info(name, floats, shape)
        for name, shape in (('image', ['n', 3, 'h', 'w']), ('scores', None))
    ]
    graph = library.helper.make_graph([node], 'segmentor', ends[:1], ends[1:], weights)
    opsets = [library.helper.make_opsetid('', 17)]
    model = library.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    library.save(model, 'model.onnx')
    certify('onnx:model.onnx', *NORMALISED)


def diffusion(short: bool) -> None:
    """A diffusion model as a denoiser."""
    del short
    import diffusers
    import torch

    from mmcert.denoisers import DiffusionDenoiser

    diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'), attention_head_dim=4,
    ).save_pretrained('diffusion/unet')  # fmt: skip
    diffusers.DDPMScheduler(num_train_timesteps=1000).save_pretrained('diffusion/scheduler')
    DiffusionDenoiser.from_checkpoint('diffusion')(torch.rand(1, 3, 32, 48), 0.25)


def corruptions(short: bool) -> None:
    """A corrupted image."""
    del short
    import torch

    from mmcert.corruptions import chosen

    image = torch.randint(0, 256, (3, 32, 48)).float()
    for corruption in chosen(['fog', 'motion_blur'], 'image'):
        corruption(image, severity=3)


def hub(short: bool) -> None:
    """The Hub's client is found."""
    del short
    from mmcert.zoo.publishing import hub_module

    hub_module()


def fiftyone(short: bool) -> None:
    """A run becomes a folder that FiftyOne reads."""
    del short
    import fiftyone as library

    run(sys.executable, mim_folder() / 'tools' / 'export_fiftyone.py', 'out-py')
    print(library.__version__)


PARTS: dict[str, Callable[[bool], None]] = {
    'mmseg': mmseg,
    'mim': mim,
    'mmdet3d': mmdet3d,
    'mmpretrain': mmpretrain,
    'transformers': transformers,
    'smp': smp,
    'torchvision': torchvision,
    'onnx': onnx,
    'diffusion': diffusion,
    'corruptions': corruptions,
    'hub': hub,
    'fiftyone': fiftyone,
}
"""What an extra of the same name brings (``mim``: openmim beside ``mmseg``)."""

if __name__ == '__main__':
    sys.exit(main())
