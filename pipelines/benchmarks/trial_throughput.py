"""Trials an hour through the feature cache, against the published procedure.

As published, every trial forwards all images through the whole frozen network at every epoch and decodes
them as it goes; here with as many decoding threads as torch has, and without augmentation. Both ways train
the same tail with the same code, batches and threads in one process; what is cached is drawn from all
views of the run. Times do not depend on weights: only the config's own backbone has its own, the others
get random ones.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tascnet.errors import ConfigError
from tascnet.models.weights import BACKBONES
from tascnet.options import Config
from tascnet.run.console import output
from tascnet.run.files import digest_json

from ..session import check_data, resolve_device
from .journal import Row, benchmark_folder, collect, refuse_unknown, write_metrics
from .process import in_own_process
from .throughput_tables import full_table, timing_table
from .trials import (
    Trained,
    cached_trial,
    for_backbone,
    make_cache,
    open_setting,
    published_trial,
    scaled_published_trial,
)

# What is asked for: this share of what the FLOPs allow, at the first depth no more than this ratio.
SHARE = 0.7
ENOUGH = 20.0


def run(config: Config) -> None:
    """Time both ways on every network and depth, run both in full where asked for, print and write.

    Rows are journalled: a comparison that was broken off goes on.

    Raises:
        ConfigError: a network that is unknown, or has fewer units than a depth asks for.
    """
    _check(config)
    device = resolve_device(config)
    folder = benchmark_folder(config)
    options, settings = config.benchmark, _settings(config)
    keys = [
        {"kind": "time", "backbone": name, "depth": depth, "settings": settings}
        for name in options.backbones
        for depth in options.depths
    ]
    keys += [
        {"kind": "full", "backbone": name, "depth": max(options.depths), "settings": settings}
        for name in options.full
    ]
    try:
        rows = collect(folder, keys, lambda key: _work(config, folder / "features", key), "trials")
    finally:
        shutil.rmtree(folder / "features", ignore_errors=True)
    timed = summarise(rows)
    full = [_compared(row) for row in rows if row["kind"] == "full"]
    write_metrics(folder, rows, timed, device, full=full)
    if timed:
        output().print(timing_table(timed))
    if full:
        output().print(full_table(full))


def bounds(trunk: int, tail: int, train: int, val: int) -> tuple[float, float]:
    """What FLOPs allow as the ratio of two trials' times.

    Training takes three forward passes: one forward, two backward.

    Args:
        trunk: FLOPs of one sample through what stays frozen.
        tail: FLOPs of one sample through what is trained.
        train: training samples of an epoch.
        val: validation samples after an epoch.

    Returns:
        The bound of a trial, validation included on both sides; and that of a training sample alone,
        `(trunk forward + tail training) / (tail training)`.
    """
    own = 3 * tail * train + tail * val
    return (trunk * (train + val) + own) / own, (trunk + 3 * tail) / (3 * tail)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """For each timed row the trials an hour, their ratio, its bounds, what was asked for, and the cache."""
    return [_summary(row) for row in rows if row["kind"] == "time"]


def _summary(row: Row) -> Row:
    cached, published = row["cached_seconds"], row["published_seconds"]
    ratio = published / cached
    bound, bound_of_a_sample = bounds(row["trunk_flops"], row["tail_flops"], row["train"], row["val"])
    needed = min(ENOUGH, SHARE * bound) if row["depth"] == 1 else SHARE * bound
    saved = published - cached
    return {
        **{name: row[name] for name in ("backbone", "depth", "weights", "timed_images", "cache_seconds")},
        "published_per_hour": 3600 / published,
        "cached_per_hour": 3600 / cached,
        "ratio": ratio,
        "bound": bound,
        "bound_of_a_sample": bound_of_a_sample,
        "needed": needed,
        "is_enough": ratio >= needed,
        "pays_after": math.ceil(row["cache_seconds"] / saved) if saved > 0 else None,
    }


def _check(config: Config) -> None:
    options = config.benchmark
    asked = [name for name in [*options.backbones, *options.full] if name != config.backbone.name]
    refuse_unknown("network", asked, BACKBONES)
    if not options.depths or min(options.depths) < 1:
        raise ConfigError(f"benchmark.depths is {options.depths}, expected depths from 1 on", "give [1,3]")
    check_data(config)


def _settings(config: Config) -> str:
    """A digest of what changes the rows beside network and depth."""
    backbone = {**asdict(config.backbone)}
    parts = [asdict(config.dataset), backbone, asdict(config.trainer.trial), config.tune.cache_dtype]
    place = [config.seed, config.device, config.threads, config.benchmark.images]
    return digest_json([*parts, config.trainer.class_weights, *place])[:12]


def _work(config: Config, features: Path, key: Row) -> Row:
    """The rest of a row; features are computed anew, so that their time can be told."""
    shutil.rmtree(features, ignore_errors=True)
    own = for_backbone(config, key["backbone"])
    if key["kind"] == "time":
        return _time(own, key["depth"], features)
    # Without flipped views both ways see the same values in the same order.
    plain = replace(own, dataset=replace(own.dataset, flip=False))
    steps = {"cache": _cache_alone, "cached": _cached_alone, "published": _published_alone}
    return {name: _alone(step, plain, key["depth"], features) for name, step in steps.items()}


def _time(config: Config, depth: int, features: Path) -> Row:
    setting = open_setting(config, depth, features)
    trunk, tail = setting.flops()
    cache_seconds = make_cache(setting)
    published_seconds, timed = scaled_published_trial(setting, config.benchmark.images)
    cached = cached_trial(setting)
    return {
        "weights": setting.weights,
        "train": len(setting.session.train),
        "val": len(setting.session.val),
        "epochs": setting.recipe.epochs,
        "batch_size": setting.recipe.batch_size,
        "trunk_flops": trunk,
        "tail_flops": tail,
        "timed_images": timed,
        "cache_seconds": cache_seconds,
        "published_seconds": published_seconds,
        "cached_seconds": cached.seconds,
    }


def _alone(step: Any, config: Config, depth: int, features: Path) -> Row:
    """A step in a process of its own: its seconds, accuracy, and peak of memory."""
    trained, peak = in_own_process(step, config, depth, features)
    return {**asdict(trained), "peak_bytes": peak}


def _cache_alone(config: Config, depth: int, features: Path) -> Trained:
    resolve_device(config)
    return Trained(seconds=make_cache(open_setting(config, depth, features)), val_accuracy=None)


def _cached_alone(config: Config, depth: int, features: Path) -> Trained:
    resolve_device(config)
    return cached_trial(open_setting(config, depth, features))


def _published_alone(config: Config, depth: int, features: Path) -> Trained:
    resolve_device(config)
    return published_trial(open_setting(config, depth, features))


def _compared(row: Row) -> Row:
    """A row of full runs with the ratio of their times and the difference of their accuracies."""
    cached, published = row["cached"], row["published"]
    return {
        **{name: row[name] for name in ("backbone", "depth", "cache", "cached", "published")},
        "ratio": published["seconds"] / cached["seconds"],
        "val_accuracy_difference": abs(published["val_accuracy"] - cached["val_accuracy"]),
    }
