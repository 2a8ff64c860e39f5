"""Groups of coupled layers: what can be made narrower, and what has to go with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from tascnet.surgery.layers import block_of, is_depthwise
from tascnet.surgery.trace import Trace, trace

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Operations that mix, move or create channels outside a layer that the graph knows.
_MIXING = (
    "mm",
    "convolution",
    "norm",
    "softmax",
    "permute",
    "transpose",
    "movedim",
    "roll",
    "flip",
    "index",
    "gather",
    "cumsum",
    "shuffle",
    "repeat",
)
# Named as if it mixed, but a channel that is zero adds nothing to it, as one that is removed.
_VECTOR_NORM = "linalgvectornorm"


@dataclass(frozen=True, kw_only=True)
class WidthGroup:
    """Layers whose channels are coupled: removed from one, they go from all.

    Args:
        name: the first of `filters` in chain order.
        width: number of channels.
        filters: convolutions and linear layers whose output channels these are, depthwise ones included.
        members: all layers that a cut touches: filters, normalisation and consumers.
        consumers: layers whose input channels these are (or a part of them).
        first_block: index in the chain of the block that holds the first filter layer.
        last_block: index of the last block touched.
    """

    name: str
    width: int
    filters: tuple[str, ...]
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    first_block: int
    last_block: int


def cut_group(traced: Trace, name: str, indices: Sequence[int]) -> Any:
    """torch-pruning's group for removing output channels `indices` of the layer `name`."""
    layer = traced.ghost.get_submodule(name)
    return _group_of(traced, layer, indices)


def _group_of(traced: Trace, layer: nn.Module, indices: Sequence[int]) -> Any:
    function = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
    return traced.graph.get_pruning_group(layer, function, list(indices))


def _out_channels(layer: nn.Module) -> int:
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(width, int)
    return width


def _filter_layers(traced: Trace, group: Any) -> dict[nn.Module, list[int]]:
    """The layers whose output channels are in the group, with their channels in root order."""
    found: dict[nn.Module, list[int]] = {}
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, _LAYERS) and traced.graph.is_out_channel_pruning_fn(item.dep.handler):
            found[module] = list(item.idxs)
    return found


def _safe_operation(node: Any) -> bool:
    """Whether an operation that is no layer passes each channel on by itself."""
    kind = type(node.module).__name__
    if kind == "_ConcatOp":
        return getattr(node.grad_fn, "_saved_dim", 1) in (1, -3, None)
    if kind == "_SliceOp":
        return node.module.dim not in (0, 1)
    if kind == "_ReshapeOp":
        return len(getattr(node.grad_fn, "_saved_self_sym_sizes", ())) in (2, 4)
    if kind != "_ElementWiseOp":
        return False
    if any(getattr(node.grad_fn, "_saved_pad", ())[4:]):
        return False
    operation = str(node.module).lower().replace(_VECTOR_NORM, "")
    return not any(word in operation for word in _MIXING)


def _safe_module(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.PReLU):
        return True
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.groups == 1 or is_depthwise(module)
    return False


def _is_cuttable(traced: Trace, group: Any) -> bool:
    """Whether every channel of the group can be removed, alone, from all that it touches."""
    filters = _filter_layers(traced, group)
    width = len(group[0].idxs)
    if width < 2 or any(
        idxs != list(range(width)) or _out_channels(layer) != width for layer, idxs in filters.items()
    ):
        return False
    for item in group.items:
        node = item.dep.target
        if node.module in traced.names:
            if not _safe_module(node.module):
                return False
        elif not _safe_operation(node):
            return False
        is_out = traced.graph.is_out_channel_pruning_fn(item.dep.handler)
        if is_out and not node.outputs:
            return False
    return True


def _describe(traced: Trace, chain: nn.Sequential, group: Any) -> WidthGroup:
    order = {name: position for position, name in enumerate(traced.names.values())}
    filters = {traced.names[layer] for layer in _filter_layers(traced, group)}
    members, consumers = set(), set()
    for item in group.items:
        name = traced.names.get(item.dep.target.module)
        if name is None:
            continue
        members.add(name)
        if name not in filters and isinstance(item.dep.target.module, _LAYERS):
            consumers.add(name)
    in_order = [tuple(sorted(names, key=order.__getitem__)) for names in (filters, members, consumers)]
    blocks = [block_of(chain, name) for name in members]
    return WidthGroup(
        name=in_order[0][0],
        width=len(group[0].idxs),
        filters=in_order[0],
        members=in_order[1],
        consumers=in_order[2],
        first_block=block_of(chain, in_order[0][0]),
        last_block=max(blocks),
    )


def _candidates(traced: Trace) -> Iterator[Any]:
    """One full group for each set of coupled layers, but for those coupled to the chain's input."""
    seen: set[nn.Module] = set()
    if traced.probe is not None:
        coupled = _group_of(traced, traced.probe, range(_out_channels(traced.probe)))
        seen.update(_filter_layers(traced, coupled))
    for module in traced.names:
        if module in seen or not isinstance(module, _LAYERS) or module not in traced.graph.module2node:
            continue
        group = _group_of(traced, module, range(_out_channels(module)))
        seen.update(_filter_layers(traced, group))
        yield group


def traced_groups(traced: Trace, chain: nn.Sequential) -> list[WidthGroup]:
    """The cuttable groups of a traced chain, in chain order, before any trial cut."""
    return [_describe(traced, chain, group) for group in _candidates(traced) if _is_cuttable(traced, group)]


def _survives(traced: Trace, groups: Sequence[WidthGroup]) -> bool:
    """Whether the copy without memory still runs after each group has lost its last channel.

    The trace is used up.
    """
    shape = traced.forward().shape
    try:
        for group in groups:
            cut_group(traced, group.name, [group.width - 1]).prune(record_history=False)
        same_shape = traced.forward().shape == shape
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    widths = [_out_channels(traced.ghost.get_submodule(name)) for g in groups for name in g.filters]
    return same_shape and widths == [g.width - 1 for g in groups for _ in g.filters]


def width_groups(chain: nn.Sequential, example: Tensor) -> list[WidthGroup]:
    """The groups of a chain that can be made narrower, in chain order.

    Left out are groups coupled to the chain's input or output, those with parameter-free shortcuts that
    slice or pad channels, grouped (not depthwise) convolutions, and all that does not survive a trial cut.
    The chain itself is not touched.

    Args:
        chain: a chain or a slice of one.
        example: `1 x c x h x w`, one sample as its first block takes it.

    Raises:
        SurgeryError: the chain does not take the example.

    Source: Fang et al. 2023, DepGraph: Towards Any Structural Pruning.
    """
    traced = trace(chain, example)
    groups = traced_groups(traced, chain)
    if _survives(traced, groups):
        return groups
    return [group for group in groups if _survives(trace(chain, example), [group])]
