"""Ways to fit a pre-trained network to your data and conventional fine-tuning, each within the same seconds.

Every row but the conventional ones is a run of `tascnet.tune` with the options of its method, in a folder
of its own. `conventional` fine-tunes all layers by the recipe `finetune`, which is how every method ends;
`conventional_long` does so for as many epochs as fit. What a method may spend on its search is the number
of seconds less those of the softmax layer and of its fine-tunings, as long as `conventional` took for
them; the conventional network counts where a method's fine-tuning begins at it. The trial in which
these end is stopped after its epoch. Pixels, and the features before the units that are searched, are
computed beforehand and shared: no method pays for them. Options of tune and trainer that are set hold for
all methods.
"""

import argparse
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import tascnet
from benchmarks import common
from benchmarks.common import RUNS, Row, Setup, check_names, collect, grouped, mean, new_table, points
from benchmarks.conventional import fine_tune_all, open_network
from tascnet.errors import BudgetError, ConfigError, plural
from tascnet.options import Trainer, TuneBase
from tascnet.report.numbers import count, duration, percent
from tascnet.run.records import StepRecord, read_record
from tascnet.train.setting import computing
from tascnet.train.steps import RECORD
from tascnet.tuning import TuneResult, discover
from tascnet.tuning.finetune import SLOWER_STEP, fine_tunings
from tascnet.tuning.tails import Tails

# The preset of each method, and what it sets beside.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tascnet": ("tascnet", {}),
    "autotune": ("autotune", {}),
    "grow": ("tascnet", {"head": "grow"}),
    "layerwise": ("tascnet", {"algorithm": "layerwise"}),
}
DEFAULT = "tascnet"
USUAL, LONG = "conventional", "conventional_long"
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=3, sections=("trainer", "tune", "measure"))
    parser.add_argument("--seconds", type=float, default=900.0, help="seconds of a method")
    known = [*METHODS, USUAL, LONG]
    parser.add_argument("--methods", nargs="+", default=known, help="methods that are compared")


def run(args: argparse.Namespace) -> None:
    """Run every method with every seed: one row for each.

    Raises:
        ConfigError: a method that is unknown, a space that would hold for all of them, or too few seconds.
    """
    check_names("method", args.methods, (*METHODS, USUAL, LONG))
    setup = Setup.of(args)
    if "space" in setup.changes["tune"]:
        hint = "leave it out; --methods chooses the methods"
        raise ConfigError("tune.space would hold for all methods, but each brings its own", hint)
    for method in args.methods:
        if method in METHODS:
            method_options(setup, method, args.seconds)
    folder = common.open_results(args)
    settings = setup.digest(setup.changes["tune"], setup.trainer(), args.seconds)
    rows: list[Row] = []
    with computing(setup.device, setup.threads) as device:
        for seed in range(setup.seed, setup.seed + args.seeds):
            runs = folder / RUNS / settings / f"seed{seed}"
            bench = Bench(replace(setup, seed=seed), args.seconds, runs, device)
            # It decides how much time the others have to search.
            for method in dict.fromkeys([USUAL, *args.methods]):
                key = {"method": method, "seed": seed, "settings": settings}
                rows += collect(folder, [key], bench.row, method)
    summary = summarise(rows)
    found = verdict(summary)
    table = _table(summary, found, args.seconds)
    common.report(args, folder, rows, summary, table, device=device, verdict=found)


