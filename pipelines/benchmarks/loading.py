"""Images a second that reach the network, by three ways to load them, and whether cached pixels are right.

Each way gives all images of the data set once an epoch, shuffled, resized, cropped, flipped and normalised
by the same options, in batches of the same size. With the cache the first epoch decodes and writes it;
without it every epoch decodes; both with as many threads as torchvision's DataLoader has processes. The files
are read once beforehand, so that no way waits for the disk. Each row is one way and one repetition.
"""

import functools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor

from tascnet import data
from tascnet.errors import ConfigError
from tascnet.models.info import Preprocessing
from tascnet.options import TEXT_DATASETS, Config
from tascnet.run.console import output
from tascnet.run.files import digest_json

from ..datasets import load_images
from ..session import backbone_preprocessing, check_data, resolve_device
from .journal import Row, benchmark_folder, collect, write_metrics
from .published import image_files, when_read
from .torchvision_loader import torchvision_loader

# Data sets that come as arrays or texts.
IN_NO_FILES = ("digits", "cifar10", *TEXT_DATASETS)
WAYS = ("cached", "uncached", "torchvision")


def run(config: Config) -> None:
    """Time all ways, compare the cached pixels, print the table and write the benchmark's `metrics.json`.

    Raises:
        ConfigError: the data set has no image files.
    """
    if config.dataset.name in IN_NO_FILES:
        raise ConfigError(
            f"benchmark=loading decodes image files, but those of dataset={config.dataset.name} are in none",
            "take dataset=image_folder or a data set of photographs",
        )
    # Cached is what is timed: where the pixels do not fit there is nothing to compare.
    config = replace(config, dataset=replace(config.dataset, keep_pixels="always"))
    check_data(config)
    resolve_device(config)
    folder = benchmark_folder(config)
    preprocessing = backbone_preprocessing(config.backbone)
    dataset = load_images(config, preprocessing)
    keys = [
        {"way": way, "repetition": repetition, "settings": _settings(config, dataset)}
        for repetition in range(config.benchmark.seeds)
        for way in WAYS
    ]
    _read_all(dataset)
    rows = collect(folder, keys, lambda key: _row(config, folder / "cache", dataset, preprocessing, key))
    summary = summarise(rows)
    pixels = compare_pixels(dataset, preprocessing, config.benchmark.images)
    write_metrics(folder, rows, summary, pixels=pixels, workers=workers())
    output().print(loading_table(summary, pixels))


def workers() -> int:
    """Threads or processes that decode: one for each CPU."""
    return data.usable_cpus()


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Medians over repetitions of images a second, in the first and the later epochs, by way.

    `ratio` is that of the later epochs to torchvision's.
    """
    summary: list[Row] = []
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        first = [row["images"] / row["epoch_seconds"][0] for row in own]
        later = [row["images"] / seconds for row in own for seconds in row["epoch_seconds"][1:]]
        summary.append(
            {
                "way": way,
                "first_per_second": statistics.median(first),
                "later_per_second": statistics.median(later),
            }
        )
    reference = summary[WAYS.index("torchvision")]["later_per_second"]
    return [{**row, "ratio": row["later_per_second"] / reference} for row in summary]


def compare_pixels(dataset: data.Dataset, preprocessing: Preprocessing, count: int) -> Row:
    """How many of `count` images, evenly spaced, have the same pixels in the cache as in their files."""
    rows = data.evenly(len(dataset), count)
    from_files = _uncached(dataset, preprocessing).pixels[rows]
    equal = (np.asarray(dataset.pixels[rows]) == from_files).all(axis=(1, 2, 3))
    return {"compared": len(rows), "equal": int(equal.sum())}


def loading_table(summary: Sequence[Row], pixels: Row) -> Table:
    """Images a second by way."""
    table = Table(
        title="Images a second",
        caption=f"cached pixels equal those of the files: {pixels['equal']} of {pixels['compared']}",
        caption_justify="left",
        box=box.SIMPLE,
    )
    for name in ("way", "first epoch", "later epochs", "against torchvision"):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for row in summary:
        speeds = (f"{row[name]:,.0f}" for name in ("first_per_second", "later_per_second"))
        table.add_row(row["way"], *speeds, f"{row['ratio']:.1f}")
    return table


def _settings(config: Config, dataset: data.Dataset) -> str:
    options, batch = config.dataset, config.trainer.finetune.batch_size
    parts = [dataset.fingerprint, asdict(config.backbone), options.flip, options.min_scale, options.pad]
    return digest_json([*parts, batch, config.benchmark.epochs, config.threads, workers()])[:12]


def _row(config: Config, cache: Path, dataset: data.Dataset, preprocessing: Preprocessing, key: Row) -> Row:
    epochs = {"cached": _cached_epochs, "uncached": _uncached_epochs, "torchvision": _torchvision_epochs}
    shutil.rmtree(cache, ignore_errors=True)
    try:
        one = epochs[key["way"]](replace(config, cache_dir=str(cache)), dataset, preprocessing)
        seconds = [_timed(one) for _ in range(config.benchmark.epochs)]
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    return {"images": len(dataset), "epoch_seconds": seconds}


def _timed(epoch: Callable[[], Iterator[Tensor]]) -> float:
    started = time.perf_counter()
    for batch in epoch():
        del batch
    return time.perf_counter() - started


def _cached_epochs(
    config: Config, dataset: data.Dataset, preprocessing: Preprocessing
) -> Callable[[], Iterator[Tensor]]:
    """The first epoch opens the data set and finds an empty cache."""
    generator = torch.Generator().manual_seed(config.seed)
    opened = functools.cache(lambda: load_images(config, preprocessing))
    return lambda: _batches(config, opened(), preprocessing, generator)


def _uncached_epochs(
    config: Config, dataset: data.Dataset, preprocessing: Preprocessing
) -> Callable[[], Iterator[Tensor]]:
    generator = torch.Generator().manual_seed(config.seed)
    return lambda: _batches(config, _uncached(dataset, preprocessing), preprocessing, generator)


def _torchvision_epochs(
    config: Config, dataset: data.Dataset, preprocessing: Preprocessing
) -> Callable[[], Iterator[Tensor]]:
    loader = torchvision_loader(
        dataset,
        preprocessing,
        _augmentation(config),
        batch_size=config.trainer.finetune.batch_size,
        workers=workers(),
    )
    return lambda: (images for images, _ in loader)


def _batches(
    config: Config, dataset: data.Dataset, preprocessing: Preprocessing, generator: torch.Generator
) -> Iterator[Tensor]:
    """All images once, as fine-tuning reads them."""
    source = data.ImageSource(dataset, np.arange(len(dataset)), preprocessing, _augmentation(config))
    order = torch.randperm(len(source), generator=generator)
    for rows in order.split(config.trainer.finetune.batch_size):
        yield source.batch(rows, generator)


def _uncached(dataset: data.Dataset, preprocessing: Preprocessing) -> data.Dataset:
    files = image_files(dataset)
    assert files is not None
    return when_read(dataset, files, preprocessing, workers())


def _augmentation(config: Config) -> data.Augmentation:
    options = config.dataset
    return data.Augmentation(flip=options.flip, min_scale=options.min_scale, pad=options.pad)


def _read_all(dataset: data.Dataset) -> None:
    """Bring the files into the system's memory."""
    for path in image_files(dataset) or []:
        path.read_bytes()
