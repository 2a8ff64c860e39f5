"""The optimiser and the learning rates of a recipe."""

from collections.abc import Sequence

import torch
from torch import nn

from tascnet.models.head import head_start
from tascnet.options import Recipe

# Of sgd and nesterov.
MOMENTUM = 0.9


def layer_groups(chain: nn.Sequential, layer_decay: float) -> list[tuple[float, list[nn.Parameter]]]:
    """The trainable parameters, and the factor of their learning rate.

    The head has the factor 1, and each block with parameters before it `layer_decay` times the next one's.
    """
    if layer_decay == 1:
        return [(1.0, _trainable(chain))]
    has_head = len(chain) > 0 and isinstance(chain[-1], nn.Linear)
    start = head_start(chain) if has_head else len(chain) - 1
    groups, factor = [(1.0, _trainable(chain[start:]))], 1.0
    for block in reversed(chain[:start]):
        if any(True for _ in block.parameters()):
            factor *= layer_decay
            groups.append((factor, _trainable(block)))
    return [(factor, parameters) for factor, parameters in groups if parameters]


def make_optimizer(groups: Sequence[Sequence[nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; its learning rates are set before each step."""
    trained = [{"params": list(group)} for group in groups]
    # fused: one pass over memory. On VGG-16's dense layers the separate passes take longer than the network.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trained, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer in ("sgd", "nesterov"):
        return torch.optim.SGD(
            trained,
            momentum=MOMENTUM,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.optimizer == "nesterov",
            fused=True,
        )
    # PyTorch has no such pass of adagrad on CUDA.
    fused = True if all(parameter.device.type == "cpu" for group in groups for parameter in group) else None
    return torch.optim.Adagrad(trained, weight_decay=recipe.weight_decay, fused=fused)


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


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
