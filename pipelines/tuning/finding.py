"""What a search has found beside its winner: goals, fronts, depths, and what the surrogate learnt."""

from dataclasses import asdict
from typing import Any

from tascnet.models.head import head_start
from tascnet.report import front_table, insight_lines, layerwise_table
from tascnet.run.console import output
from tascnet.tuning import Study, Trial, explain

from .space import Search


def findings(search: Search, study: Study) -> dict[str, Any]:
    """Entries of `metrics.json`: objective, bounds, surrogate, and front or layerwise where they exist."""
    options, goal = search.stage.config.tune, search.goal
    bounds = {"flops": goal.max_flops, "params": goal.max_params, "latency_ms": goal.max_latency_ms}
    found: dict[str, Any] = {
        "objective": options.objective,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
    }
    if options.freeze == "layerwise":
        return {**found, "layerwise": [_depth(search, t) for t in study.trials if t.status == "ok"]}
    if options.objective == "pareto":
        front = [_point(trial) for trial in study.front()]
        found |= {"pareto_cost": goal.pareto_cost, "front": front}
    insight = explain(search.space, study.trials, goal)
    return {**found, "surrogate": None if insight is None else asdict(insight)}


def print_findings(metrics: dict[str, Any]) -> None:
    """Say on the terminal what `findings` wrote."""
    if "surrogate" in metrics:
        for line in insight_lines(metrics["surrogate"]):
            output().print(line)
    if metrics.get("front"):
        output().print(front_table(metrics["front"], chosen=metrics["winner"]))
    if metrics.get("layerwise"):
        output().print(layerwise_table(metrics["layerwise"], chosen=metrics["winner"]))


def _point(trial: Trial) -> dict[str, Any]:
    return {name: getattr(trial, name) for name in ("trial", "value", "val_accuracy", "params", "flops")}


def _depth(search: Search, trial: Trial) -> dict[str, Any]:
    """One row of the table of depths."""
    unit = int(trial.config["first_trained"])
    block = search.space.units[unit].block
    trained = sum(p.numel() for p in search.build(trial.config).tail.parameters())
    return {
        "trial": trial.trial,
        "first_trained": unit,
        "block": block,
        "name": "head" if block == head_start(search.chain) else list(search.chain._modules)[block],
        "trainable_params": trained,
        "val_accuracy": trial.val_accuracy,
        "seconds": trial.seconds,
    }
