"""A block whose wiring is data: named layers, and steps of a closed list of operations on their results.

Values are numbered: value 0 is the block's input, value `i + 1` the result of step `i`, and the last one is
the output. A step reads earlier values alone, so that no cycle can be written. In JSON a step is a list such
as `["cat", ["%0", "%2"], 1]`, and a slice a text such as `"1:%4"`.
"""

import math
import operator
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Literal, TypeAlias, TypeVar, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.errors import SurgeryError

# What a value is: one tensor, several, a whole number, or several.
Kind: TypeAlias = Literal["tensor", "tensors", "int", "ints"]
Argument: TypeAlias = Union["Value", int, float, bool, str, slice, EllipsisType, tuple["Argument", ...], None]

Found = TypeVar("Found")

# Of literals: whole numbers, other numbers, items of a tuple, and of an index.
_LARGEST_INT, _LARGEST_FLOAT, _MOST_ITEMS, _MOST_AXES = 1 << 20, 1e6, 64, 8
# A stranger's steps could fill the memory with the digits of a number, or with parts of a tensor.
_LARGEST_PRODUCT, _MOST_PARTS = 1 << 62, 4096


@dataclass(frozen=True)
class Value:
    """A reference to the value of that number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation.

    Args:
        operation: a key of `OPERATIONS`; `layer`, with the name of a layer and its input as arguments; or
            `weight`, with the name of a parameter or buffer of the block.
        arguments: all that the operation takes, in its order.
    """

    operation: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Operation:
    """What a step may do.

    Args:
        function: of the arguments.
        takes: by argument what it is: `tensor`, `tensors`, `number` (a tensor or a whole number that is
            computed, or a literal), `int`, `ints`, `float` (a literal), `bool`, `index`, `mode`, `any` (what
            has items). A whole number may be a literal or a value, several of them a value or a tuple of
            both; a question mark allows None.
        gives: the kind of its result; None: that of an item of what it takes.
    """

    function: Callable[..., Any]
    takes: tuple[str, ...]
    gives: Kind | None = "tensor"


def _pad(x: Tensor, amounts: Sequence[int], mode: str, value: float) -> Tensor:
    return F.pad(x, tuple(amounts), mode, value) if mode == "constant" else F.pad(x, tuple(amounts), mode)


def _interpolate(
    x: Tensor, size: Sequence[int] | None, factor: float | None, mode: str, align_corners: bool | None
) -> Tensor:
    return F.interpolate(x, size, factor, mode, align_corners)  # type: ignore[arg-type]


def _chunk(x: Tensor, count: int, dim: int) -> tuple[Tensor, ...]:
    _check_parts(count)
    return torch.chunk(x, count, dim)


