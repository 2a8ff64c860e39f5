"""Seconds that a suggestion takes, ours against Ax, and the memory that ours needs in ever larger spaces.

Both are timed in this process, in turns, on the same observations: 50 of them, of 12 choices of which 5 are
categories. A suggestion includes fitting the surrogate.
"""

import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from rich import box
from rich.table import Table as Printed

from tascnet.options import Config
from tascnet.run.console import output
from tascnet.tuning import Choice, Configuration, Goal, Space, Unit, propose

from .figures import check_names
from .journal import Row, benchmark_folder, collect, write_metrics
from .peers import AxSearch, is_installed
from .synthetic import synthetic

CHOICES, CATEGORIES, OBSERVED = 12, 5, 50
# Numbers of configurations: time is told for the largest space, memory for each.
SIZES = (10**4, 10**8, 10**12)
# Values of a category at most: activations, poolings and the like are few.
LARGEST_CATEGORY = 5

Observation = tuple[Configuration, float]

log = logging.getLogger("tascnet")


def _ours(space: Space, observed: list[Observation], seed: int) -> Callable[[], object]:
    return lambda: propose(space, space.depth, observed, [], 1, seed, goal=Goal())


def _ax(space: Space, observed: list[Observation], seed: int) -> Callable[[], object]:
    search = AxSearch(space, seed, is_initialised=True)
    for config, value in observed:
        search.attach(config, value)
    return search.ask


METHODS: dict[str, Callable[[Space, list[Observation], int], Callable[[], object]]] = {
    "ours": _ours,
    "ax": _ax,
}


def run(config: Config) -> None:
    """Time suggestions, print the tables and write `outputs/benchmark/suggest_time/metrics.json`.

    Raises:
        ConfigError: there is no such method.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options = config.benchmark
    folder = benchmark_folder(config)
    keys = [
        {"method": method, "size": SIZES[-1], "seed": seed, "threads": torch.get_num_threads()}
        for seed in range(options.seeds)
        for method in _available(options.methods)
    ]
    rows = collect(folder, keys, suggest, "suggestions")
    memory = collect(folder, [{"memory_of": size} for size in SIZES], memory_growth, "memory")
    summary = summarise(rows)
    write_metrics(folder, [*rows, *memory], summary, memory=memory)
    output().print(_times(summary))
    output().print(_memory(memory))


def suggest(key: Row) -> Row:
    """Seconds of one suggestion.

    Args:
        key: `method`, `size` of the space and `seed` of the observations.
    """
    _warm_up(key["method"])
    ask = _asker(key["method"], key["size"], key["seed"])
    started = time.perf_counter()
    ask()
    return {"seconds": time.perf_counter() - started}


def memory_growth(key: Row) -> Row:
    """Mebibytes by which one suggestion raises the peak of a process of its own, after a tiny one.

    Args:
        key: `memory_of`, the number of configurations.
    """
    code = f"from {__name__} import _grow; _grow({int(key['memory_of'])})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def made_space(size: int, choices: int = CHOICES, categories: int = CATEGORIES) -> Space:
    """One unit of so many choices, the last ones categories, and the fewest values that give `size`.

    Args:
        size: configurations at least.
        choices: choices in all.
        categories: how many of them are categories; these have at most 5 values.
    """
    few = max(2, min(LARGEST_CATEGORY, int(size ** (1 / choices) + 1e-9)))
    ordinals = choices - categories
    left = -(-size // few**categories)
    counts = [max(2, int(left ** (1 / ordinals) + 1e-9))] * ordinals
    at = 0
    while _product(counts) < left:
        counts[at % ordinals] += 1
        at += 1
    made = [
        Choice(name=f"o{i}.value", values=tuple(range(1, n + 1)), neutral=1, kind="ordinal", unit=0)
        for i, n in enumerate(counts)
    ]
    names = tuple(f"v{i}" for i in range(few))
    made += [
        Choice(name=f"c{i}.value", values=names, neutral="v0", kind="categorical", unit=0)
        for i in range(categories)
    ]
    return Space((Unit(index=0, block=0, choices=tuple(made)),))


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry a method: median, lowest and highest seconds, and the median's share of Ax's."""
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["method"], []).append(row["seconds"])
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


def _available(methods: Sequence[str]) -> list[str]:
    check_names("search", methods, METHODS)
    if "ax" in methods and not is_installed("ax"):
        log.warning("Ax is not installed and left out; pip install 'tascnet[benchmark]'")
        return [method for method in methods if method != "ax"]
    return list(methods)


def _asker(method: str, size: int, seed: int) -> Callable[[], object]:
    space = made_space(size)
    task = synthetic("categories", seed, space)
    configs = space.sample(OBSERVED, space.depth, seed)
    observed = [(config, task.observe(config, 1000 * seed + i)) for i, config in enumerate(configs)]
    return METHODS[method](space, observed, seed)


@cache
def _warm_up(method: str) -> None:
    """The first suggestion of a process also pays for imports and first calls."""
    _asker(method, SIZES[0], 0)()


def _grow(size: int) -> None:
    """Print by how much a suggestion raises this process's peak."""
    _asker("ours", 2**CHOICES, 0)()
    before = _peak_mib()
    ask = _asker("ours", size, 1)
    ask()
    print(json.dumps({"configurations": made_space(size).count(0), "growth_mib": _peak_mib() - before}))


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _product(counts: Sequence[int]) -> int:
    result = 1
    for count in counts:
        result *= count
    return result


def _times(summary: Sequence[dict[str, Any]]) -> Printed:
    printed = Printed(
        title=f"Seconds a suggestion, {OBSERVED} observations, {CHOICES} choices", box=box.SIMPLE
    )
    for name in ("search", "median", "lowest", "highest", "share of Ax's"):
        printed.add_column(name, justify="left" if name == "search" else "right")
    for row in summary:
        share = "–" if row["share_of_ax"] is None else f"{row['share_of_ax']:.2f}"
        times = [f"{row[name]:.2f}" for name in ("seconds", "lowest", "highest")]
        printed.add_row(row["method"], *times, share)
    return printed


def _memory(rows: Sequence[Row]) -> Printed:
    printed = Printed(title="Memory that one suggestion of ours adds", box=box.SIMPLE)
    printed.add_column("configurations", justify="right")
    printed.add_column("MiB", justify="right")
    for row in rows:
        printed.add_row(f"{row['configurations']:.3g}", f"{row['growth_mib']:.1f}")
    return printed
