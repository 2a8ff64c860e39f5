"""Time and memory of selection, merging, surgery and refit on large networks, and whether counts are right.

Each network runs one iteration of `tascnet.prune`; its parts are then timed apart on the same network, in a
process of their own, with the memory that each adds at its peak. The count of FLOPs is compared with
torch's own counter over convolutions and linear layers, widths and params with what was asked for.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tascnet
from benchmarks import common
from benchmarks.common import RUNS, Row, Setup, check_networks, collect, new_table
from benchmarks.conventional import open_network
from benchmarks.process import in_own_process, memory_growth
from tascnet.inherit import (
    fold_into,
    input_moments,
    input_positions,
    rank_by_reconstruction,
    rank_pairs,
    refit,
)
from tascnet.measure import WidthCosts, complexity
from tascnet.pruning.history import FilterHistory
from tascnet.report.numbers import MISSING, count
from tascnet.surgery import layer_widths, narrow, width_groups
from tascnet.train.setting import computing

PARTS = ("history", "pairs", "reconstruction", "activations", "merge", "surgery", "refit")
SHARE = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, sections=("trainer", "prune", "measure"))
    known = ["vgg16", "resnet50", "densenet121"]
    parser.add_argument("--backbones", nargs="+", default=known, help="networks that are pruned")


def run(args: argparse.Namespace) -> None:
    """Prune every network once and time the parts: one row for each."""
    setup = Setup.of(args)
    check_networks(args.backbones)
    folder = common.open_results(args)
    settings = setup.digest(setup.trainer().recipe("recover"), setup.changes["prune"], PARTS)
    keys = [{"backbone": name, "settings": settings} for name in args.backbones]
    with computing(setup.device, setup.threads) as device:

        def work(key: Row) -> Row:
            own = setup.with_backbone(key["backbone"])
            return _row(own, folder / RUNS / settings / key["backbone"], device)

        rows = collect(folder, keys, work)
    common.report(args, folder, rows, rows, _table(rows), device=device)


def _row(setup: Setup, folder: Path, device: torch.device) -> Row:
    source = folder / "unpruned"
    if not (source / "architecture.json").exists():
        network, _ = open_network(setup, device)
        tascnet.save(network.cpu(), source)
        del network
    options = setup.options("prune", "reconstruction", tolerance=1.0, max_iterations=1, final_epochs=0)
    trainer, run = setup.trainer(), folder / "prune"
    network = tascnet.load(source)
    result = tascnet.prune(network, setup.data, options, trainer=trainer, run=run, **setup.place)
    seconds = result.metrics.seconds
    del network, result
    measured, _ = in_own_process(parts_of, setup, options.min_filters, source)
    return {"iteration_seconds": seconds, **measured}


def parts_of(setup: Setup, min_filters: int, source: Path) -> Row:
    """Seconds and bytes of each part on the groups of a saved network, and whether the counts agree.

    Returns:
        `weights_bytes`, and by part `<part>_seconds` and `<part>_bytes`; `params_agree`, `flops_agree` and
        `widths_agree`.
    """
    with computing(setup.device, setup.threads) as device:
        return _parts(setup, min_filters, source, device)


def _parts(setup: Setup, min_filters: int, source: Path, device: torch.device) -> Row:
    network = tascnet.load(source)
    learner = setup.learner(network, device)
    learner.place(network)
    example = learner.samples.example
    groups = [group for group in width_groups(network, example) if group.channels >= min_filters]
    costs = WidthCosts(network, example, groups)
    facts: Row = {"weights_bytes": sum(p.numel() * p.element_size() for p in network.parameters())}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        with memory_growth() as growth:
            started = time.perf_counter()
            result = work()
            facts[f"{part}_seconds"] = time.perf_counter() - started
        facts[f"{part}_bytes"] = growth[0] if growth else None
        return result

    def images() -> Iterator[Tensor]:
        return (images for images, _ in learner.batches())

    history = FilterHistory(groups)
    timed("history", lambda: history.record(network))
    pairs = timed(
        "pairs", lambda: {g.name: rank_pairs(history.similarity(g.name), history.l1(g.name)) for g in groups}
    )
    inputs = input_positions(network, groups)
    moments = timed("activations", lambda: input_moments(network.eval(), inputs, images(), seed=learner.seed))
    counts = {group.name: max(1, int(group.width * SHARE)) for group in groups}

    def reconstruct() -> None:
        for name, most in counts.items():
            rank_by_reconstruction(network, inputs[name], moments[name], most)

    timed("reconstruction", reconstruct)
    removed = {name: list(pairs[name].first(most).order) for name, most in counts.items()}

    def merge() -> None:
        for name, channels in removed.items():
            fold_into(network, inputs[name], moments[name], channels)

    timed("merge", merge)
    widths = layer_widths(network)
    kept = {g.name: sorted(set(range(g.width)) - set(removed[g.name])) for g in groups}
    timed("surgery", lambda: narrow(network, example, kept))
    gone: dict[str, set[int]] = {}
    for group in groups:
        for layer, positions in group.outputs.items():
            gone.setdefault(layer, set()).update(positions[removed[group.name]].flatten().tolist())
    outputs = {layer: sorted(set(range(widths[layer])) - lost) for layer, lost in gone.items()}

    def learn_again() -> None:
        # The copy of the whole network that it learns from is part of what it takes.
        refit(network, learner.place(tascnet.load(source)), outputs, images, seed=learner.seed)

    timed("refit", learn_again)
    cost = complexity(network, example)
    params, flops = costs({name: len(channels) for name, channels in removed.items()})
    of_weights = sum(layer.flops for layer in cost.layers if layer.width is not None)
    expected = widths | {layer: len(channels) for layer, channels in outputs.items()}
    return {
        **facts,
        "params_agree": params == cost.params == sum(p.numel() for p in network.parameters()),
        "flops_agree": flops == cost.flops and _by_torch(network, example.to(device)) == of_weights,
        "widths_agree": layer_widths(network) == expected,
    }


def _by_torch(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers by torch's own counter, which counts each as two."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(example)
    return int(counter.get_total_flops()) // 2


def _table(rows: Sequence[Row]) -> Table:
    """Seconds and added memory, as a multiple of the weights, of each part; a column a network."""
    title = "Parts of one iteration: time, and memory added over the weights'"
    table = new_table(title, ["part"], [row["backbone"] for row in rows])
    table.add_row("weights", *(f"{count(row['weights_bytes'])}B" for row in rows))
    for part in PARTS:
        table.add_row(part, *(_cell(row, part) for row in rows))
    table.add_row("whole iteration", *(f"{row['iteration_seconds']:.0f} s" for row in rows))
    agree = [row["params_agree"] and row["flops_agree"] and row["widths_agree"] for row in rows]
    table.add_row("counts", *("agree" if is_right else "differ" for is_right in agree))
    return table


def _cell(row: Row, part: str) -> str:
    added = row[f"{part}_bytes"]
    share = MISSING if added is None else f"{added / row['weights_bytes']:.1f}×"
    return f"{row[f'{part}_seconds']:.1f} s  {share}"
