"""What `benchmark=methods` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from tascnet.report.numbers import count, duration, percent


def methods_table(
    summary: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any] | None, seconds: float
) -> Table:
    """Means over the seeds of each method, the best test accuracy first."""
    seeds = max(entry["seeds"] for entry in summary)
    table = Table(
        title=f"Methods within {duration(seconds)} each, means of {seeds} seed{'s' * (seeds > 1)}",
        caption=None if verdict is None else _caption(verdict),
        caption_justify="left",
        box=box.SIMPLE,
    )
    for name in ("method", "test acc.", "±", "val acc.", "params", "FLOPs", "time"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for entry in sorted(summary, key=lambda entry: -entry["test_accuracy"]):
        table.add_row(
            entry["method"],
            percent(entry["test_accuracy"]),
            f"{100 * entry['test_deviation']:.1f}",
            percent(entry["val_accuracy"]),
            count(entry["params"]),
            count(entry["flops"]),
            duration(entry["seconds"]),
        )
    return table


def _caption(verdict: Mapping[str, Any]) -> str:
    if verdict["behind"] <= 0:
        place = "the default has the best test accuracy"
    else:
        distance = "within" if verdict["is_within_one_deviation"] else "more than"
        behind = f"{100 * verdict['behind']:.1f} points behind {verdict['best']}"
        place = f"the default is {behind}, {distance} one of its deviations"
    return f"{place}; it has {percent(verdict['params_ratio'])} of the conventional network's params"
