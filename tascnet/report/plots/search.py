"""The figures of a search: value by trial, accuracy against cost, accuracy against depth."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any

from matplotlib.axes import Axes

from tascnet.report.plots.marks import (
    Points,
    accuracy_axis,
    dashes,
    limits,
    mark_winner,
    points,
    show_counts,
    show_integers,
    show_plain,
    top_legend,
)
from tascnet.report.theme import ACCENT, BAD, GRID, MUTED, SECOND, SURFACE, draw, quiet_axes

Row = Mapping[str, Any]

COSTS = {"flops": "FLOPs, one sample", "params": "parameters", "latency_ms": "latency, batch 1, in ms"}

_SIZE = (5.4, 3.3)
_STYLES: dict[str, dict[str, Any]] = {
    "ok": {"color": MUTED, "alpha": 0.75},
    "stopped": {"color": MUTED, "mfc": "none", "mew": 1.2},
    "failed": {"color": BAD, "marker": "x", "markersize": 6, "mew": 1.6},
    "infeasible": {"color": MUTED, "marker": "+", "markersize": 7.5, "mew": 1.6},
}
_LABELS = {"ok": "trial"}
# The smallest part of the figure's width between two labels of depths, and the most names of blocks.
_LABEL_GAP = 0.06
_NAMES = 60


def accuracy(row: Row, objective: str) -> float | None:
    """A trial's validation accuracy: its value, except where the value is the loss."""
    return row["val_accuracy"] if objective == "loss" else row["value"]


def best_value_plot(trials: Sequence[Row], winner: int | None = None, objective: str = "accuracy") -> str:
    """The value of each trial, the best so far, trials that did not succeed and where depths begin.

    Args:
        trials: rows with trial, depth, status and value.
        winner: number of the winning trial.
        objective: what the search was judged by; `loss` draws the loss, which is minus the value.
    """
    return draw("best", _SIZE, lambda figure: paint_best(figure.add_subplot(), trials, winner, objective))


def tradeoff_plot(
    trials: Sequence[Row],
    models: Mapping[str, Row],
    winner: int | None = None,
    *,
    objective: str = "accuracy",
    cost: str = "flops",
    bound: float | None = None,
    front: Sequence[Row] = (),
) -> str:
    """Accuracy against a cost of all trials that have both, with the winner and named models marked.

    Args:
        trials: rows with trial, status, value (and val_accuracy, where the objective is the loss) and `cost`.
        models: records with val_accuracy and `cost`.
        winner: number of the winning trial.
        objective: what the search was judged by.
        cost: flops, params or latency_ms.
        bound: the largest cost allowed; None draws no line.
        front: rows with val_accuracy and `cost` of the trials that no other one dominates.
    """
    return draw(
        f"tradeoff-{cost}",
        _SIZE,
        lambda figure: paint_tradeoff(
            figure.add_subplot(),
            trials,
            models,
            winner,
            objective=objective,
            cost=cost,
            bound=bound,
            front=front,
        ),
    )


def layerwise_plot(rows: Sequence[Row], chosen: int | None = None) -> str:
    """Validation accuracy against the first trained block, from the output backwards.

    Args:
        rows: rows with trial, block, name and val_accuracy.
        chosen: number of the trial whose depth was picked.
    """
    height = 2.9 + 0.08 * max(len(row["name"]) for row in rows)
    return draw(
        "layerwise", (10.8, height), lambda figure: paint_layerwise(figure.add_subplot(), rows, chosen)
    )


def paint_best(axes: Axes, trials: Sequence[Row], winner: int | None, objective: str = "accuracy") -> None:
    """The best value so far, each trial, those without a value at the foot, lines where depths begin."""
    quiet_axes(axes)
    sign, better = (-1.0, min) if objective == "loss" else (1.0, max)
    valued = [
        (row["trial"], sign * row["value"], row["status"]) for row in trials if row["value"] is not None
    ]
    ok = [(trial, value) for trial, value, status in valued if status == "ok"]
    best = list(accumulate((value for _, value in ok), better))
    numbers = [trial for trial, _ in ok]
    if ok:
        steps = [*numbers, trials[-1]["trial"]], [*best, best[-1]]
        axes.step(*steps, where="post", color=ACCENT, label="best so far")
    for status in ("ok", "stopped"):
        _trials(axes, [(trial, value) for trial, value, kind in valued if kind == status], status)
    mark_winner(axes, [place for place in ok if place[0] == winner])
    footroom = 0.06 if len(valued) == len(trials) else 0.14
    accuracy_axis(axes, [value for _, value, _ in valued], headroom=0.16, footroom=footroom)
    if objective == "loss":
        show_plain(axes.yaxis)
        axes.set_ylabel("validation loss (lower is better)")
    _foot(axes, trials, "trial", ("failed", "infeasible"))
    _depth_lines(axes, trials)
    show_integers(axes.xaxis, 8)
    axes.set_xlabel("trial")
    top_legend(axes)


