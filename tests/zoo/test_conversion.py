"""Converted checkpoints compute what the published architectures compute.

The architectures are written down here anew, as the published code defines them: the same names,
shapes, order of channels and arithmetic.
"""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmcert.engine.weights import mismatches
from mmcert.pointops import install_cpu_point_ops
from mmcert.registry import MODELS
from mmcert.zoo.conversion import ConversionError, convert
from tests.openmmlab import ROOT, run_tool

CHANNELS = (4, 8, 16, 32)


def conv_bn(inside, outside, kernel=3, stride=1, relu=False):
    layers = [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1."""

    def __init__(self, inside, width, bottleneck=False):
        super().__init__()
        outside = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = (inside, *[width] * (len(kernels) - 1), outside)
        for number, kernel in enumerate(kernels, 1):
            pair = conv_bn(sizes[number - 1], sizes[number], kernel)
            setattr(self, f'conv{number}', pair[0])
            setattr(self, f'bn{number}', pair[1])
        self.downsample = None if inside == outside else conv_bn(inside, outside, 1)
        self.count = len(kernels)

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f'bn{number}')(getattr(self, f'conv{number}')(y))
            y = y if number == self.count else y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


def up(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)


class Exchange(nn.Module):
    """One module of a stage: blocks on each resolution, then each gets the sum over all."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[Block(width, width) for _ in range(blocks)]) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self.path(channels, i, j) for j in range(len(channels)))
            for i in range(len(channels))
        )

    @staticmethod
    def path(channels, i, j):
        if i == j:
            return None
        if j > i:
            return conv_bn(channels[j], channels[i], 1)
        steps = [conv_bn(channels[j], channels[j], 3, 2, relu=True) for _ in range(i - j - 1)]
        return nn.Sequential(*steps, conv_bn(channels[j], channels[i], 3, 2))

    def forward(self, parts):
        parts = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            terms = [
                parts[j] if j == i else up(path(parts[j]), parts[i]) if j > i else path(parts[j])
                for j, path in enumerate(row)
            ]
            fused.append(sum(terms).relu())
        return fused


class PublishedHRNet(nn.Module):
    """HRNetV2 of HRNet-Semantic-Segmentation, with one module and one block where it has more."""

    def __init__(self, classes=5):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2)
        self.layer1 = nn.Sequential(Block(64, 64, True), Block(256, 64, True))
        self.transition1 = nn.ModuleList(
            [
                conv_bn(256, CHANNELS[0], relu=True),
                nn.Sequential(conv_bn(256, CHANNELS[1], 3, 2, True)),
            ]
        )
        for stage in (2, 3, 4):
            modules = [Exchange(CHANNELS[:stage], 2) for _ in range(2 if stage == 3 else 1)]
            setattr(self, f'stage{stage}', nn.Sequential(*modules))
        for stage in (2, 3):
            new = nn.Sequential(conv_bn(CHANNELS[stage - 1], CHANNELS[stage], 3, 2, True))
            setattr(self, f'transition{stage}', nn.ModuleList([*[None] * stage, new]))
        width = sum(CHANNELS)
        self.last_layer = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer1(self.bn2(self.conv2(x)).relu())
        parts = self.stage2([transition(x) for transition in self.transition1])
        parts = self.stage3([*parts, self.transition2[-1](parts[-1])])
        parts = self.stage4([*parts, self.transition3[-1](parts[-1])])
        return self.last_layer(torch.cat([parts[0], *[up(p, parts[0]) for p in parts[1:]]], 1))


def randomised(model):
    """Random weights and statistics of batch normalisation, so that no term is zero."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


def hrnet_config():
    cfg = Config.fromfile(
        ROOT / 'configs/cityscapes/segcertify-s0.25-n100_fcn-hr48_cityscapes-1024x2048.py'
    )
    model, extra = cfg.model, cfg.model.backbone.extra
    model.pretrained = None
    extra.stage1.num_blocks = (2,)
    for stage in (2, 3, 4):
        extra[f'stage{stage}'].update(
            num_modules=2 if stage == 3 else 1,
            num_blocks=(2,) * stage,
            num_channels=CHANNELS[:stage],
        )
    model.decode_head.update(in_channels=list(CHANNELS), channels=sum(CHANNELS), num_classes=5)
    return cfg


def published_hrnet_state(model):
    """As the authors' training saves it: under `model.`, beside the loss and a constant."""
    state = {f'model.{key}': value for key, value in model.state_dict().items()}
    return {'std': torch.ones(1, 3, 1, 1), 'loss.criterion.weight': torch.ones(5), **state}


def build(cfg):
    return MODELS.build(cfg.model).eval()


