"""Where the channels of a width group arrive: the inputs of the layers that read them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.surgery.groups import WidthGroup, cut_group
from tascnet.models.surgery.trace import Trace, trace

__all__ = ["consumer_inputs"]


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
        if group.name not in traced.names.values():
            raise SurgeryError(f"'{group.name}' is no layer of the chain")
    return {group.name: _inputs(traced, group) for group in groups}


def _inputs(traced: Trace, group: WidthGroup) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for item in cut_group(traced, group.name, range(group.width)).items:
        name = traced.names.get(item.dep.target.module, "")
        if name in group.consumers:
            indices = torch.tensor(list(item.idxs)).reshape(group.width, -1)
            found.setdefault(name, []).append(indices)
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}
