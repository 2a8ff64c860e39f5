"""Tables of models, widths and trials, for the terminal; the page takes its cells from here too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.report.numbers import (
    MISSING,
    change,
    count,
    decimal,
    duration,
    gap,
    milliseconds,
    percent,
    points,
    size,
)

TOO_FEW = "Too few different results to judge what the search learnt."
# Choices named on the terminal.
_MATTERED = 3


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
    table = _empty_table(title)
    table.add_column("model", style="bold")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=False)
    for name, cells in model_cells(models, columns):
        table.add_row(Text(name), *[_stacked(cell) for cell in cells])
    return table


def widths_table(before: Mapping[str, int], after: Mapping[str, int], title: str | None = None) -> Table:
    """Widths of the layers that changed; the caption counts those that did not.

    Args:
        before: output channels or features by layer name.
        after: the same after the change.
        title: heading of the table.
    """
    names = dict.fromkeys([*before, *after])
    changed = [name for name in names if before.get(name) != after.get(name)]
    table = _empty_table(title)
    table.add_column("layer")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for name in changed:
        old, new = before.get(name), after.get(name)
        table.add_row(Text(name), count(old), count(new), Text(change(new, old) or MISSING, style="dim"))
    if unchanged := len(names) - len(changed):
        table.caption = f"{unchanged} layer{'' if unchanged == 1 else 's'} as before"
        table.caption_justify = "left"
    return table


def layerwise_table(
    rows: Sequence[Mapping[str, Any]], chosen: int | None = None, title: str | None = None
) -> Table:
    """Accuracy by first trained block, from the output backwards.

    Args:
        rows: trial, block, name, trainable_params, val_accuracy and seconds of each trial.
        chosen: number of the trial whose depth was picked; its row is bold.
        title: heading of the table.
    """
    table = _empty_table(title)
    table.add_column("first\ntrained", justify="right")
    table.add_column("block")
    for heading in ("trainable\nparams", "val\nacc.", "time"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["block"]),
            Text(row["name"]),
            count(row["trainable_params"]),
            percent(row["val_accuracy"]),
            duration(row["seconds"]),
            style="bold" if row["trial"] == chosen else None,
        )
    return table


def front_table(
    rows: Sequence[Mapping[str, Any]], chosen: int | None = None, title: str | None = None
) -> Table:
    """The trials that no other one dominates, and how to fine-tune another than the chosen one.

    Args:
        rows: trial, val_accuracy, params and flops of each.
        chosen: number of the trial that was fine-tuned; its row is bold.
        title: heading of the table.
    """
    table = _empty_table(title)
    for heading in ("trial", "val acc.", "params", "FLOPs"):
        table.add_column(heading, justify="right")
    table.add_column("to fine-tune it")
    for row in rows:
        table.add_row(
            str(row["trial"]),
            percent(row["val_accuracy"]),
            count(row["params"]),
            count(row["flops"]),
            pick_options(row["trial"]),
            style="bold" if row["trial"] == chosen else None,
        )
    return table


def pick_options(trial: int) -> str:
    """What to add to the command of a finished search to fine-tune one of its trials."""
    return f"stage=tune tune.pick={trial}"


def insight_lines(insight: Mapping[str, Any] | None) -> list[str]:
    """What the search learnt, in sentences.

    Args:
        insight: of `tascnet.tuning.explain`, as a dict; None: too few trials.
    """
    if insight is None:
        return [TOO_FEW]
    figures = "; ".join(f"{label}: {value}" for label, value in insight_figures(insight))
    rises = [
        (row["choice"], gap(row["rise"], insight["target"], signed=True)) for row in insight["importance"]
    ]
    mattered = [f"{choice} {rise}" for choice, rise in rises[:_MATTERED] if rise.startswith("+")]
    lines = [insight["sentence"], f"{figures}."]
    if insight["learnt"] and mattered:
        lines.append(f"Rise of the leave-one-out error without a choice: {', '.join(mattered)}.")
    return lines


def insight_figures(insight: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of the surrogate's predictions, each with its label."""
    return [
        ("leave-one-out error (RMSE)", gap(insight["rmse"], insight["target"])),
        ("deviation of the values", gap(insight["deviation"], insight["target"])),
        ("R², leave-one-out", decimal(insight["r2"])),
        ("R², refitted", decimal(insight["refitted_r2"])),
        ("rank correlation, refitted", decimal(insight["refitted_rank_correlation"])),
    ]


def _empty_table(title: str | None) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )


def _cell(column: Column, record: Mapping[str, Any], reference: Mapping[str, Any]) -> Cell:
    value = record.get(column.key)
    return Cell(value=column.show(value), change=column.compare(value, reference.get(column.key)))


def _stacked(cell: Cell) -> Text:
    text = Text(cell.value)
    return text.append(f"\n{cell.change}", style="dim") if cell.change else text
