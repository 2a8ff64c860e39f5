"""Our criteria against torch-pruning's own pruner, from one network, at the same FLOPs and the same epochs.

A network is fine-tuned once a seed. Every method cuts it to the same shares of its FLOPs (fvcore, widths
not rounded); the batch-norm statistics are measured anew after every cut. Told are the cut alone, without
training, and the whole schedule: all methods train for the same epochs in all (history and optimisation
among them) by the same recipe. How torch-pruning's pruner is used (every layer alike or all in competition,
at once or in steps) is chosen for each criterion by the validation accuracy of its whole schedule with the
first seed at the middle budget.
"""

import copy
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import nn

from tascnet.cli.compose import Tree
from tascnet.errors import ConfigError
from tascnet.measure import complexity, measure_models
from tascnet.models.archive import load
from tascnet.options import Config
from tascnet.pruning import Limits, WidthCosts, removable
from tascnet.run.console import output
from tascnet.run.files import digest_json, read_jsonl
from tascnet.run.folder import run_folder, stage_folder

from .. import prune
from ..pruning.amounts import cost_model, plan_amounts
from ..pruning.cut import cut, kept_outputs, settle, teacher_of
from ..pruning.iteration import unpruned_row
from ..pruning.ranks import rank_without_history
from ..pruning.stage import PruneStage, eligible_groups, open_stage, train
from ..session import check_data, resolve_device
from ..steps import judge
from .conventional import fine_tune_all
from .journal import (
    JOURNAL,
    RUNS,
    Row,
    benchmark_folder,
    collect,
    find,
    inner_config,
    refuse_unknown,
    write_metrics,
)
from .methods import with_preset
from .pruning_table import pruning_tables
from .stock import CRITERIA, VARIANTS, Variant, stock_cut

log = logging.getLogger("tascnet")

OURS = ("reconstruction", "tascnet")
USUAL = "conventional"
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops_ratio", "latency_ratio", "latency_ratio_batch")
# A cut this near to its budget, relatively, is comparable.
NEAR = 0.01
# Pairs are half of a group at most, other criteria may take more of it at once.
PAIRED_STEP, STEP = 0.5, 0.8
# History, optimisation and retraining have one at least.
LEAST_EPOCHS = 3
# Iterations of a criterion with pairs do not fall short of the goal by rounding.
MARGIN = 3.0


def run(config: Config) -> None:
    """Prune by every method, seed and budget; print both tables and write `metrics.json` of the benchmark.

    Every row is journalled: a comparison that was broken off goes on.

    Raises:
        ConfigError: an unknown method, or a budget that is no share.
    """
    _check(config)
    device = resolve_device(config)
    folder = benchmark_folder(config)
    shared = {"settings": _settings(config), "backbone": config.backbone.name}
    if not _has_ours(config, folder, shared):
        _check_reach(config, folder, shared)
    variants = _variants(config, folder, shared)
    rows: list[Row] = []
    for seed in range(config.seed, config.seed + config.benchmark.seeds):
        rows += _rows_of_seed(config, folder, shared, variants, seed)
    summary = summarise(rows)
    found = {kind: verdict([row for row in rows if row["kind"] == kind]) for kind in ("cut", "full")}
    write_metrics(folder, rows, summary, device, verdict=found)
    for table in pruning_tables(summary, found, config.benchmark.epochs):
        output().print(table)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each kind, budget and method: means over the seeds and standard errors of accuracies."""
    summary = []
    keys = dict.fromkeys((row["kind"], row["budget"], row["method"]) for row in rows)
    for kind, budget, method in keys:
        own = [r for r in rows if (r["kind"], r["budget"], r["method"]) == (kind, budget, method)]
        means = {name: statistics.fmean(row[name] for row in own) for name in FIGURES}
        errors = {f"{name}_error": _error([row[name] for row in own]) for name in FIGURES[:2]}
        entry = {"kind": kind, "budget": budget, "method": method, "variant": own[0]["variant"]}
        summary.append({**entry, "seeds": len(own), **means, **errors})
    return summary


def verdict(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Each of ours against the better of torch-pruning's criteria: paired differences of test accuracy.

    Returns:
        By method of ours, one entry a budget and a last one over all of them, whose budget is None: `rival`,
        `difference` (mean over seeds, of fractions) and `error` (its standard error).
    """
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    found: dict[str, list[Row]] = {}
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] in OURS):
        entries = []
        by_seed: dict[int, list[float]] = {}
        for budget in budgets:
            here = {
                (row["method"], row["seed"]): row["test_accuracy"] for row in rows if row["budget"] == budget
            }
            seeds = [seed for name, seed in here if name == method]
            rivals = [name for name in CRITERIA if all((name, seed) in here for seed in seeds)]
            if not rivals:
                continue
            rival = max(rivals, key=lambda name: statistics.fmean(here[name, seed] for seed in seeds))
            differences = {seed: here[method, seed] - here[rival, seed] for seed in seeds}
            for seed, difference in differences.items():
                by_seed.setdefault(seed, []).append(difference)
            entries.append(_difference(budget, rival, list(differences.values())))
        if entries:
            # The budgets of a seed share its network: they count as one observation.
            every = [statistics.fmean(values) for values in by_seed.values()]
            found[method] = [*entries, _difference(None, "", every)]
    return found


