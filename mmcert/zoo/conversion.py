"""Published checkpoints under the names that mmsegmentation and mmdetection3d give their weights.

The authors of SegCertify (Fischer, Baader, Vechev, ICML 2021) publish an HRNetV2-W48 for Cityscapes
and one for Pascal Context, trained with the code of HRNet-Semantic-Segmentation, and PointNet++ for
ShapeNetPart, trained with that of Pointnet_Pointnet2_pytorch. Names and order of channels were read
in these repositories; nothing of them is copied here.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


class ConversionError(ValueError):
    """A checkpoint is of no known kind, or does not fill the model."""


def convert(checkpoint: Mapping[str, Any], model: Mapping[str, Tensor]) -> Weights:
    """Renames the weights of a published checkpoint to those of a model, and checks each.

    Where a published convolution has a bias before batch normalisation and the model has none, the
    bias is subtracted from the running mean, which gives the same output in testing.

    Args:
        checkpoint (Mapping): What the file holds: weights, or a dictionary with the weights under
            'state_dict' or 'model_state_dict'.
        model (Mapping[str, Tensor]): The state dict of the model from the config.

    Returns:
        dict[str, Tensor]: A state dict with the keys and shapes of the model's.

    Raises:
        ConversionError: If the checkpoint is of no known kind, if it has weights that the
            architecture does not know, or if the model's weights are not all filled.
    """
    weights = _weights(checkpoint)
    for first, rename in KINDS.items():
        if first in weights:
            found = rename(weights)
            break
    else:
        raise ConversionError(
            'this is no checkpoint of the published HRNet (it would have last_layer.0.weight) nor '
            f'of the published PointNet++ (sa1...); it has {_some(sorted(weights))}'
        )
    _fold_biases(found, model)
    # The counter of batches is not in checkpoints of old versions, and has no use in testing.
    for key in model.keys() - found.keys():
        if key.endswith('num_batches_tracked'):
            found[key] = torch.zeros_like(model[key])
    _check(found, model)
    return found


def _weights(checkpoint: Mapping[str, Any]) -> Weights:
    """The tensors of a checkpoint, without what training added to their names and to them."""
    for key in ('state_dict', 'model_state_dict'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    tensors = {re.sub(r'^(module\.)?(model\.)?', '', key): tensors[key] for key in tensors}
    # The loss with its class weights, and the constants of normalisation, lie beside the model.
    return {k: v for k, v in tensors.items() if k not in ('mean', 'std') and k[:5] != 'loss.'}


def hrnet(weights: Mapping[str, Tensor]) -> Weights:
    """HRNet-Semantic-Segmentation's HRNetV2 as mmsegmentation's HRNet with an FCNHead."""
    last = {
        'last_layer.0': 'decode_head.convs.0.conv',
        'last_layer.1': 'decode_head.convs.0.bn',
        'last_layer.3': 'decode_head.conv_seg',
    }
    found = {}
    for key, value in weights.items():
        layer, _, name = key.rpartition('.')
        # The backbone's names are those of the original.
        found[f'{last[layer]}.{name}' if layer in last else f'backbone.{key}'] = value
    return found


def pointnet2(weights: Mapping[str, Tensor]) -> Weights:
    """Pointnet_Pointnet2_pytorch's part segmentation as ``mmcert.PartSegmentor``.

    The published multi-scale modules put the features of a group before its coordinates, and the
    propagation modules put the features of the finer level before the interpolated ones;
    mmdetection3d puts both the other way round.
    """
    found = {}
    for key, value in weights.items():
        for pattern, target in POINTNET2:
            if match := re.fullmatch(pattern, key):
                module, new = match[1], target(match)
                if key.endswith('.0.weight') and '_blocks.' in key and value.dim() > 1:
                    value = _to_front(value, 3)
                if module.startswith('fp') and value.dim() > 1:
                    if key.endswith('.0.weight'):
                        value = _to_front(value, _interpolated(module, weights))
                    value = value.unsqueeze(-1)
                found[new] = value
                break
        else:
            found[key] = value
    return found


def _sa(match: re.Match) -> str:
    """A layer of a set abstraction module; with several groupings they are numbered first."""
    grouping = match['grouping'] or 0
    kind = {'conv': 'conv', 'bn': 'bn'}[match['kind']]
    level = int(match[1][2:]) - 1
    return (
        f'backbone.SA_modules.{level}.mlps.{grouping}.layer{match["layer"]}.{kind}.{match["name"]}'
    )


def _fp(match: re.Match) -> str:
    """A layer of a propagation module; mmdetection3d counts them from the coarsest level."""
    level = 3 - int(match[1][2:])
    return (
        f'decode_head.FP_modules.{level}.mlps.layer{match["layer"]}.{match["kind"]}.{match["name"]}'
    )


POINTNET2: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (r'(sa\d)\.(?P<kind>conv|bn)_blocks\.(?P<grouping>\d+)\.(?P<layer>\d+)\.(?P<name>\w+)', _sa),
    (r'(sa\d)\.mlp_(?P<kind>conv|bn)s(?P<grouping>)\.(?P<layer>\d+)\.(?P<name>\w+)', _sa),
    (r'(fp\d)\.mlp_(?P<kind>conv|bn)s\.(?P<layer>\d+)\.(?P<name>\w+)', _fp),
    (r'(conv1)\.(\w+)', lambda match: f'decode_head.pre_seg_conv.conv.{match[2]}'),
    (r'(bn1)\.(\w+)', lambda match: f'decode_head.pre_seg_conv.bn.{match[2]}'),
    (r'(conv2)\.(\w+)', lambda match: f'decode_head.conv_seg.{match[2]}'),
)


def _interpolated(module: str, weights: Mapping[str, Tensor]) -> int:
    """Channels that a propagation module gets from the coarser level."""
    below = {'fp3': 'sa3', 'fp2': 'fp3', 'fp1': 'fp2'}[module]
    layers = [key for key in weights if re.fullmatch(rf'{below}\.mlp_convs\.\d+\.weight', key)]
    return weights[max(layers)].shape[0]


def _to_front(weight: Tensor, count: int) -> Tensor:
    """A convolution's weight for inputs whose last ``count`` channels come first."""
    return torch.cat([weight[:, -count:], weight[:, :-count]], dim=1)


