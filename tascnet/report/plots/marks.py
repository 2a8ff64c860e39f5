"""Marks, axes and legends that several figures share."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tascnet.report.numbers import count, metric_name
from tascnet.report.theme import ACCENT, GRID, INK, MUTED

Points: TypeAlias = Sequence[tuple[float, float]]

STEPS = (1, 2, 2.5, 5, 10)
# Letters of a legend in an inch.
_LETTERS = 11


def quiet_axes(axes: Axes, *, grid: Literal["x", "y", "both"] | None = "y") -> None:
    """No box and no tick marks; faint grid lines across `grid` (`x`, `y` or `both`), behind the data."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def points(axes: Axes, places: Points, label: str, *, color: str, marker: str = "o", **style: Any) -> None:
    """A mark at each place under one label; without places nothing, not even in the legend."""
    if places:
        xs, ys = zip(*places, strict=True)
        style = {"markersize": 5, "mew": 0} | style
        axes.plot(xs, ys, marker, color=color, linestyle="none", label=label, **style)


def mark_winner(axes: Axes, places: Points, label: str = "winner") -> None:
    """A ring around the chosen one."""
    points(axes, places, label, color=ACCENT, markersize=12, mfc="none", mec=ACCENT, mew=2)


def dashes(lines: Sequence[Line2D]) -> None:
    """Draw lines as limits: thin, dashed, muted."""
    for line in lines:
        line.set(color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)


def accuracy_axis(
    axes: Axes,
    values: Sequence[float],
    metric: str = "accuracy",
    *,
    headroom: float = 0.08,
    footroom: float = 0.08,
) -> None:
    """The vertical axis of a metric in per cent, around the values."""
    axes.set_ylim(limits(values, headroom=headroom, footroom=footroom))
    show_percent(axes.yaxis)
    axes.set_ylabel(f"validation {metric_name(metric)}")


def named_rows(axes: Axes, names: Sequence[str], rows: int | None = None) -> None:
    """The vertical axis with a name at each row, from the top, and room for `rows` of them."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=INK)
    axes.set_ylim((rows or len(names)) - 0.4, -0.6)


def limits(
    values: Sequence[float], *, headroom: float = 0.08, footroom: float = 0.08, least: float = 0.01
) -> tuple[float, float]:
    """Ends of an axis: room beyond the extremes, in shares of their distance or of `least`, if larger."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, least)
    return low - footroom * span, high + headroom * span


def show_percent(axis: Axis) -> None:
    """Ticks of fractions as percentages."""
    axis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def show_plain(axis: Axis) -> None:
    """Ticks without needless digits."""
    axis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axis.set_major_formatter("{x:.4g}")


def show_counts(axis: Axis, ticks: int = 5) -> None:
    """Ticks of counts with decimal prefixes."""

    def short(value: float, _position: int | None = None) -> str:
        number, _, prefix = count(value).partition(" ")
        trimmed = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{trimmed} {prefix}".rstrip()

    axis.set_major_locator(MaxNLocator(ticks, steps=STEPS))
    axis.set_major_formatter(FuncFormatter(short))


def show_integers(axis: Axis, ticks: int) -> None:
    """Ticks at whole numbers alone."""
    axis.set_major_locator(MaxNLocator(ticks, integer=True, steps=STEPS))


def top_legend(axes: Axes) -> None:
    """The legend above the axes, its entries row by row, in as many columns as fit the figure's width."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 5 if len(labels) <= 5 else 4
    room = _LETTERS * axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    while (
        columns > 1 and sum(max(map(len, labels[i::columns]), default=0) + 4 for i in range(columns)) > room
    ):
        columns -= 1
    # A legend fills column by column.
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        handlelength=1.2,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
