"""What the loss says of each parameter, for criteria that ask."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["loss_gradients"]


@contextmanager
def loss_gradients(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, squares: bool = False
) -> Iterator[None]:
    """Within it, `grad` of every parameter holds its mean gradient of the cross-entropy over all samples.

    Args:
        model: the network, in eval mode.
        batches: inputs and labels on its device.
        squares: the mean of each sample's squared gradient instead, the diagonal of the empirical Fisher
            matrix; the samples pass one by one.
    """
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.requires_grad_(True).zero_grad(set_to_none=True)
    try:
        _accumulate(model, batches, squares)
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)


def _accumulate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], squares: bool) -> None:
    parameters = list(model.parameters())
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    samples = 0
    for inputs, labels in batches:
        parts = zip(inputs.split(1), labels.split(1), strict=True) if squares else [(inputs, labels)]
        for x, y in parts:
            loss = functional.cross_entropy(model(x), y, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total += gradient.square() if squares else gradient
        samples += len(labels)
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total / max(samples, 1)
