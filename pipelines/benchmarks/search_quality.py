"""How good a configuration each search has found after so many trials, on tables measured once.

Simple regret is the best accuracy in the table less the best that the search has seen. Every search gets
the whole space from its first trial on; `ours_growing` is our own with the depth growing as stage `tune`
lets it.
"""

import logging
import statistics
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich import box
from rich.table import Table as Printed

from tascnet.options import Config
from tascnet.run.console import output

from .figures import check_names, standard_error
from .journal import Row, benchmark_folder, collect, write_metrics
from .peers import AxSearch, OptunaSearch, is_installed
from .searchers import Enumerated, Ours, Start, random_design, sobol_design, uniform_design
from .table import load_table

METHODS: dict[str, Start] = {
    "ours": lambda table, seed, trials, folder: Ours(table, seed, folder),
    "ours_growing": lambda table, seed, trials, folder: Ours.growing(table, seed, trials, folder),
    "enumerated": lambda table, seed, trials, folder: Enumerated(table, seed),
    "random": lambda table, seed, trials, folder: random_design(table, seed, trials),
    "uniform": lambda table, seed, trials, folder: uniform_design(table, seed, trials),
    "sobol": lambda table, seed, trials, folder: sobol_design(table, seed, trials),
    "optuna_tpe": lambda table, seed, trials, folder: OptunaSearch(table, seed, "tpe"),
    "optuna_gp": lambda table, seed, trials, folder: OptunaSearch(table, seed, "gp"),
    "ax": lambda table, seed, trials, folder: AxSearch(table.space, seed),
}
NEEDS = {"optuna_tpe": "optuna", "optuna_gp": "optuna", "ax": "ax"}
# Regret is told after every so many trials.
STEP = 5

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Compare the searches, print the table and write `outputs/benchmark/search_quality/metrics.json`.

    One row for each table, seed and method is journalled, so that a comparison that was broken off goes on.

    Raises:
        ConfigError: there is no such method or table.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options = config.benchmark
    folder = benchmark_folder(config)
    methods = available(options.methods)
    keys = [
        {"table": table, "method": method, "seed": seed, "trials": options.trials}
        for table in options.tables
        for seed in range(options.seeds)
        for method in methods
    ]
    rows = collect(folder, keys, search, "searches")
    summary = summarise(rows)
    write_metrics(folder, rows, summary)
    for name in options.tables:
        output().print(_printed(name, [entry for entry in summary if entry["table"] == name]))


def available(methods: Sequence[str]) -> list[str]:
    """The methods whose packages are installed; those that are left out are named in a warning.

    Raises:
        ConfigError: there is no such method.
    """
    check_names("search", methods, METHODS)
    missing = [method for method in methods if method in NEEDS and not is_installed(NEEDS[method])]
    if missing:
        log.warning("not installed, left out: %s; pip install 'tascnet[benchmark]'", ", ".join(missing))
    return [method for method in methods if method not in missing]


def search(key: Row) -> Row:
    """One whole search.

    Args:
        key: `table`, `method`, `seed` and `trials`.

    Returns:
        The `accuracies` that it saw in turn, the table's `best`, how many trials were `repeats` of
        networks that it had seen, and median `seconds` a suggestion.
    """
    table = _table(key["table"])
    accuracies, seconds, seen = [], [], set()
    with TemporaryDirectory() as folder:
        searcher = METHODS[key["method"]](table, key["seed"], key["trials"], Path(folder))
        for _ in range(key["trials"]):
            started = time.perf_counter()
            config = searcher.ask()
            seconds.append(time.perf_counter() - started)
            entry = table[config]
            searcher.tell(config, entry)
            seen.add(table.space.key(config))
            accuracies.append(entry.val_accuracy)
    return {
        "accuracies": accuracies,
        "best": table.best,
        "repeats": key["trials"] - len(seen),
        "seconds": statistics.median(seconds),
    }


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each table and method: mean simple regret after so many trials, with standard errors.

    `regret` and `error` by number of trials, in accuracy; mean `repeats`; median `seconds` a suggestion.
    """
    summary = []
    for table, method in dict.fromkeys((row["table"], row["method"]) for row in rows):
        own = [row for row in rows if (row["table"], row["method"]) == (table, method)]
        trials = min(row["trials"] for row in own)
        counts = sorted({*range(STEP, trials, STEP), trials})
        regrets = {n: [row["best"] - max(row["accuracies"][:n]) for row in own] for n in counts}
        summary.append(
            {
                "table": table,
                "method": method,
                "seeds": len(own),
                "regret": {str(n): statistics.fmean(values) for n, values in regrets.items()},
                "error": {str(n): standard_error(values) for n, values in regrets.items()},
                "repeats": statistics.fmean(row["repeats"] for row in own),
                "seconds": statistics.median(row["seconds"] for row in own),
            }
        )
    return summary


_table = cache(load_table)


def _printed(name: str, summary: Sequence[dict[str, Any]]) -> Printed:
    counts = list(summary[0]["regret"])
    printed = Printed(title=f"{name}: simple regret after so many trials, in points", box=box.SIMPLE)
    printed.add_column("search", no_wrap=True)
    for count in (*counts, "repeats", "seconds"):
        printed.add_column(count, justify="right", no_wrap=True)
    for entry in sorted(summary, key=lambda entry: entry["regret"][counts[-1]]):
        cells = [f"{100 * entry['regret'][n]:.2f} ± {100 * entry['error'][n]:.2f}" for n in counts]
        printed.add_row(entry["method"], *cells, f"{entry['repeats']:.1f}", f"{entry['seconds']:.3f}")
    return printed
