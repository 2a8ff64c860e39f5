"""Seconds of a run that are spent in checks: of what is read back, and for samples that are equal or alike.

A network is tuned, and the result pruned, while the functions in `CHECKS` are timed. A function that another
of them calls is not counted again; those that work in several threads count in each. The first run has the
cache as it is, and the later ones find it warm.
"""

import argparse
import functools
import hashlib
import importlib
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from rich.table import Table

import tascnet
from benchmarks import common
from benchmarks.common import RUNS, Row, Setup, check_names, collect, new_table
from tascnet.report.numbers import percent
from tascnet.train.setting import computing

# Functions and methods of tascnet that check, by module: arrays of a cache that are read back, records and
# journals, files of networks and weights, images that are decoded, and samples that are equal or alike.
CHECKS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "arrays": {"data.arrays": ("CheckedArray._open", "CheckedArray._are_right")},
    "records": {"run.files": ("read_checked", "check_digest", "digest_json")},
    "networks": {
        "run.files": ("digest_file",),
        "models.archive": ("_digest", "_check_bounds"),
        "models.tensors": ("check_safetensors", "check_pickled"),
    },
    "images": {"models.preprocessing": ("_digest", "_phash")},
    "copies": {
        "data.copies": ("first_rows", "equal_rows", "shared_rows", "count_alike"),
        "data.samples": ("_copies", "Samples._leaked"),
    },
}
# In this module digests are computed while arrays are written.
ARRAYS, WRITTEN = "tascnet.data.arrays", "writing"
STAGES = ("tune", "prune")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, sections=("trainer", "tune", "prune", "measure"))
    parser.add_argument("--runs", type=int, default=2, help="how often everything is run")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), help="tune, or tune prune")


def run(args: argparse.Namespace) -> None:
    """Run the stages and time their checks, one row for each stage and run."""
    check_names("stage", args.stages, STAGES)
    setup = Setup.of(args)
    folder = common.open_results(args)
    settings = setup.digest(setup.changes["tune"], setup.changes["prune"], setup.trainer(), setup.seed)
    numbers = [(number, stage) for number in range(1, args.runs + 1) for stage in args.stages]
    keys: list[Row] = [{"run": number, "stage": stage, "settings": settings} for number, stage in numbers]
    with computing(setup.device, setup.threads) as device:
        rows = collect(folder, keys, lambda key: _row(setup, folder / RUNS / settings, key))
    common.report(args, folder, rows, rows, _table(rows), device=device)


def _row(setup: Setup, folder: Path, key: Row) -> Row:
    """Seconds of a stage, and of its checks, by what is checked."""
    place: dict[str, Any] = {"trainer": setup.trainer(), **setup.place, "run": folder / key["stage"]}
    shutil.rmtree(place["run"], ignore_errors=True)
    stopwatch, started = Stopwatch(), time.perf_counter()
    with stopwatch.on_all():
        if key["stage"] == "tune":
            tascnet.tune(setup.network(), setup.data, setup.options("tune", "tascnet"), **place)
        else:
            network = tascnet.load(folder / "tune" / "model")
            tascnet.prune(network, setup.data, setup.options("prune", "reconstruction"), **place)
    seconds, checks = time.perf_counter() - started, sum(stopwatch.seconds.values())
    return {
        "seconds": seconds,
        "checks": checks,
        "share": checks / seconds,
        "by_check": dict(stopwatch.seconds),
    }


@dataclass
class Stopwatch:
    """Seconds by what is checked."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: threading.local = field(default_factory=threading.local)

    def timed(self, word: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose seconds are added unless another one that is timed calls it."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._running, "is_on", False):
                return function(*args, **kwargs)
            self._running.is_on, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._running.is_on = False
                self.seconds[word] += time.perf_counter() - started

        return call

    @contextmanager
    def on_all(self) -> Iterator[None]:
        """Inside, all checks are timed, wherever they have been imported."""
        with ExitStack() as stack:
            for word, by_module in CHECKS.items():
                for module, names in by_module.items():
                    for name in names:
                        self._patch(stack, word, importlib.import_module(f"tascnet.{module}"), name)
            hashes = SimpleNamespace(sha256=functools.partial(_Hash, self), blake2b=hashlib.blake2b)
            stack.enter_context(mock.patch.object(sys.modules[ARRAYS], "hashlib", hashes))
            yield

    def _patch(self, stack: ExitStack, word: str, module: Any, name: str) -> None:
        *holder, name = name.split(".")
        owner = functools.reduce(getattr, holder, module)
        function = vars(owner)[name]
        timed = self.timed(word, function)
        owners = [owner] if holder else [m for key, m in sys.modules.items() if key.startswith("tascnet")]
        for one in owners:
            for alias in [key for key, value in vars(one).items() if value is function]:
                stack.enter_context(mock.patch.object(one, alias, timed))


class _Hash:
    """A hash whose seconds are those of arrays that are written, unless a check reads them."""

    def __init__(self, stopwatch: Stopwatch, data: Any = b"") -> None:
        self._hash = hashlib.sha256()
        self.update = stopwatch.timed(WRITTEN, self._hash.update)
        self.hexdigest = self._hash.hexdigest
        self.update(data)


def _table(rows: Sequence[Row]) -> Table:
    words = [word for word in (*CHECKS, WRITTEN) if any(word in row["by_check"] for row in rows)]
    columns = ["seconds", "checks", "share", *words]
    table = new_table("Seconds of a run and of its checks", ["run", "stage"], columns)
    for row in rows:
        parts = (f"{row['by_check'].get(word, 0.0):.3f}" for word in words)
        figures = (f"{row['seconds']:.1f}", f"{row['checks']:.3f}", percent(row["share"]))
        table.add_row(str(row["run"]), row["stage"], *figures, *parts)
    return table