@pytest.fixture
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.mark.usefixtures('mmseg_scope')
@pytest.mark.parametrize('size', [(64, 96), (33, 61)])
def test_converted_hrnet_computes_what_the_published_one_does(size):
    published, model = randomised(PublishedHRNet()), build(hrnet_config())
    weights = convert(published_hrnet_state(published), model.state_dict())
    model.load_state_dict(weights)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, found = published(images), model(images)
    assert expected.std() > 0.1
    if size == (64, 96):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:
        # mmsegmentation's HRNet doubles a map before it brings it to the size of a finer one, which
        # is another interpolation where a side is no multiple of 32.
        assert found.shape == expected.shape


def test_the_tool_writes_a_checkpoint_that_certifies_strictly(tmp_path):
    published = randomised(PublishedHRNet())
    torch.save(published_hrnet_state(published), tmp_path / 'cityscapes.pth')
    cfg = hrnet_config()
    cfg.dump(tmp_path / 'config.py')
    out = tmp_path / 'out.pth'
    printed = run_tool(
        'tools/convert_checkpoint.py', tmp_path / 'config.py', tmp_path / 'cityscapes.pth', out
    )
    assert 'all of the model' in printed
    assert mismatches(build(cfg), torch.load(out)) == []


@pytest.mark.usefixtures('mmseg_scope')
def test_names_what_does_not_fit():
    published, model = randomised(PublishedHRNet()), build(hrnet_config()).state_dict()
    state = published_hrnet_state(published)
    with pytest.raises(ConversionError, match=r'no checkpoint of the published .* it has other'):
        convert({'other': torch.ones(1)}, model)
    with pytest.raises(ConversionError, match='unknown weights: backbone.ocr_head.weight'):
        convert({**state, 'model.ocr_head.weight': torch.ones(1)}, model)
    with pytest.raises(ConversionError, match='checkpoint lacks: backbone.conv1.weight'):
        convert({k: v for k, v in state.items() if k != 'model.conv1.weight'}, model)
    wrong = {**state, 'model.last_layer.3.bias': torch.ones(7)}
    with pytest.raises(ConversionError, match=r'conv_seg.bias has shape \(7,\), the model \(5,\)'):
        convert(wrong, model)


# PointNet++


def take(values, indices):
    """Rows (B, ..., C) of values (B, N, C)."""
    batch = torch.arange(len(values)).view(-1, *[1] * (indices.dim() - 1))
    return values[batch, indices]


def farthest(xyz, count):
    """Farthest point sampling from the first point on; the published code starts anywhere."""
    chosen = [torch.zeros(len(xyz), dtype=torch.long)]
    distance = torch.full(xyz.shape[:2], 1e10)
    while len(chosen) < count:
        last = take(xyz, chosen[-1][:, None])
        distance = torch.minimum(distance, (xyz - last).pow(2).sum(-1))
        chosen.append(distance.argmax(1))
    return torch.stack(chosen, 1)


def ball(xyz, centres, radius, count):
    """The first points in a ball, repeated to `count`."""
    number = xyz.shape[1]
    squared = (centres[:, :, None] - xyz[:, None]).pow(2).sum(-1)
    indices = torch.arange(number).expand_as(squared).clone()
    indices[squared > radius**2] = number
    indices = indices.sort(-1).values[..., :count]
    return torch.where(indices == number, indices[..., :1], indices)


def layers(inside, sizes, conv, norm):
    convs, bns = nn.ModuleList(), nn.ModuleList()
    for size in sizes:
        convs.append(conv(inside, size, 1))
        bns.append(norm(size))
        inside = size
    return convs, bns


def run(x, convs, bns):
    for conv, bn in zip(convs, bns, strict=True):
        x = bn(conv(x)).relu()
    return x


class Grouped(nn.Module):
    """Set abstraction with several groupings: features first, then relative coordinates."""

    def __init__(self, count, radii, samples, inside, sizes):
        super().__init__()
        self.count, self.radii, self.samples = count, radii, samples
        pairs = [layers(inside + 3, size, nn.Conv2d, nn.BatchNorm2d) for size in sizes]
        self.conv_blocks = nn.ModuleList(convs for convs, _ in pairs)
        self.bn_blocks = nn.ModuleList(bns for _, bns in pairs)

    def forward(self, xyz, features):
        centres = take(xyz, farthest(xyz, self.count))
        found = []
        for radius, samples, convs, bns in zip(
            self.radii, self.samples, self.conv_blocks, self.bn_blocks, strict=True
        ):
            indices = ball(xyz, centres, radius, samples)
            near = take(xyz, indices) - centres[:, :, None]
            group = torch.cat([take(features, indices), near], -1).permute(0, 3, 2, 1)
            found.append(run(group, convs, bns).amax(2))
        return centres, torch.cat(found, 1).transpose(1, 2)


