"""The figure of accuracy against latency in every runtime."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from math import nan

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tascnet.errors import printable
from tascnet.measure.runtimes import NAMES
from tascnet.report.numbers import metric_name
from tascnet.report.plots.marks import limits, points, quiet_axes, show_percent, top_legend
from tascnet.report.theme import ACCENT, BAR, GRID, INK, MUTED, SECOND, THIRD, draw
from tascnet.run.records import INT8, ModelMetrics

# The colour of each runtime.
_COLOURS = {
    "eager": MUTED,
    "compile": INK,
    "onnxruntime": ACCENT,
    INT8: SECOND,
    "openvino": THIRD,
}
_MARKERS = "oDs^vPX*<>phd"
# At the end of the name of a network that is measured as an int8 file.
_ROW = " int8"
# Most characters of a name.
_LENGTH = 28


def speed_plot(models: Mapping[str, ModelMetrics], metric: str = "accuracy") -> str:
    """`paint_speed` with room for the names of the models on the right."""
    size = (4.9, max(3.1, 1.3 + 0.28 * len(models)))
    return draw(size, lambda figure: paint_speed(figure.add_subplot(), models, metric))


def paint_speed(axes: Axes, models: Mapping[str, ModelMetrics], metric: str = "accuracy") -> None:
    """The metric on test samples against the latency for one sample: a marker a model, a colour a runtime.

    A network that was not judged in int8 has a hollow mark there, at the metric of the float network. One
    that was timed nowhere is left out.
    """
    quiet_axes(axes, grid="both")
    floats = [name for name in models if not name.endswith(_ROW)]
    markers = dict(zip(floats, cycle(_MARKERS), strict=False))
    labelled: set[str] = set()
    ends = []
    for name, model in models.items():
        value, places = getattr(model, f"test_{metric}"), speeds(name, models)
        if not places:
            continue
        axes.plot(list(places.values()), [value] * len(places), "-", color=GRID, linewidth=1.4, zorder=1)
        for runtime, milliseconds in places.items():
            is_hollow = runtime == INT8 and not name.endswith(_ROW)
            looks = {"mfc": "none", "mew": 1.6} if is_hollow else {"mew": 0.0}
            color, marker = _COLOURS[runtime], markers.get(name.removesuffix(_ROW), "o")
            points(axes, [(milliseconds, value)], "", color=color, marker=marker, markersize=8, **looks)
            if runtime not in labelled:
                labelled.add(runtime)
                points(axes, [(nan, nan)], NAMES[runtime], color=color, marker="o", markersize=7)
        ends.append((name, max(places.values()), value))
    values = [value for *_, value in ends]
    low, high = limits(values, footroom=0.12, headroom=0.12)
    axes.set_ylim(low, high)
    show_percent(axes.yaxis)
    axes.set_ylabel(f"test {metric_name(metric)}")
    _log_milliseconds(axes, [time for name in models for time in speeds(name, models).values()])
    top_legend(axes)
    # Names stand where their marks end, but not on one another.
    heights = spread([(value - low) / (high - low) for value in values], min(0.075, 1 / len(values)))
    for (name, time, value), height in zip(ends, heights, strict=True):
        axes.annotate(
            printable(name, most=_LENGTH),
            (time, value),
            (1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9.0,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": BAR, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 6},
        )


def speeds(name: str, models: Mapping[str, ModelMetrics]) -> dict[str, float]:
    """Milliseconds for one sample of a model by runtime, with the threads of the run.

    An int8 file runs in the int8 runtime alone, and its network is not drawn there a second time.
    """
    found = {runtime: models[name].latency(runtime) for runtime in NAMES}
    times = {runtime: one.latency_ms for runtime, one in found.items() if one is not None}
    if name.endswith(_ROW):
        return {runtime: time for runtime, time in times.items() if runtime == INT8}
    if name + _ROW in models:
        times.pop(INT8, None)
    return times


def spread(heights: Sequence[float], least: float) -> list[float]:
    """Heights in [0, 1], moved so that any two lie at least so far apart, in their order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for below, i in pairwise(order):
        moved[i] = max(moved[i], moved[below] + least)
    top = 1.0
    for i in reversed(order):
        moved[i] = min(moved[i], top)
        top = moved[i] - least
    return moved


def _log_milliseconds(axes: Axes, times: Sequence[float]) -> None:
    low, high = min(times), max(times)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    steps = (1.0, 2.0, 5.0) if high / low > 4 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g} ms"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("one sample (logarithmic)")
