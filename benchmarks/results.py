"""What both stages reach on one data set, from the baseline to pruned networks, over several seeds.

The rows of a seed are those of one experiment of conf/experiment, run by the public functions: the baseline,
the conventional network, the tuned one, and that pruned to each of `--targets`, which are shares of the
conventional network's FLOPs. Latencies of a seed's networks are measured side by side at its end. Differences
are paired: each network against the conventional one of its seed.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

import tascnet
from benchmarks import common
from benchmarks.common import RUNS, Row, collect, grouped, new_table, points, standard_error
from tascnet.cli.check import normalise
from tascnet.cli.compose import Tree
from tascnet.cli.config import Config
from tascnet.exporting.onnx_file import example_of
from tascnet.measure import measure_models
from tascnet.pruning import PruneResult
from tascnet.report.numbers import MISSING, count, duration, percent
from tascnet.run.files import digest_json
from tascnet.run.records import RuntimeLatency, score, to_json
from tascnet.tuning import TuneResult

BASELINE, USUAL, TUNED = "baseline", "conventional", "tuned"
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops")
# Runtime of the speed that the table shows.
DEPLOYED = "onnxruntime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=3)
    parser.add_argument("experiment", help="a name in conf/experiment/")
    parser.add_argument("overrides", nargs="*", help="options such as dataset.root=photos")
    parser.add_argument("--seed", type=common.seed, default=0, help="the first seed")
    parser.add_argument(
        "--targets", nargs="*", type=float, default=[0.5, 0.35], help="shares of the conventional FLOPs"
    )


def run(args: argparse.Namespace) -> None:
    """Run both stages with every seed: one row for each network."""
    threads = [] if args.threads is None else [f"threads={args.threads}"]
    overrides = [f"experiment={args.experiment}", *threads, *args.overrides]
    config = Tree().compose([normalise(text) for text in overrides]).config
    folder = common.open_results(args)
    settings = digest_json([overrides, to_json(config.dataset), to_json(config.backbone)])[:12]
    settings = digest_json([settings, *map(to_json, (config.trainer, config.tune, config.prune))])[:12]
    rows: list[Row] = []
    names = [BASELINE, USUAL, TUNED, *(f"pruned {target:g}" for target in args.targets)]
    for seed in range(args.seed, args.seed + args.seeds):
        bench = Bench(
            replace(config, seed=seed), folder / RUNS / settings / f"seed{seed}", tuple(args.targets)
        )
        keys = [{"network": name, "seed": seed, "settings": settings} for name in names]
        rows += collect(folder, keys, bench.row, f"seed {seed}")
    summary = summarise(rows)
    common.report(args, folder, rows, summary, _table(summary, args.experiment))


@dataclass
class Bench:
    """The rows of one seed; whatever is finished is read back."""

    config: Config
    folder: Path
    targets: tuple[float, ...]

    def __post_init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def row(self, key: Row) -> Row:
        """Figures of one network, and its latencies by runtime and batch, in milliseconds."""
        if not self._rows:
            self._rows = self._made()
        return self._rows[key["network"]]

    def _keywords(self, name: str) -> dict[str, Any]:
        config = self.config
        names = ("trainer", "measure", "metric", "seed", "device", "threads", "cache_limit_gb")
        cache = Path(config.cache_dir or Path(config.outputs) / "cache")
        return {n: getattr(config, n) for n in names} | {"cache": cache, "run": self.folder / name}

    def _made(self) -> dict[str, Row]:
        config = self.config
        network = tascnet.backbone(config.backbone, seed=config.seed, cache=self._keywords("")["cache"])
        tuning = tascnet.tune(network, config.dataset, config.tune, **self._keywords("tune"))
        usual = tascnet.load(self.folder / "tune" / tuning.metrics.archives[USUAL])
        prunings = {f"pruned {t:g}": self._pruned(tuning, usual, t) for t in self.targets}
        models = {name: tuning.metrics.models[name] for name in (BASELINE, USUAL)}
        models[TUNED] = tuning.metrics.models["after"]
        models |= {name: one.metrics.models["after"] for name, one in prunings.items()}
        networks = {USUAL: usual, TUNED: tuning.network}
        networks |= {name: one.network for name, one in prunings.items()}
        costs = measure_models(networks, example_of(tuning.network), measure=config.measure)
        search = sum(trial.seconds for trial in tuning.trials)
        spent = {TUNED: {"search_seconds": search, "trials": len(tuning.trials), **_handed(tuning)}}
        seconds = {TUNED: tuning.metrics.seconds}
        seconds |= {name: one.metrics.seconds for name, one in prunings.items()}
        return {
            name: {
                **{figure: getattr(model, figure) for figure in FIGURES},
                "latencies": _milliseconds(costs[name]["latencies"]) if name in costs else {},
                "seconds": seconds.get(name),
                **spent.get(name, {}),
            }
            for name, model in models.items()
        }

    def _pruned(self, tuning: TuneResult, usual: Any, target: float) -> PruneResult:
        """The tuned network at a share of the conventional one's FLOPs; the better of both teaches."""
        config, metrics = self.config, tuning.metrics
        flops = {name: metrics.models[name].flops for name in (USUAL, "after")}
        share = target * flops[USUAL] / flops["after"]
        usual_score, own = (score(metrics.models[name], config.metric) or 0.0 for name in (USUAL, "after"))
        teacher = usual if usual_score > own and config.prune.distill else None
        options = replace(config.prune, flops_target=min(share, 1.0))
        keywords = self._keywords(f"prune-{target:g}")
        return tascnet.prune(tuning.network, config.dataset, options, teacher=teacher, **keywords)


