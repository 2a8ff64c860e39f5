"""Which filters are redundant: pure functions on similarities and norms."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def pair_count(width: int, percent: float) -> int:
    """Pairs that one step asks for: `max(1, floor(width x percent / 100))`."""
    # The product of a decimal fraction may fall a hair short of a whole number.
    return max(1, math.floor(width * percent / 100 + 1e-9))


def most_similar_pairs(similarity: Tensor, count: int) -> list[tuple[int, int]]:
    """Disjoint pairs, the most similar first.

    The most similar pair is taken, then the most similar one among the filters left, and so on; of equal
    similarities the pair with the lowest indices comes first.

    Args:
        similarity: `n x n`, symmetric.
        count: number of pairs; at most `n // 2` can be had.

    Returns:
        Pairs `(i, j)` with `i < j`.
    """
    n = len(similarity)
    rows, columns = torch.triu_indices(n, n, offset=1, device=similarity.device)
    order = torch.sort(similarity[rows, columns], descending=True, stable=True).indices
    pairs: list[tuple[int, int]] = []
    free = [True] * n
    wanted = min(count, n // 2)
    # Few of the candidates are needed as a rule: they are taken over to Python in growing slices.
    start, size = 0, 4 * n
    while len(pairs) < wanted:
        part = order[start : start + size]
        for i, j in zip(rows[part].tolist(), columns[part].tolist(), strict=True):
            if free[i] and free[j] and len(pairs) < wanted:
                pairs.append((i, j))
                free[i] = free[j] = False
        start, size = start + size, 2 * size
    return pairs


def split_members(pairs: Sequence[tuple[int, int]], l1: Tensor) -> tuple[list[int], list[int]]:
    """Of each pair the member that stays and the one that goes: that with the smaller L1 norm.

    Args:
        pairs: disjoint pairs of filters.
        l1: `n` norms; of equal ones the later filter goes.

    Returns:
        Kept and removed filters, in the order of the pairs.
    """
    norms = l1.tolist()
    kept = [i if norms[i] >= norms[j] else j for i, j in pairs]
    removed = [j if norms[i] >= norms[j] else i for i, j in pairs]
    return kept, removed
