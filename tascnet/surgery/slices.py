"""Layers with a part of their channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from tascnet.models.layers import GRN, LayerNorm2d, LayerScale, Offset
from tascnet.surgery.layers import CONVS


def keep_channels(
    layer: nn.Module,
    *,
    outputs: Tensor | None = None,
    inputs: Tensor | None = None,
    passed: Tensor | None = None,
) -> None:
    """Remove all other channels of a layer, in place.

    Parameters are new, contiguous objects; their type, device and `requires_grad` stay.

    Args:
        outputs: of a convolution or linear layer, the indices that are kept, sorted; of a grouped convolution
            whole groups of them; None: all.
        inputs: the same of a convolution without groups or a linear layer.
        passed: the same of a layer that has weights for each channel.
    """
    if isinstance(layer, CONVS):
        _keep_in_convolution(layer, outputs, inputs)
    elif isinstance(layer, nn.Linear):
        _keep(layer, "weight", outputs, inputs)
        _keep(layer, "bias", outputs)
        layer.out_features, layer.in_features = layer.weight.shape
    elif passed is not None:
        _keep_passed(layer, passed)


def _keep_in_convolution(layer: Any, outputs: Tensor | None, inputs: Tensor | None) -> None:
    if layer.groups > 1 and outputs is not None:
        in_group = layer.in_channels // layer.groups
        layer.groups = layer.groups * len(outputs) // layer.out_channels
        layer.in_channels = in_group * layer.groups
    elif inputs is not None:
        layer.in_channels = len(inputs)
    _keep(layer, "weight", outputs, inputs)
    _keep(layer, "bias", outputs)
    layer.out_channels = len(layer.weight)


def _keep_passed(layer: Any, passed: Tensor) -> None:
    count = len(passed)
    if isinstance(layer, LayerScale | Offset):
        (dim,) = (dim for dim, size in enumerate(layer.weight.shape) if size > 1)
        _keep(layer, "weight", *[None] * dim, passed)
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        if hasattr(layer, name):
            _keep(layer, name, passed)
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        layer.num_features = count
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = count
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (count,)
    elif isinstance(layer, LayerNorm2d | GRN):
        layer.num_channels = count
    elif isinstance(layer, nn.GroupNorm):
        if layer.num_groups > 1:
            layer.num_groups = layer.num_groups * count // layer.num_channels
        layer.num_channels = count


def _keep(layer: nn.Module, name: str, *kept: Tensor | None) -> None:
    """Remove all other positions of a parameter or buffer, by dimension; None: none."""
    old = getattr(layer, name)
    if old is None or not any(indices is not None for indices in kept):
        return
    wanted = [None if indices is None else indices.to(old.device) for indices in kept]
    with torch.no_grad():
        new = old.detach()
        if all(indices is not None for indices in wanted) and len(wanted) == 2:
            # In one step, which copies once.
            new = new[wanted[0][:, None], wanted[1]]  # type: ignore[index]
        else:
            for dim, indices in enumerate(wanted):
                new = new if indices is None else new.index_select(dim, indices)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(layer, name, new)
