"""The pages of the stages: what they say, that they stand alone, and that they are written whole."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tascnet.report import models_html, pretrain_report, prune_report, tune_report
from tascnet.report.mistakes import Mistake, Mistakes
from tascnet.run import files
from tascnet.run.records import EpochRecord
from tests.report.records import (
    REACH,
    SENSITIVITY,
    confused,
    depth,
    front_point,
    insight,
    iteration,
    model,
    pretrain_metrics,
    prune_metrics,
    sampled,
    timed,
    training,
    trial,
    tune_metrics,
    widths,
)

VOID = {"meta", "br", "img", "wbr"}
NEUTRAL = {"first_trained": 0, "dropout": 0.2, "u1.width": 64}
BEST = {"first_trained": 1, "dropout": 0.2, "u1.width": 32}
BASELINE = model(val_accuracy=0.81, test_accuracy=0.80, params=2_000_000, flops=104_000_000)
CONVENTIONAL = model(val_accuracy=0.86, test_accuracy=0.85, params=2_000_000, flops=104_000_000)
AFTER = model(val_accuracy=0.87, test_accuracy=0.86, params=1_500_000, flops=78_000_000)
METRICS = tune_metrics(
    models={"baseline": BASELINE, "conventional": CONVENTIONAL, "after": AFTER},
    best_config=BEST,
    neutral_config=NEUTRAL,
    dataset="<flowers & 'co'>",
    backbone="vgg16",
    surrogate=insight(),
)
TRIALS = [
    trial(0, 0.7, config=NEUTRAL, params=10, seconds=2.0),
    trial(1, config=dict(BEST, dropout=0.4), reason="no room <left>", flops=None, seconds=1.0),
    trial(2, 0.8, depth=2, config=BEST, params=8, flops=90, seconds=2.0),
]
ITERATIONS = [
    iteration(0, 0.87, seconds=0.0),
    iteration(1, 0.86, val_loss=0.52, params=15, flops=80, removed={"a": 8, "b": 16},
              pairs_similarity_before=0.41, pairs_similarity_after=0.83),
    iteration(2, 0.80, val_loss=0.9, params=12, flops=60, inside=False, removed={"a": 8}, step=0.5,
              pairs_similarity_before=0.3, pairs_similarity_after=0.5),
]  # fmt: skip
WIDTHS = (widths("conv1", 64, 48), widths("conv2", 32, 32))


class Page(HTMLParser):
    """Reads a page: its rows of cells, its ids, and whether every element is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.rows: list[tuple[str, list[str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((given.get("class") or "", []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][1][-1] += data

    def row(self, first: str) -> tuple[str, list[str]]:
        (found,) = [row for row in self.rows if row[1][0].startswith(first)]
        return found


def headings(page: Page) -> list[str]:
    return [line.strip() for line in page.text.splitlines() if line.strip()]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def tuned(folder: Path, **changes: Any) -> Page:
    tune_report(folder / "report.html", replace(METRICS, **changes), TRIALS)
    return read(folder / "report.html")


def pruned(folder: Path, **changes: Any) -> Page:
    models = {"before": CONVENTIONAL, "after": AFTER}
    metrics = prune_metrics(models=models, widths=WIDTHS, sensitivity=SENSITIVITY, **changes)
    prune_report(folder / "report.html", metrics, ITERATIONS)
    return read(folder / "report.html")


def pretrained(folder: Path, **changes: Any) -> Page:
    epochs = tuple(
        EpochRecord(
            epoch=i, train_loss=loss, val_loss=1.5, val_accuracy=0.4, val_balanced_accuracy=0.3, seconds=3.0
        )
        for i, loss in ((1, 1.25), (2, 1.0))
    )
    pretrain_report(folder / "report.html", pretrain_metrics(epochs=epochs, best_epoch=2, **changes))
    return read(folder / "report.html")


@pytest.mark.parametrize("write", [tuned, pruned, pretrained])
def test_the_page_stands_alone(tmp_path: Path, write: Any) -> None:
    page = write(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|file:", text)
    assert set(re.findall(r'\ssrc="([^"]{,23})', text)) <= {"data:image/jpeg;base64,"}
    assert {target[0] for target in re.findall(r'(?:href="|url\()(.)', text)} <= {"#"}
    assert len(page.ids) == len(set(page.ids))
    assert "#010101" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    assert "vgg16 on <flowers & 'co'>" in tuned(tmp_path).text
    assert "<flowers" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_tune_says_what_was_found(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    kind, cells = page.row("after")
    assert kind == "model chosen"
    same = ["5.0 kB±0 %", "2.00 ms±0 %", "10.0 ms±0 %"]
    # From the conventional network, as in the headline.
    assert cells[1:] == [
        *("87.0 %+1.0 pp", "86.0 %+1.0 pp", "86.0 %+1.0 pp"),
        "1.50 M−25 %",
        "78.0 M−25 %",
        *same,
    ]
    samples = "3 classes; 2,040 training, 1,020 validation, 5,130 test samples"
    data = (samples, "3 unreadable files skipped", "origin: the garden", "licence: CC BY 4.0")
    for fact in ("seed 3", "4 min 05 s", "3 trials, 1 failed", "torch 2.6.0", *data):
        assert fact in page.text


def test_the_headline_compares_with_conventional(tmp_path: Path) -> None:
    text = " ".join(tuned(tmp_path).text.split())
    assert "test accuracy 86.0 % +1.0 pp from 85.0 %" in text
    assert "parameters 1.50 M −25 % from 2.00 M" in text


def test_trials_with_the_winner_and_the_failed_one(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    assert page.row("1")[1][2] == "failed"
    assert "no room <left>" in page.row("1")[1][-1]
    assert page.row("2") == (
        "chosen",
        ["2", "2", "80.0 %", "8", "90", "2.0 s", "first_trained=1, u1.width=32"],
    )


def test_the_winner_is_marked_and_the_end_explained(tmp_path: Path) -> None:
    page = tuned(tmp_path, winner=0, stopped="it was enough")
    assert page.row("0")[0] == "chosen"
    assert page.row("2")[0] == ""
    assert "stopped: it was enough" in page.text
    assert "Winner: the smallest trial within the tolerance, or the picked one." in page.text
    assert "Best accuracy against trial" in headings(page)
    assert "within the tolerance" not in tuned(tmp_path).text, "the winner is the best"


def test_a_winner_that_was_distilled_is_described_so(tmp_path: Path) -> None:
    assert tuned(tmp_path).row("fine-tuned winner of the search")[0] == "about chosen"
    page = tuned(tmp_path, finetuned_from="conventional")
    assert [row[1] for row in page.rows if row[0] == "about chosen"] == [
        ["conventional network, cut to the winning configuration and distilled from the uncut one"]
    ]


def test_the_winner_beside_the_pretrained_network(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    assert page.row("u1.width") == ("", ["u1.width", "64", "32"])
    assert not [row for row in page.rows if "dropout" in row[1]], "settings that are the same are left out"
    assert "All other settings are those of the pre-trained network." in page.text


def test_what_the_search_learnt(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    text = " ".join(page.text.split())
    assert "What the search learnt It explains half." in text
    assert "leave-one-out error (RMSE) 1.25 pp standard deviation of the results 2.50 pp R², leave-" in text
    assert "R², leave-one-out 0.75 R², refitted 0.50 rank correlation, refitted 0.61" in text
    assert ("", ["a.width", "+1.10 pp", "0.25"]) in page.rows
    assert {"Predicted against observed", "Which choices mattered"} <= set(headings(page))


def test_a_search_that_learnt_nothing_says_so(tmp_path: Path) -> None:
    page = tuned(tmp_path, surrogate=insight(learnt=False))
    assert '<p class="bad">It explains half.</p>' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Predicted against observed" in headings(page)
    assert "Which choices mattered" not in headings(page)
    assert "Too few" in tuned(tmp_path, surrogate=None).text


def test_the_front_with_the_way_to_fine_tune(tmp_path: Path) -> None:
    page = tuned(tmp_path, front=(front_point(2, 0.8, params=8, flops=90),), objective="pareto_params")
    assert ("chosen", ["2", "80.0 %", "8", "90", "pick=2"]) in page.rows
    assert "Accuracy against params" in headings(page)
    assert "objective: pareto_params" in page.text
    assert "Front" not in tuned(tmp_path).text


def test_depths_one_after_another(tmp_path: Path) -> None:
    rows = (
        depth(0, 9, "head", 0.7),
        depth(2, 7, "<conv>", 0.8, trainable_params=20_000, seconds=3.0),
    )
    page = tuned(tmp_path, layerwise=rows, surrogate=None)
    assert page.row("7") == ("chosen", ["7", "<conv>", "20.0 k", "80.0 %", "3.0 s"])
    assert page.row("9") == ("", ["9", "head", "10.0 k", "70.0 %", "2.0 s"])
    assert "Accuracy against depth" in headings(page)
    assert "Best accuracy against trial" not in headings(page)
    assert "What the search learnt" not in headings(page), "no surrogate proposes its trials"
    assert "Depths" not in headings(tuned(tmp_path))


def test_one_figure_for_each_bound(tmp_path: Path) -> None:
    page = tuned(tmp_path, bounds={"flops": 95, "latency_ms": 4.0})
    assert {"Accuracy against FLOPs", "Accuracy against latency"} < set(headings(page))
    assert "objective: accuracy, at most 95 FLOPs, at most 4.00 ms" in page.text
    assert "objective" not in tuned(tmp_path).text
    assert "Those of trials are predicted." not in page.text
    there = replace(METRICS, bounds={"latency_ms": 4.0}, measure=METRICS.measure | {"target": "onnxruntime"})
    tune_report(tmp_path / "report.html", there, [replace(TRIALS[0], latency_ms=3.0)])
    page = read(tmp_path / "report.html")
    assert "Those of trials are predicted." in page.text
    assert "predicted latency" in page.text


def test_statuses_and_the_loss_in_the_table_of_trials(tmp_path: Path) -> None:
    rows = [
        replace(TRIALS[0], value=-0.5, val_loss=0.5, val_accuracy=0.71, latency_ms=3.0),
        replace(TRIALS[0], trial=1, status="stopped", value=-0.9, val_loss=0.9, val_accuracy=0.6),
        replace(TRIALS[1], trial=2, status="infeasible", reason="9 ms are above 4 ms", latency_ms=9.0),
    ]
    tune_report(tmp_path / "report.html", replace(METRICS, objective="loss"), rows)
    page = read(tmp_path / "report.html")
    assert page.row("0")[1][2:7] == ["0.500", "71.0 %", "10", "100", "3.00 ms"]
    assert page.row("1")[1][2:4] == ["0.900", "60.0 %stopped"]
    assert page.row("2")[1][2:4] == ["–", "infeasible"]
    assert page.row("2")[1][-1].startswith("9 ms are above 4 ms")
    assert "3 trials, 1 stopped early, 1 infeasible" in page.text
    assert "Best loss against trial" in headings(page)


def test_prune_says_what_was_found(tmp_path: Path) -> None:
    page = pruned(tmp_path)
    assert page.row("after")[1][4] == "1.50 M−25 %"
    assert page.row("1") == (
        "chosen",
        ["1", "86.0 %", "0.520", "15", "80", "24", "0.410 → 0.830", "9.0 s", "100 %", "within"],
    )
    assert page.row("0")[1][6] == "–"
    assert page.row("2")[1][-2:] == ["50 %", "outside"]
    assert page.row("conv1")[1] == ["conv1", "64", "48", "−25 %"]
    for fact in (
        "2 iterations",
        "stopped: accuracy fell",
        "Not drawn: 1 layer of unchanged width.",
        "2 percentage points",
        "Of the unpruned network's FLOPs 75 % remain",
    ):
        assert fact in page.text


@pytest.mark.parametrize("write", [tuned, pruned])
def test_what_cannot_be_removed_and_why(tmp_path: Path, write: Any) -> None:
    page = write(tmp_path, reach=REACH)
    assert (
        "Removing filters can take away at most 75.0 % of the FLOPs and 87.5 % of the parameters."
        in page.text
    )
    assert page.row("coupled") == (
        "",
        ["coupled to the network's input", "a<b>, c, d", "2.0 %", "3.0 %"],
    )
    assert page.row("spared by ignore")[1][1:] == ["e", "4.0 %", "5.0 %"]
    assert page.row("feeds the output")[1][1] == "classifier"
    if write is tuned:
        assert "What can be removed" not in headings(tuned(tmp_path))


def test_the_sensitivity_of_each_group(tmp_path: Path) -> None:
    page = pruned(tmp_path)
    assert page.row("g1")[1] == ["g1", "64", "79.0 %", "1.0 %", "75.0 %", "2.5 %", "60.0 %", "5.0 %"]
    assert "on 256 validation samples" in page.text
    assert page.row("group")[1][2:4] == ["without 10 %", "FLOPs saved"]


def test_a_removed_block_stands_in_place_of_filters(tmp_path: Path) -> None:
    rows = [ITERATIONS[0], replace(ITERATIONS[1], block="layer4.1", removed={})]
    prune_report(tmp_path / "report.html", prune_metrics(), rows)
    assert read(tmp_path / "report.html").row("1")[1][5] == "layer4.1"


def test_the_kept_iteration_is_marked(tmp_path: Path) -> None:
    page = pruned(tmp_path, kept_iteration=0)
    chosen = [row[1][0] for row in page.rows if "chosen" in row[0]]
    assert chosen == ["after", "pruned", "0"]


def test_epochs_of_a_pretraining(tmp_path: Path) -> None:
    page = pretrained(tmp_path, exclude="caltech101", excluded=1)
    assert page.row("2") == ("chosen", ["2", "1.000", "1.500", "40.0 %", "3.0 s"])
    assert page.row("1")[0] == ""
    assert "1 sample in the validation and test split of caltech101 excluded" in page.text
    assert "weights.safetensors" in page.text
    assert "excluded" not in pretrained(tmp_path).text


def test_pages_of_runs_that_found_nothing(tmp_path: Path) -> None:
    failed = [trial(i) for i in range(3)]
    tune_report(tmp_path / "tune.html", METRICS, failed)
    assert "No trial succeeded" in read(tmp_path / "tune.html").text
    tune_report(tmp_path / "none.html", METRICS, [])
    prune_report(tmp_path / "prune.html", prune_metrics(), [])
    assert "No layer changed" in read(tmp_path / "prune.html").text


def test_a_table_of_models_for_a_notebook() -> None:
    page = Page(models_html({"before": CONVENTIONAL, "<after>": AFTER}))
    assert page.row("before")[1][:5] == ["before", "86.0 %", "85.0 %", "85.0 %", "2.00 M"]
    assert page.row("<after>")[1][:5] == [
        *("<after>", "87.0 %+1.0 pp", "86.0 %+1.0 pp", "86.0 %+1.0 pp", "1.50 M−25 %")
    ]


INSECTS = ("ant", "bee", "cat")
UNEVEN = sampled([(3, 1, 2), (42, 12, 18), (6, 2, 2)], INSECTS)
LOST = confused([[0, 2, 0], [0, 18, 0], [0, 2, 0]], INSECTS)
KNOWN = confused([[1, 1, 0], [0, 18, 0], [0, 0, 2]], INSECTS)


def test_lost_classes_are_marked_and_come_first(tmp_path: Path) -> None:
    page = tuned(tmp_path, models={"baseline": LOST, "conventional": KNOWN, "after": LOST}, samples=UNEVEN)
    # Samples, the three figures of `after`, what the class is taken for, and those of `conventional`.
    assert page.row("ant") == (
        "lost",
        [
            "ant never found",
            "3",
            "1",
            "2",
            "0.0 %",
            "0.0 %",
            "0.0 %",
            "bee2 of 2",
            "50.0 %",
            "100.0 %",
            "66.7 %",
        ],
    )
    assert page.row("cat")[0] == "lost"
    assert page.row("bee") == (
        "",
        ["bee", "42", "12", "18", "100.0 %", "81.8 %", "90.0 %", "", "100.0 %", "94.7 %", "97.3 %"],
    )
    classes = [
        cells[0].split()[0] for _, cells in page.rows if cells[0].split()[:1] in (["ant"], ["bee"], ["cat"])
    ]
    assert classes == ["ant", "cat", "bee"]
    assert {"Confusion matrix: after", "Confusion matrix: conventional"} <= set(headings(page))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    alert = html.index('class="alert"')
    assert alert < html.index('class="tiles"'), "the warning stands on top"
    text = " ".join(page.text.split())
    assert "warning 2 of 3 classes are never found in the test samples: ant, cat." in text
    assert "balanced accuracy (mean recall) 33.3 % (conventional: 83.3 %)" in text
    assert "balanced accuracy 33.3 % −50.0 pp from 83.3 %" in text, "its tile"
    for remedy in ("metric=balanced_accuracy", "class_weights=balanced"):
        assert f"<code>{remedy}</code>" in html


def test_a_page_without_lost_classes_has_no_warning(tmp_path: Path) -> None:
    page = pruned(tmp_path)
    assert 'class="alert"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.row("iris")[1] == [
        *("iris", "680", "340", "1.71 k", "75.0 %", "75.0 %", "75.0 %", "rose1 of 4"),
        *("75.0 %", "75.0 %", "75.0 %"),
    ]
    assert "balanced accuracy (mean recall)" in page.text
    text = " ".join(page.text.split())
    assert "Always naming the largest class, iris, has an accuracy of 33.3 %." in text


@pytest.mark.parametrize(
    ("classes", "rows", "matrices", "pairs"), [(12, 12, 2, 0), (25, 25, 1, 15), (101, 116, 1, 15)]
)
def test_of_many_classes_the_worst_and_the_rest_folded(
    tmp_path: Path, classes: int, rows: int, matrices: int, pairs: int
) -> None:
    names = [f"kind {i:03d}" for i in range(classes)]
    # Class i is named twice as itself and once as the next one; the last one is always named as the first.
    counts = [[2 * (i == j) + (j == i + 1) for j in range(classes)] for i in range(classes)]
    counts[-1] = [3, *[0] * (classes - 1)]
    result = confused(counts, names)
    samples = sampled([(9, 3, 3)] * classes, names)
    prune_report(tmp_path / "report.html", prune_metrics(models={"before": result, "after": result},
                                                         samples=samples), [])  # fmt: skip
    page = read(tmp_path / "report.html")
    found = [cells for _, cells in page.rows if cells[0].startswith("kind")]
    assert len([cells for cells in found if len(cells) == 11]) == rows
    assert len([cells for cells in found if len(cells) == 4]) == pairs
    assert found[0][0] == f"kind {classes - 1:03d} never found"
    assert page.text.count("Confusion matrix") == matrices
    assert ("All classes" in page.text) == (classes == 101)
    if pairs:
        assert next(cells for cells in found if len(cells) == 4) == [names[-1], names[0], "3", "100.0 %"]


def test_names_of_classes_are_text_and_nothing_else(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "\x1b[31mred\x07", "$x$ \udce9\u202eb")
    model = confused([[0, 2, 0], [0, 2, 0], [1, 0, 1]], names)
    page = tuned(tmp_path, models={"baseline": model, "conventional": model, "after": model},
                 samples=sampled([(2, 2, 2)] * 3, names), dataset="\x1b[2J")  # fmt: skip
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", html)
    assert "<script" not in html
    assert "<script>alert(1)</script>" in page.text
    assert r"\x1b[31mred\x07" in page.text
    assert r"$x$ \udce9\u202eb" in page.text


def test_a_class_without_test_samples_is_not_lost(tmp_path: Path) -> None:
    model = confused([[2, 0, 0], [0, 0, 0], [0, 0, 2]])
    page = pruned_of(tmp_path, model)
    assert page.row("rose")[1][4:] == ["–", "–", "–", "", "–", "–", "–"]
    assert "never found" not in page.text
    assert [cells[0].split()[0] for _, cells in page.rows if len(cells) == 11][-1] == "roseno"


def pruned_of(folder: Path, model: Any) -> Page:
    samples = sampled([(2, 2, 2), (2, 2, 0), (2, 2, 2)])
    metrics = prune_metrics(models={"before": model, "after": model}, samples=samples)
    prune_report(folder / "report.html", metrics, [])
    return read(folder / "report.html")


def test_tables_and_figures_show_the_metric_that_decides(tmp_path: Path) -> None:
    rows = [replace(row, val_balanced_accuracy=0.25) for row in TRIALS]
    tune_report(tmp_path / "report.html", replace(METRICS, metric="balanced_accuracy"), rows)
    page = read(tmp_path / "report.html")
    assert page.row("0")[1][2:4] == ["70.0 %", "25.0 %"]
    assert "metric: balanced accuracy" in page.text
    assert {"Best balanced accuracy against trial", "Balanced accuracy against FLOPs"} <= set(headings(page))
    assert "metric: accuracy" in pretrained(tmp_path).text


def test_iterations_and_epochs_by_the_metric_that_decides(tmp_path: Path) -> None:
    prune_report(tmp_path / "report.html", prune_metrics(metric="balanced_accuracy"),
                 [iteration(0, 0.87, val_balanced_accuracy=0.5)])  # fmt: skip
    page = read(tmp_path / "report.html")
    assert page.row("0")[1][1:3] == ["87.0 %", "50.0 %"]
    assert "Balanced accuracy and FLOPs against iteration" in headings(page)
    page = pretrained(tmp_path, metric="balanced_accuracy")
    assert page.row("1")[1][3:5] == ["40.0 %", "30.0 %"]


def test_what_is_peculiar_about_the_samples(tmp_path: Path) -> None:
    samples = replace(UNEVEN, copies=2, leaked=3, near_duplicates=12, passed_over={".psd": 3, ".heic": 12})
    models = {"baseline": KNOWN, "conventional": KNOWN, "after": KNOWN}
    text = " ".join(tuned(tmp_path, models=models, samples=samples).text.split())
    assert "3 of 37 validation and test samples have a copy in another part of the split" in text
    for sentence in (
        "The largest class, bee, has 72 samples, the smallest, ant, 6.",
        "2 samples are copies of an earlier one.",
        "12 of 37 validation and test samples look like a training sample.",
        "Files passed over, of no known image format, by ending: 12 .heic, 3 .psd.",
    ):
        assert sentence in text


def test_pages_draw_what_changed_and_how_it_was_trained(tmp_path: Path) -> None:
    curves = {"conventional": training([0.5, 0.7]), "<after>": training([None])}
    page = tuned(tmp_path, widths=(widths("a.conv", 64, 48), widths("b", 9, None)), trainings=curves)
    assert "1 of 2 blocks is narrower, 1 is removed." in page.text
    assert {"The network, block by block", "Learning curves", "conventional", "<after>"} <= set(
        headings(page)
    )
    assert "2 epochs, 6.0 s; kept: epoch 2." in page.text
    many = {f"training {i}": training([0.5]) for i in range(14)}
    page = tuned(tmp_path, trainings=many)
    assert "The first 2 trainings of 14 are not drawn." in page.text
    assert "training 1" not in headings(page)
    assert "training 13" in headings(page)
    assert "Learning curves" not in headings(tuned(tmp_path))


def test_new_mistakes_of_the_pruned_network(tmp_path: Path) -> None:
    shown = Mistake(sample="<2>.jpg", true="<ant>", predicted="bee", image="data:image/jpeg;base64,AAAA")
    text = Mistake(sample="sample 3", true="bee", predicted="cat", text="<i>a bee</i>")
    found = Mistakes(
        reference="unpruned", result="pruned", lost=2, gained=1, samples=9, made_from="", shown=(shown, text)
    )
    prune_report(tmp_path / "report.html", prune_metrics(), ITERATIONS, found)
    page = read(tmp_path / "report.html")
    assert (
        "Of 9 test samples, pruned names 2 wrongly that unpruned names correctly, and 1 correctly that "
        "unpruned names wrongly." in page.text
    )
    assert "<ant> named bee" in page.text
    assert "<i>a bee</i>" in page.text
    assert 'alt="&lt;2&gt;.jpg"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "New mistakes" not in headings(pruned(tmp_path))


def test_latencies_in_every_runtime(tmp_path: Path) -> None:
    fast = replace(AFTER, latencies=(timed("eager", 4.0, 20.0), timed("onnxruntime", 1.5, 8.0)))
    models = {"before": replace(CONVENTIONAL, latencies=fast.latencies[:1]), "after": fast}
    prune_report(tmp_path / "report.html", prune_metrics(models=models), ITERATIONS)
    page = read(tmp_path / "report.html")
    rows = [cells for _, cells in page.rows if len(cells) == 3]
    assert rows == [
        ["model", "eager PyTorch", "ONNX Runtime"],
        *(["before", "4.00 ms", "–"], ["after", "4.00 ms", "1.50 ms"]),
        *(["before", "20.0 ms", "–"], ["after", "20.0 ms", "8.00 ms"]),
    ]
    assert {"batch 1, 2 threads", "batch 16, 2 threads"} <= set(headings(page))
    drawn = {"Latency in every runtime", "Test accuracy against latency"}
    assert drawn <= set(headings(page))
    assert not drawn & set(headings(pruned(tmp_path))), "there is but one runtime"


def test_the_classes_that_changed(tmp_path: Path) -> None:
    page = tuned(tmp_path, models={"baseline": KNOWN, "conventional": KNOWN, "after": LOST}, samples=UNEVEN)
    assert "Of 3 classes, after finds 0 better than conventional and 2 worse." in page.text
    assert "Classes that changed most" in headings(page)
    assert "Classes that changed most" not in headings(tuned(tmp_path)), "none did"


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def torn(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", torn)
    with pytest.raises(OSError, match="disk full"):
        tune_report(path, METRICS, TRIALS)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
