"""What networks cost that are not built: as a function of widths and kernels, or of shapes.

A layer has inputs x outputs x area of the kernel weights, each used once for every pixel of its output; a
grouped convolution has as many inputs for each output whatever its width. What a layer costs in another size
follows from what was counted in its own.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.exporting.layers import Layer
from tascnet.measure.complexity import LayerCost, complexity
from tascnet.models.inspect import hooked, input_for, meta_copy, meta_like
from tascnet.models.layers import LayerNorm2d
from tascnet.surgery.groups import WidthGroup
from tascnet.surgery.layers import WEIGHTED

# Inputs, outputs and area of the kernel of a layer.
Size: TypeAlias = Sequence[int]


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
            removed: by group, how many units, and by layer the inputs and outputs removed with one.
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
    """Parameters and FLOPs of a network as functions of the units removed from its groups.

    FLOPs that a layer or a step of a `Graph` needs for each channel without having filters for it (a linear
    layer over the pixels of each map, a product of matrices) count as they are.

    Attributes:
        params, flops: of the network as it is, the latter for one sample.
        layers: what each of its layers costs, by name.
        lost: see `lost_sizes`.

    Raises:
        SurgeryError: a layer's cost does not follow from its widths.
    """

    def __init__(self, chain: nn.Sequential, example: Tensor, groups: Iterable[WidthGroup]) -> None:
        measured = complexity(chain, example)
        self.params, self.flops = measured.params, measured.flops
        self.layers = {cost.name: cost for cost in measured.layers}
        self.lost = lost_sizes(groups, self.layers)
        names = (name for layers in self.lost.values() for name in layers)
        self._layers = SizedLayers(chain, self.layers, names)

    def __call__(self, removed: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and FLOPs without the units removed, as counts by group."""
        params, flops = self._layers.change((count, self.lost[group]) for group, count in removed.items())
        return self.params + params, self.flops + flops

    def saved(self, group: str) -> tuple[int, int]:
        """Parameters and FLOPs that one unit of a group costs."""
        params, flops = self._layers.change([(1, self.lost[group])])
        return -params, -flops


@dataclass(frozen=True, kw_only=True)
class WidthTimes:
    """Milliseconds of a network as a function of the units removed from its groups: the sum of its layers.

    Args:
        layers: with their names, as often as one pass computes them.
        lost: see `lost_sizes`.
        times: milliseconds of layers.
        factor: of all of them.
    """

    layers: Sequence[tuple[str, Layer]]
    lost: Mapping[str, Mapping[str, tuple[int, int]]]
    times: Callable[[Sequence[Layer]], list[float]]
    factor: float = 1.0

    def __call__(self, removed: Mapping[str, int]) -> float:
        """Milliseconds without the units removed, as counts by group."""
        return self.of(self.layers, removed)

    def of(self, layers: Sequence[tuple[str, Layer]], removed: Mapping[str, int]) -> float:
        """Milliseconds of some of the layers without the units removed."""
        return self.factor * sum(self.times([self.sized(name, layer, removed) for name, layer in layers]))

    def sized(self, name: str, layer: Layer, removed: Mapping[str, int]) -> Layer:
        """A layer without the units removed."""
        inputs, outputs = layer.size
        for group, count in removed.items():
            fewer_inputs, fewer_outputs = self.lost[group].get(name, (0, 0))
            inputs, outputs = inputs - count * fewer_inputs, outputs - count * fewer_outputs
        return layer if (inputs, outputs) == layer.size else layer.resized(inputs, outputs)

    def by_groups(self) -> dict[tuple[str, ...], list[tuple[str, Layer]]]:
        """The layers whose size depends on the same groups; those of none under `()`."""
        found: dict[tuple[str, ...], list[tuple[str, Layer]]] = {}
        for name, layer in self.layers:
            groups = tuple(group for group, slots in self.lost.items() if any(slots.get(name, ())))
            found.setdefault(groups, []).append((name, layer))
        return found

    def changing(self) -> Iterator[tuple[Layer, bool, bool]]:
        """The layers, each with whether some group changes its inputs, and its outputs."""
        for name, layer in self.layers:
            slots = [slots[name] for slots in self.lost.values() if name in slots]
            yield layer, any(inputs for inputs, _ in slots), any(outputs for _, outputs in slots)


def lost_sizes(
    groups: Iterable[WidthGroup], costs: Mapping[str, LayerCost]
) -> dict[str, dict[str, tuple[int, int]]]:
    """By group and layer, inputs and outputs of the layer's size that are removed with one unit.

    `costs` are those of layers by name; layers that cost nothing are left out.
    """
    free = {name for name, cost in costs.items() if not cost.params and not cost.flops}

    def size(group: WidthGroup, name: str) -> tuple[int, int]:
        given = group.outputs if name in group.outputs else group.passed
        return tuple(at[name].shape[1] if name in at else 0 for at in (group.inputs, given))  # type: ignore[return-value]

    return {
        group.name: {
            name: size(group, name)
            for name in {**group.outputs, **group.passed, **group.inputs}
            if name not in free
        }
        for group in groups
    }


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
    elif (own := _channels(module)) is not None:
        channels = own
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


def _channels(module: nn.Module) -> int | None:
    """Channels of a layer that keeps something for each of them; None: it is no such layer."""
    for name in ("num_features", "num_channels", "num_parameters"):
        if isinstance(found := getattr(module, name, None), int):
            return found
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    sizes = (size for parameter in module.parameters() for size in parameter.shape if size > 1)
    return next(sizes, None)


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
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm | LayerNorm2d):
            flops = size * (5 if layer.weight is not None else 4)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            flops = size
        elif isinstance(layer, nn.Upsample):
            flops = output.numel()
        costs[name] = sum(parameter.numel() for parameter in layer.parameters()), flops

    leaves = [(name, layer) for name, layer in ghost.named_modules() if not any(layer.children())]
    with hooked(layer.register_forward_hook(partial(note, name)) for name, layer in leaves), torch.no_grad():
        ghost(input_for(ghost, meta_like(example)))
    return costs
