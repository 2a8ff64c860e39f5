"""The comparison as a table on the terminal, as Markdown, as CSV and as a page."""

import csv
import io
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.errors import plural
from tascnet.report.comparison.cells import (
    UNPRUNED,
    USUAL,
    Cell,
    headings,
    notes,
    numbered,
    place_text,
    setting,
    table_lines,
)
from tascnet.report.comparison.records import FIGURES, Aside
from tascnet.report.comparison.summary import Row
from tascnet.report.page import write

# Of the terminal's first column: the longest of its usual words.
_MODEL_WIDTH = len("reconstruction")


def comparison_table(rows: Sequence[Row]) -> Table:
    """The table for the terminal: mean, deviation and change below each other."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("n", justify="right")
    for title in headings(rows):
        table.add_column(title.replace(" ", "\n", 1), justify="right")
    for _, group in groupby(rows, key=setting):
        members = list(group)
        first = members[0]
        table.add_section()
        table.add_row(Text(_folded(first.dataset, first.backbone, first.name), style="bold"))
        for name, n, cells in table_lines(members, numbered(rows)):
            table.add_row(Text(_folded(*name.split(": ", 1))), n, *map(_stacked, cells))
    return table


def as_markdown(rows: Sequence[Row], asides: Sequence[Aside]) -> str:
    """Table, notes and what does not take part, as Markdown."""
    heads = ["data set", "backbone", "name", "model", "n", *headings(rows)]
    lines = [
        "# Comparison",
        "",
        _markdown_row(heads),
        _markdown_row(["---"] * 4 + ["---:"] * (len(heads) - 4)),
    ]
    for row in rows:
        for name, n, cells in table_lines([row], numbered(rows)):
            lines.append(_markdown_row([row.dataset, row.backbone, row.name, name, n, *map(_inline, cells)]))
    lines += ["", *(f"- {note}" for note in notes(rows))]
    if asides:
        lines += ["", "## Not in the table", ""]
        lines += [_markdown_row(["folder", "reason"]), _markdown_row(["---", "---"])]
        lines += [_markdown_row([aside.folder, aside.reason]) for aside in asides]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row: mean and deviation of each figure, and mean changes; empty where there is none."""
    file = io.StringIO()
    records = [_record(row) for row in rows]
    writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def comparison_page(path: Path, rows: Sequence[Row], asides: Sequence[Aside]) -> None:
    """Write the table as one page without links to anything, whole or not at all."""
    settings = [
        {"title": title, "lines": list(table_lines(list(group), numbered(rows)))}
        for title, group in groupby(rows, key=setting)
    ]
    content: dict[str, Any] = {
        "stage": "compare",
        "title": "Comparison of runs",
        "facts": [plural(len(settings), "setting"), f"{len(asides)} not in the table"],
        "headings": headings(rows),
        "settings": settings,
        "asides": asides,
        "sentences": notes(rows),
        # The parts of the other reports that this one has not.
        **{"headline": None, "columns": [], "models": [], "result": "", "described": {}, "notes": []},
    }
    write(path, "compare.html", content)


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": row.dataset,
        "backbone": row.backbone,
        "name": row.name,
        "model": row.model,
        "n": len(row.seeds),
        "seeds": " ".join(map(str, row.seeds)),
    }
    for key in FIGURES:
        statistic = row.figures[key]
        record[key] = None if statistic is None else statistic.mean
        record[f"{key}_deviation"] = None if statistic is None else statistic.deviation
        for reference in (USUAL, UNPRUNED):
            change = row.changes.get(reference, {}).get(key)
            record[f"{key}_from_{reference}"] = None if change is None else change.mean
    record["batch"] = " ".join(map(str, row.batches))
    record["latency_measured_on"] = "; ".join(map(place_text, row.places))
    return record


def _folded(*parts: str) -> str:
    """Each part on lines of its own, so that no other column gives way to a long name."""
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _MODEL_WIDTH))


def _stacked(cell: Cell) -> Text:
    text = Text(cell.mean)
    for part in (cell.deviation, cell.change):
        if part:
            text.append(f"\n{part}" if text.plain else part, style="dim")
    return text


def _inline(cell: Cell) -> str:
    change = f"({cell.change})" if cell.change else ""
    return " ".join(part for part in (cell.mean, cell.deviation, change) if part)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
