"""Images a second when a whole network is fine-tuned: here, and by a plain loop over torchvision's module.

Here the converted network is trained by the recipe `finetune`, which leaves the statistics of batch-norm as
they are, from the cache of pixels, which is filled beforehand. The reference has channels_last, SGD, bf16
autocast on a GPU, and a DataLoader that decodes in as many processes as there are CPUs. All ways have the
same images and size of batches. An epoch beforehand, in which processes start, kernels are chosen and pixels
are copied to the GPU, does not count. `--compiled` adds steps that torch.compile has compiled, without the
epoch in which this happens; how busy the GPU is in the others is not known.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torchvision
from rich.table import Table
from torch.nn import functional

from benchmarks import common
from benchmarks.common import Row, Setup, check_image_files, check_names, collect, new_table
from benchmarks.conventional import open_network
from benchmarks.gpu import watched
from benchmarks.torchvision_loader import torchvision_loader
from benchmarks.trials import settle
from tascnet.data.dataset import Dataset
from tascnet.models import Preprocessing
from tascnet.options import Images, usable_cpus
from tascnet.report.numbers import MISSING, percent
from tascnet.train import Learner, fit
from tascnet.train.setting import computing

OURS, COMPILED, REFERENCE = "tascnet", "tascnet, compiled", "torchvision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=1, sections=("trainer",))
    parser.add_argument("--epochs", type=common.count, default=3, help="epochs that are timed")
    parser.add_argument("--compiled", action="store_true", help="train by compiled steps too")


def run(args: argparse.Namespace) -> None:
    """Time all ways, one row for each and repetition.

    Raises:
        ConfigError: a network that torchvision lacks, or no image files.
    """
    setup = Setup.of(args)
    check_names("network of torchvision", [setup.backbone.name], torchvision.models.list_models())
    check_image_files(setup.data)
    folder = common.open_results(args)
    settings = setup.digest(setup.trainer().recipe("finetune"), args.epochs, usable_cpus())
    seeds = range(setup.seed, setup.seed + args.seeds)
    ways = (OURS, *([COMPILED] if args.compiled else []), REFERENCE)
    keys: list[Row] = [{"way": way, "seed": seed, "settings": settings} for seed in seeds for way in ways]
    with computing(setup.device, setup.threads) as device:
        rows = collect(folder, keys, lambda key: _row(setup, device, args.epochs, key), "fine-tunings")
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary, setup.backbone.name), device=device)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """By way the median of images a second over the epochs, and its ratio to torchvision's.

    `gpu_busy` and `gpu_bytes` are means, where they are known.
    """
    summary: list[Row] = []
    for (way,), own in common.grouped(rows, "way").items():
        speeds = [row["images"] / seconds for row in own for seconds in row["epoch_seconds"]]
        known = [name for name in ("gpu_busy", "gpu_bytes") if all(name in row for row in own)]
        means = {name: common.mean(own, name) for name in known}
        summary.append({"way": way, "per_second": statistics.median(speeds), **means})
    reference = next(entry["per_second"] for entry in summary if entry["way"] == REFERENCE)
    return [{**entry, "ratio": entry["per_second"] / reference} for entry in summary]


def _row(setup: Setup, device: torch.device, epochs: int, key: Row) -> Row:
    """Seconds of each epoch, and how busy a GPU is."""
    own, is_ours, is_compiled = (
        replace(setup, seed=key["seed"]),
        key["way"] != REFERENCE,
        key["way"] == COMPILED,
    )
    chain, learner = open_network(own, device if is_ours else torch.device("cpu"))
    recipe = replace(learner.trainer.recipe("finetune"), epoch_share=1.0, compile=is_compiled)
    train = learner.samples.train
    if is_ours:
        settle(own, chain, learner)

    def ours(epochs: int) -> list[float]:
        chain.requires_grad_(True)
        recipe_of_all = replace(recipe, epochs=epochs)
        training = fit(chain, train, None, recipe_of_all, seed=own.seed, device=device, keep="last")
        return [epoch.seconds for epoch in training.epochs]

    epochs_of = ours if is_ours else Reference(own, learner, recipe.batch_size, device)
    epochs_of(1)
    with watched(device) as gpu_figures:
        # Each training is compiled for itself.
        seconds = epochs_of(epochs + 1)[1:] if is_compiled else epochs_of(epochs)
    if is_compiled:
        gpu_figures.pop("gpu_busy", None)
    return {"images": len(train), "epoch_seconds": seconds, **gpu_figures}


class Reference:
    """A network of torchvision with random weights, trained in a plain loop."""

    def __init__(self, setup: Setup, learner: Learner, batch_size: int, device: torch.device) -> None:
        samples = learner.samples
        known, rows = cast(Dataset, samples.dataset), samples.train.rows
        listed = replace(known, paths=tuple(known.paths[row] for row in rows), labels=known.labels[rows])
        self._loader = torchvision_loader(
            listed,
            cast(Preprocessing, samples.preprocessing),
            cast(Images, setup.data),
            batch_size=batch_size,
            workers=usable_cpus(),
            pin_memory=device.type == "cuda",
        )
        network = torchvision.models.get_model(setup.backbone.name, num_classes=samples.num_classes)
        self._network = network.to(device).to(memory_format=torch.channels_last).train()
        parameters = self._network.parameters()
        self._optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self._device = device

    def __call__(self, epochs: int) -> list[float]:
        """Train on; the seconds of each epoch."""
        device, seconds = self._device, []
        for _ in range(epochs):
            started = time.perf_counter()
            for images, labels in self._loader:
                inputs = images.to(device, non_blocking=True, memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits = self._network(inputs)
                    # Some networks have a second classifier for training.
                    logits = logits if isinstance(logits, torch.Tensor) else logits[0]
                    loss = functional.cross_entropy(logits, labels.to(device, non_blocking=True))
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
            if device.type == "cuda":
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
