"""How listing, decoding and splitting grow with the number of image files: seconds, memory, and a kill.

A folder is filled with tiny images, all different, in `--classes` classes. For each number of files a process
lists them, another one decodes them into the cache and splits them, a third one finds them there. A fourth
one, with a cache of its own, is killed in the middle of decoding and started again: `decoded` is the share
that it decodes then. Memory is the most that a process has resident above what it has after its imports;
pixels, which are mapped from their file, count where they have been read.
"""

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from rich.table import Table

from benchmarks import common
from benchmarks.common import Row, collect, new_table
from benchmarks.process import in_own_process, memory_growth
from tascnet.data import open_samples, pixels
from tascnet.data.places import find_files
from tascnet.models.preprocessing import Decoded, Preprocessing, decode_image
from tascnet.options import ImageFolder
from tascnet.report.numbers import duration, percent
from tascnet.run.console import track

# Side of an image and of what is kept of it, in pixels.
SIDE = 8
# Seconds between two looks at whether half of the images are decoded.
LOOK = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument(
        "--files",
        nargs="+",
        type=lambda text: common.count(text, 1000, 10**8),
        default=[10_000, 100_000, 1_000_000],
        help="numbers of files",
    )
    parser.add_argument("--classes", type=common.count, default=100, help="classes")


def run(args: argparse.Namespace) -> None:
    """One row for each number of files; the images are removed afterwards."""
    folder = common.open_results(args)
    keys: list[Row] = [{"files": files, "classes": args.classes} for files in args.files]
    rows = collect(folder, keys, lambda key: measured(folder / "images", key["files"], key["classes"]))
    common.report(args, folder, rows, rows, _table(rows))


def measured(folder: Path, files: int, classes: int) -> Row:
    """Seconds and bytes for so many files, in processes of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    _draw(root, files, classes)
    row: Row = {}
    try:
        for name, function, cache in (
            ("list", _listed, "cache"),
            ("decode", _opened, "cache"),
            ("open", _opened, "cache"),
        ):
            (row[f"{name}_seconds"], row[f"{name}_bytes"]), _ = in_own_process(function, root, folder / cache)
        _killed_halfway(root, folder / "killed", files)
        row["decoded"] = in_own_process(_decoded, root, folder / "killed")[0] / files
    finally:
        shutil.rmtree(folder)
    return row


def _draw(root: Path, files: int, classes: int) -> None:
    """Write different images of noise."""
    generator = np.random.default_rng(0)
    for number in track(range(files), "draw images"):
        folder = root / f"{number % classes:04d}"
        if number < classes:
            folder.mkdir(parents=True)
        noise = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:08d}.bmp")


def _listed(root: Path, cache: Path) -> tuple[float, int]:
    with memory_growth() as growth:
        started = time.perf_counter()
        find_files(ImageFolder(root=str(root)), cache, fetch=True)
        seconds = time.perf_counter() - started
    return seconds, growth[0]


def _opened(root: Path, cache: Path) -> tuple[float, int]:
    """List, decode or find, and split."""
    preprocessing = Preprocessing(size=SIDE, resize=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    with memory_growth() as growth:
        started = time.perf_counter()
        samples = open_samples(ImageFolder(root=str(root)), preprocessing, seed=0, cache=cache)
        samples.counts()
        seconds = time.perf_counter() - started
    return seconds, growth[0]


def _decoded(root: Path, cache: Path) -> int:
    """How many images are decoded."""
    decoded = 0

    def counting(*arguments: Any, **options: Any) -> Decoded:
        nonlocal decoded
        decoded += 1
        return decode_image(*arguments, **options)

    with patch.object(pixels, "decode_image", counting):
        _opened(root, cache)
    return decoded


def _killed_halfway(root: Path, cache: Path, files: int) -> None:
    """Kill a process that decodes once half of the pixels are written."""
    process = multiprocessing.get_context("spawn").Process(target=_opened, args=(root, cache))
    process.start()
    half = files * SIDE * SIDE * 3 // 2
    while process.is_alive():
        if any(path.stat().st_size >= half for path in cache.glob("pixels/*/.*.part")):
            process.kill()
            process.join()
            return
        time.sleep(LOOK)
    raise RuntimeError("the images were decoded, or could not be, before half of them were written")


def _table(rows: Sequence[Row]) -> Table:
    names = ("files", "listing", "MB", "first start", "MB", "later start", "MB", "decoded again after a kill")
    table = new_table("image files", [], names)
    for row in rows:
        cells = [f"{row['files']:,}"]
        for name in ("list", "decode", "open"):
            cells += [duration(row[f"{name}_seconds"]), f"{row[f'{name}_bytes'] / 1e6:.0f}"]
        table.add_row(*cells, percent(row["decoded"]))
    return table
