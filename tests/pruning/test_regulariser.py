"""The penalty pulls pairs together; the published one vanishes with many pairs."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tascnet.pruning.regulariser import (
    INERT_RATIO,
    GrowingPenalty,
    PairRegulariser,
    gradient_ratio,
    pair_penalty,
    pair_similarities,
)
from tascnet.surgery import narrow, width_groups
from tests.models.toys import EXAMPLE, TOYS

PAIRS = {"stem": [(0, 3), (2, 7)], "b0.body.conv2": [(1, 4)]}


def test_similarity_joins_the_layers_of_a_group() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    two = torch.tensor([[2.0], [2.0], [0.0]])
    # Filters (1, 0, 2) and (0, 1, 2): 4 / 5; the third is dead.
    values = pair_similarities([one, two], [(0, 1), (0, 2)])
    torch.testing.assert_close(values, torch.tensor([0.8, 0.0]))


def test_dead_filters_get_no_gradient() -> None:
    weight = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    (1 - pair_similarities([weight], [(0, 1)])).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_penalties_by_hand() -> None:
    values = {"a": torch.tensor([0.5, 1.0]), "b": torch.tensor([-0.25]), "none": torch.zeros(0)}
    expected = math.exp(-0.75) + math.exp(0.25)
    assert float(pair_penalty(values, "per_group_mean")) == pytest.approx(expected)
    assert float(pair_penalty(values, "sum")) == pytest.approx(math.exp(-1.25))
    assert float(pair_penalty({}, "sum")) == 0.0


@pytest.mark.parametrize("kind", ["per_group_mean", "sum"])
def test_descent_raises_the_similarity_of_every_group(kind: str) -> None:
    chain = TOYS["residual"]()
    regulariser = PairRegulariser(chain, width_groups(chain, EXAMPLE), PAIRS, kind)
    optimizer = torch.optim.SGD(regulariser.parameters(), lr=0.5)
    before = regulariser.similarities()
    for _ in range(10):
        optimizer.zero_grad()
        regulariser().backward()
        optimizer.step()
    after = regulariser.similarities()
    assert set(before) == set(PAIRS)
    assert all(after[name] > before[name] + 0.02 for name in before)
    # Layers of other groups are not touched.
    assert chain.b0.body.conv1.weight.grad is None


def wide() -> tuple[nn.Sequential, dict[str, list[tuple[int, int]]]]:
    """40 pairs of nearly equal filters."""
    generator = torch.Generator().manual_seed(0)
    chain = nn.Sequential(nn.Linear(4, 80), nn.ReLU(), nn.Linear(80, 2))
    with torch.no_grad():
        base = torch.randn(40, 4, generator=generator)
        chain[0].weight.copy_(torch.cat([base, base + 0.1 * torch.randn(40, 4, generator=generator)]))
    return chain, {"0": [(i, i + 40) for i in range(40)]}


def test_the_published_sum_is_inert_with_many_pairs_and_the_mean_is_not() -> None:
    chain, pairs = wide()
    groups = width_groups(chain, torch.zeros(1, 4))
    loss = nn.functional.cross_entropy(chain(torch.eye(4)), torch.tensor([0, 1, 0, 1]))
    ratios = {}
    for kind in ("per_group_mean", "sum"):
        penalty = PairRegulariser(chain, groups, pairs, kind)()
        ratios[kind] = gradient_ratio(penalty, loss, chain.parameters())
    assert PairRegulariser(chain, groups, pairs, "sum")().item() < 1e-15
    assert ratios["sum"] < INERT_RATIO < 1e-3 < ratios["per_group_mean"]


def test_gradient_ratio_by_hand() -> None:
    x = nn.Parameter(torch.tensor([1.0, 1.0]))
    frozen = nn.Parameter(torch.tensor(2.0), requires_grad=False)
    # Gradients (3, 4) and (0, 10).
    penalty, loss = (x * torch.tensor([3.0, 4.0])).sum(), 10 * x[1] * frozen / 2
    assert gradient_ratio(penalty, loss, [x, frozen]) == pytest.approx(0.5)
    assert gradient_ratio(penalty, loss.detach(), [x]) == math.inf
    assert gradient_ratio(penalty.detach(), loss.detach(), [x]) == 0.0
    loss.backward()


def test_it_follows_the_network_through_a_cut() -> None:
    chain, whole = TOYS["residual"](), TOYS["residual"]()
    narrow(chain, EXAMPLE, {"stem": [0, 2, 3, 7]})
    pairs = {"stem": [(0, 2), (1, 3)]}
    similarity = PairRegulariser(chain, width_groups(chain, EXAMPLE), pairs).similarities()
    stem = torch.cat([whole.stem.weight.flatten(1), whole.a0.body.conv2.weight.flatten(1)], 1)
    expected = nn.functional.cosine_similarity(stem[[0, 2]], stem[[3, 7]]).mean()
    assert similarity == {"stem": pytest.approx(expected.item(), abs=1e-6)}


def test_the_growing_penalty_by_hand() -> None:
    """Filters 0 and 2 of three: (1 + 4) + (9 + 16), biases 0.5 and 1.5, scales of 2 and shifts of 1."""
    conv, norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
    chain = nn.Sequential(OrderedDict(conv=conv, norm=norm, relu=nn.ReLU(), last=nn.Conv2d(3, 2, 1)))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 2], [7, 7], [3, 4]]).reshape(3, 2, 1, 1))
        conv.bias.copy_(torch.tensor([0.5, 7, 1.5]))
        norm.weight.fill_(2.0)
        norm.bias.fill_(1.0)
    (group,) = (g for g in width_groups(chain.eval(), torch.zeros(1, 2, 4, 4)) if g.name == "conv")
    penalty = GrowingPenalty(chain, [group], {"conv": [0, 2]}, epochs=4)
    squares = 30 + 0.25 + 2.25 + 2 * 4 + 2 * 1
    assert penalty.norm() == pytest.approx(math.sqrt(squares))
    values = []
    for _ in range(5):
        values.append(float(penalty().detach()))
        penalty.record(chain)
    assert values == pytest.approx([share * squares / 2 for share in (0.25, 0.5, 0.75, 1, 1)])
    penalty().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad[1].any()
    torch.testing.assert_close(conv.weight.grad[2].flatten(), torch.tensor([3.0, 4.0]))
    again = GrowingPenalty(chain, [group], {"conv": [0, 2]}, epochs=4)
    again.load_state_dict(penalty.state_dict())
    assert again.strength == penalty.strength == 1.0
