"""The pages of the stages pretrain, tune and prune."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report import numbers, plots
from tascnet.report.mistakes import Mistakes
from tascnet.report.page import stage_page, write_page
from tascnet.report.parts import mistakes_part, strip_part
from tascnet.report.sentences import (
    TOO_FEW,
    fall_lines,
    handover_lines,
    insight_figures,
    reach_lines,
    speed_lines,
)
from tascnet.run.records import (
    Insight,
    Iteration,
    PretrainMetrics,
    PruneMetrics,
    StageMetrics,
    Trial,
    TuneMetrics,
)

_DISTILLED = "conventional network, cut to the winning configuration and distilled from the uncut one"
_STATUSES = {"failed": "failed", "stopped": "stopped early", "infeasible": "infeasible", "lost": "lost"}
_COSTS = {"flops": "FLOPs", "params": "params", "latency_ms": "latency"}
_PRUNED = {"before": "unpruned", "after": "pruned"}


def pretrain_report(path: Path, metrics: PretrainMetrics) -> None:
    """Write the page of stage pretrain."""
    facts = [plural(len(metrics.epochs), "epoch")]
    if metrics.exclude is not None:
        shared = plural(metrics.excluded, "sample")
        facts.append(f"{shared} in the validation and test split of {metrics.exclude} excluded")
    described = {"after": "trained from random weights"}
    content = stage_page("pretrain", metrics, facts=facts, described=described)
    content |= {
        "weights": metrics.weights,
        **_columns(metrics),
        "epochs": metrics.epochs,
        "best_epoch": metrics.best_epoch,
    }
    write_page(path, "pretrain.html", content)


def tune_report(path: Path, metrics: TuneMetrics, trials: Sequence[Trial]) -> None:
    """Write the page of stage tune.

    Args:
        path: of the page.
        metrics: of the stage.
        trials: all of the search, failed ones included.
    """
    counts = {word: sum(trial.status == status for trial in trials) for status, word in _STATUSES.items()}
    facts = [", ".join([plural(len(trials), "trial"), *(f"{n} {word}" for word, n in counts.items() if n)])]
    bounds = [
        f"at most {numbers.milliseconds(bound) if cost == 'latency_ms' else f'{numbers.count(bound)} {word}'}"
        for cost, word in _COSTS.items()
        if (bound := metrics.bounds.get(cost)) is not None
    ]
    if bounds or metrics.objective != "accuracy":
        facts.append(", ".join([f"objective: {metrics.objective}", *bounds]))
    facts.append(f"stopped: {metrics.stopped}")
    content = stage_page("tune", metrics, facts=facts, described=tuned_words(metrics), against="conventional")
    neutral, best, insight = metrics.neutral_config, metrics.best_config, metrics.surrogate
    by_loss, has_latency = metrics.objective == "loss", any(trial.latency_ms is not None for trial in trials)
    differing = "settings that differ from the pre-trained network"
    balanced = _columns(metrics)
    headings = [
        "trial",
        "depth",
        "val acc.",
        *balanced["extra_headings"],
        "params",
        "FLOPs",
        "time",
        differing,
    ]
    if has_latency:
        is_predicted = metrics.measure["target"] != "eager"
        headings.insert(-2, "predicted latency" if is_predicted else "latency")
    if by_loss:
        headings.insert(2, "val loss")
    content |= {
        **balanced,
        "winner": metrics.winner,
        "plots": search_figures(metrics, trials),
        "trials": trials,
        "trial_headings": headings,
        "loss": by_loss,
        "latency": has_latency,
        "front": metrics.front,
        "reach": metrics.reach,
        "reach_lines": reach_lines(metrics.reach) if metrics.reach else [],
        "layerwise": metrics.layerwise,
        "curve": depth_figure(metrics),
        "candidates": metrics.candidates,
        "handed_over": metrics.handed_over,
        "handover_lines": handover_lines(metrics),
        "ends": metrics.ends,
        "end": metrics.best_config.get("exit", 0),
        "ends_plot": ends_figure(metrics),
        "strip": strip_part(metrics.widths, "conventional", "tuned"),
        "insight": insight,
        "too_few": TOO_FEW,
        "insight_figures": insight_figures(insight) if insight else [],
        "insight_plots": _insight_plots(insight) if insight else [],
        "neutral": neutral,
        "settings": [
            (name, neutral.get(name), best.get(name))
            for name in dict.fromkeys([*neutral, *best])
            if neutral.get(name) != best.get(name)
        ],
    }
    write_page(path, "tune.html", content)


def prune_report(
    path: Path,
    metrics: PruneMetrics,
    iterations: Sequence[Iteration],
    mistakes: Mistakes | None = None,
) -> None:
    """Write the page of stage prune.

    Args:
        path: of the page.
        metrics: of the stage.
        iterations: all of them, the unpruned network first.
        mistakes: of the pruned network; None: they are not shown.
    """
    facts = [plural(metrics.iterations, "iteration"), f"stopped: {metrics.stopped}"]
    content = stage_page("prune", metrics, facts=facts, described=_PRUNED, against="before")
    changed = [row for row in metrics.widths if row.before != row.after]
    unchanged = len(metrics.widths) - len(changed)
    sensitivity = metrics.sensitivity
    parts = sensitivity.groups[0].shares if sensitivity and sensitivity.groups else ()
    shares = [text for part in parts for text in (f"without {100 * part.share:g} %", "FLOPs saved")]
    word = numbers.metric_name(metrics.metric)
    content |= {
        **_columns(metrics),
        "iterations": iterations,
        "kept": metrics.kept_iteration,
        "plot": iterations
        and {
            "title": f"{word.capitalize()} and FLOPs against iteration",
            "caption": "Iteration 0 is the network before pruning; the ringed one is kept. "
            f"Tolerance: {100 * metrics.tolerance:g} percentage points below the best so far.",
            "svg": plots.iterations_plot(
                iterations, metrics.tolerance, metrics.kept_iteration, metrics.metric
            ),
        },
        "costs": cost_figures(metrics, iterations),
        "mistakes": mistakes_part(mistakes),
        "strip": strip_part(metrics.widths, "unpruned", "pruned"),
        "reach": metrics.reach,
        "reach_lines": reach_lines(metrics.reach),
        "fall": fall_lines(metrics),
        "speed": speed_lines(metrics.models, metrics.removable_blocks, metrics.measure["target"]),
        "sensitivity": sensitivity,
        "sensitivity_headings": ["group", "width", *shares],
        "sensitivity_plot": sensitivity_figure(metrics),
        "widths": metrics.widths,
        "widths_plot": changed
        and {
            "title": "Channels of each layer, before → after",
            "caption": "Grey: before. Coloured: after."
            + (f" Not drawn: {plural(unchanged, 'layer')} of unchanged width." if unchanged else ""),
            "svg": plots.widths_plot(changed),
        },
    }
    write_page(path, "prune.html", content)


def tuned_words(metrics: TuneMetrics) -> dict[str, str]:
    """What each model of a search is."""
    words = {
        "baseline": "new softmax layer on the frozen network",
        "conventional": "fine-tuned at the pre-trained widths",
        "after": "fine-tuned winner of the search",
    }
    if metrics.handed_over in ("baseline", "conventional"):
        words["after"] = f"the {metrics.handed_over} network: the fine-tuned winner was worse"
    elif metrics.handed_over != "tuned":
        words["after"] = "trial of the search, which fine-tuning did not improve"
    elif metrics.finetuned_from == "conventional":
        words["after"] = _DISTILLED
    size = metrics.best_config.get("input.size")
    if size is not None and metrics.handed_over in ("tuned", "winner"):
        words["after"] += f", for images of {size} px"
    return words | {
        rival.row: f"another network, fine-tuned at {rival.size} px from {rival.weights}"
        for rival in metrics.rivals
    }


def depth_figure(metrics: TuneMetrics) -> dict[str, Any] | None:
    """The figure of all freezing depths; None with another algorithm than layerwise."""
    if not metrics.layerwise:
        return None
    return {
        "title": f"{numbers.metric_name(metrics.metric).capitalize()} against depth",
        "caption": "Each trial trains the network from one block on; all blocks before it stay frozen.",
        "svg": plots.layerwise_plot(metrics.layerwise, metrics.winner, metrics.metric),
    }


def ends_figure(metrics: TuneMetrics) -> dict[str, Any] | None:
    """The figure of where the network may end; None where that was not searched, or it ends only there."""
    if len(metrics.ends) < 2:
        return None
    return {
        "title": f"{numbers.metric_name(metrics.metric).capitalize()} against the end",
        "caption": "A new head on the features of the pre-trained network before each of its last units.",
        "svg": plots.ends_plot(metrics.ends, metrics.best_config.get("exit", 0), metrics.metric),
    }


def sensitivity_figure(metrics: PruneMetrics) -> dict[str, Any] | None:
    """The figure of each group's sensitivity; None where it was not measured, or no group was cut."""
    sensitivity = metrics.sensitivity
    if sensitivity is None or not sensitivity.groups:
        return None
    return {
        "title": f"{numbers.metric_name(metrics.metric).capitalize()} without a share of one group",
        "caption": f"Before pruning, without retraining, on {sensitivity.samples} validation samples. "
        "Groups in the order of the network, with their widths.",
        "svg": plots.sensitivity_plot(sensitivity, metrics.metric),
    }


