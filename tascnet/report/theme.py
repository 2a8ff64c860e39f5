"""Figures that take their colours and their typeface from the page they stand in."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that no other part of a figure uses; each becomes a variable of the page's style sheet.
INK, MUTED, GRID, ACCENT, SECOND, BAD, SURFACE, BAR = (f"#0{i}0{i}0{i}" for i in range(1, 9))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    BAD: "var(--bad)",
    SURFACE: "var(--surface)",
    BAR: "var(--bar)",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tascnet",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelsize": 10.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
}


def draw(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """A figure as an `<svg>` element to stand in a page.

    Args:
        name: makes the element's ids differ from those of other figures in the page.
        size: width and height in inches; the page scales the figure to its column.
        paint: draws on the empty figure.
    """
    with _settings():
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0.0)
        paint(figure)
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(text.getvalue(), name)


def quiet_axes(axes: Axes, *, grid: str = "y") -> None:
    """No box and no tick marks, faint grid lines in one direction behind the data."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x" if grid == "x" else "y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


@contextmanager
def _settings() -> Iterator[None]:
    with mpl.rc_context(rc=_SETTINGS):
        yield


def _inline(text: str, name: str) -> str:
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
