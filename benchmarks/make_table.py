"""Makes the tables of search_quality and pareto again: trains every configuration of a small space.

By the very steps of a trial of the search. Take `--threads 1`, so that the numbers do not depend on the
machine's cores. Tables of images need `--images`, a folder of Caltech-101's class folders, and `--weights` of
their networks.
"""

import argparse
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tascnet
from benchmarks import common
from benchmarks.common import Row, Setup, check_names, collect
from benchmarks.conventional import open_network, train_softmax
from benchmarks.table import SUFFIX, Entry, write_table
from tascnet.errors import ConfigError
from tascnet.measure import complexity, versions
from tascnet.options import Backbone, Data, Digits, ImageFolder, RecipeChanges, Trainer, Tune
from tascnet.run.console import log
from tascnet.train.backbone import digits_network
from tascnet.train.setting import computing
from tascnet.tuning import CandidateBuilder, Space
from tascnet.tuning.choices import discover_units
from tascnet.tuning.tails import Tails

DIGITS_SPACE = Tune(
    max_units=2,
    widths=(0.25, 0.5, 1.0),
    round_to=4,
    # A 5 x 5 kernel sees no more of the last layers' maps of 2 x 2 than a 3 x 3 one does.
    kernels=(1, 3),
    activations=("relu", "elu", "tanh"),
    neurons=(32, 128),
    dropouts=(0.0,),
)
DIGITS_TRAINER = Trainer(
    batch_size=10,
    standardise=False,
    head=RecipeChanges(epochs=20, lr=1e-2),
    trial=RecipeChanges(epochs=8, lr=2e-3, warmup=0.1),
)
IMAGES_TRAINER = Trainer(
    batch_size=32,
    standardise=False,
    head=RecipeChanges(epochs=20, lr=3e-3),
    trial=RecipeChanges(epochs=9, lr=1e-3, warmup=0.1),
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A transfer, and the space whose configurations are trained.

    Args:
        classes: the target's classes.
        seed: of the split, and of the softmax layer that trials start from.
        trial_seeds: of new layers and trainings of each configuration, whose accuracies are averaged.
        train_per_class: training samples a class; few, so that accuracies differ.
        val_per_class: validation samples a class; many, so that small differences show.
        space: the search space.
        trainer: recipes of the softmax layer and of trials.
    """

    classes: tuple[str, ...]
    seed: int
    trial_seeds: tuple[int, ...]
    train_per_class: int
    val_per_class: int
    space: Tune
    trainer: Trainer

    def network(self, args: argparse.Namespace) -> Backbone:
        """The pre-trained network."""
        raise NotImplementedError

    def samples(self, args: argparse.Namespace) -> Data:
        """The target's samples."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DigitsTask(Task):
    """From some digits, `source_classes`, to the others."""

    source_classes: tuple[str, ...]
    train_per_class: int = 10
    val_per_class: int = 160
    space: Tune = DIGITS_SPACE
    trainer: Trainer = DIGITS_TRAINER

    def network(self, args: argparse.Namespace) -> Backbone:
        options = tascnet.preset("backbone", "digits_cnn")
        weights = digits_network(list(self.source_classes), options, cache=args.cache)
        return replace(options, weights=str(weights))

    def samples(self, args: argparse.Namespace) -> Data:
        return Digits(classes=self.classes, train=self.train_per_class, val=self.val_per_class, flip=False)


@dataclass(frozen=True, kw_only=True)
class ImagesTask(Task):
    """From the weights of a network to some classes of Caltech-101, at `size` pixels."""

    backbone: str
    size: int
    train_per_class: int = 8
    val_per_class: int = 40
    trainer: Trainer = IMAGES_TRAINER

    def network(self, args: argparse.Namespace) -> Backbone:
        weights = dict(entry.partition("=")[::2] for entry in args.weights)
        if self.backbone not in weights:
            raise ConfigError(
                f"the weights of {self.backbone} are missing", f"--weights {self.backbone}=<file>"
            )
        known = tascnet.preset("backbone", self.backbone)
        return replace(known, weights=weights[self.backbone], size=self.size, resize=self.size)

    def samples(self, args: argparse.Namespace) -> Data:
        if args.images is None:
            raise ConfigError("the folder of the images is missing", "give it as --images <folder>")
        return ImageFolder(
            root=str(args.images),
            classes=self.classes,
            train=self.train_per_class,
            val=self.val_per_class,
            duplicates="drop",
        )


LOW, HIGH = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
TASKS: dict[str, Task] = {
    # Two points from one seed to the next: the best of a thousand means of few would be lucky ones.
    "digits_high": DigitsTask(source_classes=LOW, classes=HIGH, seed=0, trial_seeds=tuple(range(10))),
    "digits_low": DigitsTask(source_classes=HIGH, classes=LOW, seed=1, trial_seeds=tuple(range(5))),
    # Each with classes of its own.
    "mobilenet": ImagesTask(
        backbone="mobilenet_v2",
        size=64,
        classes=(
            *("Faces", "Leopards", "Motorbikes", "accordion", "airplanes", "bonsai", "brain", "buddha"),
            *("butterfly", "cellphone", "chair", "chandelier", "cougar_face", "crab", "crayfish", "cup"),
        ),
        seed=0,
        trial_seeds=(0, 1),
        space=Tune(
            max_units=2,
            widths=(0.25, 0.5, 1.0),
            kernels=(1, 3),
            activations=("elu",),
            hidden_layers=(0,),
            dropouts=(0.0,),
        ),
    ),
    "lite": ImagesTask(
        backbone="timm/tf_efficientnet_lite0",
        size=64,
        classes=(
            *("dalmatian", "dolphin", "dragonfly", "electric_guitar"),
            *("elephant", "euphonium", "ewer", "ferry"),
            *("flamingo", "grand_piano", "hawksbill", "helicopter"),
            *("ibis", "joshua_tree", "kangaroo", "ketch"),
        ),
        seed=1,
        trial_seeds=(0, 1),
        space=Tune(
            max_units=2,
            widths=(0.25, 0.5, 1.0),
            kernels=(),
            activations=("elu",),
            hidden_layers=(0,),
            dropouts=(0.0, 0.4),
        ),
    ),
    "cifar": ImagesTask(
        backbone="resnet20",
        size=32,
        classes=(
            *("lamp", "laptop", "llama", "lotus", "menorah", "minaret", "nautilus", "pyramid"),
            *("revolver", "rhino", "schooner", "scorpion"),
            *("soccer_ball", "starfish", "stop_sign", "sunflower"),
        ),
        seed=2,
        trial_seeds=(0, 1),
        space=Tune(
            max_units=2,
            widths=(0.25, 0.5, 0.75, 1.0),
            kernels=(5,),
            activations=("elu",),
            hidden_layers=(0,),
            dropouts=(0.0,),
        ),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--cache", type=Path, default=Path("outputs/cache"), help="folder of features")
    parser.add_argument("--tables", nargs="+", default=list(TASKS), help="tables that are made")
    parser.add_argument("--images", type=Path, help="folder of Caltech-101's class folders")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="NETWORK=FILE", help="weights of the networks"
    )


def run(args: argparse.Namespace) -> None:
    """Train all configurations, one row each, and write the tables into the folder of results."""
    check_names("table", args.tables, TASKS)
    folder = common.open_results(args)
    with computing("cpu", args.threads) as device:
        for name in args.tables:
            bench = Workbench(TASKS[name], args, device)
            configs = list(bench.space.frontier([], bench.space.depth))
            keys: list[Row] = [{"table": name, "config": config} for config in configs]
            rows = collect(folder, keys, bench.row, name)
            entries = [(row["config"], Entry.of(row)) for row in rows]
            write_table(folder / f"{name}{SUFFIX}", bench.space, entries, bench.about)
            log.info("%s: %d configurations in %s", name, len(rows), folder / f"{name}{SUFFIX}")


class Workbench:
    """Trains configurations of one task on the CPU; the pre-trained network and features are cached."""

    def __init__(self, task: Task, args: argparse.Namespace, device: torch.device) -> None:
        setup = Setup(data=task.samples(args), backbone=task.network(args), seed=task.seed, cache=args.cache)
        chain, learner = open_network(setup, device)
        learner = replace(learner, trainer=task.trainer)
        self._example = learner.samples.example
        self.space = Space(discover_units(chain, self._example, task.space, task.space.max_units))
        train_softmax(chain, learner)
        self._trainings = [
            (
                CandidateBuilder(chain, self.space, self._example, seed=seed),
                Tails(replace(learner, seed=seed), chain),
            )
            for seed in task.trial_seeds
        ]
        told = {name: value for name, value in asdict(task).items() if name not in ("space", "trainer")}
        recipes = {
            "softmax": asdict(task.trainer.recipe("head")),
            "trial": asdict(task.trainer.recipe("trial")),
        }
        self.about: dict[str, Any] = {**told, **recipes, "versions": versions()}

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
        finals = [training.val_accuracy or 0.0 for _, training in trained]
        curves = [[epoch.val_accuracy or 0.0 for epoch in training.epochs] for _, training in trained]
        return Entry(
            val_accuracy=round(statistics.fmean(finals), 6),
            deviation=round(statistics.stdev(finals), 6),
            val_loss=round(statistics.fmean(training.val_loss or 0.0 for _, training in trained), 5),
            params=cost.params,
            flops=cost.flops,
            finals=_rounded(finals),
            curve=_rounded(map(statistics.fmean, zip(*curves, strict=True))),
        )


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
