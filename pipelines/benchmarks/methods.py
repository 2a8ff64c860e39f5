"""Ways to fit a pre-trained network to a data set, each within the same number of seconds.

Every row but the conventional ones is a run of stage `tune` with the options of its method, in a folder
of its own. `conventional` fine-tunes all layers by `trainer.finetune`, which is how every method ends;
`conventional_long` does so for as many epochs as fit. What a method may spend on its search is the number
of seconds less those of the softmax layer and of its fine-tunings, as long as `conventional` took for
them; the conventional network counts where a method's fine-tuning begins at it. A trial that has begun is
finished. Pixels, and the features before the units that are searched, are computed beforehand and shared:
no method pays for them.
"""

import copy
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from tascnet.cli.check import check_config
from tascnet.cli.compose import Tree
from tascnet.errors import BudgetError, ConfigError
from tascnet.options import Config, TuneConfig
from tascnet.run.console import output
from tascnet.run.files import digest_json, read_json, read_jsonl
from tascnet.run.folder import run_folder, stage_folder

from .. import tune
from ..backbone import load_source, softmax_network
from ..session import check_data, open_session, resolve_device
from ..tuning.finetune import fine_tunings
from ..tuning.space import discover
from ..tuning.stage import TuneStage
from .conventional import fine_tune_all
from .journal import RUNS, Row, benchmark_folder, collect, inner_config, refuse_unknown, write_metrics
from .methods_table import methods_table

# What each method sets of stage `tune`.
METHODS = {
    "tascnet": ["tune=tascnet"],
    "autotune": ["tune=autotune"],
    "grow": ["tune.head=grow"],
    "layerwise": ["tune.freeze=layerwise"],
}
DEFAULT = "tascnet"
USUAL, LONG = "conventional", "conventional_long"
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops")


def run(config: Config) -> None:
    """Run every method with every seed, print the table and write `outputs/benchmark/methods/metrics.json`.

    One row for each method and seed is journalled, and an interrupted run within it goes on.

    Raises:
        ConfigError: a method that is unknown, a preset that would hold for all of them, or too few seconds.
    """
    _check(config)
    device = resolve_device(config)
    folder, settings = benchmark_folder(config), _settings(config)
    rows: list[Row] = []
    for seed in range(config.seed, config.seed + config.benchmark.seeds):
        rows += _rows_of_seed(config, folder, {"seed": seed, "settings": settings})
    summary = summarise(rows)
    write_metrics(folder, rows, summary, device, verdict=verdict(summary))
    output().print(methods_table(summary, verdict(summary), config.benchmark.seconds))


def method_config(config: Config, method: str, seconds: float) -> Config:
    """The config of a method's run, with so many seconds for its search.

    Options of a teacher are left out where the method has none.

    Raises:
        ConfigError: the options of the method and those of the run contradict each other.
    """
    tree = Tree()
    base = [f"dataset={config.dataset.name}", f"backbone={config.backbone.name}"]
    own = with_preset(config, tree.compose(base), tree.compose([*base, *METHODS[method]]))
    tune = replace(own.tune, max_seconds=seconds)
    if not tune.looks_for_narrower:
        plain = TuneConfig()
        tune = replace(tune, distill=plain.distill, distill_temperature=plain.distill_temperature)
        tune = replace(tune, finetune_from="auto" if tune.finetune_from == USUAL else tune.finetune_from)
    own = replace(own, name=method, tune=tune)
    check_config(own)
    return own


