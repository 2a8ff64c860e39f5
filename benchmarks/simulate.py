"""How many workers pay: the search with several trials at a time, on a table of trained networks.

Time is simulated: a trial takes `--seconds` on average, log-normally distributed, and the driver proposes one
trial after the other, in the seconds that it really takes. With `--failures` an attempt is lost with that
probability at a random moment; it is tried again twice, and then the trial is lost.
"""

import argparse
import heapq
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.figure import Figure
from rich.table import Table as Printed

from benchmarks import common
from benchmarks.common import Row, collect, grouped, new_table, points, standard_error
from benchmarks.searchers import INITIAL
from benchmarks.table import Table, load_table, table_names
from tascnet.errors import plural
from tascnet.report.numbers import duration, percent
from tascnet.run.records import Trial
from tascnet.train.setting import computing
from tascnet.tuning import Limits, Study
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.trials import run_search

WORKERS = (1, 4, 16, 64, 256, 1000)
RETRIES = 2
# Deviation of the logarithm of a trial's seconds.
SPREAD = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=5)
    parser.add_argument(
        "--table", default="digits_high", choices=table_names(), help="table that is searched"
    )
    parser.add_argument("--trials", type=common.count, default=100, help="trials of a search")
    parser.add_argument(
        "--workers", nargs="+", type=common.count, default=list(WORKERS), help="trials at a time"
    )
    parser.add_argument(
        "--failures", nargs="+", type=float, default=[0.0, 0.1], help="shares of lost attempts"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="mean seconds of a trial")


def run(args: argparse.Namespace) -> None:
    """One row for each number of workers, share of failures and seed; a table and a picture."""
    folder = common.open_results(args)
    keys: list[Row] = [
        {
            **{"workers": workers, "failures": failures, "seed": seed, "table": args.table},
            **{"trials": args.trials, "seconds": args.seconds},
        }
        for failures in args.failures
        for workers in args.workers
        for seed in range(args.seeds)
    ]
    with computing("cpu", args.threads):
        rows = collect(folder, keys, simulated, "searches")
    summary = summarise(rows)
    _draw(rows, folder / "simulate.svg")
    common.report(args, folder, rows, summary, _printed(summary, args.table))


class Simulated:
    """Workers whose trials end after drawn seconds; see `tascnet.tuning.trials.run_search`.

    Args:
        table: what trials give.
        slots: workers.
        failures: probability that an attempt is lost.
        seconds: mean of a trial.
        seed: of seconds and losses.
    """

    def __init__(self, table: Table, slots: int, failures: float, seconds: float, seed: int) -> None:
        self._table, self._slots, self._failures = table, slots, failures
        self._draw, self._mean = random.Random(seed), seconds
        self._heap: list[tuple[float, int, Proposal, bool]] = []
        self.clock, self.busy, self._real = 0.0, 0.0, time.perf_counter()

    def has_room(self) -> bool:
        return len(self._heap) < self._slots

    @property
    def running(self) -> int:
        return len(self._heap)

    def start(self, proposal: Proposal) -> None:
        # The workers wait while the driver proposes.
        self.clock += time.perf_counter() - self._real
        seconds, lost = 0.0, True
        for _ in range(1 + RETRIES):
            whole = self._mean * self._draw.lognormvariate(-(SPREAD**2) / 2, SPREAD)
            if self._draw.random() >= self._failures:
                seconds, lost = seconds + whole, False
                break
            seconds += whole * self._draw.random()
        self.busy += seconds
        heapq.heappush(self._heap, (self.clock + seconds, proposal.trial, proposal, lost))
        self._real = time.perf_counter()

    def next(self) -> Trial:
        ended, _, proposal, lost = heapq.heappop(self._heap)
        self.clock, self._real = max(self.clock, ended), time.perf_counter()
        if lost:
            return proposal.came("lost", reason="its worker was lost")
        entry = self._table[proposal.config]
        figures = {name: getattr(entry, name) for name in ("val_accuracy", "val_loss", "params", "flops")}
        return proposal.came("ok", value=entry.val_accuracy, ended=self.clock, **figures)


