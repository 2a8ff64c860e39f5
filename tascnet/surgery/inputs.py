"""Where the channels of a width group arrive: the inputs of the layers that read them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery.groups import WidthGroup, cut_group
from tascnet.surgery.layers import block_of
from tascnet.surgery.trace import Trace, trace


def consumer_inputs(
    chain: nn.Sequential, example: Tensor, groups: Sequence[WidthGroup]
) -> dict[str, dict[str, Tensor]]:
    """For each consumer of each group the positions among its inputs at which the channels arrive.

    Args:
        chain: the chain that the groups belong to.
        example: `1 x c x h x w`, one sample as its first block takes it.
        groups: some of `width_groups(chain, example)`.

    Returns:
        By group and consumer, `width x s` indices of input channels or features: `s` is 1 as a rule, and
        the number of pixels where a map was flattened before a linear layer.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    traced = trace(chain, example)
    for group in groups:
        _check_layer(traced, group.name)
    return {group.name: _inputs(traced, group) for group in groups}


def channel_slots(
    chain: nn.Sequential, example: Tensor, groups: Iterable[str], watched: Collection[str] = ()
) -> dict[str, dict[str, tuple[int, int]]]:
    """For each group how many inputs and outputs of each layer go with one channel.

    Args:
        chain: the chain that the groups belong to; left as it is.
        example: `1 x c x h x w`, one sample as its first block takes it.
        groups: names of some of `width_groups(chain, example)`.
        watched: layers that the graph does not know, by name; the channels that they take are counted.

    Returns:
        By group and layer, inputs and outputs: 1 as a rule, more inputs where a map was flattened or the
        channels arrive more than once. Layers with none are left out.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    traced = trace(chain, example)
    taken = _channels_taken(traced, watched) if watched else {}
    found = {}
    for name in groups:
        _check_layer(traced, name)
        found[name], touched = _lose_one(traced, name)
        blocks = [block_of(chain, layer) for layer in touched]
        if any(min(blocks) <= block_of(chain, layer) <= max(blocks) for layer in watched):
            now = _channels_taken(traced, watched)
            lost = {layer: taken[layer] - now[layer] for layer in watched}
            found[name] |= {layer: (count, count) for layer, count in lost.items() if count}
            taken = now
    return found


def _check_layer(traced: Trace, name: str) -> None:
    if name not in traced.names.values():
        raise SurgeryError(f"'{name}' is no layer of the chain")


def _inputs(traced: Trace, group: WidthGroup) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for item in cut_group(traced, group.name, range(group.width)).items:
        name = traced.names.get(item.dep.target.module, "")
        if name in group.consumers:
            indices = torch.tensor(list(item.idxs)).reshape(group.width, -1)
            found.setdefault(name, []).append(indices)
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}


def _lose_one(traced: Trace, group: str) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Cut a group's last channel on the copy: inputs and outputs lost by layer, and all layers touched."""
    _, width = _size(traced.ghost.get_submodule(group))
    coupled = cut_group(traced, group, [width - 1])
    modules = [item.dep.target.module for item in coupled.items]
    layers = {traced.names[module]: module for module in modules if module in traced.names}
    before = {name: _size(layer) for name, layer in layers.items()}
    coupled.prune(record_history=False)
    lost = {}
    for name, layer in layers.items():
        inputs, outputs = (old - new for old, new in zip(before[name], _size(layer), strict=True))
        if inputs or outputs:
            lost[name] = (inputs, outputs)
    return lost, list(layers)


def _size(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a layer that a cut touches."""
    for inputs, outputs in (
        ("in_channels", "out_channels"),
        ("in_features", "out_features"),
        ("num_features", "num_features"),
        ("num_parameters", "num_parameters"),
    ):
        if hasattr(layer, inputs):
            return int(getattr(layer, inputs)), int(getattr(layer, outputs))
    raise SurgeryError(f"a layer of type {type(layer).__name__} has no width")


def _channels_taken(traced: Trace, names: Collection[str]) -> dict[str, int]:
    """Channels of the first input of layers of the copy."""
    taken: dict[str, int] = {}

    def watch(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            taken.setdefault(name, int(inputs[0].shape[1]))

        return traced.ghost.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name in names]
    try:
        traced.forward()
    finally:
        for handle in handles:
            handle.remove()
    return taken
