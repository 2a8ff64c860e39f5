"""Networks as trees of named layers with their arguments, and back.

A tree is JSON content: `{"type": "Conv2d", "args": {...}}`, or `{"type": "Sequential", "children":
{name: tree}}`. Types come from a closed list, and every argument is checked: a tree from a stranger can be
wrong but cannot run code.
"""

import reprlib
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
_LONGEST_NAME = 200
# In a network, counting blocks; DenseNet-201 has some 900. That many are made in a second or two.
MOST_LAYERS = 10_000

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


def _is_one_of(*values: str | bool) -> Check:
    return lambda value: isinstance(value, str | bool) and value in values


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


_FACTOR = _is_number(0.01, 100.0)
_WIDTHS = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_embeddings"),
    *("embedding_dim", "num_features", "num_groups", "num_channels", "num_parameters"),
)
_SWITCHES = ("bias", "affine", "track_running_stats", "inplace", "ceil_mode", "count_include_pad")
# A check for each argument of the layers below.
_ARGUMENTS: Mapping[str, Check] = {
    **dict.fromkeys(_WIDTHS, _is_int(1, _WIDEST)),
    **dict.fromkeys(_SWITCHES, _is_one_of(True, False)),
    **dict.fromkeys(("eps", "p"), _is_number(0.0, 1.0)),
    **dict.fromkeys(("initial", "alpha", "negative_slope", "beta", "threshold"), _is_number(-1e6, 1e6)),
    **dict.fromkeys(("kernel_size", "stride", "dilation"), _is_size(1)),
    **dict.fromkeys(("before", "after"), _is_int(0, _LONGEST)),
    **dict.fromkeys(("start_dim", "end_dim"), _is_int(-8, 8)),
    "padding": _is_size(0),
    "padding_mode": _is_one_of("zeros", "reflect", "replicate", "circular"),
    "padding_idx": _optional(_is_int(0, _WIDEST)),
    "momentum": _optional(_is_number(0.0, 1.0)),
    "approximate": _is_one_of("none", "tanh"),
    "divisor_override": _optional(_is_int(1, _WIDEST)),
    "output_size": _either(_is_size(1), _is_tuple_of(_optional(_is_int(1, _LONGEST)))),
    "size": _optional(_is_size(1)),
    "scale_factor": _optional(_either(_FACTOR, _is_tuple_of(_FACTOR))),
    "mode": _is_one_of("nearest", "nearest-exact", "linear", "bilinear", "bicubic"),
    "align_corners": _optional(_is_one_of(True, False)),
}


def _layers(*kinds: type[nn.Module], args: str = "", **own: Check) -> dict[type[nn.Module], dict[str, Check]]:
    """Layers with the checks of their arguments; `own` checks differ from those of other layers."""
    checks = {**_ARGUMENTS, **own}
    return {kind: {name: checks[name] for name in args.split()} for kind in kinds}


_LEAVES = {
    **_layers(
        *(nn.Conv1d, nn.Conv2d),
        args="in_channels out_channels kernel_size stride padding dilation groups bias padding_mode",
        padding=_either(_is_size(0), _is_one_of("same", "valid")),
    ),
    **_layers(nn.Linear, args="in_features out_features bias"),
    **_layers(nn.Embedding, args="num_embeddings embedding_dim padding_idx"),
    **_layers(nn.BatchNorm1d, nn.BatchNorm2d, args="num_features eps momentum affine track_running_stats"),
    **_layers(nn.GroupNorm, args="num_groups num_channels eps affine"),
    **_layers(L2Norm, args="eps"),
    **_layers(Scale, args="initial"),
    **_layers(nn.Identity, nn.Tanh, nn.Sigmoid, nn.Softsign, ChannelsFirst),
    **_layers(nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, args="inplace"),
    **_layers(nn.ELU, nn.CELU, args="alpha inplace"),
    **_layers(nn.LeakyReLU, args="negative_slope inplace"),
    **_layers(nn.PReLU, args="num_parameters"),
    **_layers(nn.GELU, args="approximate"),
    **_layers(nn.Softplus, args="beta threshold"),
    **_layers(nn.Dropout, nn.Dropout1d, nn.Dropout2d, args="p inplace"),
    **_layers(nn.MaxPool1d, nn.MaxPool2d, args="kernel_size stride padding ceil_mode dilation"),
    **_layers(nn.AvgPool2d, args="kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    **_layers(
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        args="output_size",
    ),
    **_layers(nn.Flatten, args="start_dim end_dim"),
    **_layers(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, args="padding"),
    **_layers(SliceAndPad, args="stride before after", stride=_is_int(1, _LONGEST)),
    **_layers(nn.Upsample, args="size scale_factor mode align_corners"),
}
# Blocks by class, with the names of their children, which are their arguments.
_BLOCKS: Mapping[type[nn.Module], tuple[str, ...]] = {
    Residual: ("body", "shortcut", "activation"),
    Concat: ("body",),
    MaxOverTime: ("branches", "activation"),
}
_LEAF_NAMES = {kind.__name__: kind for kind in _LEAVES}
_BLOCK_NAMES = {kind.__name__: kind for kind in _BLOCKS}
_CUSTOM = "custom"