def cost_figures(metrics: PruneMetrics, iterations: Sequence[Iteration]) -> list[dict[str, Any]]:
    """The figures of what pruning gave up for its FLOPs, and of what each group alone would cost."""
    word, figures = numbers.metric_name(metrics.metric).capitalize(), []
    if iterations:
        figures.append(
            {
                "title": f"{word} against FLOPs",
                "caption": "The network before pruning has number 0; the ringed one is kept.",
                "svg": plots.frontier_plot(
                    iterations, metrics.tolerance, metrics.kept_iteration, metrics.metric
                ),
            }
        )
    sensitivity = metrics.sensitivity
    if sensitivity is not None and sensitivity.groups:
        shares = ", ".join(f"{100 * part.share:g}" for part in sensitivity.groups[0].shares)
        figures.append(
            {
                "title": f"{word} without parts of one group",
                "caption": f"Each line: a group of layers without {shares} % of its filters, before pruning, "
                f"not retrained ({sensitivity.samples:,} validation samples). Steeper: its FLOPs cost more.",
                "svg": plots.costs_plot(sensitivity, metrics.metric),
            }
        )
    return figures


def _columns(metrics: StageMetrics) -> dict[str, Any]:
    """The extra column of tables where balanced accuracy decides."""
    is_balanced = metrics.metric == "balanced_accuracy"
    return {"balanced": is_balanced, "extra_headings": ["balanced acc."] if is_balanced else []}


