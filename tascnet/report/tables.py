"""Tables of models, widths and trials; the pages take headings and cells from here too."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.numbers import MISSING, count, duration, percent
from tascnet.run.records import FreezingDepth, FrontPoint, LayerWidths, ModelMetrics


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of a model: its heading, and how a value and its change from a reference are shown."""

    title: str
    show: Callable[[Any], str]
    compare: Callable[[Any, Any], str]


# By the field of ModelMetrics.
COLUMNS = {
    "val_accuracy": Column(title="val acc.", show=percent, compare=numbers.points),
    "test_accuracy": Column(title="test acc.", show=percent, compare=numbers.points),
    "params": Column(title="params", show=count, compare=numbers.change),
    "flops": Column(title="FLOPs", show=count, compare=numbers.change),
    "size_bytes": Column(title="size", show=numbers.size, compare=numbers.change),
    "latency_ms": Column(title="latency batch 1", show=numbers.milliseconds, compare=numbers.change),
    "latency_ms_batch": Column(title="latency batch", show=numbers.milliseconds, compare=numbers.change),
}
# Those that a summary shows.
KEY_FIGURES = {
    "test_accuracy": "test accuracy",
    "params": "parameters",
    "flops": "FLOPs",
    "latency_ms": "latency, batch 1",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value, and its deviation and change in small print below; empty texts are not shown."""

    value: str = ""
    deviation: str = ""
    change: str = ""

    def stacked(self) -> Text:
        """Its parts one below the other, for the terminal."""
        text = Text(self.value)
        for part in (self.deviation, self.change):
            if part:
                text.append(f"\n{part}" if text.plain else part, style="dim")
        return text


def headings(batches: Iterable[int]) -> list[str]:
    """The headings of `COLUMNS`; the last one names the batches of the latencies."""
    *titles, last = (column.title for column in COLUMNS.values())
    return [*titles, f"{last} {'/'.join(map(str, sorted(set(batches))))}".rstrip()]


def model_cells(models: Mapping[str, ModelMetrics]) -> list[tuple[str, list[Cell]]]:
    """For each model its name and a cell for each column, with the change from the first model."""
    first = next(iter(models.values()), None)
    rows = []
    for name, model in models.items():
        cells = []
        for key, column in COLUMNS.items():
            value = getattr(model, key)
            change = "" if model is first else column.compare(value, getattr(first, key))
            cells.append(Cell(value=column.show(value), change=change))
        rows.append((name, cells))
    return rows


def models_table(models: Mapping[str, ModelMetrics], title: str | None = None) -> Table:
    """Accuracies, parameters, FLOPs, size and latencies of named models, each compared with the first."""
    table = _table(title)
    table.add_column("model", style="bold")
    for heading in headings(model.batch for model in models.values()):
        table.add_column(heading.replace(" ", "\n", 1), justify="right")
    for name, cells in model_cells(models):
        table.add_row(Text(name), *(cell.stacked() for cell in cells))
    return table


def models_text(models: Mapping[str, ModelMetrics]) -> str:
    """`models_table` as plain text, 80 columns wide."""
    text = StringIO()
    # In a notebook rich would show the table rather than write it.
    Console(file=text, width=80, color_system=None, force_jupyter=False).print(models_table(models))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def widths_table(widths: Sequence[LayerWidths]) -> Table:
    """Widths of the layers that changed; the caption counts the others."""
    table = _table()
    table.add_column("layer")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    changed = [row for row in widths if row.before != row.after]
    for row in changed:
        change = numbers.change(row.after, row.before) or MISSING
        table.add_row(Text(row.layer), count(row.before), count(row.after), Text(change, style="dim"))
    if unchanged := len(widths) - len(changed):
        table.caption = f"{plural(unchanged, 'layer')} unchanged"
        table.caption_justify = "left"
    return table


def layerwise_table(rows: Sequence[FreezingDepth], chosen: int) -> Table:
    """Accuracy by first trained block, from the output to the input; trial `chosen` is bold."""
    table = _table()
    table.add_column("first\ntrained", justify="right")
    table.add_column("block")
    for heading in ("trainable\nparams", "val\nacc.", "time"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (count(row.trainable_params), percent(row.val_accuracy), duration(row.seconds))
        style = "bold" if row.trial == chosen else None
        table.add_row(str(row.block), Text(row.name), *cells, style=style)
    return table


def front_table(rows: Sequence[FrontPoint], chosen: int) -> Table:
    """The trials that no other one dominates, with the option that fine-tunes each; `chosen` is bold."""
    table = _table()
    for heading in ("trial", "val acc.", "params", "FLOPs"):
        table.add_column(heading, justify="right")
    table.add_column("to fine-tune it")
    for row in rows:
        cells = (percent(row.val_accuracy), count(row.params), count(row.flops))
        style = "bold" if row.trial == chosen else None
        table.add_row(str(row.trial), *cells, f"pick={row.trial}", style=style)
    return table


def _table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