def simulated(key: Row) -> Row:
    """One search: its `seconds_all`, the `times` at which trials ended and the `regret` from then on."""
    table = load_table(key["table"])
    depth, trials = table.space.depth, min(key["trials"], len(table.configs))
    workers = Simulated(table, key["workers"], key["failures"], key["seconds"], key["seed"])
    with TemporaryDirectory() as folder:
        study = Study(Path(folder) / "trials.jsonl", table.space, seed=key["seed"])
        limits = Limits(trials_per_depth=trials, max_units=depth, max_trials=trials, start_depth=depth)
        run_search(study, limits, workers, initial_trials=INITIAL)
    done = sorted((t.ended, t.value) for t in study.trials if t.status == "ok" and t.ended and t.value)
    best, regret = 0.0, []
    for _, value in done:
        best = max(best, value)
        regret.append(table.best - best)
    return {
        "times": [when for when, _ in done],
        "regret": regret,
        "seconds_all": workers.clock,
        "busy": workers.busy / (workers.clock * min(key["workers"], trials)),
        "lost": sum(trial.status == "lost" for trial in study.trials),
    }


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each number of workers and share of failures: means over seeds.

    `speedup` is how many times sooner all trials are done than by one worker without failures.
    """
    alone = [row["seconds_all"] for row in rows if row["workers"] == 1 and not row["failures"]]
    summary = []
    for (failures, workers), own in grouped(rows, "failures", "workers").items():
        seconds = statistics.fmean(row["seconds_all"] for row in own)
        final = [row["regret"][-1] for row in own]
        summary.append(
            {
                **{"workers": workers, "failures": failures, "seconds": seconds},
                "speedup": statistics.fmean(alone) / seconds if alone else None,
                "regret": statistics.fmean(final),
                "error": standard_error(final),
                "busy": statistics.fmean(row["busy"] for row in own),
                "lost": statistics.fmean(row["lost"] for row in own),
            }
        )
    return summary


def _printed(summary: Sequence[Row], table: str) -> Printed:
    numbers = ("workers", "time", "times faster", "regret at the end", "±", "workers busy", "lost")
    printed = new_table(f"{table}: the same trials by more workers", ["failures"], numbers)
    for entry in summary:
        faster = entry["speedup"]
        printed.add_row(
            percent(entry["failures"]),
            str(entry["workers"]),
            duration(entry["seconds"]),
            "–" if faster is None else f"{faster:.1f}",
            points(entry["regret"], 2),
            points(entry["error"], 2),
            percent(entry["busy"]),
            f"{entry['lost']:.1f}",
        )
    return printed


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Mean regret against time, one line for each number of workers; dashed with failures."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    workers = sorted({row["workers"] for row in rows})
    for (failures, count), own in grouped(rows, "failures", "workers").items():
        moments = sorted({when for row in own for when in row["times"]})
        mean = [statistics.fmean(_regret_at(row, when) for row in own) for when in moments]
        axes.step(
            *([when / 60 for when in moments], [100 * regret for regret in mean]),
            where="post",
            color=f"C{workers.index(count)}",
            linestyle="--" if failures else "-",
            label=plural(count, "worker") + (f", {percent(failures)} lost" if failures else ""),
        )
    axes.set_xscale("log")
    axes.set_xlabel("minutes")
    axes.set_ylabel("regret, points")
    axes.legend(fontsize=7)
    figure.savefig(path)


def _regret_at(row: Row, when: float) -> float:
    """The regret at a moment; before the first trial has ended that of this one."""
    before = [regret for time, regret in zip(row["times"], row["regret"], strict=True) if time <= when]
    return float(before[-1] if before else row["regret"][0])