def with_preset(own: Any, plain: Any, preset: Any) -> Any:
    """A copy of a section of a config in which a preset's options hold that are not set otherwise.

    Args:
        own: the section, a dataclass.
        plain: the section as it is composed without the preset.
        preset: the same with it: only where it differs from `plain`, and `own` does not, it wins.
    """
    values = {}
    for entry in fields(own):
        mine, before, after = (getattr(section, entry.name) for section in (own, plain, preset))
        if is_dataclass(mine):
            values[entry.name] = with_preset(mine, before, after)
        else:
            values[entry.name] = copy.deepcopy(after if mine == before else mine)
    return replace(own, **values)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry a method: means over the seeds, and the deviation of the test accuracy."""
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        means = {name: statistics.fmean(row[name] for row in own) for name in (*FIGURES, "seconds")}
        tests = [row["test_accuracy"] for row in own]
        deviation = statistics.stdev(tests) if len(tests) > 1 else 0.0
        summary.append({"method": method, "seeds": len(own), **means, "test_deviation": deviation})
    return summary


def verdict(summary: Sequence[Row]) -> Row | None:
    """How the default stands: against the best test accuracy, and in params against the conventional network.

    Returns:
        `best`, the method of the highest mean; `behind`, how much lower the default's is; whether that is
        at most one deviation of the best's; `params_ratio` of the default and the conventional network. None
        where the default was not run.
    """
    by_name = {entry["method"]: entry for entry in summary}
    if DEFAULT not in by_name:
        return None
    best = max(summary, key=lambda entry: entry["test_accuracy"])
    behind = best["test_accuracy"] - by_name[DEFAULT]["test_accuracy"]
    return {
        "best": best["method"],
        "behind": behind,
        "is_within_one_deviation": behind <= best["test_deviation"],
        "params_ratio": by_name[DEFAULT]["params"] / by_name[USUAL]["params"],
    }


def _check(config: Config) -> None:
    refuse_unknown("method", config.benchmark.methods, (*METHODS, USUAL, LONG))
    if config.tune.name != DEFAULT:
        raise ConfigError(
            f"tune={config.tune.name} would hold for all methods, but each brings its own preset",
            "leave it out; benchmark.methods chooses the methods",
        )
    for method in _searches(config):
        method_config(config, method, config.benchmark.seconds)
    check_data(config)


def _searches(config: Config) -> list[str]:
    """The methods asked for that run stage `tune`."""
    return [name for name in config.benchmark.methods if name in METHODS]


def _settings(config: Config) -> str:
    """A digest of what changes the rows beside method and seed."""
    parts = [asdict(part) for part in (config.dataset, config.backbone, config.trainer, config.tune)]
    return digest_json([*parts, config.device, config.threads, config.benchmark.seconds])[:12]


def _rows_of_seed(config: Config, folder: Path, shared: Row) -> list[Row]:
    """All methods with one seed, `conventional` first: it tells how much time the others have to search."""
    seeded = inner_config(config, folder / RUNS / shared["settings"], seed=shared["seed"])
    first = {"method": USUAL, **shared}
    (usual,) = collect(folder, [first], lambda _: fine_tune_all(replace(seeded, name=USUAL)), USUAL)
    methods = [name for name in dict.fromkeys(config.benchmark.methods) if name != USUAL]
    keys = [{"method": method, **shared} for method in methods]
    return [usual, *collect(folder, keys, lambda key: _row(seeded, key["method"], usual), "methods")]


def _row(config: Config, method: str, usual: Row) -> Row:
    """What a method reaches in the seconds that it has."""
    left = config.benchmark.seconds - usual["baseline_seconds"]
    if method == LONG:
        epochs = int(left / usual["finetune_seconds"] * usual["epochs"])
        return fine_tune_all(replace(config, name=LONG), max(epochs, usual["epochs"]))
    fits = fine_tunings(method_config(config, method, config.benchmark.seconds).tune)
    seconds = left - fits * usual["finetune_seconds"]
    if seconds <= 0:
        raise ConfigError(
            f"{fits:.2g} fine-tunings take {fits * usual['finetune_seconds']:.0f} seconds, which leaves none "
            f"for a search within benchmark.seconds={config.benchmark.seconds:g}",
            "raise it, or lower trainer.finetune.epochs",
        )
    own = method_config(config, method, seconds)
    _share_features(config)
    _share_comparison(config, own)
    tune.run(own)
    return _figures(stage_folder(own, "tune"))


def _share_features(config: Config) -> None:
    """Compute what the runs of one seed share, as far as it fits: else the first one would pay for all."""
    source, session = load_source(config), open_session(config)
    chain = softmax_network(source, session)
    folder = run_folder(config)
    stage = TuneStage(session=session, source=source, folder=folder, output=folder)
    for unit in discover(stage, chain).units:
        try:
            stage.features(chain, unit.block)
        except BudgetError:
            return


def _share_comparison(config: Config, own: Config) -> None:
    """Take over the conventional networks of a run, where another of the seed trained the same ones."""
    for method in _searches(config):
        known = method_config(config, method, config.benchmark.seconds)
        if method == own.name or known.trainer != own.trainer:
            continue
        for done in stage_folder(known, "tune").glob(f"state/{USUAL}-*"):
            target = stage_folder(own, "tune") / "state" / done.name
            if (done / "record.json").exists() and not target.exists():
                shutil.copytree(done, target)


def _figures(folder: Path) -> Row:
    """What a finished stage `tune` gave, and the seconds of its method.

    A conventional network that it is only compared with does not count.
    """
    metrics = read_json(folder / "metrics.json")
    trials = read_jsonl(folder / "trials.jsonl")
    steps = [path.parent for path in (folder / "state").glob("*/record.json")]
    start = f"{USUAL}-0" if metrics["finetuned_from"] == USUAL else None
    own = [step for step in steps if step.name == start or not step.name.startswith(USUAL)]
    return {
        **{name: metrics["models"]["after"][name] for name in FIGURES},
        "seconds": sum(trial["seconds"] for trial in trials)
        + sum(read_json(step / "record.json")["seconds"] for step in own),
        "trials": len(trials),
        "stopped": metrics["stopped"],
        "config": metrics["best_config"],
    }
