"""In which order channels are removed."""

import pytest
import torch
from torch import nn

from tascnet.inherit import (
    ChannelMoments,
    fold_into,
    input_moments,
    input_positions,
    loss_gradients,
    output_gradients,
    rank_by_reconstruction,
    rank_pairs,
    rank_scores,
)
from tascnet.surgery import width_groups
from tests.models.toys import EXAMPLE, TOYS, body


def test_of_each_pair_the_smaller_goes_the_most_alike_first() -> None:
    similarity = torch.eye(4, dtype=torch.float64)
    for i, j, value in ((0, 1, 0.5), (2, 3, 0.9), (0, 2, 0.8)):
        similarity[i, j] = similarity[j, i] = value
    ranking = rank_pairs(similarity, torch.tensor([1.0, 2.0, 4.0, 3.0]))
    # 2 and 3 are most alike and 3 is the smaller; of what is left 0 and 1.
    assert ranking.order == (3, 0)
    assert ranking.partners == (2, 1)
    # The six pairs have a mean dissimilarity of 1 - 2.2 / 6.
    assert ranking.costs == pytest.approx((0.1 / (3.8 / 6), 0.5 / (3.8 / 6)))
    assert ranking.pairs() == [(2, 3), (0, 1)]
    assert ranking.first(1).pairs() == [(2, 3)]


def test_the_least_important_goes_first() -> None:
    ranking = rank_scores(torch.tensor([3.0, 1.0, 2.0, 1.0]))
    assert ranking.order == (1, 3, 2, 0)
    assert ranking.costs == (1.0, 1.0, 2.0, 3.0)
    assert ranking.pairs() == []


def two_linear(width: int) -> nn.Sequential:
    chain = body(("a", nn.Linear(width, width, bias=False)), ("b", nn.Linear(width, 1, bias=False)))
    nn.init.eye_(chain.a.weight)
    return chain


def moments_of(*rows: torch.Tensor) -> ChannelMoments:
    moments = ChannelMoments(rows[0].shape[1])
    for part in rows:
        moments.add(part)
    return moments


def test_what_a_channel_costs_by_hand() -> None:
    # Independent channels of variances 1, 4 and 9, read with weights 3, 1 and 1: they carry 9, 4 and 9 of the
    # output's variance of 22, and nobody can speak for another.
    chain = two_linear(3)
    with torch.no_grad():
        chain.b.weight.copy_(torch.tensor([[3.0, 1.0, 1.0]]))
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    moments = moments_of(signs * torch.tensor([1.0, 2.0, 3.0]))
    inputs = {"b": torch.arange(3)[:, None, None]}
    ranking = rank_by_reconstruction(chain, inputs, {"b": moments}, 2, ridge=0.0)
    assert ranking.order[0] == 1
    assert ranking.costs == pytest.approx((4 / 22, 9 / 22))
    # Where a squared error costs the loss 2, the costs are 2 x 4 and 2 x 9.
    weights = {"b": torch.tensor([2.0])}
    ranking = rank_by_reconstruction(chain, inputs, {"b": moments}, 2, weights=weights, ridge=0.0)
    assert sorted(ranking.costs) == pytest.approx([8.0, 18.0])


def test_a_channel_that_others_make_up_for_costs_nothing_however_large() -> None:
    # The third channel is the sum of the first two; without it the others are all that is left.
    rows = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, rows.sum(1, keepdim=True)], 1)
    chain = two_linear(3)
    with torch.no_grad():
        chain.b.weight.copy_(torch.tensor([[5.0, -3.0, 1.0]]))
    inputs = {"b": torch.arange(3)[:, None, None]}
    ranking = rank_by_reconstruction(chain, inputs, {"b": moments_of(rows)}, 2, ridge=1e-9)
    assert ranking.costs[0] < 1e-6
    assert ranking.costs[1] > 0.1


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "dense"])
def test_costs_are_the_variance_that_folding_loses(name: str) -> None:
    """Against the consumer's outputs before and after the channel is folded, over the same samples."""
    chain = TOYS[name]()
    group = next(g for g in width_groups(chain, EXAMPLE) if len(g.consumers) == 1 and g.width >= 4)
    data = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = input_positions(chain, [group])
    moments = input_moments(chain, inputs, [data])
    ranking = rank_by_reconstruction(chain, inputs[group.name], moments[group.name], 1)
    (consumer,) = group.consumers
    covariance = moments[group.name][consumer].covariance
    layer = chain.get_submodule(consumer)
    places = inputs[group.name][consumer].flatten(1)

    def weights() -> torch.Tensor:
        return layer.weight.detach()[:, places].double().transpose(0, 1).flatten(1)  # type: ignore[index, operator]

    before = weights()
    fold_into(chain, inputs[group.name], moments[group.name], ranking.order)
    after = weights()
    after[list(ranking.order)] = 0
    change = after - before
    lost = (change.T @ covariance @ change).trace() / (before.T @ covariance @ before).trace()
    assert ranking.costs[0] == pytest.approx(float(lost), rel=0.05, abs=2e-3)


def test_gradients_of_outputs_by_hand() -> None:
    """A map is averaged into logits: each of its four pixels has a quarter of the logit's gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].bias.requires_grad_(False)
    x, y = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    error = torch.softmax(model(x), 1).detach() - nn.functional.one_hot(y, 2)
    found = output_gradients(model, ["0"], [(x[:2], y[:2]), (x[2:], y[2:])])
    expected = 4 * (error / 4).square().mean(0)
    torch.testing.assert_close(found["0"], expected.double(), rtol=1e-5, atol=1e-7)
    assert not model[0].bias.requires_grad


@pytest.mark.parametrize("squares", [False, True])
def test_gradients_are_means_over_all_samples(squares: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    error = torch.softmax(model(x), 1).detach() - nn.functional.one_hot(y, 2)
    each = error[:, :, None] * x[:, None, :]
    expected = each.square().mean(0) if squares else each.mean(0)
    with loss_gradients(model, [(x[:2], y[:2]), (x[2:], y[2:])], squares=squares):
        torch.testing.assert_close(model[0].weight.grad, expected)
        assert model[0].bias.grad is not None
    assert model[0].weight.grad is None
    assert not model[0].bias.requires_grad
