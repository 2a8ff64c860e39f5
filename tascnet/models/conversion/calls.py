"""What a network did on one input: the calls of layers and functions that its output depends on."""

import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tascnet.errors import ConversionError, printable
from tascnet.models.graph import found_in


@dataclass(frozen=True)
class SourceLine:
    """A line of the network's own code, and the module whose `forward` ran it."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        text = printable(linecache.getline(self.file, self.line).strip(), most=100)
        return f"{self.module}: {printable(self.file)}, line {self.line}" + (f", `{text}`" if text else "")


@dataclass(frozen=True)
class Frame:
    """One run of a module's `forward`.

    Args:
        path: of the module in the network; empty for the network itself.
        number: of the run, so that two runs of a module differ.
        caller: the run that called it; None for the network itself.
    """

    path: str
    number: int
    caller: "Frame | None"


@dataclass(eq=False, kw_only=True)
class Call:
    """One call, and what it gave.

    Args:
        function: the bare name of a function or method of torch, `relu` or `view`; `layer` for a layer that
            was called as a whole; `weight` or `constant` for a tensor that no call made; `size` for one side
            of a tensor's shape, `add_int`, `sub_int`, `mul_int` or `floordiv_int` for a number computed from
            such; `part` for one of several tensors that a call gave.
        arguments, keywords: of the call, with `Call`s in place of tensors and of whole numbers that depend
            on a tensor's shape.
        frame: the run of a module that it was called in.
        place: the line that it was called from; None for tensors that no call made.
        varies: whether it depends on the network's input.
        value: the tensor, unless it varies; the whole number of this run.
        shape: of a tensor; None for several ones and for a number.
        layer: of a `layer` the module.
        path: of a layer or weight its name in the network.
    """

    function: str
    frame: Frame
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    place: SourceLine | None = None
    varies: bool = True
    value: Any = None
    shape: tuple[int, ...] | None = None
    layer: nn.Module | None = None
    path: str = ""

    def read(self) -> Iterator["Call"]:
        """The calls whose results it takes."""
        return found_in((self.arguments, tuple(self.keywords.values())), Call)

    def refused(self, problem: str, hint: str | None = None) -> ConversionError:
        """The error of a call that no chain can do."""
        return refused(problem, self.place, hint)


def refused(problem: str, place: SourceLine | None, hint: str | None = None) -> ConversionError:
    """The error of a network that cannot be converted because of one line."""
    where = "" if place is None else f" ({place})"
    return ConversionError(f"the network cannot be converted, {problem}{where}", hint)


def needed(calls: Sequence[Call], output: Call) -> list[Call]:
    """The calls that the output depends on, in their order."""
    found, waiting = {output}, [output]
    while waiting:
        for call in waiting.pop().read():
            if call not in found:
                found.add(call)
                waiting.append(call)
    return [call for call in calls if call in found]
