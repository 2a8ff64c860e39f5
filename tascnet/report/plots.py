"""The figures of the two reports, each from plain rows to an `<svg>` element."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tascnet.report.numbers import MISSING, count
from tascnet.report.theme import ACCENT, BAD, BAR, GRID, INK, MUTED, SECOND, SURFACE, draw, quiet_axes

__all__ = [
    "best_value_plot",
    "iterations_plot",
    "paint_accuracy",
    "paint_best",
    "paint_flops",
    "paint_tradeoff",
    "paint_widths",
    "tradeoff_plot",
    "widths_plot",
]

Row = Mapping[str, Any]

_SIZE = (5.4, 3.3)
_STEPS = (1, 2, 2.5, 5, 10)


def best_value_plot(trials: Sequence[Row], winner: int | None = None) -> str:
    """Validation accuracy of each trial, the best so far, failed trials and where depths begin.

    Args:
        trials: rows with trial, depth, status and value.
        winner: number of the winning trial.
    """
    return draw("best", _SIZE, lambda figure: paint_best(figure.add_subplot(), trials, winner))


def tradeoff_plot(trials: Sequence[Row], models: Mapping[str, Row], winner: int | None = None) -> str:
    """Accuracy against FLOPs of all trials that succeeded, with the winner and named models marked.

    Args:
        trials: rows with trial, status, value and flops.
        models: records with val_accuracy and flops.
        winner: number of the winning trial.
    """
    return draw(
        "tradeoff", _SIZE, lambda figure: paint_tradeoff(figure.add_subplot(), trials, models, winner)
    )


def iterations_plot(iterations: Sequence[Row], tolerance: float | None, kept: int | None) -> str:
    """Accuracy with the tolerance line, and FLOPs, against the pruning iteration.

    Args:
        iterations: rows with iteration, val_accuracy, flops and inside.
        tolerance: how far accuracy may fall below the best so far; None draws no line.
        kept: the iteration whose network is handed over.
    """

    def paint(figure: Figure) -> None:
        accuracy, flops = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        figure.set_layout_engine("constrained", h_pad=0.12)
        paint_accuracy(accuracy, iterations, tolerance, kept)
        paint_flops(flops, iterations, kept)

    return draw("iterations", (10.8, 4.8), paint)


def widths_plot(widths: Sequence[Row]) -> str:
    """Widths of layers before and after, one bar a layer, in two columns where there are many.

    Args:
        widths: rows with layer, before and after.
    """
    columns = 1 if len(widths) <= 14 else 2
    rows = -(-len(widths) // columns)

    def paint(figure: Figure) -> None:
        longest = max(row["before"] or row["after"] or 0 for row in widths)
        for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
            paint_widths(axes, widths[column * rows : (column + 1) * rows], longest, rows)

    return draw("widths", (10.8, 0.5 + 0.235 * rows), paint)


def paint_best(axes: Axes, trials: Sequence[Row], winner: int | None) -> None:
    """The best value so far, each trial, the failed ones at the foot, and a line where a depth begins."""
    quiet_axes(axes)
    ok = [row for row in trials if row["value"] is not None]
    failed = [row["trial"] for row in trials if row["value"] is None]
    numbers = [row["trial"] for row in ok]
    values = [row["value"] for row in ok]
    best = list(accumulate(values, max))
    axes.step(
        [*numbers, trials[-1]["trial"]], [*best, best[-1]], where="post", color=ACCENT, label="best so far"
    )
    axes.plot(numbers, values, "o", markersize=5, color=MUTED, alpha=0.75, mew=0, label="trial")
    _mark_winner(axes, [(row["trial"], row["value"]) for row in ok if row["trial"] == winner])
    _accuracy_axis(axes, values, headroom=0.16, footroom=0.14 if failed else 0.06)
    bottom = axes.get_ylim()[0] + 0.06 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    if failed:
        axes.plot(failed, [bottom] * len(failed), "x", markersize=6, mew=1.6, color=BAD, label="failed")
    _depth_lines(axes, trials)
    axes.set_xlim(trials[0]["trial"] - 0.7, trials[-1]["trial"] + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=_STEPS))
    axes.set_xlabel("trial")
    _legend(axes)


def _depth_lines(axes: Axes, trials: Sequence[Row]) -> None:
    top = axes.get_ylim()[1]
    previous = None
    for row in trials:
        if row["depth"] != previous:
            start = row["trial"] - 0.5
            if previous is not None:
                axes.axvline(start, color=GRID, linewidth=1.0, zorder=0)
            label = f"depth {row['depth']}" if previous is None else str(row["depth"])
            axes.text(start + 0.15, top, label, va="top", color=MUTED, fontsize=9)
            previous = row["depth"]


def paint_tradeoff(axes: Axes, trials: Sequence[Row], models: Mapping[str, Row], winner: int | None) -> None:
    """Trials that succeeded, the winner ringed, and models that have both numbers."""
    quiet_axes(axes)
    ok = [row for row in trials if row["value"] is not None and row.get("flops") is not None]
    axes.plot(
        [row["flops"] for row in ok],
        [row["value"] for row in ok],
        "o",
        markersize=5,
        color=MUTED,
        alpha=0.75,
        mew=0,
        label="trial",
    )
    _mark_winner(axes, [(row["flops"], row["value"]) for row in ok if row["trial"] == winner])
    shown = {n: m for n, m in models.items() if m.get("flops") and m.get("val_accuracy") is not None}
    for (name, model), marker in zip(shown.items(), cycle("D^sv"), strict=False):
        axes.plot(
            model["flops"],
            model["val_accuracy"],
            marker,
            markersize=6,
            mfc=SURFACE,
            mec=SECOND,
            mew=1.6,
            linestyle="none",
            label=name,
        )
    _accuracy_axis(axes, [r["value"] for r in ok] + [m["val_accuracy"] for m in shown.values()])
    _count_axis(axes, [row["flops"] for row in ok] + [model["flops"] for model in shown.values()])
    axes.set_xlabel("FLOPs, one sample")
    _legend(axes)


def paint_accuracy(axes: Axes, iterations: Sequence[Row], tolerance: float | None, kept: int | None) -> None:
    """Accuracy of each iteration and the line that it must not fall below."""
    quiet_axes(axes)
    numbers = [row["iteration"] for row in iterations]
    values = [row["val_accuracy"] for row in iterations]
    drawn = list(values)
    axes.plot(numbers, values, "-", color=ACCENT, linewidth=1.6)
    inside = [row for row in iterations if row["inside"]]
    outside = [row for row in iterations if not row["inside"]]
    _points(axes, inside, color=ACCENT, label="within tolerance")
    if outside:
        _points(axes, outside, color=BAD, label="outside tolerance")
    if tolerance is not None:
        line = [best - tolerance for best in accumulate(values, max)]
        axes.step(
            numbers,
            line,
            where="mid",
            color=MUTED,
            linestyle=(0, (4, 3)),
            linewidth=1.2,
            label="best − tolerance",
        )
        drawn += line
    _mark_winner(
        axes, [(r["iteration"], r["val_accuracy"]) for r in iterations if r["iteration"] == kept], "kept"
    )
    _accuracy_axis(axes, drawn)
    _legend(axes)


def _points(axes: Axes, rows: Sequence[Row], *, color: str, label: str) -> None:
    axes.plot(
        [row["iteration"] for row in rows],
        [row["val_accuracy"] for row in rows],
        "o",
        markersize=5.5,
        color=color,
        mew=0,
        label=label,
    )


def paint_flops(axes: Axes, iterations: Sequence[Row], kept: int | None) -> None:
    """FLOPs of each iteration, the kept one in colour."""
    quiet_axes(axes)
    colours = [ACCENT if row["iteration"] == kept else BAR for row in iterations]
    numbers = [row["iteration"] for row in iterations]
    axes.bar(numbers, [row["flops"] for row in iterations], width=0.55, color=colours)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_ylabel("FLOPs")
    axes.set_xlabel("iteration")
    axes.set_xlim(numbers[0] - 0.7, numbers[-1] + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, steps=_STEPS))


def paint_widths(axes: Axes, widths: Sequence[Row], longest: int, rows: int) -> None:
    """One bar a layer: the new width over the old one, `rows` places high."""
    quiet_axes(axes, grid="x")
    axes.grid(visible=False)
    places = range(len(widths))
    axes.barh(places, [row["before"] or 0 for row in widths], height=0.62, color=BAR)
    axes.barh(places, [row["after"] or 0 for row in widths], height=0.62, color=ACCENT)
    for place, row in zip(places, widths, strict=True):
        before, after = (MISSING if row[key] is None else row[key] for key in ("before", "after"))
        end = max(row["before"] or 0, row["after"] or 0) + 0.015 * longest
        axes.text(end, place, f"{before} → {after}", va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(list(places), [row["layer"] for row in widths])
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=INK)
    axes.set_xticks([])
    axes.set_xlim(0, 1.3 * longest)
    axes.set_ylim(rows - 0.4, -0.6)


def _mark_winner(axes: Axes, points: Sequence[tuple[float, float]], label: str = "winner") -> None:
    for x, y in points:
        axes.plot(x, y, "o", markersize=12, mfc="none", mec=ACCENT, mew=2, linestyle="none", label=label)


def _accuracy_axis(
    axes: Axes, values: Sequence[float], *, headroom: float = 0.08, footroom: float = 0.08
) -> None:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 0.01)
    axes.set_ylim(low - footroom * span, high + headroom * span)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    axes.set_ylabel("validation accuracy")


def _count_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = max(0.08 * (high - low), 0.05 * high)
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


def _percent_tick(value: float, _position: int | None = None) -> str:
    return f"{100 * value:.4g} %"


def _tick(value: float, _position: int | None = None) -> str:
    number, _, prefix = count(value).partition(" ")
    trimmed = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{trimmed} {prefix}".rstrip()


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=5,
        handlelength=1.2,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
