"""Tables of models, classes, widths and trials; the pages take headings and cells from here too."""

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from typing import Any, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tascnet.errors import listed, plural, printable
from tascnet.measure.runtimes import NAMES
from tascnet.report import numbers
from tascnet.report.classes import FEW, class_rows, reference_of
from tascnet.report.numbers import MISSING, count, duration, percent
from tascnet.run.records import (
    INT8,
    FreezingDepth,
    FrontPoint,
    LayerWidths,
    ModelMetrics,
    StageMetrics,
    score,
)


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
    "test_balanced_accuracy": Column(title="balanced acc.", show=percent, compare=numbers.points),
    "params": Column(title="params", show=count, compare=numbers.change),
    "flops": Column(title="FLOPs", show=count, compare=numbers.change),
    "size_bytes": Column(title="size", show=numbers.size, compare=numbers.change),
    "latency_ms": Column(title="latency batch 1", show=numbers.milliseconds, compare=numbers.change),
    "latency_ms_batch": Column(title="latency batch", show=numbers.milliseconds, compare=numbers.change),
    "deployed_ms": Column(title="deployed batch 1", show=numbers.milliseconds, compare=numbers.change),
}
# Those that a summary shows, but for a balanced accuracy that says nothing new.
KEY_FIGURES = {
    "test_accuracy": "test accuracy",
    "test_balanced_accuracy": "balanced accuracy",
    "params": "parameters",
    "flops": "FLOPs",
    "latency_ms": "latency, batch 1",
    "deployed_ms": "deployed, batch 1",
}
# Runtimes where there is little room.
_SHORT = {
    **{"eager": "eager", "compile": "compiled", "openvino": "OpenVINO"},
    **{"onnxruntime": "ONNX", "onnxruntime_int8": "int8"},
}
# Of the metric on the validation samples.
_HEADINGS = {"accuracy": "val acc.", "balanced_accuracy": "balanced acc."}
# From this difference to the accuracy on, the balanced accuracy is worth a place where there are few.
_IMBALANCE = 0.02
# How many of many classes are shown on the terminal where none is lost; else as many as of few.
_WORST = 5
# Most characters of a class's name there.
_NAME = 16
# Of the column of models there: the longest usual word.
_MODEL_WIDTH = len("reconstruction")
NEVER_FOUND = "never found"


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


def headings(models: Iterable[ModelMetrics], keys: Collection[str] | None = None) -> list[str]:
    """The headings of some columns of a table of models; None: of all that the models have."""
    models = list(models)
    return titles((model.batch for model in models), columns_of(models) if keys is None else keys)


def titles(batches: Iterable[int], keys: Collection[str]) -> list[str]:
    """The titles of some columns, with the batches of the latencies, which beside deployed ones are eager."""
    found = {key: COLUMNS[key].title for key in keys}
    if "deployed_ms" in found:
        found = {key: title.replace("latency", "eager") for key, title in found.items()}
    if "latency_ms_batch" in found:
        found["latency_ms_batch"] += f" {'/'.join(map(str, sorted(set(batches))))}".rstrip()
    return list(found.values())


def columns_of(models: Iterable[ModelMetrics]) -> list[str]:
    """All columns; that of the deployed form only where some model was measured in one."""
    has_deployed = any(model.deployed for model in models)
    return [key for key in COLUMNS if key != "deployed_ms" or has_deployed]


def value_of(model: ModelMetrics, key: str) -> float | None:
    """The value of a column; None where the model was not measured so."""
    if key.startswith("latency_ms") and model.latency("eager") is None:
        return None
    return cast(float | None, getattr(model, key))


def deployed_mark(runtime: str | None, runtimes: Collection[str | None]) -> str:
    """What stands behind a latency in a runtime where those of other rows are in other `runtimes`.

    That of an int8 file is in the name of its row.
    """
    is_marked = runtime not in (None, INT8) and len({*runtimes} - {None, INT8}) > 1
    return f" {_SHORT[runtime]}" if runtime and is_marked else ""


def deployed_note(runtimes: Iterable[str | None]) -> str:
    """What the column of deployed forms shows where rows have these runtimes; empty without any."""
    found = [runtime for runtime in dict.fromkeys(runtimes) if runtime]
    names = [NAMES[runtime] for runtime in found if runtime != INT8 or len(found) == 1]
    if not names:
        return ""
    where = names[0] if len(names) == 1 else f"the fastest of {listed(names, 'and')}"
    own = f"; int8 in {NAMES[INT8]}" if INT8 in found and len(found) > 1 else ""
    return f"deployed: exported, in {where}{own}"


def runtime_of(model: ModelMetrics) -> str | None:
    """The runtime of the deployed form; None where none was measured."""
    return model.deployed.runtime if model.deployed else None


def folded(*parts: str) -> str:
    """Each part on lines of its own, so that a long name does not squeeze other columns."""
    return "\n".join(line for part in parts for line in textwrap.wrap(printable(part), _MODEL_WIDTH))


