"""Images a second of stage predict, beside a loop over torchvision and ONNX Runtime written by hand.

Each way names the classes of all images of a folder by the same exported file and writes them as CSV: ours as
the stage does, the loop with torchvision's transforms and torch's DataLoader, which decodes in the main
process, or in two of its own. A file that prepares images itself is given each by the loop as Pillow reads
it. Ways take turns, each time in a fresh process; reading the model is not timed. Memory is what such a
process has more at its peak than before the first image; that of ours is measured for four times as many
images too.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import common
from benchmarks.common import Row, collect, new_table
from benchmarks.process import in_own_process, memory_growth
from tascnet.errors import ConfigError
from tascnet.exporting import installed
from tascnet.exporting.inputs import Inputs
from tascnet.exporting.models import open_model
from tascnet.exporting.onnx_file import read_metadata
from tascnet.exporting.predict import predict_each
from tascnet.exporting.predictions import write_predictions
from tascnet.models import Preprocessing
from tascnet.report.numbers import MISSING
from tascnet.run.files import digest_file, digest_json

WAYS = ("ours", "loop", "loop, 2 processes")
TIMES = 4
TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=3)
    parser.add_argument("--model", type=Path, required=True, help="an exported .onnx of images")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--most", type=common.count, help="images that are read, all if left out")
    parser.add_argument("--batch-size", type=common.count, default=32, help="images that run together")


def run(args: argparse.Namespace) -> None:
    """Time all ways in turn, one row for each and repetition, and measure the memory of ours."""
    installed.need("onnxruntime", "model")
    if not isinstance(read_metadata(args.model).preprocessing, Preprocessing):
        raise ConfigError(f"--model {args.model} takes texts", "give a model of images")
    paths = [*Inputs(args.images, is_text=False)][: args.most]
    for path in paths:
        Path(path).read_bytes()
    folder = common.open_results(args)
    work = {"model": str(args.model), "paths": paths, "batch_size": args.batch_size, "threads": args.threads}
    settings = digest_json([digest_file(args.model), *work.values()])
    keys: list[Row] = [
        {"way": way, "repetition": repetition, "times": 1, "settings": settings}
        for repetition in range(args.seeds)
        for way in WAYS
    ]
    keys.append({"way": WAYS[0], "repetition": 0, "times": TIMES, "settings": settings})
    rows = collect(folder, keys, lambda key: row_of(key, work))
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary, len(paths)), images=len(paths))


def row_of(key: Row, work: Row) -> Row:
    """Seconds and memory of one way, in a process of its own, and a digest of its classes."""
    return in_own_process(timed, key["way"], key["times"], **work)[0]


def timed(
    way: str, times: int, *, model: str, paths: Sequence[str], batch_size: int, threads: int | None
) -> Row:
    """Seconds until the classes of all images are written, `times` over, without reading the model."""
    paths = [*chain.from_iterable(repeat(paths, times))]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "predictions.csv"
        start = _ours if way == WAYS[0] else _loop
        workers = 2 if way == WAYS[2] else 0
        work = start(model, batch_size, threads, workers)
        with memory_growth() as growth:
            began = time.perf_counter()
            work(paths, output)
            seconds = time.perf_counter() - began
        with open(output, encoding="utf-8", newline="") as file:
            classes = [line["class"] for line in csv.DictReader(file)]
    own = {"images": len(paths), "seconds": seconds, "classes": digest_json(classes)}
    return {**own, "growth_bytes": growth[0] if growth else None}


Work = Callable[[Sequence[str], Path], Any]


def _ours(model: str, batch_size: int, threads: int | None, _: int) -> Work:
    opened = open_model(model, threads=threads)

    def work(paths: Sequence[str], output: Path) -> None:
        records = predict_each(opened, paths, top=TOP, batch_size=batch_size, threads=threads)
        write_predictions(records, [output, output.with_suffix(".jsonl")], top=TOP)

    return work


def _loop(model: str, batch_size: int, threads: int | None, workers: int) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metadata = read_metadata(Path(model))
    preprocessing = metadata.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    takes_pixels = metadata.preprocess == "inside"
    transform = _pixels if takes_pixels else usual_transform(preprocessing)
    name = session.get_inputs()[0].name

    def work(paths: Sequence[str], output: Path) -> None:
        size = 1 if takes_pixels else batch_size
        # As in a script of its own; here the start of processes would count, each of which imports torch.
        context = "fork" if workers else None
        files = _Files(paths, transform)
        loader = DataLoader(files, batch_size=size, num_workers=workers, multiprocessing_context=context)
        lines = _classified(loader, lambda batch: session.run(None, {name: batch.numpy()})[0])
        with open(output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "class", "probability"])
            for path, (label, share) in zip(paths, lines, strict=True):
                writer.writerow([path, metadata.class_names[label], share])

    return work


def _classified(
    batches: Iterable[torch.Tensor], infer: Callable[[torch.Tensor], np.ndarray[Any, Any]]
) -> Iterator[tuple[int, float]]:
    for batch in batches:
        shares = torch.from_numpy(infer(batch)).softmax(1).max(1)
        yield from zip(shares.indices.tolist(), shares.values.tolist(), strict=True)


class _Files(torch.utils.data.Dataset[torch.Tensor]):
    """Images in files, as one writes it in a few lines."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def usual_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], torch.Tensor]:
    """torchvision's own transforms for the same resizing, crop and normalisation."""
    side = preprocessing.resize
    size: Any = side if preprocessing.crop == "center" else (side, side)
    composed: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode(preprocessing.interpolation)),
            transforms.CenterCrop(preprocessing.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return composed


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def summarise(rows: Sequence[Row]) -> list[Row]:
    """By way the median of images a second, its ratio to ours, and the median of the memory in bytes.

    `bytes_of_more` is that of ours for four times as many images; None for the others.
    """
    summary: list[Row] = []
    for way in WAYS:
        own = [row for row in rows if row["way"] == way and row["times"] == 1]
        speed = statistics.median(row["images"] / row["seconds"] for row in own)
        summary.append({"way": way, "per_second": speed, "bytes": _memory(own), "bytes_of_more": None})
    summary[0]["bytes_of_more"] = _memory([row for row in rows if row["times"] == TIMES])
    return [{**row, "ours_to_it": summary[0]["per_second"] / row["per_second"]} for row in summary]


def _memory(rows: Sequence[Row]) -> float | None:
    known = [row["growth_bytes"] for row in rows if row["growth_bytes"] is not None]
    return statistics.median(known) if known else None


def _table(summary: Sequence[Row], images: int) -> Table:
    headings = ["images/s", "ours to it", "MB", f"MB, {TIMES} times as many"]
    table = new_table("Images a second", ["way"], headings, f"{images:,} images")
    for row in summary:
        sizes = (
            MISSING if row[key] is None else f"{row[key] / 1e6:,.0f}" for key in ("bytes", "bytes_of_more")
        )
        table.add_row(row["way"], f"{row['per_second']:,.0f}", f"{row['ours_to_it']:.2f}", *sizes)
    return table
