"""Parameters and FLOPs of networks that are not built: as functions of widths and kernels, or of shapes.

A layer has inputs x outputs x area of the kernel weights, each used once for every pixel of its output:
what it costs in another size follows from what was counted in its own.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure.complexity import LayerCost, complexity
from tascnet.models.inspect import hooked, input_for, meta_copy, meta_like
from tascnet.surgery.inputs import channel_slots
from tascnet.surgery.layers import BATCH_NORMS, WEIGHTED, is_depthwise
from tascnet.surgery.trace import Trace

# Inputs, outputs and area of the kernel of a layer.
Size: TypeAlias = Sequence[int]

# The dependency graph says how a cut changes these.
_IN_GRAPH = (*WEIGHTED, *BATCH_NORMS, nn.PReLU)


@dataclass(frozen=True, kw_only=True)
class SizedLayer:
    """A layer's cost as a function of its size.

    Args:
        size: in the network as it is; no inputs where it has no weight for each of them.
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


class SizedLayers:
    """What the layers `names` of a network cost in other sizes; `costs` are those of its layers by name.

    Raises:
        SurgeryError: the cost of one of them does not follow from its size.
    """

    def __init__(self, chain: nn.Module, costs: Mapping[str, LayerCost], names: Iterable[str]) -> None:
        self._layers = {name: sized_layer(chain.get_submodule(name), costs[name]) for name in set(names)}

    def change(
        self,
        removed: Iterable[tuple[int, Mapping[str, tuple[int, int]]]],
        areas: Mapping[str, int] | None = None,
        without: Collection[str | None] = (),
    ) -> tuple[int, int]:
        """Parameters and FLOPs that are added, negative where they are fewer.

        Args:
            removed: by group, how many channels, and by layer the inputs and outputs removed with one.
            areas: new areas of kernels, by layer.
            without: blocks in which changes do not count.
        """
        sizes: dict[str, list[int]] = {}
        for count, slots in removed:
            for name, (inputs, outputs) in slots.items():
                size = sizes.setdefault(name, list(self._layers[name].size))
                size[0] -= count * inputs
                size[1] -= count * outputs
        for name, area in (areas or {}).items():
            sizes.setdefault(name, list(self._layers[name].size))[2] = area
        params = flops = 0
        for name, size in sizes.items():
            if name.partition(".")[0] not in without:
                layer = self._layers[name]
                old, new = layer.cost(layer.size), layer.cost(size)
                params, flops = params + new[0] - old[0], flops + new[1] - old[1]
        return params, flops


class WidthCosts:
    """Parameters and FLOPs of a network as functions of the channels removed from its groups.

    `params` and `flops` are those of the network as it is, the latter for one sample.

    Raises:
        SurgeryError: a group is not one of the chain's, or a layer's cost does not follow from its widths.
    """

    def __init__(self, chain: nn.Sequential, example: Tensor | Trace, groups: Iterable[str]) -> None:
        measured = complexity(chain, example.example if isinstance(example, Trace) else example)
        self.params, self.flops = measured.params, measured.flops
        costs = {cost.name: cost for cost in measured.layers}
        self._lost = lost_sizes(chain, example, groups, costs)
        self._layers = SizedLayers(chain, costs, (name for layers in self._lost.values() for name in layers))

    def __call__(self, removed: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and FLOPs without the channels removed, as counts by group."""
        params, flops = self._layers.change((count, self._lost[group]) for group, count in removed.items())
        return self.params + params, self.flops + flops

    def saved(self, group: str) -> tuple[int, int]:
        """Parameters and FLOPs that one channel of a group costs."""
        params, flops = self._layers.change([(1, self._lost[group])])
        return -params, -flops


def lost_sizes(
    chain: nn.Sequential, example: Tensor | Trace, groups: Iterable[str], costs: Mapping[str, LayerCost]
) -> dict[str, dict[str, tuple[int, int]]]:
    """By group and layer, inputs and outputs of the layer's size that are removed with one channel.

    `costs` are those of layers by name; layers of other chains may be among them.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    modules = dict(chain.named_modules())
    watched = [
        name
        for name, cost in costs.items()
        if name in modules and cost.flops and not isinstance(modules[name], _IN_GRAPH)
    ]
    slots = channel_slots(chain, example, groups, watched)

    def size(name: str, slot: tuple[int, int]) -> tuple[int, int]:
        # An input counts by itself only where there is a weight for each input and output.
        has_inputs = isinstance(modules[name], WEIGHTED) and not is_depthwise(modules[name])
        return slot[0] if has_inputs else 0, slot[1]

    return {group: {name: size(name, slot) for name, slot in by.items()} for group, by in slots.items()}


def sized_layer(module: nn.Module, cost: LayerCost) -> SizedLayer:
    """A layer's cost as a function of its size, checked against the measured one.

    Raises:
        SurgeryError: the measured cost does not follow from the layer's widths.
    """
    layer, channels = None, None
    if isinstance(module, WEIGHTED):
        outputs, inputs, *kernel = module.weight.shape
        size = (inputs, outputs, math.prod(kernel))
        layer = SizedLayer(
            size=size,
            flops_per_weight=cost.flops // math.prod(size),
            params_per_output=int(module.bias is not None),
        )
    elif isinstance(module, BATCH_NORMS):
        channels = module.num_features
    elif isinstance(module, nn.PReLU):
        channels = module.num_parameters
    elif cost.in_shape is not None:
        # A layer without parameters, where a channel alone costs a channel's share.
        with suppress(RuntimeError):
            alone = complexity(module, torch.zeros(1, 1, *cost.in_shape[2:]))
            if alone.params == 0 and alone.flops * cost.in_shape[1] == cost.flops:
                channels = cost.in_shape[1]
    if channels is not None:
        layer = SizedLayer(
            size=(0, channels, 1),
            params_per_output=cost.params // channels,
            flops_per_output=cost.flops // channels,
        )
    if layer is None or layer.cost(layer.size) != (cost.params, cost.flops):
        raise SurgeryError(
            f"the cost of layer '{cost.name}' ({cost.kind}) does not follow from its widths",
            "take it out of the part of the network that is searched",
        )
    return layer


def costs_of_shapes(chain: nn.Sequential, example: Tensor) -> dict[str, tuple[int, int]]:
    """Parameters and FLOPs of each layer without children, by name, from the shapes of its input and output.

    For common layers they are those of `complexity`, in a small part of its time; others count nothing. The
    chain needs no values.
    """
    ghost = meta_copy(chain).eval()
    costs: dict[str, tuple[int, int]] = {}

    def note(name: str, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        flops, size = 0, arguments[0].numel()
        if isinstance(layer, WEIGHTED):
            flops = output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            flops = size * (2 if layer.affine else 1)
        elif isinstance(layer, nn.GroupNorm):
            flops = size * (5 if layer.affine else 4)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            flops = size
        elif isinstance(layer, nn.Upsample):
            flops = output.numel()
        costs[name] = sum(parameter.numel() for parameter in layer.parameters()), flops

    leaves = [(name, layer) for name, layer in ghost.named_modules() if not any(layer.children())]
    with hooked(layer.register_forward_hook(partial(note, name)) for name, layer in leaves), torch.no_grad():
        ghost(input_for(ghost, meta_like(example)))
    return costs