def _unbind(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    _check_parts(x.shape[dim])
    return torch.unbind(x, dim)


def _check_parts(count: int) -> None:
    if count > _MOST_PARTS:
        raise ValueError(f"a tensor has {count} parts, expected at most {_MOST_PARTS}")


def _product(first: int, second: int) -> int:
    product = first * second
    # A size that torch.export keeps open is no int, and is not compared.
    if type(product) is int and abs(product) > _LARGEST_PRODUCT:
        raise OverflowError("a whole number is beyond 64 bits")
    return product


_TWO = ("number", "number")
OPERATIONS: Mapping[str, Operation] = {
    "add": Operation(operator.add, _TWO),
    "sub": Operation(operator.sub, _TWO),
    "mul": Operation(operator.mul, _TWO),
    "div": Operation(operator.truediv, _TWO),
    "pow": Operation(operator.pow, ("tensor", "float")),
    "maximum": Operation(torch.maximum, ("tensor", "tensor")),
    "clamp": Operation(torch.clamp, ("tensor", "float?", "float?")),
    "matmul": Operation(torch.matmul, ("tensor", "tensor")),
    "attention": Operation(F.scaled_dot_product_attention, ("tensor", "tensor", "tensor")),
    "softmax": Operation(torch.softmax, ("tensor", "int")),
    "mean": Operation(torch.mean, ("tensor", "ints", "bool")),
    "sum": Operation(torch.sum, ("tensor", "ints", "bool")),
    "amax": Operation(torch.amax, ("tensor", "ints", "bool")),
    "cat": Operation(torch.cat, ("tensors", "int")),
    "stack": Operation(torch.stack, ("tensors", "int")),
    "chunk": Operation(_chunk, ("tensor", "int", "int"), "tensors"),
    "split": Operation(torch.split_with_sizes, ("tensor", "ints", "int"), "tensors"),
    "unbind": Operation(_unbind, ("tensor", "int"), "tensors"),
    "getitem": Operation(operator.getitem, ("any", "index"), None),
    "shape": Operation(lambda x: tuple(x.shape), ("tensor",), "ints"),
    "add_int": Operation(operator.add, ("int", "int"), "int"),
    "sub_int": Operation(operator.sub, ("int", "int"), "int"),
    "mul_int": Operation(_product, ("int", "int"), "int"),
    "floordiv": Operation(operator.floordiv, ("int", "int"), "int"),
    "reshape": Operation(torch.reshape, ("tensor", "ints")),
    "expand": Operation(lambda x, sizes: x.expand(*sizes), ("tensor", "ints")),
    "flatten": Operation(torch.flatten, ("tensor", "int", "int")),
    "squeeze": Operation(torch.squeeze, ("tensor", "int")),
    "unsqueeze": Operation(torch.unsqueeze, ("tensor", "int")),
    "transpose": Operation(torch.transpose, ("tensor", "int", "int")),
    "permute": Operation(torch.permute, ("tensor", "ints")),
    "contiguous": Operation(lambda x: x.contiguous(), ("tensor",)),
    "pad": Operation(_pad, ("tensor", "ints", "mode", "float")),
    "interpolate": Operation(_interpolate, ("tensor", "ints?", "float?", "mode", "bool?")),
}
_MODES: Mapping[str, tuple[str, ...]] = {
    "pad": ("constant", "reflect", "replicate", "circular"),
    "interpolate": ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
}


class Graph(nn.Module):
    """A block of layers that are wired by steps: `b x c x h x w` in, one tensor out.

    Args:
        layers: by name.
        steps: in the order in which they run; the last one gives the output.
        weights: parameters and buffers that steps read, by name; other names than those of the layers, and
            like those none of an attribute such as `steps`.

    Raises:
        SurgeryError: a step is unknown, has other arguments than its operation takes, or reads a layer, a
            weight or a value that is not there; a layer or weight is not used, or has an impossible name.
    """

    steps: tuple[Step, ...]

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        steps: Sequence[Step],
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        weights = weights or {}
        for name in (*layers, *weights):
            # Layers and weights are attributes of a module.
            is_taken = (
                hasattr(self, name) or name in ("steps", "_plan") or (name in layers and name in weights)
            )
            if not name or "." in name or is_taken:
                raise SurgeryError(f"the block has a layer or weight of the impossible name {name[:80]!r}")
        for name, layer in layers.items():
            self._modules[name] = layer
        for name, weight in weights.items():
            if isinstance(weight, nn.Parameter):
                self._parameters[name] = weight
            else:
                self._buffers[name] = weight
        self.set_steps(steps)

    @property
    def own_weights(self) -> dict[str, Tensor]:
        """Parameters and then buffers of the block itself, by name."""
        own = {**self._parameters, **self._buffers}
        return {name: weight for name, weight in own.items() if weight is not None}

    def set_steps(self, steps: Sequence[Step]) -> None:
        """Take other steps on the same layers and weights; raises as the constructor does."""
        steps = tuple(steps)
        check_steps(steps, self._modules, set(self.own_weights))
        self.steps = steps
        # By value the last step that reads it, or the one that makes it; then it is freed.
        last = {number: max(number - 1, 0) for number in range(len(steps))}
        for number, step in enumerate(steps):
            last |= dict.fromkeys(_read(step.arguments), number)
        freed: list[list[int]] = [[] for _ in steps]
        for value, number in last.items():
            freed[number].append(value)
        self._plan = tuple(_planned(step, values) for step, values in zip(steps, freed, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        values: list[Any] = [x]
        for operation, arguments, places, is_nested, freed in self._plan:
            if operation == "layer":
                layer: Any = self._modules[arguments[0]]
                values.append(layer(values[places[0][1]]))
            elif operation == "weight":
                name = arguments[0]
                values.append(self._parameters[name] if name in self._parameters else self._buffers[name])
            else:
                given: Any = list(arguments)
                if is_nested:
                    given = _resolved(arguments, values)
                for place, number in places:
                    given[place] = values[number]
                values.append(OPERATIONS[operation].function(*given))
            for number in freed:
                values[number] = None
        result: Tensor = values[-1]
        return result

    def extra_repr(self) -> str:
        return "\n".join(
            f"%{number}: {step.operation}({', '.join(map(_shown, step.arguments))})"
            for number, step in enumerate(self.steps, start=1)
        )


def check_steps(steps: Sequence[Step], layers: Mapping[str, Any], weights: set[str]) -> tuple[Kind, ...]:
    """The kind of each value of a block, if all of its steps can be run.

    Args:
        steps: in the order in which they run.
        layers: by name; their values are not looked at.
        weights: names of parameters and buffers.

    Raises:
        SurgeryError: a step is unknown, has other arguments than its operation takes, or reads a layer, a
            weight or a value that is not there; a layer or weight is not used; or the last step gives no
            tensor.
    """
    kinds: list[Kind] = ["tensor"]
    used: dict[str, set[Any]] = {"layer": set(), "weight": set()}
    for number, step in enumerate(steps, start=1):
        place = f"step {number} ({reprlib.repr(step.operation)[1:-1]})"
        if step.operation in used:
            used[step.operation].add(_checked_name(step, layers, weights, kinds, place))
            kinds.append("tensor")
            continue
        if step.operation not in OPERATIONS:
            raise SurgeryError(f"{place} is no operation, expected one of {sorted(OPERATIONS)}")
        takes = OPERATIONS[step.operation].takes
        _check_count(step, len(takes), place)
        for kind, argument in zip(takes, step.arguments, strict=True):
            if not _is(kind, argument, step, kinds):
                raise SurgeryError(f"{place} has {_brief(argument)} as argument, expected {_WORDS[kind]}")
        if takes == _TWO and not any(_is("tensor", argument, step, kinds) for argument in step.arguments):
            raise SurgeryError(f"{place} has no tensor among its arguments")
        kinds.append(OPERATIONS[step.operation].gives or _item_kind(step.arguments, kinds))
    for names, word in ((layers, "layer"), (weights, "weight")):
        unused = sorted(set(names) - used[word])
        if unused:
            raise SurgeryError(f"no step uses the {word} {unused[0]!r}")
    if kinds[-1] != "tensor":
        raise SurgeryError(f"the last step gives {_WORDS[kinds[-1]]}, expected one tensor")
    return tuple(kinds)


def _checked_name(
    step: Step, layers: Mapping[str, Any], weights: set[str], kinds: Sequence[Kind], place: str
) -> str:
    """The layer or weight that a step uses."""
    is_layer = step.operation == "layer"
    _check_count(step, 2 if is_layer else 1, place)
    name = step.arguments[0]
    if not isinstance(name, str) or name not in (layers if is_layer else weights):
        raise SurgeryError(f"{place} uses the {step.operation} {_brief(name)}, which does not exist")
    if is_layer and not _is("tensor", step.arguments[1], step, kinds):
        raise SurgeryError(
            f"{place} has {_brief(step.arguments[1])} as argument, expected {_WORDS['tensor']}"
        )
    return name


def _check_count(step: Step, count: int, place: str) -> None:
    if len(step.arguments) != count:
        raise SurgeryError(f"{place} has {len(step.arguments)} arguments, expected {count}")


_WORDS: Mapping[str, str] = {
    "tensor": "an earlier tensor",
    "tensors": "earlier tensors",
    "number": "an earlier tensor or a number",
    "int": "a whole number",
    "int?": "a whole number or null",
    "ints": "whole numbers",
    "ints?": "whole numbers or null",
    "float": "a number",
    "float?": "a number or null",
    "bool": "true or false",
    "bool?": "true, false or null",
    "index": "an index",
    "mode": "a mode of this operation",
    "any": "an earlier value that has items",
}


def _is(expected: str, argument: Argument, step: Step, kinds: Sequence[Kind]) -> bool:
    """Whether an argument is what an operation takes."""
    if expected.endswith("?"):
        return argument is None or _is(expected[:-1], argument, step, kinds)
    given = _kind_of(argument, kinds)
    match expected:
        case "tensor":
            return given == "tensor"
        case "number":
            return given in ("tensor", "int") or _is_literal(argument)
        case "int":
            return given == "int" or _is_int(argument)
        case "tensors" | "ints":
            one = expected[:-1]
            is_tuple = isinstance(argument, tuple) and 1 <= len(argument) <= _MOST_ITEMS
            return given == expected or (is_tuple and all(_is(one, a, step, kinds) for a in argument))  # type: ignore[union-attr]
        case "float":
            return _is_literal(argument)
        case "bool":
            return isinstance(argument, bool)
        case "mode":
            return isinstance(argument, str) and argument in _MODES[step.operation]
        case "any":
            return given is not None and given != "int"
    return _is_index(argument, _kind_of(step.arguments[0], kinds), kinds)


def _is_index(argument: Argument, of: Kind | None, kinds: Sequence[Kind]) -> bool:
    """Whether an argument is an index of a tensor or, without computed numbers, of several values."""
    if of != "tensor":
        kinds = ()
    elif isinstance(argument, tuple):
        return 1 <= len(argument) <= _MOST_AXES and all(
            not isinstance(item, tuple) and _is_index(item, of, kinds) for item in argument
        )
    elif argument is None or argument is Ellipsis:
        return True
    parts = _parts(argument) if isinstance(argument, slice) else (argument,)
    whole = (part for part in parts if part is not None or argument is None)
    return all(_is_int(part) or _kind_of(part, kinds) == "int" for part in whole)


def _item_kind(arguments: tuple[Argument, ...], kinds: Sequence[Kind]) -> Kind:
    """The kind of what an index gives."""
    kind = _kind_of(arguments[0], kinds)
    assert kind is not None
    if kind == "tensor" or isinstance(arguments[1], slice):
        return kind
    return "int" if kind == "ints" else "tensor"


def _kind_of(argument: Argument, kinds: Sequence[Kind]) -> Kind | None:
    """The kind of the earlier value that an argument refers to."""
    is_value = isinstance(argument, Value) and 0 <= argument.number < len(kinds)
    return kinds[argument.number] if is_value else None  # type: ignore[union-attr]


def _is_int(argument: Argument) -> bool:
    return type(argument) is int and abs(argument) <= _LARGEST_INT


def _is_literal(argument: Argument) -> bool:
    is_float = type(argument) is float and math.isfinite(argument) and abs(argument) <= _LARGEST_FLOAT
    return is_float or _is_int(argument)


def _parts(argument: slice) -> tuple[Any, Any, Any]:
    return argument.start, argument.stop, argument.step


def _planned(
    step: Step, freed: Sequence[int]
) -> tuple[str, Any, tuple[tuple[int, int], ...], bool, Sequence[int]]:
    """A step as its block runs it, without looking at each argument again.

    Returns:
        The operation, its arguments, by place among them the number of a value, whether values lie deeper
        than that (then no places are given), and the values that are freed afterwards.
    """
    arguments = step.arguments
    is_nested = any(not isinstance(argument, Value) and _read(argument) for argument in arguments)
    found = ((place, one.number) for place, one in enumerate(arguments) if isinstance(one, Value))
    return step.operation, arguments, () if is_nested else tuple(found), is_nested, freed


def _resolved(argument: Any, values: Sequence[Any]) -> Any:
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, tuple):
        return tuple(_resolved(item, values) for item in argument)
    if isinstance(argument, slice):
        return slice(*_resolved(_parts(argument), values))
    return argument


def found_in(argument: Any, kind: type[Found]) -> Iterator[Found]:
    """The objects of a class in an argument, which may lie in tuples and slices."""
    if isinstance(argument, kind):
        yield argument
    elif isinstance(argument, slice):
        yield from found_in(_parts(argument), kind)
    elif isinstance(argument, tuple):
        for item in argument:
            yield from found_in(item, kind)


def _read(argument: Any) -> set[int]:
    """Numbers of the values in an argument."""
    return {value.number for value in found_in(argument, Value)}


def _shown(argument: Any) -> str:
    if isinstance(argument, tuple):
        return f"({', '.join(map(_shown, argument))})"
    return str(_encoded(argument)) if isinstance(argument, Value | slice | EllipsisType) else repr(argument)


def _brief(argument: Argument) -> str:
    shown = _shown(argument)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


# Of a value, of a part of a slice, and of a slice; each is written in one way alone.
_VALUE = r"%(?:0|[1-9]\d{0,5})"
_PART = rf"(0|-?[1-9]\d{{0,6}}|{_VALUE})"
_SLICE = rf"{_PART}?:{_PART}?(?::{_PART})?"


def encode_step(step: Step) -> list[Any]:
    """A step as JSON content, for `decode_step`."""
    if step.operation in ("layer", "weight"):
        return [step.operation, step.arguments[0], *map(_encoded, step.arguments[1:])]
    return [step.operation, *map(_encoded, step.arguments)]


def decode_step(content: Any) -> Step:
    """The step that JSON content describes, which `check_steps` has to check.

    Raises:
        SurgeryError: it describes none.
    """
    if not isinstance(content, list) or not content or not isinstance(content[0], str):
        raise SurgeryError(f"{reprlib.repr(content)} is no step")
    operation, *arguments = content
    # A name may be any text.
    names = arguments[:1] if operation in ("layer", "weight") else []
    decoded = (_decoded(argument) for argument in arguments[len(names) :])
    return Step(operation, (*names, *decoded))


def _encoded(argument: Argument) -> Any:
    if isinstance(argument, Value):
        return f"%{argument.number}"
    if isinstance(argument, slice):
        first, last, stride = ("" if part is None else str(_encoded(part)) for part in _parts(argument))
        return f"{first}:{last}:{stride}" if stride else f"{first}:{last}"
    if argument is Ellipsis:
        return "..."
    return list(map(_encoded, argument)) if isinstance(argument, tuple) else argument


def _decoded(content: Any, inner: bool = False) -> Argument:
    if isinstance(content, list) and not inner:
        return tuple(_decoded(item, inner=True) for item in content)
    if isinstance(content, list | Mapping):
        raise SurgeryError(f"{reprlib.repr(content)} is no argument of a step")
    if not isinstance(content, str):
        return content  # type: ignore[no-any-return]
    if content == "...":
        return Ellipsis
    if re.fullmatch(_VALUE, content, re.ASCII):
        return Value(int(content[1:]))
    found = re.fullmatch(_SLICE, content, re.ASCII)
    if found is None:
        return content
    return slice(*(part if part is None else _decoded_part(part) for part in found.groups()))


def _decoded_part(text: str) -> Value | int:
    return Value(int(text[1:])) if text.startswith("%") else int(text)
