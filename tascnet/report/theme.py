"""Figures that take their colours and typeface from the page around them."""

import re
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.run.files import digest_json

P = ParamSpec("P")

# Stand-ins for the colours of the style sheet, by their names there.
_NAMES = ("ink", "muted", "grid", "accent", "second", "third", "bad", "bar")
_COLOURS = {name: f"#0{i}0{i}0{i}" for i, name in enumerate(_NAMES, start=1)}
INK, MUTED, GRID, ACCENT, SECOND, THIRD, BAD, BAR = _COLOURS.values()
_STYLE = Path(__file__).with_name("templates") / "style.css"
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


def plotted(size: tuple[float, float], paint: Callable[Concatenate[Axes, P], None]) -> Callable[P, str]:
    """A function that returns a figure (see `draw`), from one that draws on axes."""

    def plot(*args: P.args, **kwargs: P.kwargs) -> str:
        return draw(size, lambda figure: paint(figure.add_subplot(), *args, **kwargs))

    return plot


def draw(size: tuple[float, float], paint: Callable[[Figure], None], name: str = "") -> str:
    """A figure as an `<svg>` element of a page, coloured by the page's style sheet.

    Args:
        size: width and height in inches; the page scales the figure to its column.
        paint: draws on the empty figure.
        name: of the figure, where a page may have two that are alike.
    """
    svg = _drawn(size, paint)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    # No id occurs in two figures of a page.
    own = f"f{digest_json([name, svg])[:8]}-"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{own}", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans)", svg)
    return _coloured(svg, {name: f"var(--{name})" for name in _NAMES}).strip()


def draw_file(size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """A figure as the content of an SVG file, in the light colours of the pages."""
    svg = _drawn(size, paint, background="#ffffff")
    light = dict(re.findall(r"--(\w+): (#\w+)", _STYLE.read_text().partition("@media")[0]))
    svg = _coloured(svg, light)
    return re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 sans-serif", svg)


def _coloured(svg: str, colours: Mapping[str, str]) -> str:
    """A figure with these colours, by name, in its tags; its texts may hold anything."""

    def in_tag(tag: re.Match[str]) -> str:
        return re.sub("|".join(_COLOURS.values()), lambda found: colours[names[found[0]]], tag[0])

    names = {colour: name for name, colour in _COLOURS.items()}
    return re.sub(r"<[^>]*>", in_tag, svg)


def _drawn(size: tuple[float, float], paint: Callable[[Figure], None], background: str = "none") -> str:
    with mpl.rc_context(rc=_SETTINGS), catch_warnings():
        # The page's reader has the fonts; here a glyph is only measured.
        filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained", facecolor=background)
        paint(figure)
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()
