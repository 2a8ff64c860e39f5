"""The figures of a search, and of what it learnt."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any

from matplotlib.axes import Axes

from tascnet.measure.runtimes import NAMES
from tascnet.report.numbers import gap, metric_name
from tascnet.report.plots.marks import (
    Points,
    accuracy_axis,
    dashes,
    limits,
    mark_winner,
    named_rows,
    points,
    quiet_axes,
    show_counts,
    show_integers,
    show_percent,
    show_plain,
    top_legend,
)
from tascnet.report.theme import ACCENT, BAD, BAR, GRID, MUTED, SECOND, draw, plotted
from tascnet.run.records import EndPoint, FreezingDepth, FrontPoint, Insight, ModelMetrics, Trial, score

_COSTS = {"flops": "FLOPs, one sample", "params": "parameters"}
_SIZE, _INSIGHT_SIZE = (4.7, 3.1), (4.7, 3.6)
# By status: label and looks.
_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ok": ("trial", {"color": MUTED, "alpha": 0.75}),
    "stopped": ("stopped", {"color": MUTED, "mfc": "none", "mew": 1.2}),
    "failed": ("failed", {"color": BAD, "marker": "x", "markersize": 6, "mew": 1.6}),
    "infeasible": ("infeasible", {"color": MUTED, "marker": "+", "markersize": 7.5, "mew": 1.6}),
}
# The smallest part of the figure's width between two labels of depths, and the most names of blocks.
_LABEL_GAP = 0.06
_NAMES = 60
# Most bars of choices; the table has the others.
_BARS = 12


def paint_best(
    axes: Axes, trials: Sequence[Trial], winner: int, objective: str = "accuracy", metric: str = "accuracy"
) -> None:
    """The value of each trial, the best so far, trials without a value at the foot, lines where depths begin.

    With objective `loss` it draws the loss, which is minus the value.
    """
    quiet_axes(axes)
    sign, better = (-1.0, min) if objective == "loss" else (1.0, max)
    valued = [(row.trial, sign * row.value, row.status) for row in trials if row.value is not None]
    ok = [(number, value) for number, value, status in valued if status == "ok"]
    if ok:
        best = list(accumulate((value for _, value in ok), better))
        numbers = [number for number, _ in ok]
        axes.step(
            [*numbers, trials[-1].trial], [*best, best[-1]], where="post", color=ACCENT, label="best so far"
        )
    for status in ("ok", "stopped"):
        _mark(axes, [(number, value) for number, value, kind in valued if kind == status], status)
    mark_winner(axes, [place for place in ok if place[0] == winner])
    footroom = 0.06 if len(valued) == len(trials) else 0.14
    accuracy_axis(axes, [value for _, value, _ in valued], metric, headroom=0.16, footroom=footroom)
    if objective == "loss":
        show_plain(axes.yaxis)
        axes.set_ylabel("validation loss (lower is better)")
    for status in ("failed", "infeasible"):
        _mark_at_foot(axes, [row.trial for row in trials if row.status == status], status)
    _mark_depths(axes, trials)
    show_integers(axes.xaxis, 8)
    axes.set_xlabel("trial")
    top_legend(axes)


def paint_tradeoff(
    axes: Axes,
    trials: Sequence[Trial],
    models: Mapping[str, ModelMetrics],
    winner: int,
    *,
    cost: str = "flops",
    bound: float | None = None,
    front: Sequence[FrontPoint] = (),
    metric: str = "accuracy",
    runtime: str = "eager",
) -> None:
    """Accuracy against a cost of all trials that have both, the winner ringed, and of named models.

    Args:
        axes: empty.
        trials: of the search.
        models: by name.
        winner: number of the winning trial.
        cost: `flops`, `params` or `latency_ms`.
        bound: the largest allowed cost; None: no line.
        front: the trials that no other one dominates.
        metric: `accuracy` or `balanced_accuracy`.
        runtime: whose latency it is; models that were not measured there are left out.
    """
    quiet_axes(axes)
    costs = {row.trial: getattr(row, cost) for row in trials if row.status != "failed"}
    costs = {number: value for number, value in costs.items() if value is not None}
    rows = [row for row in trials if row.trial in costs]
    shown = [(row, (costs[row.trial], value)) for row in rows if (value := score(row, metric)) is not None]
    for status in ("ok", "stopped"):
        _mark(axes, [place for row, place in shown if row.status == status], status)
    if front:
        # The best accuracy at each cost rises where a trial's cost is reached.
        places = sorted((getattr(row, cost), row.value) for row in front)
        axes.step(*zip(*places, strict=True), where="post", color=ACCENT, linewidth=1.4)
        points(axes, places, "front", color=ACCENT, markersize=6)
    mark_winner(axes, [place for row, place in shown if row.trial == winner])
    named = {
        name: (getattr(record, cost), score(model, metric) or 0.0)
        for name, model in models.items()
        if (record := model.latency(runtime) if cost == "latency_ms" else model) is not None
    }
    for (name, place), marker in zip(named.items(), cycle("D^sv"), strict=False):
        points(axes, [place], name, color=SECOND, marker=marker, markersize=6, mfc="none", mew=1.6)
    if bound is not None:
        dashes([axes.axvline(bound, label="bound", zorder=1)])
    values = [y for _, (_, y) in shown] + [y for _, y in named.values()]
    accuracy_axis(axes, values, metric, footroom=0.08 if len(shown) == len(rows) else 0.14)
    _mark_at_foot(axes, [costs[row.trial] for row in rows if row.status == "infeasible"], "infeasible")
    extent = [*costs.values(), *(x for x, _ in named.values()), *([bound] if bound else [])]
    axes.set_xlim(limits(extent, least=0.6 * max(extent, default=1.0)))
    show_counts(axes.xaxis)
    axes.set_xlabel(_COSTS.get(cost, f"latency in {NAMES[runtime]}, batch 1, in ms"))
    top_legend(axes)


best_value_plot = plotted(_SIZE, paint_best)
tradeoff_plot = plotted(_SIZE, paint_tradeoff)


def layerwise_plot(rows: Sequence[FreezingDepth], chosen: int, metric: str = "accuracy") -> str:
    """`paint_layerwise` with room for the names."""
    size = (10.8, 2.9 + 0.08 * max(len(row.name) for row in rows))
    return draw(size, lambda figure: paint_layerwise(figure.add_subplot(), rows, chosen, metric))


def paint_layerwise(axes: Axes, rows: Sequence[FreezingDepth], chosen: int, metric: str = "accuracy") -> None:
    """Accuracy against the first trained block, the chosen one ringed; of many names every n-th."""
    quiet_axes(axes)
    ordered = sorted(rows, key=lambda row: -row.block)
    places = [(i, score(row, metric) or 0.0) for i, row in enumerate(ordered)]
    axes.plot(*zip(*places, strict=True), "-", color=ACCENT, linewidth=1.6)
    points(axes, places, "trial", color=ACCENT, markersize=5.5)
    mark_winner(axes, [place for place in places if ordered[place[0]].trial == chosen], "chosen")
    accuracy_axis(axes, [value for _, value in places], metric)
    named = range(0, len(ordered), -(-len(ordered) // _NAMES))
    axes.set_xticks(list(named), [ordered[i].name for i in named], rotation=90, fontsize=8.5)
    axes.set_xlim(-0.7, len(ordered) - 0.3)
    axes.set_xlabel("first trained block: from the output (left) to the input (right)")
    top_legend(axes)


def paint_ends(axes: Axes, ends: Sequence[EndPoint], chosen: int, metric: str = "accuracy") -> None:
    """Accuracy of a new head alone against the units that are removed from the end, the chosen end ringed."""
    quiet_axes(axes)
    places = [(float(end.exit), score(end, metric) or 0.0) for end in ends]
    axes.plot(*zip(*places, strict=True), "-", color=ACCENT, linewidth=1.6)
    points(axes, places, "head alone", color=ACCENT, markersize=5.5)
    mark_winner(axes, [place for place in places if place[0] == chosen], "winner's end")
    accuracy_axis(axes, [value for _, value in places], metric)
    show_integers(axes.xaxis, 8)
    axes.set_xlim(-0.5, ends[-1].exit + 0.5)
    axes.set_xlabel("units removed from the end")
    top_legend(axes)


ends_plot = plotted(_SIZE, paint_ends)


def paint_predictions(axes: Axes, insight: Insight) -> None:
    """The prediction for each trial from all others, with its deviation, against the result."""
    quiet_axes(axes)
    observed = [row.observed for row in insight.predictions]
    predicted = [row.predicted for row in insight.predictions]
    deviations = [row.deviation for row in insight.predictions]
    axes.errorbar(
        observed, predicted, deviations, fmt="none", ecolor=BAR, elinewidth=1.0, label="± one deviation"
    )
    points(axes, list(zip(observed, predicted, strict=True)), "trial", color=ACCENT, alpha=0.85)
    is_accuracy = insight.target.endswith("accuracy")
    least = 0.01 if is_accuracy else 0.0
    ends = limits(observed, least=least)
    dashes(axes.plot(ends, ends, label="predicted = observed"))
    axes.set_xlim(ends)
    reach = [y + s * d for y, d in zip(predicted, deviations, strict=True) for s in (-1, 1)]
    axes.set_ylim(limits([*reach, *ends], headroom=0.03, footroom=0.03, least=least))
    for axis in (axes.xaxis, axes.yaxis):
        (show_percent if is_accuracy else show_plain)(axis)
    axes.set_xlabel(f"observed validation {metric_name(insight.target.removeprefix('val_'))}")
    axes.set_ylabel("predicted without the trial")
    top_legend(axes)


def paint_importance(axes: Axes, insight: Insight) -> None:
    """The rise of the leave-one-out error without each choice, one bar each, the largest on top."""
    quiet_axes(axes, grid=None)
    rows = insight.importance[:_BARS]
    rises = [row.rise for row in rows]
    axes.barh(range(len(rows)), rises, height=0.62, color=[ACCENT if rise > 0 else BAR for rise in rises])
    axes.axvline(0.0, color=GRID, linewidth=1.0)
    low, high = min([*rises, 0.0]), max([*rises, 0.0])
    span = (high - low) or 1.0
    for place, rise in enumerate(rises):
        text = gap(rise, insight.target, signed=True)
        axes.text(max(rise, 0.0) + 0.02 * span, place, text, va="center", fontsize=8.5, color=MUTED)
    axes.set_xticks([])
    axes.set_xlim(low - 0.02 * span, high + 0.32 * span)
    named_rows(axes, [row.choice for row in rows], max(len(rows), 5))


prediction_plot = plotted(_INSIGHT_SIZE, paint_predictions)
importance_plot = plotted(_INSIGHT_SIZE, paint_importance)


def _mark(axes: Axes, places: Points, status: str) -> None:
    label, style = _MARKS[status]
    points(axes, places, label, **style)


def _mark_at_foot(axes: Axes, xs: Sequence[float], status: str) -> None:
    """Trials that have no accuracy."""
    low, high = axes.get_ylim()
    _mark(axes, [(x, low + 0.06 * (high - low)) for x in xs], status)


def _mark_depths(axes: Axes, trials: Sequence[Trial]) -> None:
    """A line and, where there is room, a number where a depth begins."""
    low, high = trials[0].trial - 0.7, trials[-1].trial + 0.7
    axes.set_xlim(low, high)
    top = axes.get_ylim()[1]
    deepest, free = -1, low
    for row in trials:
        if row.depth <= deepest:
            continue
        start = row.trial - 0.5
        if deepest >= 0:
            axes.axvline(start, color=GRID, linewidth=1.0, zorder=0)
        if start >= free:
            label = str(row.depth) if deepest >= 0 else f"depth {row.depth}"
            axes.text(start + 0.005 * (high - low), top, label, va="top", color=MUTED, fontsize=9)
            free = start + _LABEL_GAP * (high - low) * (1 if deepest >= 0 else 2)
        deepest = row.depth
