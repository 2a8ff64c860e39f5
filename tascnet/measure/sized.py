"""What layers cost as a function of their widths and kernels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure.complexity import LayerCost, complexity
from tascnet.surgery.inputs import channel_slots
from tascnet.surgery.layers import is_depthwise

# Inputs, outputs and area of the kernel of a layer.
Size: TypeAlias = Sequence[int]

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# The dependency graph tells how a cut changes these.
_KNOWN = (*_WEIGHTED, *_NORMS, nn.PReLU)


@dataclass(frozen=True, kw_only=True)
class SizedLayer:
    """A layer's cost as a function of its size.

    Args:
        size: its own, in the pre-trained network; no inputs where it has no weight for each of them.
        flops_per_weight: pixels at which each weight is used.
        params_per_output: parameters beside the weights.
        flops_per_output: FLOPs beside those of the weights.
    """

    size: Size
    flops_per_weight: int = 0
    params_per_output: int = 0
    flops_per_output: int = 0

    def cost(self, size: Size) -> tuple[int, int]:
        """Parameters and FLOPs of the layer in another size."""
        inputs, outputs, area = size
        weights = inputs * outputs * area
        return (
            weights + self.params_per_output * outputs,
            weights * self.flops_per_weight + self.flops_per_output * outputs,
        )


def lost_sizes(
    chain: nn.Sequential, example: Tensor, groups: Iterable[str], costs: Mapping[str, LayerCost]
) -> dict[str, dict[str, tuple[int, int]]]:
    """By group and layer, by how much a layer's size falls, inputs and outputs, with one channel.

    Args:
        chain: the chain that the groups belong to.
        example: `1 x c x h x w`, one sample as its first block takes it.
        groups: names of some of its width groups.
        costs: by name, what layers cost, other chains' among them.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    modules = dict(chain.named_modules())
    watched = [
        name
        for name, cost in costs.items()
        if name in modules and cost.flops and not isinstance(modules[name], _KNOWN)
    ]
    slots = channel_slots(chain, example, groups, watched)
    return {
        group: {name: _weighed(modules[name], slot) for name, slot in layers.items()}
        for group, layers in slots.items()
    }


def _weighed(layer: nn.Module, slot: tuple[int, int]) -> tuple[int, int]:
    """Only where there is a weight for each input and output an input counts by itself."""
    inputs, outputs = slot
    return (inputs if isinstance(layer, _WEIGHTED) and not is_depthwise(layer) else 0), outputs


def sized_layer(module: nn.Module, cost: LayerCost) -> SizedLayer:
    """A layer's cost as a function of its size, checked against the measured one."""
    layer = None
    if isinstance(module, nn.Linear):
        layer = _weighted((module.in_features, module.out_features, 1), module, cost)
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        inputs = module.in_channels // module.groups
        layer = _weighted((inputs, module.out_channels, math.prod(module.kernel_size)), module, cost)
    elif isinstance(module, _NORMS):
        layer = _channelwise(module.num_features, cost)
    elif isinstance(module, nn.PReLU):
        layer = _channelwise(module.num_parameters, cost)
    elif cost.in_shape is not None and _costs_the_same_for_each_channel(module, cost.in_shape, cost):
        layer = _channelwise(cost.in_shape[1], cost)
    if layer is None or layer.cost(layer.size) != (cost.params, cost.flops):
        raise SurgeryError(
            f"the cost of layer '{cost.name}' ({cost.kind}) does not follow from its widths",
            "take it out of the part of the network that is searched",
        )
    return layer


def _weighted(size: Size, module: nn.Module, cost: LayerCost) -> SizedLayer:
    bias = getattr(module, "bias", None) is not None
    return SizedLayer(size=size, flops_per_weight=cost.flops // math.prod(size), params_per_output=int(bias))


def _channelwise(channels: int, cost: LayerCost) -> SizedLayer:
    return SizedLayer(
        size=(0, channels, 1),
        params_per_output=cost.params // channels,
        flops_per_output=cost.flops // channels,
    )


def _costs_the_same_for_each_channel(module: nn.Module, shape: tuple[int, ...], cost: LayerCost) -> bool:
    """Whether a layer without parameters costs a channel's share for a channel alone."""
    try:
        alone = complexity(module, torch.zeros(1, 1, *shape[2:]))
    except RuntimeError:
        return False
    return alone.params == 0 and alone.flops * shape[1] == cost.flops
