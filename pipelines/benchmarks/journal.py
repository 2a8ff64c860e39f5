"""Rows of a comparison: journalled one by one, so that a comparison that was broken off goes on."""

import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tascnet.errors import ConfigError
from tascnet.measure import describe_device, versions
from tascnet.options import Config
from tascnet.run.console import progress
from tascnet.run.files import append_jsonl, read_jsonl, write_json
from tascnet.run.folder import cache_folder

Row = dict[str, Any]

JOURNAL, RUNS = "rows.jsonl", "runs"


def benchmark_folder(config: Config) -> Path:
    """`outputs/benchmark/<name>`; with `fresh` its rows and the runs that they come from are forgotten."""
    folder = Path(config.outputs) / "benchmark" / config.benchmark.name
    if config.fresh:
        (folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(folder / RUNS, ignore_errors=True)
    return folder


def inner_config(config: Config, outputs: Path, **changes: Any) -> Config:
    """The config of a stage that a comparison runs: in a place of its own, with the comparison's cache."""
    cache = str(cache_folder(config))
    return replace(config, outputs=str(outputs), cache_dir=cache, fresh=False, **changes)


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names of methods or networks that are not known.

    Raises:
        ConfigError: one of them is not.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r}", f"take some of {', '.join(known)}")


def collect(
    folder: Path, keys: Sequence[Row], work: Callable[[Row], Row], description: str = "rows"
) -> list[Row]:
    """The rows of all keys, in their order; those in the journal are not computed again.

    Args:
        folder: holds the journal.
        keys: what tells rows apart; a row holds all of its key.
        work: gives the rest of a row of that key, in JSON values.
        description: of the progress bar.
    """
    known = read_jsonl(folder / JOURNAL)
    rows = []
    with progress(description, total=len(keys)) as bar:
        for key in keys:
            row = find(known, key)
            if row is None:
                row = {**key, **work(key)}
                append_jsonl(folder / JOURNAL, row)
            rows.append(row)
            bar.advance(1)
    return rows


def find(rows: Iterable[Row], key: Row) -> Row | None:
    """The first row that holds all of a key."""
    return next((row for row in rows if all(row.get(name) == value for name, value in key.items())), None)


def write_metrics(
    folder: Path, rows: Sequence[Row], summary: Any, device: torch.device | str = "cpu", **facts: Any
) -> None:
    """Write `metrics.json`: rows, summary, machine, versions and the command that gave them."""
    metrics = {
        "rows": list(rows),
        "summary": summary,
        **facts,
        "machine": describe_device(device),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "tascnet", *sys.argv[1:]]),
    }
    write_json(folder / "metrics.json", metrics)
