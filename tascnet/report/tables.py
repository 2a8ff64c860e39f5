"""Tables of models and of widths, for the terminal; the page takes its cells from here too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.report.numbers import MISSING, change, count, milliseconds, percent, points, size

__all__ = ["Cell", "Column", "model_cells", "model_columns", "models_table", "width_rows", "widths_table"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of models.

    Args:
        key: of a model's record.
        title: heading.
        show: the value as text.
        compare: the change from the first model's value as text.
    """

    key: str
    title: str
    show: Callable[[Any], str]
    compare: Callable[[Any, Any], str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value and its change from the first model's, both as text; an empty change is not shown."""

    value: str
    change: str


def model_columns(models: Mapping[str, Mapping[str, Any]]) -> tuple[Column, ...]:
    """The columns in order; those for which no model has a value are left out."""
    batches = {record["batch"] for record in models.values() if record.get("batch")}
    many = f"latency\nbatch {batches.pop()}" if len(batches) == 1 else "latency\nbatch"
    columns = (
        Column(key="val_accuracy", title="val\nacc.", show=percent, compare=points),
        Column(key="test_accuracy", title="test\nacc.", show=percent, compare=points),
        Column(key="params", title="params", show=count, compare=change),
        Column(key="flops", title="FLOPs", show=count, compare=change),
        Column(key="size_bytes", title="size", show=size, compare=change),
        Column(key="latency_ms", title="latency\nbatch 1", show=milliseconds, compare=change),
        Column(key="latency_ms_batch", title=many, show=milliseconds, compare=change),
    )
    return tuple(c for c in columns if any(record.get(c.key) is not None for record in models.values()))


def model_cells(
    models: Mapping[str, Mapping[str, Any]], columns: Sequence[Column]
) -> list[tuple[str, list[Cell]]]:
    """For each model its name and one cell a column; the first model's cells have no change."""
    first = next(iter(models.values()), {})
    rows = []
    for name, record in models.items():
        reference = {} if record is first else first
        rows.append((name, [_cell(column, record, reference) for column in columns]))
    return rows


def models_table(models: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Table:
    """Accuracies, parameters, FLOPs, size and latencies of named models, each beside the first.

    Args:
        models: records of `metrics.json` by name; a missing value is shown as a dash.
        title: heading of the table.
    """
    columns = model_columns(models)
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    table.add_column("model", style="bold")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=False)
    for name, cells in model_cells(models, columns):
        table.add_row(Text(name), *[_stacked(cell) for cell in cells])
    return table


def width_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of layer, before and after; None for a layer that one side lacks."""
    names = dict.fromkeys([*before, *after])
    return [{"layer": name, "before": before.get(name), "after": after.get(name)} for name in names]


def widths_table(before: Mapping[str, int], after: Mapping[str, int], title: str | None = None) -> Table:
    """Widths of the layers that changed; the caption counts those that did not.

    Args:
        before: output channels or features by layer name.
        after: the same after the change.
        title: heading of the table.
    """
    rows = width_rows(before, after)
    changed = [row for row in rows if row["before"] != row["after"]]
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    table.add_column("layer")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for row in changed:
        table.add_row(
            Text(row["layer"]),
            count(row["before"]),
            count(row["after"]),
            Text(change(row["after"], row["before"]) or MISSING, style="dim"),
        )
    if unchanged := len(rows) - len(changed):
        table.caption = f"{unchanged} layer{'' if unchanged == 1 else 's'} as before"
        table.caption_justify = "left"
    return table


def _cell(column: Column, record: Mapping[str, Any], reference: Mapping[str, Any]) -> Cell:
    value = record.get(column.key)
    return Cell(value=column.show(value), change=column.compare(value, reference.get(column.key)))


def _stacked(cell: Cell) -> Text:
    text = Text(cell.value)
    return text.append(f"\n{cell.change}", style="dim") if cell.change else text
