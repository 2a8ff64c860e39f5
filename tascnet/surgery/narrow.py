"""Removal of channels from groups of coupled layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery.groups import WidthGroup, cut_group, traced_groups
from tascnet.surgery.layers import layer_widths
from tascnet.surgery.trace import Trace, fitted, trace


class _Cut(NamedTuple):
    """One layer's part of a group's cut."""

    layer: str
    apply: Callable[[nn.Module, list[int]], Any]
    indices: list[int]


def _removed(group: WidthGroup, kept: Sequence[int]) -> list[int]:
    kept = [int(index) for index in kept]
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.width:
        raise SurgeryError(
            f"the channels kept of '{group.name}' must be at least one, sorted, without repetition "
            f"and below {group.width}"
        )
    return sorted(set(range(group.width)) - set(kept))


def _requests(traced: Trace, chain: nn.Sequential, keep: Mapping[str, Sequence[int]]) -> list[Any]:
    """The groups asked for with the channels that each loses, in chain order."""
    groups = {group.name: group for group in traced_groups(traced, chain)}
    unknown = [name for name in keep if name not in groups]
    if unknown:
        raise SurgeryError(
            f"'{unknown[0]}' is not the first filter layer of a group that can be made narrower",
            "ask width_groups for the names",
        )
    return [(group, _removed(group, keep[name])) for name, group in groups.items() if name in keep]


def _rehearse(traced: Trace, requests: list[Any]) -> list[_Cut]:
    """Make the cuts on the copy without memory; gives each layer's part in them."""
    shape = traced.forward().shape
    cuts = []
    try:
        for group, removed in requests:
            if not removed:
                continue
            coupled = cut_group(traced, group.name, removed)
            cuts += [
                _Cut(traced.names[item.dep.target.module], item.dep.handler, list(item.idxs))
                for item in coupled.items
                if item.dep.target.module in traced.names
            ]
            coupled.prune(record_history=False)
        output = traced.forward()
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise SurgeryError(f"the network does not run after the cut ({error})") from error
    if output.shape != shape:
        raise SurgeryError(f"the cut would change the output from {tuple(shape)} to {tuple(output.shape)}")
    return cuts


def _check_widths(chain: nn.Module, requests: list[Any]) -> None:
    widths = layer_widths(chain)
    for group, removed in requests:
        wanted = group.width - len(removed)
        for name in group.filters:
            if widths[name] != wanted:
                raise SurgeryError(f"'{name}' has {widths[name]} channels after the cut, expected {wanted}")


def _is_channels_last(chain: nn.Module) -> bool:
    """Whether some weight is laid out in a way that only channels_last gives."""
    return any(
        p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in chain.parameters()
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _perform(chain: nn.Sequential, cuts: list[_Cut]) -> None:
    """Make the cuts on the chain, and keep memory format and what is frozen."""
    channels_last = _is_channels_last(chain)
    frozen = {name for name, parameter in chain.named_parameters() if not parameter.requires_grad}
    for cut in cuts:
        cut.apply(chain.get_submodule(cut.layer), cut.indices)
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if channels_last:
        chain.to(memory_format=torch.channels_last)


def narrow(
    chain: nn.Sequential, example: Tensor, keep: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    """Remove channels from groups of a chain, in place.

    The cut is first made on a copy without memory: when that fails, the chain is as it was. Training
    mode, memory format and `requires_grad` stay; parameters are new objects, so that an optimizer has to
    be made anew.

    Args:
        chain: a chain or a slice of one.
        example: `1 x c x h x w`, one sample as its first block takes it.
        keep: by group name, the sorted indices of the channels that stay.

    Returns:
        By filter layer of the groups asked for: width before and after.

    Raises:
        SurgeryError: an unknown group, bad indices, or the network does not run afterwards.
    """
    traced = trace(chain, example)
    requests = _requests(traced, chain, keep)
    cuts = _rehearse(traced, requests)
    _check_widths(traced.ghost, requests)
    _perform(chain, cuts)
    _check_widths(chain, requests)
    with _evaluating(chain), torch.no_grad():
        chain(fitted(example, chain))
    return {
        name: (group.width, group.width - len(removed))
        for group, removed in requests
        for name in group.filters
    }
