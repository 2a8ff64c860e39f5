"""What selection, merging, surgery and refit cost on large networks, and whether the counts are right.

Each network runs one iteration of stage prune; its parts are then timed apart on the same network, in a
process of their own, with the memory that each adds at its peak. The count of FLOPs is compared with
torch's own counter over convolutions and linear layers, widths and params with what was asked for.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tascnet.inherit import fold_into, rank_by_reconstruction, rank_pairs
from tascnet.measure import complexity
from tascnet.models.archive import load, save
from tascnet.models.weights import BACKBONES
from tascnet.options import Config
from tascnet.pruning import FilterHistory, Limits, WidthCosts
from tascnet.report.numbers import count
from tascnet.run.console import output
from tascnet.run.files import digest_json, read_json
from tascnet.run.folder import run_folder, stage_folder
from tascnet.surgery import layer_widths, narrow

from .. import prune
from ..backbone import load_source, softmax_network
from ..pruning.cut import kept_outputs, settle
from ..pruning.ranks import measure_inputs
from ..pruning.stage import eligible_groups, open_stage
from ..session import check_data, open_session, resolve_device
from .journal import RUNS, Row, benchmark_folder, collect, inner_config, refuse_unknown, write_metrics
from .process import in_own_process, memory_growth
from .trials import for_backbone

PARTS = ("history", "pairs", "reconstruction", "activations", "merge", "surgery", "refit")
SHARE = 0.25


def run(config: Config) -> None:
    """Prune every network once, time the parts, print the table and write the benchmark's `metrics.json`.

    Raises:
        ConfigError: a network that is unknown.
    """
    refuse_unknown("network", config.benchmark.backbones, BACKBONES)
    check_data(config)
    device = resolve_device(config)
    folder = benchmark_folder(config)
    parts = [asdict(part) for part in (config.dataset, config.backbone, config.trainer.recover, config.prune)]
    settings = digest_json([*parts, PARTS, config.device, config.threads])[:12]
    keys = [{"backbone": name, "settings": settings} for name in config.benchmark.backbones]
    rows = collect(folder, keys, lambda key: _row(config, folder / RUNS / settings, key["backbone"]))
    write_metrics(folder, rows, rows, device)
    output().print(cost_table(rows))


def _row(config: Config, outputs: Path, backbone: str) -> Row:
    own = inner_config(for_backbone(config, backbone), outputs, name="cost")
    source = run_folder(own) / "source" / "model"
    session = open_session(own)
    pretrained = load_source(own)
    if not (source / "architecture.json").exists():
        chain = softmax_network(pretrained, session)
        save(source, chain, session.model_info(pretrained.weights, pretrained.licence))
    del session, pretrained
    options = replace(own.prune, source=str(source), tolerance=1.0, max_iterations=1, final_epochs=0)
    own = replace(own, prune=options)
    prune.run(own)
    found = read_json(stage_folder(own, "prune") / "metrics.json")
    measured, _ = in_own_process(parts_of, own, source)
    return {"iteration_seconds": found["seconds"], **measured}


def parts_of(config: Config, source: Path) -> Row:
    """Seconds and bytes of each part, and whether the counts agree.

    Args:
        config: its `prune` says which groups are eligible and by how much a group may shrink.
        source: a saved network.

    Returns:
        `weights_bytes`, and by part `<part>_seconds` and `<part>_bytes`; `params_agree`, `flops_agree` and
        `widths_agree`.
    """
    stage = open_stage(config, source)
    session, network = stage.session, stage.before
    groups = eligible_groups(stage, network)
    costs = WidthCosts(network, session.example, [group.name for group in groups])
    facts: Row = {"weights_bytes": sum(p.numel() * p.element_size() for p in network.parameters())}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        with memory_growth() as growth:
            started = time.perf_counter()
            result = work()
            facts[f"{part}_seconds"] = time.perf_counter() - started
        facts[f"{part}_bytes"] = growth.bytes
        return result

    history = FilterHistory(groups)
    timed("history", lambda: history.record(network))
    pairs = timed(
        "pairs", lambda: {g.name: rank_pairs(history.similarity(g.name), history.l1(g.name)) for g in groups}
    )
    inputs, moments = timed("activations", lambda: measure_inputs(stage, network, groups))
    most = Limits(max_step=SHARE)

    def by_reconstruction() -> Any:
        return {
            g.name: rank_by_reconstruction(
                network, inputs[g.name], moments[g.name], max(1, most.most(g.width))
            )
            for g in groups
        }

    timed("reconstruction", by_reconstruction)
    rankings = {g.name: pairs[g.name].first(max(1, most.most(g.width))) for g in groups}
    removed = {name: list(ranking.order) for name, ranking in rankings.items()}

    def merge() -> None:
        for name, channels in removed.items():
            fold_into(network, inputs[name], moments[name], channels)

    timed("merge", merge)
    widths = layer_widths(network)
    kept = {g.name: sorted(set(range(g.width)) - set(removed[g.name])) for g in groups}
    timed("surgery", lambda: narrow(network, session.example, kept))
    outputs = kept_outputs(groups, rankings)

    def learn_again() -> None:
        # The copy of the whole network that it learns from is part of what it takes.
        whole = session.place(load(source, factory=session.factory))
        settle(stage, network, (whole, outputs))

    timed("refit", learn_again)
    expected = {name: widths[name] - len(removed[g.name]) for g in groups for name in g.filters}
    cost = complexity(network, session.example)
    counted = costs({name: len(channels) for name, channels in removed.items()})
    now = layer_widths(network)
    return {
        **facts,
        "params_agree": counted[0] == cost.params == sum(p.numel() for p in network.parameters()),
        "flops_agree": counted[1] == cost.flops and _by_torch(session, network) == _of_weights(cost.layers),
        "widths_agree": all(now[name] == width for name, width in expected.items())
        and all(now[name] == width for name, width in widths.items() if name not in expected),
    }


def _by_torch(session: Any, network: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers by torch's own counter, which counts each as two."""
    example = session.example.to(next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        network.eval()(example)
    return int(counter.get_total_flops()) // 2


def _of_weights(layers: Sequence[Any]) -> int:
    return sum(layer.flops for layer in layers if layer.width is not None)


def cost_table(rows: Sequence[Row]) -> Table:
    """Seconds and added memory, as a multiple of the weights, of each part; a column a network."""
    table = Table(title="Parts of one iteration: time, and memory added over the weights'", box=box.SIMPLE)
    table.add_column("part", no_wrap=True)
    for row in rows:
        table.add_column(row["backbone"], justify="right", no_wrap=True)
    table.add_row("weights", *(f"{count(row['weights_bytes'])}B" for row in rows))
    for part in PARTS:
        table.add_row(part, *(_cell(row, part) for row in rows))
    table.add_row("whole iteration", *(f"{row['iteration_seconds']:.0f} s" for row in rows))
    table.add_row("counts", *("agree" if _agrees(row) else "differ" for row in rows))
    return table


def _cell(row: Row, part: str) -> str:
    added = row[f"{part}_bytes"]
    share = "–" if added is None else f"{added / row['weights_bytes']:.1f}×"
    return f"{row[f'{part}_seconds']:.1f} s  {share}"


def _agrees(row: Row) -> bool:
    return bool(row["params_agree"] and row["flops_agree"] and row["widths_agree"])
