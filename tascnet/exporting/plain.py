"""The network that is exported: on the CPU, in eval mode, contiguous, with batch-norm folded."""

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tascnet.models.blocks import MaxOverTime
from tascnet.models.graph import Graph, Step, Value
from tascnet.models.layers import Conv2dSame

_CONVS = (nn.Conv1d, nn.Conv2d, Conv2dSame, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def plain_copy(network: nn.Sequential) -> nn.Sequential:
    """A copy of a chain for exporting and for timing; its layers keep their names.

    It lies on the CPU in eval mode, in float32 and contiguous memory, and needs no gradients. A batch-norm
    whose input is the output of a convolution, which nothing else reads, is folded into it and becomes an
    identity: outputs differ by rounding alone.
    """
    plain = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    fold_batchnorm(plain)
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.data = tensor.data.contiguous(memory_format=torch.contiguous_format)
    return plain


@torch.no_grad()
def fold_batchnorm(network: nn.Module, kept: nn.Module | None = None) -> None:
    """Fold each batch-norm in eval mode that can be folded, in place; it becomes an identity.

    Args:
        network: in eval mode, with weights in float32.
        kept: a part of it that keeps its outputs, of which none is folded into a batch-norm behind it.
    """
    inside = set() if kept is None else set(kept.modules())
    folded = []
    for convolution, norm in foldable_pairs(network):
        if convolution not in inside or norm in inside:
            _fold(convolution, norm)
            folded.append(norm)
    _replace(network, folded)


def foldable_pairs(network: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Convolutions, and the batch-norm with statistics that alone reads the outputs of each."""
    places = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    for convolution, norm in _pairs(network):
        if places[id(convolution)] == places[id(norm)] == 1 and _fits(convolution, norm):
            yield convolution, norm


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers of which the second alone reads the output of the first."""
    if isinstance(module, Graph):
        yield from graph_pairs(module)
    elif type(module) is nn.Sequential:
        leaves = list(_leaves(module))
        yield from pairwise(leaves)
        for leaf in leaves:
            yield from _pairs(leaf)
        return
    # The branches of a text CNN are a chain in name alone.
    parts = [*module.branches, module.activation] if isinstance(module, MaxOverTime) else module.children()
    for child in parts:
        yield from _pairs(child)


def _leaves(chain: nn.Sequential) -> Iterator[nn.Module]:
    """What runs one after the other, without the chains that hold it."""
    for child in chain:
        # A subclass may compute anything else.
        if type(child) is nn.Sequential:
            yield from _leaves(child)
        else:
            yield child


def graph_pairs(graph: Graph) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers of a graph of which the second alone reads the output of the first."""
    reads = Counter(number for step in graph.steps for number in _read(step))
    runs = Counter(step.arguments[0] for step in graph.steps if step.operation == "layer")
    for step in graph.steps:
        if step.operation != "layer":
            continue
        name, given = step.arguments
        assert isinstance(given, Value)
        before = graph.steps[given.number - 1] if given.number else None
        if before is None or before.operation != "layer" or reads[given.number] != 1:
            continue
        if runs[name] == runs[before.arguments[0]] == 1:
            yield graph.get_submodule(str(before.arguments[0])), graph.get_submodule(str(name))


def _read(step: Step) -> Iterator[int]:
    """Numbers of the values that a step reads, each as often as it does."""
    waiting = list(step.arguments)
    while waiting:
        argument = waiting.pop()
        if isinstance(argument, Value):
            yield argument.number
        elif isinstance(argument, tuple):
            waiting += argument
        elif isinstance(argument, slice):
            waiting += (argument.start, argument.stop, argument.step)


def _fits(convolution: nn.Module, norm: nn.Module) -> bool:
    return (
        # Of a subclass, with a parametrisation or with a hook, neither the weights nor the outputs are known.
        type(convolution) in _CONVS
        and type(norm) in _NORMS
        and not any(module._forward_hooks or module._forward_pre_hooks for module in (convolution, norm))
        # Without statistics it normalises each batch by its own.
        and norm.running_mean is not None
        and norm.running_var is not None
        and norm.num_features == convolution.out_channels
        # torch scales the weights of transposed convolutions as if there were one group.
        and not (isinstance(convolution, nn.ConvTranspose2d) and convolution.groups > 1)
    )


def _fold(convolution: nn.Module, norm: nn.Module) -> None:
    """Computed in float64, so that it rounds once."""
    assert isinstance(convolution, _CONVS)
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(),
        _exact(convolution.bias),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        _exact(norm.weight),
        _exact(norm.bias),
        transpose=isinstance(convolution, nn.ConvTranspose2d),
    )
    convolution.weight = nn.Parameter(weight.float(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)


def _exact(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _replace(network: nn.Module, folded: list[nn.Module]) -> None:
    """Put identities in the places of folded batch-norms."""
    gone = {id(norm) for norm in folded}
    for module in network.modules():
        for name, child in module._modules.items():
            if id(child) in gone:
                module._modules[name] = nn.Identity()
