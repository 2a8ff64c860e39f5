"""The figures of what the search learnt: predictions of left-out trials, and the choices that mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis

from tascnet.report.numbers import gap
from tascnet.report.plots.marks import dashes, limits, points, show_percent, show_plain, top_legend
from tascnet.report.theme import ACCENT, BAR, GRID, INK, MUTED, draw, quiet_axes

Row = Mapping[str, Any]

# Bars in the figure; the table has the others.
_BARS = 12


def prediction_plot(insight: Row) -> str:
    """What the surrogate predicted for each trial from all others, against what was observed.

    Args:
        insight: target, and predictions: rows with observed, predicted and deviation.
    """
    return draw("predictions", (5.4, 3.9), lambda figure: paint_predictions(figure.add_subplot(), insight))


def importance_plot(insight: Row) -> str:
    """How much the leave-one-out error rises without each choice: one bar a choice, the largest on top.

    Args:
        insight: target, and importance: rows with choice and rise, the largest first.
    """
    return draw("importance", (5.4, 3.9), lambda figure: paint_importance(figure.add_subplot(), insight))


def paint_predictions(axes: Axes, insight: Row) -> None:
    """Points with bars of one predictive deviation, and the diagonal on which a perfect prediction lies."""
    quiet_axes(axes)
    rows = insight["predictions"]
    observed = [row["observed"] for row in rows]
    predicted = [row["predicted"] for row in rows]
    deviations = [row["deviation"] for row in rows]
    axes.errorbar(
        observed, predicted, deviations, fmt="none", ecolor=BAR, elinewidth=1.0, label="± one deviation"
    )
    points(axes, list(zip(observed, predicted, strict=True)), "trial", color=ACCENT, alpha=0.85)
    least = 0.01 if insight["target"] == "val_accuracy" else 0.0
    ends = limits(observed, least=least)
    dashes(axes.plot(ends, ends, label="predicted = observed"))
    axes.set_xlim(ends)
    reach = [y + s * d for y, d in zip(predicted, deviations, strict=True) for s in (-1, 1)]
    axes.set_ylim(limits([*reach, *ends], headroom=0.03, footroom=0.03, least=least))
    _value_axis(axes.xaxis, insight)
    _value_axis(axes.yaxis, insight)
    what = "validation accuracy" if insight["target"] == "val_accuracy" else "validation loss"
    axes.set_xlabel(f"observed {what}")
    axes.set_ylabel("predicted without the trial")
    top_legend(axes)


def paint_importance(axes: Axes, insight: Row) -> None:
    """Bars from zero with their numbers; a bar to the left: the error falls without the choice."""
    quiet_axes(axes, grid="x")
    axes.grid(visible=False)
    rows: Sequence[Row] = insight["importance"][:_BARS]
    rises = [row["rise"] for row in rows]
    axes.barh(range(len(rows)), rises, height=0.62, color=[ACCENT if rise > 0 else BAR for rise in rises])
    axes.axvline(0.0, color=GRID, linewidth=1.0)
    low, high = min([*rises, 0.0]), max([*rises, 0.0])
    span = (high - low) or 1.0
    for place, rise in enumerate(rises):
        text = gap(rise, insight["target"], signed=True)
        axes.text(max(rise, 0.0) + 0.02 * span, place, text, va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(range(len(rows)), [row["choice"] for row in rows])
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=INK)
    axes.set_xticks([])
    axes.set_xlim(low - 0.02 * span, high + 0.32 * span)
    axes.set_ylim(max(len(rows), 5) - 0.4, -0.6)


def _value_axis(axis: Axis, insight: Row) -> None:
    if insight["target"] == "val_accuracy":
        show_percent(axis)
    else:
        show_plain(axis)
