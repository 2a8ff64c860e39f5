"""The nested search space: units from the output backwards, each with its choices."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

import torch
from torch.quasirandom import SobolEngine

from tascnet.errors import ConfigError

Value: TypeAlias = int | float | str
Configuration: TypeAlias = dict[str, Value]
Key: TypeAlias = tuple[Value, ...]
T = TypeVar("T")

FIRST_TRAINED, EXIT = "first_trained", "exit"
# After more than this many repeated draws in a row the neighbours of earlier configurations are taken.
_MISSES = 64
# Draws made at once; a power of two keeps the Sobol sequence balanced.
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One decision of the search.

    Args:
        name: `<where>.<what>`, unique in the space.
        values: ascending where `kind` is ordinal.
        neutral: the pre-trained setting, one of `values`.
        kind: `ordinal` where values have an order and distances, else `categorical`.
        unit: index of its unit.
        layers: the layers, the width group or the block that it acts on.
        only_if: an ordinal choice of the same unit; this one is inactive, and neutral, while that one is
            below `only_from`.
        whole_only: inactive where the network ends earlier.

    Raises:
        ConfigError: the neutral setting is not among the values, or ordinal values are not ascending.
    """

    is_width: ClassVar[bool] = False
    # Whether it removes its unit's first block.
    removes_unit: ClassVar[bool] = False

    name: str
    values: tuple[Value, ...]
    neutral: Value
    kind: Literal["ordinal", "categorical"]
    unit: int
    layers: tuple[str, ...] = ()
    only_if: str | None = None
    only_from: int = 1
    whole_only: bool = False

    def __post_init__(self) -> None:
        if self.neutral not in self.values:
            raise ConfigError(f"the neutral setting {self.neutral!r} of {self.name} is none of {self.values}")
        if self.kind == "ordinal" and list(self.values) != sorted(self.values):  # type: ignore[type-var]
            raise ConfigError(f"the ordinal values {self.values} of {self.name} are not ascending")

    @classmethod
    def ordinal(
        cls, name: str, values: Iterable[float], neutral: float, unit: int, layers: tuple[str, ...] = ()
    ) -> Self:
        """A choice of numbers and the neutral one, in ascending order."""
        ascending = tuple(sorted({*values, neutral}))
        return cls(name=name, values=ascending, neutral=neutral, kind="ordinal", unit=unit, layers=layers)

    @property
    def what(self) -> str:
        """The last part of its name, such as `width`."""
        return self.name.rpartition(".")[2]

    def near(self, value: Value) -> tuple[Value, ...]:
        """The values one step away: the two beside it, or all others of a category."""
        if self.kind == "categorical":
            return tuple(other for other in self.values if other != value)
        return tuple(_beside(self.values, self.values.index(value)))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Blocks that become trainable, and tunable, together.

    Args:
        index: counted from the output; 0 is the dense head.
        block: index in the chain of its first block: the cut when it is the first trained unit.
        choices: what is tunable in it.
    """

    index: int
    block: int
    choices: tuple[Choice, ...]

    def count(self, fixed: Collection[Choice] = ()) -> int:
        """The number of different settings in which the choices `fixed` are neutral."""
        total = 1
        for choice in self.choices:
            if choice.only_if is None:
                others = [o for o in self.choices if o.only_if == choice.name and o not in fixed]
                total *= sum(
                    math.prod(len(other.values) for other in others if float(value) >= other.only_from)
                    for value in ((choice.neutral,) if choice in fixed else choice.values)
                )
        return total


@dataclass(frozen=True)
class Space:
    """All configurations of units 0 to `depth`.

    A configuration is a plain dict: `first_trained`, `exit` in a space that has exits, and one value for
    every choice. At `exit=e` the units 1 to `e` are removed, and the head follows the block before unit `e`;
    `first_trained` is then 0, where the head alone is trained, or above `e`. In a canonical configuration
    inactive choices and those of removed units and of units deeper than `first_trained` are neutral. The
    choice that removes unit `e + 1` is inactive, because that is `exit=e+1`. Each network has exactly one
    canonical configuration.

    Args:
        units: the dense head and the units before it.
        nested: whether the configurations of depth `k` include those of smaller depths; else all of them
            train exactly the units 0 to `k`.
        exits: the largest `exit`; 0: the network always ends where it does, and configurations have no
            `exit`.

    Raises:
        ConfigError: units are not numbered 0, 1, ..., two choices have the same name, or there are exits
            beyond the deepest unit or in a space that is not nested.
    """

    units: tuple[Unit, ...]
    nested: bool = True
    exits: int = 0

    def __post_init__(self) -> None:
        indices = [unit.index for unit in self.units]
        if not indices or indices != list(range(len(indices))):
            raise ConfigError(f"units are numbered {indices}, expected 0, 1, ...")
        if len(self._by_name) != len(self.choices) or {FIRST_TRAINED, EXIT} & self._by_name.keys():
            raise ConfigError("two choices of the space have the same name")
        deepest = self.depth if self.nested else 0
        if self.exits not in range(deepest + 1):
            raise ConfigError(f"the space has {self.exits} exits, expected 0 to {deepest}")

    @property
    def depth(self) -> int:
        """The index of the deepest unit."""
        return len(self.units) - 1

    @property
    def has_exit(self) -> bool:
        """Whether the network may end earlier."""
        return self.exits > 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of a configuration, in order."""
        own = (FIRST_TRAINED, EXIT) if self.has_exit else (FIRST_TRAINED,)
        return (*own, *(choice.name for choice in self.choices))

    @cached_property
    def deciding(self) -> frozenset[str]:
        """The names on whose values it depends whether others are active."""
        others = (choice.only_if for choice in self.choices if choice.only_if is not None)
        return frozenset((FIRST_TRAINED, EXIT, *others))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All choices, from the head to the deepest unit."""
        return tuple(choice for unit in self.units for choice in unit.choices)

    @cached_property
    def _by_name(self) -> dict[str, Choice]:
        return {choice.name: choice for choice in self.choices}

    def choices_to(self, k: int) -> tuple[Choice, ...]:
        """The choices of units 0 to `k`."""
        return tuple(choice for choice in self.choices if choice.unit <= k)

    def count(self, k: int) -> int:
        """The number of canonical configurations of depth `k`."""
        total = 0
        for exit in self.exits_to(k):
            fixed = [choice for choice in self.choices if self._is_fixed(choice, exit)]
            head, *units = (unit.count(fixed) for unit in self.units[: k + 1])
            for first in self.firsts(k, exit):
                total += head * math.prod(units[exit:first])
        return total

    def exits_to(self, k: int) -> range:
        """The values that `exit` may take at depth `k`."""
        return range(min(k, self.exits) + 1)

    def firsts(self, k: int, exit: int = 0) -> Sequence[int]:
        """The values that `first_trained` may take at depth `k` where the network ends at `exit`."""
        if not self.nested:
            return range(k, k + 1)
        return (0, *range(exit + 1, k + 1)) if exit else range(k + 1)

    def holds(self, config: Mapping[str, Any], k: int) -> bool:
        """Whether a canonical configuration is one of depth `k`."""
        exit = self.exit_of(config)
        return exit in self.exits_to(k) and config[FIRST_TRAINED] in self.firsts(k, exit)

    def exit_of(self, config: Mapping[str, Any]) -> int:
        """How many units a configuration removes at the network's end."""
        return int(config.get(EXIT, 0))

    def depth_of(self, config: Mapping[str, Any]) -> int:
        """The smallest depth of a canonical configuration."""
        return max(int(config[FIRST_TRAINED]), self.exit_of(config))

    def cut(self, config: Mapping[str, Any]) -> int:
        """Index in the chain of the first block that a canonical configuration trains.

        With the head alone that is where the network ends.
        """
        return self.units[int(config[FIRST_TRAINED]) or self.exit_of(config)].block

    def neutral(self, first_trained: int = 0, exit: int = 0) -> Configuration:
        """The pre-trained settings of all choices."""
        return self._config(first_trained, exit) | {choice.name: choice.neutral for choice in self.choices}

    def narrowed(self, share: float, first_trained: int, exit: int = 0) -> Configuration:
        """The pre-trained settings, but with each trained width at `share` of the pre-trained one.

        Of the values of a width the nearest is taken, of two equally near ones the smaller.
        """
        nearest = {
            c.name: min(c.values, key=lambda v: (abs(float(v) - share * float(c.neutral)), float(v)))
            for c in self.choices_to(first_trained)
            if c.is_width
        }
        return self.canonical({**self.neutral(first_trained, exit), **nearest})

    def canonical(self, config: Mapping[str, Any]) -> Configuration:
        """The canonical configuration of the same network.

        Args:
            config: `first_trained` and any choices; missing ones are neutral, and a missing `exit` is 0.

        Raises:
            ConfigError: a name or a value is not in the space.
        """
        if config.get(FIRST_TRAINED) not in range(self.depth + 1):
            raise ConfigError(f"{FIRST_TRAINED} is {config.get(FIRST_TRAINED)!r}, expected 0 to {self.depth}")
        exit = config.get(EXIT, 0)
        if self.has_exit and exit not in range(self.exits + 1):
            raise ConfigError(f"{EXIT} is {exit!r}, expected 0 to {self.exits}")
        for name, value in config.items():
            choice = self._by_name.get(name)
            if choice is None and name not in self.names:
                raise ConfigError(f"the space has no choice {name!r}")
            if choice is not None and value not in choice.values:
                raise ConfigError(f"{name} is {value!r}, expected one of {choice.values}")
        first = int(config[FIRST_TRAINED])
        result = self._config(first if first > exit else 0, int(exit))
        for choice in self.choices:
            value = config.get(choice.name, choice.neutral)
            is_active = self._is_active(choice, config)
            result[choice.name] = choice.values[choice.values.index(value)] if is_active else choice.neutral
        return result

    def active(self, config: Mapping[str, Any]) -> tuple[Choice, ...]:
        """The choices that matter in `config`."""
        return tuple(choice for choice in self.choices if self._is_active(choice, config))

    def key(self, config: Mapping[str, Any]) -> Key:
        """A hashable form, the same for all configurations of one network."""
        return tuple(self.canonical(config).values())

    def neighbours(self, config: Mapping[str, Any], k: int) -> list[Configuration]:
        """The canonical configurations of depth `k` that are one step away in one choice, depth or exit.

        Such steps lead from every configuration of depth `k` to every other one.
        """
        origin = self.canonical(config)
        if not self.holds(origin, k):
            exit = min(self.exit_of(origin), self.exits_to(k)[-1])
            allowed = self.firsts(k, exit)
            nearest = min(allowed, key=lambda f: abs(f - int(origin[FIRST_TRAINED])))
            return [self.canonical({**origin, **self._config(nearest, exit)})]
        exit = self.exit_of(origin)
        allowed = self.firsts(k, exit)
        at = allowed.index(int(origin[FIRST_TRAINED]))
        steps: list[tuple[str, Value]] = [(FIRST_TRAINED, f) for f in _beside(allowed, at)]
        steps += [(EXIT, e) for e in _beside(self.exits_to(k), exit)]
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
            n: how many; a smaller number yields a prefix.
            k: depth.
            seed: of the draws.
            exclude: configurations to leave out.
            method: a scrambled Sobol sequence, or independent uniform draws.
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
                if self.holds(config, k) and self.key(config) not in seen:
                    seen.add(self.key(config))
                    queue.append(config)
                    yield config

    def _draws(self, k: int, seed: int, method: str) -> Iterator[Configuration]:
        choices = self.choices_to(k)
        own = 2 if self.has_exit else 1
        generator = torch.Generator().manual_seed(seed)
        engine = SobolEngine(own + len(choices), scramble=True, seed=seed)
        while True:
            if method == "sobol":
                points = engine.draw(_BATCH, dtype=torch.float64)
            else:
                points = torch.rand(_BATCH, own + len(choices), dtype=torch.float64, generator=generator)
            for row in points.tolist():
                exit = _pick(self.exits_to(k), row[1]) if self.has_exit else 0
                config = self._config(_pick(self.firsts(k, exit), row[0]), exit)
                config |= {c.name: _pick(c.values, u) for c, u in zip(choices, row[own:], strict=True)}
                yield self.canonical(config)

    def _config(self, first_trained: int, exit: int) -> Configuration:
        """The settings of the whole network."""
        config: Configuration = {FIRST_TRAINED: first_trained}
        return config | ({EXIT: exit} if self.has_exit else {})

    def _is_fixed(self, choice: Choice, exit: int) -> bool:
        """Whether a choice of a unit that is there is inactive because of where the network ends."""
        if choice.removes_unit and self.has_exit and choice.unit == exit + 1:
            return True
        return choice.whole_only and exit > 0

    def _is_active(self, choice: Choice, config: Mapping[str, Any]) -> bool:
        exit = self.exit_of(config)
        is_there = choice.unit == 0 or exit < choice.unit <= int(config[FIRST_TRAINED])
        if not is_there or self._is_fixed(choice, exit):
            return False
        if choice.only_if is None:
            return True
        other = self._by_name[choice.only_if]
        value = other.neutral
        if not self._is_fixed(other, exit):
            value = config.get(other.name, other.neutral)
        return float(value) >= choice.only_from


def _beside(values: Sequence[T], at: int) -> Sequence[T]:
    """The values before and after the one at position `at`."""
    return (*values[max(at - 1, 0) : at], *values[at + 1 : at + 2])


def _pick(values: Sequence[Any], u: float) -> Any:
    return values[min(int(u * len(values)), len(values) - 1)]
