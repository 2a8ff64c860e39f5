"""The figures of a pruning: its iterations, and the widths it left."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.report.numbers import MISSING
from tascnet.report.plots.marks import (
    Points,
    accuracy_axis,
    dashes,
    mark_winner,
    points,
    show_counts,
    show_integers,
    show_percent,
    top_legend,
)
from tascnet.report.theme import ACCENT, BAD, BAR, INK, MUTED, draw, quiet_axes

Row = Mapping[str, Any]


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


def sensitivity_plot(sensitivity: Row) -> str:
    """Accuracy without shares of each group alone, groups in the order of the network.

    Args:
        sensitivity: val_accuracy of the whole network, and groups with group, width and, by share removed,
            share and val_accuracy.
    """
    rows = len(sensitivity["groups"])

    def paint(figure: Figure) -> None:
        paint_sensitivity(figure.subplots(), sensitivity)

    return draw("sensitivity", (10.8, 1.0 + 0.26 * rows), paint)


def paint_sensitivity(axes: Axes, sensitivity: Row) -> None:
    """A line a group from its best to its worst accuracy, with a mark for each share."""
    quiet_axes(axes, grid="x")
    groups, whole = sensitivity["groups"], sensitivity["val_accuracy"]
    places = range(len(groups))
    for place, group in zip(places, groups, strict=True):
        values = [share["val_accuracy"] for share in group["shares"]]
        axes.plot([min(values), max(values)], [place, place], "-", color=BAR, linewidth=2.5)
    shares = [share["share"] for share in groups[0]["shares"]]
    for number, (share, color) in enumerate(zip(shares, (MUTED, ACCENT, BAD), strict=True)):
        found = [
            (group["shares"][number]["val_accuracy"], float(p))
            for p, group in zip(places, groups, strict=True)
        ]
        points(axes, found, f"without {share:.0%}", color=color, markersize=5.5)
    dashes([axes.axvline(whole, label="whole network")])
    names = [f"{group['group']} ({group['width']})" for group in groups]
    axes.set_yticks(list(places), names)
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=INK)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    show_percent(axes.xaxis)
    axes.set_xlabel("validation accuracy")
    top_legend(axes)


def paint_accuracy(axes: Axes, iterations: Sequence[Row], tolerance: float | None, kept: int | None) -> None:
    """Accuracy of each iteration and the line that it must not fall below."""
    quiet_axes(axes)
    numbers = [row["iteration"] for row in iterations]
    values = [row["val_accuracy"] for row in iterations]
    axes.plot(numbers, values, "-", color=ACCENT, linewidth=1.6)
    inside = [row for row in iterations if row["inside"]]
    outside = [row for row in iterations if not row["inside"]]
    points(axes, _places(inside), "within tolerance", color=ACCENT, markersize=5.5)
    points(axes, _places(outside), "outside tolerance", color=BAD, markersize=5.5)
    line = [] if tolerance is None else [best - tolerance for best in accumulate(values, max)]
    if line:
        dashes(axes.step(numbers, line, where="mid", label="best − tolerance"))
    mark_winner(axes, _places([row for row in iterations if row["iteration"] == kept]), "kept")
    accuracy_axis(axes, [*values, *line])
    top_legend(axes)


def paint_flops(axes: Axes, iterations: Sequence[Row], kept: int | None) -> None:
    """FLOPs of each iteration, the kept one in colour."""
    quiet_axes(axes)
    colours = [ACCENT if row["iteration"] == kept else BAR for row in iterations]
    numbers = [row["iteration"] for row in iterations]
    axes.bar(numbers, [row["flops"] for row in iterations], width=0.55, color=colours)
    show_counts(axes.yaxis, 4)
    axes.set_ylabel("FLOPs")
    axes.set_xlabel("iteration")
    axes.set_xlim(numbers[0] - 0.7, numbers[-1] + 0.7)
    show_integers(axes.xaxis, 12)


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


def _places(iterations: Sequence[Row]) -> Points:
    return [(row["iteration"], row["val_accuracy"]) for row in iterations]
