"""Searches with a cost, against random search at equal trials, on tables measured once.

`pareto`: the hypervolume that the trials dominate in accuracy and FLOPs, as a share of that of the whole
table; it counts what improves on the pre-trained network with its new softmax layer. `constrained`: the best
accuracy of networks with at most 0.7 of that network's FLOPs; random search draws feasible ones alone.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich import box
from rich.table import Table as Printed

from tascnet.options import Config
from tascnet.run.console import output
from tascnet.tuning import Configuration, Cost, Goal

from .figures import check_names, standard_error
from .journal import Row, benchmark_folder, collect, write_metrics
from .searchers import Design, Ours, Searcher
from .table import Entry, Table, load_table

# Share of the original's FLOPs that `constrained` allows.
SHARE = 0.7
GOALS = ("pareto", "constrained")
METHODS = ("ours", "random")

# Validation accuracy and FLOPs.
Point = tuple[float, int]


def run(config: Config) -> None:
    """Compare, print the tables and write `outputs/benchmark/pareto/metrics.json`.

    One row for each table, goal, seed and method is journalled.

    Raises:
        ConfigError: there is no such method or table.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options = config.benchmark
    check_names("search", options.methods, METHODS)
    folder = benchmark_folder(config)
    keys = [
        {"table": table, "goal": goal, "method": method, "seed": seed, "trials": options.trials}
        for table in options.tables
        for goal in GOALS
        for seed in range(options.seeds)
        for method in options.methods
    ]
    rows = collect(folder, keys, search, "searches")
    summary = summarise(rows)
    write_metrics(folder, rows, summary)
    output().print(_printed(summary))


def search(key: Row) -> Row:
    """One whole search.

    Args:
        key: `table`, `goal`, `method`, `seed` and `trials`.

    Returns:
        `value`: for `pareto` the share of the table's hypervolume, for `constrained` the regret against the
        best feasible accuracy; and how many `infeasible` networks were evaluated.
    """
    table = _table(key["table"])
    goal = _goal(table, key["goal"])
    entries, infeasible = [], 0
    with TemporaryDirectory() as folder:
        searcher = _searcher(table, goal, key, Path(folder))
        for _ in range(key["trials"]):
            config = searcher.ask()
            infeasible += not goal.is_feasible(config)
            entries.append(table[config])
            searcher.tell(config, entries[-1])
    if key["goal"] == "pareto":
        return {"value": _share(table, entries), "infeasible": infeasible}
    feasible = (config for config in table.configs if goal.is_feasible(config))
    best = max(table[config].val_accuracy for config in feasible)
    return {"value": best - max(entry.val_accuracy for entry in entries), "infeasible": infeasible}


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area that points dominate, of accuracy above and FLOPs below the reference's.

    Args:
        points: accuracies and FLOPs.
        reference: only what has a higher accuracy and fewer FLOPs counts.
    """
    floor, ceiling = reference
    area, top = 0.0, floor
    for accuracy, flops in sorted(points, key=lambda point: (point[1], -point[0])):
        if accuracy > top and flops < ceiling:
            area += (accuracy - top) * (ceiling - flops)
            top = accuracy
    return area


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each table, goal and method: mean `value`, its `error`, infeasible trials in all.

    `better`: the share of seeds at which the value is better than random search's.
    """
    random = {(r["table"], r["goal"], r["seed"]): r["value"] for r in rows if r["method"] == "random"}
    summary = []
    for table, goal, method in dict.fromkeys((r["table"], r["goal"], r["method"]) for r in rows):
        own = [r for r in rows if (r["table"], r["goal"], r["method"]) == (table, goal, method)]
        sign = 1 if goal == "pareto" else -1
        gains = [sign * (r["value"] - random[table, goal, r["seed"]]) for r in own if random]
        summary.append(
            {
                "table": table,
                "goal": goal,
                "method": method,
                "seeds": len(own),
                "value": statistics.fmean(r["value"] for r in own),
                "error": standard_error([r["value"] for r in own]),
                "better": statistics.fmean(gain > 0 for gain in gains) if gains else None,
                "infeasible": sum(r["infeasible"] for r in own),
            }
        )
    return summary


_table = cache(load_table)


def _goal(table: Table, name: str) -> Goal:
    def cost(config: Configuration) -> Cost:
        entry = table[config]
        return Cost(params=entry.params, flops=entry.flops)

    if name == "pareto":
        original = _point(_original(table))
        return Goal(objective="pareto", cost=cost, pareto_cost="flops", reference=original)
    return Goal(objective="constrained", cost=cost, max_flops=int(SHARE * _original(table).flops))


def _original(table: Table) -> Entry:
    return table[table.space.neutral()]


def _searcher(table: Table, goal: Goal, key: Row, folder: Path) -> Searcher:
    if key["method"] == "ours":
        return Ours(table, key["seed"], folder, goal)
    drawn = table.space.sample(len(table.configs), table.space.depth, key["seed"], method="random")
    return Design(list(islice(filter(goal.is_feasible, drawn), key["trials"])))


def _share(table: Table, entries: Iterable[Entry]) -> float:
    """The hypervolume of some networks, as a share of that of all."""
    original = _point(_original(table))
    return hypervolume(map(_point, entries), original) / hypervolume(
        map(_point, table.entries.values()), original
    )


def _point(entry: Entry) -> Point:
    return entry.val_accuracy, entry.flops


_UNITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "pareto": ("share of the hypervolume", lambda value: f"{value:.3f}"),
    "constrained": ("regret, points", lambda value: f"{100 * value:.2f}"),
}


def _printed(summary: Sequence[dict[str, Any]]) -> Printed:
    printed = Printed(title="Searches with a cost", box=box.SIMPLE)
    for name in ("table", "goal", "search", "figure", "value", "better than random", "infeasible trials"):
        printed.add_column(name, justify="left" if name in ("table", "goal", "search", "figure") else "right")
    for row in summary:
        figure, shown = _UNITS[row["goal"]]
        value = f"{shown(row['value'])} ± {shown(row['error'])}"
        better = "–" if row["better"] is None or row["method"] == "random" else f"{100 * row['better']:.0f} %"
        printed.add_row(
            row["table"], row["goal"], row["method"], figure, value, better, str(row["infeasible"])
        )
    return printed
