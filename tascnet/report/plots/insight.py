"""The figures of what the search learnt: predictions of left-out trials, and the choices that mattered."""

from matplotlib.axes import Axes

from tascnet.report.numbers import gap
from tascnet.report.plots.marks import (
    dashes,
    limits,
    named_rows,
    points,
    quiet_axes,
    show_percent,
    show_plain,
    top_legend,
)
from tascnet.report.theme import ACCENT, BAR, GRID, MUTED, plotted
from tascnet.run.records import Insight

_SIZE = (5.4, 3.9)
# Bars in the figure; the table has the others.
_BARS = 12


def paint_predictions(axes: Axes, insight: Insight) -> None:
    """What the surrogate predicted for each trial from all others, with its deviation, against the result."""
    quiet_axes(axes)
    observed = [row.observed for row in insight.predictions]
    predicted = [row.predicted for row in insight.predictions]
    deviations = [row.deviation for row in insight.predictions]
    axes.errorbar(
        observed, predicted, deviations, fmt="none", ecolor=BAR, elinewidth=1.0, label="± one deviation"
    )
    points(axes, list(zip(observed, predicted, strict=True)), "trial", color=ACCENT, alpha=0.85)
    is_accuracy = insight.target == "val_accuracy"
    least = 0.01 if is_accuracy else 0.0
    ends = limits(observed, least=least)
    dashes(axes.plot(ends, ends, label="predicted = observed"))
    axes.set_xlim(ends)
    reach = [y + s * d for y, d in zip(predicted, deviations, strict=True) for s in (-1, 1)]
    axes.set_ylim(limits([*reach, *ends], headroom=0.03, footroom=0.03, least=least))
    for axis in (axes.xaxis, axes.yaxis):
        (show_percent if is_accuracy else show_plain)(axis)
    axes.set_xlabel(f"observed validation {'accuracy' if is_accuracy else 'loss'}")
    axes.set_ylabel("predicted without the trial")
    top_legend(axes)


def paint_importance(axes: Axes, insight: Insight) -> None:
    """How much the leave-one-out error rises without each choice: one bar a choice, the largest on top."""
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


prediction_plot = plotted(_SIZE, paint_predictions)
importance_plot = plotted(_SIZE, paint_importance)
