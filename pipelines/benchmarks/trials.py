"""One trial of the search, run through the feature cache or as published."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.options import Config, TuneConfig
from tascnet.train import FitResult, Recipe, fit, reestimate_batchnorm
from tascnet.tuning import Candidate

from ..backbone import load_source, softmax_network
from ..session import Session, open_session, recipe
from ..steps import join
from ..tuning.space import Search, open_search
from ..tuning.stage import TuneStage
from ..tuning.trials import train_candidate
from .published import ThroughTrunk, from_files, image_files

# Images that give a randomly initialised network sane batch-norm statistics.
SETTLING = 64


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trial that was run: how long it took, and how good it is."""

    seconds: float
    val_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network at a depth, and the data that its trials run on.

    Args:
        search: of stage `tune`; its trials train the pre-trained layers as they are.
        depth: units that a trial trains, beside the dense head.
        files: the image file of each row of the data set; None where there are none.
    """

    search: Search
    depth: int
    files: Sequence[Path] | None

    @property
    def session(self) -> Session:
        """Data, device and training."""
        return self.search.stage.session

    @property
    def weights(self) -> str:
        """Where the network's weights come from."""
        return self.search.stage.source.weights

    @property
    def cut(self) -> int:
        """Index of the first block that a trial trains."""
        return self.search.space.units[self.depth].block

    @property
    def trunk(self) -> nn.Sequential:
        """What stays frozen."""
        return self.search.chain[: self.cut].eval()

    @property
    def recipe(self) -> Recipe:
        """How a trial is trained."""
        return recipe(self.session.config.trainer.trial)

    def candidate(self) -> Candidate:
        """A fresh copy of what a trial trains; both ways to run one train the same."""
        candidate = self.search.build(self.search.space.neutral(self.depth))
        self.session.place(candidate.tail)
        return candidate

    def flops(self) -> tuple[int, int]:
        """Of one sample through the trunk and through what a trial trains."""
        names = {name for name, _ in self.trunk.named_children()}
        layers = complexity(self.search.chain, self.session.example).layers
        trunk = sum(layer.flops for layer in layers if layer.name.partition(".")[0] in names)
        return trunk, sum(layer.flops for layer in layers) - trunk


def for_backbone(config: Config, name: str) -> Config:
    """The config with another backbone, of random weights unless it is the config's own."""
    if name == config.backbone.name:
        return config
    backbone = replace(config.backbone, name=name, weights="random", factory=None, options={})
    return replace(config, backbone=backbone)


def open_setting(config: Config, depth: int, features: Path) -> Setting:
    """Load data and network.

    Args:
        config: of its options of `tune` only the type of cached features counts.
        depth: units that trials train, beside the dense head.
        features: folder of cached features.

    Raises:
        ConfigError: the network has fewer tunable units than `depth`.
    """
    config = replace(config, tune=TuneConfig(max_units=depth, cache_dtype=config.tune.cache_dtype))
    source = load_source(config)
    session = replace(open_session(config), cache=features)
    chain = softmax_network(source, session)
    if source.weights == "random":
        few = from_files(session.train, None, SETTLING)
        reestimate_batchnorm(chain, few, device=session.device)
    stage = TuneStage(session=session, source=source, folder=features, output=features)
    search = open_search(stage, chain)
    if search.space.depth < depth:
        raise ConfigError(
            f"{config.backbone.name} has {search.space.depth} tunable units, but benchmark.depths asks for "
            f"{depth}",
            "ask for fewer",
        )
    return Setting(search=search, depth=depth, files=image_files(session.dataset))


def make_cache(setting: Setting) -> float:
    """Compute the features that trials read, from the image files; the seconds that it took."""
    started = time.perf_counter()
    session = setting.session
    train, val = (from_files(part, setting.files, len(part)) for part in (session.train, session.val))
    stage = replace(setting.search.stage, session=replace(session, train=train, val=val))
    stage.features(setting.search.chain, setting.cut)
    return time.perf_counter() - started


def cached_trial(setting: Setting) -> Trained:
    """Run a trial as stage `tune` does, on features that `make_cache` has computed."""
    started = time.perf_counter()
    candidate = setting.candidate()
    # The stage journals the network's size with the trial.
    complexity(join(setting.trunk, candidate.tail), setting.session.example)
    _, result = train_candidate(setting.search, candidate, "trial")
    return Trained(seconds=time.perf_counter() - started, val_accuracy=result.best_val_accuracy)


def published_trial(setting: Setting) -> Trained:
    """Run a trial as published: each epoch decodes all images and sends them through the whole network."""
    started = time.perf_counter()
    session, candidate = setting.session, setting.candidate()
    sources = _as_read(setting, len(session.train), len(session.val))
    result = _fit(setting, candidate, sources)
    return Trained(seconds=time.perf_counter() - started, val_accuracy=result.best_val_accuracy)


def scaled_published_trial(setting: Setting, images: int) -> tuple[float, int]:
    """What a trial as published would take, from one of its epochs on fewer images.

    Args:
        setting: network, depth and data.
        images: training images of that epoch; it has its share of validation images beside them, and
            follows on another one that warms up.

    Returns:
        The seconds of a whole trial, scaled linearly; and how many images the epoch had, all told.
    """
    started = time.perf_counter()
    candidate = setting.candidate()
    building = time.perf_counter() - started
    train, val = len(setting.session.train), len(setting.session.val)
    count = min(images, train)
    sources = _as_read(setting, count, max(1, round(count * val / train)))
    result = _fit(setting, candidate, sources, epochs=2)
    timed = sum(map(len, sources))
    epoch = result.epochs[-1].seconds * (train + val) / timed
    return building + setting.recipe.epochs * epoch, timed


def _as_read(setting: Setting, train: int, val: int) -> tuple[ThroughTrunk, ThroughTrunk]:
    """Training and validation samples, so many of each, whose features are computed when they are read."""
    session = setting.session
    images = (from_files(session.train, setting.files, train), from_files(session.val, setting.files, val))
    first, second = (ThroughTrunk(part, setting.trunk, session.device) for part in images)
    return first, second


def _fit(
    setting: Setting, candidate: Candidate, sources: tuple[data.Source, data.Source], **changes: Any
) -> FitResult:
    session = setting.session
    return fit(
        candidate.tail,
        *sources,
        replace(setting.recipe, **changes),
        seed=session.config.seed,
        device=session.device,
        class_weights=session.class_weights,
        description="trial",
    )
