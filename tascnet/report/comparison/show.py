"""The comparison as a table on the terminal, as Markdown, CSV, JSON and a page."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.errors import plural, printable
from tascnet.report import numbers
from tascnet.report.comparison.runs import Aside, Place
from tascnet.report.comparison.summary import LATENCIES, Comparison, Statistic, TableRow
from tascnet.report.numbers import MISSING
from tascnet.report.page import write_page
from tascnet.report.tables import (
    COLUMNS,
    Cell,
    deployed_mark,
    deployed_note,
    folded,
    narrow_columns,
    titles,
)
from tascnet.run.files import write_json, write_text

MIXED = "mixed"
# The reference of every row, and of an extra line below a pruned network.
USUAL, UNPRUNED = "conventional", "unpruned"
# What makes a text a formula, as its first character.
_FORMULAS = ("=", "+", "-", "@")


def comparison_table(rows: Sequence[TableRow]) -> Table:
    """The table for the terminal: mean, deviation and change below each other."""
    accuracies = (
        (plain.mean, balanced.mean)
        for row in rows
        if (plain := row.figures["test_accuracy"]) and (balanced := row.figures["test_balanced_accuracy"])
    )
    keys = narrow_columns(accuracies, has_deployed=any(row.runtime for row in rows))
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("n", justify="right")
    for title in _headings(rows, keys):
        table.add_column(title.replace(" ", "\n", 1), justify="right")
    for _, group in groupby(rows, key=_setting):
        members = list(group)
        first = members[0]
        table.add_section()
        table.add_row(Text(folded(first.dataset, first.backbone, first.name), style="bold"))
        for name, n, cells in _lines(members, rows, keys):
            table.add_row(Text(folded(*name.split(": ", 1))), n, *(cell.stacked() for cell in cells))
    return table


def as_markdown(rows: Sequence[TableRow], asides: Sequence[Aside]) -> str:
    """The table, its notes and what is left out, as Markdown."""
    heads = ["data set", "backbone", "name", "model", "n", *_headings(rows, _columns(rows))]
    lines = ["# Comparison", "", _markdown(heads), _markdown(["---"] * 4 + ["---:"] * (len(heads) - 4))]
    for row in rows:
        for name, n, cells in _lines([row], rows, _columns(rows)):
            parts = ((cell.value, cell.deviation, cell.change and f"({cell.change})") for cell in cells)
            shown = (" ".join(filter(None, each)) for each in parts)
            lines.append(_markdown([row.dataset, row.backbone, row.name, name, n, *shown]))
    lines += ["", *(f"- {note}" for note in notes(rows))]
    if asides:
        lines += ["", "## Not in the table", "", _markdown(["folder", "reason"]), _markdown(["---", "---"])]
        lines += [_markdown([aside.folder, aside.reason]) for aside in asides]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[TableRow]) -> str:
    """One line a row: mean and deviation of each figure, and mean changes; empty where there is none."""
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "dataset": row.dataset,
            "backbone": row.backbone,
            "name": row.name,
            "model": row.model,
            "n": len(row.seeds),
            "seeds": " ".join(map(str, row.seeds)),
        }
        for key in COLUMNS:
            statistic = row.figures[key]
            record[key] = statistic and statistic.mean
            record[f"{key}_deviation"] = statistic and statistic.deviation
            for reference in (USUAL, UNPRUNED):
                change = row.changes.get(reference, {}).get(key)
                record[f"{key}_from_{reference}"] = change and change.mean
        record["batch"] = " ".join(map(str, row.batches))
        record["deployed_runtime"] = row.runtime
        record["latency_measured_on"] = "; ".join(map(_in_words, row.places))
        records.append({key: _harmless(cell) for key, cell in record.items()})
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def comparison_page(path: Path, rows: Sequence[TableRow], asides: Sequence[Aside]) -> None:
    """Write the table as one page without links, whole or not at all."""
    settings = [
        {"title": title, "lines": list(_lines(list(group), rows, _columns(rows)))}
        for title, group in groupby(rows, key=_setting)
    ]
    content = {
        "stage": "compare",
        "title": "Comparison of runs",
        "facts": [plural(len(settings), "setting"), f"{len(asides)} not in the table"],
        "headings": _headings(rows, _columns(rows)),
        "settings": settings,
        "asides": asides,
        "sentences": notes(rows),
    }
    write_page(path, "compare.html", content)


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `comparison.md`, `.csv`, `.html` and `.json`."""
    rows, asides = comparison.rows, comparison.asides
    write_text(folder / "comparison.md", as_markdown(rows, asides))
    write_text(folder / "comparison.csv", as_csv(rows))
    comparison_page(folder / "comparison.html", rows, asides)
    content = {
        "path": comparison.path,
        "runs": comparison.runs,
        "rows": [asdict(row) for row in rows],
        "not_in_table": [asdict(aside) for aside in asides],
        "notes": notes(rows),
    }
    write_json(folder / "comparison.json", content)


