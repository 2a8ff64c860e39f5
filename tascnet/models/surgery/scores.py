"""Importance of the channels of a group, by torch-pruning's criteria."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.surgery.groups import WidthGroup, cut_group
from tascnet.models.surgery.layers import is_depthwise
from tascnet.models.surgery.trace import Trace, trace

__all__ = ["CRITERIA", "all_channel_scores"]

CRITERIA: dict[str, Callable[[], Any]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(),
    "random": lambda: tp.importance.RandomImportance(),
}


def _with_values(traced: Trace, chain: nn.Sequential) -> Trace:
    """Give the copy without memory the chain's own parameters; the structure is the same."""
    for name, module in chain.named_modules():
        traced.ghost.get_submodule(name)._parameters.update(module._parameters)
    return traced


def _countable(item: Any) -> Any:
    """A group's item as the criteria read it: they know a depthwise layer's filters as a convolution's."""
    dep = item.dep
    if not is_depthwise(dep.target.module):
        return item
    as_conv = tp.dependency.Dependency(
        dep.trigger, tp.prune_conv_out_channels, source=dep.source, target=dep.target
    )
    counted = type(item)(dep=as_conv, idxs=item.idxs)
    counted.root_idxs = item.root_idxs
    return counted


def _items(traced: Trace, group: WidthGroup, criterion: str) -> list[Any]:
    root = next(name for name in (*group.filters,) if not is_depthwise(traced.ghost.get_submodule(name)))
    items = [_countable(item) for item in cut_group(traced, root, range(group.width)).items]
    if criterion != "fpgm":
        return items
    # The geometric median is one of filters; over inputs of a large linear layer it would not end.
    return [
        item
        for item in items
        if traced.names.get(item.dep.target.module) in group.filters
        and traced.graph.is_out_channel_pruning_fn(item.dep.handler)
    ]


def _score(traced: Trace, group: WidthGroup, criterion: str, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        scores: Tensor = CRITERIA[criterion]()(_items(traced, group, criterion))
    return torch.nan_to_num(scores.detach().float().cpu())


def all_channel_scores(
    chain: nn.Sequential,
    example: Tensor,
    groups: Sequence[WidthGroup],
    criterion: str,
    seed: int = 0,
) -> dict[str, Tensor]:
    """How important each channel of each group is; the lowest goes first.

    Args:
        chain: the chain or slice that holds the groups.
        example: `1 x c x h x w`, one sample as its first block takes it.
        groups: some of `width_groups`.
        criterion: one of `CRITERIA`.
        seed: of the criterion `random`; torch's own generator is left as it is.

    Returns:
        `width` float32 scores on the CPU for each group's name.

    Raises:
        SurgeryError: unknown criterion.

    Source: torch-pruning; Li et al. 2017 (magnitude) and He et al. 2019 (fpgm).
    """
    if criterion not in CRITERIA:
        raise SurgeryError(f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}")
    traced = _with_values(trace(chain, example), chain)
    return {group.name: _score(traced, group, criterion, seed) for group in groups}
