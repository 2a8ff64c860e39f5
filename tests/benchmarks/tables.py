"""A tiny table whose accuracies are a formula."""

from pathlib import Path

from benchmarks.table import Entry, Table, write_table
from tascnet.tuning import Choice, Space, Unit
from tascnet.tuning.choices import ActivationChoice, WidthChoice


def tiny_space() -> Space:
    """A head of 3 settings, and two units of 3 widths and 2 activations: 3 x (1 + 6 + 36) configurations."""
    hidden = Choice(name="head.hidden_layers", values=(0, 1), neutral=0, kind="ordinal", unit=0)
    neurons = Choice(
        name="head.neurons", values=(8, 16), neutral=8, kind="ordinal", unit=0, only_if=hidden.name
    )
    units = [Unit(index=0, block=9, choices=(hidden, neurons))]
    for u in (1, 2):
        width = WidthChoice.ordinal(f"conv{u}.width", (4, 8), 16, u, ("a",))
        kind = ActivationChoice(
            name=f"conv{u}.activation", values=("relu", "elu"), neutral="relu", kind="categorical", unit=u
        )
        units.append(Unit(index=u, block=9 - u, choices=(width, kind)))
    return Space(tuple(units))


def tiny_entry(config) -> Entry:
    """Depth, `elu` in unit 1 and a width of 8 in unit 2 help; FLOPs are the widths' sum."""
    accuracy = 0.7 + 0.05 * config["first_trained"] + 0.03 * (config["conv1.activation"] == "elu")
    accuracy += 0.04 * (config["conv2.width"] == 8) - 0.02 * config["head.hidden_layers"]
    width = config["conv1.width"] + config["conv2.width"]
    return Entry(
        val_accuracy=round(accuracy, 6),
        deviation=0.01,
        val_loss=1 - accuracy,
        params=10 * width,
        flops=100 * width,
        finals=(round(accuracy, 6),),
        # It rises evenly over six epochs, so that hopeless trials are known after the third one.
        curve=tuple(round(accuracy - 0.05 * left, 6) for left in range(5, -1, -1)),
    )


def tiny_table() -> Table:
    """The space with its formula."""
    space = tiny_space()
    configs = space.frontier([], space.depth)
    return Table(space, {space.key(config): tiny_entry(config) for config in configs}, {"seed": 0})


def write_tiny_table(path: Path) -> Table:
    """The tiny table, also as a file."""
    table = tiny_table()
    write_table(path, table.space, [(config, table[config]) for config in table.configs], table.about)
    return table
