"""The dependency graph of a chain, and the groups of coupled layers in it."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tascnet.errors import SurgeryError, first_line
from tascnet.models.inspect import input_for, meta_copy, meta_like
from tascnet.surgery.layers import BATCH_NORMS, CONVS, WEIGHTED, block_of, is_depthwise, layer_widths

# Errors of a network that does not fit together.
MISFITS = (RuntimeError, ValueError, IndexError, AssertionError)

_PROBES = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
# Operations that mix, move or create channels.
_MIXING = (
    *("mm", "convolution", "norm", "softmax", "permute", "transpose", "movedim", "roll"),
    *("flip", "index", "gather", "cumsum", "shuffle", "repeat"),
)
# Named as if it mixed, but a removed channel changes it as little as a zero one.
_VECTOR_NORM = "linalgvectornorm"


@dataclass(frozen=True, kw_only=True)
class WidthGroup:
    """Layers whose channels are coupled: removed from one, they are removed from all.

    Args:
        name: the first of `filters` in chain order.
        width: number of channels.
        filters: convolutions and linear layers whose output channels these are, depthwise ones included.
        members: all layers that a cut touches: filters, normalisation and consumers.
        consumers: layers whose input channels these are (or a part of them).
        first_block: index of the block that holds the first filter layer.
        last_block: index of the last block touched.
    """

    name: str
    width: int
    filters: tuple[str, ...]
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    first_block: int
    last_block: int


class Trace:
    """The dependency graph of a chain, from one forward pass of a copy on the meta device.

    It refers to layers by name and holds no weights: it serves every chain of the same layers and widths,
    such as a deep copy or the same network after training. A chain that was cut has to be traced again.

    Attributes:
        ghost: the copy: shapes without values.
        graph: torch-pruning's graph of the copy.
        names: the dotted name in the chain of each of the copy's modules.

    Raises:
        SurgeryError: the chain does not take the example.

    Source: Fang et al. 2023, DepGraph: Towards Any Structural Pruning.
    """

    def __init__(self, chain: nn.Sequential, example: Tensor) -> None:
        ghost = meta_copy(chain).eval()
        assert isinstance(ghost, nn.Sequential)
        self.example, self.ghost = example, ghost
        self._inputs = input_for(ghost, meta_like(example))
        # A layer before the copy shows what is coupled to the chain's input.
        self._probe = _probe(self._inputs)
        parts = [] if self._probe is None else [("probe", self._probe)]
        self.graph: Any = tp.DependencyGraph()
        try:
            with torch.enable_grad():
                self.graph.build_dependency(
                    nn.Sequential(OrderedDict([*parts, ("chain", ghost)])),
                    self._inputs,
                    forward_fn=lambda model, x: model(x),
                    verbose=False,
                )
        except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
            raise SurgeryError(
                f"the network does not take an example of shape {tuple(example.shape)} ({first_line(error)})"
            ) from error
        self.names = {module: name for name, module in ghost.named_modules()}
        self._structure = _structure(ghost)

    @classmethod
    def of(cls, chain: nn.Sequential, example: "Tensor | Trace") -> "Trace":
        """A new trace of a chain, or the given one.

        Raises:
            SurgeryError: the trace is of another structure, or the chain does not take the example.
        """
        if not isinstance(example, Trace):
            return cls(chain, example)
        if _structure(chain) != example._structure:
            raise SurgeryError(
                "the network has other layers or widths than the trace", "trace it again after every cut"
            )
        return example

    def forward(self) -> Tensor:
        """The copy's output for the example, a shape without values."""
        with torch.no_grad():
            output: Tensor = self.ghost(self._inputs)
        return output

    def coupled(self, layer: str | nn.Module, indices: Sequence[int]) -> Any:
        """torch-pruning's group for removing output channels `indices` of a layer."""
        module = self.ghost.get_submodule(layer) if isinstance(layer, str) else layer
        linear = isinstance(module, nn.Linear)
        function = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
        return self.graph.get_pruning_group(module, function, list(indices))

    def writes(self, item: Any) -> bool:
        """Whether an item of such a group removes output channels."""
        return bool(self.graph.is_out_channel_pruning_fn(item.dep.handler))

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Undo at the end whatever is done to the copy."""
        operations = [module for module in self.graph.module2node if isinstance(module, nn.Module)]
        states = []
        for module in {*self.ghost.modules(), *operations}:
            state = {k: copy.copy(v) if isinstance(v, list | dict) else v for k, v in vars(module).items()}
            states.append((module, state))
        nodes = self.graph.module2node.values()
        mappings = [(dep, list(dep.index_mapping)) for node in nodes for dep in node.dependencies]
        try:
            yield
        finally:
            for module, state in states:
                vars(module).clear()
                vars(module).update(state)
            for dep, mapping in mappings:
                dep.index_mapping = mapping

    @cached_property
    def groups(self) -> tuple[WidthGroup, ...]:
        """The groups that can be made narrower, in chain order; see `width_groups`."""
        groups = tuple(self.cuttable.values())
        return groups if self._survives(groups) else tuple(g for g in groups if self._survives([g]))

    @cached_property
    def cuttable(self) -> dict[str, WidthGroup]:
        """The groups of which every channel can be removed alone, by name, before any trial cut."""
        seen = {} if self._probe is None else self._filters(self._whole(self._probe))
        found = {}
        for module in self.names:
            if module in seen or not isinstance(module, WEIGHTED) or module not in self.graph.module2node:
                continue
            coupled = self._whole(module)
            filters = self._filters(coupled)
            seen |= filters
            if not self._is_cuttable(coupled, filters):
                continue
            touched = {item.dep.target.module for item in coupled.items}
            layers = {name: layer for layer, name in self.names.items() if layer in touched}
            writers = tuple(name for name, layer in layers.items() if layer in filters)
            readers = (name for name, layer in layers.items() if isinstance(layer, WEIGHTED))
            found[writers[0]] = WidthGroup(
                name=writers[0],
                width=len(coupled[0].idxs),
                filters=writers,
                members=tuple(layers),
                consumers=tuple(name for name in readers if name not in writers),
                first_block=block_of(self.ghost, writers[0]),
                last_block=max(block_of(self.ghost, name) for name in layers),
            )
        return found

    def _whole(self, layer: nn.Module) -> Any:
        return self.coupled(layer, range(_out_channels(layer)))

    def _filters(self, group: Any) -> dict[nn.Module, list[int]]:
        """The layers whose output channels are in the group, with their channels in root order."""
        return {
            item.dep.target.module: list(item.idxs)
            for item in group.items
            if isinstance(item.dep.target.module, WEIGHTED) and self.writes(item)
        }

    def _is_cuttable(self, group: Any, filters: dict[nn.Module, list[int]]) -> bool:
        """Whether every channel of the group can be removed, alone, from all that it touches."""
        width = len(group[0].idxs)
        if width < 2:
            return False
        if any(i != list(range(width)) or _out_channels(layer) != width for layer, i in filters.items()):
            return False
        for item in group.items:
            node = item.dep.target
            if node.module not in self.names:
                is_safe = _is_safe_operation(node)
            elif isinstance(node.module, CONVS):
                is_safe = node.module.groups == 1 or is_depthwise(node.module)
            else:
                is_safe = isinstance(node.module, (nn.Linear, nn.PReLU, *BATCH_NORMS))
            if not is_safe or (self.writes(item) and not node.outputs):
                return False
        return True

    def _survives(self, groups: Sequence[WidthGroup]) -> bool:
        """Whether the network still runs after each group has lost its last channel."""
        shape = self.forward().shape
        with self.rehearsal():
            try:
                for group in groups:
                    self.coupled(group.name, [group.width - 1]).prune(record_history=False)
                same_shape = self.forward().shape == shape
            except MISFITS:
                return False
            widths = layer_widths(self.ghost)
        return same_shape and all(widths[name] == g.width - 1 for g in groups for name in g.filters)


def width_groups(chain: nn.Sequential, example: Tensor | Trace) -> list[WidthGroup]:
    """The groups of a chain that can be made narrower, in chain order.

    Left out are groups coupled to the chain's input or output, those with parameter-free shortcuts that
    slice or pad channels, grouped (not depthwise) convolutions, and all that do not survive a trial cut.

    Raises:
        SurgeryError: the chain does not take the example, or is not that of the trace.
    """
    return list(Trace.of(chain, example).groups)


def _structure(chain: nn.Sequential) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of all modules, and the channels of all parameters, without kernels."""
    channels = {name: tuple(parameter.shape[:2]) for name, parameter in chain.named_parameters()}
    return [name for name, _ in chain.named_modules()], channels


def _probe(example: Tensor) -> nn.Module | None:
    """A layer that keeps the example's shape; None where that holds integers."""
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


def _out_channels(layer: nn.Module) -> int:
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(width, int)
    return width


def _is_safe_operation(node: Any) -> bool:
    """Whether an operation that is no layer keeps each channel to itself."""
    kind = type(node.module).__name__
    if kind == "_ConcatOp":
        return getattr(node.grad_fn, "_saved_dim", 1) in (1, -3, None)
    if kind == "_SliceOp":
        return node.module.dim not in (0, 1)
    if kind == "_ReshapeOp":
        return len(getattr(node.grad_fn, "_saved_self_sym_sizes", ())) in (2, 4)
    if kind != "_ElementWiseOp" or any(getattr(node.grad_fn, "_saved_pad", ())[4:]):
        return False
    operation = str(node.module).lower().replace(_VECTOR_NORM, "")
    return not any(word in operation for word in _MIXING)
