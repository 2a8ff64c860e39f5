"""Trials an hour through the feature cache, and as published: the whole network at every epoch.

As published, every trial forwards all images through the whole frozen network at every epoch and decodes
them as it goes; here with as many decoding threads as torch has, and without augmentation. Both ways train
the same tail with the same code, batches and threads in one process; what is cached is drawn from all
views of the run. Times do not depend on weights: only the network of `--backbone` has its own, the others
get random ones.
"""

import argparse
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from rich.table import Table

from benchmarks import common
from benchmarks.common import Row, Setup, check_networks, collect, new_table
from benchmarks.gpu import watched
from benchmarks.process import in_own_process
from benchmarks.trials import (
    Setting,
    Trained,
    cached_trial,
    make_cache,
    open_setting,
    published_trial,
    scaled_published_trial,
)
from tascnet.errors import ConfigError
from tascnet.options import Images
from tascnet.report.numbers import MISSING, percent
from tascnet.train.setting import computing

# What a summary takes over of a timed row.
SHOWN = ("backbone", "depth", "weights", "timed_images", "cache_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, sections=("trainer",))
    known = ["vgg16", "resnet50", "densenet121", "mobilenet_v2"]
    parser.add_argument("--backbones", nargs="+", default=known, help="networks that are timed")
    parser.add_argument(
        "--depths", nargs="+", type=common.count, default=[1, 3], help="units that a trial trains"
    )
    parser.add_argument(
        "--images", type=common.count, default=256, help="images of the published epoch that is timed"
    )
    parser.add_argument("--full", nargs="*", default=["mobilenet_v2"], help="networks of whole trials")


def run(args: argparse.Namespace) -> None:
    """Time both ways on every network and depth, one row each, and run both in full where asked for."""
    setup = Setup.of(args)
    check_networks([*args.backbones, *args.full])
    if not isinstance(setup.data, Images):
        raise ConfigError(f"{setup.data.name} holds texts, which are not decoded", "give images")
    folder = common.open_results(args)
    trainer = setup.trainer()
    settings = setup.digest(trainer.recipe("trial"), trainer.class_weights, setup.seed, args.images)
    timed = [("time", name, depth) for name in args.backbones for depth in args.depths]
    full = [("full", name, max(args.depths)) for name in args.full]
    keys: list[Row] = [
        {"kind": kind, "backbone": name, "depth": depth, "settings": settings}
        for kind, name, depth in (*timed, *full)
    ]
    features = folder / "features"
    try:
        with computing(setup.device, setup.threads) as device:
            rows = collect(
                folder, keys, lambda key: _row(setup, features, args.images, device, key), "trials"
            )
    finally:
        shutil.rmtree(features, ignore_errors=True)
    summary = summarise(rows)
    compared = [_compared(row) for row in rows if row["kind"] == "full"]
    tables = [make(part) for make, part in ((_timing_table, summary), (_full_table, compared)) if part]
    common.report(args, folder, rows, summary, *tables, device=device, full=compared)


def bounds(trunk: int, tail: int, train: int, val: int) -> tuple[float, float]:
    """What FLOPs allow as the ratio of two trials' times; training takes three forward passes.

    Args:
        trunk: FLOPs of one sample through the frozen blocks.
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
    """For each timed row the trials an hour, their ratio, its bounds, and what the cache costs."""
    summary: list[Row] = []
    for row in (row for row in rows if row["kind"] == "time"):
        cached, published = row["cached_seconds"], row["published_seconds"]
        ratio, saved = published / cached, published - cached
        bound, bound_of_a_sample = bounds(row["trunk_flops"], row["tail_flops"], row["train"], row["val"])
        summary.append(
            {
                **{name: row[name] for name in SHOWN},
                "published_per_hour": 3600 / published,
                "cached_per_hour": 3600 / cached,
                "ratio": ratio,
                "bound": bound,
                "bound_of_a_sample": bound_of_a_sample,
                "pays_after": math.ceil(row["cache_seconds"] / saved) if saved > 0 else None,
                "gpu_busy": row.get("gpu_busy"),
            }
        )
    return summary


def _row(setup: Setup, features: Path, images: int, device: torch.device, key: Row) -> Row:
    """The rest of a row; features are computed again, so that their time is known."""
    shutil.rmtree(features, ignore_errors=True)
    own = setup.with_backbone(key["backbone"])
    if key["kind"] == "full":
        # Without flipped views both ways see the same values in the same order.
        own = replace(own, data=replace(cast(Images, own.data), flip=False))
        steps = {"cache": _cache_alone, "cached": cached_trial, "published": published_trial}
        return {name: _alone(step, own, key["depth"], features) for name, step in steps.items()}
    setting = open_setting(own, key["depth"], features, device)
    trunk, tail = setting.flops()
    cache_seconds = make_cache(setting)
    published_seconds, timed = scaled_published_trial(setting, images)
    with watched(device) as gpu_figures:
        cached_seconds = cached_trial(setting)[0]
    return {
        "weights": own.backbone.weights,
        "train": len(setting.learner.samples.train),
        "val": len(setting.learner.samples.val),
        "epochs": setting.recipe.epochs,
        "batch_size": setting.recipe.batch_size,
        "trunk_flops": trunk,
        "tail_flops": tail,
        "timed_images": timed,
        "cache_seconds": cache_seconds,
        "published_seconds": published_seconds,
        "cached_seconds": cached_seconds,
        **gpu_figures,
    }


def _alone(step: Callable[[Setting], Trained], setup: Setup, depth: int, features: Path) -> Row:
    """A step in a process of its own: its seconds, accuracy, and peak of memory."""
    (seconds, val_accuracy), peak = in_own_process(_in_setting, step, setup, depth, features)
    return {"seconds": seconds, "val_accuracy": val_accuracy, "peak_bytes": peak}


def _in_setting(step: Callable[[Setting], Trained], setup: Setup, depth: int, features: Path) -> Trained:
    with computing(setup.device, setup.threads) as device:
        return step(open_setting(setup, depth, features, device))


def _cache_alone(setting: Setting) -> Trained:
    return make_cache(setting), None


def _compared(row: Row) -> Row:
    """A row of full runs with the ratio of their times and the difference of their accuracies."""
    cached, published = row["cached"], row["published"]
    return {
        **{name: row[name] for name in ("backbone", "depth", "cache", "cached", "published")},
        "ratio": published["seconds"] / cached["seconds"],
        "val_accuracy_difference": abs(published["val_accuracy"] - cached["val_accuracy"]),
    }


def _timing_table(summary: Sequence[Row]) -> Table:
    images = ", ".join(sorted({str(row["timed_images"]) for row in summary}))
    table = new_table(
        "Trials an hour: as published, and through the feature cache",
        ["network"],
        ("k", "publ.", "cached", "ratio", "bound", "sample", "cache", "pays", "GPU busy"),
        f"k: units that are trained. publ.: one epoch timed on {images} images after a warm-up, "
        "scaled linearly to all images and epochs. bound: of the ratio by FLOPs for the work timed; sample: "
        "for a training sample alone. cache: seconds to compute it once for all trials; pays: after so many.",
    )
    for row in summary:
        table.add_row(
            row["backbone"],
            str(row["depth"]),
            f"{row['published_per_hour']:.1f}",
            f"{row['cached_per_hour']:.0f}",
            *(f"{row[name]:.1f}" for name in ("ratio", "bound", "bound_of_a_sample")),
            f"{row['cache_seconds']:.0f}",
            "never" if row["pays_after"] is None else str(row["pays_after"]),
            MISSING if row["gpu_busy"] is None else percent(row["gpu_busy"]),
        )
    return table


def _full_table(rows: Sequence[Row]) -> Table:
    differences = ", ".join(f"{100 * row['val_accuracy_difference']:.2f}" for row in rows)
    caption = f"difference in validation accuracy: {differences} points"
    numbers = ("seconds", "val acc.", "peak memory")
    table = new_table("Whole trials, each in its own process", ["network", "k", ""], numbers, caption)
    titles = {"cache": "the cache", "cached": "through the cache", "published": "as published"}
    for row in rows:
        for name, title in titles.items():
            part = row[name]
            accuracy = "" if part["val_accuracy"] is None else f"{100 * part['val_accuracy']:.2f} %"
            peak = f"{part['peak_bytes'] / 2**20:.0f} MiB"
            table.add_row(row["backbone"], str(row["depth"]), title, f"{part['seconds']:.1f}", accuracy, peak)
    return table
