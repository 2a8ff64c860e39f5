"""The figures of a pruning."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.errors import printable
from tascnet.report.numbers import MISSING, metric_name
from tascnet.report.plots.marks import (
    accuracy_axis,
    dashes,
    mark_winner,
    named_rows,
    points,
    quiet_axes,
    show_counts,
    show_integers,
    show_percent,
    top_legend,
)
from tascnet.report.theme import ACCENT, BAD, BAR, GRID, MUTED, draw
from tascnet.run.records import GroupSensitivity, Iteration, LayerWidths, Sensitivity, score

_WIDTH = 10.8
# Up to how many iterations all have their numbers beside them.
_NUMBERED = 12
# Most characters of a group's name in a legend.
_LENGTH = 32


def iterations_plot(
    iterations: Sequence[Iteration], tolerance: float, kept: int, metric: str = "accuracy"
) -> str:
    """The metric with the tolerance line, and FLOPs, against the iteration, the unpruned network first.

    Args:
        iterations: all of them.
        tolerance: largest fall of the metric below the best so far.
        kept: the iteration whose network is the result.
        metric: `accuracy` or `balanced_accuracy`.
    """

    def paint(figure: Figure) -> None:
        accuracy, flops = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        figure.set_layout_engine("constrained", h_pad=0.12)
        paint_accuracy(accuracy, iterations, tolerance, kept, metric)
        paint_flops(flops, iterations, kept)

    return draw((_WIDTH, 4.8), paint)


def frontier_plot(
    iterations: Sequence[Iteration], tolerance: float, kept: int, metric: str = "accuracy"
) -> str:
    """`paint_frontier` for one half of the page."""
    paint = partial(paint_frontier, iterations=iterations, tolerance=tolerance, kept=kept, metric=metric)
    return draw((4.7, 3.3), lambda figure: paint(figure.add_subplot()))


def widths_plot(widths: Sequence[LayerWidths]) -> str:
    """A bar of the widths of each layer before and after, in two columns where there are many."""
    columns = 1 if len(widths) <= 14 else 2
    rows = -(-len(widths) // columns)

    def paint(figure: Figure) -> None:
        longest = max(row.before or row.after or 0 for row in widths)
        for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
            paint_widths(axes, widths[column * rows : (column + 1) * rows], longest, rows)

    return draw((_WIDTH, 0.5 + 0.235 * rows), paint)


def sensitivity_plot(sensitivity: Sensitivity, metric: str = "accuracy") -> str:
    """Accuracy without shares of each group alone."""
    size = (_WIDTH, 1.0 + 0.26 * len(sensitivity.groups))
    return draw(size, lambda figure: paint_sensitivity(figure.subplots(), sensitivity, metric))


def costs_plot(sensitivity: Sensitivity, metric: str = "accuracy") -> str:
    """`paint_costs` for one half of the page."""
    return draw((4.7, 3.3), lambda figure: paint_costs(figure.add_subplot(), sensitivity, metric))


def paint_accuracy(
    axes: Axes, iterations: Sequence[Iteration], tolerance: float, kept: int, metric: str = "accuracy"
) -> None:
    """The metric of each iteration and the line that it must not fall below."""
    quiet_axes(axes)
    values = [score(row, metric) or 0.0 for row in iterations]
    places = {row.iteration: (row.iteration, value) for row, value in zip(iterations, values, strict=True)}
    axes.plot(list(places), values, "-", color=ACCENT, linewidth=1.6)
    for label, color, inside in (("within tolerance", ACCENT, True), ("outside tolerance", BAD, False)):
        of_kind = [places[row.iteration] for row in iterations if row.inside == inside]
        points(axes, of_kind, label, color=color, markersize=5.5)
    line = [best - tolerance for best in accumulate(values, max)]
    dashes(axes.step(list(places), line, where="mid", label="best − tolerance"))
    mark_winner(axes, [places[kept]] if kept in places else [], "kept")
    accuracy_axis(axes, [*values, *line], metric)
    top_legend(axes)


def paint_frontier(
    axes: Axes, iterations: Sequence[Iteration], tolerance: float, kept: int, metric: str = "accuracy"
) -> None:
    """The metric of each iteration against its FLOPs, with the lowest value that is kept, and numbers."""
    quiet_axes(axes)
    places = {row.iteration: (row.flops, score(row, metric) or 0.0) for row in iterations}
    axes.plot(*zip(*places.values(), strict=True), "-", color=GRID, linewidth=1.4, zorder=1)
    for label, color, inside in (("within tolerance", ACCENT, True), ("outside tolerance", BAD, False)):
        of_kind = [places[row.iteration] for row in iterations if row.inside == inside]
        points(axes, of_kind, label, color=color, markersize=6)
    mark_winner(axes, [places[kept]] if kept in places else [], "kept")
    values = [value for _, value in places.values()]
    least = max(value for row, value in zip(iterations, values, strict=True) if row.inside) - tolerance
    dashes([axes.axhline(least, label="best − tolerance")])
    numbered = {0, kept, iterations[-1].iteration} if len(iterations) > _NUMBERED else set(places)
    for number in sorted(numbered & places.keys()):
        axes.annotate(str(number), places[number], xytext=(0, 8), textcoords="offset points", ha="center",
                      fontsize=8.5, color=MUTED)  # fmt: skip
    accuracy_axis(axes, [*values, least], metric, headroom=0.16)
    axes.set_xlim(0, 1.06 * max(flops for flops, _ in places.values()))
    show_counts(axes.xaxis)
    axes.set_xlabel("FLOPs, one sample")
    top_legend(axes)


def paint_flops(axes: Axes, iterations: Sequence[Iteration], kept: int) -> None:
    """FLOPs of each iteration, the kept one in colour."""
    quiet_axes(axes)
    colours = [ACCENT if row.iteration == kept else BAR for row in iterations]
    numbers = [row.iteration for row in iterations]
    axes.bar(numbers, [row.flops for row in iterations], width=0.55, color=colours)
    show_counts(axes.yaxis, 4)
    axes.set_ylabel("FLOPs")
    axes.set_xlabel("iteration")
    axes.set_xlim(numbers[0] - 0.7, numbers[-1] + 0.7)
    show_integers(axes.xaxis, 12)


def paint_widths(axes: Axes, widths: Sequence[LayerWidths], longest: int, rows: int) -> None:
    """A bar for each layer, the new width over the old one, on axes of `rows` places."""
    quiet_axes(axes, grid=None)
    places = range(len(widths))
    axes.barh(places, [row.before or 0 for row in widths], height=0.62, color=BAR)
    axes.barh(places, [row.after or 0 for row in widths], height=0.62, color=ACCENT)
    for place, row in zip(places, widths, strict=True):
        end = max(row.before or 0, row.after or 0) + 0.015 * longest
        text = " → ".join(MISSING if width is None else str(width) for width in (row.before, row.after))
        axes.text(end, place, text, va="center", fontsize=8.5, color=MUTED)
    axes.set_xticks([])
    axes.set_xlim(0, 1.3 * longest)
    named_rows(axes, [row.layer for row in widths], rows)


def paint_sensitivity(axes: Axes, sensitivity: Sensitivity, metric: str = "accuracy") -> None:
    """For each group a line from its best to its worst value of the metric, with a mark for each share."""
    quiet_axes(axes, grid="x")
    groups = sensitivity.groups
    for place, group in enumerate(groups):
        values = [score(part, metric) or 0.0 for part in group.shares]
        axes.plot([min(values), max(values)], [place, place], "-", color=BAR, linewidth=2.5)
    shares = [part.share for part in groups[0].shares]
    for number, (share, color) in enumerate(zip(shares, (MUTED, ACCENT, BAD), strict=True)):
        places = [(score(group.shares[number], metric) or 0.0, place) for place, group in enumerate(groups)]
        points(axes, places, f"without {100 * share:g} %", color=color, markersize=5.5)
    dashes([axes.axvline(score(sensitivity, metric) or 0.0, label="whole network")])
    named_rows(axes, [f"{group.group} ({group.width})" for group in groups])
    show_percent(axes.xaxis)
    axes.set_xlabel(f"validation {metric_name(metric)}")
    top_legend(axes)


def paint_costs(axes: Axes, sensitivity: Sensitivity, metric: str = "accuracy") -> None:
    """For each group a line of the metric against the FLOPs that its removed shares save.

    Those that lose most and least of it for their FLOPs are in colour, with their names.
    """
    quiet_axes(axes)
    whole = score(sensitivity, metric) or 0.0
    groups = sorted(sensitivity.groups, key=lambda group: _price(group, whole, metric))
    named = {groups[-1].group: ("most sensitive", BAD), groups[0].group: ("least sensitive", ACCENT)}
    if len(groups) == 1:
        named = {groups[0].group: ("only", ACCENT)}
    for group in groups:
        places = [(0.0, whole), *((part.flops_saved, score(part, metric) or 0.0) for part in group.shares)]
        word, color = named.get(group.group, ("", BAR))
        label = f"{word}: {printable(group.group, most=_LENGTH)} ({group.width})" if word else None
        (line,) = axes.plot(*zip(*places, strict=True), "-", color=color, label=label)
        line.set(linewidth=2.0 if word else 1.0, zorder=3 if word else 2)
        points(axes, places[1:], "", color=color, markersize=4 if word else 2.5)
    values = [whole, *(score(part, metric) or 0.0 for group in groups for part in group.shares)]
    dashes([axes.axhline(whole)])
    accuracy_axis(axes, values, metric)
    show_percent(axes.xaxis)
    axes.set_xlabel("FLOPs saved")
    top_legend(axes)


def _price(group: GroupSensitivity, whole: float, metric: str) -> float:
    """What the largest removed share costs of the metric, for each part of the FLOPs that it saves."""
    part = group.shares[-1]
    lost = whole - (score(part, metric) or 0.0)
    return lost / part.flops_saved if part.flops_saved > 0 else math.copysign(math.inf, lost)
