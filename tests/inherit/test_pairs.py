"""Pairs: disjoint, greedy, deterministic."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tascnet.inherit import most_similar_pairs, rank_pairs


def test_a_taken_filter_blocks_its_other_pairs() -> None:
    similarity = torch.eye(4)
    for (i, j), value in {
        (0, 1): 0.9,
        (1, 2): 0.8,
        (0, 2): 0.7,
        (2, 3): -0.5,
        (0, 3): 0.1,
        (1, 3): 0.2,
    }.items():
        similarity[i, j] = similarity[j, i] = value
    assert most_similar_pairs(similarity, 2) == [(0, 1), (2, 3)]
    assert most_similar_pairs(similarity, 9) == [(0, 1), (2, 3)]
    assert most_similar_pairs(similarity, 0) == []


def test_ties_go_to_the_lowest_indices() -> None:
    assert most_similar_pairs(torch.ones(6, 6), 3) == [(0, 1), (2, 3), (4, 5)]


def greedy(similarity: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """The definition, step by step."""
    free, pairs = set(range(len(similarity))), []
    while len(pairs) < count and len(free) > 1:
        candidates = [(i, j) for i in sorted(free) for j in sorted(free) if i < j]
        best = max(candidates, key=lambda pair: (float(similarity[pair]), -pair[0], -pair[1]))
        pairs.append(best)
        free -= set(best)
    return pairs


@given(n=st.integers(1, 14), count=st.integers(0, 8), seed=st.integers(0, 999), levels=st.integers(1, 9))
def test_equals_the_definition(n: int, count: int, seed: int, levels: int) -> None:
    values = torch.randint(levels, (n, n), generator=torch.Generator().manual_seed(seed)).double()
    similarity = values + values.T
    pairs = most_similar_pairs(similarity, count)
    assert pairs == greedy(similarity, count)
    assert len({filter_ for pair in pairs for filter_ in pair}) == 2 * len(pairs)


def test_the_weaker_member_is_removed_and_of_equals_the_later() -> None:
    l1 = torch.tensor([1.0, 2.0, 5.0, 3.0, 4.0, 4.0])
    ranking = rank_pairs(torch.ones(6, 6), l1)
    assert (ranking.partners, ranking.order) == ((1, 2, 4), (0, 3, 5))
