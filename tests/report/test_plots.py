"""What is drawn, read from the axes and from the elements of the figure."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tascnet.report import plots
from tascnet.report.classes import ClassChange, changed_classes, most_confused
from tascnet.report.plots.classes import paint_confusion, paint_recall
from tascnet.report.plots.prune import (
    paint_accuracy,
    paint_costs,
    paint_flops,
    paint_frontier,
    paint_sensitivity,
    paint_widths,
)
from tascnet.report.plots.speed import paint_speed, speeds, spread
from tascnet.report.plots.tune import (
    paint_best,
    paint_importance,
    paint_layerwise,
    paint_predictions,
    paint_tradeoff,
)
from tascnet.report.theme import BAD, INK
from tascnet.run.records import Importance
from tests.report.records import (
    SENSITIVITY,
    confused,
    depth,
    front_point,
    insight,
    iteration,
    model,
    timed,
    training,
    trial,
    widths,
)

TRIALS = [
    trial(0, 0.5, flops=90),
    trial(1),
    trial(2, 0.4, depth=2, flops=50),
    trial(3, 0.7, depth=2, flops=80),
    trial(4, 0.6, depth=2, flops=70),
]


def axes() -> Axes:
    return Figure().add_subplot()


def lines(on: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in on.get_lines()
    }


def test_best_value_failed_trials_and_depths() -> None:
    on = axes()
    paint_best(on, TRIALS, winner=3)
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
    models = {"conventional": model(flops=120, val_accuracy=0.65)}
    paint_tradeoff(on, TRIALS, models, winner=3)
    assert lines(on) == {
        "trial": ([90, 50, 80, 70], [0.5, 0.4, 0.7, 0.6]),
        "winner": ([80], [0.7]),
        "conventional": ([120], [0.65]),
    }
    assert on.get_xlim()[0] < 50 < 120 < on.get_xlim()[1]


MIXED = [
    trial(0, 0.5, flops=90, params=9, latency_ms=2.0),
    trial(1, 0.8, flops=60, status="stopped", params=6, latency_ms=3.0),
    trial(2, flops=70, status="infeasible", params=7, latency_ms=9.0),
    trial(3, flops=None),
    trial(4, 0.4, flops=40, params=4, latency_ms=1.0),
]


def test_a_stopped_trial_is_marked_and_never_the_best_so_far() -> None:
    on = axes()
    paint_best(on, MIXED, winner=0)
    drawn = lines(on)
    assert drawn["stopped"] == ([1], [0.8])
    assert drawn["trial"] == ([0, 4], [0.5, 0.4])
    assert drawn["best so far"] == ([0, 4, 4], [0.5, 0.5, 0.5])
    assert (drawn["infeasible"][0], drawn["failed"][0]) == ([2], [3])
    assert drawn["infeasible"][1] == drawn["failed"][1]


def test_the_legend_reads_row_by_row() -> None:
    on = axes()
    paint_best(on, MIXED, winner=0)
    legend = on.get_legend()
    assert legend is not None
    # Two rows in columns of four: best so far, trial, stopped, winner; failed, infeasible.
    assert [text.get_text() for text in legend.get_texts()] == [
        "best so far", "failed", "trial", "infeasible", "stopped", "winner",
    ]  # fmt: skip


def test_a_search_by_the_loss_draws_the_loss_and_says_so() -> None:
    on = axes()
    rows = [trial(i, -loss, val_accuracy=0.5) for i, loss in enumerate((0.9, 1.2, 0.7))]
    paint_best(on, rows, 2, "loss")
    assert lines(on)["best so far"] == ([0, 1, 2, 2], [0.9, 0.9, 0.7, 0.7])
    assert on.get_ylabel() == "validation loss (lower is better)"
    on = axes()
    rows = [trial(0, -0.9, flops=50, val_accuracy=0.6), trial(1, -1.2, flops=40, val_accuracy=0.5)]
    paint_tradeoff(on, rows, {}, winner=0)
    assert lines(on) == {"trial": ([50, 40], [0.6, 0.5]), "winner": ([50], [0.6])}


def test_the_front_and_the_bound_over_the_cost_that_counts() -> None:
    on = axes()
    front = [front_point(0, 0.5, params=9, flops=90), front_point(4, 0.4, params=4, flops=40)]
    paint_tradeoff(on, MIXED, {}, 9, cost="params", bound=12, front=front)
    drawn = lines(on)
    assert drawn["front"] == ([4, 9], [0.4, 0.5])
    (steps,) = [line for line in on.get_lines() if line.get_drawstyle() == "steps-post"]
    assert list(steps.get_xdata()) == [4, 9], "accuracy rises where a trial's cost is reached"
    assert drawn["bound"][0] == [12, 12]
    assert drawn["infeasible"][0] == [7]
    assert "failed" not in drawn, "its cost is not known"
    assert on.get_xlim()[1] > 12
    assert on.get_xlabel() == "parameters"


def test_latencies_of_trials_and_models_are_of_one_runtime() -> None:
    on = axes()
    there = model(latencies=(timed("eager", 9.0), timed("onnxruntime", 4.0)), val_accuracy=0.65)
    models = {"conventional": there, "rival": model(latencies=(timed("eager", 9.0),))}
    paint_tradeoff(on, MIXED, models, 9, cost="latency_ms", bound=5.0, runtime="onnxruntime")
    drawn = lines(on)
    assert drawn["conventional"] == ([4.0], [0.65])
    assert "rival" not in drawn, "it was not measured there"
    assert on.get_xlabel() == "latency in ONNX Runtime, batch 1, in ms"


def test_labels_of_short_depths_are_left_out_their_lines_are_not() -> None:
    on = axes()
    depths = [1] * 50 + [2, 3] + [4] * 50
    paint_best(on, [trial(i, 0.5, depth=depth) for i, depth in enumerate(depths)], 9)
    assert [text.get_text() for text in on.texts] == ["depth 1", "2"]
    starts = [line.get_xdata()[0] for line in on.get_lines() if str(line.get_label()).startswith("_")]
    assert starts == [49.5, 50.5, 51.5]


LAYERWISE = [depth(0, 9, "head", 0.5), depth(1, 7, "conv2", 0.6), depth(2, 4, "conv1", 0.7)]


def test_accuracy_over_blocks_from_the_output() -> None:
    on = axes()
    paint_layerwise(on, LAYERWISE[::-1], chosen=2)
    drawn = lines(on)
    assert drawn["trial"] == ([0, 1, 2], [0.5, 0.6, 0.7])
    assert drawn["chosen"] == ([2], [0.7])
    assert [label.get_text() for label in on.get_xticklabels()] == ["head", "conv2", "conv1"]


def test_predictions_with_their_deviations_and_the_diagonal() -> None:
    on = axes()
    paint_predictions(on, insight())
    drawn = lines(on)
    assert drawn["trial"] == ([0.5, 0.7], [0.55, 0.6])
    assert drawn["predicted = observed"][0] == drawn["predicted = observed"][1]
    (bars,) = on.collections
    ends = [tuple(float(y) for _, y in segment) for segment in bars.get_segments()]  # type: ignore[attr-defined]
    assert ends == [pytest.approx((0.53, 0.57)), pytest.approx((0.5, 0.7))]
    assert on.get_ylim()[0] < 0.5 < 0.7 < on.get_ylim()[1]


def test_one_bar_a_choice_with_its_rise() -> None:
    on = axes()
    paint_importance(on, insight())
    assert [bar.get_width() for bar in on.patches] == [0.011, -0.001]
    assert [text.get_text() for text in on.texts] == ["+1.10 pp", "−0.10 pp"]
    assert [label.get_text() for label in on.get_yticklabels()] == ["a.width", "a.activation"]
    assert len({bar.get_facecolor() for bar in on.patches}) == 2


ITERATIONS = [
    iteration(0, 0.80, flops=100),
    iteration(1, 0.82, flops=90),
    iteration(2, 0.81, flops=80),
    iteration(3, 0.79, flops=70, inside=False),
]


def test_the_tolerance_line_follows_the_best_so_far() -> None:
    on = axes()
    paint_accuracy(on, ITERATIONS, tolerance=0.02, kept=2)
    drawn = lines(on)
    assert drawn["best − tolerance"][1] == pytest.approx([0.78, 0.80, 0.80, 0.80])
    assert drawn["within tolerance"] == ([0, 1, 2], [0.80, 0.82, 0.81])
    assert drawn["outside tolerance"] == ([3], [0.79])
    assert drawn["kept"] == ([2], [0.81])


def test_no_entry_in_the_legend_for_what_there_is_not() -> None:
    on = axes()
    paint_accuracy(on, ITERATIONS[:3], tolerance=0.02, kept=9)
    assert {"outside tolerance", "kept"}.isdisjoint(lines(on))


def test_flops_of_each_iteration_from_zero() -> None:
    on = axes()
    paint_flops(on, ITERATIONS, kept=2)
    assert [bar.get_height() for bar in on.patches] == [100, 90, 80, 70]
    assert on.get_ylim()[0] == 0
    assert len({bar.get_facecolor() for bar in on.patches}) == 2


def test_widths_one_over_the_other() -> None:
    on = axes()
    paint_widths(on, [widths("a", 64, 48), widths("b", 8, None)], longest=64, rows=2)
    assert [bar.get_width() for bar in on.patches] == [64, 8, 48, 0]
    assert [text.get_text() for text in on.texts] == ["64 → 48", "8 → –"]
    assert [label.get_text() for label in on.get_yticklabels()] == ["a", "b"]


def test_shares_of_each_group_around_the_whole_network() -> None:
    on = axes()
    paint_sensitivity(on, SENSITIVITY)
    drawn = lines(on)
    assert drawn["without 10 %"] == ([0.79, 0.7], [0, 1])
    assert drawn["without 50 %"] == ([0.6, 0.75], [0, 1])
    assert drawn["whole network"][0] == [0.8, 0.8]
    ranges = [line.get_xdata() for line in on.get_lines() if str(line.get_label()).startswith("_")]
    assert [tuple(map(float, ends)) for ends in ranges] == [(0.6, 0.79), (0.7, 0.75)]
    assert [label.get_text() for label in on.get_yticklabels()] == ["g1 (64)", "g2 (32)"]


def test_what_each_group_costs_for_the_flops_that_it_saves() -> None:
    # Half of g1 costs 20 points, half of g2 5, for the same twentieth of the FLOPs.
    on = axes()
    paint_costs(on, SENSITIVITY)
    assert lines(on)["most sensitive: g1 (64)"] == ([0.0, 0.01, 0.025, 0.05], [0.8, 0.79, 0.75, 0.6])
    assert lines(on)["least sensitive: g2 (32)"] == ([0.0, 0.01, 0.025, 0.05], [0.8, 0.7, 0.72, 0.75])
    colors = {str(line.get_label())[:4]: line.get_color() for line in on.get_lines()}
    assert colors["most"] == BAD != colors["leas"]
    on = axes()
    paint_costs(on, SENSITIVITY, "balanced_accuracy")
    assert lines(on)["most sensitive: g1 (64)"][1] == [0.4, 0.395, 0.375, 0.3]
    # One that saves no FLOPs is the most sensitive where it costs anything, and one group has one name.
    last = SENSITIVITY.groups[1].shares[2]
    free = replace(SENSITIVITY.groups[1], shares=(replace(last, flops_saved=0.0),))
    on = axes()
    paint_costs(on, replace(SENSITIVITY, groups=(SENSITIVITY.groups[0], free)))
    assert "most sensitive: g2 (32)" in lines(on)
    on = axes()
    paint_costs(on, replace(SENSITIVITY, groups=SENSITIVITY.groups[:1]))
    assert [label for label in lines(on) if "g1" in label] == ["only: g1 (64)"]


def test_who_is_taken_for_whom() -> None:
    on = axes()
    paint_confusion(on, confused([[0, 4, 0], [0, 3, 1], [0, 0, 2]], ("ant", "bee", "a\nb" * 20)))
    assert [text.get_text() for text in on.texts] == ["4\n100 %", "3\n75 %", "1\n25 %", "2\n100 %"]
    assert [text.get_position() for text in on.texts] == [(1, 0), (1, 1), (2, 1), (2, 2)]
    names = [label.get_text() for label in on.get_yticklabels()]
    assert names[:2] == ["ant", "bee"]
    assert "\n" not in names[2]
    assert len(names[2]) <= 24
    assert on.get_yticklabels()[0].get_color() == BAD
    assert {label.get_color() for label in on.get_yticklabels()[1:]} == {INK}
    wrong, right, some, _ = on.patches
    assert wrong.get_facecolor()[:3] == some.get_facecolor()[:3] != right.get_facecolor()[:3]
    assert wrong.get_alpha() == 4 * some.get_alpha()


def test_figures_of_the_metric_that_decides() -> None:
    on = axes()
    rows = [iteration(0, 0.8, val_balanced_accuracy=0.5), iteration(1, 0.9, val_balanced_accuracy=0.4)]
    paint_accuracy(on, rows, 0.0, 0, "balanced_accuracy")
    assert lines(on)["within tolerance"] == ([0, 1], [0.5, 0.4])
    assert on.get_ylabel() == "validation balanced accuracy"
    on = axes()
    paint_sensitivity(on, SENSITIVITY, "balanced_accuracy")
    assert lines(on)["whole network"][0] == [0.4, 0.4]
    on = axes()
    trials = [trial(0, 0.5, val_accuracy=0.9, val_balanced_accuracy=0.5)]
    paint_tradeoff(on, trials, {"after": model(val_balanced_accuracy=0.3)}, 9, metric="balanced_accuracy")
    assert lines(on) == {"trial": ([100], [0.5]), "after": ([4000], [0.3])}


def numbers(text: str | None) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in (text or "").split()]


def test_learning_curves_with_the_kept_epoch_ringed() -> None:
    root = ET.fromstring(plots.curves_plot(training([0.5, 0.7, 0.6]), ends=(0.4, 0.8)))
    lines = {line.get("stroke"): numbers(line.get("points")) for line in root.iter("polyline")}
    metric, _, _ = (numbers(line.get("points")) for line in root.iter("polyline"))
    # The axis of the metric spans 100 units, from 40 % at 122 to 80 % at 22.
    assert [y for _, y in metric] == [97.0, 47.0, 72.0]
    assert [x for x, _ in metric] == [46.0, 164.0, 282.0]
    assert set(lines) == {"var(--accent)", "var(--second)"}
    (ring,) = [circle for circle in root.iter("circle") if circle.get("fill") == "none"]
    assert (float(ring.get("cx", 0)), float(ring.get("cy", 0))) == metric[1]
    texts = [text.text for text in root.iter("text")]
    assert {"accuracy", "loss", "epoch", "40 %", "50 %", "80 %", "1", "3"} <= set(texts)


def test_learning_curves_of_one_epoch_and_without_validation() -> None:
    svg = plots.curves_plot(training([None]))
    assert "nan" not in svg
    metric, train, val = (numbers(line.get("points")) for line in ET.fromstring(svg).iter("polyline"))
    assert (metric, val) == ([], [])
    assert [x for x, _ in train] == [164.0], "in the middle"


def test_the_metric_of_all_trainings_has_one_axis() -> None:
    assert plots.metric_ends([training([0.5, 0.6]), training([0.4, None])], "accuracy") == pytest.approx(
        (0.384, 0.616)
    )
    assert plots.metric_ends([training([0.5])], "balanced_accuracy") == pytest.approx(
        (0.4992, 0.5008), abs=1e-3
    )


FAST = {
    "conventional": model(test_accuracy=0.8, latencies=(timed("eager", 8.0), timed("onnxruntime", 4.0))),
    "pruned": model(
        test_accuracy=0.7,
        latencies=(timed("eager", 6.0), timed("onnxruntime", 3.0), timed("onnxruntime_int8", 2.0)),
    ),
    "pruned int8": model(
        test_accuracy=0.6, latencies=(timed("onnxruntime", 3.0), timed("onnxruntime_int8", 2.5))
    ),
}


def test_every_network_in_the_runtimes_whose_accuracy_is_its_own() -> None:
    assert speeds("conventional", FAST) == {"eager": 8.0, "onnxruntime": 4.0}
    assert speeds("pruned", FAST) == {"eager": 6.0, "onnxruntime": 3.0}, "int8 has its own row"
    assert speeds("pruned int8", FAST) == {"onnxruntime_int8": 2.5}
    assert speeds("pruned", {"pruned": FAST["pruned"]})["onnxruntime_int8"] == 2.0
    other = model(latencies=(timed("eager", 9.0, threads=1), timed("eager", 8.0)))
    assert speeds("a", {"a": other}) == {"eager": 8.0}, "with the threads of the run"


def test_a_model_that_was_timed_nowhere_is_left_out() -> None:
    """As an int8 file where latency in int8 was not asked for."""
    on = axes()
    paint_speed(on, {"pruned": FAST["conventional"], "pruned int8": model(latencies=())})
    assert [text.get_text() for text in on.texts] == ["pruned"]


def test_accuracy_against_latency() -> None:
    on = axes()
    paint_speed(on, {name: FAST[name] for name in ("conventional", "pruned")})
    marks = [line for line in on.get_lines() if len(line.get_xdata()) == 1 and line.get_xdata()[0] > 0]
    places = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in marks}
    assert set(places) == {(8.0, 0.8), (4.0, 0.8), (6.0, 0.7), (3.0, 0.7), (2.0, 0.7)}
    assert places[8.0, 0.8].get_color() == places[6.0, 0.7].get_color() != places[4.0, 0.8].get_color()
    assert places[8.0, 0.8].get_marker() == places[4.0, 0.8].get_marker() != places[6.0, 0.7].get_marker()
    hollow = [place for place, line in places.items() if line.get_markerfacecolor() == "none"]
    assert hollow == [(2.0, 0.7)], "int8 that nobody judged"
    assert on.get_xscale() == "log"
    legend = on.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "eager PyTorch", "ONNX Runtime", "ONNX Runtime int8",
    ]  # fmt: skip
    assert [text.get_text() for text in on.texts] == ["conventional", "pruned"]


def test_names_keep_their_order_and_their_distance() -> None:
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6, 0.7])
    moved = spread([0.9, 0.99, 0.1, 0.95], 0.1)
    assert moved == pytest.approx([0.8, 1.0, 0.1, 0.9])


def test_accuracy_against_the_flops_of_each_iteration() -> None:
    on = axes()
    paint_frontier(on, ITERATIONS, tolerance=0.02, kept=2)
    drawn = lines(on)
    assert drawn["within tolerance"] == ([100, 90, 80], [0.80, 0.82, 0.81])
    assert drawn["outside tolerance"] == ([70], [0.79])
    assert drawn["kept"] == ([80], [0.81])
    assert drawn["best − tolerance"][1] == pytest.approx([0.80, 0.80])
    assert [text.get_text() for text in on.texts] == ["0", "1", "2", "3"]
    on = axes()
    paint_frontier(on, [iteration(i, 0.8, flops=100 - i) for i in range(40)], tolerance=0.02, kept=7)
    assert [text.get_text() for text in on.texts] == ["0", "7", "39"]


def test_the_classes_that_changed_most() -> None:
    before = confused([[4, 0, 0], [2, 2, 0], [0, 0, 4]])
    after = confused([[1, 3, 0], [0, 4, 0], [0, 0, 4]])
    assert changed_classes(before, after) == [
        ClassChange(name="iris", samples=4, before=1.0, after=0.25),
        ClassChange(name="rose", samples=4, before=0.5, after=1.0),
    ]
    assert [row.name for row in changed_classes(before, after, most=1)] == ["iris"]
    assert changed_classes(before, before) == []
    on = axes()
    paint_recall(on, changed_classes(before, after), "old")
    ends = [tuple(line.get_xdata()) for line in on.get_lines() if len(line.get_xdata()) == 2]
    assert ends[:2] == [(1.0, 0.25), (0.5, 1.0)]
    worse, better = (line.get_color() for line in on.get_lines() if len(line.get_xdata()) == 1)
    assert worse == BAD != better
    assert [label.get_text() for label in on.get_yticklabels()] == ["iris (4)", "rose (4)"]


def test_the_confusion_of_the_classes_with_most_mistakes() -> None:
    counts = [[9, 0, 0, 1], [0, 5, 5, 0], [0, 2, 8, 0], [0, 0, 0, 10]]
    found = most_confused(confused(counts, ("a", "b", "c", "d")), 2)
    assert [row.name for row in found.classes] == ["b", "c"]
    assert found.confusion == ((0, 0, 5), (0, 1, 5), (1, 0, 2), (1, 1, 8))
    assert most_confused(confused([[2, 0], [0, 2]], ("a", "b")), 9).classes == ()


@pytest.mark.parametrize(
    "svg",
    [
        plots.curves_plot(training([0.5, 0.7, 0.6])),
        plots.speed_plot(FAST),
        plots.frontier_plot(ITERATIONS, tolerance=0.0, kept=0),
        plots.recall_plot([ClassChange(name="<a>", samples=4, before=1.0, after=0.25)], "old"),
        plots.confusion_plot("after", confused([[0, 4, 0], [0, 3, 1], [0, 0, 2]])),
        plots.best_value_plot([trial(7, 0.5)], winner=7),
        plots.tradeoff_plot([trial(0, 0.5), trial(1, 0.5)], {}, winner=9),
        plots.layerwise_plot(LAYERWISE, chosen=9),
        plots.prediction_plot(insight()),
        plots.prediction_plot(insight(target="val_loss")),
        plots.importance_plot(insight()),
        plots.importance_plot(insight(importance=(Importance(choice="a", rise=0.0, lengthscale=1.0),))),
        plots.iterations_plot(ITERATIONS[:1], tolerance=0.0, kept=0),
        plots.widths_plot([widths("$x_1$ <b>&", 2, 1)]),
        plots.sensitivity_plot(SENSITIVITY),
        plots.costs_plot(SENSITIVITY),
    ],
    ids=[
        *("curves", "speed", "frontier", "recall"),
        "confusion",
        *("best", "tradeoff", "depths", "predicted", "loss", "importance", "none", "iterations", "widths"),
        *("sensitivity", "costs"),
    ],
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
    # The last part looks like a colour that the page replaces.
    name = "$x_1$ <b>& #010101"
    svg = plots.widths_plot([widths(name, 2, 1)])
    texts = [element.text for element in ET.fromstring(svg.replace("xlink:href", "href")).iter("text")]
    assert name in texts


def test_the_same_rows_give_the_same_figure_and_no_setting_changes() -> None:
    before = dict(mpl.rcParams)
    first = plots.best_value_plot(TRIALS, winner=3)
    assert plots.best_value_plot(TRIALS, winner=3) == first
    assert dict(mpl.rcParams) == before


def test_a_file_of_what_each_stage_gained() -> None:
    svg = plots.models_plot({"baseline": model(), "pruned <b>": model(params=450, test_accuracy=0.742)})
    texts = [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    for text in ("baseline", "pruned <b>", "75.0 %", "74.2 %", "1.00 k", "450", "latency, batch 1"):
        assert text in texts
    assert "var(" not in svg
    assert not re.search(r"#(0\d)\1\1", svg), "a colour that stands for one of the page"


def test_curves_begin_before_the_training_where_something_was_known():
    one = training([0.5, 0.7, 0.6])
    start = replace(one.epochs[0], epoch=0, train_loss=None, val_accuracy=0.6)
    known, chance = (replace(one, before=replace(start, val_accuracy=v)) for v in (0.6, 0.1))
    texts = [ET.fromstring(plots.curves_plot(each)).itertext() for each in (known, chance)]
    assert ["0" in text for text in map(list, texts)] == [True, False]
