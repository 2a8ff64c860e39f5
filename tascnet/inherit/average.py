"""The kept member of a pair takes over a part of the removed one."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tascnet.surgery import WidthGroup


def merge_weights(l1_kept: Tensor, l1_removed: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the two members of each pair, `1 - l1 / (l1_a + l1_b)`; halves where both are zero.

    Source: Basha et al. 2022, TASCNet, weighted average of a pair.
    """
    total = l1_kept + l1_removed
    safe = total.where(total > 0, torch.ones_like(total))
    kept = torch.where(total > 0, 1 - l1_kept / safe, 0.5)
    return kept, 1 - kept


def _per_channel(model: nn.Module, group: WidthGroup) -> Iterator[Tensor]:
    """The tensors of a group's layers whose first dimension is the group's channels."""
    for name in group.members:
        layer = model.get_submodule(name)
        if name in group.filters:
            yield from (value for value in (layer.weight, layer.bias) if isinstance(value, Tensor))
        elif name not in group.consumers:
            # A normalisation that reads a concatenation has more channels than the group: it stays.
            values = (*layer.parameters(), *layer.buffers())
            yield from (value for value in values if value.shape[:1] == (group.width,))


@torch.no_grad()
def average_into(
    model: nn.Module, group: WidthGroup, kept: Sequence[int], removed: Sequence[int], l1: Tensor
) -> None:
    """Replace each kept filter by the weighted average of its pair, in place, before the cut.

    Filters, biases, and the affine values and statistics of normalisation layers are averaged alike.

    Args:
        model: the network that holds the group.
        group: its layers.
        kept: the member of each pair that stays.
        removed: the other member.
        l1: `n` norms of the group's filters; the weight of each member is 1 - l1 / (sum of both).
    """
    stays, goes = torch.as_tensor(list(kept)), torch.as_tensor(list(removed))
    w_kept, w_removed = merge_weights(l1[stays], l1[goes])
    for value in _per_channel(model, group):
        shape = (-1,) + (1,) * (value.dim() - 1)
        a, b = (w.to(value).reshape(shape) for w in (w_kept, w_removed))
        value[stays.to(value.device)] = a * value[stays.to(value.device)] + b * value[goes.to(value.device)]
