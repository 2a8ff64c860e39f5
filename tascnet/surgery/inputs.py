"""Where the channels of a width group arrive: the inputs of the layers that read them."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.inspect import hooked
from tascnet.surgery.layers import block_of
from tascnet.surgery.trace import Trace, WidthGroup

# What layers of each kind call the numbers of their inputs and outputs.
_SIZES = (
    ("in_channels", "out_channels"),
    ("in_features", "out_features"),
    ("num_features", "num_features"),
    ("num_parameters", "num_parameters"),
)


def consumer_inputs(
    chain: nn.Sequential, example: Tensor | Trace, groups: Sequence[WidthGroup]
) -> dict[str, dict[str, Tensor]]:
    """By group and consumer, the positions `width x s` among its inputs at which the channels arrive.

    `s` is the number of pixels where a map was flattened before a linear layer, otherwise 1 as a rule.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    trace = Trace.of(chain, example)
    _check_layers(trace, [group.name for group in groups])
    inputs: dict[str, dict[str, Tensor]] = {}
    for group in groups:
        parts: dict[str, list[Tensor]] = {}
        for item in trace.coupled(group.name, range(group.width)).items:
            name = trace.names.get(item.dep.target.module, "")
            if name in group.consumers:
                parts.setdefault(name, []).append(torch.tensor(list(item.idxs)).reshape(group.width, -1))
        inputs[group.name] = {name: torch.cat(indices, dim=1) for name, indices in parts.items()}
    return inputs


def channel_slots(
    chain: nn.Sequential, example: Tensor | Trace, groups: Iterable[str], watched: Collection[str] = ()
) -> dict[str, dict[str, tuple[int, int]]]:
    """By group and layer, how many inputs and outputs are removed with one channel; others are left out.

    `watched` are layers that the graph does not know: the channels that they take are counted.

    Raises:
        SurgeryError: a group is not one of the chain's.
    """
    trace, names = Trace.of(chain, example), list(groups)
    _check_layers(trace, names)
    slots = {}
    with trace.rehearsal():
        taken = _channels_taken(trace, watched) if watched else {}
        for name in names:
            coupled = trace.coupled(name, [_size(trace.ghost.get_submodule(name))[1] - 1])
            modules = [item.dep.target.module for item in coupled.items]
            touched = {trace.names[module]: module for module in modules if module in trace.names}
            before = {layer: _size(module) for layer, module in touched.items()}
            coupled.prune(record_history=False)
            after = {layer: _size(module) for layer, module in touched.items()}
            slots[name] = {
                layer: (inputs - after[layer][0], outputs - after[layer][1])
                for layer, (inputs, outputs) in before.items()
                if after[layer] != (inputs, outputs)
            }
            blocks = [block_of(chain, layer) for layer in touched]
            if any(min(blocks) <= block_of(chain, layer) <= max(blocks) for layer in watched):
                now = _channels_taken(trace, watched)
                lost = {layer: taken[layer] - now[layer] for layer in watched}
                slots[name] |= {layer: (count, count) for layer, count in lost.items() if count}
                taken = now
    return slots


def _check_layers(trace: Trace, names: Iterable[str]) -> None:
    layers = set(trace.names.values())
    for name in names:
        if name not in layers:
            raise SurgeryError(f"'{name}' is no layer of the chain")


def _size(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs."""
    for inputs, outputs in _SIZES:
        if hasattr(layer, inputs):
            return int(getattr(layer, inputs)), int(getattr(layer, outputs))
    raise SurgeryError(f"a layer of type {type(layer).__name__} has no width")


def _channels_taken(trace: Trace, names: Collection[str]) -> dict[str, int]:
    """Channels that layers of the copy take."""
    taken: dict[str, int] = {}

    def note(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken.setdefault(name, int(inputs[0].shape[1]))

    layers = ((name, trace.ghost.get_submodule(name)) for name in names)
    with hooked(layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers):
        trace.forward()
    return taken
