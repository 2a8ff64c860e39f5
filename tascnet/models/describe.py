"""Networks as trees of named layers with their arguments, and back.

A tree is JSON content: `{"type": "Conv2d", "args": {...}}`, or `{"type": "Sequential", "children":
{name: tree}}`. Types come from a closed list, and every argument is checked, so that a tree from
a stranger can be wrong but cannot run code.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from tascnet.errors import ArchiveError
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


def _is_size(low: int, high: int = _LONGEST) -> Check:
    """One whole number, or one for each direction."""
    whole = _is_int(low, high)
    return lambda value: (
        whole(value) or (isinstance(value, tuple) and 1 <= len(value) <= 4 and all(map(whole, value)))
    )


def _is_number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _is_none(value: Any) -> bool:
    return value is None


_WIDTH = _is_int(1, _WIDEST)
_FINITE = _is_number(-1e6, 1e6)
_CONVOLUTION: Mapping[str, Check] = {
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "kernel_size": _is_size(1),
    "stride": _is_size(1),
    "padding": _either(_is_size(0), _is_one_of("same", "valid")),
    "dilation": _is_size(1),
    "groups": _WIDTH,
    "bias": _is_bool,
    "padding_mode": _is_one_of("zeros", "reflect", "replicate", "circular"),
}
_BATCH_NORM: Mapping[str, Check] = {
    "num_features": _WIDTH,
    "eps": _is_number(0.0, 1.0),
    "momentum": _either(_is_none, _is_number(0.0, 1.0)),
    "affine": _is_bool,
    "track_running_stats": _is_bool,
}
_IN_PLACE: Mapping[str, Check] = {"inplace": _is_bool}
_DROPOUT: Mapping[str, Check] = {"p": _is_number(0.0, 1.0), "inplace": _is_bool}
_POOLING: Mapping[str, Check] = {
    "kernel_size": _is_size(1),
    "stride": _is_size(1),
    "padding": _is_size(0),
    "ceil_mode": _is_bool,
}
_MAX_POOLING: Mapping[str, Check] = {**_POOLING, "dilation": _is_size(1)}
_AVERAGE_POOLING: Mapping[str, Check] = {
    **_POOLING,
    "count_include_pad": _is_bool,
    "divisor_override": _either(_is_none, _is_int(1, _WIDEST)),
}
_ADAPTIVE: Mapping[str, Check] = {
    "output_size": lambda value: (
        _is_size(1)(value)
        or (isinstance(value, tuple) and all(item is None or _is_int(1, _LONGEST)(item) for item in value))
    )
}
_PADDING: Mapping[str, Check] = {"padding": _is_size(0)}

_LEAVES: Mapping[type[nn.Module], Mapping[str, Check]] = MappingProxyType(
    {
        nn.Conv1d: _CONVOLUTION,
        nn.Conv2d: _CONVOLUTION,
        nn.Embedding: {
            "num_embeddings": _WIDTH,
            "embedding_dim": _WIDTH,
            "padding_idx": _either(_is_none, _is_int(0, _WIDEST)),
        },
        ChannelsFirst: {},
        nn.Linear: {"in_features": _WIDTH, "out_features": _WIDTH, "bias": _is_bool},
        nn.BatchNorm1d: _BATCH_NORM,
        nn.BatchNorm2d: _BATCH_NORM,
        nn.GroupNorm: {
            "num_groups": _WIDTH,
            "num_channels": _WIDTH,
            "eps": _is_number(0.0, 1.0),
            "affine": _is_bool,
        },
        nn.Identity: {},
        nn.ReLU: _IN_PLACE,
        nn.ReLU6: _IN_PLACE,
        nn.SELU: _IN_PLACE,
        nn.SiLU: _IN_PLACE,
        nn.Mish: _IN_PLACE,
        nn.Hardswish: _IN_PLACE,
        nn.Hardsigmoid: _IN_PLACE,
        nn.ELU: {"alpha": _FINITE, "inplace": _is_bool},
        nn.CELU: {"alpha": _FINITE, "inplace": _is_bool},
        nn.LeakyReLU: {"negative_slope": _FINITE, "inplace": _is_bool},
        nn.PReLU: {"num_parameters": _WIDTH},
        nn.GELU: {"approximate": _is_one_of("none", "tanh")},
        nn.Softplus: {"beta": _FINITE, "threshold": _FINITE},
        nn.Tanh: {},
        nn.Sigmoid: {},
        nn.Softsign: {},
        nn.MaxPool1d: _MAX_POOLING,
        nn.MaxPool2d: _MAX_POOLING,
        nn.AvgPool2d: _AVERAGE_POOLING,
        nn.AdaptiveAvgPool1d: _ADAPTIVE,
        nn.AdaptiveAvgPool2d: _ADAPTIVE,
        nn.AdaptiveMaxPool1d: _ADAPTIVE,
        nn.AdaptiveMaxPool2d: _ADAPTIVE,
        nn.Flatten: {"start_dim": _is_int(-8, 8), "end_dim": _is_int(-8, 8)},
        nn.Dropout: _DROPOUT,
        nn.Dropout1d: _DROPOUT,
        nn.Dropout2d: _DROPOUT,
        nn.ZeroPad2d: _PADDING,
        nn.ReflectionPad2d: _PADDING,
        nn.ReplicationPad2d: _PADDING,
        nn.Upsample: {
            "size": _either(_is_none, _is_size(1)),
            "scale_factor": _either(
                _is_none,
                _is_number(0.01, 100.0),
                lambda value: isinstance(value, tuple) and all(map(_is_number(0.01, 100.0), value)),
            ),
            "mode": _is_one_of("nearest", "nearest-exact", "linear", "bilinear", "bicubic"),
            "align_corners": _either(_is_none, _is_bool),
        },
        SliceAndPad: {
            "stride": _is_int(1, _LONGEST),
            "before": _is_int(0, _LONGEST),
            "after": _is_int(0, _LONGEST),
        },
        L2Norm: {"eps": _is_number(0.0, 1.0)},
        Scale: {"initial": _FINITE},
    }
)

_BLOCKS: Mapping[type[nn.Module], tuple[str, ...]] = MappingProxyType(
    {
        Residual: ("body", "shortcut", "activation"),
        Concat: ("body",),
        MaxOverTime: ("branches", "activation"),
    }
)

_LEAF_NAMES = {kind.__name__: kind for kind in _LEAVES}
_BLOCK_NAMES = {kind.__name__: kind for kind in _BLOCKS}
_SEQUENTIAL = "Sequential"
_CUSTOM = "custom"


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """Makes the modules of a tree, those of a user's own classes from the factory's chain."""

    original: nn.Module | None

    def build(self, tree: Any, path: str = "", depth: int = 0) -> nn.Module:
        kind = tree.get("type") if isinstance(tree, Mapping) else None
        if not isinstance(kind, str) or depth > _DEEPEST:
            raise _wrong(path, "is no description of a layer")
        if kind in _LEAF_NAMES:
            return _leaf(kind, tree.get("args"), path)
        if kind not in (_SEQUENTIAL, _CUSTOM, *_BLOCK_NAMES):
            raise _wrong(path, f"has the unknown type {kind[:80]!r}")
        own = self._own(tree, path) if kind == _CUSTOM else None
        children = {name: self.build(child, at, depth + 1) for name, child, at in _children(tree, path)}
        if kind in _BLOCK_NAMES:
            return _block(kind, children, path)
        return _with_children(nn.Sequential() if own is None else own, children)

    def _own(self, tree: Tree, path: str) -> nn.Module:
        """The factory's module at this path."""
        if self.original is None:
            raise ArchiveError(
                f"the saved model has the layer {path!r} of a class that is no part of tascnet",
                "load it with factory=, the function that made its chain",
            )
        try:
            module = self.original.get_submodule(path)
        except AttributeError as error:
            raise _wrong(path, "does not exist in the factory's chain") from error
        names = {name for name, _, _ in _children(tree, path)}
        if _class_name(module) != tree.get("class") or {name for name, _ in _named(module)} != names:
            raise _wrong(path, f"is a {_class_name(module)} with other layers in the factory's chain")
        return module


