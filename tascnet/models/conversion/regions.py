"""Blocks of a chain: the operations between two points at which one tensor alone is alive.

A point is a cut if exactly one value, a tensor, is read after it, and no layer runs both before and after it.
What lies between two cuts becomes the layer that it is, a `Residual`, a `Concat`, or else a `Graph`; the
branches of the first two are cut in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.blocks import Concat, Residual, sequence
from tascnet.models.conversion.calls import refused
from tascnet.models.conversion.nodes import WEIGHTED, Node
from tascnet.models.graph import Graph, Step, Value
from tascnet.models.layers import Permute

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.PReLU, nn.Softmax),
)
# Operations that give the values of their input in another shape or order, and the numbers for it.
_LAYOUTS = {
    *("reshape", "transpose", "permute", "contiguous", "squeeze", "unsqueeze"),
    *("shape", "getitem", "add_int", "sub_int", "mul_int", "floordiv"),
}


@dataclass(frozen=True, eq=False)
class Block:
    """One item of a chain.

    Args:
        module: what it becomes.
        nodes: its operations.
        path: of the module of the network that it is, or of its only layer.
    """

    module: nn.Module
    nodes: tuple[Node, ...]
    path: str

    @property
    def is_layer(self) -> bool:
        return len(self.nodes) == 1

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @property
    def is_module(self) -> bool:
        """Whether it gives what the module of its path gives."""
        return f"{self.output.path}.".startswith(f"{self.path}.")


def blocks_of(nodes: Sequence[Node], entry: Node, base: str = "") -> list[Block]:
    """The chain of operations that read `entry` alone of what is made elsewhere.

    Args:
        nodes: in their order; the last one gives the output.
        entry: the input; not among the nodes.
        base: path of the module that they belong to.
    """
    blocks: list[Block] = []
    parts = _merged(_parts(nodes, entry))
    for part in parts:
        path, inner = _paths(part, parts, base)
        block = Block(_module(part, entry, inner), tuple(part), path)
        entry = part[-1]
        previous = blocks[-1] if blocks else None
        if previous is not None and _ends(previous, block):
            assert isinstance(previous.module, Residual)
            previous.module.activation = block.module
            blocks[-1] = Block(previous.module, (*previous.nodes, *block.nodes), previous.path)
        else:
            blocks.append(block)
    return blocks


def chained(blocks: Sequence[Block], base: str) -> nn.Sequential:
    """Blocks in a row, with names relative to the module at `base`."""
    names = Names()
    return sequence((names.of(relative(block.path, base)), block.module) for block in blocks)


# Attributes of the modules that hold layers, and those that `with_info` gives a chain.
_ATTRIBUTES = {*dir(nn.Sequential()), *dir(Graph), "steps"}
_ATTRIBUTES |= {"info", "preprocessing", "class_names", "origin"}


class Names:
    """Names of layers that are not taken yet."""

    def __init__(self) -> None:
        self._taken = set(_ATTRIBUTES)

    def of(self, path: str) -> str:
        """A name for the layer at a path of the network."""
        name = start = path.replace(".", "_")
        number = 0
        while name in self._taken:
            number += 1
            name = f"{start}_{number}"
        self._taken.add(name)
        return name


def relative(path: str, base: str) -> str:
    """A path as seen from the module at `base`."""
    return path.removeprefix(f"{base}.") if base else path


def _parts(nodes: Sequence[Node], entry: Node) -> list[list[Node]]:
    """The nodes from each cut to the next."""
    place = {entry: -1} | {node: number for number, node in enumerate(nodes)}
    last = {node: place[node] for node in (entry, *nodes)}
    last[nodes[-1]] = len(nodes)
    runs: dict[nn.Module, int] = {}
    for number, node in enumerate(nodes):
        for read in node.reads:
            last[read] = max(last[read], number)
        if node.has_weights:
            assert node.layer is not None
            runs[node.layer] = number
    parts: list[list[Node]] = []
    part: list[Node] = []
    # The last places at which what is alive is read, and at which layers that ran run again.
    living, shared = {entry}, -1
    for number, node in enumerate(nodes):
        part.append(node)
        if node.has_weights:
            assert node.layer is not None
            shared = max(shared, runs[node.layer])
        living = {item for item in (*living, node) if last[item] > number}
        if living == {node} and node.shape is not None and shared <= number:
            parts.append(part)
            part = []
    return parts


def _merged(parts: Sequence[list[Node]]) -> list[list[Node]]:
    """The parts, those in a row as one that only lay out values anew (the shuffling of channels)."""
    merged: list[list[Node]] = []
    for part in parts:
        if merged and _lays_out(merged[-1]) and _lays_out(part):
            merged[-1] = [*merged[-1], *part]
        else:
            merged.append(part)
    return merged


def _lays_out(part: Sequence[Node]) -> bool:
    return all(
        node.operation in _LAYOUTS or (isinstance(node.layer, nn.Flatten) and len(node.shape or ()) > 2)
        for node in part
    )


def _module(part: list[Node], entry: Node, path: str) -> nn.Module:
    if len(part) == 1 and part[0].operation == "layer":
        assert part[0].layer is not None
        return part[0].layer
    if len(part) == 1 and part[0].operation == "permute":
        return Permute(part[0].arguments[1])
    return _joined(part, entry, path) or graph(part, entry, path)


def _joined(part: list[Node], entry: Node, path: str) -> nn.Module | None:
    """The `Residual` or `Concat` that ends in a sum or concatenation of two branches."""
    last = part[-1]
    if last.operation == "cat":
        items, axis = last.arguments
        if axis == 1 and len(items) == 2 and items[0] is entry and items[1] is not entry:
            branch = _branch(part[:-1], items[1])
            if len(branch) == len(part) - 1 and items[1] is branch[-1]:
                return Concat(chained(blocks_of(branch, entry, path), path))
        return None
    if last.operation != "add" or not all(isinstance(item, Node) for item in last.arguments):
        return None
    first, second = last.arguments
    if first.shape != second.shape or first is second or first.shape is None:
        return None
    branches = [_branch(part[:-1], item) for item in (first, second)]
    if sum(map(len, branches)) != len(part) - 1 or set(branches[0]) & set(branches[1]):
        return None
    layers = [{node.layer for node in branch if node.has_weights} for branch in branches]
    if layers[0] & layers[1]:
        return None
    # The branch with more weights is the body; of equal ones the first, as in `body(x) + shortcut(x)`.
    if _weighted(branches[1]) > _weighted(branches[0]) or not branches[0]:
        branches.reverse()
    if not branches[0] or not all(_reads(branch, entry) for branch in branches if branch):
        return None
    body, shortcut = (chained(blocks_of(b, entry, path), path) if b else nn.Identity() for b in branches)
    return Residual(body, shortcut, nn.Identity())


def _reads(branch: Sequence[Node], entry: Node) -> bool:
    return any(entry in node.reads for node in branch)


def _branch(nodes: Sequence[Node], output: Node) -> list[Node]:
    """Those of the nodes that the output depends on."""
    inside = set(nodes)
    found, waiting = {output}, [output]
    while waiting:
        for read in waiting.pop().reads:
            if read in inside and read not in found:
                found.add(read)
                waiting.append(read)
    return [node for node in nodes if node in found]


def _weighted(nodes: Sequence[Node]) -> int:
    return sum(isinstance(node.layer, WEIGHTED) for node in nodes)


def _ends(previous: Block, block: Block) -> bool:
    """Whether a block is the activation of the sum before it."""
    return (
        isinstance(previous.module, Residual)
        and isinstance(previous.module.activation, nn.Identity)
        and isinstance(block.module, ACTIVATIONS)
        and not block.nodes[0].has_weights
        and block.nodes[0].frame is previous.output.frame
    )


def graph(nodes: Sequence[Node], entry: Node, path: str) -> Graph:
    """The block of any operations, which runs them as they are."""
    names = Names()
    layers: dict[nn.Module, str] = {}
    weights: dict[str, Any] = {}
    values: dict[Node, int] = {entry: 0}
    steps: list[Step] = []
    known: dict[Any, int] = {}
    for node in nodes:
        arguments = _numbered(node.arguments, values)
        if node.operation == "layer":
            assert node.layer is not None
            if node.layer not in layers:
                layers[node.layer] = names.of(relative(node.path, path))
            arguments = (layers[node.layer], *arguments)
        elif node.operation == "weight":
            name = names.of(relative(node.path, path))
            weights[name] = node.weight
            arguments = (name,)
        key = (node.operation, repr(arguments)) if node.shape is None else None
        if key in known:
            values[node] = known[key]
            continue
        steps.append(Step(node.operation, arguments))
        values[node] = len(steps)
        if key is not None:
            known[key] = len(steps)
    try:
        return Graph({name: layer for layer, name in layers.items()}, steps, weights)
    except SurgeryError as error:
        raise refused(f"no block can do this: {error.message}", nodes[-1].place) from error


def _numbered(argument: Any, values: dict[Node, int]) -> Any:
    if isinstance(argument, Node):
        return Value(values[argument])
    if isinstance(argument, tuple):
        return tuple(_numbered(item, values) for item in argument)
    if isinstance(argument, slice):
        return slice(*_numbered((argument.start, argument.stop, argument.step), values))
    return argument


def _paths(part: Sequence[Node], parts: Sequence[Sequence[Node]], base: str) -> tuple[str, str]:
    """The path of a part, and of the module that the names of its layers are relative to.

    Both are the module inside `base` that has the layers of the part and of no other one, where there is one.
    """
    if len(part) == 1:
        return part[0].path, part[0].scope
    others = [node.path for other in parts if other is not part for node in other if node.has_weights]
    layers = [node.path.rpartition(".")[0] for node in part if node.operation == "layer"]
    # The last node may be called outside: the concatenation in front of the next dense layer.
    for paths in ([*layers, part[-1].scope], layers):
        path = _common(paths)
        if path not in ("", base) and not any(other.startswith(f"{path}.") for other in others):
            return path, path
    return part[-1].path, _common([node.scope for node in part])


def _common(paths: Sequence[str]) -> str:
    """The innermost module that all paths lie in, or are."""
    common = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)
