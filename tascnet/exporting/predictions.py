"""Predictions as CSV and as JSON lines: written while they come, moved into place at the end."""

import csv
import fcntl
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from tascnet.errors import ConfigError, DataError, RunFolderError, escaped
from tascnet.run.console import log
from tascnet.run.files import naming_full_disk
from tascnet.run.records import Classified

STDOUT = "-"
ENDINGS = (".csv", ".jsonl")
# How the name of a file ends that is not complete.
PART = ".part"
# In words as in running text.
_PLACES = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

# Writes one record.
Writer: TypeAlias = Callable[[Classified], object]


def check_output(output: str | None) -> None:
    """Raise unless predictions can be written to a place of this name.

    Raises:
        ConfigError: it is neither a file that ends in .csv or .jsonl, nor `-`.
    """
    if output not in (None, STDOUT) and Path(str(output)).suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"`output={output}` ends in neither .csv nor .jsonl", "give such a file, or - for standard output"
        )


def write_predictions(
    records: Iterable[Classified], places: Sequence[str | Path], *, top: int, is_text: bool = False
) -> tuple[int, int]:
    """Write records as they come, to files or standard output.

    A file is written under its name with `.part` and moved into place when all records are there; if the run
    ends earlier, that file keeps those that came, and an earlier result stays.

    Args:
        records: are taken one by one.
        places: files that end in .csv or .jsonl, or `-`: CSV on standard output.
        top: classes for which a CSV has columns.
        is_text: whether the samples are texts; else they are files.

    Returns:
        How many records there were, and how many of them are of unreadable samples.

    Raises:
        DataError: there are no records.
        RunFolderError: another process writes the same file.
        BudgetError: the disk is full.
    """
    rest = iter(records)
    # No file is touched before there is something to write.
    first = next(rest, None)
    if first is None:
        raise DataError("there are no samples to predict", "give at least one")
    total = unreadable = 0
    name = "text" if is_text else "file"
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(str(place), top, name)) for place in places]
        for record in chain([first], rest):
            for write in writers:
                write(record)
            total += 1
            unreadable += record.unreadable is not None
    return total, unreadable


def columns(top: int, name: str = "file") -> list[str]:
    """The headings of a CSV: `file,class,probability,second,second_probability,...,unreadable`."""
    others = [_PLACES[place] if place < len(_PLACES) else f"{place + 2}th" for place in range(top - 1)]
    further = [heading for other in others for heading in (other, f"{other}_probability")]
    return [name, "class", "probability", *further, "unreadable"]


def cells(record: Classified, top: int) -> list[str]:
    """The cells of a line of a CSV with `columns`."""
    pairs = [(record.class_name, record.probability), *record.others[: top - 1]]
    flat = [cell for name, share in pairs for cell in (name or "", "" if share is None else f"{share:.6g}")]
    return [record.sample, *flat, *[""] * (2 * top - len(flat)), record.unreadable or ""]


def line(record: Classified, name: str = "file") -> dict[str, Any]:
    """The JSON object of a record: its classes with their probabilities, or why it is unreadable."""
    if record.unreadable is not None:
        return {name: record.sample, "unreadable": record.unreadable}
    others = [{"class": other, "probability": share} for other, share in record.others]
    return {
        name: record.sample,
        "class": record.class_name,
        "probability": record.probability,
        "next": others,
    }


@contextmanager
def _writer(place: str, top: int, name: str) -> Iterator[Writer]:
    if place == STDOUT:
        with _stdout() as file:
            yield _csv(file, top, name)
        return
    path = Path(place).expanduser()
    is_csv = path.suffix.lower() == ".csv"
    with _part(path) as file:
        yield (
            _csv(file, top, name)
            if is_csv
            else lambda record: file.write(json.dumps(line(record, name)) + "\n")
        )


def _csv(file: TextIO, top: int, name: str) -> Writer:
    # What a terminal shows must not steer it.
    shown = escaped if file.isatty() else str
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns(top, name))
    return lambda record: writer.writerow(map(shown, cells(record, top)))


@contextmanager
def _stdout() -> Iterator[TextIO]:
    """Standard output in UTF-8; names of files that are not keep their bytes."""
    if not isinstance(sys.stdout, io.TextIOWrapper):
        yield sys.stdout
        return
    now = sys.stdout
    encoding, errors, by_line = now.encoding, now.errors, now.line_buffering
    now.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)
    try:
        yield now
        now.flush()
    finally:
        now.reconfigure(encoding=encoding, errors=errors, line_buffering=by_line)


@contextmanager
def _part(path: Path) -> Iterator[TextIO]:
    """A file beside `path`, which takes its place at the end and stays where the run ends earlier."""
    part = path.with_name(path.name + PART)
    with naming_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not emptied before it is known that no other process writes it.
        with open(part, "a", buffering=1, encoding="utf-8", errors="surrogateescape", newline="") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunFolderError(
                    f"another process is writing {path}", "wait for it, or give another `output`"
                ) from None
            file.truncate(0)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(part, path)
            except BaseException:
                log.warning("the predictions that were made are in %s", part)
                raise
