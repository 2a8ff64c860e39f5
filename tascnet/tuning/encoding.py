"""Configurations as points of the unit cube, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from tascnet.tuning.space import FIRST_TRAINED, Choice, Configuration, Space, Value

Coding: TypeAlias = Literal["onehot", "index"]


@dataclass(frozen=True, kw_only=True)
class _Field:
    """One choice's columns: row `i` of `rows` stands for `values[i]`."""

    name: str
    values: tuple[Value, ...]
    rows: tuple[tuple[float, ...], ...]
    categorical: bool


def encode(space: Space, configs: Sequence[Mapping[str, Any]], k: int, coding: Coding = "onehot") -> Tensor:
    """Points of the unit cube for configurations of depth `k`.

    Positive ordinals are scaled by their logarithm, others by rank; a choice of one value has no column.

    Args:
        space: the search space.
        configs: `n` canonical configurations with `first_trained <= k`.
        k: depth.
        coding: a category becomes one column for each value (`onehot`) or one for all (`index`).

    Returns:
        `n x d` float64 in [0, 1].
    """
    fields = _fields(space, k, coding)
    lookup = [(f.name, dict(zip(f.values, f.rows, strict=True))) for f in fields]
    rows = [[x for name, table in lookup for x in table[config[name]]] for config in configs]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width(space, k, coding))


def decode(space: Space, points: Tensor, k: int, coding: Coding = "onehot") -> list[Configuration]:
    """The canonical configurations nearest to points: the inverse of `encode`.

    Args:
        space: the search space.
        points: `n x d`.
        k: depth.
        coding: as in `encode`.
    """
    fields = _fields(space, k, coding)
    return [space.canonical(_decode_row(fields, row)) for row in points.tolist()]


def width(space: Space, k: int, coding: Coding = "onehot") -> int:
    """The number of columns `d`."""
    return sum(len(field.rows[0]) for field in _fields(space, k, coding))


def categorical_columns(space: Space, k: int, coding: Coding = "index") -> list[int]:
    """The columns that hold categories."""
    found: list[int] = []
    at = 0
    for field in _fields(space, k, coding):
        columns = range(at, at + len(field.rows[0]))
        found += columns if field.categorical else ()
        at = columns.stop
    return found


def _fields(space: Space, k: int, coding: Coding) -> list[_Field]:
    depths = tuple(range(k + 1))
    first = _Field(name=FIRST_TRAINED, values=depths, rows=_ranks(k + 1), categorical=False)
    return [first, *(_field(choice, coding) for choice in space.choices_to(k))]


def _field(choice: Choice, coding: Coding) -> _Field:
    categorical = choice.kind == "categorical"
    if categorical and coding == "onehot":
        rows = _onehot(len(choice.values))
    elif categorical or not all(isinstance(v, int | float) and v > 0 for v in choice.values):
        rows = _ranks(len(choice.values))
    else:
        rows = _logs([float(value) for value in choice.values])
    return _Field(name=choice.name, values=choice.values, rows=rows, categorical=categorical)


def _ranks(m: int) -> tuple[tuple[float, ...], ...]:
    return tuple((i / (m - 1),) for i in range(m)) if m > 1 else ((),)


def _logs(values: list[float]) -> tuple[tuple[float, ...], ...]:
    if len(values) < 2:
        return ((),)
    low, high = math.log(values[0]), math.log(values[-1])
    return tuple(((math.log(value) - low) / (high - low),) for value in values)


def _onehot(m: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(i == j) for j in range(m)) for i in range(m)) if m > 1 else ((),)


def _decode_row(fields: list[_Field], row: list[float]) -> Configuration:
    config: Configuration = {}
    at = 0
    for field in fields:
        part = row[at : at + len(field.rows[0])]
        at += len(part)
        distances = [sum((x - y) ** 2 for x, y in zip(part, entry, strict=True)) for entry in field.rows]
        config[field.name] = field.values[distances.index(min(distances))]
    return config
