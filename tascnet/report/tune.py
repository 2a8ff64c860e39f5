"""The page of stage tune."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.page import stage_page, write_page
from tascnet.report.plots import (
    best_value_plot,
    importance_plot,
    layerwise_plot,
    prediction_plot,
    tradeoff_plot,
)
from tascnet.report.sentences import TOO_FEW, insight_figures
from tascnet.run.records import Insight, Trial, TuneMetrics

_MODELS = {
    "baseline": "new softmax layer on the frozen network",
    "conventional": "fine-tuned at the pre-trained widths",
    "after": "fine-tuned winner of the search",
}
_DISTILLED = "the conventional network, cut to the winning configuration and taught by the uncut one"
_STATUSES = {"failed": "failed", "stopped": "stopped early", "infeasible": "infeasible"}
_COSTS = {"flops": "FLOPs", "params": "params", "latency_ms": "latency"}


def tune_report(path: Path, metrics: TuneMetrics, trials: Sequence[Trial]) -> None:
    """Write the page of stage tune.

    Args:
        path: of the page.
        metrics: of the stage.
        trials: all of the search, failed ones included.
    """
    described = _MODELS | ({"after": _DISTILLED} if metrics.finetuned_from == "conventional" else {})
    facts = _facts(metrics, trials)
    content = stage_page("tune", metrics, facts=facts, described=described, against="conventional")
    neutral, best, insight = metrics.neutral_config, metrics.best_config, metrics.surrogate
    content |= {
        "winner": metrics.winner,
        "plots": _search_plots(metrics, trials),
        "trials": trials,
        "loss": metrics.objective == "loss",
        "latency": any(trial.latency_ms is not None for trial in trials),
        "front": metrics.front,
        "layerwise": metrics.layerwise,
        "curve": metrics.layerwise
        and {
            "title": "Accuracy against depth",
            "caption": "Each trial trains the network from one block on; all blocks before it stay frozen.",
            "svg": layerwise_plot(metrics.layerwise, metrics.winner),
        },
        "insight": insight,
        "too_few": TOO_FEW,
        "insight_figures": insight_figures(insight) if insight else [],
        "insight_plots": _insight_plots(insight) if insight else [],
        "neutral": neutral,
        "settings": [(name, neutral.get(name), best.get(name)) for name in dict.fromkeys([*neutral, *best])],
    }
    write_page(path, "tune.html", content)


def _facts(metrics: TuneMetrics, trials: Sequence[Trial]) -> list[str]:
    counts = {word: sum(trial.status == status for trial in trials) for status, word in _STATUSES.items()}
    facts = [", ".join([plural(len(trials), "trial"), *(f"{n} {word}" for word, n in counts.items() if n)])]
    bounds = [
        f"at most {numbers.milliseconds(bound) if cost == 'latency_ms' else f'{numbers.count(bound)} {word}'}"
        for cost, word in _COSTS.items()
        if (bound := metrics.bounds.get(cost)) is not None
    ]
    if bounds or metrics.objective != "accuracy":
        facts.append(", ".join([f"objective: {metrics.objective}", *bounds]))
    return [*facts, f"stopped: {metrics.stopped}"]


def _search_plots(metrics: TuneMetrics, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    if metrics.layerwise or not any(trial.is_trained for trial in trials):
        return []
    kind = "loss" if metrics.objective == "loss" else "value"
    plots = [
        {
            "title": f"Best {kind} against trial",
            "caption": "Depth: how many units from the output the search could change.",
            "svg": best_value_plot(trials, metrics.winner, metrics.objective),
        }
    ]
    # Costs that matter to the objective, else FLOPs.
    costs = [cost for cost in _COSTS if cost in metrics.bounds] or ["flops"]
    if metrics.front:
        costs = [metrics.objective.removeprefix("pareto_")]
    for cost in costs:
        caption = "Up and to the left is better. Open marks: named models."
        plots.append(
            {
                "title": f"Accuracy against {_COSTS[cost]}",
                "caption": caption + (" Line: the best accuracy at each cost." if metrics.front else ""),
                "svg": tradeoff_plot(
                    trials,
                    metrics.models,
                    metrics.winner,
                    cost=cost,
                    bound=metrics.bounds.get(cost),
                    front=metrics.front,
                ),
            }
        )
    return plots


def _insight_plots(insight: Insight) -> list[dict[str, Any]]:
    """Predictions, and where something was learnt the choices that mattered."""
    predictions = {
        "title": "Predicted against observed",
        "caption": "Each trial predicted from all others (leave-one-out).",
        "svg": prediction_plot(insight),
    }
    importance = {
        "title": "Which choices mattered",
        "caption": "Rise of the leave-one-out error without the choice.",
        "svg": importance_plot(insight),
    }
    return [predictions, importance] if insight.learnt else [predictions]