def paint_tradeoff(
    axes: Axes,
    trials: Sequence[Row],
    models: Mapping[str, Row],
    winner: int | None,
    *,
    objective: str = "accuracy",
    cost: str = "flops",
    bound: float | None = None,
    front: Sequence[Row] = (),
) -> None:
    """Trials by status, the winner ringed, the front, the bound, and models that have both numbers."""
    quiet_axes(axes)
    costed = [row for row in trials if row["status"] != "failed" and row.get(cost) is not None]
    judged = [(row, accuracy(row, objective)) for row in costed]
    shown = [(row, (row[cost], value)) for row, value in judged if value is not None]
    for status in ("ok", "stopped"):
        _trials(axes, [place for row, place in shown if row["status"] == status], status)
    _front(axes, [(row[cost], row["val_accuracy"]) for row in front])
    mark_winner(axes, [place for row, place in shown if row["trial"] == winner])
    named = {n: (m[cost], m["val_accuracy"]) for n, m in models.items() if _has(m, cost, "val_accuracy")}
    for (name, place), marker in zip(named.items(), cycle("D^sv"), strict=False):
        points(axes, [place], name, color=SECOND, marker=marker, markersize=6, mfc=SURFACE, mew=1.6)
    if bound is not None:
        dashes([axes.axvline(bound, label="bound", zorder=1)])
    values = [y for _, (_, y) in shown] + [y for _, y in named.values()]
    accuracy_axis(axes, values, footroom=0.08 if len(shown) == len(costed) else 0.14)
    _foot(axes, costed, cost, ("infeasible",))
    _cost_axis(axes, [row[cost] for row in costed] + [x for x, _ in named.values()] + [bound or 0.0])
    axes.set_xlabel(COSTS[cost])
    top_legend(axes)


def paint_layerwise(axes: Axes, rows: Sequence[Row], chosen: int | None) -> None:
    """The curve over blocks by name, the picked one ringed; every n-th name where there are many."""
    quiet_axes(axes)
    ordered = sorted(rows, key=lambda row: -row["block"])
    values = [row["val_accuracy"] for row in ordered]
    places = [(i, value) for i, value in enumerate(values) if value is not None]
    axes.plot(*zip(*places, strict=True), "-", color=ACCENT, linewidth=1.6)
    points(axes, places, "trial", color=ACCENT, markersize=5.5)
    mark_winner(axes, [place for place in places if ordered[place[0]]["trial"] == chosen], "chosen")
    accuracy_axis(axes, [value for _, value in places])
    named = range(0, len(ordered), -(-len(ordered) // _NAMES))
    axes.set_xticks(list(named), [ordered[i]["name"] for i in named], rotation=90, fontsize=8.5)
    axes.set_xlim(-0.7, len(ordered) - 0.3)
    axes.set_xlabel("first trained block: from the output (left) to the input (right)")
    top_legend(axes)


def _trials(axes: Axes, places: Points, status: str) -> None:
    points(axes, places, _LABELS.get(status, status), **_STYLES[status])


def _foot(axes: Axes, rows: Sequence[Row], key: str, statuses: Sequence[str]) -> None:
    """Trials that have no accuracy, at the foot of the figure."""
    low, high = axes.get_ylim()
    for status in statuses:
        _trials(
            axes, [(row[key], low + 0.06 * (high - low)) for row in rows if row["status"] == status], status
        )


def _front(axes: Axes, places: Points) -> None:
    """The best accuracy at each cost: it rises at each of the front's trials."""
    if places:
        ordered = sorted(places)
        axes.step(*zip(*ordered, strict=True), where="post", color=ACCENT, linewidth=1.4)
        points(axes, ordered, "front", color=ACCENT, markersize=6)


def _depth_lines(axes: Axes, trials: Sequence[Row]) -> None:
    low, high = trials[0]["trial"] - 0.7, trials[-1]["trial"] + 0.7
    axes.set_xlim(low, high)
    top = axes.get_ylim()[1]
    deepest, free = -1, low
    for row in trials:
        if row["depth"] <= deepest:
            continue
        start = row["trial"] - 0.5
        if deepest >= 0:
            axes.axvline(start, color=GRID, linewidth=1.0, zorder=0)
        if start >= free:
            label = str(row["depth"]) if deepest >= 0 else f"depth {row['depth']}"
            axes.text(start + 0.005 * (high - low), top, label, va="top", color=MUTED, fontsize=9)
            free = start + _LABEL_GAP * (high - low) * (1 if deepest >= 0 else 2)
        deepest = row["depth"]


def _cost_axis(axes: Axes, values: Sequence[float]) -> None:
    known = [value for value in values if value]
    low, high = limits(known, least=0.6 * max(known, default=1.0))
    axes.set_xlim(low, high)
    show_counts(axes.xaxis)


def _has(model: Row, *keys: str) -> bool:
    return all(model.get(key) is not None for key in keys)