def narrow_columns(
    accuracies: Iterable[tuple[float, float]], metric: str = "accuracy", *, has_deployed: bool = False
) -> list[str]:
    """The columns that fit 80 characters.

    Of size and balanced accuracy it is the one that says more; the deployed form takes the place of batches.

    Args:
        accuracies: test accuracy and balanced accuracy of each model.
        metric: what decided which network is the best.
        has_deployed: whether some model was measured in a runtime of exported files.
    """
    is_shown = metric == "balanced_accuracy" or any(map(differ, accuracies))
    left_out = {
        "size_bytes" if is_shown else "test_balanced_accuracy",
        "latency_ms_batch" if has_deployed else "deployed_ms",
    }
    return [key for key in COLUMNS if key not in left_out]


def differ(accuracies: tuple[float, float]) -> bool:
    """Whether test accuracy and balanced accuracy are so different that both are worth showing."""
    return abs(accuracies[0] - accuracies[1]) >= _IMBALANCE


def key_figures(models: Mapping[str, ModelMetrics], metric: str = "accuracy") -> dict[str, str]:
    """The titles of the figures that a summary of these models shows, by the keys of `COLUMNS`."""
    keys = _narrow_keys(models, metric)
    found = {key: KEY_FIGURES[key] for key in keys if key in KEY_FIGURES}
    if "deployed_ms" in found:
        found["latency_ms"] = found["latency_ms"].replace("latency", "eager")
    return found


def model_cells(
    models: Mapping[str, ModelMetrics], keys: Sequence[str] | None = None, against: str | None = None
) -> list[tuple[str, list[Cell]]]:
    """For each model its name and a cell for each column, with the change from another model.

    Args:
        models: by name.
        keys: of the columns; None: of all that the models have.
        against: from which model changes are shown; None: the first.
    """
    first, keys = next(iter(models.values()), None), keys or columns_of(models.values())
    first = first if against is None else models[against]
    runtimes = {runtime_of(model) for model in models.values()}
    rows = []
    for name, model in models.items():
        cells = []
        for key in keys:
            column, value = COLUMNS[key], value_of(model, key)
            mark = deployed_mark(runtime_of(model), runtimes) if key == "deployed_ms" else ""
            change = "" if first is None or model is first else column.compare(value, value_of(first, key))
            cells.append(Cell(value=column.show(value) + mark, change=change))
        rows.append((name, cells))
    return rows


def models_table(
    models: Mapping[str, ModelMetrics],
    title: str | None = None,
    metric: str = "accuracy",
    against: str | None = None,
) -> Table:
    """Accuracies, parameters, FLOPs, size and latencies of named models, each compared with another one.

    Where the classes fare differently or it is the metric, the balanced accuracy takes the place of the size.

    Args:
        models: by name.
        title: above it.
        metric: what decided which network is the best.
        against: with which model the others are compared; None: the first.
    """
    keys = _narrow_keys(models, metric)
    table = _table(title)
    table.add_column("model", style="bold")
    for heading in headings(models.values(), keys):
        table.add_column(heading.replace(" ", "\n", 1), justify="right")
    for name, cells in model_cells(models, keys, against):
        table.add_row(Text(folded(name)), *(cell.stacked() for cell in cells))
    is_said = against is not None and against != next(iter(models))
    notes = [f"changes: from {printable(against or '')}"] if is_said else []
    runtimes = [runtime_of(model) for model in models.values()]
    notes += [note] if (note := deployed_note(runtimes)) else []
    if "size_bytes" in keys and INT8 in runtimes and len({*runtimes}) > 1:
        notes.append("size: of the weights; of int8: of the ONNX file")
    table.caption, table.caption_justify = "\n".join(notes) or None, "left"
    return table


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """Latencies of one model in several runtimes.

    Args:
        batch: samples in a pass.
        threads: CPU threads.
        name: of the model.
        times: milliseconds by runtime; None where it was not measured.
    """

    batch: int
    threads: int
    name: str
    times: Mapping[str, float | None]

    @property
    def is_only_timed(self) -> bool:
        """Whether the time in int8 is that of a network whose accuracy is known in float."""
        return self.times.get(INT8) is not None and any(
            ms is not None for runtime, ms in self.times.items() if runtime != INT8
        )

    @property
    def fastest(self) -> str | None:
        """The runtime in which it is fastest with the accuracy that it is known to have."""
        found = {
            runtime: ms
            for runtime, ms in self.times.items()
            if ms is not None and not (runtime == INT8 and self.is_only_timed)
        }
        return min(found, key=lambda runtime: found[runtime], default=None)


def latency_rows(models: Mapping[str, ModelMetrics]) -> list[LatencyRow]:
    """A row for each batch, number of threads and model, in this order, with a time for each runtime."""
    found = [one for model in models.values() for one in model.latencies]
    runtimes = dict.fromkeys(one.runtime for one in found)
    counts = sorted({one.threads for one in found}, reverse=True)
    rows = []
    for key in ("latency_ms", "latency_ms_batch"):
        for threads in counts:
            for name, model in models.items():
                measured = {runtime: model.latency(runtime, threads) for runtime in runtimes}
                times = {runtime: getattr(one, key) if one else None for runtime, one in measured.items()}
                if any(times.values()):
                    batch = 1 if key == "latency_ms" else model.batch
                    rows.append(LatencyRow(batch=batch, threads=threads, name=name, times=times))
    return rows