def method_options(setup: Setup, method: str, seconds: float) -> TuneBase:
    """The options of a method's run, with so many seconds for its search.

    Options of a teacher are left out where the method has none.

    Raises:
        ConfigError: the options of the method and those that were given contradict each other.
    """
    preset, own = METHODS[method]
    given = dict(setup.changes["tune"])
    if method != DEFAULT:
        given.pop("distill", None)
        if given.get("finetune_from") == USUAL:
            del given["finetune_from"]
    changed = replace(setup, changes={**setup.changes, "tune": given})
    options: TuneBase = changed.options("tune", preset, **own, max_seconds=seconds)
    return options


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry a method: means over the seeds, and the deviation of the test accuracy."""
    summary: list[Row] = []
    for (method,), own in grouped(rows, "method").items():
        means = {name: mean(own, name) for name in (*FIGURES, "seconds")}
        tests = [row["test_accuracy"] for row in own]
        deviation = statistics.stdev(tests) if len(tests) > 1 else 0.0
        summary.append({"method": method, "seeds": len(own), **means, "test_deviation": deviation})
    return summary


def verdict(summary: Sequence[Row]) -> Row | None:
    """How the default stands: against the best test accuracy, and in params against the conventional network.

    Returns:
        `best`, the method of the highest mean; `behind`, how much lower the default's is; whether that is
        at most one deviation of the best's; `params_ratio` of the default and the conventional network. None
        where the default was not run.
    """
    by_name = {entry["method"]: entry for entry in summary}
    if DEFAULT not in by_name:
        return None
    best = max(summary, key=lambda entry: entry["test_accuracy"])
    behind = best["test_accuracy"] - by_name[DEFAULT]["test_accuracy"]
    return {
        "best": best["method"],
        "behind": behind,
        "is_within_one_deviation": behind <= best["test_deviation"],
        "params_ratio": by_name[DEFAULT]["params"] / by_name[USUAL]["params"],
    }


@dataclass
class Bench:
    """The rows of one seed, in so many seconds a method; that of `conventional` comes first."""

    setup: Setup
    seconds: float
    runs: Path
    device: torch.device

    def row(self, key: Row) -> Row:
        """What a method reaches in the seconds that it has.

        Raises:
            ConfigError: they are too few for its fine-tunings.
        """
        method = key["method"]
        # Read back from its archive once it is there.
        usual = fine_tune_all(self.setup, self.runs / USUAL, self.device)
        if method == USUAL:
            return usual
        left, each = self.seconds - usual["baseline_seconds"], usual["finetune_seconds"]
        if method == LONG:
            epochs = max(int(left / each * usual["epochs"]), usual["epochs"])
            return fine_tune_all(self.setup, self.runs / USUAL, self.device, epochs)
        fits = fine_tunings(method_options(self.setup, method, self.seconds))
        if left <= fits * each:
            raise ConfigError(
                f"{fits:.2g} fine-tunings take {fits * each:.0f} seconds, which leaves none for a search "
                f"within --seconds {self.seconds:g}",
                "raise it, or lower trainer.finetune.epochs",
            )
        self.share_features()
        self._share_comparison(method)
        result = tascnet.tune(
            self.setup.network(),
            self.setup.data,
            method_options(self.setup, method, left - fits * each),
            trainer=self._trainer(method),
            run=self.runs / method,
            **self.setup.place,
        )
        return figures(result, self.runs / method)

    def share_features(self) -> None:
        """Compute what the runs share, as far as it fits: else the first one would pay for all."""
        chain, learner = open_network(self.setup, self.device)
        tails = Tails(learner, chain)
        space = discover(chain, learner.samples.example, method_options(self.setup, DEFAULT, self.seconds))
        for unit in space.units:
            try:
                tails.features(unit.block)
            except BudgetError:
                return

    def _share_comparison(self, method: str) -> None:
        """Take over the conventional networks of another method's run that trained the same ones."""
        for other in METHODS:
            if other == method or self._trainer(other) != self._trainer(method):
                continue
            for done in (self.runs / other).glob(f"state/{USUAL}-*"):
                target = self.runs / method / "state" / done.name
                if (done / RECORD).exists() and not target.exists():
                    shutil.copytree(done, target)

    def _trainer(self, method: str) -> Trainer:
        return self.setup.trainer(METHODS[method][0])


def figures(result: TuneResult, folder: Path) -> Row:
    """What a run found, and the seconds of its method.

    A conventional network that it is only compared with does not count.
    """
    metrics = result.metrics
    start = f"{USUAL}-0" if metrics.finetuned_from == USUAL else None
    steps = [path.parent for path in (folder / "state").glob(f"*/{RECORD}")]
    counts = (start, f"{start}{SLOWER_STEP}")
    own = [step for step in steps if step.name in counts or not step.name.startswith(USUAL)]
    return {
        **{name: getattr(metrics.models["after"], name) for name in FIGURES},
        "seconds": sum(trial.seconds for trial in result.trials)
        + sum(read_record(step / RECORD, StepRecord).seconds for step in own),
        "trials": len(result.trials),
        "stopped": metrics.stopped,
        "config": metrics.best_config,
    }


def _table(summary: Sequence[Row], found: Mapping[str, Any] | None, seconds: float) -> Table:
    """Means over the seeds of each method, the best test accuracy first."""
    seeds = plural(max(entry["seeds"] for entry in summary), "seed")
    title = f"Methods within {duration(seconds)} each, means of {seeds}"
    numbers = ("test acc.", "±", "val acc.", "params", "FLOPs", "time")
    table = new_table(title, ["method"], numbers, None if found is None else _caption(found))
    for entry in sorted(summary, key=lambda entry: -entry["test_accuracy"]):
        table.add_row(
            entry["method"],
            percent(entry["test_accuracy"]),
            points(entry["test_deviation"]),
            percent(entry["val_accuracy"]),
            count(entry["params"]),
            count(entry["flops"]),
            duration(entry["seconds"]),
        )
    return table


def _caption(found: Mapping[str, Any]) -> str:
    place = "the default has the best test accuracy"
    if found["behind"] > 0:
        distance = "within" if found["is_within_one_deviation"] else "more than"
        behind = f"{points(found['behind'])} points behind {found['best']}"
        place = f"the default is {behind}, {distance} one of its deviations"
    return f"{place}; it has {percent(found['params_ratio'])} of the conventional network's params"
