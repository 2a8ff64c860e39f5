"""Both stages, from the command line, on networks of many families and a few tiny images.

Each network has random weights: what is seen is whether everything runs and the result can be loaded, not how
accurate it is.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table

import tascnet
from benchmarks import common
from benchmarks.backbones import all_networks, is_convolutional, original, smallest_image
from benchmarks.common import RUNS, Row, collect, count, new_table
from tascnet.cli.ending import STOPPED, TERMINATED
from tascnet.cli.main import main
from tascnet.run.records import PruneMetrics, read_record

CLASSES, IMAGES = ("dark", "light", "mixed"), 10
# Of the recipes and stages: as little as exercises every part.
SMALL = (
    *("stage=full", "dataset=image_folder", "dataset.train=6", "dataset.val=2", "backbone.weights=random"),
    *("tune.max_trials=2", "tune.initial_trials=1", "tune.max_units=2", "prune.max_iterations=1"),
    *("prune.epochs=1", "prune.min_filters=4", "prune.tolerance=1", "measure.repeats=3"),
    *("trainer.head.epochs=1", "trainer.trial.epochs=1", "trainer.finetune.epochs=1"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--networks", nargs="+", help="names; one of each family if left out")
    parser.add_argument("--count", type=count, default=24, help="then, how many, the smallest first")


def run(args: argparse.Namespace) -> None:
    """One row for each network."""
    folder = common.open_results(args)
    images = folder / "images"
    _write_images(images)
    names = args.networks or _smallest(args.count)
    keys: list[Row] = [{"network": name} for name in names]
    rows = collect(folder, keys, lambda key: _row(key, images, folder / RUNS), "networks")
    finished = sum(row["code"] == 0 for row in rows)
    common.report(args, folder, rows, {"networks": len(rows), "finished": finished}, _table(rows))


def _smallest(wanted: int) -> list[str]:
    """The smallest convolutional network of each family, which is the module that defines it."""
    families: dict[str, tuple[int, str]] = {}
    for name in all_networks():
        module = original(name)
        family = type(module).__module__
        found = sum(parameter.numel() for parameter in module.parameters()), name
        is_smaller = family not in families or found < families[family]
        if is_smaller and is_convolutional(module, smallest_image(name, module)):
            families[family] = found
    return [name for _, name in sorted(families.values())[:wanted]]


def _row(key: Row, images: Path, runs: Path) -> Row:
    example = smallest_image(key["network"], original(key["network"]))
    place = runs / key["network"].replace("/", "-")
    started = time.perf_counter()
    code = main(
        [
            *(*SMALL, f"backbone={key['network']}", f"backbone.size={example.shape[-1]}"),
            *(f"dataset.root={images}", f"outputs={place}", "name=run"),
        ]
    )
    if code in (STOPPED, TERMINATED):
        raise KeyboardInterrupt
    row: Row = {"side": example.shape[-1], "code": code, "seconds": time.perf_counter() - started}
    if code == 0:
        (model,) = place.glob("**/prune/model")
        models = read_record(model.parent / "metrics.json", PruneMetrics).models
        with torch.no_grad():
            output = tascnet.load(model)(example)
        row |= {
            "outputs": list(output.shape),
            "flops": models["after"].flops / models["before"].flops,
        }
    return row


def _write_images(root: Path) -> None:
    """A few images of each class, which differ in brightness."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(IMAGES):
            pixels = generator.integers(60 * number, 60 * number + 120, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def _table(rows: Sequence[Row]) -> Table:
    table = new_table("Both stages", ["network"], ["pixels", "exit code", "seconds", "FLOPs left"])
    for row in rows:
        left = f"{row['flops']:.0%}" if "flops" in row else ""
        table.add_row(row["network"], str(row["side"]), str(row["code"]), f"{row['seconds']:.0f}", left)
    return table
