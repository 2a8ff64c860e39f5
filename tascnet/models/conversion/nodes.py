"""A network as a list of the operations that blocks can do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from tascnet.models.conversion.calls import Frame, SourceLine
from tascnet.models.graph import found_in

# Layers with a kernel or a matrix: what a unit of the search is counted by.
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


@dataclass(eq=False, kw_only=True)
class Node:
    """One operation.

    Args:
        operation: `input`, `layer`, `weight`, or one of `tascnet.models.graph.OPERATIONS`.
        arguments: as those of a step, with nodes in place of values; of a layer its input, of a weight none.
        path: its name: that of the layer or weight in the network, or of the module whose `forward` calls it
            and the function.
        scope: the path of the module whose `forward` calls it.
        frame: the run of that module.
        place: the line that calls it.
        shape: of the tensor that it gives, in the traced run; None for several tensors and for numbers.
        layer: of a `layer`.
        is_function: whether it is the call of a function, and not that of a module.
        weight: of a `weight`.
        value: of a whole number, in the traced run.
    """

    operation: str
    arguments: tuple[Any, ...]
    path: str
    frame: Frame
    place: SourceLine | None = None
    shape: tuple[int, ...] | None = None
    layer: nn.Module | None = None
    is_function: bool = True
    weight: Tensor | None = None
    value: int | None = None

    @property
    def scope(self) -> str:
        return self.frame.path

    @property
    def reads(self) -> list["Node"]:
        return list(found_in(self.arguments, Node))

    @cached_property
    def has_weights(self) -> bool:
        """Whether it is a layer with weights or statistics, which all of its calls share."""
        return self.layer is not None and any(True for _ in tensors_of(self.layer))


def tensors_of(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters()
    yield from layer.buffers()


def replaced(argument: Any, others: Mapping[Node, Node]) -> Any:
    """The argument with other nodes in place of some."""
    if isinstance(argument, Node):
        while argument in others:
            argument = others[argument]
        return argument
    if isinstance(argument, tuple):
        return tuple(replaced(item, others) for item in argument)
    if isinstance(argument, slice):
        return slice(*replaced((argument.start, argument.stop, argument.step), others))
    return argument


def uses(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """By node those that read it, once for each time."""
    found: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for read in node.reads:
            found[read].append(node)
    return found


def alive(nodes: Sequence[Node], output: Node) -> list[Node]:
    """The nodes that the output depends on, in their order."""
    found, waiting = {output}, [output]
    while waiting:
        for read in waiting.pop().reads:
            if read not in found:
                found.add(read)
                waiting.append(read)
    return [node for node in nodes if node in found]
