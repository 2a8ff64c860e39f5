"""Networks as trees of named layers with their arguments, and back.

A tree is JSON content: `{"type": "Conv2d", "args": {...}}`, or `{"type": "Sequential", "children":
{name: tree}}`. Types come from a closed list, and every argument is checked: a tree from a stranger can be
wrong but cannot run code.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from tascnet.errors import ArchiveError, first_line
from tascnet.models.blocks import (
    ChannelsFirst,
    Concat,
    L2Norm,
    MaxOverTime,
    Residual,
    Scale,
    SliceAndPad,
)

# Of a layer's inputs and outputs, and of a kernel, stride or padding: far above any network's.
_WIDEST = 1 << 20
_LONGEST = 4096
_DEEPEST = 32

Check = Callable[[Any], bool]
Tree = Mapping[str, Any]


def _is_int(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _is_number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_tuple_of(check: Check) -> Check:
    return lambda value: isinstance(value, tuple) and 1 <= len(value) <= 4 and all(map(check, value))


def _is_size(low: int) -> Check:
    """One whole number, or one for each direction."""
    whole = _is_int(low, _LONGEST)
    return _either(whole, _is_tuple_of(whole))


def _is_one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_none(value: Any) -> bool:
    return value is None


_WIDTH = _is_int(1, _WIDEST)
_FINITE = _is_number(-1e6, 1e6)
_SHARE = _is_number(0.0, 1.0)
_FACTOR = _is_number(0.01, 100.0)
_PADS = _is_int(0, _LONGEST)
_IN_PLACE: Mapping[str, Check] = {"inplace": _is_bool}
_POOLING: Mapping[str, Check] = {
    "kernel_size": _is_size(1),
    "stride": _is_size(1),
    "padding": _is_size(0),
    "ceil_mode": _is_bool,
}

# Layers, with a check for each of their arguments.
_CHECKS: list[tuple[tuple[type[nn.Module], ...], Mapping[str, Check]]] = [
    (
        (nn.Conv1d, nn.Conv2d),
        {
            "in_channels": _WIDTH,
            "out_channels": _WIDTH,
            "kernel_size": _is_size(1),
            "stride": _is_size(1),
            "padding": _either(_is_size(0), _is_one_of("same", "valid")),
            "dilation": _is_size(1),
            "groups": _WIDTH,
            "bias": _is_bool,
            "padding_mode": _is_one_of("zeros", "reflect", "replicate", "circular"),
        },
    ),
    ((nn.Linear,), {"in_features": _WIDTH, "out_features": _WIDTH, "bias": _is_bool}),
    (
        (nn.Embedding,),
        {
            "num_embeddings": _WIDTH,
            "embedding_dim": _WIDTH,
            "padding_idx": _either(_is_none, _is_int(0, _WIDEST)),
        },
    ),
    (
        (nn.BatchNorm1d, nn.BatchNorm2d),
        {
            "num_features": _WIDTH,
            "eps": _SHARE,
            "momentum": _either(_is_none, _SHARE),
            "affine": _is_bool,
            "track_running_stats": _is_bool,
        },
    ),
    ((nn.GroupNorm,), {"num_groups": _WIDTH, "num_channels": _WIDTH, "eps": _SHARE, "affine": _is_bool}),
    ((L2Norm,), {"eps": _SHARE}),
    ((Scale,), {"initial": _FINITE}),
    ((nn.Identity, nn.Tanh, nn.Sigmoid, nn.Softsign, ChannelsFirst), {}),
    ((nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid), _IN_PLACE),
    ((nn.ELU, nn.CELU), {"alpha": _FINITE, **_IN_PLACE}),
    ((nn.LeakyReLU,), {"negative_slope": _FINITE, **_IN_PLACE}),
    ((nn.PReLU,), {"num_parameters": _WIDTH}),
    ((nn.GELU,), {"approximate": _is_one_of("none", "tanh")}),
    ((nn.Softplus,), {"beta": _FINITE, "threshold": _FINITE}),
    ((nn.Dropout, nn.Dropout1d, nn.Dropout2d), {"p": _SHARE, **_IN_PLACE}),
    ((nn.MaxPool1d, nn.MaxPool2d), {**_POOLING, "dilation": _is_size(1)}),
    (
        (nn.AvgPool2d,),
        {
            **_POOLING,
            "count_include_pad": _is_bool,
            "divisor_override": _either(_is_none, _is_int(1, _WIDEST)),
        },
    ),
    (
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        {"output_size": _either(_is_size(1), _is_tuple_of(_either(_is_none, _is_int(1, _LONGEST))))},
    ),
    ((nn.Flatten,), {"start_dim": _is_int(-8, 8), "end_dim": _is_int(-8, 8)}),
    ((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d), {"padding": _is_size(0)}),
    ((SliceAndPad,), {"stride": _is_int(1, _LONGEST), "before": _PADS, "after": _PADS}),
    (
        (nn.Upsample,),
        {
            "size": _either(_is_none, _is_size(1)),
            "scale_factor": _either(_is_none, _FACTOR, _is_tuple_of(_FACTOR)),
            "mode": _is_one_of("nearest", "nearest-exact", "linear", "bilinear", "bicubic"),
            "align_corners": _either(_is_none, _is_bool),
        },
    ),
]
_LEAVES = {kind: checks for kinds, checks in _CHECKS for kind in kinds}
# Blocks by class, with the names of their children, which are their arguments.
_BLOCKS: Mapping[type[nn.Module], tuple[str, ...]] = {
    Residual: ("body", "shortcut", "activation"),
    Concat: ("body",),
    MaxOverTime: ("branches", "activation"),
}
_LEAF_NAMES = {kind.__name__: kind for kind in _LEAVES}
_BLOCK_NAMES = {kind.__name__: kind for kind in _BLOCKS}
_SEQUENTIAL = "Sequential"
_CUSTOM = "custom"


def describe(module: nn.Module, path: str = "") -> dict[str, Any]:
    """The tree of a network.

    Args:
        module: the network, or a layer of it.
        path: of the layer.

    Returns:
        JSON content. A module of a class outside the closed list is of type `custom` and keeps its
        class's name, which nothing imports, and its children.

    Raises:
        ArchiveError: an argument of a layer lies outside the bounds that loading accepts.
    """
    kind = type(module)
    if kind in _LEAVES:
        args = {name: getattr(module, name) for name in _LEAVES[kind]}
        if "bias" in args:
            args["bias"] = args["bias"] is not None
        _check(kind.__name__, args, path)
        return {"type": kind.__name__, "args": args}
    children = {name: describe(child, _join(path, name)) for name, child in _named(module)}
    if kind is nn.Sequential or kind in _BLOCKS:
        return {"type": kind.__name__, "children": children}
    return {"type": _CUSTOM, "class": _class_name(module), "children": children}


def has_own_classes(tree: Tree) -> bool:
    """Whether a tree has modules of a class outside the closed list, which need a factory to load."""
    return tree["type"] == _CUSTOM or any(map(has_own_classes, tree.get("children", {}).values()))


def construct(tree: Any, original: nn.Module | None = None, path: str = "") -> nn.Module:
    """The network of a tree, with weights of the current default device.

    Args:
        tree: what `describe` gave; it may come from a stranger.
        original: the chain of the user's factory, for layers of the user's own classes; these
            layers are taken out of it.
        path: of the tree in a larger one.

    Raises:
        ArchiveError: the tree is not one of ours, or needs another factory.
    """
    kind = tree.get("type") if isinstance(tree, Mapping) else None
    if not isinstance(kind, str) or path.count(".") >= _DEEPEST:
        raise _wrong(path, "is no description of a layer")
    if kind in _LEAF_NAMES:
        return _leaf(kind, tree.get("args"), path)
    if kind not in (_SEQUENTIAL, _CUSTOM, *_BLOCK_NAMES):
        raise _wrong(path, f"has the unknown type {kind[:80]!r}")
    subtrees = tree.get("children")
    if not isinstance(subtrees, Mapping):
        raise _wrong(path, "has no list of layers")
    for name in subtrees:
        if not name or "." in name:
            raise _wrong(path, f"has a layer of the impossible name {name[:80]!r}")
    module = _own(tree, original, path) if kind == _CUSTOM else nn.Sequential()
    children = {name: construct(child, original, _join(path, name)) for name, child in subtrees.items()}
    if kind in _BLOCK_NAMES:
        names = _BLOCKS[_BLOCK_NAMES[kind]]
        if set(children) != set(names):
            raise _wrong(path, f"needs exactly the layers {list(names)} of a {kind}")
        return _BLOCK_NAMES[kind](**children)
    # `add_module` refuses names of attributes such as "forward"; chains are never called by name.
    for name, child in children.items():
        module._modules[name] = child
    return module


def _own(tree: Tree, original: nn.Module | None, path: str) -> nn.Module:
    """The module of a user's own class at this path of the factory's chain."""
    if original is None:
        raise ArchiveError(
            f"the saved model has the layer {path!r} of a class that is no part of tascnet",
            "load it with factory=, the function that made its chain",
        )
    try:
        module = original.get_submodule(path)
    except AttributeError as error:
        raise _wrong(path, "does not exist in the factory's chain") from error
    if _class_name(module) != tree.get("class") or {name for name, _ in _named(module)} != set(
        tree["children"]
    ):
        raise _wrong(path, f"is a {_class_name(module)} with other layers in the factory's chain")
    return module


def _leaf(kind: str, args: Any, path: str) -> nn.Module:
    if not isinstance(args, Mapping):
        raise _wrong(path, "has no arguments")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    _check(kind, values, path)
    try:
        return _LEAF_NAMES[kind](**values)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise _wrong(path, f"cannot be made ({first_line(error)})") from error


def _check(kind: str, args: Mapping[str, Any], path: str) -> None:
    checks = _LEAVES[_LEAF_NAMES[kind]]
    if set(args) != set(checks):
        raise _wrong(path, f"needs exactly the arguments {sorted(checks)} of a {kind}")
    for name, value in args.items():
        if not checks[name](value) or (isinstance(value, float) and not math.isfinite(value)):
            raise _wrong(path, f"has an impossible {name} of a {kind}: {str(value)[:80]}")
    # torch only asserts it.
    padding = args.get("padding_idx")
    if padding is not None and padding >= args["num_embeddings"]:
        raise _wrong(path, f"has an impossible padding_idx of a {kind}: {padding}")


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # Unlike `named_children` this gives a layer that is used twice under both its names.
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, problem: str) -> ArchiveError:
    return ArchiveError(f"the layer {path[:200]!r} of the saved model {problem}")
