"""Single layers in a row that make up one module of the network, as one block."""

from collections.abc import Iterator, Sequence

from torch import nn

from tascnet.models.blocks import Concat, Residual
from tascnet.models.conversion.nodes import WEIGHTED
from tascnet.models.conversion.regions import Block, chained
from tascnet.models.graph import Graph

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ROWS = (nn.Sequential, nn.ModuleList)


def grouped(blocks: Sequence[Block], network: nn.Module) -> list[Block]:
    """The blocks with some rows of them as one `nn.Sequential` each.

    A row is one block if it is all of a module that has exactly one layer with a kernel or a matrix (a
    convolution with its normalisation and activation), or of a module whose class has branches elsewhere in
    the network (the inverted residual without a shortcut). The head stays as it is.
    """
    classes = {path: type(module) for path, module in network.named_modules()}
    branched = {
        classes[block.path]
        for block in blocks
        if isinstance(block.module, Residual | Concat | Graph) and block.path in classes
    }
    rows = _rows(blocks[: _head_start(blocks)])
    joined: list[Block] = []
    done = 0
    # The outer module first.
    for path in sorted(rows, key=lambda path: (rows[path].start, -rows[path].stop, len(path))):
        row = rows[path]
        members = blocks[row.start : row.stop]
        if row.start < done or len(row) < 2 or path not in classes:
            continue
        is_unit = all(block.is_layer for block in members) and sum(map(_is_weighted, members)) == 1
        if is_unit or (classes[path] in branched and not issubclass(classes[path], _ROWS)):
            nodes = tuple(node for block in members for node in block.nodes)
            joined += [*blocks[done : row.start], Block(chained(members, path), nodes, path)]
            done = row.stop
    return [*joined, *blocks[done:]]


def _head_start(blocks: Sequence[Block]) -> int:
    """Index of the first block that pools or flattens the whole map, or that only leads to the output."""
    for number, block in enumerate(blocks):
        shape = block.output.shape
        if isinstance(block.module, _POOLS) or (shape is not None and len(shape) == 2):
            return number
    return len(blocks)


def _rows(blocks: Sequence[Block]) -> dict[str, range]:
    """By path of a module the blocks that are all of it, by index, where they are in a row and its alone."""
    found: dict[str, list[int]] = {}
    mixed: set[str] = set()
    for number, block in enumerate(blocks):
        prefixes = [set(_prefixes(node.path)) for node in block.nodes]
        of_all = set.intersection(*prefixes)
        for path in set.union(*prefixes):
            found.setdefault(path, []).append(number)
            if path not in of_all:
                mixed.add(path)
    return {
        path: range(numbers[0], numbers[-1] + 1)
        for path, numbers in found.items()
        if path not in mixed and len(numbers) == numbers[-1] - numbers[0] + 1
    }


def _prefixes(path: str) -> Iterator[str]:
    """`a` and `a.b` of `a.b.c`."""
    names = path.split(".")[:-1]
    return (".".join(names[:count]) for count in range(1, len(names) + 1))


def _is_weighted(block: Block) -> bool:
    return isinstance(block.module, WEIGHTED)
