"""Measure every configuration of a small space once, by the very steps of a trial of the search.

One row a configuration is journalled, so that a table that was broken off goes on.
"""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet import data
from tascnet.measure import complexity, versions
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.options import BackboneConfig, Config, DatasetConfig
from tascnet.run.console import log
from tascnet.run.folder import cache_folder
from tascnet.train import Recipe, fit, reestimate_batchnorm
from tascnet.tuning import Candidate, CandidateBuilder, Space, discover_units

from ..backbone import load_source
from ..session import Session, open_session
from ..steps import join
from .figures import check_names
from .journal import Row, benchmark_folder, collect
from .table import SUFFIX, Entry, write_table


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
SPACE: dict[str, Any] = {
    "max_units": 2,
    "widths": (0.25, 0.5, 1.0),
    "round_to": 4,
    # A 5 x 5 kernel sees no more of the last layers' maps of 2 x 2 than a 3 x 3 one does.
    "kernels": (1, 3),
    "activations": ("relu", "elu", "tanh"),
    "hidden_layers": (0, 1),
    "neurons": (32, 128),
    "dropouts": (0.0,),
}
SOFTMAX = Recipe(epochs=20, batch_size=10, lr=1e-2, weight_decay=1e-2, schedule="cosine")
TRIAL = Recipe(epochs=8, batch_size=10, lr=2e-3, weight_decay=1e-2, schedule="cosine", warmup=0.1)


def run(config: Config) -> None:
    """Measure the tables that the config names and write them to `outputs/benchmark/make_table`.

    Raises:
        ConfigError: there is no task of such a name.
    """
    check_names("task", config.benchmark.tables, TASKS)
    folder = benchmark_folder(config)
    for name in config.benchmark.tables:
        bench = Workbench(TASKS[name], config.outputs, cache_folder(config), config.threads)
        keys = [{"table": name, "config": chosen} for chosen in bench.space.frontier([], bench.space.depth)]
        rows = collect(folder, keys, partial(_measure, bench), name)
        path = folder / f"{name}{SUFFIX}"
        write_table(path, bench.space, [(row["config"], _entry(row)) for row in rows], bench.about())
        log.info("%s: %d configurations in %s", name, len(rows), path)


class Workbench:
    """Trains configurations of one task, on the CPU.

    Args:
        task: data and source network.
        outputs: the outputs folder.
        cache: where the source network and features are kept.
        threads: CPU threads; None: as torch chooses.
    """

    def __init__(self, task: Task, outputs: str, cache: Path, threads: int | None = None) -> None:
        self.task = task
        config = _config(task, outputs, cache, threads)
        source = load_source(config)
        self.session: Session = open_session(config)
        classes = self.session.num_classes
        self.chain = replace_head(source.chain, HeadSpec(hidden=(), dropout=0.0), classes, seed=task.seed)
        self.space = Space(discover_units(self.chain, self.session.example, **SPACE))
        self._features: dict[int, tuple[data.FeatureSource, data.FeatureSource]] = {}
        cut = head_start(self.chain)
        softmax = self.chain[cut:].requires_grad_(True)
        fit(softmax, *self.features(cut), SOFTMAX, seed=task.seed, description="softmax layer")
        self._builders = {
            seed: CandidateBuilder(
                self.chain, self.space, self.session.example, num_classes=classes, seed=seed
            )
            for seed in task.trial_seeds
        }

    def evaluate(self, config: Mapping[str, Any]) -> Entry:
        """Build and train a configuration's network with each trial seed.

        New weights are among what differs: their luck (1.8 points on `digits_high`, the deviation over five
        builds) is no property of a configuration.
        """
        candidates = [self._build(config, seed) for seed in self.task.trial_seeds]
        cut = candidates[0].cut
        cost = complexity(join(self.chain[:cut], candidates[0].tail), self.session.example)
        results = [
            fit(candidate.tail, *self.features(cut), TRIAL, seed=seed, description="trial")
            for candidate, seed in zip(candidates, self.task.trial_seeds, strict=True)
        ]
        accuracies = [result.best_val_accuracy or 0.0 for result in results]
        return Entry(
            val_accuracy=round(statistics.fmean(accuracies), 6),
            deviation=round(statistics.stdev(accuracies), 6),
            val_loss=round(statistics.fmean(result.best_val_loss or 0.0 for result in results), 5),
            params=cost.params,
            flops=cost.flops,
        )

    def _build(self, config: Mapping[str, Any], seed: int) -> Candidate:
        """A configuration's network, ready to be trained."""
        session = self.session
        candidate = self._builders[seed](config)
        session.place(candidate.tail)
        if candidate.first_changed is not None:
            source, first = self.features(candidate.cut)[0], candidate.first_changed
            reestimate_batchnorm(candidate.tail, source, first_block=first, device=session.device)
        candidate.tail.requires_grad_(True)
        return candidate

    def features(self, cut: int) -> tuple[data.FeatureSource, data.FeatureSource]:
        """What leaves the frozen blocks before `cut`, of training and validation samples."""
        if cut not in self._features:
            trunk = self.chain[:cut].eval()
            self._features[cut] = (
                self._cached(trunk, self.session.train),
                self._cached(trunk, self.session.val),
            )
        return self._features[cut]

    def about(self) -> dict[str, Any]:
        """What was trained, and how."""
        recipes = {"softmax": asdict(SOFTMAX), "trial": asdict(TRIAL)}
        return {**asdict(self.task), **recipes, "versions": versions()}

    def _cached(self, trunk: nn.Sequential, source: data.SampleSource) -> data.FeatureSource:
        return data.cached_features(
            trunk,
            source,
            folder=self.session.cache / "features",
            trunk_digest=data.module_digest(trunk),
            dtype="float32",
        ).resident(torch.device("cpu"))


def _config(task: Task, outputs: str, cache: Path, threads: int | None) -> Config:
    return Config(
        dataset=DatasetConfig(
            source_digits=list(task.source_digits),
            digits=list(task.digits),
            train_per_class=task.train_per_class,
            val_per_class=task.val_per_class,
            flip=False,
        ),
        backbone=BackboneConfig(size=8, resize=8, mean=[0.5], std=[0.5]),
        seed=task.seed,
        outputs=outputs,
        cache_dir=str(cache),
        device="cpu",
        threads=threads,
    )


def _measure(bench: Workbench, key: Row) -> Row:
    return asdict(bench.evaluate(key["config"]))


def _entry(row: Row) -> Entry:
    return Entry(**{name: row[name] for name in Entry.__dataclass_fields__})