def search_figures(metrics: TuneMetrics, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The figures of a search: its best value, and the metric against each cost that matters."""
    if metrics.layerwise or not any(trial.is_trained for trial in trials):
        return []
    word = numbers.metric_name(metrics.metric)
    value = "loss" if metrics.objective == "loss" else word
    caption = "Depth: how many units from the output the search could change."
    values = {
        trial.trial: trial.value for trial in trials if trial.status == "ok" and trial.value is not None
    }
    if values.get(metrics.winner, math.inf) < max(values.values(), default=0.0):
        caption += " Winner: the smallest trial within the tolerance, or the picked one."
    figures = [
        {
            "title": f"Best {value} against trial",
            "caption": caption,
            "svg": plots.best_value_plot(trials, metrics.winner, metrics.objective, metrics.metric),
        }
    ]
    # Costs that matter to the objective, else FLOPs.
    costs = [cost for cost in _COSTS if cost in metrics.bounds] or ["flops"]
    caption = "Up and to the left is better. Open marks: the models above."
    if metrics.front:
        costs = [metrics.objective.removeprefix("pareto_")]
        caption += f" Line: the best {word} at each cost."
    runtime = metrics.measure["target"]
    for cost in costs:
        bound = metrics.bounds.get(cost)
        how = " Those of trials are predicted." if cost == "latency_ms" and runtime != "eager" else ""
        svg = plots.tradeoff_plot(
            trials,
            metrics.models,
            metrics.winner,
            cost=cost,
            bound=bound,
            front=metrics.front,
            metric=metrics.metric,
            runtime=runtime,
        )
        figures.append(
            {"title": f"{word.capitalize()} against {_COSTS[cost]}", "caption": caption + how, "svg": svg}
        )
    return figures


def _insight_plots(insight: Insight) -> list[dict[str, Any]]:
    """Predictions, and where something was learnt the choices that mattered."""
    predictions = {
        "title": "Predicted against observed",
        "caption": "Each trial predicted from all others (leave-one-out).",
        "svg": plots.prediction_plot(insight),
    }
    importance = {
        "title": "Which choices mattered",
        "caption": "Rise of the leave-one-out error without the choice.",
        "svg": plots.importance_plot(insight),
    }
    return [predictions, importance] if insight.learnt else [predictions]
