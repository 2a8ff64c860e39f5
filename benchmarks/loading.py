"""Images a second through the cache of decoded pixels, without it, and by torchvision's and torch's loaders.

Each way gives all images of the data set once an epoch, shuffled, resized, cropped, flipped and normalised
by the same options, in batches of the same size (that of the recipe `finetune`). With the cache the first
epoch decodes and writes it; without it every epoch decodes; both with as many threads as torchvision's
DataLoader has processes. The files are read once beforehand, so that no way waits for the disk. Each row is
one way and one repetition. Some cached pixels are compared with those of their files.
"""

import argparse
import functools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row, Setup, check_image_files, collect, new_table
from benchmarks.published import image_files, when_read
from benchmarks.torchvision_loader import torchvision_loader
from tascnet.data import evenly, open_samples
from tascnet.data.dataset import Dataset, ImageSource
from tascnet.errors import ConfigError
from tascnet.models.build import preprocessing_of
from tascnet.options import ImageBackbone, Images, usable_cpus
from tascnet.train.setting import computing

WAYS = ("cached", "uncached", "torchvision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=3, sections=("trainer",))
    parser.add_argument("--epochs", type=common.count, default=4, help="epochs of a way, two at least")
    parser.add_argument("--images", type=common.count, default=512, help="images whose pixels are compared")


def run(args: argparse.Namespace) -> None:
    """Time all ways, one row for each and repetition, and compare the cached pixels."""
    if args.epochs < 2:
        raise ConfigError(f"--epochs {args.epochs} leaves none after the first", "give 2 or more")
    setup = Setup.of(args)
    check_image_files(setup.data)
    folder, bench = common.open_results(args), Bench(setup)
    for path in bench.files:
        path.read_bytes()
    settings = setup.digest(bench.dataset.fingerprint, bench.batch_size, args.epochs, usable_cpus())
    keys: list[Row] = [
        {"way": way, "repetition": repetition, "settings": settings}
        for repetition in range(args.seeds)
        for way in WAYS
    ]
    with computing("cpu", setup.threads):
        rows = collect(folder, keys, lambda key: bench.row(key["way"], folder / "cache", args.epochs))
    summary, pixels = summarise(rows), bench.compare_pixels(args.images)
    table = _table(summary, pixels)
    common.report(args, folder, rows, summary, table, pixels=pixels, workers=usable_cpus())


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Medians over repetitions of images a second, in the first and the later epochs, by way.

    `ratio` is that of the later epochs to torchvision's.
    """
    summary: list[Row] = []
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        first = [row["images"] / row["epoch_seconds"][0] for row in own]
        later = [row["images"] / seconds for row in own for seconds in row["epoch_seconds"][1:]]
        speeds = {"first_per_second": statistics.median(first), "later_per_second": statistics.median(later)}
        summary.append({"way": way, **speeds})
    reference = summary[WAYS.index("torchvision")]["later_per_second"]
    return [{**row, "ratio": row["later_per_second"] / reference} for row in summary]


class Bench:
    """The three ways to load the images of one data set."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.augmentation = cast(Images, setup.data)
        self.preprocessing = preprocessing_of(cast(ImageBackbone, setup.backbone))
        self.batch_size = setup.trainer().recipe("finetune").batch_size
        self.dataset = self._opened(setup.cache)
        self.files = image_files(self.dataset) or []
        self.uncached = when_read(self.dataset, self.files, self.preprocessing, usable_cpus())

    def row(self, way: str, cache: Path, epochs: int) -> Row:
        """Seconds of each epoch."""
        shutil.rmtree(cache, ignore_errors=True)
        epoch, seconds = self._epochs(way, cache), []
        try:
            for _ in range(epochs):
                started = time.perf_counter()
                for batch in epoch():
                    del batch
                seconds.append(time.perf_counter() - started)
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        return {"images": len(self.dataset), "epoch_seconds": seconds}

    def compare_pixels(self, count: int) -> Row:
        """How many of `count` images, evenly spaced, have the same pixels in the cache as in their files."""
        rows = evenly(len(self.dataset), count)
        equal = (np.asarray(self.dataset.pixels[rows]) == self.uncached.pixels[rows]).all(axis=(1, 2, 3))
        return {"compared": len(rows), "equal": int(equal.sum())}

    def _opened(self, cache: Path) -> Dataset:
        """The decoded images, from a cache without limit."""
        samples = open_samples(self.setup.data, self.preprocessing, seed=self.setup.seed, cache=cache)
        return cast(Dataset, samples.dataset)

    def _epochs(self, way: str, cache: Path) -> Callable[[], Iterator[Tensor]]:
        """What gives the batches of an epoch; the first cached one opens the data set with an empty cache."""
        if way == "torchvision":
            loader = torchvision_loader(
                *(self.dataset, self.preprocessing, self.augmentation),
                batch_size=self.batch_size,
                workers=usable_cpus(),
            )
            return lambda: (images for images, _ in loader)
        generator = torch.Generator().manual_seed(self.setup.seed)
        opened = functools.cache(lambda: self._opened(cache))
        return lambda: self._batches(opened() if way == "cached" else self.uncached, generator)

    def _batches(self, dataset: Dataset, generator: torch.Generator) -> Iterator[Tensor]:
        """All images once, as fine-tuning reads them."""
        images = ImageSource(dataset, np.arange(len(dataset)), self.preprocessing, self.augmentation)
        for rows in torch.randperm(len(images), generator=generator).split(self.batch_size):
            yield images.batch(rows, generator)


def _table(summary: Sequence[Row], pixels: Row) -> Table:
    caption = f"cached pixels equal those of the files: {pixels['equal']} of {pixels['compared']}"
    table = new_table(
        "Images a second", ["way"], ["first epoch", "later epochs", "against torchvision"], caption
    )
    for row in summary:
        speeds = (f"{row[name]:,.0f}" for name in ("first_per_second", "later_per_second"))
        table.add_row(row["way"], *speeds, f"{row['ratio']:.1f}")
    return table
