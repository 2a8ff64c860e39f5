"""Removal of channels from groups of coupled layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.inspect import evaluating, input_for, is_channels_last
from tascnet.surgery.layers import layer_widths
from tascnet.surgery.trace import MISFITS, Trace


def narrow(
    chain: nn.Sequential, example: Tensor | Trace, keep: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    """Remove channels from groups of a chain, in place.

    The cut is first made on a copy without memory: when that fails, the chain is as it was. Training mode,
    memory format and `requires_grad` stay; parameters are new objects: rebuild the optimizer.

    Args:
        example: a trace afterwards fits uncut copies alone.
        keep: by group name, the sorted indices of the kept channels.

    Returns:
        By filter layer of these groups, width before and after.

    Raises:
        SurgeryError: an unknown group, bad indices, or the network does not run after the cut.
    """
    trace = Trace.of(chain, example)
    if unknown := [name for name in keep if name not in trace.cuttable]:
        raise SurgeryError(
            f"'{unknown[0]}' is not the first filter layer of a group that can be made narrower",
            "ask width_groups for the names",
        )
    removed: dict[str, list[int]] = {}
    widths: dict[str, tuple[int, int]] = {}
    for name, group in trace.cuttable.items():
        if name in keep:
            kept = [int(index) for index in keep[name]]
            if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.width:
                raise SurgeryError(
                    f"the kept channels of '{name}' must be at least one, sorted, without repetition and "
                    f"below {group.width}"
                )
            removed[name] = sorted(set(range(group.width)) - set(kept))
            widths |= dict.fromkeys(group.filters, (group.width, len(kept)))
    cuts = []
    with trace.rehearsal():
        shape = trace.forward().shape
        try:
            for name, channels in removed.items():
                if channels:
                    coupled = trace.coupled(name, channels)
                    layers = [item for item in coupled.items if item.dep.target.module in trace.names]
                    cuts += [(trace.names[i.dep.target.module], i.dep.handler, list(i.idxs)) for i in layers]
                    coupled.prune(record_history=False)
            output = trace.forward()
        except MISFITS as error:
            raise SurgeryError(f"the network does not run after the cut ({error})") from error
        if output.shape != shape:
            raise SurgeryError(
                f"the cut would change the output from {tuple(shape)} to {tuple(output.shape)}"
            )
        _check_widths(trace.ghost, widths)
    channels_last = is_channels_last(chain)
    frozen = {name for name, parameter in chain.named_parameters() if not parameter.requires_grad}
    for layer, prune, indices in cuts:
        prune(chain.get_submodule(layer), indices)
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if channels_last:
        chain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _check_widths(chain, widths)
    with evaluating(chain), torch.no_grad():
        chain(input_for(chain, trace.example))
    return widths


def _check_widths(chain: nn.Module, widths: Mapping[str, tuple[int, int]]) -> None:
    now = layer_widths(chain)
    for name, (_, wanted) in widths.items():
        if now[name] != wanted:
            raise SurgeryError(f"'{name}' has {now[name]} channels after the cut, expected {wanted}")
