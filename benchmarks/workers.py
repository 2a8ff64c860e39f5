"""Trials an hour of a search on a local Ray cluster, and of the same trials in searches started by hand.

A search on Ray proposes its trials. Then the same configurations are trained again: by as many searches side
by side as there are workers, each with its share of them, and by one search. All trials have one thread, and
features are cached before. The time is that from the start of the first trial to the end of the last.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks import common
from benchmarks.common import RUNS, Row, collect, new_table
from tascnet.errors import TascnetError
from tascnet.run.files import read_jsonl, write_jsonl
from tascnet.run.folder import IDENTITY
from tascnet.run.records import Trial, read_trials
from tascnet.tuning.study import proposals_of
from tascnet.tuning.warm import JOURNAL

PROPOSED = proposals_of(Path(JOURNAL)).name
RAY, HAND, ONE = "one search on Ray", "searches by hand", "one search"
# No trial ends early.
WORDS = ("stage=tune", "seed=0", "threads=1", "executor.cpus=1", "tune.promote=false", "tune.patience=100")
LOOK, AFTER = 0.2, 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=1)
    parser.add_argument("experiment", help="a name in conf/experiment/")
    parser.add_argument("overrides", nargs="*", help="options such as dataset.root=photos")
    parser.add_argument("--workers", type=common.count, default=2, help="trials at a time")
    parser.add_argument("--trials", type=common.count, default=24, help="trials of the search")


def run(args: argparse.Namespace) -> None:
    """One row for each repetition."""
    folder = common.open_results(args)
    own = [*WORDS, f"experiment={args.experiment}", *args.overrides, f"cache_dir={folder / 'cache'}"]
    keys: list[Row] = [
        {"repetition": repetition, "workers": args.workers, "trials": args.trials}
        for repetition in range(args.seeds)
    ]
    rows = collect(folder, keys, lambda key: _compared(own, folder / RUNS, key), "repetitions")
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary))


def _compared(own: Sequence[str], folder: Path, key: Row) -> Row:
    """Trials an hour, and mean seconds of a trial, of each way."""
    shutil.rmtree(folder, ignore_errors=True)
    workers, trials = key["workers"], key["trials"]
    ray = [*own, "executor=ray", f"executor.workers={workers}", f"tune.max_trials={trials}"]
    # The first time features are cached.
    _timed({folder / "warm": (ray, trials)})
    found = {RAY: _timed({folder / "ray": (ray, trials)})}
    (origin,) = (path.parent for path in (folder / "ray").rglob(PROPOSED))
    proposed = read_jsonl(origin / PROPOSED)
    for name, count in ((HAND, workers), (ONE, 1)):
        commands = {}
        for number in range(count):
            share, place = proposed[number::count], folder / f"{count}-{number}"
            tune = place / origin.relative_to(folder / "ray")
            tune.mkdir(parents=True)
            shutil.copy(origin / IDENTITY, tune / IDENTITY)
            write_jsonl(tune / PROPOSED, share)
            commands[place] = ([*own, f"tune.max_trials={len(share)}"], len(share))
        found[name] = _timed(commands)
    return found


def _timed(commands: Mapping[Path, tuple[Sequence[str], int]]) -> Row:
    """Run searches side by side, each in its folder, and end each when it has so many trials."""
    running = {
        place: subprocess.Popen(
            [sys.executable, "-m", "tascnet", *words, f"outputs={place}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for place, (words, _) in commands.items()
    }
    ended: list[Trial] = []
    while running:
        time.sleep(LOOK)
        for place, process in list(running.items()):
            (words, trials), code = commands[place], process.poll()
            journal = next(place.rglob(JOURNAL), None)
            own = [] if journal is None else read_trials(journal)
            if len(own) >= trials:
                process.terminate()
                process.wait()
                # Until its workers have seen it.
                time.sleep(AFTER)
                ended += own
                del running[place]
            elif code is not None:
                command = " ".join([*words, f"outputs={place}"])
                raise TascnetError(f"a search ended with {code}", f"see why: python -m tascnet {command}")
    if odd := [trial.trial for trial in ended if trial.started is None or trial.ended is None]:
        raise TascnetError(f"the trials {odd} were not trained", "take another experiment")
    began, took = [t.started or 0.0 for t in ended], [t.ended or 0.0 for t in ended]
    seconds = max(took) - min(began)
    return {
        "per_hour": 3600 * len(ended) / seconds,
        "trial_seconds": statistics.fmean(b - a for a, b in zip(began, took, strict=True)),
    }


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each way: means of the repetitions, and trials an hour as a share of those by hand."""

    def mean(way: str, figure: str) -> float:
        return statistics.fmean(row[way][figure] for row in rows)

    return [
        {
            "way": way,
            "per_hour": mean(way, "per_hour"),
            "share": mean(way, "per_hour") / mean(HAND, "per_hour"),
            "trial_seconds": mean(way, "trial_seconds"),
        }
        for way in (RAY, HAND, ONE)
    ]


def _table(summary: Sequence[Row]) -> Table:
    numbers = ("trials an hour", "of those by hand", "seconds a trial")
    table = new_table("the same trials", ["way"], numbers)
    for entry in summary:
        table.add_row(
            *(entry["way"], f"{entry['per_hour']:.0f}"),
            *(f"{entry['share']:.2f}", f"{entry['trial_seconds']:.1f}"),
        )
    return table
