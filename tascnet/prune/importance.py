"""The choice of the history in the form that torch-pruning's own pruners take."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.models.surgery import CRITERIA, WidthGroup

__all__ = ["CRITERIA", "HistoryImportance"]


class HistoryImportance(tp.importance.Importance):  # type: ignore[misc]
    """A criterion by which the channels chosen for removal have no importance and all others have.

    Groups without a choice are skipped by the pruner.

    Args:
        model: the network that the pruner works on.
        groups: its width groups.
        removed: by group name, the channels to remove.
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[WidthGroup], removed: Mapping[str, Sequence[int]]
    ) -> None:
        self._removed = {
            model.get_submodule(layer): frozenset(removed[group.name])
            for group in groups
            if removed.get(group.name)
            for layer in group.filters
        }

    def __call__(self, group: Any) -> Tensor | None:
        """One score for each channel of torch-pruning's group, or None for a group without a choice."""
        removed = self._removed.get(group[0].dep.target.module)
        if removed is None:
            return None
        return torch.tensor([0.0 if index in removed else 1.0 for index in group[0].idxs])