def latency_table(models: Mapping[str, ModelMetrics], title: str | None = None) -> Table:
    """The latency of every model in each runtime, batch and number of threads; each row's fastest is bold."""
    rows = latency_rows(models)
    table = _table(title)
    table.add_column("latency")
    for runtime in rows[0].times if rows else ():
        table.add_column(NAMES[runtime].replace(" ", "\n", 1), justify="right")
    for (batch, threads), members in groupby(rows, key=lambda row: (row.batch, row.threads)):
        table.add_section()
        table.add_row(Text(f"batch {batch}\n{plural(threads, 'thread')}", style="dim"))
        for row in members:
            dim = {INT8} if row.is_only_timed else set()
            cells = (
                Text(
                    numbers.milliseconds(ms),
                    style="bold" if runtime == row.fastest else "dim" if runtime in dim else "",
                )
                for runtime, ms in row.times.items()
            )
            table.add_row(Text(folded(row.name)), *cells)
    table.caption, table.caption_justify = int8_note(rows) or None, "left"
    return table


def int8_note(rows: Iterable[LatencyRow]) -> str:
    """What an int8 latency in the row of a float network is; empty without any."""
    if not any(row.is_only_timed for row in rows):
        return ""
    return "int8 in the row of a float network: the time alone, its accuracy was not judged"


def models_text(models: Mapping[str, ModelMetrics]) -> str:
    """`models_table` as plain text, 80 columns wide."""
    text = StringIO()
    # In a notebook rich would show the table rather than write it.
    Console(file=text, width=80, color_system=None, force_jupyter=False).print(models_table(models))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def classes_table(metrics: StageMetrics) -> Table:
    """How well the handed-over network finds each class, the worst first; of many classes the worst alone."""
    rows = class_rows(metrics)
    shown = rows[: FEW if len(rows) <= FEW or rows[0].result.is_lost else _WORST]
    table = _table("after, by class, on the test samples")
    table.add_column("class")
    for heading in ("train", "test", "recall", "precision", "F1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("most often\ntaken for")
    for row in shown:
        own, pair, taken = row.result, row.mistaken, ""
        if pair:
            times = f" ({pair.count})"
            taken = printable(pair.predicted, most=_NAME - len(times)) + times
        shares = [percent(share) if own.samples else MISSING for share in (own.recall, own.precision, own.f1)]
        table.add_row(
            Text(printable(own.name, most=_NAME)),
            count(row.counts.train),
            count(row.counts.test),
            *([NEVER_FOUND, *shares[1:]] if own.is_lost else shares),
            Text(taken),
            style="bold red" if own.is_lost else None,
        )
    hidden = len(rows) - len(shown)
    table.caption, table.caption_justify = f"and {plural(hidden, 'other')}" if hidden > 0 else None, "left"
    return table


def stage_tables(metrics: StageMetrics) -> list[Table]:
    """What the terminal shows of every stage: the models and the classes."""
    models = models_table(metrics.models, metric=metrics.metric, against=reference_of(metrics))
    return [models, classes_table(metrics)]


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


def layerwise_table(rows: Sequence[FreezingDepth], chosen: int, metric: str = "accuracy") -> Table:
    """The metric by first trained block, from the output to the input; trial `chosen` is bold."""
    table = _table()
    table.add_column("first\ntrained", justify="right")
    table.add_column("block")
    for heading in ("trainable\nparams", _HEADINGS[metric].replace(" ", "\n"), "time"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (count(row.trainable_params), percent(score(row, metric)), duration(row.seconds))
        style = "bold" if row.trial == chosen else None
        table.add_row(str(row.block), Text(row.name), *cells, style=style)
    return table


def front_table(rows: Sequence[FrontPoint], chosen: int, metric: str = "accuracy") -> Table:
    """The trials that no other one dominates, with the option that fine-tunes each; `chosen` is bold."""
    table = _table()
    for heading in ("trial", _HEADINGS[metric], "params", "FLOPs"):
        table.add_column(heading, justify="right")
    table.add_column("to fine-tune it")
    for row in rows:
        cells = (percent(row.value), count(row.params), count(row.flops))
        style = "bold" if row.trial == chosen else None
        table.add_row(str(row.trial), *cells, f"pick={row.trial}", style=style)
    return table


def _narrow_keys(models: Mapping[str, ModelMetrics], metric: str) -> list[str]:
    accuracies = ((model.test_accuracy, model.test_balanced_accuracy) for model in models.values())
    has_deployed = "deployed_ms" in columns_of(models.values())
    return narrow_columns(accuracies, metric, has_deployed=has_deployed)


def _table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
