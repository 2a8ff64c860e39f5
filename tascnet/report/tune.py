"""The report of stage tune."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.page import page, stop_fact, write
from tascnet.report.plots import (
    best_value_plot,
    importance_plot,
    layerwise_plot,
    prediction_plot,
    tradeoff_plot,
)
from tascnet.report.tables import TOO_FEW, insight_figures, pick_options

Row = Mapping[str, Any]

_MODELS = {
    "baseline": "new softmax layer on the frozen network",
    "conventional": "fine-tuned at the pre-trained widths",
    "after": "fine-tuned winner of the search",
}
_TAUGHT = "the conventional network, made smaller as the winner of the search is, and taught by it"
_STATUSES = {"failed": "failed", "stopped": "stopped early", "infeasible": "infeasible"}
_COSTS = {"flops": "FLOPs", "params": "params", "latency_ms": "latency"}


def tune_report(path: Path, metrics: Row, trials: Sequence[Row]) -> None:
    """Write the report of stage tune.

    Args:
        path: the page.
        metrics: content of `metrics.json`: models (baseline, conventional, after), best_config,
            neutral_config, seed, seconds, versions; and, where present, winner (number of the trial;
            else the trial of best_config), stopped (why), dataset, backbone, machine, objective, bounds
            (largest flops, params, latency_ms), front and pareto_cost, layerwise, surrogate (an insight
            of `tascnet.tuning.explain` as a dict, or None). Missing parts are left out of the page.
        trials: rows of `trials.jsonl`.
    """
    neutral, best = metrics.get("neutral_config") or {}, metrics.get("best_config") or {}
    winner = metrics.get("winner", _trial_of(trials, best))
    is_taught = metrics.get("finetuned_from") == "conventional"
    described = {**_MODELS, "after": _TAUGHT} if is_taught else _MODELS
    content = page("tune", metrics, result="after", against="conventional", described=described)
    content["facts"] += [_trials_fact(trials), *_goal_fact(metrics), *stop_fact(metrics)]
    content["plots"] = _search_plots(metrics, trials, winner)
    content["loss"] = metrics.get("objective") == "loss"
    content["latency"] = any(row.get("latency_ms") is not None for row in trials)
    content["trials"] = [_trial(row, metrics.get("objective"), neutral, winner) for row in trials]
    content["front"] = [_front_row(row, winner) for row in metrics.get("front") or []]
    content["curve"] = _layerwise_figure(metrics.get("layerwise") or [], winner)
    content["layerwise"] = [_layerwise_row(row, winner) for row in metrics.get("layerwise") or []]
    content["insight"] = _insight(metrics["surrogate"]) if "surrogate" in metrics else None
    content["settings"] = _settings(neutral, best)
    write(path, "tune.html", content)


def _trials_fact(trials: Sequence[Row]) -> str:
    counts = {word: sum(row["status"] == status for row in trials) for status, word in _STATUSES.items()}
    return ", ".join([plural(len(trials), "trial"), *(f"{n} {word}" for word, n in counts.items() if n)])


def _goal_fact(metrics: Row) -> list[str]:
    """The objective and its bounds; the default one without bounds goes without saying."""
    objective, bounds = metrics.get("objective", "accuracy"), metrics.get("bounds") or {}
    limits = [f"at most {_cost(key, value)}" for key, value in bounds.items() if value is not None]
    return [", ".join([f"objective: {objective}", *limits])] if limits or objective != "accuracy" else []


def _cost(key: str, value: float) -> str:
    return numbers.milliseconds(value) if key == "latency_ms" else f"{numbers.count(value)} {_COSTS[key]}"


def _trial_of(trials: Sequence[Row], best: Row) -> int | None:
    """The trial that succeeded with a configuration."""
    same = [row["trial"] for row in trials if row["status"] == "ok" and dict(row["config"]) == dict(best)]
    return same[0] if same else None


def _search_plots(metrics: Row, trials: Sequence[Row], winner: int | None) -> list[Row]:
    if metrics.get("layerwise") or all(row["value"] is None for row in trials):
        return []
    loss = metrics.get("objective") == "loss"
    return [
        {
            "title": "Best loss against trial" if loss else "Best value against trial",
            "caption": "Depth: how many units from the output were open to the search.",
            "svg": best_value_plot(trials, winner, metrics.get("objective", "accuracy")),
        },
        *(_tradeoff_figure(metrics, trials, winner, cost) for cost in _costs(metrics)),
    ]


def _costs(metrics: Row) -> list[str]:
    """The costs to draw accuracy against: those that matter to the objective, else FLOPs."""
    if metrics.get("front"):
        return [metrics.get("pareto_cost", "flops")]
    bounds = metrics.get("bounds") or {}
    return [cost for cost in _COSTS if bounds.get(cost) is not None] or ["flops"]


def _tradeoff_figure(metrics: Row, trials: Sequence[Row], winner: int | None, cost: str) -> Row:
    front = metrics.get("front") or []
    caption = "Up and to the left is better. Open marks: named models."
    return {
        "title": f"Accuracy against {_COSTS[cost]}",
        "caption": caption + (" Line: the best accuracy at each cost." if front else ""),
        "svg": tradeoff_plot(
            trials,
            metrics.get("models") or {},
            winner,
            objective=metrics.get("objective", "accuracy"),
            cost=cost,
            bound=(metrics.get("bounds") or {}).get(cost),
            front=front,
        ),
    }


def _layerwise_figure(rows: Sequence[Row], winner: int | None) -> Row | None:
    if all(row["val_accuracy"] is None for row in rows):
        return None
    return {
        "title": "Accuracy against depth",
        "caption": "Each trial trains the network from one block on; all blocks before it stay frozen.",
        "svg": layerwise_plot(rows, winner),
    }


def _trial(row: Row, objective: str | None, neutral: Row, winner: int | None) -> Row:
    accuracy = row.get("val_accuracy") if objective == "loss" else row["value"]
    differing = {name: value for name, value in row["config"].items() if neutral.get(name, value) != value}
    return {
        "trial": row["trial"],
        "depth": row["depth"],
        "status": row["status"],
        "accuracy": numbers.percent(accuracy),
        "loss": numbers.gap(row.get("val_loss"), "val_loss"),
        "params": numbers.count(row.get("params")),
        "flops": numbers.count(row.get("flops")),
        "latency": numbers.milliseconds(row.get("latency_ms")),
        "seconds": numbers.duration(row.get("seconds")),
        "reason": _reason(row),
        "settings": [f"{name}={numbers.plain(value)}" for name, value in differing.items()],
        "chosen": row["trial"] == winner,
    }


def _reason(row: Row) -> str | None:
    if row["status"] == "failed":
        return row.get("reason") or "no reason given"
    return row.get("reason")


def _front_row(row: Row, winner: int | None) -> Row:
    return {
        "trial": row["trial"],
        "accuracy": numbers.percent(row["val_accuracy"]),
        "params": numbers.count(row.get("params")),
        "flops": numbers.count(row.get("flops")),
        "command": pick_options(row["trial"]),
        "chosen": row["trial"] == winner,
    }


def _layerwise_row(row: Row, winner: int | None) -> Row:
    return {
        "block": row["block"],
        "name": row["name"],
        "params": numbers.count(row.get("trainable_params")),
        "accuracy": numbers.percent(row.get("val_accuracy")),
        "seconds": numbers.duration(row.get("seconds")),
        "chosen": row["trial"] == winner,
    }


def _insight(insight: Row | None) -> Row:
    """The section of what the search learnt; without an insight it says that alone."""
    if insight is None:
        return {"sentence": TOO_FEW, "learnt": False, "tiles": [], "plots": [], "importance": []}
    target = insight["target"]
    return {
        "sentence": insight["sentence"],
        "learnt": insight["learnt"],
        "tiles": [{"label": label, "value": value} for label, value in insight_figures(insight)],
        "plots": _insight_plots(insight) if insight["learnt"] else _insight_plots(insight)[:1],
        "importance": [
            {
                "choice": row["choice"],
                "rise": numbers.gap(row["rise"], target, signed=True),
                "lengthscale": f"{row['lengthscale']:.3g}",
            }
            for row in insight["importance"]
        ],
    }


def _insight_plots(insight: Row) -> list[Row]:
    return [
        {
            "title": "Predicted against observed",
            "caption": "Each trial predicted from all others (leave-one-out).",
            "svg": prediction_plot(insight),
        },
        {
            "title": "Which choices mattered",
            "caption": "Rise of the leave-one-out error without the choice.",
            "svg": importance_plot(insight),
        },
    ]


def _settings(neutral: Row, best: Row) -> list[Row]:
    names = dict.fromkeys([*neutral, *best]) if best else {}
    return [
        {
            "name": name,
            "before": numbers.plain(neutral.get(name)),
            "after": numbers.plain(best.get(name)),
            "changed": neutral.get(name) != best.get(name),
        }
        for name in names
    ]
