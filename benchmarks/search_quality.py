"""Regret of our search and of random, Sobol, Optuna, Ax and HEBO on tables of trained networks.

Simple regret is the best accuracy in the table less the best that the search has seen. Every search gets
the whole space from its first trial on; `ours_growing` is our own with the depth growing as in stage `tune`;
`ours_promoted` stops hopeless trials as it does; `plain_gp` is a Gaussian process of BoTorch over all rows;
`random` draws choices and `uniform` networks. With `--epochs` the regret is reported after as many epochs as
so many whole trials have, and a stopped trial costs its own; it is not among what the search has seen.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import cache

from rich.table import Table as Printed

from benchmarks import common
from benchmarks.common import Row, check_names, collect, grouped, mean, new_table, points, standard_error
from benchmarks.peers import AxSearch, HeboSearch, OptunaSearch, installed
from benchmarks.searchers import Design, Ours, PlainGP, Start, explore
from benchmarks.table import Table, load_table, table_names
from tascnet.errors import ConfigError
from tascnet.train.setting import computing

METHODS: dict[str, Start] = {
    "ours": lambda table, seed, trials, folder: Ours(table, seed, folder),
    "ours_growing": lambda table, seed, trials, folder: Ours.growing(table, seed, trials, folder),
    "ours_promoted": lambda table, seed, trials, folder: Ours(table, seed, folder, promote=True),
    "plain_gp": lambda table, seed, trials, folder: PlainGP(table, seed),
    "random": lambda table, seed, trials, folder: Design.drawn(table, seed, trials, "random"),
    "uniform": lambda table, seed, trials, folder: Design.uniform(table, seed, trials),
    "sobol": lambda table, seed, trials, folder: Design.drawn(table, seed, trials, "sobol"),
    "optuna_tpe": lambda table, seed, trials, folder: OptunaSearch(table, seed, "tpe"),
    "optuna_gp": lambda table, seed, trials, folder: OptunaSearch(table, seed, "gp"),
    "ax": lambda table, seed, trials, folder: AxSearch(table.space, seed),
    "hebo": lambda table, seed, trials, folder: HeboSearch(table, seed),
}
NEEDS = {"optuna_tpe": "optuna", "optuna_gp": "optuna", "ax": "ax", "hebo": "hebo"}
# Regret is reported after every so many trials.
STEP = 5


def add_arguments(parser: argparse.ArgumentParser, methods: Sequence[str] = tuple(METHODS)) -> None:
    common.add_arguments(parser, seeds=30)
    parser.add_argument("--jobs", type=common.count, default=1, help="searches at a time, on Ray")
    parser.add_argument("--trials", type=common.count, default=25, help="trials of a search")
    parser.add_argument("--tables", nargs="+", default=table_names(), help="tables that are searched")
    parser.add_argument("--epochs", action="store_true", help="count epochs, on tables that have curves")
    parser.add_argument("--methods", nargs="+", default=list(methods), help="searches that are compared")


def run(args: argparse.Namespace) -> None:
    """Compare the searches: one row for each table, seed and method."""
    check_names("search", args.methods, METHODS)
    folder, methods = common.open_results(args), installed(args.methods, NEEDS)
    keys: list[Row] = [
        {"table": table, "method": method, "seed": seed, "trials": args.trials, "epochs": args.epochs}
        for table in args.tables
        for seed in range(args.seeds)
        for method in methods
    ]
    for table in args.tables if args.epochs else ():
        if not _whole(_table(table)):
            raise ConfigError(f"the table {table} has no curves", "leave out --epochs, or this table")
    with computing("cpu", args.threads):
        rows = collect(folder, keys, search, "searches", executor=common.side_by_side(args))
    summary = summarise(rows)
    tables = [_printed(name, own) for (name,), own in grouped(summary, "table").items()]
    common.report(args, folder, rows, summary, *tables)


def search(key: Row) -> Row:
    """One whole search, of a `table` by a `method` with a `seed` and so many `trials`, or their `epochs`.

    Returns:
        The `accuracies` that it saw in turn, None of stopped trials; the `spent` share of a whole training up
        to each of them; the table's `best`, how many trials were `repeats` of networks that it had seen, and
        median `seconds` a suggestion.
    """
    table = _table(key["table"])
    whole, most = _whole(table), len(table.configs) if key.get("epochs") else key["trials"]
    start, spent, seen = METHODS[key["method"]], [0.0], []
    for one in explore(lambda folder: start(table, key["seed"], most, folder), table, most):
        seen.append(one)
        spent.append(spent[-1] + (1.0 if one.stopped is None else one.stopped / whole))
        if key.get("epochs") and spent[-1] >= key["trials"]:
            break
    return {
        "accuracies": [one.entry.val_accuracy if one.stopped is None else None for one in seen],
        "spent": spent[1:],
        "best": table.best,
        "repeats": len(seen) - len({table.space.key(one.config) for one in seen}),
        "seconds": statistics.median(one.seconds for one in seen),
    }


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each table and method: mean simple regret after so many trials, with standard errors.

    `regret` and `error` by number of trials, or of trials whose epochs were spent, in accuracy; mean
    `repeats`; median `seconds` a suggestion.
    """
    summary: list[Row] = []
    for (table, method), own in grouped(rows, "table", "method").items():
        trials = min(row["trials"] for row in own)
        counts = sorted({*range(STEP, trials, STEP), trials})
        regrets = {str(n): [row["best"] - _best_after(row, n) for row in own] for n in counts}
        summary.append(
            {
                "table": table,
                "method": method,
                "seeds": len(own),
                "regret": {n: statistics.fmean(values) for n, values in regrets.items()},
                "error": {n: standard_error(values) for n, values in regrets.items()},
                "repeats": mean(own, "repeats"),
                "seconds": statistics.median(row["seconds"] for row in own),
            }
        )
    return summary


_table = cache(load_table)


def _whole(table: Table) -> int:
    """The epochs of a whole training; 0 where the table has no curves."""
    return max(len(entry.curve) for entry in table.entries.values())


def _best_after(row: Row, n: int) -> float:
    """The best accuracy that a search saw within the epochs of `n` whole trials."""
    pairs = zip(row["accuracies"], row["spent"], strict=True)
    # Sums of thirds are not exact.
    return max(accuracy for accuracy, spent in pairs if accuracy is not None and spent <= n + 1e-6)


def _printed(name: str, summary: Sequence[Row]) -> Printed:
    counts = list(summary[0]["regret"])
    title = f"{name}: simple regret after so many trials (with --epochs: their epochs), in points"
    printed = new_table(title, ["search"], [*counts, "repeats", "seconds"])
    for entry in sorted(summary, key=lambda entry: entry["regret"][counts[-1]]):
        cells = [f"{points(entry['regret'][n], 2)} ± {points(entry['error'][n], 2)}" for n in counts]
        printed.add_row(entry["method"], *cells, f"{entry['repeats']:.1f}", f"{entry['seconds']:.3f}")
    return printed