KINDS: dict[str, Callable[[Mapping[str, Tensor]], Weights]] = {
    'last_layer.0.weight': hrnet,
    'sa1.conv_blocks.0.0.weight': pointnet2,
    'sa1.mlp_convs.0.weight': pointnet2,
}
"""A weight that each kind of published checkpoint has, and how to rename them."""


def _fold_biases(found: Weights, model: Mapping[str, Tensor]) -> None:
    for key in [key for key in found if key.endswith('.conv.bias') and key not in model]:
        mean = key.removesuffix('.conv.bias') + '.bn.running_mean'
        if mean in found:
            found[mean] = found[mean] - found.pop(key)


def _check(found: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Refuses weights that are not those of the model, and says which."""
    shapes = [
        f'{key} has shape {tuple(found[key].shape)}, the model {tuple(model[key].shape)}'
        for key in sorted(found.keys() & model.keys())
        if found[key].shape != model[key].shape
    ]
    problems = {
        'unknown weights': sorted(found.keys() - model.keys()),
        'weights that the checkpoint lacks': sorted(model.keys() - found.keys()),
        'other shapes': shapes,
    }
    if said := [f'{name}: {_some(keys)}' for name, keys in problems.items() if keys]:
        raise ConversionError(
            f'the checkpoint does not fit the config: {"; ".join(said)}. Is the config of this '
            'architecture, width and number of classes?'
        )


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 8} more' if len(names) > 8 else ''
    return f'{", ".join(names[:8])}{more}'