def _handed(tuning: TuneResult) -> Row:
    metrics = tuning.metrics
    accuracies = {one.name: one.val_accuracy for one in metrics.candidates}
    return {"handed_over": metrics.handed_over, "candidates": accuracies, "config": metrics.best_config}


def _milliseconds(latencies: Sequence[RuntimeLatency]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in latencies:
        found.setdefault(f"{one.runtime} 1", one.latency_ms)
        found.setdefault(f"{one.runtime} batch", one.latency_ms_batch)
    return found


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry a network: means over the seeds, with standard errors, and paired differences.

    Against the conventional network of the same seed: `points` of test accuracy, `params_ratio`,
    `flops_ratio`, and `speedup`, how many times shorter one sample takes in ONNX Runtime, where measured.
    """
    usual = {row["seed"]: row for row in rows if row["network"] == USUAL}
    summary: list[Row] = []
    for (name,), own in grouped(rows, "network").items():
        entry: Row = {"network": name, "seeds": len(own)}
        pairs = [(row, usual[row["seed"]]) for row in own]
        figures: dict[str, list[float]] = {figure: [row[figure] for row in own] for figure in FIGURES}
        figures["points"] = [row["test_accuracy"] - other["test_accuracy"] for row, other in pairs]
        for figure in ("params", "flops"):
            figures[f"{figure}_ratio"] = [row[figure] / other[figure] for row, other in pairs]
        key = f"{DEPLOYED} 1"
        timed = [(row["latencies"], other["latencies"]) for row, other in pairs]
        if all(key in now and key in before for now, before in timed):
            figures["latency_ms"] = [now[key] for now, _ in timed]
            figures["speedup"] = [before[key] / now[key] for now, before in timed]
        for figure in ("search_seconds", "seconds"):
            if all(row.get(figure) is not None for row in own):
                figures[figure] = [row[figure] for row in own]
        for figure, values in figures.items():
            entry[figure], entry[f"{figure}_error"] = statistics.fmean(values), standard_error(values)
        summary.append(entry)
    return summary


def _table(summary: Sequence[Row], experiment: str) -> Table:
    title = f"{experiment}, means of {max(entry['seeds'] for entry in summary)} seeds"
    numbers = ("val acc.", "test acc.", "±", "points", "±", "params", "share", "FLOPs", "share")
    table = new_table(title, ["network"], (*numbers, "ms", "times faster", "time"))
    for entry in summary:
        table.add_row(
            entry["network"],
            percent(entry["val_accuracy"]),
            percent(entry["test_accuracy"]),
            points(entry["test_accuracy_error"]),
            f"{100 * entry['points']:+.1f}",
            points(entry["points_error"]),
            count(entry["params"]),
            percent(entry["params_ratio"]),
            count(entry["flops"]),
            percent(entry["flops_ratio"]),
            f"{entry['latency_ms']:.2f}" if "latency_ms" in entry else MISSING,
            f"{entry['speedup']:.2f}" if "speedup" in entry else MISSING,
            duration(entry["seconds"]) if "seconds" in entry else MISSING,
        )
    return table
