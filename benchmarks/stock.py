"""torch-pruning's own pruner as a user gets it, cut to a share of the FLOPs."""

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import plural
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
    """Whether all layers compete or each loses the same share, and how many cuts there are, with training
    between them."""

    is_global: bool
    steps: int

    @property
    def name(self) -> str:
        return f"{'global' if self.is_global else 'local'}, {plural(self.steps, 'step')}"

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

    The classifier and the layers whose cut torch-pruning gets wrong (those behind shortcuts that slice and
    pad) are left alone.

    Args:
        network: on the device, in eval mode; left as it is.
        example: one sample.
        criterion: `magnitude` (L2) or `taylor`, both of whole groups.
        is_global: see `Variant`.
        flops: of one sample, by fvcore.
        batches: images and labels on the device, for Taylor's gradients.
    """
    prunable = [name for group in width_groups(network, example) for name in group.filters]

    def attempt(ratios: Mapping[str, float]) -> tuple[nn.Sequential, int]:
        candidate = _cut(network, example, criterion, is_global, ratios)
        return candidate, complexity(candidate, example).flops

    with loss_gradients(network, batches) if criterion == "taylor" else nullcontext():
        low, high = 0.0, LARGEST_RATIO
        best, _ = attempt(dict.fromkeys(prunable, high))
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            candidate, reached = attempt(dict.fromkeys(prunable, ratio))
            if reached <= flops:
                high, best = ratio, candidate
            else:
                low = ratio
            if (1 - NEAR) * flops <= reached <= flops:
                return best
        # Widths that are multiples of 16 all lose a channel at the same ratio: only the last layers take it.
        first, last = 0, len(prunable)
        while not is_global and last - first > 1:
            middle = (first + last) // 2
            candidate, reached = attempt(
                {name: high if i >= middle else low for i, name in enumerate(prunable)}
            )
            if reached <= flops:
                first, best = middle, candidate
            else:
                last = middle
    return best


def _cut(
    network: nn.Sequential, example: Tensor, criterion: str, is_global: bool, ratios: Mapping[str, float]
) -> nn.Sequential:
    model = copy.deepcopy(network).requires_grad_(True)
    for own, known in zip(model.parameters(), network.parameters(), strict=True):
        own.grad = known.grad
    importance: Any = tp.importance.GroupTaylorImportance()
    if criterion == "magnitude":
        importance = tp.importance.GroupMagnitudeImportance(p=2)
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    # Those of single layers; none where all are the same, as it is used as a rule.
    own_ratios = {model.get_submodule(name): ratio for name, ratio in ratios.items()}
    pruner = tp.pruner.BasePruner(
        model,
        example.to(next(model.parameters()).device),
        importance=importance,
        global_pruning=is_global,
        pruning_ratio=max(ratios.values()),
        pruning_ratio_dict=own_ratios if len(set(ratios.values())) > 1 else {},
        max_pruning_ratio=LARGEST_RATIO,
        ignored_layers=[
            m for name, m in model.named_modules() if isinstance(m, layers) and name not in ratios
        ],
        round_to=None,
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model.eval()