def _difference(budget: float | None, rival: str, differences: Sequence[float]) -> Row:
    return {
        "budget": budget,
        "rival": rival,
        "difference": statistics.fmean(differences),
        "error": _error(differences),
    }


def _error(values: Sequence[float]) -> float | None:
    """The standard error of a mean; None of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _check(config: Config) -> None:
    options = config.benchmark
    refuse_unknown("method", options.methods, (*OURS, *CRITERIA))
    if not options.budgets or not all(0 < budget < 1 for budget in options.budgets):
        raise ConfigError(
            f"benchmark.budgets are shares of the FLOPs between 0 and 1, not {options.budgets}",
            "give such as [0.7,0.5]",
        )
    check_data(config)


def _settings(config: Config) -> str:
    """A digest of what changes the rows beside their keys."""
    parts = [asdict(part) for part in (config.dataset, config.backbone, config.trainer, config.prune)]
    return digest_json([*parts, config.device, config.benchmark.epochs])[:12]


def _source(config: Config, folder: Path, shared: Row, seed: int) -> tuple[Config, Path]:
    """The config of one seed's runs, and its fine-tuned network."""
    own = inner_config(config, folder / RUNS / shared["settings"], seed=seed, name=USUAL)
    collect(folder, [{"kind": "source", "seed": seed, **shared}], lambda _: fine_tune_all(own), USUAL)
    return own, run_folder(own) / f"all-{config.trainer.finetune.epochs}"


def _rows_of_seed(
    config: Config, folder: Path, shared: Row, variants: Mapping[str, str], seed: int
) -> list[Row]:
    """The rows of one fine-tuned network."""
    keys = _keys(config, shared, variants, seed)
    return collect(folder, keys, partial(_row, *_source(config, folder, shared, seed)))


def _keys(config: Config, shared: Row, variants: Mapping[str, str], seed: int) -> list[Row]:
    return [
        {
            "kind": kind,
            "method": method,
            "variant": variants.get(method, ""),
            "budget": budget,
            "seed": seed,
            **shared,
        }
        for kind in ("cut", "full")
        for budget in config.benchmark.budgets
        for method in config.benchmark.methods
    ]


def _has_ours(config: Config, folder: Path, shared: Row) -> bool:
    """Whether nothing is left to do with ours."""
    known = read_jsonl(folder / JOURNAL)
    seeds = range(config.seed, config.seed + config.benchmark.seeds)
    keys = [key for seed in seeds for key in _keys(config, shared, {}, seed) if key["method"] in OURS]
    return all(find(known, key) for key in keys)


