"""Removal of channels from groups of coupled layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.inspect import evaluating, input_for, is_channels_last
from tascnet.surgery.cuts import apply_cut
from tascnet.surgery.layers import layer_widths
from tascnet.surgery.trace import Trace


def narrow(
    chain: nn.Sequential, example: Tensor | Trace, keep: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    """Remove channels from groups of a chain, in place.

    The cut is first followed on a chain without weights, where every layer must read the channels that it
    keeps: when that fails, the chain is as it was. Training mode, memory format and `requires_grad` stay;
    parameters are new objects: rebuild the optimizer.

    Args:
        example: a trace afterwards fits uncut copies alone.
        keep: by group name, the sorted indices of the kept units.

    Returns:
        By filter layer of these groups, its channels before and after.

    Raises:
        SurgeryError: an unknown group, bad indices, or the network does not run after the cut.
    """
    trace = Trace.of(chain, example)
    groups = {group.name: group for group in trace.groups}
    if unknown := [name for name in keep if name not in groups]:
        raise SurgeryError(
            f"'{unknown[0]}' is not the name of a group that can be made narrower",
            "ask width_groups for the names",
        )
    removed: dict[str, list[int]] = {}
    before = layer_widths(chain)
    lost: dict[str, int] = {}
    for name, group in groups.items():
        if name in keep:
            kept = [int(index) for index in keep[name]]
            if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.width:
                raise SurgeryError(
                    f"the kept units of '{name}' must be at least one, sorted, without repetition and "
                    f"below {group.width}"
                )
            removed[name] = sorted(set(range(group.width)) - set(kept))
            for layer, positions in group.outputs.items():
                lost[layer] = lost.get(layer, 0) + len(removed[name]) * positions.shape[1]
    cut = trace.plan(chain, removed)
    channels_last = is_channels_last(chain)
    apply_cut(chain, cut)
    if channels_last:
        for layer in cut.layers:
            chain.get_submodule(layer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = layer_widths(chain)
    for layer, count in lost.items():
        if after[layer] != before[layer] - count:
            raise SurgeryError(
                f"'{layer}' has {after[layer]} channels after the cut, expected {before[layer] - count}"
            )
    with evaluating(chain), torch.no_grad():
        chain(input_for(chain, trace.example))
    return {layer: (before[layer], after[layer]) for layer in lost}
