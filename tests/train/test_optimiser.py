"""Optimisers by their formulas."""

import pytest
import torch
from torch import Tensor, nn

from tascnet.options import Recipe
from tascnet.train.optimiser import make_optimizer

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
    frozen = nn.Parameter(WEIGHTS.clone(), requires_grad=False)
    recipe = Recipe(optimizer=name, lr=LR, weight_decay=DECAY)
    optimizer = make_optimizer([weights, frozen], recipe)
    weights.grad = GRADIENT.clone()
    optimizer.step()
    torch.testing.assert_close(weights.detach(), expected)
    assert torch.equal(frozen, WEIGHTS)
    assert optimizer.defaults["fused"]
