"""Gradients of the loss, for criteria that read them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tascnet.inherit.moments import channels_second
from tascnet.models.inspect import hooked


@contextmanager
def loss_gradients(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, squares: bool = False
) -> Iterator[None]:
    """Inside, `grad` of every parameter holds its mean gradient of the cross-entropy over all samples.

    With `squares` it is the mean of the squared gradients of single samples, the diagonal of the empirical
    Fisher matrix. The model is in eval mode; `batches` are inputs and labels on its device.
    """
    model.zero_grad(set_to_none=True)
    with _unfrozen(model):
        parameters = list(model.parameters())
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        samples = 0
        try:
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
            yield
        finally:
            model.zero_grad(set_to_none=True)


def output_gradients(
    model: nn.Module, layers: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """What a small squared error of each output of a layer costs the loss of a sample.

    The model is in eval mode; `batches` are inputs and labels on its device.

    Returns:
        By layer, float64 on the CPU, `o` squared gradients of the cross-entropy, summed over pixels, mean
        over samples.
    """
    totals: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def note(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[name] = output

    hooks = (model.get_submodule(name).register_forward_hook(partial(note, name)) for name in layers)
    samples = 0
    with hooked(hooks), _unfrozen(model):
        for inputs, labels in batches:
            loss = functional.cross_entropy(model(inputs), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(outputs.values()))
            for name, gradient in zip(outputs, gradients, strict=True):
                gradient = channels_second(model.get_submodule(name), gradient)
                squares = gradient.double().square().reshape(*gradient.shape[:2], -1).sum(2)
                totals[name] = totals.get(name, 0.0) + squares.sum(0).cpu()
            samples += len(labels)
            outputs.clear()
    return {name: total / max(samples, 1) for name, total in totals.items()}


@contextmanager
def _unfrozen(model: nn.Module) -> Iterator[None]:
    """Every parameter requires gradients inside; the frozen ones are frozen again at the end."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
