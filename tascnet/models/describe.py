"""Networks as trees of named layers with their arguments, and back.

A tree is JSON content: `{"type": "Conv2d", "args": {...}}`, or `{"type": "Sequential", "children":
{name: tree}}`; a `Graph` has also its steps, and its weights by name. Types come from a closed list, and
every argument and step is checked: a tree from a stranger can be wrong but cannot run code.
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ArchiveError, SurgeryError, first_line
from tascnet.models.blocks import Concat, MaxOverTime, Residual
from tascnet.models.graph import Graph, decode_step, encode_step
from tascnet.models.leaves import LEAF_NAMES, LEAVES, arguments_of, is_shape, oddity, unfit_arguments

_DEEPEST = 32
_LONGEST_NAME = 200
# In a network, counting blocks and steps; DenseNet-201 has some 900. That many are made in a second or two.
MOST_LAYERS = 10_000
# Values of one weight that a step reads.
_LARGEST = 1 << 40

Tree = Mapping[str, Any]

# Blocks by class, with the names of their children, which are their arguments.
_BLOCKS: Mapping[type[nn.Module], tuple[str, ...]] = {
    Residual: ("body", "shortcut", "activation"),
    Concat: ("body",),
    MaxOverTime: ("branches", "activation"),
}
_BLOCK_NAMES = {kind.__name__: kind for kind in _BLOCKS}
_CONTAINERS = ("Sequential", "Graph", *_BLOCK_NAMES)
# Types of weights that a step reads.
_TYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
}


def describe(module: nn.Module, path: str = "") -> dict[str, Any]:
    """The tree of a network, or of its layer at `path`, as JSON content.

    Raises:
        ArchiveError: a layer's class is not in the closed list, or an argument of a layer, their number or
            nesting lies outside the bounds of loading.
    """
    check_size(module)
    return _described(module, path)


def check_size(module: nn.Module) -> None:
    """Raise unless a network's layers, blocks and steps are at most `MOST_LAYERS`."""
    layers = sum(
        1 + (len(layer.steps) if isinstance(layer, Graph) else 0)
        for _, layer in module.named_modules(remove_duplicate=False)
    )
    if layers > MOST_LAYERS:
        raise ArchiveError(f"the network has {layers} layers, expected at most {MOST_LAYERS}")


def check_tensors(network: nn.Module, made: nn.Module) -> None:
    """Raise unless a network has the tensors of the one that its description makes, in the same shapes.

    Raises:
        ArchiveError: it has not.
    """
    own, usual = network.state_dict(), made.state_dict()
    for key in sorted(own.keys() | usual.keys()):
        if key not in usual:
            raise ArchiveError(f"{key} is no tensor of its kind of layer", "remove it")
        if key not in own:
            raise ArchiveError(
                f"{key} is missing", "make its layer again, with arguments that fit its weights"
            )
        found, expected = tuple(own[key].shape), tuple(usual[key].shape)
        if found != expected:
            raise ArchiveError(
                f"the shape of {key} is {found}, but {expected} by the arguments of its layer",
                "make that layer again, with arguments that fit its weights",
            )


def _described(module: nn.Module, path: str) -> dict[str, Any]:
    _check_place(path)
    kind = type(module)
    if kind in LEAVES:
        args = arguments_of(module)
        problem = oddity(module) or unfit_arguments(kind.__name__, args)
        if problem is not None:
            raise _wrong(path, problem)
        return {"type": kind.__name__, "args": args}
    if kind is not nn.Sequential and kind is not Graph and kind not in _BLOCKS:
        raise ArchiveError(
            f"the layer {path!r} is a {kind.__qualname__}, which cannot be saved",
            "take the network through tascnet.backbone, which converts such layers",
        )
    own: dict[str, Any] = {"type": kind.__name__}
    if isinstance(module, Graph):
        weights = module.own_weights.items()
        own["steps"] = [encode_step(step) for step in module.steps]
        own["weights"] = {name: _described_weight(weight, _join(path, name)) for name, weight in weights}
    return {**own, "children": {name: _described(child, _join(path, name)) for name, child in _named(module)}}


