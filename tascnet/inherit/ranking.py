"""In which order the channels of a group go, and what each removal costs."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tascnet.inherit.pairs import most_similar_pairs, split_members

# Mean dissimilarity below which all filters of a group count as one.
_LEAST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The channels of one group that may go, the first one first.

    Args:
        order: `m` channels.
        costs: what the removal of each costs, `m` numbers that do not fall; comparable within a group, and
            between groups where the criterion says so.
        partners: for pairs, the channel that stays for each of them; else None.
    """

    order: tuple[int, ...]
    costs: tuple[float, ...]
    partners: tuple[int, ...] | None = None

    def first(self, count: int) -> Self:
        """The ranking of the first `count` channels alone."""
        partners = None if self.partners is None else self.partners[:count]
        return type(self)(order=self.order[:count], costs=self.costs[:count], partners=partners)

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs, lower index first; empty where channels have no partners."""
        return [(min(a, b), max(a, b)) for a, b in zip(self.order, self.partners or (), strict=False)]


def rank_pairs(similarity: Tensor, l1: Tensor, count: int | None = None) -> Ranking:
    """Of each pair of similar filters the one with the smaller norm, the most similar pair first.

    Args:
        similarity: `n x n` cosine similarities, symmetric.
        l1: `n` norms.
        count: pairs to look for; None: as many as there are.

    Returns:
        At most half of the filters; a removal costs `1 - similarity` of its pair, in units of its mean over
        all pairs of the group: else the groups whose filters are all alike would be emptied first.

    Source: Basha et al. 2022, TASCNet, selection of filter pairs.
    """
    pairs = most_similar_pairs(similarity, len(similarity) // 2 if count is None else count)
    kept, removed = split_members(pairs, l1)
    n = len(similarity)
    mean = float(similarity.sum() - similarity.diagonal().sum()) / max(n * (n - 1), 1)
    scale = max(1 - mean, _LEAST)
    costs = [(1 - float(similarity[i, j])) / scale for i, j in pairs]
    return Ranking(order=tuple(removed), costs=tuple(costs), partners=tuple(kept))


def rank_scores(scores: Tensor) -> Ranking:
    """The least important channel first.

    Args:
        scores: `n` importances; of equal ones the earlier channel goes first.

    Returns:
        All channels; a removal costs the channel's importance.
    """
    values, order = torch.sort(scores.double().cpu(), stable=True)
    return Ranking(order=tuple(order.tolist()), costs=tuple(values.tolist()))
