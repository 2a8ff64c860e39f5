"""torch-pruning's own pruner as a user gets it, cut to a share of the FLOPs."""

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch_pruning as tp
from torch import Tensor, nn

from tascnet.inherit import loss_gradients
from tascnet.measure import complexity
from tascnet.surgery import width_groups

CRITERIA = ("magnitude", "taylor")
# Ratios are halved towards the goal this often, and a cut this near to it counts as there.
HALVINGS = 16
NEAR = 0.002
# No layer is emptied.
LARGEST_RATIO = 0.95


class Variant(NamedTuple):
    """How the pruner is used.

    Args:
        is_global: whether all layers compete, or each gives up the same share.
        steps: cuts with training between them.
    """

    is_global: bool
    steps: int

    @property
    def name(self) -> str:
        return f"{'global' if self.is_global else 'local'}, {self.steps} step{'s' * (self.steps > 1)}"

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "")


VARIANTS = tuple(Variant(is_global, steps) for is_global in (False, True) for steps in (1, 3))


def stock_cut(
    network: nn.Sequential,
    example: Tensor,
    criterion: str,
    is_global: bool,
    flops: float,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> nn.Sequential:
    """A copy of a network, cut by `tp.pruner.BasePruner` to these FLOPs or just below.

    Left alone are the classifier and the layers whose cut torch-pruning gets wrong (those behind shortcuts
    that slice and pad).

    Args:
        network: on the device, in eval mode; left as it is.
        example: one sample.
        criterion: `magnitude` (L2) or `taylor`, both of whole groups.
        is_global: see `Variant`.
        flops: of one sample, by fvcore.
        batches: images and labels on the device, for Taylor's gradients.
    """
    prunable = [name for group in width_groups(network, example) for name in group.filters]
    reads_gradients = criterion == "taylor"
    with loss_gradients(network, batches) if reads_gradients else nullcontext():
        attempt = partial(_cut, network, example, criterion, is_global)
        low, high = 0.0, LARGEST_RATIO
        best = attempt(dict.fromkeys(prunable, high))
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            candidate = attempt(dict.fromkeys(prunable, ratio))
            reached = complexity(candidate, example).flops
            if reached <= flops:
                high, best = ratio, candidate
            else:
                low = ratio
            if (1 - NEAR) * flops <= reached <= flops:
                return best
        # Widths that are multiples of 16 all lose a channel at the same ratio: the last layers have it alone.
        first, last = 0, len(prunable)
        while not is_global and last - first > 1:
            middle = (first + last) // 2
            ratios = {name: high if i >= middle else low for i, name in enumerate(prunable)}
            candidate = attempt(ratios)
            if complexity(candidate, example).flops <= flops:
                first, best = middle, candidate
            else:
                last = middle
    return best


def _cut(
    network: nn.Sequential,
    example: Tensor,
    criterion: str,
    is_global: bool,
    ratios: Mapping[str, float],
) -> nn.Sequential:
    model = copy.deepcopy(network).requires_grad_(True)
    for own, known in zip(model.parameters(), network.parameters(), strict=True):
        own.grad = known.grad
    importance: Any = tp.importance.GroupTaylorImportance()
    if criterion == "magnitude":
        importance = tp.importance.GroupMagnitudeImportance(p=2)
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    ignored = [m for name, m in model.named_modules() if isinstance(m, layers) and name not in ratios]
    pruner = tp.pruner.BasePruner(
        model,
        example.to(next(model.parameters()).device),
        importance=importance,
        global_pruning=is_global,
        pruning_ratio=max(ratios.values()),
        pruning_ratio_dict=_of_layers(model, ratios),
        max_pruning_ratio=LARGEST_RATIO,
        ignored_layers=ignored,
        round_to=None,
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def _of_layers(model: nn.Module, ratios: Mapping[str, float]) -> dict[nn.Module, float]:
    """The ratios of single layers; none where all are the same, as it is used as a rule."""
    if len(set(ratios.values())) == 1:
        return {}
    return {model.get_submodule(name): ratio for name, ratio in ratios.items()}
