"""What a training run is made of: optimiser, schedule and their settings."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run.

    Args:
        epochs: passes over the training samples.
        batch_size: samples a step.
        optimizer: adamw, sgd or adagrad.
        lr: peak learning rate.
        weight_decay: decoupled for adamw, L2 for the others.
        momentum: of sgd.
        nesterov: of sgd.
        schedule: constant, cosine (to zero), step or plateau (on validation accuracy).
        warmup: share of all steps over which the learning rate rises linearly.
        step_epochs: epochs between two steps of `step`.
        factor: of `step` and `plateau`.
        plateau_patience: epochs without improvement before `plateau` reduces.
        min_lr: `plateau` does not reduce below this.
        epoch_share: share of the training samples that an epoch sees.
        label_smoothing: of the cross-entropy, in [0, 1).
        patience: epochs without a better validation accuracy before stopping; None: never.
        batchnorm: `train` (statistics of each batch) or `frozen` (as they are).
        ema: decay of the average of the weights that is judged and kept; None: none.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "cosine"
    warmup: float = 0.0
    step_epochs: int = 20
    factor: float = 0.5
    plateau_patience: int = 5
    min_lr: float = 0.0
    epoch_share: float = 1.0
    label_smoothing: float = 0.0
    patience: int | None = None
    batchnorm: str = "train"
    ema: float | None = None


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, over the trainable ones of `parameters`."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # fused: one pass over memory. On VGG-16's dense layers the separate passes take longer than the network.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
    if recipe.optimizer == "adagrad":
        # PyTorch has no such pass of adagrad on CUDA.
        fused = True if all(parameter.device.type == "cpu" for parameter in trained) else None
        return torch.optim.Adagrad(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    raise ValueError(f"optimizer must be adamw, sgd or adagrad, got {recipe.optimizer}")


def learning_rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The share of `recipe.lr` that step `step` (counted from 0) uses; `plateau` acts beside it."""
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
