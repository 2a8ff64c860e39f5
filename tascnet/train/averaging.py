"""Weights averaged over the steps of a training."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a network's weights and buffers.

    After step `t`, counted from 0, the average moves to the network by `1 - min(decay, (1 + t) / (10 + t))`:
    the weights of before the training are soon forgotten.

    Args:
        model: where the average starts; a copy is taken.
        decay: below 1.

    Source: Tarvainen and Valpola 2017, section 2, with the rising decay of
    `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Sequential, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Sequential) -> None:
        """Move to the network as it is after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        moved = [(own, new) for own, new in pairs if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in moved], [new for _, new in moved], 1 - decay)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it has seen."""
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.steps = int(state["steps"])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
