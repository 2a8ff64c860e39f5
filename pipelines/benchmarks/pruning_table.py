"""What `benchmark=pruning` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from tascnet.report.numbers import MISSING, count, percent

Row = Mapping[str, Any]

_TITLES = {"cut": "The cut alone, without training", "full": "The whole schedule, {epochs} epochs in all"}


def pruning_tables(
    summary: Sequence[Row], verdicts: Mapping[str, Mapping[str, Sequence[Row]]], epochs: int
) -> list[Table]:
    """A table of the cut alone and one of the whole schedule, means over the seeds."""
    return [_table(kind, summary, verdicts[kind], epochs) for kind in _TITLES]


def _table(kind: str, summary: Sequence[Row], verdict: Mapping[str, Sequence[Row]], epochs: int) -> Table:
    own = [entry for entry in summary if entry["kind"] == kind]
    seeds = max((entry["seeds"] for entry in own), default=0)
    title = _TITLES[kind].format(epochs=epochs)
    table = Table(
        title=f"{title}; means of {seeds} seed{'s' * (seeds != 1)}",
        caption="\n".join(_sentence(method, entries) for method, entries in verdict.items()),
        caption_justify="left",
        box=box.SIMPLE,
    )
    for name in (
        "FLOPs",
        "method",
        "test\nacc.",
        "±",
        "val\nacc.",
        "params",
        "time\nof 1",
        "time of\na batch",
    ):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for entry in own:
        table.add_row(
            f"{entry['flops_ratio']:.3f}",
            "\n".join(filter(None, (entry["method"], entry["variant"]))),
            percent(entry["test_accuracy"]),
            _points(entry["test_accuracy_error"]),
            percent(entry["val_accuracy"]),
            count(round(entry["params"])),
            f"{entry['latency_ratio']:.2f}",
            f"{entry['latency_ratio_batch']:.2f}",
        )
    return table


def _sentence(method: str, entries: Sequence[Row]) -> str:
    """The paired differences in points of test accuracy."""
    told = [
        f"{100 * entry['difference']:+.1f} ± {_points(entry['error'])} "
        + ("over all" if entry["budget"] is None else f"at {entry['budget']:g} ({entry['rival']})")
        for entry in entries
    ]
    return f"{method} against the better of torch-pruning's, in points: {', '.join(told)}"


def _points(error: float | None) -> str:
    """A standard error in points; a single seed has none."""
    return MISSING if error is None else f"{100 * error:.1f}"
