"""Seconds that a suggestion takes, ours against Ax, and the memory of ours in spaces of up to 10^12 networks.

Both are timed in this process, in turns, on the same observations: 50 of them, of 12 choices of which 5 are
categories. A suggestion includes fitting the surrogate.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
from rich.table import Table

from benchmarks import common
from benchmarks.common import Row, check_names, collect, grouped, new_table
from benchmarks.peers import AxSearch, installed
from benchmarks.process import in_own_process, memory_growth
from tascnet.report.numbers import MISSING, decimal
from tascnet.run.records import Trial
from tascnet.train.setting import computing
from tascnet.tuning import Choice, Space, Unit, propose

CHOICES, CATEGORIES, OBSERVED = 12, 5, 50
# Numbers of configurations at least, and for each the numbers of values of the ordinal choices and of the
# categories: the fewest that give so many. Time is measured in the largest space, memory in each.
SIZES = {
    10**4: ((3, 3, 3, 2, 2, 2, 2), 2),
    10**8: ((6, 6, 5, 5, 5, 5, 5), 4),
    10**12: ((17, 17, 17, 16, 16, 16, 16), 5),
}
TINY, LARGEST = min(SIZES), max(SIZES)
# Deviation of the effects of values, and of the observed accuracy: a binomial standard error at 0.85 on 1,000
# samples.
EFFECT, NOISE = 0.01, 0.011


def _ours(space: Space, observed: list[Trial], seed: int) -> Callable[[], object]:
    return lambda: propose(space, space.depth, observed, [], 1, seed)


def _ax(space: Space, observed: list[Trial], seed: int) -> Callable[[], object]:
    search = AxSearch(space, seed, is_initialised=True)
    for trial in observed:
        search.attach(trial.config, trial.value or 0.0)
    return search.ask


METHODS: dict[str, Callable[[Space, list[Trial], int], Callable[[], object]]] = {"ours": _ours, "ax": _ax}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="searches that are timed")


def run(args: argparse.Namespace) -> None:
    """Time suggestions: one row for each method and seed, whose observations are its own."""
    check_names("search", args.methods, METHODS)
    folder = common.open_results(args)
    with computing("cpu", args.threads):
        keys = [
            {"method": method, "size": LARGEST, "seed": seed, "threads": torch.get_num_threads()}
            for seed in range(args.seeds)
            for method in installed(args.methods, {"ax": "ax"})
        ]
        rows = collect(folder, keys, suggest, "suggestions")
    memory = collect(folder, [{"memory_of": size} for size in SIZES], added_memory, "memory")
    summary = summarise(rows)
    tables = _times(summary), _memory(memory)
    common.report(args, folder, [*rows, *memory], summary, *tables, memory=memory)


def suggest(key: Row) -> Row:
    """Seconds of one suggestion of a `method` in a space of a `size`, after the observations of a `seed`."""
    _warm_up(key["method"])
    ask = _asker(key["method"], key["size"], key["seed"])
    started = time.perf_counter()
    ask()
    return {"seconds": time.perf_counter() - started}


def added_memory(key: Row) -> Row:
    """Mebibytes by which a suggestion raises the peak of a process of its own, after one in a tiny space."""
    size = key["memory_of"]
    added, _ = in_own_process(_growth, size)
    growth = None if added is None else added / 2**20
    return {"configurations": made_space(size).count(0), "growth_mib": growth}


def made_space(size: int) -> Space:
    """One unit of 12 choices, the last 5 of them categories, in a size of `SIZES`."""
    counts, few = SIZES[size]
    made = [Choice.ordinal(f"o{i}.value", range(1, n + 1), 1, 0) for i, n in enumerate(counts)]
    names = tuple(f"v{i}" for i in range(few))
    made += [
        Choice(name=f"c{i}.value", values=names, neutral="v0", kind="categorical", unit=0)
        for i in range(CATEGORIES)
    ]
    return Space((Unit(index=0, block=0, choices=tuple(made)),))


def made_trials(space: Space, seed: int) -> list[Trial]:
    """Trials of a seeded accuracy: an effect of each value of each choice, and noise."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int, deviation: float) -> list[float]:
        return (deviation * torch.randn(count, generator=generator)).tolist()

    effects = {c.name: dict(zip(c.values, drawn(len(c.values), EFFECT), strict=True)) for c in space.choices}
    trials = []
    drawn_configs = zip(space.sample(OBSERVED, space.depth, seed), drawn(OBSERVED, NOISE), strict=True)
    for number, (config, noise) in enumerate(drawn_configs):
        value = 0.8 + sum(own[config[name]] for name, own in effects.items()) + noise
        trials.append(
            Trial(trial=number, depth=0, config=config, status="ok", value=value, val_accuracy=value)
        )
    return trials


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry a method: median, lowest and highest seconds, and the median's share of Ax's."""
    seconds = {method: [row["seconds"] for row in own] for (method,), own in grouped(rows, "method").items()}
    reference = statistics.median(seconds["ax"]) if "ax" in seconds else None
    return [
        {
            "method": method,
            "repetitions": len(values),
            "seconds": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "share_of_ax": None if reference is None else statistics.median(values) / reference,
        }
        for method, values in seconds.items()
    ]


def _asker(method: str, size: int, seed: int) -> Callable[[], object]:
    space = made_space(size)
    return METHODS[method](space, made_trials(space, seed), seed)


@cache
def _warm_up(method: str) -> None:
    """The first suggestion of a process also pays for imports and first calls."""
    _asker(method, TINY, 0)()


def _growth(size: int) -> int | None:
    _warm_up("ours")
    with memory_growth() as growth:
        _asker("ours", size, 1)()
    return growth[0] if growth else None


def _times(summary: Sequence[Row]) -> Table:
    title = f"Seconds a suggestion, {OBSERVED} observations, {CHOICES} choices"
    table = new_table(title, ["search"], ["median", "lowest", "highest", "share of Ax's"])
    for row in summary:
        times = (decimal(row[name]) for name in ("seconds", "lowest", "highest", "share_of_ax"))
        table.add_row(row["method"], *times)
    return table


def _memory(rows: Sequence[Row]) -> Table:
    table = new_table("Memory that one suggestion of ours adds", [], ["configurations", "MiB"])
    for row in rows:
        growth = row["growth_mib"]
        table.add_row(f"{row['configurations']:.3g}", MISSING if growth is None else f"{growth:.1f}")
    return table
