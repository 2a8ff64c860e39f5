"""What is drawn, read from the axes and from the elements of the figure."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.report import plots


def trial(number: int, depth: int, value: float | None, flops: int | None = 100) -> dict[str, Any]:
    return {"trial": number, "depth": depth, "value": value, "flops": flops}


TRIALS = [
    trial(0, 1, 0.5, 90),
    trial(1, 1, None),
    trial(2, 2, 0.4, 50),
    trial(3, 2, 0.7, 80),
    trial(4, 2, 0.6, 70),
]


def axes() -> Axes:
    return Figure().add_subplot()


def lines(on: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in on.get_lines()
    }


def test_best_value_failed_trials_and_depths() -> None:
    on = axes()
    plots.paint_best(on, TRIALS, winner=3)
    drawn = lines(on)
    assert drawn["best so far"] == ([0, 2, 3, 4, 4], [0.5, 0.5, 0.7, 0.7, 0.7])
    assert drawn["trial"] == ([0, 2, 3, 4], [0.5, 0.4, 0.7, 0.6])
    assert drawn["failed"][0] == [1]
    assert on.get_ylim()[0] < drawn["failed"][1][0] < 0.4
    assert drawn["winner"] == ([3], [0.7])
    assert [text.get_text() for text in on.texts] == ["depth 1", "2"]
    assert [x for x, _ in drawn.values() if x == [1.5, 1.5]], "no line between trials 1 and 2"


def test_tradeoff_marks_winner_and_models() -> None:
    on = axes()
    models = {"conventional": {"flops": 120, "val_accuracy": 0.65}, "unmeasured": {"flops": None}}
    plots.paint_tradeoff(on, TRIALS, models, winner=3)
    assert lines(on) == {
        "trial": ([90, 50, 80, 70], [0.5, 0.4, 0.7, 0.6]),
        "winner": ([80], [0.7]),
        "conventional": ([120], [0.65]),
    }
    assert on.get_xlim()[0] < 50 < 120 < on.get_xlim()[1]


ITERATIONS = [
    {"iteration": 0, "val_accuracy": 0.80, "flops": 100, "inside": True},
    {"iteration": 1, "val_accuracy": 0.82, "flops": 90, "inside": True},
    {"iteration": 2, "val_accuracy": 0.81, "flops": 80, "inside": True},
    {"iteration": 3, "val_accuracy": 0.79, "flops": 70, "inside": False},
]


def test_the_tolerance_line_follows_the_best_so_far() -> None:
    on = axes()
    plots.paint_accuracy(on, ITERATIONS, tolerance=0.02, kept=2)
    drawn = lines(on)
    assert drawn["best − tolerance"][1] == pytest.approx([0.78, 0.80, 0.80, 0.80])
    assert drawn["within tolerance"] == ([0, 1, 2], [0.80, 0.82, 0.81])
    assert drawn["outside tolerance"] == ([3], [0.79])
    assert drawn["kept"] == ([2], [0.81])


def test_no_tolerance_no_line() -> None:
    on = axes()
    plots.paint_accuracy(on, ITERATIONS[:3], tolerance=None, kept=None)
    assert {"best − tolerance", "outside tolerance", "kept"}.isdisjoint(lines(on))


def test_flops_of_each_iteration_from_zero() -> None:
    on = axes()
    plots.paint_flops(on, ITERATIONS, kept=2)
    assert [bar.get_height() for bar in on.patches] == [100, 90, 80, 70]
    assert on.get_ylim()[0] == 0
    assert len({bar.get_facecolor() for bar in on.patches}) == 2


def test_widths_one_over_the_other() -> None:
    on = axes()
    rows = [{"layer": "a", "before": 64, "after": 48}, {"layer": "b", "before": 8, "after": None}]
    plots.paint_widths(on, rows, longest=64, rows=2)
    assert [bar.get_width() for bar in on.patches] == [64, 8, 48, 0]
    assert [text.get_text() for text in on.texts] == ["64 → 48", "8 → –"]
    assert [label.get_text() for label in on.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    "svg",
    [
        plots.best_value_plot([trial(7, 1, 0.5)], winner=7),
        plots.tradeoff_plot([trial(0, 1, 0.5), trial(1, 1, 0.5)], {}, winner=None),
        plots.iterations_plot(ITERATIONS[:1], tolerance=0.0, kept=0),
        plots.widths_plot([{"layer": "$x_1$ <b>&", "before": 2, "after": 1}]),
    ],
    ids=["best", "tradeoff", "iterations", "widths"],
)
def test_an_element_that_stands_by_itself(svg: str) -> None:
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    referred = {element.get("href", "#")[1:] for element in root.iter() if element.get("href")}
    assert referred <= set(ids)
    assert "http" not in svg
    assert "var(--ink)" in svg or "var(--muted)" in svg
    assert not re.search(r"#(0\d)\1\1", svg), "a colour that is no variable of the page"


def test_names_are_drawn_as_they_are() -> None:
    svg = plots.widths_plot([{"layer": "$x_1$ <b>&", "before": 2, "after": 1}])
    texts = [element.text for element in ET.fromstring(svg.replace("xlink:href", "href")).iter("text")]
    assert "$x_1$ <b>&" in texts


def test_the_same_rows_give_the_same_figure_and_no_setting_changes() -> None:
    before = dict(mpl.rcParams)
    first = plots.best_value_plot(TRIALS, winner=3)
    assert plots.best_value_plot(TRIALS, winner=3) == first
    assert dict(mpl.rcParams) == before