def describe(module: nn.Module) -> dict[str, Any]:
    """The tree of a network.

    Returns:
        JSON content. A module of a class outside the closed list is of type `custom` and keeps its
        class's name, which nothing imports, and its children.

    Raises:
        ArchiveError: an argument of a layer lies outside the bounds that loading accepts.
    """
    return _describe(module, "")


def construct(tree: Any, original: nn.Module | None = None) -> nn.Module:
    """The network of a tree, with weights of the current default device.

    Args:
        tree: what `describe` gave; it may come from a stranger.
        original: the chain of the user's factory, for layers of the user's own classes; these
            layers are taken out of it.

    Raises:
        ArchiveError: the tree is not one of ours, or needs another factory.
    """
    return _Builder(original=original).build(tree)


def _describe(module: nn.Module, path: str) -> dict[str, Any]:
    kind = type(module)
    if kind in _LEAVES:
        args = {name: _argument(module, name) for name in _LEAVES[kind]}
        _check(kind.__name__, args, path)
        return {"type": kind.__name__, "args": args}
    children = {name: _describe(child, _join(path, name)) for name, child in _named(module)}
    if kind is nn.Sequential or kind in _BLOCKS:
        return {"type": kind.__name__, "children": children}
    return {"type": _CUSTOM, "class": _class_name(module), "children": children}


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    return value is not None if name == "bias" else value


def _leaf(kind: str, args: Any, path: str) -> nn.Module:
    if not isinstance(args, Mapping):
        raise _wrong(path, "has no arguments")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    _check(kind, values, path)
    try:
        return _LEAF_NAMES[kind](**values)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise _wrong(path, f"cannot be made ({str(error).splitlines()[0]})") from error


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


def _children(tree: Tree, path: str) -> Iterator[tuple[str, Any, str]]:
    children = tree.get("children")
    if not isinstance(children, Mapping):
        raise _wrong(path, "has no list of layers")
    for name, child in children.items():
        if not name or "." in name:
            raise _wrong(path, f"has a layer of the impossible name {name[:80]!r}")
        yield name, child, _join(path, name)


def _with_children(module: nn.Module, children: Mapping[str, nn.Module]) -> nn.Module:
    # `add_module` refuses names of attributes such as "forward"; chains are never called by name.
    for name, child in children.items():
        module._modules[name] = child
    return module


def _block(kind: str, children: Mapping[str, nn.Module], path: str) -> nn.Module:
    names = _BLOCKS[_BLOCK_NAMES[kind]]
    if set(children) != set(names):
        raise _wrong(path, f"needs exactly the layers {list(names)} of a {kind}")
    return _BLOCK_NAMES[kind](**children)


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # Unlike `named_children` this gives a layer that is used twice under both its names.
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, problem: str) -> ArchiveError:
    return ArchiveError(f"the layer {path[:200]!r} of the saved model {problem}")
