"""Configurations as points of the unit cube."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tascnet.tuning.space import EXIT, FIRST_TRAINED, Choice, Space, Value


def encode(space: Space, configs: Sequence[Mapping[str, Any]], k: int) -> Tensor:
    """Points of the unit cube for configurations of depth `k`.

    Positive ordinal values are scaled by their logarithm, others by rank; a categorical choice has one column
    for each value, and a choice of one value has none.

    Args:
        space: the search space.
        configs: `n` canonical configurations of depth `k`.
        k: depth.

    Returns:
        `n x d` float64 in [0, 1].
    """
    codes = _codes(space, k)
    rows = [[x for name, code in codes.items() for x in code[config[name]]] for config in configs]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(columns(space, k)))


def columns(space: Space, k: int) -> tuple[str, ...]:
    """For each of the `d` columns the name of its choice, or `first_trained` or `exit`."""
    return tuple(name for name, code in _codes(space, k).items() for _ in next(iter(code.values())))


def _codes(space: Space, k: int) -> dict[str, dict[Value, Sequence[float]]]:
    """By choice, the columns that stand for each of its values."""
    own = {FIRST_TRAINED: range(k + 1)} | ({EXIT: space.exits_to(k)} if space.has_exit else {})
    codes: dict[str, dict[Value, Sequence[float]]] = {
        name: dict(zip(values, _ranks(len(values)), strict=True)) for name, values in own.items()
    }
    return codes | {choice.name: _code(choice) for choice in space.choices_to(k)}


def _code(choice: Choice) -> dict[Value, Sequence[float]]:
    count, numbers = len(choice.values), [v for v in choice.values if isinstance(v, int | float) and v > 0]
    rows: Sequence[Sequence[float]]
    if choice.kind == "categorical":
        rows = [[float(i == j) for j in range(count)] for i in range(count)] if count > 1 else [()]
    elif len(numbers) < count or count == 1:
        rows = _ranks(count)
    else:
        low, high = math.log(numbers[0]), math.log(numbers[-1])
        rows = [((math.log(number) - low) / (high - low),) for number in numbers]
    return dict(zip(choice.values, rows, strict=True))


def _ranks(count: int) -> Sequence[Sequence[float]]:
    return [(i / (count - 1),) for i in range(count)] if count > 1 else [()]
