"""Accuracies of every configuration of a small space, measured once: what searches are compared on.

Each table is a file beside this module, made by `benchmark=make_table`.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from tascnet.errors import ConfigError, DataError
from tascnet.run.files import write_whole
from tascnet.tuning import Choice, Configuration, Space, Unit
from tascnet.tuning.space import Key

SUFFIX = ".json.gz"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one configuration gave, averaged over trainings that differ in their seed.

    Args:
        val_accuracy: mean validation accuracy, in [0, 1].
        deviation: its standard deviation over the seeds.
        val_loss: mean validation loss of the epochs that gave the accuracies.
        params: parameters of the whole network.
        flops: FLOPs of one sample.
    """

    val_accuracy: float
    deviation: float
    val_loss: float
    params: int
    flops: int


@dataclass(frozen=True)
class Table:
    """A space and what each of its configurations gave.

    Args:
        space: all configurations.
        entries: by `space.key`.
        about: what was trained, and how.
    """

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
    """The tables that there are."""
    return sorted(path.name.removesuffix(SUFFIX) for path in _folder().glob(f"*{SUFFIX}"))


def load_table(name: str) -> Table:
    """The table of that name.

    Raises:
        ConfigError: there is none.
        DataError: its file is damaged.
    """
    if name not in table_names():
        raise ConfigError(f"there is no table {name!r}", f"there are {', '.join(table_names())}")
    return read_table(_folder() / f"{name}{SUFFIX}")


def read_table(path: Path) -> Table:
    """A table that `write_table` wrote.

    Raises:
        DataError: the file is no table, or lacks configurations of its space.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        space = Space(tuple(_unit(unit) for unit in content["units"]))
        names = [choice.name for choice in space.choices]
        measured = [field.name for field in fields(Entry)]
        entries = {}
        for row in content["rows"]:
            config = dict(zip(content["columns"], row, strict=True))
            key = space.key({name: config[name] for name in ("first_trained", *names)})
            entries[key] = Entry(**{name: config[name] for name in measured})
        about = dict(content["about"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(f"{path} is no table of configurations ({error})", "install tascnet again") from error
    if len(entries) != space.count(space.depth):
        raise DataError(
            f"{path} has {len(entries)} of the {space.count(space.depth)} configurations of its space",
            "install tascnet again",
        )
    return Table(space, entries, about)


def write_table(
    path: Path, space: Space, entries: Sequence[tuple[Mapping[str, Any], Entry]], about: Mapping[str, Any]
) -> None:
    """Write a table, to the same bytes for the same content.

    Args:
        path: ends in `.json.gz`.
        space: all configurations.
        entries: each configuration with what it gave.
        about: what was trained, and how, in JSON values.
    """
    names = ["first_trained", *(choice.name for choice in space.choices)]
    content = {
        "about": dict(about),
        "units": [asdict(unit) for unit in space.units],
        "columns": [*names, *(field.name for field in fields(Entry))],
        "rows": [[*(config[name] for name in names), *astuple(entry)] for config, entry in entries],
    }
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
    write_whole(path, lambda temporary: _write(temporary, packed))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _folder() -> Path:
    return Path(__file__).resolve().parent


def _unit(fields_of: Mapping[str, Any]) -> Unit:
    choices = tuple(_choice(choice) for choice in fields_of["choices"])
    return Unit(index=fields_of["index"], block=fields_of["block"], choices=choices)


def _choice(fields_of: Mapping[str, Any]) -> Choice:
    lists = {"values": tuple(fields_of["values"]), "layers": tuple(fields_of["layers"])}
    return Choice(**{**fields_of, **lists})
