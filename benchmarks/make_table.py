"""Makes the tables of search_quality and pareto again: trains every configuration of a small space.

By the very steps of a trial of the search. Take `--threads 1`, so that the numbers do not depend on the
machine's cores.
"""

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tascnet
from benchmarks import common
from benchmarks.common import Row, Setup, check_names, collect
from benchmarks.conventional import open_network, train_softmax
from benchmarks.table import MEASURED, SUFFIX, Entry, write_table
from tascnet.measure import complexity, versions
from tascnet.options import Digits, RecipeChanges, Trainer, Tune
from tascnet.run.console import log
from tascnet.train.backbone import digits_network
from tascnet.train.setting import computing
from tascnet.tuning import CandidateBuilder, discover
from tascnet.tuning.tails import Tails


@dataclass(frozen=True, kw_only=True)
class Task:
    """A transfer from some digits to the others.

    Args:
        source_digits: on which the network is pre-trained.
        digits: the target's classes.
        seed: of the split, and of the softmax layer that trials start from.
        trial_seeds: of new layers and trainings of each configuration, whose accuracies are averaged.
        train_per_class: training samples a class; few, so that accuracies differ.
        val_per_class: validation samples a class; many, so that small differences show.
    """

    source_digits: tuple[int, ...]
    digits: tuple[int, ...]
    seed: int
    trial_seeds: tuple[int, ...]
    train_per_class: int = 10
    val_per_class: int = 160


LOW, HIGH = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
# Settings are chosen on the second and reported on the first.
TASKS = {
    # Two points from one seed to the next: the best of a thousand means of few would be lucky ones.
    "digits_high": Task(source_digits=LOW, digits=HIGH, seed=0, trial_seeds=tuple(range(10))),
    "digits_low": Task(source_digits=HIGH, digits=LOW, seed=1, trial_seeds=tuple(range(5))),
}
SPACE = Tune(
    max_units=2,
    widths=(0.25, 0.5, 1.0),
    round_to=4,
    # A 5 x 5 kernel sees no more of the last layers' maps of 2 x 2 than a 3 x 3 one does.
    kernels=(1, 3),
    activations=("relu", "elu", "tanh"),
    neurons=(32, 128),
    dropouts=(0.0,),
)
TRAINER = Trainer(
    batch_size=10,
    head=RecipeChanges(epochs=20, lr=1e-2),
    trial=RecipeChanges(epochs=8, lr=2e-3, warmup=0.1),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--cache", type=Path, default=Path("outputs/cache"), help="folder of features")
    parser.add_argument("--tables", nargs="+", default=list(TASKS), help="tables that are made")


def run(args: argparse.Namespace) -> None:
    """Train all configurations, one row each, and write the tables into the folder of results."""
    check_names("table", args.tables, TASKS)
    folder = common.open_results(args)
    with computing("cpu", args.threads) as device:
        for name in args.tables:
            bench = Workbench(TASKS[name], args.cache, device)
            configs = bench.space.frontier([], bench.space.depth)
            keys: list[Row] = [{"table": name, "config": config} for config in configs]
            rows = collect(folder, keys, bench.row, name)
            entries = [(row["config"], Entry(**{key: row[key] for key in MEASURED})) for row in rows]
            write_table(folder / f"{name}{SUFFIX}", bench.space, entries, bench.about)
            log.info("%s: %d configurations in %s", name, len(rows), folder / f"{name}{SUFFIX}")


class Workbench:
    """Trains configurations of one task on the CPU; the pre-trained network and features are cached."""

    def __init__(self, task: Task, cache: Path, device: torch.device) -> None:
        options = tascnet.preset("backbone", "digits_cnn")
        weights = digits_network([str(digit) for digit in task.source_digits], options, cache=cache)
        data = Digits(
            classes=tuple(str(digit) for digit in task.digits),
            train=task.train_per_class,
            val=task.val_per_class,
            flip=False,
        )
        setup = Setup(data=data, backbone=replace(options, weights=str(weights)), seed=task.seed, cache=cache)
        chain, learner = open_network(setup, device)
        learner = replace(learner, trainer=TRAINER)
        self._example = learner.samples.example
        self.space = discover(chain, self._example, SPACE)
        train_softmax(chain, learner)
        self._trainings = [
            (
                CandidateBuilder(chain, self.space, self._example, seed=seed),
                Tails(replace(learner, seed=seed), chain),
            )
            for seed in task.trial_seeds
        ]
        recipes = {"softmax": asdict(TRAINER.recipe("head")), "trial": asdict(TRAINER.recipe("trial"))}
        self.about: dict[str, Any] = {**asdict(task), **recipes, "versions": versions()}

    def row(self, key: Row) -> Row:
        """What the configuration of a key gives."""
        return asdict(self.evaluate(key["config"]))

    def evaluate(self, config: Mapping[str, Any]) -> Entry:
        """Build and train a configuration's network with each trial seed.

        New weights are among what differs: their luck (1.8 points on `digits_high`, the deviation over five
        builds) is no property of a configuration.
        """
        trained = [tails.train(build(config), "trial") for build, tails in self._trainings]
        cost = complexity(trained[0][0], self._example)
        accuracies = [training.val_accuracy or 0.0 for _, training in trained]
        return Entry(
            val_accuracy=round(statistics.fmean(accuracies), 6),
            deviation=round(statistics.stdev(accuracies), 6),
            val_loss=round(statistics.fmean(training.val_loss or 0.0 for _, training in trained), 5),
            params=cost.params,
            flops=cost.flops,
        )
