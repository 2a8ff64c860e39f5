"""Accuracies of every configuration of a small space, measured once: what searches are compared on.

Each table is a file beside this module, made by `python -m benchmarks make_table`.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tascnet.errors import ConfigError, DataError
from tascnet.run.files import write_whole
from tascnet.tuning import Choice, Configuration, Space, Unit
from tascnet.tuning.choices import ActivationChoice, KernelChoice, WidthChoice
from tascnet.tuning.space import FIRST_TRAINED, Key

FOLDER, SUFFIX = Path(__file__).resolve().parent, ".json.gz"
KINDS = {"width": WidthChoice, "kernel": KernelChoice, "activation": ActivationChoice}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one configuration gave, as means over trainings that differ in their seed.

    Args:
        val_accuracy: validation accuracy, in [0, 1].
        deviation: its standard deviation over the seeds.
        val_loss: validation loss of the epochs that gave the accuracies.
        params: parameters of the whole network.
        flops: FLOPs of one sample.
        finals: the accuracy of each training; empty in tables that do not have it.
        curve: mean accuracy after each epoch, of which a training keeps the best; likewise.
    """

    val_accuracy: float
    deviation: float
    val_loss: float
    params: int
    flops: int
    finals: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From JSON values, in a mapping that may hold more."""
        own: dict[str, Any] = {name: row[name] for name in MEASURED if name in row}
        for name in ("finals", "curve"):
            own[name] = tuple(own.get(name, ()))
        return cls(**own)


MEASURED = [entry.name for entry in fields(Entry)]


@dataclass(frozen=True)
class Table:
    """A space, what each of its configurations gave (by `space.key`), and what was trained and how."""

    space: Space
    entries: Mapping[Key, Entry]
    about: Mapping[str, Any]

    def __getitem__(self, config: Mapping[str, Any]) -> Entry:
        """What a configuration gave; it need not be canonical."""
        return self.entries[self.space.key(config)]

    @cached_property
    def configs(self) -> tuple[Configuration, ...]:
        """All canonical configurations."""
        return tuple(self.space.frontier([], self.space.depth))

    @cached_property
    def best(self) -> float:
        """The highest accuracy."""
        return max(entry.val_accuracy for entry in self.entries.values())


def table_names() -> list[str]:
    """The tables beside this module."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def load_table(name: str) -> Table:
    """The table of that name; `ConfigError` where there is none."""
    if name not in table_names():
        raise ConfigError(f"there is no table {name!r}", f"there are {', '.join(table_names())}")
    return read_table(FOLDER / f"{name}{SUFFIX}")


def read_table(path: Path) -> Table:
    """A table that `write_table` wrote.

    Raises:
        DataError: the file is no table, or lacks configurations of its space.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        space = Space(tuple(_unit(unit) for unit in content["units"]))
        names = [FIRST_TRAINED, *(choice.name for choice in space.choices)]
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
        entries = {space.key({name: row[name] for name in names}): Entry.of(row) for row in rows}
        if len(entries) != space.count(space.depth):
            raise ValueError(f"it has {len(entries)} of {space.count(space.depth)} configurations")
        return Table(space, entries, dict(content["about"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(
            f"{path} is no table of a space ({error})", "restore it from the repository"
        ) from error


def write_table(
    path: Path, space: Space, entries: Sequence[tuple[Mapping[str, Any], Entry]], about: Mapping[str, Any]
) -> None:
    """Write what each configuration of a space gave, to the same bytes for the same content."""
    names = [FIRST_TRAINED, *(choice.name for choice in space.choices)]
    content = {
        "about": dict(about),
        "units": [asdict(unit) for unit in space.units],
        "columns": [*names, *MEASURED],
        "rows": [[*(config[name] for name in names), *astuple(entry)] for config, entry in entries],
    }
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)

    def write(temporary: Path) -> None:
        temporary.write_bytes(packed)

    write_whole(path, write)


def _unit(content: Mapping[str, Any]) -> Unit:
    choices = []
    for values in content["choices"]:
        kind = KINDS.get(values["name"].rpartition(".")[2], Choice)
        lists = {name: tuple(values[name]) for name in ("values", "layers")}
        choices.append(kind(**{**values, **lists}))
    return Unit(index=content["index"], block=content["block"], choices=tuple(choices))