def notes(rows: Sequence[TableRow]) -> list[str]:
    """Sentences on what the figures of a table mean, and which ones cannot be compared."""
    lines = [
        "Mean ± standard deviation over n seeds (n − 1 in the denominator), same unit; – for one seed.",
        "Changes are means over the seeds, of accuracies in percentage points: from the conventional network "
        "of the same seed, and in the lines `from unpruned` from the unpruned one.",
        "Unpruned and pruned networks were timed in turn, and so were baseline, conventional, tuned ones and "
        "rivals; between these two measurements the load of the machine may have changed.",
    ]
    places = _numbered(rows)
    if len(places) == 1:
        lines.append(f"Latency: {_in_words(next(iter(places)))}.")
    else:
        named = "; ".join(f"{mark} {_in_words(place)}" for place, mark in places.items())
        lines.append(f"Latency was measured in different places and is compared within each: {named}.")
    if note := deployed_note(row.runtime for row in rows):
        lines.append(f"{note[0].upper()}{note[1:]}, for one sample.")
    if any(row.figures[key] is None for row in rows for key in LATENCIES[: 3 if row.runtime else 2]):
        lines.append(f"{MIXED}: the seeds were measured in different places or batches, so there is no mean.")
    lines += [
        f"The seeds of {_setting(row)}, {row.model}, had different samples."
        for row in rows
        if not row.same_samples
    ]
    return lines


def _lines(
    rows: Sequence[TableRow], table: Sequence[TableRow], keys: Sequence[str]
) -> Iterator[tuple[str, str, list[Cell]]]:
    """Name, n and cells of each row, and the extra line of a pruned one.

    Args:
        rows: some of a table's.
        table: all of them, of which places and runtimes are marked where they differ.
        keys: of the columns.
    """
    places, runtimes = _numbered(table), {row.runtime for row in table}
    for row in rows:
        cells = []
        for key in keys:
            column, statistic = COLUMNS[key], row.figures[key]
            mean, deviation, mark = MIXED, "", ""
            if key == "deployed_ms" and row.runtime is None:
                mean = MISSING
            elif statistic:
                mean = column.show(statistic.mean)
                deviation = f"± {numbers.spread(statistic.deviation, mean)}"
                mark = deployed_mark(row.runtime, runtimes) if key == "deployed_ms" else ""
            if key in LATENCIES and len(places) > 1 and mean != MISSING:
                mark += f" {''.join(places[place] for place in row.places)}"
            change = _changed(key, row.changes.get(USUAL, {}).get(key))
            cells.append(Cell(value=mean + mark, deviation=deviation, change=change))
        yield row.model, str(len(row.seeds)), cells
        if changes := row.changes.get(UNPRUNED):
            yield "from unpruned", "", [Cell(change=_changed(key, changes[key])) for key in keys]


def _changed(key: str, change: Statistic | None) -> str:
    if change is None:
        return ""
    reference = 0.0 if key.endswith("accuracy") else 1.0
    return COLUMNS[key].compare(reference + change.mean, reference)


def _headings(rows: Sequence[TableRow], keys: Sequence[str]) -> list[str]:
    return titles((batch for row in rows for batch in row.batches), keys)


def _columns(rows: Sequence[TableRow]) -> list[str]:
    """All columns, that of deployed forms only where some row has one."""
    return [key for key in COLUMNS if key != "deployed_ms" or any(row.runtime for row in rows)]


def _setting(row: TableRow) -> str:
    """Data set, backbone and name of a row."""
    return printable(f"{row.dataset}, {row.backbone}, {row.name}")


def _numbered(rows: Sequence[TableRow]) -> dict[Place, str]:
    """The places where the rows' latencies were measured, each with a number in brackets."""
    places = sorted({place for row in rows for place in row.places})
    return {place: f"[{number}]" for number, place in enumerate(places, start=1)}


def _in_words(place: Place) -> str:
    return f"{place.device}, {plural(place.threads, 'thread')}, {place.machine}"


def _markdown(cells: Sequence[str]) -> str:
    """A line of a table; in names neither `|` nor `<` has its meaning."""
    escaped = (re.sub(r"([|<])", r"\\\1", printable(cell)) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _harmless(cell: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(cell, str):
        return cell
    shown = printable(cell)
    # Spreadsheets skip blanks before a formula.
    return f"'{shown}" if shown.lstrip()[:1] in _FORMULAS else shown
