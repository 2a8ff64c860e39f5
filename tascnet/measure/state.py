"""Looking at a network without leaving a trace on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into eval mode and give each its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def as_example(example: Tensor | Sequence[int]) -> Tensor:
    """One sample `1 x ...`: the tensor itself, or zeros of the shape that is given.

    Raises:
        ValueError: when the first dimension is not 1.
    """
    sample = example if isinstance(example, Tensor) else torch.zeros(tuple(example))
    if sample.ndim < 2 or sample.shape[0] != 1:
        raise ValueError(f"an example is one sample, 1 x ...; this one is {tuple(sample.shape)}")
    return sample


def input_for(model: nn.Module, example: Tensor, batch: int = 1) -> Tensor:
    """The example repeated to a batch, on the model's device and in its memory format.

    Args:
        example: `1 x ...`.
        batch: samples.

    Returns:
        `batch x ...`.
    """
    first = next(model.parameters(), None)
    device = example.device if first is None else first.device
    inputs = example.to(device).repeat(batch, *[1] * (example.ndim - 1))
    if inputs.ndim == 4 and _is_channels_last(model):
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def _is_channels_last(model: nn.Module) -> bool:
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    return any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in weights
    )
