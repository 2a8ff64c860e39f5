"""Importance of the channels of a group, by torch-pruning's criteria."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery.groups import WidthGroup
from tascnet.surgery.layers import BATCH_NORMS
from tascnet.surgery.trace import Trace

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

# A user's own criterion: from torch-pruning's group to one score for each output channel of its first layer
# that is in the group, or None where it has none.
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
            function of torch-pruning's group. The scores of a unit's channels are averaged.
        seed: of the criterion `random`; torch's own generator is left as it is.

    Raises:
        SurgeryError: unknown criterion, or scores of another number than the channels or not finite.

    Source: torch-pruning; Li et al. 2017 (magnitude), He et al. 2019 (fpgm), Lee et al. 2021 (lamp), Liu et
        al. 2017 (bn_scale), Molchanov et al. 2019 (taylor), LeCun et al. 1990 (hessian, its diagonal).
    """
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise SurgeryError(f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}")
    Trace.of(chain, example)
    found = {group.name: _scores(chain, group, criterion, seed) for group in groups}
    return {name: scores for name, scores in found.items() if scores is not None}


def _scores(chain: nn.Module, group: WidthGroup, criterion: str | Importance, seed: int) -> Tensor | None:
    importance = CRITERIA[criterion]() if isinstance(criterion, str) else criterion
    # The geometric median is one of filters; over inputs of a large linear layer it would take hours.
    coupled = _group_for_criteria(chain, group, filters_only=criterion == "fpgm")
    if group.bundle > 1 or any(positions.shape[1] > 1 for positions in group.passed.values()):
        importance = _counting_all(importance, group.channels)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        scores = importance(coupled)
    if scores is None:
        return None
    if not isinstance(scores, Tensor) or scores.shape != (group.channels,):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise SurgeryError(
            f"the criterion gave {shape} for '{group.name}', expected one score for each of its "
            f"{group.channels} channels"
        )
    scores = scores.detach().float().cpu()
    if not isinstance(criterion, str) and not bool(scores.isfinite().all()):
        raise SurgeryError(f"the criterion gave scores for '{group.name}' that are no finite numbers")
    return torch.nan_to_num(scores).reshape(group.width, group.bundle).mean(1)


def _counting_all(importance: Any, channels: int) -> Any:
    """A criterion that gives this number of scores, not one for each channel of the first layer."""
    if (reduce := getattr(importance, "_reduce", None)) is None:
        return importance
    counting = copy.copy(importance)
    counting._reduce = lambda values, roots: reduce(
        [values[0].new_zeros(channels), *values], [list(range(channels)), *roots]
    )
    return counting


def _group_for_criteria(chain: nn.Module, group: WidthGroup, filters_only: bool) -> Any:
    """The group as torch-pruning has it, with its first filter layer as the root.

    Root channels are counted unit by unit. Of a unit with several channels, those of another layer are dealt
    out to those of the root in turn.
    """
    sides: list[tuple[Mapping[str, Tensor], Callable[[nn.Module], Any]]] = [(group.outputs, _output_function)]
    if not filters_only:
        sides += [(group.passed, _pass_function), (group.inputs, _input_function)]
    coupled = tp.dependency.Group()
    root = tp.dependency.Node(chain.get_submodule(group.filters[0]), None, group.filters[0])
    order = {name: at for at, name in enumerate(group.members)}
    items = [(name, at, function) for by_layer, function in sides for name, at in by_layer.items()]
    for name, positions, function_of in sorted(items, key=lambda item: order.get(item[0], len(order))):
        layer = chain.get_submodule(name)
        if (function := function_of(layer)) is None:
            continue
        node = tp.dependency.Node(layer, None, name)
        dep = tp.dependency.Dependency(_output_function(root.module), function, source=root, target=node)
        coupled.add_dep(dep, positions.flatten().tolist())
        units, size = positions.shape
        of_unit = torch.arange(units)[:, None] * group.bundle + torch.arange(size) % group.bundle
        coupled[len(coupled) - 1].root_idxs = of_unit.flatten().tolist()
    return coupled


def _output_function(layer: nn.Module) -> Any:
    # The criteria know no depthwise layers: one counts as a convolution.
    return tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels


def _input_function(layer: nn.Module) -> Any:
    return tp.prune_linear_in_channels if isinstance(layer, nn.Linear) else tp.prune_conv_in_channels


def _pass_function(layer: nn.Module) -> Any:
    if isinstance(layer, BATCH_NORMS):
        return tp.prune_batchnorm_out_channels
    if isinstance(layer, nn.LayerNorm):
        return tp.prune_layernorm_out_channels
    return tp.prune_prelu_out_channels if isinstance(layer, nn.PReLU) else None