def _described_weight(weight: Tensor, path: str) -> dict[str, Any]:
    kind = "parameter" if isinstance(weight, nn.Parameter) else "buffer"
    dtype = str(weight.dtype).removeprefix("torch.")
    # Lists, as JSON has them.
    described = {"kind": kind, "dtype": dtype, "shape": list(weight.shape)}
    _checked_weight(described, path)
    return described


def construct(tree: Any, path: str = "") -> nn.Module:
    """The network of a tree, with weights on the current default device.

    Args:
        tree: from `describe`; it may come from a stranger.
        path: of the tree in a larger one.

    Raises:
        ArchiveError: the tree is not one of ours.
    """
    kind = tree.get("type") if isinstance(tree, Mapping) else None
    _check_place(path)
    if not isinstance(kind, str):
        raise _wrong(path, "is no description of a layer")
    if kind in LEAF_NAMES:
        return _leaf(kind, tree.get("args"), path)
    if kind not in _CONTAINERS:
        raise _wrong(path, f"has the unknown type {kind[:80]!r}")
    subtrees = tree.get("children")
    if not isinstance(subtrees, Mapping):
        raise _wrong(path, "has no list of layers")
    for name in subtrees:
        if not name or "." in name or len(name) > _LONGEST_NAME:
            raise _wrong(path, f"has a layer of the impossible name {name[:80]!r}")
    children = {name: construct(child, _join(path, name)) for name, child in subtrees.items()}
    if kind == "Graph":
        return _graph(tree, children, path)
    if kind in _BLOCK_NAMES:
        names = _BLOCKS[_BLOCK_NAMES[kind]]
        if set(children) != set(names):
            raise _wrong(path, f"needs exactly the layers {list(names)} of a {kind}")
        return _BLOCK_NAMES[kind](**children)
    chain = nn.Sequential()
    # `add_module` refuses names of attributes such as "forward"; chains are never called by name.
    for name, child in children.items():
        chain._modules[name] = child
    return chain


def _leaf(kind: str, args: Any, path: str) -> nn.Module:
    if not isinstance(args, Mapping):
        raise _wrong(path, "has no arguments")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    problem = unfit_arguments(kind, values)
    if problem is not None:
        raise _wrong(path, problem)
    try:
        return LEAF_NAMES[kind](**values)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise _wrong(path, f"cannot be made ({first_line(error)})") from error


def _graph(tree: Tree, children: Mapping[str, nn.Module], path: str) -> Graph:
    steps, weights = tree.get("steps"), tree.get("weights")
    if not isinstance(steps, list) or not isinstance(weights, Mapping):
        raise _wrong(path, "needs lists of steps and weights")
    made = {name: _weight(weight, _join(path, name)) for name, weight in weights.items()}
    try:
        return Graph(children, [decode_step(step) for step in steps], made)
    except SurgeryError as error:
        raise _wrong(path, f"is wired wrongly ({error.message})") from error


def _weight(described: Any, path: str) -> Tensor:
    """The weight of a description, without values."""
    shape, dtype = _checked_weight(described, path)
    weight = torch.empty(shape, dtype=dtype)
    return nn.Parameter(weight) if described["kind"] == "parameter" else weight


def _checked_weight(described: Any, path: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and type of a described weight."""
    if not isinstance(described, Mapping) or set(described) != {"kind", "dtype", "shape"}:
        raise _wrong(path, "is no description of a weight")
    kind, dtype, shape = described["kind"], described["dtype"], described["shape"]
    is_named = isinstance(dtype, str) and dtype in _TYPES and kind in ("parameter", "buffer")
    if not is_named or (kind == "parameter" and not _TYPES[dtype].is_floating_point):
        raise _wrong(path, f"has an impossible kind or type of a weight: {reprlib.repr((kind, dtype))}")
    if not isinstance(shape, list) or not is_shape(tuple(shape)) or math.prod(shape) > _LARGEST:
        raise _wrong(path, f"has an impossible shape of a weight: {reprlib.repr(shape)}")
    return tuple(shape), _TYPES[dtype]


def _check_place(path: str) -> None:
    if path.count(".") >= _DEEPEST:
        raise _wrong(path, f"is nested more than {_DEEPEST} deep")


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # Unlike `named_children` this yields a layer that is used twice under both its names.
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, problem: str) -> ArchiveError:
    return ArchiveError(f"the layer {path[:200]!r} of the saved model {problem}")
