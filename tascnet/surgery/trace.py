"""The dependency graph of a chain, traced on a copy without memory."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError

_PROBES = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A chain's copy on the meta device and torch-pruning's graph of it.

    Args:
        ghost: the copy; it holds shapes but no values, and all its parameters require gradients.
        graph: the dependency graph of the copy.
        names: the dotted name in the chain of each of the copy's modules.
        probe: a layer put before the copy, so that coupling to the chain's input shows; None where the
            input is no floating-point tensor.
        example: the example input on the meta device.
    """

    ghost: nn.Sequential
    graph: Any
    names: dict[nn.Module, str]
    probe: nn.Module | None
    example: Tensor

    def forward(self) -> Tensor:
        """The copy's output for the example: shapes alone, at no cost."""
        with torch.no_grad():
            output: Tensor = self.ghost(self.example)
        return output


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def fitted(example: Tensor, module: nn.Module) -> Tensor:
    """The example on the device of a module's weights and, where it is no index, in their type."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None:
        return example
    return example.to(weight.device, weight.dtype if example.is_floating_point() else example.dtype)


def meta_copy(module: nn.Module) -> nn.Module:
    """A deep copy on the meta device, whose parameters all require gradients; takes no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(_shape_of(parameter), requires_grad=parameter.is_floating_point())
    for buffer in module.buffers():
        memo[id(buffer)] = _shape_of(buffer)
    return copy.deepcopy(module, memo)


def _probe(example: Tensor) -> nn.Module | None:
    if not example.is_floating_point():
        return None
    layer = _PROBES.get(example.dim())
    if layer is None:
        raise SurgeryError(
            f"an example input of shape {tuple(example.shape)} cannot be traced, expected 2 to 5 dimensions"
        )
    channels = example.shape[1]
    kernel = () if layer is nn.Linear else (1,)
    return layer(channels, channels, *kernel, device="meta", dtype=example.dtype)


def trace(chain: nn.Sequential, example: Tensor) -> Trace:
    """Trace a chain, which is left as it is.

    Args:
        chain: any chain or slice of one.
        example: `1 x c x h x w`, or what the slice's first block takes.

    Raises:
        SurgeryError: the chain does not take the example.
    """
    ghost = meta_copy(chain).eval()
    assert isinstance(ghost, nn.Sequential)
    meta_example = fitted(_shape_of(example), ghost)
    probe = _probe(meta_example)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if probe is not None:
        parts["probe"] = probe
    parts["chain"] = ghost
    graph = tp.DependencyGraph()
    try:
        with torch.enable_grad():
            graph.build_dependency(
                nn.Sequential(parts),
                meta_example,
                forward_fn=lambda model, x: model(x),
                verbose=False,
            )
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        raise SurgeryError(
            f"the network does not take an example of shape {tuple(example.shape)} ({_first_line(error)})"
        ) from error
    names = {module: name for name, module in ghost.named_modules()}
    return Trace(ghost=ghost, graph=graph, names=names, probe=probe, example=meta_example)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
