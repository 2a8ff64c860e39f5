"""One trial of the search, run through the feature cache or as published."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.config import Config
from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.models.head import HeadSpec, replace_head
from tascnet.train import FitResult, Recipe, fit, reestimate_batchnorm
from tascnet.tune import Candidate, Space, build_candidate, discover_units

from ..backbone import load_source
from ..session import Session, open_session, recipe
from ..steps import join
from .published import ThroughTrunk, from_files, image_files

__all__ = [
    "Setting",
    "Trained",
    "cached_trial",
    "for_backbone",
    "make_cache",
    "open_setting",
    "published_trial",
    "scaled_published_trial",
]

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
        session: data, device and training.
        weights: where the network's weights come from.
        chain: the network with a new softmax layer.
        space: its configurations.
        depth: units that a trial trains, beside the dense head.
        features: folder of cached features.
        files: the image file of each row of the data set; None where there are none.
    """

    session: Session
    weights: str
    chain: nn.Sequential
    space: Space
    depth: int
    features: Path
    files: Sequence[Path] | None

    @property
    def cut(self) -> int:
        """Index of the first block that a trial trains."""
        return self.space.units[self.depth].block

    @property
    def trunk(self) -> nn.Sequential:
        """What stays frozen."""
        return self.chain[: self.cut].eval()

    @property
    def recipe(self) -> Recipe:
        """How a trial is trained."""
        return recipe(self.session.config.trainer.trial)

    def flops(self) -> tuple[int, int]:
        """Of one sample through the trunk and through what a trial trains."""
        names = {name for name, _ in self.trunk.named_children()}
        layers = complexity(self.chain, self.session.example).layers
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

    Raises:
        ConfigError: the network has fewer tunable units than `depth`.
    """
    source = load_source(config)
    session = open_session(config)
    head = HeadSpec(hidden=(), dropout=0.0)
    chain = session.place(replace_head(source.chain, head, session.num_classes, seed=config.seed))
    if source.weights == "random":
        few = from_files(session.train, None, SETTLING)
        reestimate_batchnorm(chain, few, device=session.device)
    space = Space(discover_units(chain, session.example, max_units=depth))
    if space.depth < depth:
        raise ConfigError(
            f"{config.backbone.name} has {space.depth} tunable units, but benchmark.depths asks for {depth}",
            "ask for fewer",
        )
    return Setting(
        session=session,
        weights=source.weights,
        chain=chain,
        space=space,
        depth=depth,
        features=features,
        files=image_files(config, session.dataset),
    )


def make_cache(setting: Setting) -> float:
    """Compute the features that trials read, from the image files; the seconds that it took."""
    started = time.perf_counter()
    session = setting.session
    _features(
        setting,
        from_files(session.train, setting.files, len(session.train)),
        from_files(session.val, setting.files, len(session.val)),
    )
    return time.perf_counter() - started


def cached_trial(setting: Setting) -> Trained:
    """Run a trial as stage `tune` does, on features that `make_cache` has computed."""
    started = time.perf_counter()
    session, candidate = setting.session, _candidate(setting)
    # The stage journals the network's size with the trial.
    complexity(join(setting.trunk, candidate.tail), session.example)
    result = _fit(setting, candidate, _features(setting, session.train, session.val))
    return Trained(seconds=time.perf_counter() - started, val_accuracy=result.best_val_accuracy)


def published_trial(setting: Setting) -> Trained:
    """Run a trial as published: each epoch decodes all images and sends them through the whole network."""
    started = time.perf_counter()
    session, candidate = setting.session, _candidate(setting)
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
    candidate = _candidate(setting)
    building = time.perf_counter() - started
    train, val = len(setting.session.train), len(setting.session.val)
    count = min(images, train)
    sources = _as_read(setting, count, max(1, round(count * val / train)))
    result = _fit(setting, candidate, sources, epochs=2)
    timed = sum(map(len, sources))
    epoch = result.epochs[-1].seconds * (train + val) / timed
    return building + setting.recipe.epochs * epoch, timed


def _candidate(setting: Setting) -> Candidate:
    """The pre-trained layers of a depth: both ways to run a trial train the same network."""
    session = setting.session
    candidate = build_candidate(
        setting.chain,
        setting.space,
        setting.space.neutral(setting.depth),
        session.example,
        num_classes=session.num_classes,
        importance=session.config.tune.importance,
        seed=session.config.seed,
    )
    session.place(candidate.tail)
    return candidate


def _features(
    setting: Setting, train: data.ImageSource, val: data.ImageSource
) -> tuple[data.FeatureSource, data.FeatureSource]:
    """Cached features of training samples in all views of the run, and of validation samples."""
    session, trunk = setting.session, setting.trunk
    options: dict[str, Any] = {
        "folder": setting.features,
        "trunk_digest": data.module_digest(trunk),
        "dtype": session.config.tune.cache_dtype,
        "limit_gb": session.config.cache_limit_gb,
        "device": session.device,
    }
    return (
        data.cached_features(trunk, train, views=session.views, **options).resident(session.device),
        data.cached_features(trunk, val, **options).resident(session.device),
    )


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
