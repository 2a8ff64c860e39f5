"""Small search spaces for the tests, written out or drawn by hypothesis."""

from typing import Any

from hypothesis import strategies as st

from tascnet.run.records import Trial
from tascnet.tuning.choices import BlockChoice, WidthChoice
from tascnet.tuning.space import Choice, Configuration, Space, Unit


def small_space(exits: int = 0) -> Space:
    """Head: 0 or 1 hidden layers of 64 or 128 neurons; units 1 and 2: a width, a kernel, an activation.

    Settings: head 1 + 2 = 3, unit 1: 3 x 2 = 6, unit 2: 3 x 3 = 9.
    """
    head = (
        Choice(name="head.hidden_layers", values=(0, 1), neutral=0, kind="ordinal", unit=0),
        Choice(
            name="head.neurons",
            values=(64, 128),
            neutral=64,
            kind="ordinal",
            unit=0,
            only_if="head.hidden_layers",
        ),
    )
    one = (
        WidthChoice(name="b.width", values=(8, 16, 32), neutral=32, kind="ordinal", unit=1),
        Choice(name="b.kernel", values=(3, 5), neutral=3, kind="ordinal", unit=1),
    )
    two = (
        WidthChoice(name="a.width", values=(8, 16, 32), neutral=32, kind="ordinal", unit=2),
        Choice(
            name="a.activation", values=("relu", "elu", "tanh"), neutral="relu", kind="categorical", unit=2
        ),
    )
    return Space(
        (
            Unit(index=0, block=5, choices=head),
            Unit(index=1, block=3, choices=one),
            Unit(index=2, block=1, choices=two),
        ),
        exits=exits,
    )


def enumerable_space() -> Space:
    """A head of 12 settings, and two units of 4 widths, 2 kernels and 4 activations."""

    def ordinal(name: str, values: tuple[Any, ...], neutral: float, unit: int, **more: Any) -> Choice:
        return Choice(name=name, values=values, neutral=neutral, kind="ordinal", unit=unit, **more)

    head = (
        ordinal("head.hidden_layers", (0, 1), 0, 0),
        ordinal("head.neurons", (128, 256, 512), 128, 0, only_if="head.hidden_layers"),
        ordinal("head.dropout", (0.0, 0.2, 0.4), 0.0, 0),
    )
    units = [Unit(index=0, block=2, choices=head)]
    for u in (1, 2):
        names = ("relu", "elu", "silu", "tanh")
        kind = Choice(name=f"u{u}.activation", values=names, neutral="relu", kind="categorical", unit=u)
        width, kernel = ordinal(f"u{u}.width", (16, 32, 48, 64), 64, u), ordinal(f"u{u}.kernel", (3, 5), 3, u)
        units.append(Unit(index=u, block=2 - u, choices=(width, kernel, kind)))
    return Space(tuple(units))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of up to four units with up to three choices each, some of them conditional; half have exits."""
    units = tuple(draw(_units(index)) for index in range(draw(st.integers(1, 4))))
    nested = draw(st.booleans())
    exits = draw(st.integers(0, len(units) - 1)) if nested else 0
    return Space(units, nested=nested, exits=exits)


@st.composite
def _units(draw: st.DrawFn, index: int) -> Unit:
    choices: list[Choice] = []
    if index and draw(st.booleans()):
        kept = f"u{index}.kept"
        choices.append(BlockChoice(name=kept, values=(0, 1), neutral=1, kind="ordinal", unit=index))
    for i in range(draw(st.integers(0, 3))):
        free = [c.name for c in choices if c.only_if is None and c.kind == "ordinal"]
        only_if = draw(st.sampled_from([None, *free]))
        choices.append(draw(_choices(index, f"u{index}_{i}.x", only_if)))
    return Unit(index=index, block=9 - index, choices=tuple(choices))


@st.composite
def _choices(draw: st.DrawFn, unit: int, name: str, only_if: str | None) -> Choice:
    kind = draw(st.sampled_from(["ordinal", "categorical"]))
    if kind == "ordinal":
        numbers = st.lists(st.integers(0, 64), min_size=1, max_size=3, unique=True)
        values: tuple[Any, ...] = tuple(sorted(draw(numbers)))
    else:
        values = ("relu", "elu", "tanh")[: draw(st.integers(1, 3))]
    return Choice(
        name=name,
        values=values,
        neutral=draw(st.sampled_from(values)),
        kind=kind,
        unit=unit,
        only_if=only_if,
        only_from=draw(st.integers(0, 40)),
        whole_only=unit == 0 and draw(st.booleans()),
    )


@st.composite
def canonical_configs(draw: st.DrawFn, space: Space) -> Configuration:
    """Any canonical configuration of a space."""
    config: dict[str, Any] = {"first_trained": draw(st.integers(0, space.depth))}
    if space.has_exit:
        config["exit"] = draw(st.integers(0, space.exits))
    for choice in space.choices:
        config[choice.name] = draw(st.sampled_from(choice.values))
    return space.canonical(config)


def observed(pairs: Any, **changes: Any) -> list[Trial]:
    """Trials of configurations and values; None: it failed."""
    trials = []
    for number, (config, value) in enumerate(pairs):
        came: dict[str, Any] = {"status": "failed", "reason": "x"}
        if value is not None:
            came = {"status": "ok", "value": value, "val_accuracy": value}
        depth = int(config["first_trained"])
        trials.append(Trial(**{"trial": number, "depth": depth, "config": config, **came, **changes}))
    return trials
