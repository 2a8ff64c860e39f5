"""Importance of the channels of a group, by torch-pruning's criteria."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery.layers import is_depthwise
from tascnet.surgery.trace import Trace, WidthGroup

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

# A user's own criterion: from torch-pruning's group to one score a channel, or None where it has none.
Importance = Callable[[Any], Tensor | None]


def all_channel_scores(
    chain: nn.Sequential,
    example: Tensor | Trace,
    groups: Sequence[WidthGroup],
    criterion: str | Importance,
    seed: int = 0,
) -> dict[str, Tensor]:
    """By group, `width` float32 scores on the CPU, lowest removed first; groups without scores are left out.

    Args:
        criterion: one of `CRITERIA`, whose `GRADIENTS` must then be in the parameters' `grad`, or a
            function of torch-pruning's group.
        seed: of the criterion `random`; torch's own generator is left as it is.

    Raises:
        SurgeryError: unknown criterion, or scores of another number than the channels or not finite.

    Source: torch-pruning; Li et al. 2017 (magnitude), He et al. 2019 (fpgm), Lee et al. 2021 (lamp), Liu et
        al. 2017 (bn_scale), Molchanov et al. 2019 (taylor), LeCun et al. 1990 (hessian, its diagonal).
    """
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise SurgeryError(f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}")
    trace = Trace.of(chain, example)
    with trace.rehearsal():
        # The copy gets the chain's parameters in place of shapes.
        for name, module in chain.named_modules():
            trace.ghost.get_submodule(name)._parameters.update(module._parameters)
        found = {group.name: _scores(trace, group, criterion, seed) for group in groups}
    return {name: scores for name, scores in found.items() if scores is not None}


def _scores(trace: Trace, group: WidthGroup, criterion: str | Importance, seed: int) -> Tensor | None:
    importance = CRITERIA[criterion]() if isinstance(criterion, str) else criterion
    root = next(name for name in group.filters if not is_depthwise(trace.ghost.get_submodule(name)))
    items = [_as_convolution(item) for item in trace.coupled(root, range(group.width)).items]
    if criterion == "fpgm":
        # The geometric median is one of filters; over inputs of a large linear layer it would take hours.
        own = {trace.ghost.get_submodule(name) for name in group.filters}
        items = [item for item in items if item.dep.target.module in own and trace.writes(item)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        scores = importance(items)
    if scores is None:
        return None
    if not isinstance(scores, Tensor) or scores.shape != (group.width,):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise SurgeryError(
            f"the criterion gave {shape} for '{group.name}', expected one score for each of its "
            f"{group.width} channels"
        )
    scores = scores.detach().float().cpu()
    if not isinstance(criterion, str) and not bool(scores.isfinite().all()):
        raise SurgeryError(f"the criterion gave scores for '{group.name}' that are no finite numbers")
    return torch.nan_to_num(scores)


def _as_convolution(item: Any) -> Any:
    """The item, that of a depthwise layer as a convolution's: the criteria know no others."""
    dep = item.dep
    if not is_depthwise(dep.target.module):
        return item
    as_conv = tp.dependency.Dependency(
        dep.trigger, tp.prune_conv_out_channels, source=dep.source, target=dep.target
    )
    counted = type(item)(dep=as_conv, idxs=item.idxs)
    counted.root_idxs = item.root_idxs
    return counted