class All(nn.Module):
    """Set abstraction over all points: coordinates first, then features."""

    def __init__(self, inside, sizes):
        super().__init__()
        self.mlp_convs, self.mlp_bns = layers(inside + 3, sizes, nn.Conv2d, nn.BatchNorm2d)

    def forward(self, xyz, features):
        group = torch.cat([xyz, features], -1).transpose(1, 2)[..., None]
        found = run(group, self.mlp_convs, self.mlp_bns).amax(2)
        return torch.zeros(len(xyz), 1, 3), found.transpose(1, 2)


class Propagate(nn.Module):
    """Feature propagation: the finer level's features first, then the interpolated ones."""

    def __init__(self, inside, sizes):
        super().__init__()
        self.mlp_convs, self.mlp_bns = layers(inside, sizes, nn.Conv1d, nn.BatchNorm1d)

    def forward(self, fine, coarse, skip, features):
        if coarse.shape[1] == 1:
            found = features.expand(-1, fine.shape[1], -1)
        else:
            squared = (fine[:, :, None] - coarse[:, None]).pow(2).sum(-1)
            near, indices = squared.topk(3, largest=False)
            weight = 1 / (near + 1e-8)
            weight = weight / weight.sum(-1, keepdim=True)
            found = (take(features, indices) * weight[..., None]).sum(2)
        group = torch.cat([skip, found], -1).transpose(1, 2)
        return run(group, self.mlp_convs, self.mlp_bns).transpose(1, 2)


class PublishedPointNet2(nn.Module):
    """The multi-scale part segmentation of Pointnet_Pointnet2_pytorch, narrower."""

    def __init__(self, normals):
        super().__init__()
        more = 3 if normals else 0
        self.sa1 = Grouped(32, (0.4, 0.8), (8, 16), 3 + more, ((8, 8), (8, 12)))
        self.sa2 = Grouped(8, (0.8,), (16,), 20, ((8, 16),))
        self.sa3 = All(16, (16, 24))
        self.fp3 = Propagate(40, (16, 16))
        self.fp2 = Propagate(36, (16, 12))
        self.fp1 = Propagate(12 + 16 + 3 + 3 + more, (12, 8))
        self.conv1, self.bn1 = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)
        self.conv2 = nn.Conv1d(8, 50, 1)

    def forward(self, points, category):
        xyz = points[..., :3]
        xyz1, features1 = self.sa1(xyz, points)
        xyz2, features2 = self.sa2(xyz1, features1)
        xyz3, features3 = self.sa3(xyz2, features2)
        features2 = self.fp3(xyz2, xyz3, features2, features3)
        features1 = self.fp2(xyz1, xyz2, features1, features2)
        own = torch.cat([category[:, None].expand(-1, len(points[0]), -1), xyz, points], -1)
        found = self.fp1(xyz, xyz1, own, features1).transpose(1, 2)
        return self.conv2(self.bn1(self.conv1(found)).relu())


@pytest.mark.usefixtures('mmdet3d_scope')
@pytest.mark.parametrize('kind', ['normals', 'xyz'])
def test_converted_pointnet2_computes_what_the_published_one_does(kind):
    install_cpu_point_ops()
    name = f'pointnet2-msg-published_noise-s0.25-250e_shapenet-part-{kind}-2048'
    cfg = Config.fromfile(ROOT / f'configs/shapenet_part/{name}.py')
    own = cfg.model.decode_head.fp_channels[-1][0] - 128
    cfg.model.backbone.update(
        num_points=(32, 8, 1),
        radii=((0.4, 0.8), (0.8,), (10.0,)),
        num_samples=((8, 16), (16,), (16,)),
        sa_channels=(((8, 8), (8, 12)), ((8, 16),), ((16, 24),)),
    )
    cfg.model.decode_head.update(
        channels=8, fp_channels=((40, 16, 16), (36, 16, 12), (12 + own, 12, 8))
    )
    published, model = randomised(PublishedPointNet2(kind == 'normals')), build(cfg)
    saved = {'epoch': 3, 'model_state_dict': published.state_dict(), 'optimizer_state_dict': {}}
    model.load_state_dict(convert(saved, model.state_dict()))
    points = torch.rand(3, 64, 6 if kind == 'normals' else 3) * 2 - 1
    category = torch.eye(16)[[4, 0, 11]]
    with torch.no_grad():
        expected = published(points, category)
        inputs = torch.cat([points, category[:, None].expand(-1, 64, -1)], -1)
        found = model.decode_head(model.extract_feat(inputs))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures('mmdet3d_scope')
def test_full_pointnet2_has_the_published_shapes():
    cfg = Config.fromfile(
        ROOT / 'configs/shapenet_part/'
        'pointnet2-msg-published_noise-s0.25-250e_shapenet-part-normals-2048.py'
    )
    state = build(cfg).state_dict()
    # The input channels of the published model: 9 at its first level, 153 at its last.
    assert state['backbone.SA_modules.0.mlps.0.layer0.conv.weight'].shape[1] == 9
    assert state['decode_head.FP_modules.2.mlps.layer0.conv.weight'].shape[1] == 153
