"""Latencies predicted from tables of layers beside those of exported networks, for random cuts.

`layers` is how `tascnet.measure.Clock` predicts: the sum of a network's layers, scaled to the latency of the
whole network. Other ways to treat what layers do not explain are shown beside it, as a constant or in
proportion to the weights, and so are FLOPs.
"""

import argparse
import copy
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

import tascnet
from benchmarks import common
from benchmarks.common import CACHE, Row, check_names, check_networks, collect, count, grouped, new_table
from tascnet.errors import ConfigError
from tascnet.exporting import installed
from tascnet.exporting.layers import layers_of
from tascnet.measure import Clock, complexity
from tascnet.measure.table import table_of
from tascnet.options import ImageBackbone, Measure
from tascnet.surgery import Trace, narrow
from tascnet.train.setting import computing

RUNTIMES = ("onnxruntime", "onnxruntime_int8", "openvino")
# The most that a cut removes of each group, and the multiples of its widths.
DEEPEST, MULTIPLES = 0.7, (1, 8)
REPEATS = 100

# From a row and that of the whole network the predicted ratio of their latencies.
PREDICTIONS: dict[str, Callable[[Row, Row], float]] = {
    "layers": lambda row, whole: row["layers_ms"] / whole["layers_ms"],
    "rest constant": lambda row, whole: (
        (row["layers_ms"] + whole["measured_ms"] - whole["layers_ms"]) / whole["measured_ms"]
    ),
    "rest by weights": lambda row, whole: (
        (row["layers_ms"] + (whole["measured_ms"] - whole["layers_ms"]) * row["params"] / whole["params"])
        / whole["measured_ms"]
    ),
    "FLOPs": lambda row, whole: row["flops"] / whole["flops"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of tables and exported files")
    networks = ["mobilenet_v2", "resnet18"]
    parser.add_argument("--networks", nargs="+", default=networks, help="networks that are cut")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime"], help="where they run")
    parser.add_argument("--cuts", type=partial(count, least=2), default=12, help="random cuts of each")
    parser.add_argument("--size", type=count, default=128, help="side of the images in pixels")


def run(args: argparse.Namespace) -> None:
    """Measure and predict: one row for each network, runtime and cut; cut 0 is the whole network."""
    check_networks(args.networks)
    check_names("runtime of exported files", args.runtimes, RUNTIMES)
    for runtime in args.runtimes:
        installed.need(runtime)
    folder = common.open_results(args)
    with computing("cpu", args.threads), tempfile.TemporaryDirectory() as temporary:
        keys = [
            {
                "network": network,
                "runtime": runtime,
                "size": args.size,
                "threads": torch.get_num_threads(),
                "cut": cut,
            }
            for network in args.networks
            for runtime in args.runtimes
            for cut in range(args.cuts + 1)
        ]
        rows = collect(folder, keys, partial(compare, cache=args.cache, folder=Path(temporary)), "cuts")
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary))


def compare(key: Row, *, cache: Path, folder: Path) -> Row:
    """The costs of one cut network: measured, and by its layers."""
    whole, trace = _network(key["network"], key["size"])
    network = random_cut(whole, trace, key["cut"])
    path = folder / f"{key['network']}-{key['runtime']}" / "latency.json"
    measure = Measure(target=key["runtime"], repeats=REPEATS)
    clock = Clock(measure, trace.example, whole, cache, path)
    measured_ms = clock.exact(network) if key["cut"] else clock.reference_ms
    cost = complexity(network, trace.example)
    table = table_of(key["runtime"], cache)
    return {
        "measured_ms": measured_ms,
        "layers_ms": table.sum(layers_of(network, trace.example)),
        "params": cost.params,
        "flops": cost.flops,
    }


@cache
def _network(name: str, size: int) -> tuple[nn.Sequential, Trace]:
    torch.manual_seed(0)
    network = tascnet.backbone(ImageBackbone(name=name, weights="random", size=size))
    return network, Trace(network, torch.randn(1, 3, size, size))


def random_cut(whole: nn.Sequential, trace: Trace, seed: int) -> nn.Sequential:
    """A copy without random shares of its filters, up to a most that differs between cuts; 0: the whole."""
    network = copy.deepcopy(whole)
    if not seed:
        return whole
    drawn = random.Random(seed)
    deepest, multiple = drawn.uniform(0, DEEPEST), drawn.choice(MULTIPLES)
    keep: dict[str, Sequence[int]] = {}
    for group in trace.groups:
        width = max(1, int(group.width * (1 - drawn.uniform(0, deepest))))
        keep[group.name] = range(min(group.width, max(multiple, width // multiple * multiple)))
    narrow(network, trace, keep)
    return network


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry a network, runtime and prediction: rank correlation, and errors of the predicted ratio."""
    summary = []
    for (network, runtime), own in grouped(rows, "network", "runtime").items():
        whole, *cuts = sorted(own, key=lambda row: int(row["cut"]))
        if whole["cut"] or len(cuts) < 2:
            raise ConfigError(f"{network} has too few rows", "start over with --fresh")
        measured = [row["measured_ms"] / whole["measured_ms"] for row in cuts]
        for name, predict in PREDICTIONS.items():
            predicted = [predict(row, whole) for row in cuts]
            errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
            summary.append(
                {
                    "network": network,
                    "runtime": runtime,
                    "prediction": name,
                    "cuts": len(cuts),
                    "whole_ms": whole["measured_ms"],
                    "layers_ms": whole["layers_ms"],
                    "least_ratio": min(measured),
                    "rank_correlation": statistics.correlation(_ranks(predicted), _ranks(measured)),
                    "mean_error": statistics.fmean(map(abs, errors)),
                    "bias": statistics.fmean(errors),
                    "largest_error": max(map(abs, errors)),
                }
            )
    return summary


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [float(ordered.index(value)) for value in values]


def _table(summary: Sequence[Row]) -> Table:
    table = new_table(
        "Predicted latency of random cuts, as a share of the whole network's",
        ["network", "runtime", "by"],
        ["ms", "ranks", "error", "bias", "worst"],
        "ms: of the whole network; ranks: their correlation; errors of predicted shares, mean and largest",
    )
    for row in summary:
        errors = [f"{100 * row[name]:.0f} %" for name in ("mean_error", "bias", "largest_error")]
        names = row["network"], row["runtime"], row["prediction"]
        table.add_row(*names, f"{row['whole_ms']:.2f}", f"{row['rank_correlation']:.3f}", *errors)
    return table
