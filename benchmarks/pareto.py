"""Fronts and bounded searches against random search at equal trials, on tables of trained networks.

`pareto`: the hypervolume that the trials dominate in accuracy and FLOPs, as a share of that of the whole
table; it counts what improves on the pre-trained network with its new softmax layer. `constrained`: the best
accuracy of networks with at most 0.7 of that network's FLOPs; random search draws feasible ones alone.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from rich.table import Table as Printed

from benchmarks import common, search_quality
from benchmarks.common import Row, check_names, collect, grouped, mean, new_table, points, standard_error
from benchmarks.searchers import Design, Ours, Searcher, explore
from benchmarks.table import Entry, Table, load_table
from tascnet.report.numbers import MISSING, percent
from tascnet.train.setting import computing
from tascnet.tuning import Cost, Goal, KnownCosts

# Share of the original's FLOPs that `constrained` allows.
SHARE = 0.7
# What each goal is judged by.
GOALS = {"pareto": "hypervolume, %", "constrained": "regret, points"}
METHODS = ("ours", "random")

# Validation accuracy and FLOPs.
Point = tuple[float, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    search_quality.add_arguments(parser, METHODS)


def run(args: argparse.Namespace) -> None:
    """Compare the searches: one row for each table, goal, seed and method."""
    check_names("search", args.methods, METHODS)
    folder = common.open_results(args)
    keys: list[Row] = [
        {"table": table, "goal": goal, "method": method, "seed": seed, "trials": args.trials}
        for table in args.tables
        for goal in GOALS
        for seed in range(args.seeds)
        for method in args.methods
    ]
    with computing("cpu", args.threads):
        rows = collect(folder, keys, search, "searches", executor=common.side_by_side(args))
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _printed(summary))


def search(key: Row) -> Row:
    """One whole search, of a `table` for a `goal` by a `method` with a `seed` and so many `trials`.

    Returns:
        `value`: for `pareto` the share of the table's hypervolume, for `constrained` the regret against the
        best feasible accuracy; and how many `infeasible` networks were evaluated.
    """
    table = _table(key["table"])
    goal = _goal(table, key["goal"])
    seen = list(explore(lambda folder: _searcher(table, goal, key, folder), table, key["trials"]))
    entries = [one.entry for one in seen]
    infeasible = sum(not goal.is_feasible(one.config) for one in seen)
    if key["goal"] == "pareto":
        original = _point(table[table.space.neutral()])
        found, whole = (
            hypervolume(map(_point, part), original) for part in (entries, table.entries.values())
        )
        return {"value": found / whole, "infeasible": infeasible}
    best = max(table[config].val_accuracy for config in table.configs if goal.is_feasible(config))
    return {"value": best - max(entry.val_accuracy for entry in entries), "infeasible": infeasible}


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area that points dominate, of accuracy above and FLOPs below the reference's."""
    floor, ceiling = reference
    area, top = 0.0, floor
    for accuracy, flops in sorted(points, key=lambda point: (point[1], -point[0])):
        if accuracy > top and flops < ceiling:
            area += (accuracy - top) * (ceiling - flops)
            top = accuracy
    return area


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each table, goal and method: mean `value`, its `error`, infeasible trials in all.

    `better`: the share of seeds at which the value is better than random search's.
    """
    random = {(r["table"], r["goal"], r["seed"]): r["value"] for r in rows if r["method"] == "random"}
    summary: list[Row] = []
    for (table, goal, method), own in grouped(rows, "table", "goal", "method").items():
        sign = 1 if goal == "pareto" else -1
        gains = [sign * (r["value"] - random[table, goal, r["seed"]]) for r in own if random]
        summary.append(
            {
                "table": table,
                "goal": goal,
                "method": method,
                "seeds": len(own),
                "value": mean(own, "value"),
                "error": standard_error([r["value"] for r in own]),
                "better": statistics.fmean(gain > 0 for gain in gains) if gains else None,
                "infeasible": sum(r["infeasible"] for r in own),
            }
        )
    return summary


_table = cache(load_table)


def _goal(table: Table, name: str) -> Goal:
    cost = KnownCosts(lambda config: Cost(params=table[config].params, flops=table[config].flops))
    original = table[table.space.neutral()]
    if name == "pareto":
        return Goal(objective="pareto", cost=cost, pareto_cost="flops", reference=_point(original))
    return Goal(cost=cost, max_flops=int(SHARE * original.flops))


def _searcher(table: Table, goal: Goal, key: Row, folder: Path) -> Searcher:
    if key["method"] == "ours":
        return Ours(table, key["seed"], folder, goal)
    drawn = table.space.sample(len(table.configs), table.space.depth, key["seed"], method="random")
    return Design(list(islice(filter(goal.is_feasible, drawn), key["trials"])))


def _point(entry: Entry) -> Point:
    return entry.val_accuracy, entry.flops


def _printed(summary: Sequence[Row]) -> Printed:
    numbers = ["value", "beats\nrandom", "infeasible\ntrials"]
    printed = new_table("Searches with a cost", ["table", "figure", "search"], numbers)
    for row in summary:
        value = f"{points(row['value'], 2)} ± {points(row['error'], 2)}"
        better = MISSING if row["method"] == "random" else percent(row["better"])
        names = row["table"], GOALS[row["goal"]], row["method"]
        printed.add_row(*names, value, better, str(row["infeasible"]))
    return printed
