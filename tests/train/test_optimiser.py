"""Optimisers by their formulas."""

import pytest
import torch
from torch import Tensor, nn

from tascnet.options import Recipe
from tascnet.train.optimiser import layer_groups, make_optimizer

LR, DECAY, MOMENTUM = 0.1, 0.5, 0.9
WEIGHTS, GRADIENT = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 4.0, -0.25])
DECAYED = GRADIENT + DECAY * WEIGHTS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # After one step both moments are the gradient's own: a step of `lr` against its sign.
        ("adamw", WEIGHTS * (1 - LR * DECAY) - LR * GRADIENT.sign()),
        # The first velocity is the gradient, to which Nesterov's step adds the gradient itself.
        ("sgd", WEIGHTS - LR * DECAYED),
        ("nesterov", WEIGHTS - LR * (1 + MOMENTUM) * DECAYED),
        ("adagrad", WEIGHTS - LR * DECAYED.sign()),
    ],
)
def test_the_first_step_by_its_formula(name: str, expected: Tensor) -> None:
    weights = nn.Parameter(WEIGHTS.clone())
    optimizer = make_optimizer([[weights]], Recipe(optimizer=name, weight_decay=DECAY))
    optimizer.param_groups[0]["lr"] = LR
    weights.grad = GRADIENT.clone()
    optimizer.step()
    torch.testing.assert_close(weights.detach(), expected)
    assert optimizer.defaults["fused"]


def test_the_rate_falls_from_the_head_to_the_input() -> None:
    blocks = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Linear(2, 2)]
    chain = nn.Sequential(*blocks)
    found = layer_groups(chain, 0.5)
    # The head is Dropout and classifier; blocks without parameters do not count.
    assert [(factor, len(group)) for factor, group in found] == [(1.0, 2), (0.5, 2), (0.25, 2)]
    assert found[0][1][0] is chain[5].weight
    assert found[2][1][0] is chain[0].weight
    chain[0].requires_grad_(False)
    assert [factor for factor, _ in layer_groups(chain, 0.5)] == [1.0, 0.5]
    assert [(factor, len(group)) for factor, group in layer_groups(chain, 1.0)] == [(1.0, 4)]
