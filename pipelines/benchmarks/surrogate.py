"""Which kernel and coding of categories: regret and seconds for each proposal, against random search.

Every method searches the same seeded accuracies with the same noise, growing from depth 1 to the
deepest as stage `tune` does. Regret is the best accuracy there is less the true accuracy of the trial
that a method would hand over (the one with the highest observed value).
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from rich import box
from rich.table import Table

from tascnet.options import Config
from tascnet.run.console import output
from tascnet.tuning import Configuration, propose

from .figures import standard_error
from .journal import benchmark_folder, collect, write_metrics
from .synthetic import KINDS, Synthetic, synthetic

INITIAL = 6

Observation = tuple[Configuration, float]
Method = Callable[[Synthetic, int, list[Observation], int], list[Configuration]]


def _random(task: Synthetic, k: int, observed: list[Observation], seed: int) -> list[Configuration]:
    return task.space.sample(1, k, seed, exclude=[config for config, _ in observed], method="random")


def _surrogate(kernel: Any, coding: Any) -> Method:
    def method(task: Synthetic, k: int, observed: list[Observation], seed: int) -> list[Configuration]:
        return propose(task.space, k, observed, [], 1, seed, kernel=kernel, coding=coding).configs

    return method


METHODS: dict[str, Method] = {
    "matern-onehot": _surrogate("matern", "onehot"),
    "rbf-onehot": _surrogate("rbf", "onehot"),
    "matern-index": _surrogate("matern", "index"),
    "mixed-index": _surrogate("mixed", "index"),
    "random": _random,
}


def run(config: Config) -> None:
    """Compare the methods, print the table and write `outputs/benchmark/surrogate/metrics.json`.

    One row for each method, kind of accuracy and seed is journalled, so that a comparison that was
    broken off goes on.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options = config.benchmark
    folder = benchmark_folder(config)
    keys = [
        {"method": method, "kind": kind, "seed": seed, "trials": options.trials}
        for seed in range(options.seeds)
        for kind in KINDS
        for method in METHODS
    ]
    rows = collect(folder, keys, lambda key: search(**key), "searches")
    summary = summarise(rows)
    write_metrics(folder, rows, summary)
    output().print(_table(summary))


def search(method: str, kind: str, seed: int, trials: int) -> dict[str, Any]:
    """What one whole search by one method gave.

    Args:
        method: one of `METHODS`.
        kind: one of `KINDS`.
        seed: of the accuracy and of the search.
        trials: how many, spread evenly over the depths; the first 6 at most are quasi-random.
    """
    task = synthetic(kind, seed)
    observed: list[Observation] = []
    regrets, seconds = [], []
    best = task.best()
    for trial in range(trials):
        k = 1 + trial * task.space.depth // trials
        started = time.perf_counter()
        if trial < INITIAL and k == 1 and method != "random":
            configs = task.space.sample(trial + 1, k, seed)[trial:]
        else:
            configs = METHODS[method](task, k, observed, 1000 * seed + trial)
            seconds.append(time.perf_counter() - started)
        observed += [(config, task.observe(config, 1000 * seed + trial)) for config in configs]
        regrets.append(best - task.value(max(observed, key=lambda pair: pair[1])[0]))
    return {
        "regret": regrets[-1],
        "mean_regret": statistics.mean(regrets),
        "seconds": statistics.median(seconds) if seconds else 0.0,
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a method, with standard errors.

    `regret` after the last trial and `by_kind`; `gain`, the mean of random search's regret less this
    method's on the same accuracy; `mean_regret` over all trials; median `seconds` for a proposal.
    """
    random = {(row["kind"], row["seed"]): row["regret"] for row in rows if row["method"] == "random"}
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        regrets = [row["regret"] for row in own]
        gains = [random[row["kind"], row["seed"]] - row["regret"] for row in own]
        kinds = dict.fromkeys(row["kind"] for row in own)
        by_kind = {kind: _mean(row["regret"] for row in own if row["kind"] == kind) for kind in kinds}
        summary.append(
            {
                "method": method,
                "regret": _mean(regrets),
                "error": standard_error(regrets),
                "gain": _mean(gains),
                "gain_error": standard_error(gains),
                "by_kind": by_kind,
                "mean_regret": _mean(row["mean_regret"] for row in own),
                "seconds": statistics.median(row["seconds"] for row in own),
            }
        )
    return summary


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _table(summary: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Regret, gain on random search (points of accuracy), seconds a proposal", box=box.SIMPLE
    )
    kinds = list(summary[0]["by_kind"])
    for name in ("method", "regret", "gain", *kinds, "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in summary:
        by_kind = [f"{100 * row['by_kind'][kind]:.2f}" for kind in kinds]
        gain = f"{100 * row['gain']:.2f} ± {100 * row['gain_error']:.2f}"
        table.add_row(row["method"], f"{100 * row['regret']:.2f}", gain, *by_kind, f"{row['seconds']:.2f}")
    return table
