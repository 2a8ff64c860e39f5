"""Looking at a network without changing it: eval mode, hooks, inputs that fit, copies without memory."""

import copy
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into eval mode; its own mode is restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untouched(model: nn.Module, *, tensors: bool = True) -> Iterator[None]:
    """Restore at the end what a run of a network may change: attributes, tensors and random generators.

    Inside, torch.compile has no effect.

    Args:
        tensors: restore values of parameters and buffers too.
    """
    # Those of TorchScript are not Python's.
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    attributes = [dict(vars(module)) for module in modules]
    holders: list[dict[str, Any]] = []
    for module in modules:
        holders += [module._parameters, module._buffers, module._modules]
    held = [dict(holder) for holder in holders]
    values = [(t, t.data, t.detach().clone()) for t in _with_values(model)] if tensors else []
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)
            for module, own in zip(modules, attributes, strict=True):
                vars(module).clear()
                vars(module).update(own)
            for holder, items in zip(holders, held, strict=True):
                holder.clear()
                holder.update(items)
            with torch.no_grad():
                for tensor, data, value in values:
                    if tensor.data_ptr() != data.data_ptr():
                        tensor.data = data
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)


def _with_values(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta and not is_lazy(tensor):
            yield tensor


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks at the end."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def as_example(example: Tensor | Sequence[int]) -> Tensor:
    """One sample `1 x ...`: the tensor itself, or zeros of the given shape.

    Raises:
        ValueError: the first dimension is not 1.
    """
    sample = example if isinstance(example, Tensor) else torch.zeros(tuple(example))
    if sample.ndim < 2 or sample.shape[0] != 1:
        raise ValueError(f"an example is one sample, 1 x ...; this one is {tuple(sample.shape)}")
    return sample


def input_for(model: nn.Module, example: Tensor, batch: int = 1) -> Tensor:
    """The example `1 x ...` repeated to `batch x ...`, on the device of the model's weights.

    It has their memory format too and, unless it holds integers, their type.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None:
        dtype = weight.dtype if example.is_floating_point() else example.dtype
        example = example.to(weight.device, dtype)
    inputs = example.repeat(batch, *[1] * (example.ndim - 1))
    if inputs.ndim == 4 and is_channels_last(model):
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def is_channels_last(model: nn.Module) -> bool:
    """Whether some weight is channels_last and not contiguous."""
    return any(
        p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
        if not is_lazy(p)
    )


def meta_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type on the meta device, without values."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def meta_copy(module: nn.Module) -> nn.Module:
    """A deep copy on the meta device, whose parameters all require gradients; takes no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(meta_like(parameter), requires_grad=parameter.is_floating_point())
    for buffer in module.buffers():
        memo[id(buffer)] = meta_like(buffer)
    return copy.deepcopy(module, memo)
