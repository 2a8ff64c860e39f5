"""The nested search space: units from the output backwards, each with its choices."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch.quasirandom import SobolEngine

from tascnet.errors import ConfigError

Value: TypeAlias = int | float | str
Configuration: TypeAlias = dict[str, Value]
Key: TypeAlias = tuple[Value, ...]

FIRST_TRAINED = "first_trained"
# Draws in a row that may repeat earlier configurations before the neighbours of those are taken instead.
_MISSES = 64
# Draws made at once; a multiple of a power of two keeps the Sobol sequence balanced.
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that the search decides.

    Args:
        name: `<where>.<what>`, unique in the space.
        values: the settings, ascending where `kind` is ordinal.
        neutral: the pre-trained setting, one of `values`.
        kind: `ordinal` where values have an order and distances, else `categorical`.
        unit: the unit that it belongs to.
        layers: the layers, the width group or the block that it acts on.
        only_if: another, ordinal choice of the unit; this one is inactive, and neutral, while that one is
            below `only_from`.
        only_from: the smallest value of `only_if` at which this one matters.

    Raises:
        ConfigError: the neutral setting is no value, values repeat, or ordinal ones are not ascending.
    """

    # Whether the values are widths.
    is_width: ClassVar[bool] = False

    name: str
    values: tuple[Value, ...]
    neutral: Value
    kind: Literal["ordinal", "categorical"]
    unit: int
    layers: tuple[str, ...] = ()
    only_if: str | None = None
    only_from: int = 1

    def __post_init__(self) -> None:
        if self.neutral not in self.values:
            raise ConfigError(f"the neutral setting {self.neutral!r} of {self.name} is none of {self.values}")
        if len(set(self.values)) != len(self.values):
            raise ConfigError(f"the values {self.values} of {self.name} repeat")
        if self.kind == "ordinal" and list(self.values) != sorted(self.values):  # type: ignore[type-var]
            raise ConfigError(f"the ordinal values {self.values} of {self.name} are not ascending")

    @classmethod
    def ordinal(
        cls, name: str, values: Iterable[float], neutral: float, unit: int, layers: tuple[str, ...] = ()
    ) -> Self:
        """An ordinal choice of `values` and the neutral setting."""
        ascending = tuple(sorted({*values, neutral}))
        return cls(name=name, values=ascending, neutral=neutral, kind="ordinal", unit=unit, layers=layers)

    @property
    def what(self) -> str:
        """What it decides: the last part of its name."""
        return self.name.rpartition(".")[2]

    def near(self, value: Value) -> tuple[Value, ...]:
        """The values one step away: the two beside it, or all others of a category."""
        if self.kind == "categorical":
            return tuple(other for other in self.values if other != value)
        at = self.values.index(value)
        return self.values[max(at - 1, 0) : at] + self.values[at + 1 : at + 2]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What becomes trainable, and tunable, together.

    Args:
        index: counted from the output; 0 is the dense head.
        block: index in the chain of its first block: the cut when it is the first trained unit.
        choices: what is tunable in it.
    """

    index: int
    block: int
    choices: tuple[Choice, ...]

    def count(self) -> int:
        """The number of different settings."""
        total = 1
        for choice in (choice for choice in self.choices if choice.only_if is None):
            others = [other for other in self.choices if other.only_if == choice.name]
            total *= (
                sum(
                    math.prod(len(other.values) for other in others if float(value) >= other.only_from)
                    for value in choice.values
                )
                if others
                else len(choice.values)
            )
        return total


@dataclass(frozen=True)
class Space:
    """All configurations of units 0 to `depth`.

    A configuration is a plain dict: `first_trained` and one value for every choice. It is canonical
    when all that cannot matter is neutral: units deeper than `first_trained`, and inactive choices.
    Each network has exactly one canonical configuration.

    Args:
        units: the dense head and the units before it.
        nested: whether the configurations of depth `k` include those of smaller depths; else they are
            those that train exactly the units up to `k`.
    """

    units: tuple[Unit, ...]
    nested: bool = True
    _by_name: dict[str, Choice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        choices = [choice for unit in self.units for choice in unit.choices]
        object.__setattr__(self, "_by_name", {choice.name: choice for choice in choices})
        if [unit.index for unit in self.units] != list(range(len(self.units))) or not self.units:
            raise ConfigError(f"units are numbered {[unit.index for unit in self.units]}, expected 0, 1, ...")
        if len(self._by_name) != len(choices) or FIRST_TRAINED in self._by_name:
            raise ConfigError("two choices of the space have the same name")
        for unit in self.units:
            _check_unit(unit)

    @property
    def depth(self) -> int:
        """The number of the deepest unit."""
        return len(self.units) - 1

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All choices, from the head to the deepest unit."""
        return tuple(self._by_name.values())

    def choices_to(self, k: int) -> tuple[Choice, ...]:
        """The choices of units 0 to `k`."""
        return tuple(choice for choice in self.choices if choice.unit <= k)

    def count(self, k: int) -> int:
        """The number of canonical configurations of depth `k`."""
        settings = [unit.count() for unit in self.units[: k + 1]]
        return sum(math.prod(settings[: first + 1]) for first in self.firsts(k))

    def firsts(self, k: int) -> range:
        """The values that `first_trained` may take at depth `k`."""
        return range(0 if self.nested else k, k + 1)

    def neutral(self, first_trained: int = 0) -> Configuration:
        """The pre-trained settings, trained from unit `first_trained` on."""
        return {FIRST_TRAINED: first_trained, **{choice.name: choice.neutral for choice in self.choices}}

    def narrowed(self, share: float, first_trained: int) -> Configuration:
        """The pre-trained settings, except that units 1 to `first_trained`, which are trained, are narrower.

        Each width is the value that is nearest to that share of the pre-trained one, the smaller of two.
        """
        nearest = {
            c.name: min(c.values, key=lambda v: (abs(float(v) - share * float(c.neutral)), float(v)))
            for c in self.choices_to(first_trained)
            if c.is_width
        }
        return self.canonical({**self.neutral(first_trained), **nearest})

    def canonical(self, config: Mapping[str, Any]) -> Configuration:
        """The one configuration that names the same network.

        Args:
            config: `first_trained` and any choices; missing ones are neutral.

        Raises:
            ConfigError: a name or a value is not in the space.
        """
        self._check(config)
        first = int(config[FIRST_TRAINED])
        result: Configuration = {FIRST_TRAINED: first}
        for choice in self.choices:
            value = config.get(choice.name, choice.neutral)
            active = choice.unit <= first and self._is_on(choice, config)
            result[choice.name] = choice.values[choice.values.index(value)] if active else choice.neutral
        return result

    def active(self, config: Mapping[str, Any]) -> tuple[Choice, ...]:
        """The choices that matter in `config`."""
        first = int(config[FIRST_TRAINED])
        return tuple(c for c in self.choices if c.unit <= first and self._is_on(c, config))

    def key(self, config: Mapping[str, Any]) -> Key:
        """A hashable form, the same for all configurations of one network."""
        return tuple(self.canonical(config).values())

    def neighbours(self, config: Mapping[str, Any], k: int) -> list[Configuration]:
        """The canonical configurations of depth `k` that differ by one step in one thing.

        Every configuration of depth `k` can be reached from every other one by such steps.
        """
        origin = self.canonical(config)
        first = int(origin[FIRST_TRAINED])
        allowed = self.firsts(k)
        if first not in allowed:
            return [self.canonical({**origin, FIRST_TRAINED: min(max(first, allowed[0]), allowed[-1])})]
        steps: list[tuple[str, Value]] = [(FIRST_TRAINED, f) for f in (first - 1, first + 1) if f in allowed]
        for choice in self.active(origin):
            steps += [(choice.name, value) for value in choice.near(origin[choice.name])]
        return [self.canonical({**origin, name: value}) for name, value in steps]

    def sample(
        self,
        n: int,
        k: int,
        seed: int,
        *,
        exclude: Iterable[Mapping[str, Any]] = (),
        method: Literal["sobol", "random"] = "sobol",
    ) -> list[Configuration]:
        """Up to `n` different canonical configurations of depth `k`; fewer when no more are left.

        Args:
            n: how many.
            k: depth.
            seed: of the scrambled Sobol sequence or the random draws; a smaller `n` gives a prefix.
            exclude: configurations to leave out.
            method: quasi-random or independent uniform draws.
        """
        excluded = list(exclude)
        seen = {self.key(config) for config in excluded}
        found: list[Configuration] = []
        misses = 0
        for config in self._draws(k, seed, method):
            if len(found) >= n or misses > _MISSES:
                break
            misses = misses + 1 if self.key(config) in seen else 0
            if not misses:
                seen.add(self.key(config))
                found.append(config)
        found.extend(islice(self.frontier([*excluded, *found], k), n - len(found)))
        return found

    def frontier(self, configs: Sequence[Mapping[str, Any]], k: int) -> Iterator[Configuration]:
        """All configurations of depth `k` that are not in `configs`, the nearest ones first."""
        queue = [*(self.canonical(config) for config in configs), self.neutral(self.firsts(k)[0])]
        seen = {self.key(config) for config in configs}
        for origin in queue:
            for config in [origin, *self.neighbours(origin, k)]:
                if int(config[FIRST_TRAINED]) in self.firsts(k) and self.key(config) not in seen:
                    seen.add(self.key(config))
                    queue.append(config)
                    yield config

    def _draws(self, k: int, seed: int, method: str) -> Iterator[Configuration]:
        choices = self.choices_to(k)
        generator = torch.Generator().manual_seed(seed)
        engine = SobolEngine(len(choices) + 1, scramble=True, seed=seed)
        while True:
            if method == "sobol":
                points = engine.draw(_BATCH, dtype=torch.float64)
            else:
                points = torch.rand(_BATCH, len(choices) + 1, dtype=torch.float64, generator=generator)
            for row in points.tolist():
                config: Configuration = {FIRST_TRAINED: _pick(self.firsts(k), row[0])}
                config |= {c.name: _pick(c.values, u) for c, u in zip(choices, row[1:], strict=True)}
                yield self.canonical(config)

    def _is_on(self, choice: Choice, config: Mapping[str, Any]) -> bool:
        if choice.only_if is None:
            return True
        value = config.get(choice.only_if, self._by_name[choice.only_if].neutral)
        return float(value) >= choice.only_from

    def _check(self, config: Mapping[str, Any]) -> None:
        if config.get(FIRST_TRAINED) not in range(self.depth + 1):
            raise ConfigError(f"{FIRST_TRAINED} is {config.get(FIRST_TRAINED)!r}, expected 0 to {self.depth}")
        for name, value in config.items():
            if name == FIRST_TRAINED:
                continue
            if name not in self._by_name:
                raise ConfigError(f"the space has no choice {name!r}")
            if value not in self._by_name[name].values:
                raise ConfigError(f"{name} is {value!r}, expected one of {self._by_name[name].values}")


def _check_unit(unit: Unit) -> None:
    free = {choice.name for choice in unit.choices if choice.only_if is None and choice.kind == "ordinal"}
    for choice in unit.choices:
        if choice.unit != unit.index:
            raise ConfigError(f"{choice.name} of unit {choice.unit} stands in unit {unit.index}")
        if choice.only_if is not None and choice.only_if not in free:
            raise ConfigError(
                f"{choice.name} depends on {choice.only_if}, which is no free ordinal choice of its unit"
            )


def _pick(values: Sequence[Any], u: float) -> Any:
    return values[min(int(u * len(values)), len(values) - 1)]
