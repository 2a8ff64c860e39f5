"""In which order the channels of a group are removed, and what each removal costs."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

# Mean dissimilarity below which all filters of a group count as one.
_LEAST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The channels of one group that may be removed, in order.

    Args:
        order: `m` channels.
        costs: of the removal of each, `m` numbers that do not fall.
        partners: for pairs, the channel that is kept for each of them; else None.
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

    A removal costs `1 - similarity` of its pair, in units of the mean over all pairs of the group: otherwise
    the groups whose filters are all alike would be emptied first.

    Args:
        similarity: `n x n` cosine similarities, symmetric.
        l1: `n` norms; of equal ones the later filter is removed.
        count: of pairs; None: as many as there are.

    Source: Basha et al. 2022, TASCNet, selection of filter pairs.
    """
    n = len(similarity)
    pairs = most_similar_pairs(similarity, n // 2 if count is None else count)
    norms = l1.tolist()
    ordered = [(i, j) if norms[i] >= norms[j] else (j, i) for i, j in pairs]
    mean = float(similarity.sum() - similarity.diagonal().sum()) / max(n * (n - 1), 1)
    scale = max(1 - mean, _LEAST)
    return Ranking(
        order=tuple(removed for _, removed in ordered),
        costs=tuple((1 - float(similarity[i, j])) / scale for i, j in pairs),
        partners=tuple(kept for kept, _ in ordered),
    )


def rank_scores(scores: Tensor) -> Ranking:
    """All channels, the least important first, of equal ones the earlier; a removal costs its importance.

    Args:
        scores: `n` importances.
    """
    values, order = torch.sort(scores.double().cpu(), stable=True)
    return Ranking(order=tuple(order.tolist()), costs=tuple(values.tolist()))


def most_similar_pairs(similarity: Tensor, count: int) -> list[tuple[int, int]]:
    """Disjoint pairs `(i, j)`, `i < j`, the most similar first.

    The most similar pair is taken, then the most similar one among the filters left, and so on; of equal
    similarities the pair with the lowest indices comes first.

    Args:
        similarity: `n x n`, symmetric.
        count: number of pairs; there are at most `n // 2`.
    """
    n = len(similarity)
    rows, columns = torch.triu_indices(n, n, offset=1, device=similarity.device)
    order = torch.sort(similarity[rows, columns], descending=True, stable=True).indices
    pairs: list[tuple[int, int]] = []
    free = [True] * n
    wanted = min(count, n // 2)
    # Few of the candidates are needed as a rule: they are brought to Python in growing slices.
    start, size = 0, 4 * n
    while len(pairs) < wanted:
        part = order[start : start + size]
        for i, j in zip(rows[part].tolist(), columns[part].tolist(), strict=True):
            if free[i] and free[j] and len(pairs) < wanted:
                pairs.append((i, j))
                free[i] = free[j] = False
        start, size = start + size, 2 * size
    return pairs
