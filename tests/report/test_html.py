"""The two pages: what they say, that they stand alone, and that they are written whole."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tascnet.report import page as page_module
from tascnet.report import prune_report, tune_report

VOID = {"meta", "br"}
NEUTRAL = {"first_trained": 0, "dropout": 0.2, "u1.width": 64}
BEST = {"first_trained": 1, "dropout": 0.2, "u1.width": 32}
METRICS: dict[str, Any] = {
    "models": {
        "baseline": {"test_accuracy": 0.80, "params": 2_000_000, "flops": 104_000_000, "val_accuracy": 0.81},
        "conventional": {
            "test_accuracy": 0.85,
            "params": 2_000_000,
            "flops": 104_000_000,
            "val_accuracy": 0.86,
        },
        "after": {"test_accuracy": 0.86, "params": 1_500_000, "flops": 78_000_000, "val_accuracy": 0.87},
    },
    "best_config": BEST,
    "neutral_config": NEUTRAL,
    "dataset": "<flowers & 'co'>",
    "backbone": "vgg16",
    "samples": {
        "classes": 102,
        "train": 2040,
        "val": 1020,
        "test": 5129,
        "skipped": 3,
        "source": "the garden",
        "licence": "CC BY 4.0",
    },
    "seed": 3,
    "seconds": 245.0,
    "versions": {"torch": "2.6.0"},
}
TRIALS: list[dict[str, Any]] = [
    {"trial": 0, "depth": 1, "config": NEUTRAL, "status": "ok", "value": 0.7, "reason": None, "params": 10,
     "flops": 100, "seconds": 2.0},
    {"trial": 1, "depth": 1, "config": dict(BEST, dropout=0.4), "status": "failed", "value": None,
     "reason": "no room <left>", "params": None, "flops": None, "seconds": 1.0},
    {"trial": 2, "depth": 2, "config": BEST, "status": "ok", "value": 0.8, "reason": None, "params": 8,
     "flops": 90, "seconds": 2.0},
]  # fmt: skip
ITERATIONS: list[dict[str, Any]] = [
    {"iteration": 0, "val_accuracy": 0.87, "val_loss": 0.5, "params": 20, "flops": 100, "inside": True,
     "removed": {}, "pairs_similarity_before": None, "pairs_similarity_after": None, "seconds": 0.0},
    {"iteration": 1, "val_accuracy": 0.86, "val_loss": 0.52, "params": 15, "flops": 80, "inside": True,
     "removed": {"a": 8, "b": 16}, "pairs_similarity_before": 0.41, "pairs_similarity_after": 0.83,
     "seconds": 9.0},
    {"iteration": 2, "val_accuracy": 0.80, "val_loss": 0.9, "params": 12, "flops": 60, "inside": False,
     "removed": {"a": 8}, "pairs_similarity_before": 0.3, "pairs_similarity_after": 0.5, "seconds": 9.0},
]  # fmt: skip
WIDTHS = [{"layer": "conv1", "before": 64, "after": 48}, {"layer": "conv2", "before": 32, "after": 32}]


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


def tuned(folder: Path, **changes: Any) -> Page:
    tune_report(folder / "report.html", METRICS | changes, TRIALS)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def pruned(folder: Path, **changes: Any) -> Page:
    models = {"before": METRICS["models"]["conventional"], "after": METRICS["models"]["after"]}
    metrics = METRICS | {"models": models, "tolerance": 0.02} | changes
    prune_report(folder / "report.html", metrics, ITERATIONS, WIDTHS)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("write", [tuned, pruned])
def test_the_page_stands_alone(tmp_path: Path, write: Any) -> None:
    page = write(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|\ssrc=|file:", text)
    assert {target[0] for target in re.findall(r'(?:href="|url\()(.)', text)} == {"#"}
    assert len(page.ids) == len(set(page.ids))
    assert "#010101" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    assert "vgg16 on <flowers & 'co'>" in tuned(tmp_path).text
    assert "<flowers" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_tune_says_what_was_found(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    kind, cells = page.row("after")
    assert kind == "chosen"
    assert cells[1:] == ["87.0 %+6.0 pp", "86.0 %+6.0 pp", "1.50 M−25 %", "78.0 M−25 %"]
    samples = "102 classes; 2,040 training, 1,020 validation, 5,129 test samples"
    data = (samples, "3 files left out as unreadable", "source: the garden", "licence: CC BY 4.0")
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


def test_the_winning_trial_may_be_named(tmp_path: Path) -> None:
    page = tuned(tmp_path, winner=0, stopped="depth 2 was no better")
    assert page.row("0")[0] == "chosen"
    assert page.row("2")[0] == ""
    assert "stopped: depth 2 was no better" in page.text


def test_the_winner_beside_the_pretrained_network(tmp_path: Path) -> None:
    page = tuned(tmp_path)
    assert page.row("u1.width") == ("setting changed", ["u1.width", "64", "32"])
    assert page.row("dropout") == ("setting", ["dropout", "0.2", "0.2"])


SURROGATE: dict[str, Any] = {
    "target": "val_accuracy",
    "sentence": "It explains half.",
    "learnt": True,
    "rmse": 0.0125,
    "deviation": 0.025,
    "r2": 0.75,
    "rank_correlation": 0.8,
    "refitted_r2": 0.5,
    "refitted_rank_correlation": 0.61,
    "predictions": [{"trial": 0, "observed": 0.7, "predicted": 0.72, "deviation": 0.02},
                    {"trial": 2, "observed": 0.8, "predicted": 0.79, "deviation": 0.02}],
    "importance": [{"choice": "u1.width", "rise": 0.011, "lengthscale": 0.25}],
}  # fmt: skip


def test_what_the_search_learnt(tmp_path: Path) -> None:
    page = tuned(tmp_path, surrogate=SURROGATE)
    text = " ".join(page.text.split())
    assert "What the search learnt It explains half." in text
    assert "leave-one-out error (RMSE) 1.25 pp deviation of the values 2.50 pp R², leave-one-out 0.75" in text
    assert "R², refitted 0.50 rank correlation, refitted 0.61" in text
    assert ("", ["u1.width", "+1.10 pp", "0.25"]) in page.rows
    assert {"Predicted against observed", "Which choices mattered"} <= set(headings(page))


def test_a_search_that_learnt_nothing_says_so(tmp_path: Path) -> None:
    tuned(tmp_path, surrogate=SURROGATE | {"learnt": False})
    assert '<p class="bad">It explains half.</p>' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Too few" in tuned(tmp_path, surrogate=None).text
    assert "What the search learnt" not in tuned(tmp_path).text


def test_the_front_with_the_way_to_fine_tune(tmp_path: Path) -> None:
    front = [{"trial": 2, "value": 0.8, "val_accuracy": 0.8, "params": 8, "flops": 90}]
    page = tuned(tmp_path, front=front, objective="pareto", pareto_cost="params")
    assert ("chosen", ["2", "80.0 %", "8", "90", "stage=tune tune.pick=2"]) in page.rows
    assert "Accuracy against params" in headings(page)
    assert "objective: pareto" in page.text
    assert "Front" not in tuned(tmp_path).text


def test_depths_one_after_another(tmp_path: Path) -> None:
    rows = [
        {"trial": 0, "first_trained": 0, "block": 9, "name": "head", "trainable_params": 10_000,
         "val_accuracy": 0.7, "seconds": 2.0},
        {"trial": 2, "first_trained": 1, "block": 7, "name": "<conv>", "trainable_params": 20_000,
         "val_accuracy": 0.8, "seconds": 3.0},
    ]  # fmt: skip
    page = tuned(tmp_path, layerwise=rows)
    assert page.row("7") == ("chosen", ["7", "<conv>", "20.0 k", "80.0 %", "3.0 s"])
    assert page.row("9") == ("", ["9", "head", "10.0 k", "70.0 %", "2.0 s"])
    assert "Accuracy against depth" in headings(page)
    assert "Best value against trial" not in headings(page)
    assert "Depths" not in headings(tuned(tmp_path))


def test_one_figure_for_each_bound(tmp_path: Path) -> None:
    page = tuned(tmp_path, objective="constrained", bounds={"flops": 95, "params": None, "latency_ms": 4.0})
    assert {"Accuracy against FLOPs", "Accuracy against latency"} < set(headings(page))
    assert "objective: constrained, at most 95 FLOPs, at most 4.00 ms" in page.text


def test_statuses_and_the_loss_in_the_table_of_trials(tmp_path: Path) -> None:
    rows = [
        dict(TRIALS[0], value=-0.5, val_loss=0.5, val_accuracy=0.71, latency_ms=3.0),
        dict(TRIALS[0], trial=1, status="stopped", value=-0.9, val_loss=0.9, val_accuracy=0.6),
        dict(TRIALS[1], trial=2, status="infeasible", reason="9 ms are above 4 ms", latency_ms=9.0),
    ]
    tune_report(tmp_path / "report.html", METRICS | {"objective": "loss"}, rows)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.row("0")[1][2:7] == ["0.500", "71.0 %", "10", "100", "3.00 ms"]
    assert page.row("1")[1][2:4] == ["0.900", "60.0 %stopped"]
    assert page.row("2")[1][2:4] == ["–", "infeasible"]
    assert page.row("2")[1][-1].startswith("9 ms are above 4 ms")
    assert "3 trials, 1 stopped early, 1 infeasible" in page.text
    assert "Best loss against trial" in headings(page)


def test_prune_says_what_was_found(tmp_path: Path) -> None:
    page = pruned(tmp_path, stopped="accuracy fell")
    assert page.row("after")[1][3] == "1.50 M−25 %"
    assert page.row("1") == (
        "chosen",
        ["1", "86.0 %", "0.520", "15", "80", "24", "0.410 → 0.830", "9.0 s", "100 %", "within"],
    )
    assert page.row("2")[1][-1] == "outside"
    assert page.row("conv1")[1] == ["conv1", "64", "48", "−25 %"]
    for fact in (
        "2 iterations",
        "stopped: accuracy fell",
        "1 layer that kept its width",
        "2 percentage points",
    ):
        assert fact in page.text


def test_the_kept_iteration_may_be_named(tmp_path: Path) -> None:
    page = pruned(tmp_path, kept_iteration=0)
    assert [row[1][0] for row in page.rows if row[0] == "chosen"] == ["afterpruned", "0"]


def test_pages_of_runs_that_found_nothing(tmp_path: Path) -> None:
    failed = [dict(row, status="failed", value=None, reason=None) for row in TRIALS]
    tune_report(tmp_path / "tune.html", {}, failed)
    assert "No trial succeeded" in Page((tmp_path / "tune.html").read_text(encoding="utf-8")).text
    tune_report(tmp_path / "none.html", {}, [])
    prune_report(tmp_path / "prune.html", {}, [], [])
    assert "No layer changed" in Page((tmp_path / "prune.html").read_text(encoding="utf-8")).text


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def torn(temporary: Path, *, text: str) -> None:
        temporary.write_text(text[:10])
        raise OSError("disk full")

    monkeypatch.setattr(page_module, "_write_text", torn)
    with pytest.raises(OSError, match="disk full"):
        tune_report(path, METRICS, TRIALS)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