def _check_reach(config: Config, folder: Path, shared: Row) -> None:
    """Refuse budgets that ours cannot reach before anything is pruned.

    Raises:
        ConfigError: there are such, or too few epochs to reach them.
    """
    own, source = _source(config, folder, shared, config.seed)
    for method in (name for name in config.benchmark.methods if name in OURS):
        for budget in config.benchmark.budgets:
            reaching = _our_config(own, source, {"method": method, "budget": budget})
            if method == "reconstruction":
                _check_one_cut(reaching, source, budget)


def _check_one_cut(config: Config, source: Path, budget: float) -> None:
    stage = open_stage(config, source)
    groups = eligible_groups(stage, stage.before, refuse=True)
    costs = WidthCosts(stage.before, stage.session.example, [group.name for group in groups])
    limits, least = Limits(max_step=STEP), config.prune.min_width
    most = {group.name: removable(group.width, limits.most(group.width), 1, least) for group in groups}
    if costs(most)[1] > budget * costs.flops:
        raise ConfigError(
            f"a cut of {STEP:.0%} of every group leaves more than {budget:g} of the FLOPs with "
            f"prune.min_filters={config.prune.min_filters} and prune.min_width={least}",
            "lower them, or raise benchmark.budgets",
        )


def _variants(config: Config, folder: Path, shared: Row) -> dict[str, str]:
    """How torch-pruning's pruner is used for each criterion: what came out best with the first seed."""
    budgets = sorted(config.benchmark.budgets)
    middle = budgets[len(budgets) // 2]
    chosen = {}
    for method in (name for name in config.benchmark.methods if name in CRITERIA):
        known = {"kind": "choice", "method": method, "budget": middle, "seed": config.seed, **shared}
        keys = [{**known, "variant": variant.name} for variant in VARIANTS]
        work = partial(_row, *_source(config, folder, shared, config.seed))
        rows = collect(folder, keys, work, f"use of {method}")
        # Of equally accurate ones that which is nearer the budget.
        best = max(rows, key=lambda row: (row["val_accuracy"], -abs(row["flops_ratio"] - middle)))
        chosen[method] = best["variant"]
    return chosen


def _row(config: Config, source: Path, key: Row) -> Row:
    """Accuracies and costs of one pruned network."""
    is_cut = key["kind"] == "cut"
    own = _our_config(config, source, key) if key["method"] in OURS else config
    stage = open_stage(own, source)
    if key["method"] in CRITERIA:
        variant = next(variant for variant in VARIANTS if variant.name == key["variant"])
        network = _stock(stage, key, variant, trained=not is_cut)
    elif is_cut:
        network = _cut_alone(stage, key["budget"])
    else:
        prune.run(own)
        network = stage.session.place(
            load(stage_folder(own, "prune") / "model", factory=stage.session.factory)
        )
    costs = _costs(stage, network)
    if abs(costs["flops_ratio"] / key["budget"] - 1) > NEAR:
        log.warning("%s has %.1f %% of the FLOPs", key, 100 * costs["flops_ratio"])
    return {**judge(stage.session, network), **costs}


def _costs(stage: PruneStage, network: nn.Sequential) -> Row:
    measure = asdict(stage.config.measure)
    costs = measure_models({"before": stage.before, "after": network}, stage.session.example, **measure)
    before, after = costs["before"], costs["after"]
    return {
        "params": after["params"],
        "flops": after["flops"],
        "flops_ratio": after["flops"] / before["flops"],
        "latency_ratio": after["latency_ms"] / before["latency_ms"],
        "latency_ratio_batch": after["latency_ms_batch"] / before["latency_ms_batch"],
    }


def _our_config(config: Config, source: Path, key: Row) -> Config:
    """The config of stage `prune` that reaches a budget in as few iterations as the criterion can."""
    tree = Tree()
    base = [f"dataset={config.dataset.name}", f"backbone={config.backbone.name}"]
    own = with_preset(config, tree.compose(base), tree.compose([*base, f"prune={key['method']}"]))
    paired = own.prune.criterion == "history"
    options = replace(
        own.prune,
        name=f"{key['method']}-{key['budget']:g}",
        source=str(source),
        round_to=1,
        flops_target=key["budget"],
        tolerance=1.0,
        retries=0,
        final_epochs=0,
        max_step=PAIRED_STEP if paired else STEP,
    )
    own = replace(own, prune=options, name=USUAL)
    percent, iterations = _steps(own, source, key["budget"]) if paired else (95.0, 1)
    each = config.benchmark.epochs // iterations
    left = config.benchmark.epochs - each * iterations
    phases = (0, 0, each)
    if paired:
        if each < LEAST_EPOCHS:
            raise ConfigError(
                f"benchmark.epochs={config.benchmark.epochs} is too few for {iterations} iterations",
                f"give at least {LEAST_EPOCHS * iterations}",
            )
        optimise = max(1, (each - 1) // 3)
        phases = (1, optimise, each - 1 - optimise)
    return replace(
        own,
        prune=replace(
            options,
            percent=percent,
            max_iterations=iterations,
            history_epochs=phases[0],
            optimise_epochs=phases[1],
            retrain_epochs=phases[2],
            final_epochs=left,
        ),
    )


def _steps(config: Config, source: Path, budget: float) -> tuple[float, int]:
    """Percent and number of iterations in which pairs, equal shares of all groups, reach a budget."""
    stage = open_stage(config, source)
    groups = eligible_groups(stage, stage.before)
    costs = WidthCosts(stage.before, stage.session.example, [group.name for group in groups])
    for iterations in (1, 2, 3):
        for percent in range(1, 51):
            left = (1 - percent / 100) ** iterations
            if costs({g.name: int(g.width * (1 - left)) for g in groups})[1] <= budget * costs.flops:
                return min(percent + MARGIN, 50.0), iterations
    raise ConfigError(
        f"no three iterations of pairs reach {budget:g} of the FLOPs with prune.min_filters="
        f"{config.prune.min_filters}",
        "lower prune.min_filters, or raise benchmark.budgets",
    )


def _cut_alone(stage: PruneStage, budget: float) -> nn.Sequential:
    """The cut of ours without any training; likeness is that of the filters as they are."""
    network = copy.deepcopy(stage.before)
    first = unpruned_row(stage)
    while complexity(network, stage.session.example).flops > budget * first["flops"]:
        groups = eligible_groups(stage, network)
        ranks = rank_without_history(stage, network, groups)
        plan = plan_amounts(stage, ranks, cost_model(stage, ranks), [first], 0, 1.0, 1)
        if not plan.remove:
            raise ConfigError(
                f"a cut to {budget:g} of the FLOPs is out of reach with prune.min_filters="
                f"{stage.config.prune.min_filters}",
                "lower it, or raise benchmark.budgets",
            )
        losing, chosen = ranks.first(plan.remove)
        teacher = teacher_of(stage, network, kept_outputs(losing, chosen))
        cut(stage, network, losing, chosen, history=ranks.history, measured=ranks.measured)
        settle(stage, network, teacher)
    return network


def _stock(stage: PruneStage, key: Row, variant: Variant, *, trained: bool) -> nn.Sequential:
    """torch-pruning's cut, in steps with training between them; without training in one step."""
    network, session = stage.before, stage.session
    whole = complexity(network, session.example).flops
    steps = variant.steps if trained else 1
    epochs = stage.config.benchmark.epochs
    folder = run_folder(stage.config) / f"{key['method']}-{variant.folder}-{key['budget']:g}"
    for step in range(1, steps + 1):
        goal = whole * key["budget"] ** (step / steps)
        batches = stage.session.sample_batches()
        network = stock_cut(network, session.example, key["method"], variant.is_global, goal, batches)
        session.place(network)
        settle(stage, network)
        if trained:
            own = epochs // steps + (epochs % steps if step == steps else 0)
            train(stage, network, folder, f"step{step}", own, distillation=stage.distillation)
    return network
