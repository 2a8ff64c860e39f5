"""Images a second when a whole network is fine-tuned: here, and as torchvision's reference scripts do it.

Here the converted network is trained by the recipe `finetune`, from the cache of pixels, which is filled
beforehand. The reference is torchvision's module with a DataLoader that decodes in as many processes as there
are CPUs, channels_last, SGD, and bf16 autocast on a GPU. Both have the same images and batches; the first
epoch, in which processes start and kernels are chosen, does not count.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torchvision
from rich.table import Table
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks import common
from benchmarks.common import Row, Setup, check_image_files, check_names, collect, new_table
from benchmarks.conventional import open_network
from benchmarks.gpu import watched
from benchmarks.torchvision_loader import torchvision_loader
from tascnet.data.dataset import Dataset
from tascnet.errors import ConfigError
from tascnet.models import Preprocessing
from tascnet.options import Images, usable_cpus
from tascnet.report.numbers import MISSING, percent
from tascnet.train import fit
from tascnet.train.setting import computing

OURS, REFERENCE = WAYS = ("tascnet", "torchvision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=1, sections=("trainer",))
    parser.add_argument("--epochs", type=common.count, default=3, help="epochs of a way, two at least")


def run(args: argparse.Namespace) -> None:
    """Time both ways, one row for each and repetition.

    Raises:
        ConfigError: too few epochs, a network that torchvision lacks, or no image files.
    """
    if args.epochs < 2:
        raise ConfigError(f"--epochs {args.epochs} leaves none after the first", "give 2 or more")
    setup = Setup.of(args)
    check_names("network of torchvision", [setup.backbone.name], torchvision.models.list_models())
    check_image_files(setup.data)
    folder = common.open_results(args)
    settings = setup.digest(setup.trainer().recipe("finetune"), args.epochs, usable_cpus())
    seeds = range(setup.seed, setup.seed + args.seeds)
    keys: list[Row] = [{"way": way, "seed": seed, "settings": settings} for seed in seeds for way in WAYS]
    with computing(setup.device, setup.threads) as device:
        rows = collect(folder, keys, lambda key: _row(setup, device, args.epochs, key), "fine-tunings")
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary, setup.backbone.name), device=device)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """By way the median of images a second in the epochs after the first, and its ratio to torchvision's.

    `gpu_busy` and `gpu_bytes` are means, where they are known.
    """
    summary: list[Row] = []
    for (way,), own in common.grouped(rows, "way").items():
        speeds = [row["images"] / seconds for row in own for seconds in row["epoch_seconds"][1:]]
        known = [name for name in ("gpu_busy", "gpu_bytes") if all(name in row for row in own)]
        means = {name: common.mean(own, name) for name in known}
        summary.append({"way": way, "per_second": statistics.median(speeds), **means})
    reference = next(entry["per_second"] for entry in summary if entry["way"] == REFERENCE)
    return [{**entry, "ratio": entry["per_second"] / reference} for entry in summary]


def _row(setup: Setup, device: torch.device, epochs: int, key: Row) -> Row:
    """Seconds of each epoch, and what they ask of a GPU."""
    own = replace(setup, seed=key["seed"])
    chain, learner = open_network(own, device)
    recipe = replace(learner.trainer.recipe("finetune"), epochs=epochs)
    train, classes = learner.samples.train, learner.samples.num_classes
    with watched(device) as asked:
        if key["way"] == OURS:
            chain.requires_grad_(True)
            training = fit(chain, train, None, recipe, seed=own.seed, device=device, keep="last")
            seconds = [epoch.seconds for epoch in training.epochs]
        else:
            known = cast(Dataset, learner.samples.dataset)
            paths = tuple(known.paths[row] for row in train.rows)
            listed = replace(known, paths=paths, labels=known.labels[train.rows])
            batches = {"batch_size": recipe.batch_size, "workers": usable_cpus()}
            loader = torchvision_loader(
                listed, cast(Preprocessing, learner.samples.preprocessing), cast(Images, own.data), **batches
            )
            seconds = reference_epochs(own.backbone.name, classes, loader, epochs, device)
    return {"images": len(train), "epoch_seconds": seconds, **asked}


def reference_epochs(
    name: str, classes: int, loader: DataLoader[Any], epochs: int, device: torch.device
) -> list[float]:
    """Train a network of torchvision with random weights; the seconds of each epoch."""
    network = torchvision.models.get_model(name, num_classes=classes).to(device)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    is_cuda, seconds = device.type == "cuda", []
    for _ in range(epochs):
        started = time.perf_counter()
        for images, labels in loader:
            inputs = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_cuda):
                logits = network(inputs)
                # Some networks have a second classifier for training.
                logits = logits if isinstance(logits, torch.Tensor) else logits[0]
                loss = functional.cross_entropy(logits, labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if is_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def _table(summary: Sequence[Row], network: str) -> Table:
    numbers = ("images a second", "against torchvision", "GPU busy", "GPU memory")
    table = new_table(f"Fine-tuning {network}", ["way"], numbers)
    for row in summary:
        table.add_row(
            row["way"],
            f"{row['per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            percent(row["gpu_busy"]) if "gpu_busy" in row else MISSING,
            f"{row['gpu_bytes'] / 2**20:,.0f} MiB" if "gpu_bytes" in row else MISSING,
        )
    return table
