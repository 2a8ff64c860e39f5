"""Importance of the channels of a group, by torch-pruning's criteria."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery.groups import WidthGroup, cut_group
from tascnet.surgery.layers import is_depthwise
from tascnet.surgery.trace import Trace, trace

CRITERIA: dict[str, Callable[[], Any]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(),
    "random": lambda: tp.importance.RandomImportance(),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "bn_scale": lambda: tp.importance.BNScaleImportance(),
    "taylor": lambda: tp.importance.GroupTaylorImportance(),
    "hessian": lambda: tp.importance.GroupHessianImportance(),
}
# What these read of the parameters' gradients: their mean over samples, or that of their squares.
GRADIENTS = {"taylor": "mean", "hessian": "squares"}

# A criterion of one's own: from torch-pruning's group to one score a channel; None passes the group over.
Importance = Callable[[Any], Tensor | None]


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


def _items(traced: Trace, group: WidthGroup, criterion: str | Importance) -> list[Any]:
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


def _score(traced: Trace, group: WidthGroup, criterion: str | Importance, seed: int) -> Tensor | None:
    importance = CRITERIA[criterion]() if isinstance(criterion, str) else criterion
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        scores = importance(_items(traced, group, criterion))
    if scores is None:
        return None
    if not isinstance(scores, Tensor) or scores.shape != (group.width,):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise SurgeryError(
            f"the criterion gave {shape} for '{group.name}', expected one score for each of its "
            f"{group.width} channels"
        )
    found = scores.detach().float().cpu()
    if not isinstance(criterion, str) and not bool(found.isfinite().all()):
        raise SurgeryError(f"the criterion gave scores for '{group.name}' that are no finite numbers")
    return torch.nan_to_num(found)


def all_channel_scores(
    chain: nn.Sequential,
    example: Tensor,
    groups: Sequence[WidthGroup],
    criterion: str | Importance,
    seed: int = 0,
) -> dict[str, Tensor]:
    """How important each channel of each group is; the lowest goes first.

    Args:
        chain: the chain or slice that holds the groups.
        example: `1 x c x h x w`, one sample as its first block takes it.
        groups: some of `width_groups`.
        criterion: one of `CRITERIA`, whose `GRADIENTS` must then lie in the parameters' `grad`, or a
            function of torch-pruning's group.
        seed: of the criterion `random`; torch's own generator is left as it is.

    Returns:
        `width` float32 scores on the CPU by group; groups that the criterion passes over are left out.

    Raises:
        SurgeryError: unknown criterion, or scores of another number than the channels or not finite.

    Source: torch-pruning; Li et al. 2017 (magnitude), He et al. 2019 (fpgm), Lee et al. 2021 (lamp), Liu et
        al. 2017 (bn_scale), Molchanov et al. 2019 (taylor), LeCun et al. 1990 (hessian, its diagonal).
    """
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise SurgeryError(f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}")
    traced = _with_values(trace(chain, example), chain)
    scores = {group.name: _score(traced, group, criterion, seed) for group in groups}
    return {name: values for name, values in scores.items() if values is not None}
