"""The optimiser and the learning rates of a recipe."""

from collections.abc import Iterable

import torch
from torch import nn

from tascnet.options import Recipe

# Of sgd and nesterov.
MOMENTUM = 0.9


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe for the trainable ones of `parameters`."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # fused: one pass over memory. On VGG-16's dense layers the separate passes take longer than the network.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer in ("sgd", "nesterov"):
        return torch.optim.SGD(
            trained,
            lr=recipe.lr,
            momentum=MOMENTUM,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.optimizer == "nesterov",
            fused=True,
        )
    # PyTorch has no such pass of adagrad on CUDA.
    fused = True if all(parameter.device.type == "cpu" for parameter in trained) else None
    return torch.optim.Adagrad(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)


def learning_rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The share of `recipe.lr` at a step (counted from 0); reductions by `plateau` are not part of it."""
    total = recipe.epochs * steps_per_epoch
    rising = round(recipe.warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    if recipe.schedule == "cosine":
        done = torch.tensor((step - rising) / max(1, total - rising), dtype=torch.float64)
        return float(0.5 * (1.0 + torch.cos(torch.pi * done)))
    if recipe.schedule == "step":
        return float(recipe.factor ** (step // steps_per_epoch // recipe.step_epochs))
    return 1.0
