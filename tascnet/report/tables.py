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
    """One figure of a model.

    Args:
        title: heading.
        show: a value as text.
        compare: its change from a reference as text.
    """

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
    """A value and what stands small below it, as texts; empty ones are not shown."""

    value: str = ""
    deviation: str = ""
    change: str = ""

    def stacked(self) -> Text:
        """Its parts below each other, for the terminal."""
        text = Text(self.value)
        for part in (self.deviation, self.change):
            if part:
                text.append(f"\n{part}" if text.plain else part, style="dim")
        return text


def headings(batches: Iterable[int]) -> list[str]:
    """Headings of `COLUMNS`; the last one names the batches that latencies were measured with."""
    *titles, last = (column.title for column in COLUMNS.values())
    return [*titles, f"{last} {'/'.join(map(str, sorted(set(batches))))}".rstrip()]


def model_cells(models: Mapping[str, ModelMetrics]) -> list[tuple[str, list[Cell]]]:
    """For each model its name and one cell a column, with the change from the first model."""
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


def widths_table(widths: Sequence[LayerWidths], title: str | None = None) -> Table:
    """Widths of the layers that changed; the caption counts the others."""
    changed = [row for row in widths if row.before != row.after]
    table = _table(title)
    table.add_column("layer")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for row in changed:
        change = numbers.change(row.after, row.before) or MISSING
        table.add_row(Text(row.layer), count(row.before), count(row.after), Text(change, style="dim"))
    if unchanged := len(widths) - len(changed):
        table.caption = f"{plural(unchanged, 'layer')} unchanged"
        table.caption_justify = "left"
    return table


def layerwise_table(
    rows: Sequence[FreezingDepth], chosen: int | None = None, title: str | None = None
) -> Table:
    """Accuracy by first trained block, from the output to the input.

    Args:
        rows: one a trial.
        chosen: number of the winning trial; its row is bold.
        title: heading of the table.
    """
    table = _table(title)
    table.add_column("first\ntrained", justify="right")
    table.add_column("block")
    for heading in ("trainable\nparams", "val\nacc.", "time"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.block),
            Text(row.name),
            count(row.trainable_params),
            percent(row.val_accuracy),
            duration(row.seconds),
            style="bold" if row.trial == chosen else None,
        )
    return table


def front_table(rows: Sequence[FrontPoint], chosen: int | None = None, title: str | None = None) -> Table:
    """The trials that no other one dominates, with the option that fine-tunes each.

    Args:
        rows: one a trial.
        chosen: number of the trial that was fine-tuned; its row is bold.
        title: heading of the table.
    """
    table = _table(title)
    for heading in ("trial", "val acc.", "params", "FLOPs"):
        table.add_column(heading, justify="right")
    table.add_column("to fine-tune it")
    for row in rows:
        table.add_row(
            str(row.trial),
            percent(row.val_accuracy),
            count(row.params),
            count(row.flops),
            f"pick={row.trial}",
            style="bold" if row.trial == chosen else None,
        )
    return table


def _table(title: str | None) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
