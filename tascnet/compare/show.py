"""The comparison as a table on the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.compare.records import FIGURES, LATENCIES, Aside, Place
from tascnet.compare.summary import Row, Statistic
from tascnet.report import numbers
from tascnet.words import plural

__all__ = ["as_csv", "as_markdown", "comparison_table", "notes"]

MIXED = "mixed"
# The reference of every row, and that of an extra line below a pruned network.
USUAL, UNPRUNED = "conventional", "unpruned"
# Of the terminal's column: the longest of the words in it.
_MODEL_WIDTH = len("reconstruction")
SHOW: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "val_accuracy": ("val acc.", numbers.percent),
    "test_accuracy": ("test acc.", numbers.percent),
    "params": ("params", numbers.count),
    "flops": ("FLOPs", numbers.count),
    "size_bytes": ("size", numbers.size),
    "latency_ms": ("latency batch 1", numbers.milliseconds),
    "latency_ms_batch": ("latency batch", numbers.milliseconds),
}


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A mean, its deviation and a change as texts; empty ones are not shown."""

    mean: str = ""
    deviation: str = ""
    change: str = ""


def notes(rows: Sequence[Row]) -> list[str]:
    """What the figures of a table mean, and where they must not be compared, in sentences."""
    lines = [
        "Mean ± standard deviation over n seeds (n − 1 in the denominator; – for one seed).",
        "Changes are from the conventional network of the same seed, in the lines `from unpruned` from the "
        "network that was pruned: means over the seeds, of accuracies in percentage points.",
        "Pruned and unpruned networks were timed side by side, and so were baseline, conventional and tuned; "
        "between the two the load of the machine may have changed.",
    ]
    places = _places(rows)
    told = [f"{mark} {_place(place)}" for place, mark in places.items()]
    if len(places) == 1:
        lines.append(f"Latency: {_place(next(iter(places)))}.")
    else:
        lines.append(
            f"Latency was measured in different places and is compared within one alone: {'; '.join(told)}."
        )
    if any(row.figures[key] is None for row in rows for key in LATENCIES):
        lines.append(f"{MIXED}: the seeds were measured in different places or batches, so there is no mean.")
    lines += [
        f"The seeds of {_title(row)}, {row.model}, had different samples."
        for row in rows
        if not row.same_samples
    ]
    return lines


def comparison_table(rows: Sequence[Row]) -> Table:
    """The table for the terminal: mean, deviation and change below each other."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("model", overflow="fold", min_width=_MODEL_WIDTH)
    table.add_column("n", justify="right")
    for title in _titles(rows):
        table.add_column(title.replace(" ", "\n", 1), justify="right")
    for _, group in groupby(rows, key=_title):
        members = list(group)
        first = members[0]
        table.add_section()
        table.add_row(Text("\n".join([first.dataset, first.backbone, first.name]), style="bold"))
        for name, n, cells in _lines(members, _places(rows)):
            table.add_row(Text(name.replace(": ", ":\n")), n, *map(_stacked, cells))
    return table


def as_markdown(rows: Sequence[Row], asides: Sequence[Aside]) -> str:
    """Table, notes and what does not take part, as Markdown."""
    heads = ["data set", "backbone", "name", "model", "n", *_titles(rows)]
    lines = [
        "# Comparison",
        "",
        _markdown_row(heads),
        _markdown_row(["---"] * 4 + ["---:"] * (len(heads) - 4)),
    ]
    for row in rows:
        for name, n, cells in _lines([row], _places(rows)):
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
    record["latency_measured_on"] = "; ".join(map(_place, row.places))
    return record


def _lines(rows: Sequence[Row], places: dict[Place, str]) -> Iterator[tuple[str, str, list[_Cell]]]:
    """Name, n and cells of each row, and the extra line of a pruned one."""
    for row in rows:
        reference = row.changes.get(USUAL, {})
        yield row.model, str(len(row.seeds)), [_cell(row, key, reference.get(key), places) for key in FIGURES]
        if UNPRUNED in row.changes:
            unpruned = row.changes[UNPRUNED]
            yield "from unpruned", "", [_Cell(change=_changed(key, unpruned[key])) for key in FIGURES]


def _cell(row: Row, key: str, change: Statistic | None, places: dict[Place, str]) -> _Cell:
    show, statistic = SHOW[key][1], row.figures[key]
    marks = [places[place] for place in row.places] if key in LATENCIES and len(places) > 1 else []
    mark = f" {''.join(marks)}" if marks else ""
    if statistic is None:
        return _Cell(mean=MIXED + mark, change=_changed(key, change))
    deviation = show(statistic.deviation).removesuffix(" ms").removesuffix(" %")
    return _Cell(mean=show(statistic.mean) + mark, deviation=f"± {deviation}", change=_changed(key, change))


def _changed(key: str, change: Statistic | None) -> str:
    if change is None:
        return ""
    if key.endswith("accuracy"):
        return numbers.points(change.mean, 0.0)
    return numbers.change(1 + change.mean, 1.0)


def _stacked(cell: _Cell) -> Text:
    text = Text(cell.mean)
    for part in (cell.deviation, cell.change):
        if part:
            text.append(f"\n{part}" if text.plain else part, style="dim")
    return text


def _inline(cell: _Cell) -> str:
    change = f"({cell.change})" if cell.change else ""
    return " ".join(part for part in (cell.mean, cell.deviation, change) if part)


def _titles(rows: Sequence[Row]) -> list[str]:
    batches = sorted({batch for row in rows for batch in row.batches})
    titles = {key: title for key, (title, _) in SHOW.items()}
    titles["latency_ms_batch"] += f" {'/'.join(map(str, batches))}"
    return list(titles.values())


def _title(row: Row) -> str:
    return f"{row.dataset}, {row.backbone}, {row.name}"


def _places(rows: Sequence[Row]) -> dict[Place, str]:
    """A letter in brackets for each place."""
    places = sorted({place for row in rows for place in row.places})
    return {place: f"[{number}]" for number, place in enumerate(places, start=1)}


def _place(place: Place) -> str:
    return f"{place.device}, {plural(place.threads, 'thread')}, {place.machine}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
