"""One trial of the search, run through the feature cache or as published."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import Setup
from benchmarks.conventional import open_network
from benchmarks.published import ThroughTrunk, from_files, image_files
from tascnet.data import SampleSource
from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.options import Recipe, Tune
from tascnet.run.records import TrainingRecord
from tascnet.train import Learner, fit, reestimate_batchnorm
from tascnet.tuning import Candidate, CandidateBuilder, Space, discover
from tascnet.tuning.tails import Tails, join

# Images that give a randomly initialised network sane batch-norm statistics.
SETTLING = 64
# Seconds of a trial, and its validation accuracy.
Trained = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network with its new softmax layer, and trials that train its pre-trained layers as they are.

    Args:
        learner: samples, whose cache is the folder of features, and recipes.
        chain: the network.
        space: of stage `tune`.
        depth: units that a trial trains, beside the dense head.
        files: the image file of each row of the data set, where there are any.
    """

    learner: Learner
    chain: nn.Sequential
    space: Space
    depth: int
    files: Sequence[Path] | None

    @property
    def cut(self) -> int:
        """Index of the first block that a trial trains."""
        return self.space.units[self.depth].block

    @property
    def trunk(self) -> nn.Sequential:
        """The frozen blocks."""
        return self.chain[: self.cut].eval()

    @property
    def recipe(self) -> Recipe:
        """How a trial is trained."""
        return self.learner.trainer.recipe("trial")

    def candidate(self) -> Candidate:
        """A fresh copy of what a trial trains; both ways to run one train the same."""
        build = CandidateBuilder(self.chain, self.space, self.learner.samples.example, seed=self.learner.seed)
        candidate = build(self.space.neutral(self.depth))
        self.learner.place(candidate.tail).requires_grad_(True)
        return candidate

    def flops(self) -> tuple[int, int]:
        """Of one sample through the trunk and through what a trial trains."""
        names = {name for name, _ in self.trunk.named_children()}
        layers = complexity(self.chain, self.learner.samples.example).layers
        trunk = sum(layer.flops for layer in layers if layer.name.partition(".")[0] in names)
        return trunk, sum(layer.flops for layer in layers) - trunk


def open_setting(setup: Setup, depth: int, features: Path, device: torch.device) -> Setting:
    """Load data and network; features are cached in a folder of their own.

    Raises:
        ConfigError: the network has fewer tunable units than `depth`.
    """
    chain, learner = open_network(setup, device)
    settle(setup, chain, learner)
    space = discover(chain, learner.samples.example, Tune(max_units=depth))
    if space.depth < depth:
        raise ConfigError(
            f"{setup.backbone.name} has {space.depth} tunable units, but --depths asks for {depth}",
            "ask for fewer",
        )
    learner = replace(learner, samples=replace(learner.samples, cache=features))
    files = image_files(learner.samples.dataset)
    return Setting(learner=learner, chain=chain, space=space, depth=depth, files=files)


def settle(setup: Setup, chain: nn.Sequential, learner: Learner) -> None:
    """Give a network of random weights batch-norm statistics with which its values do not vanish."""
    if setup.backbone.weights == "random":
        few = from_files(learner.samples.train, None, SETTLING)
        reestimate_batchnorm(chain, few, device=learner.device)


def make_cache(setting: Setting) -> float:
    """Compute the features that trials read, from the image files; the seconds that it took."""
    started, samples = time.perf_counter(), setting.learner.samples
    train, val = (from_files(part, setting.files, len(part)) for part in (samples.train, samples.val))
    learner = replace(setting.learner, samples=replace(samples, train=train, val=val))
    Tails(learner, setting.chain).features(setting.cut)
    return time.perf_counter() - started


def cached_trial(setting: Setting) -> Trained:
    """Run a trial as stage `tune` does, on features that `make_cache` has computed."""
    started, candidate = time.perf_counter(), setting.candidate()
    # The stage journals the network's size with the trial.
    complexity(join(setting.trunk, candidate.tail), setting.learner.samples.example)
    _, training = Tails(setting.learner, setting.chain).train(candidate, "trial")
    return time.perf_counter() - started, training.val_accuracy


def published_trial(setting: Setting) -> Trained:
    """Run a trial as published: each epoch decodes all images and sends them through the whole network."""
    started, samples = time.perf_counter(), setting.learner.samples
    training = _fit_as_read(setting, len(samples.train), len(samples.val), setting.recipe.epochs)
    return time.perf_counter() - started, training.val_accuracy


def scaled_published_trial(setting: Setting, images: int) -> tuple[float, int]:
    """What a trial as published would take, from one of its epochs on fewer images.

    Args:
        setting: network, depth and data.
        images: training images of that epoch, which follows another one that warms up; it has its share of
            validation images beside them.

    Returns:
        The seconds of a whole trial, scaled linearly; and how many images the epoch had, all together.
    """
    started = time.perf_counter()
    setting.candidate()
    building = time.perf_counter() - started
    train, val = len(setting.learner.samples.train), len(setting.learner.samples.val)
    few = min(images, train), max(1, round(min(images, train) * val / train))
    training = _fit_as_read(setting, *few, epochs=2)
    epoch = training.epochs[-1].seconds * (train + val) / sum(few)
    return building + setting.recipe.epochs * epoch, sum(few)


def _fit_as_read(setting: Setting, train: int, val: int, epochs: int) -> TrainingRecord:
    """Train on so many samples, whose features are computed when they are read."""
    learner, candidate = setting.learner, setting.candidate()

    def as_read(samples: SampleSource, count: int) -> ThroughTrunk:
        return ThroughTrunk(from_files(samples, setting.files, count), setting.trunk, learner.device)

    return fit(
        candidate.tail,
        as_read(learner.samples.train, train),
        as_read(learner.samples.val, val),
        replace(setting.recipe, epochs=epochs),
        seed=learner.seed,
        device=learner.device,
        class_weights=learner.class_weights,
        description="trial",
    )
