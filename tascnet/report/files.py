"""`python -m tascnet.report.files docs/files.md` writes the fields of all records into that page."""

import inspect
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from tascnet.data.heldout import HeldOut
from tascnet.report.mistakes import Mistake, Mistakes
from tascnet.run import records
from tascnet.run.files import write_text
from tascnet.run.records import StageMetrics

_WORDS = {int: "integer", float: "number", str: "text", bool: "boolean", Any: "value"}
_MARK = "-->\n"


def with_fields(page: str) -> str:
    """The page with a table of the fields of each record below its last comment."""
    page = page[: page.rindex(_MARK) + len(_MARK)]
    for record in documented_records():
        summary, meanings = described(record)
        hints, own = get_type_hints(record), [entry.name for entry in fields(record)]
        if StageMetrics in record.__mro__[1:]:
            summary += " It also has the fields of [StageMetrics](#stagemetrics)."
            own = own[len(fields(StageMetrics)) :]
        page += f"\n## {record.__name__}\n\n{summary}\n\n| field | type | meaning |\n|---|---|---|\n"
        page += "".join(f"| `{name}` | {_in_words(hints[name])} | {meanings[name]} |\n" for name in own)
    return page


def documented_records() -> Iterator[type[Any]]:
    """The records of a run's files, in the order of their definitions."""
    for record in (*vars(records).values(), Mistake, Mistakes, HeldOut):
        if inspect.isclass(record) and is_dataclass(record):
            yield record


def described(record: type[Any]) -> tuple[str, dict[str, str]]:
    """A record's summary and the meaning of its fields, from its docstring."""
    summary, _, rest = (inspect.getdoc(record) or "").partition("\n\nArgs:\n")
    found = re.findall(r"^    ([\w, ]+): ((?:.|\n     )*)", rest.partition("\n\n")[0], flags=re.MULTILINE)
    meanings: dict[str, str] = {}
    for names, text in found:
        meaning = " ".join(text.split()).removesuffix(".").replace("None", "null")
        meanings |= dict.fromkeys(names.split(", "), meaning)
    return " ".join(summary.split()).replace("None", "null"), meanings


def _in_words(kind: Any, plural: str = "") -> str:
    if kind in _WORDS:
        return _WORDS[kind] + plural
    if is_dataclass(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"  # type: ignore[union-attr]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if item is type(None) else _in_words(item, plural) for item in inner)
    word, items = ("object", inner[1]) if origin is dict else ("list", inner[0])
    held = _in_words(items, "s")
    return f"{word}{plural} of {f'({held})' if ' or ' in held else held}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_text(path, with_fields(path.read_text(encoding="utf-8")))
