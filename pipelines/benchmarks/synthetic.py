"""Nested search spaces with a known best configuration, in place of networks that take minutes to train."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tascnet.tuning import Choice, Space, Unit
from tascnet.tuning.space import FIRST_TRAINED

# Deviation of the observed accuracy: a binomial standard error at 0.85 on 1,000 samples.
NOISE = 0.011
# Scales of the effects of categories and of pairs of choices, in accuracy.
KINDS = {"smooth": (0.01, 0.0), "pairs": (0.01, 0.01), "categories": (0.03, 0.005)}

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A seeded accuracy: a gain of depth, an effect of each active choice, and of pairs within a unit.

    Args:
        space: its configurations.
        gains: of training from each unit on.
        effects: by choice and value.
        pairs: by two choices of a unit and their values.
    """

    space: Space
    gains: list[float]
    effects: dict[str, dict[Any, float]]
    pairs: dict[Pair, dict[tuple[Any, Any], float]]

    def value(self, config: Mapping[str, Any]) -> float:
        """The accuracy without noise."""
        first = int(config[FIRST_TRAINED])
        return self.gains[first] + sum(self._part(unit, config) for unit in self.space.units[: first + 1])

    def observe(self, config: Mapping[str, Any], seed: int) -> float:
        """The accuracy that one training with this seed shows."""
        noise = torch.randn((), generator=torch.Generator().manual_seed(seed)).item()
        return self.value(config) + NOISE * noise

    def best(self) -> float:
        """The highest value: units do not interact, so each is at its own best."""
        sums = itertools.accumulate(max(self._settings(unit)) for unit in self.space.units)
        return max(gain + total for gain, total in zip(self.gains, sums, strict=True))

    def _settings(self, unit: Unit) -> Iterator[float]:
        """What each setting of a unit contributes."""
        names = [choice.name for choice in unit.choices]
        for values in itertools.product(*(choice.values for choice in unit.choices)):
            yield self._part(unit, dict(zip(names, values, strict=True)))

    def _part(self, unit: Unit, config: Mapping[str, Any]) -> float:
        active = [c.name for c in unit.choices if c.only_if is None or config[c.only_if]]
        pairs = (self.pairs[a, b][config[a], config[b]] for a, b in itertools.combinations(active, 2))
        return sum(self.effects[name][config[name]] for name in active) + sum(pairs)


def synthetic_space(units: int = 3) -> Space:
    """A head of 12 settings, and units of 4 widths, 2 kernels and 4 activations."""
    hidden = Choice(name="head.hidden_layers", values=(0, 1), neutral=0, kind="ordinal", unit=0)
    head = (
        hidden,
        Choice(
            name="head.neurons",
            values=(128, 256, 512),
            neutral=128,
            kind="ordinal",
            unit=0,
            only_if=hidden.name,
        ),
        Choice(name="head.dropout", values=(0.0, 0.2, 0.4), neutral=0.0, kind="ordinal", unit=0),
    )
    made = [Unit(index=0, block=units, choices=head)]
    for u in range(1, units + 1):
        width = Choice(name=f"u{u}.width", values=(16, 32, 48, 64), neutral=64, kind="ordinal", unit=u)
        kernel = Choice(name=f"u{u}.kernel", values=(3, 5), neutral=3, kind="ordinal", unit=u)
        names = ("relu", "elu", "silu", "tanh")
        kind = Choice(name=f"u{u}.activation", values=names, neutral="relu", kind="categorical", unit=u)
        made.append(Unit(index=u, block=units - u, choices=(width, kernel, kind)))
    return Space(tuple(made))


def synthetic(kind: str, seed: int, space: Space | None = None) -> Synthetic:
    """The accuracy of one kind and seed.

    Args:
        kind: one of `KINDS`.
        seed: of its effects.
        space: None: `synthetic_space()`.
    """
    space = space or synthetic_space()
    generator = torch.Generator().manual_seed(seed)
    category, interaction = KINDS[kind]
    steps = (0.02 * torch.randn(space.depth, generator=generator) + 0.01).tolist()
    pairs = {
        (a.name, b.name): _pair_effects(a, b, interaction, generator)
        for unit in space.units
        for a, b in itertools.combinations(unit.choices, 2)
    }
    return Synthetic(
        space=space,
        gains=list(itertools.accumulate(steps, initial=0.8)),
        effects={choice.name: _effects(choice, category, generator) for choice in space.choices},
        pairs=pairs,
    )


def _effects(choice: Choice, scale: float, generator: torch.Generator) -> dict[Any, float]:
    """A parabola over the ranks of an ordinal, independent effects of categories."""
    if choice.kind == "categorical":
        drawn = scale * torch.randn(len(choice.values), generator=generator)
        return dict(zip(choice.values, drawn.tolist(), strict=True))
    centre, height = torch.rand(2, generator=generator).tolist()
    last = len(choice.values) - 1
    return {value: -0.06 * height * (i / last - centre) ** 2 for i, value in enumerate(choice.values)}


def _pair_effects(
    a: Choice, b: Choice, scale: float, generator: torch.Generator
) -> dict[tuple[Any, Any], float]:
    values = list(itertools.product(a.values, b.values))
    drawn = scale * torch.randn(len(values), generator=generator)
    return dict(zip(values, drawn.tolist(), strict=True))
