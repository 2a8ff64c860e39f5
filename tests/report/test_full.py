"""The page of both stages and the export: what one reads in a minute, and that it holds all sections."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tascnet.report import full_report, recommendation_lines
from tascnet.report.full import compared, deployed_form, lead, rows_of
from tascnet.report.mistakes import Mistake, Mistakes
from tascnet.run.records import ExportedFile, ExportMetrics, ModelMetrics, RivalRecord
from tests.report.records import (
    MACHINE,
    SENSITIVITY,
    iteration,
    model,
    prune_metrics,
    timed,
    training,
    trial,
    tune_metrics,
    widths,
)
from tests.report.test_html import Page, headings, read


def network(params: int, accuracy: float, **times: float) -> ModelMetrics:
    """A network with these latencies in milliseconds, by runtime."""
    latencies = tuple(timed(runtime, ms, 8 * ms) for runtime, ms in times.items())
    return model(params=params, test_accuracy=accuracy, size_bytes=4 * params, latencies=latencies)


USUAL = network(2_000_000, 0.865, eager=8.0, onnxruntime=3.0, onnxruntime_int8=2.6)
PRUNED = network(500_000, 0.862, eager=6.0, onnxruntime=2.0, onnxruntime_int8=1.25)
INT8 = network(500_000, 0.855, onnxruntime_int8=1.25)
MODELS = {"baseline": USUAL, "conventional": USUAL, "tuned": USUAL, "pruned": PRUNED, "pruned int8": INT8}
EXPORT = ExportMetrics(
    weights_digest="w",
    machine=MACHINE,
    seconds=15.0,
    versions={},
    files=(
        ExportedFile(
            format="onnx",
            path="model.onnx",
            size_bytes=2_100_000,
            preprocess="inside",
            samples=256,
            equal_classes=1.0,
            largest_difference=0.000012,
            val_accuracy=0.87,
            float_val_accuracy=0.87,
        ),
        ExportedFile(
            format="onnx_int8",
            path="model_int8.onnx",
            size_bytes=600_000,
            preprocess="outside",
            samples=256,
            equal_classes=0.95,
            largest_difference=None,
            val_accuracy=0.86,
            float_val_accuracy=0.87,
            float_layers=("stem", "<head>"),
            checked_on="Chip with VNNI",
        ),
    ),
)
SHOWN = Mistake(sample='"><b>.jpg', true="<rose>", predicted="tulip", image="data:image/jpeg;base64,AAAA")
MISTAKES = Mistakes(
    reference="conventional",
    result="pruned",
    lost=30,
    gained=7,
    samples=5130,
    made_from="p",
    shown=(SHOWN,) * 24,
)


def written(path: Path, **changes: Any) -> Page:
    tune = tune_metrics(
        models={"baseline": USUAL, "conventional": USUAL, "after": USUAL},
        trainings={"conventional": training([0.5, 0.6])},
        widths=(widths("a", 8, 8), widths("b", 8, None), widths("classifier", 3, 3)),
    )
    prune = prune_metrics(
        models={"before": USUAL, "after": PRUNED},
        trainings={"iteration 1": training([0.6, 0.7])},
        widths=(widths("a", 8, 4), widths("classifier", 3, 3)),
        sensitivity=SENSITIVITY,
    )
    given: dict[str, Any] = {
        "tune": tune,
        "prune": prune,
        "trials": [trial(i, 0.5 + i / 10, config={"first_trained": 1}) for i in range(3)],
        "iterations": [iteration(0, 0.87), iteration(1, 0.86, flops=80)],
        "models": MODELS,
        "export": EXPORT,
        "mistakes": MISTAKES,
    }
    full_report(path, **(given | changes))
    return read(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full")
    written(path / "report.html")
    return path


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_first_screen_answers_what_how_good_and_how_fast(page: Page) -> None:
    text = " ".join(page.text.split())
    first = text[: text.index("All models")]
    for words in (
        "6.4 times faster, 75 % fewer parameters, test accuracy 86.5 → 85.5 %.",
        "the conventional network, fine-tuned as usual, in eager PyTorch; one sample takes 8.00 ms.",
        "After: the pruned int8 one in ONNX Runtime int8; 1.25 ms.",
        "ONNX Runtime int8 alone makes the conventional network 3.1 times faster (2.60 ms); the pruned int8 "
        "one is 2.1 times faster than that.",
        "deploy pruned int8 in ONNX Runtime int8: prune/export/model_int8.onnx",
        "test accuracy 85.5 % −1.0 pp from 86.5 %",
        "one sample, 2 threads 1.25 ms −52 % from 2.60 ms",
        "file 600 kB −92 % from 8.0 MB",
        "parameters 500 k −75 % from 2.00 M",
        "Deploy model_int8.onnx in ONNX Runtime int8: 1.25 ms (4.8 times faster than eager PyTorch) for one",
        "the validation accuracy is 86.0 % (float: 87.0 %), the test accuracy 85.5 % (float: 86.2 %).",
    ):
        assert words in first


def test_one_table_of_all_models_with_the_deployed_one_marked(page: Page) -> None:
    rows = {cells[0]: (kind, cells[1:]) for kind, cells in page.rows if len(cells) == 9}
    heads = rows["model"][1]
    assert heads[:3] == ["test acc.", "deployed batch\N{NO-BREAK SPACE}1", "size"], "first what counts"
    assert [name for name, (kind, _) in rows.items() if kind == "model chosen"] == ["pruned int8"]
    about = [cells for kind, cells in page.rows if kind == "about chosen"]
    assert about == [["the pruned network in 8-bit integers; size: of its ONNX file"]]
    # In float, as the accuracy beside it, and from the conventional network.
    assert rows["pruned"][1][:2] == ["86.2 %−0.3 pp", "2.00 ms−33 %"]
    assert rows["pruned int8"][1][:2] == ["85.5 %−1.0 pp", "1.25 ms−58 %"]
    assert "Small figures: change from conventional" in page.text
    assert "Deployed: exported, in ONNX Runtime; int8 in ONNX Runtime int8." in page.text


def test_an_int8_time_beside_a_float_accuracy_is_muted_and_explained(page: Page, html: str) -> None:
    assert ("", ["pruned", "6.00 ms", "2.00 ms", "1.25 ms"]) in page.rows, "the table of latencies"
    assert ("", ["pruned int8", "–", "–", "1.25 ms"]) in page.rows
    # At both batches: four float networks, and the int8 one.
    assert html.count('<td class="aside">') == 2 * 4
    assert html.count("<b>1.25 ms</b>") == 1
    assert "Int8 in the row of a float network: the time alone, its accuracy was not judged." in page.text


def test_every_section_is_there(page: Page) -> None:
    assert {
        "All models",
        "Test accuracy against latency",
        "The network, block by block",
        "Tune: 3 trials",
        "Prune: 2 iterations",
        "Accuracy against FLOPs",
        "Accuracy without parts of one group",
        "Export",
        "Classes",
        "Confusion matrix: pruned",
        "New mistakes",
        "Learning curves",
        "tune: conventional",
        "prune: iteration 1",
    } <= set(headings(page))


def test_the_strip_goes_from_the_conventional_to_the_pruned_network(page: Page, html: str) -> None:
    assert "1 of 3 blocks is narrower, 1 is removed, the network now ends with a." in page.text
    assert [re.sub(r"\s+", " ", found) for found in re.findall(r'<li class="(\w+(?: end)?)">', html)] == [
        "cut end",
        "removed",
        "kept",
    ]
    assert "8 → 4" in page.text


def test_the_exported_files_with_how_they_were_checked(page: Page) -> None:
    assert page.row("model.onnx")[1] == [
        *("model.onnx", "2.1 MB", "87.0 %network: 87.0 %", "100.0 %of 256", "1.2e-05"),
        *("–", "upright RGB pixels"),
    ]
    assert page.row("model_int8")[1][2:] == [
        *("86.0 %network: 87.0 %", "95.0 %of 256", "–", "2", "prepared samples"),
    ]
    assert "Checked on Chip with VNNI." in page.text


def test_new_mistakes_are_images_of_the_page_with_their_file_as_text(page: Page, html: str) -> None:
    images, name = re.findall(r"<img ([^>]*)>", html), "&#34;&gt;&lt;b&gt;.jpg"
    assert images == [f'src="data:image/jpeg;base64,AAAA" alt="{name}" title="{name}"'] * 24
    text = " ".join(page.text.split())
    assert "Of 5,130 test samples, pruned names 30 wrongly that conventional names correctly" in text
    assert "24 of the 30 are shown." in text
    assert "<rose> named tulip" in text


def test_it_stands_alone_and_is_the_same_again(page: Page, html: str, tmp_path: Path) -> None:
    assert not re.search(r"https?:|<script|<link|@import|file:", html)
    assert {target[0] for target in re.findall(r'(?:href="|url\()(.)', html)} <= {"#"}
    assert set(re.findall(r'\ssrc="([^"]{,23})', html)) == {"data:image/jpeg;base64,"}
    assert len(page.ids) == len(set(page.ids))
    written(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html


def test_without_an_export_or_anything_that_was_optional(tmp_path: Path) -> None:
    plain = {
        name: replace(one, latencies=one.latencies[:1])
        for name, one in MODELS.items()
        if name != "pruned int8"
    }
    page = written(
        tmp_path / "report.html",
        models=plain,
        export=None,
        mistakes=None,
        iterations=[],
        tune=tune_metrics(models={"baseline": USUAL, "conventional": USUAL, "after": USUAL}),
        prune=prune_metrics(models={"before": USUAL, "after": PRUNED}),
        trials=[],
    )
    text = " ".join(page.text.split())
    assert "1.3 times faster, 75 % fewer parameters" in text
    assert "After: the pruned one in eager PyTorch; 6.00 ms. deploy" in text, "one runtime has no part of it"
    assert "deploy pruned in eager PyTorch: prune/model" in text
    absent = {
        "Export",
        "New mistakes",
        "Learning curves",
        "The network, block by block",
        "What to deploy",
    }
    assert not absent & set(headings(page))


def test_the_headline_is_about_the_form_that_is_recommended_for_one_sample() -> None:
    found = []
    for ms in (1.79, 1.81):
        pruned = network(500_000, 0.862, eager=6.0, onnxruntime=2.0, onnxruntime_int8=ms)
        models = MODELS | {"pruned": pruned}
        form = deployed_form(models, EXPORT, "accuracy")
        (line, *_) = recommendation_lines(pruned, EXPORT, "accuracy", INT8)
        assert form.file is not None
        assert line.startswith(f"Deploy `{form.file.path}` in")
        found.append((form.runtime, lead(models, form, "accuracy").partition(",")[0]))
    assert found == [("onnxruntime_int8", "4.5 times faster"), ("onnxruntime", "4.0 times faster")]
    # int8 was timed, but there is no file that was judged.
    without = replace(EXPORT, files=EXPORT.files[:1])
    assert deployed_form(MODELS, without, "accuracy").runtime == "onnxruntime"


def test_the_metric_that_decides_is_in_the_headline() -> None:
    models = {
        name: replace(one, test_balanced_accuracy=one.test_accuracy - 0.1) for name, one in MODELS.items()
    }
    form = deployed_form(models, EXPORT, "accuracy")
    assert lead(models, form, "balanced_accuracy").endswith("test balanced accuracy 76.5 → 75.5 %.")
    # The conventional network was not timed there, and has fewer parameters.
    alone = {**models, "conventional": network(250_000, 0.5, eager=8.0)}
    assert compared(alone, form).endswith("After: the pruned int8 one in ONNX Runtime int8; 1.25 ms.")
    assert "100 % more parameters" in lead(alone, form, "accuracy")


def test_the_rows_of_both_stages() -> None:
    rival = RivalRecord(row="resnet18 160 px", key="k", size=160, weights="w", licence="l", seconds=1.0)
    names = ("baseline", "conventional", "after", rival.row)
    tuned = {name: network(i, 0.5, eager=1.0) for i, name in enumerate(names)}
    rows = rows_of(
        tune_metrics(models=tuned, rivals=(rival,)), prune_metrics(models={"before": USUAL, "after": PRUNED})
    )
    assert list(rows) == ["baseline", "conventional", "resnet18 160 px", "tuned", "pruned"]
    assert [one.params for one in rows.values()] == [0, 1, 3, 2, 500_000]
