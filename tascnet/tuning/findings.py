"""What a search has found beside its winner: bounds, fronts, depths, and what the surrogate learnt."""

from typing import Any

from torch import nn

from tascnet.models.head import head_start
from tascnet.options import TuneBase
from tascnet.run.records import FreezingDepth, FrontPoint, Trial
from tascnet.tuning.explain import explain
from tascnet.tuning.problem import Builder
from tascnet.tuning.space import FIRST_TRAINED
from tascnet.tuning.study import Study


def findings(options: TuneBase, study: Study, chain: nn.Sequential, build: Builder) -> dict[str, Any]:
    """Fields of `TuneMetrics`: objective, bounds, surrogate, and front or layerwise where they exist."""
    goal = study.goal
    bounds = {"flops": goal.max_flops, "params": goal.max_params, "latency_ms": goal.max_latency_ms}
    found: dict[str, Any] = {
        "objective": options.objective,
        "bounds": {name: float(bound) for name, bound in bounds.items() if bound is not None},
    }
    if options.is_layerwise:
        depths = (_depth(t, study, chain, build) for t in study.trials if t.status == "ok")
        return {**found, "layerwise": tuple(depths)}
    if goal.objective == "pareto":
        names = ("trial", "value", "val_accuracy", "params", "flops")
        points = ({name: getattr(trial, name) for name in names} for trial in study.front())
        found["front"] = tuple(FrontPoint(**point) for point in points)
    return {**found, "surrogate": explain(study.space, study.trials, goal)}


def _depth(trial: Trial, study: Study, chain: nn.Sequential, build: Builder) -> FreezingDepth:
    unit = int(trial.config[FIRST_TRAINED])
    block = study.space.units[unit].block
    assert trial.val_accuracy is not None
    return FreezingDepth(
        trial=trial.trial,
        first_trained=unit,
        block=block,
        name="head" if block == head_start(chain) else list(chain._modules)[block],
        trainable_params=sum(p.numel() for p in build(trial.config).tail.parameters()),
        val_accuracy=trial.val_accuracy,
        seconds=trial.seconds,
    )
