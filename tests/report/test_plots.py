"""What is drawn, read from the axes and from the elements of the figure."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.report import plots
from tascnet.report.plots import insight, search
from tascnet.report.plots.prune import paint_accuracy, paint_flops, paint_widths


def trial(
    number: int, depth: int, value: float | None, flops: int | None = 100, status: str = "", **more: Any
) -> dict[str, Any]:
    status = status or ("failed" if value is None else "ok")
    return {"trial": number, "depth": depth, "status": status, "value": value, "flops": flops, **more}


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
    search.paint_best(on, TRIALS, winner=3)
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
    search.paint_tradeoff(on, TRIALS, models, winner=3)
    assert lines(on) == {
        "trial": ([90, 50, 80, 70], [0.5, 0.4, 0.7, 0.6]),
        "winner": ([80], [0.7]),
        "conventional": ([120], [0.65]),
    }
    assert on.get_xlim()[0] < 50 < 120 < on.get_xlim()[1]


MIXED = [
    trial(0, 1, 0.5, 90, params=9, latency_ms=2.0),
    trial(1, 1, 0.8, 60, "stopped", params=6, latency_ms=3.0),
    trial(2, 1, None, 70, "infeasible", params=7, latency_ms=9.0),
    trial(3, 1, None, None),
    trial(4, 1, 0.4, 40, params=4, latency_ms=1.0),
]


def test_a_stopped_trial_is_marked_and_never_the_best_so_far() -> None:
    on = axes()
    search.paint_best(on, MIXED, winner=0)
    drawn = lines(on)
    assert drawn["stopped"] == ([1], [0.8])
    assert drawn["trial"] == ([0, 4], [0.5, 0.4])
    assert drawn["best so far"] == ([0, 4, 4], [0.5, 0.5, 0.5])
    assert (drawn["infeasible"][0], drawn["failed"][0]) == ([2], [3])
    assert drawn["infeasible"][1] == drawn["failed"][1]


def test_the_legend_reads_row_by_row() -> None:
    on = axes()
    search.paint_best(on, MIXED, winner=0)
    legend = on.get_legend()
    assert legend is not None
    # Two rows in columns of four: best so far, trial, stopped, winner; failed, infeasible.
    assert [text.get_text() for text in legend.get_texts()] == [
        "best so far", "failed", "trial", "infeasible", "stopped", "winner",
    ]  # fmt: skip


def test_a_search_by_the_loss_draws_the_loss_and_says_so() -> None:
    on = axes()
    search.paint_best(on, [trial(0, 1, -0.9), trial(1, 1, -1.2), trial(2, 1, -0.7)], 2, "loss")
    assert lines(on)["best so far"] == ([0, 1, 2, 2], [0.9, 0.9, 0.7, 0.7])
    assert on.get_ylabel() == "validation loss (lower is better)"
    on = axes()
    rows = [trial(0, 1, -0.9, 50, val_accuracy=0.6), trial(1, 1, -1.2, 40, val_accuracy=0.5)]
    search.paint_tradeoff(on, rows, {}, winner=0, objective="loss")
    assert lines(on) == {"trial": ([50, 40], [0.6, 0.5]), "winner": ([50], [0.6])}


def test_the_front_and_the_bound_over_the_cost_that_counts() -> None:
    on = axes()
    front = [dict(MIXED[i], val_accuracy=MIXED[i]["value"]) for i in (0, 4)]
    search.paint_tradeoff(on, MIXED, {}, None, cost="params", bound=12, front=front)
    drawn = lines(on)
    assert drawn["front"] == ([4, 9], [0.4, 0.5])
    (steps,) = [line for line in on.get_lines() if line.get_drawstyle() == "steps-post"]
    assert list(steps.get_xdata()) == [4, 9], "accuracy rises where a trial's cost is reached"
    assert drawn["bound"][0] == [12, 12]
    assert drawn["infeasible"][0] == [7]
    assert "failed" not in drawn, "its cost is not known"
    assert on.get_xlim()[1] > 12
    assert on.get_xlabel() == "parameters"


def test_labels_of_short_depths_are_left_out_their_lines_are_not() -> None:
    on = axes()
    depths = [1] * 50 + [2, 3] + [4] * 50
    search.paint_best(on, [trial(i, depth, 0.5) for i, depth in enumerate(depths)], None)
    assert [text.get_text() for text in on.texts] == ["depth 1", "2"]
    starts = [line.get_xdata()[0] for line in on.get_lines() if str(line.get_label()).startswith("_")]
    assert starts == [49.5, 50.5, 51.5]


LAYERWISE = [
    {"trial": 0, "block": 9, "name": "head", "val_accuracy": 0.5},
    {"trial": 1, "block": 7, "name": "conv2", "val_accuracy": None},
    {"trial": 2, "block": 4, "name": "conv1", "val_accuracy": 0.7},
]


def test_accuracy_over_blocks_from_the_output() -> None:
    on = axes()
    search.paint_layerwise(on, LAYERWISE[::-1], chosen=2)
    drawn = lines(on)
    assert drawn["trial"] == ([0, 2], [0.5, 0.7])
    assert drawn["chosen"] == ([2], [0.7])
    assert [label.get_text() for label in on.get_xticklabels()] == ["head", "conv2", "conv1"]


INSIGHT: dict[str, Any] = {
    "target": "val_accuracy",
    "predictions": [
        {"trial": 0, "observed": 0.5, "predicted": 0.55, "deviation": 0.02},
        {"trial": 1, "observed": 0.7, "predicted": 0.6, "deviation": 0.1},
    ],
    "importance": [
        {"choice": "a.width", "rise": 0.02, "lengthscale": 0.3},
        {"choice": "a.activation", "rise": -0.001, "lengthscale": 2.0},
    ],
}


def test_predictions_with_their_deviations_and_the_diagonal() -> None:
    on = axes()
    insight.paint_predictions(on, INSIGHT)
    drawn = lines(on)
    assert drawn["trial"] == ([0.5, 0.7], [0.55, 0.6])
    assert drawn["predicted = observed"][0] == drawn["predicted = observed"][1]
    (bars,) = on.collections
    ends = [tuple(float(y) for _, y in segment) for segment in bars.get_segments()]  # type: ignore[attr-defined]
    assert ends == [pytest.approx((0.53, 0.57)), pytest.approx((0.5, 0.7))]
    assert on.get_ylim()[0] < 0.5 < 0.7 < on.get_ylim()[1]


def test_one_bar_a_choice_with_its_rise() -> None:
    on = axes()
    insight.paint_importance(on, INSIGHT)
    assert [bar.get_width() for bar in on.patches] == [0.02, -0.001]
    assert [text.get_text() for text in on.texts] == ["+2.00 pp", "−0.10 pp"]
    assert [label.get_text() for label in on.get_yticklabels()] == ["a.width", "a.activation"]
    assert len({bar.get_facecolor() for bar in on.patches}) == 2


ITERATIONS = [
    {"iteration": 0, "val_accuracy": 0.80, "flops": 100, "inside": True},
    {"iteration": 1, "val_accuracy": 0.82, "flops": 90, "inside": True},
    {"iteration": 2, "val_accuracy": 0.81, "flops": 80, "inside": True},
    {"iteration": 3, "val_accuracy": 0.79, "flops": 70, "inside": False},
]


def test_the_tolerance_line_follows_the_best_so_far() -> None:
    on = axes()
    paint_accuracy(on, ITERATIONS, tolerance=0.02, kept=2)
    drawn = lines(on)
    assert drawn["best − tolerance"][1] == pytest.approx([0.78, 0.80, 0.80, 0.80])
    assert drawn["within tolerance"] == ([0, 1, 2], [0.80, 0.82, 0.81])
    assert drawn["outside tolerance"] == ([3], [0.79])
    assert drawn["kept"] == ([2], [0.81])


def test_no_tolerance_no_line() -> None:
    on = axes()
    paint_accuracy(on, ITERATIONS[:3], tolerance=None, kept=None)
    assert {"best − tolerance", "outside tolerance", "kept"}.isdisjoint(lines(on))


def test_flops_of_each_iteration_from_zero() -> None:
    on = axes()
    paint_flops(on, ITERATIONS, kept=2)
    assert [bar.get_height() for bar in on.patches] == [100, 90, 80, 70]
    assert on.get_ylim()[0] == 0
    assert len({bar.get_facecolor() for bar in on.patches}) == 2


def test_widths_one_over_the_other() -> None:
    on = axes()
    rows = [{"layer": "a", "before": 64, "after": 48}, {"layer": "b", "before": 8, "after": None}]
    paint_widths(on, rows, longest=64, rows=2)
    assert [bar.get_width() for bar in on.patches] == [64, 8, 48, 0]
    assert [text.get_text() for text in on.texts] == ["64 → 48", "8 → –"]
    assert [label.get_text() for label in on.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    "svg",
    [
        plots.best_value_plot([trial(7, 1, 0.5)], winner=7),
        plots.tradeoff_plot([trial(0, 1, 0.5), trial(1, 1, 0.5)], {}, winner=None),
        plots.layerwise_plot(LAYERWISE, chosen=None),
        plots.prediction_plot(INSIGHT),
        plots.prediction_plot(INSIGHT | {"target": "val_loss"}),
        plots.importance_plot(INSIGHT),
        plots.importance_plot(INSIGHT | {"importance": [INSIGHT["importance"][0] | {"rise": 0.0}]}),
        plots.iterations_plot(ITERATIONS[:1], tolerance=0.0, kept=0),
        plots.widths_plot([{"layer": "$x_1$ <b>&", "before": 2, "after": 1}]),
    ],
    ids=["best", "tradeoff", "depths", "predicted", "loss", "importance", "none", "iterations", "widths"],
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