def describe(module: nn.Module, path: str = "") -> dict[str, Any]:
    """The tree of a network, or of its layer at `path`, as JSON content.

    A module of a class outside the closed list has the type `custom`, its class's name, which nothing
    imports, and its children.

    Raises:
        ArchiveError: an argument of a layer, their number or nesting lies outside the bounds of loading.
    """
    layers = sum(1 for _ in module.named_modules(remove_duplicate=False))
    if layers > MOST_LAYERS:
        raise ArchiveError(f"the network has {layers} layers, expected at most {MOST_LAYERS}")
    return _described(module, path)


def _described(module: nn.Module, path: str) -> dict[str, Any]:
    _check_place(path)
    kind = type(module)
    if kind in _LEAVES:
        args = {name: getattr(module, name) for name in _LEAVES[kind]}
        if "bias" in args:
            args["bias"] = args["bias"] is not None
        _check(kind.__name__, args, path)
        return {"type": kind.__name__, "args": args}
    children = {name: _described(child, _join(path, name)) for name, child in _named(module)}
    if kind is nn.Sequential or kind in _BLOCKS:
        return {"type": kind.__name__, "children": children}
    return {"type": _CUSTOM, "class": _class_name(module), "children": children}


def has_own_classes(tree: Tree) -> bool:
    """Whether a tree has modules of a class outside the closed list, which need a factory to load."""
    return tree["type"] == _CUSTOM or any(map(has_own_classes, tree.get("children", {}).values()))


def construct(tree: Any, original: nn.Module | None = None, path: str = "") -> nn.Module:
    """The network of a tree, with weights on the current default device.

    Args:
        tree: from `describe`; it may come from a stranger.
        original: the chain of the user's factory, whose layers of the user's own classes are moved to the
            result.
        path: of the tree in a larger one.

    Raises:
        ArchiveError: the tree is not one of ours, or needs another factory.
    """
    kind = tree.get("type") if isinstance(tree, Mapping) else None
    _check_place(path)
    if not isinstance(kind, str):
        raise _wrong(path, "is no description of a layer")
    if kind in _LEAF_NAMES:
        return _leaf(kind, tree.get("args"), path)
    if kind not in ("Sequential", _CUSTOM, *_BLOCK_NAMES):
        raise _wrong(path, f"has the unknown type {kind[:80]!r}")
    subtrees = tree.get("children")
    if not isinstance(subtrees, Mapping):
        raise _wrong(path, "has no list of layers")
    for name in subtrees:
        if not name or "." in name or len(name) > _LONGEST_NAME:
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
    names = {name for name, _ in _named(module)}
    if _class_name(module) != tree.get("class") or names != set(tree["children"]):
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
        if not checks[name](value):
            raise _wrong(path, f"has an impossible {name} of a {kind}: {reprlib.repr(value)}")
        # torch takes a tuple of any length and fails when the layer runs.
        axes = 4 if kind.endswith("Pad2d") else {"1d": 1, "2d": 2}.get(kind[-2:])
        if isinstance(value, tuple) and axes is not None and len(value) != axes:
            raise _wrong(path, f"has {len(value)} values as {name} of a {kind}, expected {axes}")
    # torch checks it with an assertion, which Python may skip.
    padding = args.get("padding_idx")
    if padding is not None and padding >= args["num_embeddings"]:
        raise _wrong(path, f"has an impossible padding_idx of a {kind}: {padding}")


def _check_place(path: str) -> None:
    if path.count(".") >= _DEEPEST:
        raise _wrong(path, f"is nested more than {_DEEPEST} deep")


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # Unlike `named_children` this yields a layer that is used twice under both its names.
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, problem: str) -> ArchiveError:
    return ArchiveError(f"the layer {path[:200]!r} of the saved model {problem}")
