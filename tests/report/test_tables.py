"""What the tables say, read back from what the terminal shows."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tascnet.report import (
    class_lines,
    classes_table,
    front_table,
    latency_table,
    layerwise_table,
    models_table,
    models_text,
    stage_tables,
    widths_table,
)
from tascnet.report.tables import headings, key_figures, latency_rows
from tascnet.run.records import ModelMetrics, TuneMetrics
from tests.report.records import confused, depth, front_point, model, sampled, timed, tune_metrics, widths

CONVENTIONAL = model(
    val_accuracy=0.9,
    test_accuracy=0.80,
    params=2_000_000,
    flops=100_000_000,
    size_bytes=8_000_000,
    latency_ms=10.0,
    latency_ms_batch=100.0,
)
PRUNED = model(
    val_accuracy=0.91,
    test_accuracy=0.79,
    params=1_000_000,
    flops=60_000_000,
    size_bytes=4_000_000,
    latency_ms=8.0,
    latency_ms_batch=55.0,
)
MODELS = {"conventional": CONVENTIONAL, "pruned": PRUNED}


def shown(table: RenderableType | None, width: int = 80) -> str:
    assert table is not None
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue()


def test_values_with_their_changes_below() -> None:
    lines = [line.split("  ") for line in shown(models_table(MODELS)).splitlines()]
    cells = [[part.strip() for part in line if part.strip()] for line in lines]
    assert cells[-3] == ["conventional", "90.0 %", "80.0 %", "2.00 M", "100 M", "8.0 MB", "10.0 ms", "100 ms"]
    assert cells[-2] == ["pruned", "91.0 %", "79.0 %", "1.00 M", "60.0 M", "4.0 MB", "8.00 ms", "55.0 ms"]
    assert cells[-1] == ["+1.0 pp", "−1.0 pp", "−50 %", "−40 %", "−50 %", "−20 %", "−45 %"]


def test_fits_eighty_columns_unabridged() -> None:
    text = shown(models_table({**MODELS, "baseline": CONVENTIONAL, "tuned": PRUNED}))
    assert "…" not in text
    assert "batch 16" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def deployed(
    single: float, int8: float | None, openvino: float | None = None, **changes: Any
) -> ModelMetrics:
    """A network of 8 ms in eager PyTorch, and these in exported files; a batch takes 4 times as long."""
    times = {"eager": 8.0, "onnxruntime": single, "onnxruntime_int8": int8, "openvino": openvino}
    found = {name: ms for name, ms in times.items() if ms is not None}
    return model(latencies=tuple(timed(name, ms, 4 * ms) for name, ms in found.items()), **changes)


def test_the_best_deployed_form_has_a_column_and_its_runtime_where_they_differ() -> None:
    text = shown(models_table({"conventional": deployed(4.0, None, 5.0), "pruned": deployed(3.0, None, 2.0)}))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    # The batch gives way to it: both fit 80 columns with the other one gone.
    assert rows[:2] == ["val test eager deployed", "model acc. acc. params FLOPs size batch 1 batch 1"]
    assert rows[3].endswith("8.00 ms 4.00 ms ONNX")
    assert rows[4].endswith("8.00 ms 2.00 ms OpenVINO")
    assert rows[5].endswith("±0 % −50 %")
    assert rows[-1] == "deployed: exported, in the fastest of ONNX Runtime and OpenVINO"
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_one_runtime_for_all_is_named_once() -> None:
    text = shown(models_table({"conventional": deployed(4.0, None), "pruned": deployed(3.0, None)}))
    assert "3.00 ms\n" in "\n".join(line.rstrip() for line in text.splitlines())
    assert text.splitlines()[-1].strip() == "deployed: exported, in ONNX Runtime"


def test_int8_is_deployed_in_the_row_of_its_file_alone() -> None:
    """Beside a float accuracy stands a float latency, however fast int8 was."""
    file = model(latencies=(timed("onnxruntime_int8", 2.0),))
    only = model(latencies=(timed("eager", 8.0), timed("onnxruntime_int8", 2.0)))
    assert [one.deployed_ms for one in (deployed(3.0, 2.0), only, file)] == [3.0, None, 2.0]
    models = {"conventional": deployed(4.0, 3.0), "pruned": deployed(3.0, 2.0), "pruned int8": file}
    lines = [" ".join(line.split()) for line in shown(models_table(models)).splitlines()]
    assert lines[-2:] == [
        "deployed: exported, in ONNX Runtime; int8 in ONNX Runtime int8",
        "size: of the weights; of int8: of the ONNX file",
    ]
    rows = [line for line in lines if line.startswith(("pruned", "conventional"))]
    assert [line.split()[-2] for line in rows] == ["4.00", "3.00", "2.00"]


def test_changes_from_a_model_that_is_not_the_first() -> None:
    models = {"baseline": deployed(6.0, None), "conventional": deployed(4.0, None)}
    lines = [line.rstrip() for line in shown(models_table(models, against="conventional")).splitlines()]
    assert lines[4].endswith("+50 %"), "the first row has a change, 6 of 4 ms"
    assert lines[-3].endswith("4.00 ms"), "that one has none"
    assert lines[-2] == "changes: from conventional"
    # The first one needs no words.
    assert "changes" not in shown(models_table(models, against="baseline"))


def test_a_network_that_no_runtime_takes_has_a_dash() -> None:
    text = shown(models_table({"conventional": deployed(4.0, 3.0), "pruned": model()}))
    assert [line.split()[-1] for line in text.splitlines() if "pruned" in line] == ["–"]
    # The page has all columns.
    assert headings([model(), deployed(4.0, 3.0)])[-3:] == [
        "eager batch 1",
        "eager batch 16",
        "deployed batch 1",
    ]
    assert headings([model()])[-2:] == ["latency batch 1", "latency batch 16"]


def test_latencies_by_batch_threads_and_runtime() -> None:
    alone = (timed("eager", 9.0, 90.0, threads=1), timed("onnxruntime", 6.0, 60.0, threads=1))
    first = replace(deployed(4.0, 5.0), latencies=deployed(4.0, 5.0).latencies + alone)
    text = shown(latency_table({"conventional": first, "pruned": deployed(3.0, 2.0)}))
    rows = [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]
    assert rows == [
        "eager ONNX ONNX",
        "latency PyTorch Runtime Runtime int8",
        *("batch 1", "2 threads", "conventional 8.00 ms 4.00 ms 5.00 ms", "pruned 8.00 ms 3.00 ms 2.00 ms"),
        *("batch 1", "1 thread", "conventional 9.00 ms 6.00 ms –"),
        *("batch 16", "2 threads", "conventional 32.0 ms 16.0 ms 20.0 ms", "pruned 32.0 ms 12.0 ms 8.00 ms"),
        *("batch 16", "1 thread", "conventional 90.0 ms 60.0 ms –"),
        *("int8 in the row of a float network: the time", "alone, its accuracy was not judged"),
    ]
    assert [row.fastest for row in latency_rows({"pruned": deployed(3.0, 2.0)})] == ["onnxruntime"] * 2
    judged = {"pruned int8": model(latencies=(timed("onnxruntime_int8", 2.0),))}
    assert [row.fastest for row in latency_rows(judged)] == ["onnxruntime_int8"] * 2
    assert "not judged" not in shown(latency_table(judged))


def test_a_summary_has_both_latencies_where_both_were_measured() -> None:
    shown = {"latency_ms": "eager, batch 1", "deployed_ms": "deployed, batch 1"}
    assert key_figures({"after": deployed(3.0, 2.0)}).items() >= shown.items()
    assert key_figures({"after": model()})["latency_ms"] == "latency, batch 1"
    assert "deployed_ms" not in key_figures({"after": model()})


def test_the_same_table_as_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.rstrip() for line in shown(models_table(MODELS)).splitlines()]
    monkeypatch.setenv("COLUMNS", "40")
    assert models_text(MODELS).splitlines() == lines


def test_models_of_several_batches() -> None:
    text = shown(models_table({"a": model(batch=16), "b": model(batch=4)}))
    assert "batch 4/16" in text


def test_no_model_at_all() -> None:
    assert "model" in shown(models_table({}))


def test_names_are_no_markup() -> None:
    assert "[red]" in shown(models_table({"[red]": model()}))
    assert "[red]" in shown(widths_table([widths("[red]", 3, 2)]))


def test_widths_that_changed_and_a_count_of_the_others() -> None:
    layers = [widths("a", 64, 48), widths("b", 32, 32), widths("gone", 8, None), widths("new", None, 5)]
    text = shown(widths_table(layers))
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "64", "48", "−25", "%"] in rows
    assert ["gone", "8", "–", "–"] in rows
    assert ["new", "–", "5", "–"] in rows
    assert not any(row[:1] == ["b"] for row in rows)
    assert "1 layer unchanged" in text


def test_the_front_with_the_way_to_fine_tune() -> None:
    rows = [front_point(7, 0.812, params=1_500_000, flops=78_000_000)]
    lines = [line.split() for line in shown(front_table(rows, chosen=7)).splitlines()]
    assert lines[-1] == ["7", "81.2", "%", "1.50", "M", "78.0", "M", "pick=7"]


def test_depths_by_first_trained_block() -> None:
    rows = [
        depth(0, 18, "[head]", 0.7, trainable_params=130_000, seconds=12.34),
        depth(1, 17, "conv2", 0.65, trainable_params=2_000_000, seconds=65.0),
    ]
    lines = [line.split() for line in shown(layerwise_table(rows, chosen=0)).splitlines()]
    assert lines[-2] == ["18", "[head]", "130", "k", "70.0", "%", "12.3", "s"]
    assert lines[-1] == ["17", "conv2", "2.00", "M", "65.0", "%", "1", "min", "05", "s"]


LOST = confused([[0, 2, 0], [0, 18, 0], [0, 1, 1]], ("ant", "bee", "cat"))
UNEVEN = sampled([(3, 1, 2), (42, 12, 18), (6, 2, 2)], ("ant", "bee", "cat"))


def test_the_balanced_accuracy_takes_the_place_of_the_size_where_it_differs() -> None:
    # 19 of 22, and the mean of 0, 1 and 1/2.
    text = shown(models_table({"conventional": CONVENTIONAL, "after": LOST}))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "balanced" in text
    assert "size" not in text
    assert [" ".join(line.split()) for line in text.splitlines()][-2].startswith("after 80.0 % 86.4 % 50.0 %")
    assert "balanced" not in shown(models_table(MODELS))
    # Where it is the metric it is always there.
    assert "balanced" in shown(models_table(MODELS, metric="balanced_accuracy"))
    by_recall = tune_metrics(metric="balanced_accuracy")
    assert "balanced" in shown(stage_tables(by_recall)[0])


def test_the_classes_with_the_lost_one_first() -> None:
    metrics = tune_metrics(models={"conventional": LOST, "after": LOST}, samples=UNEVEN)
    lines = [" ".join(line.split()) for line in shown(classes_table(metrics)).splitlines()]
    assert lines[-3:] == [
        "ant 3 2 never found 0.0 % 0.0 % bee (2)",
        "cat 6 2 50.0 % 100.0 % 66.7 % bee (1)",
        "bee 42 18 100.0 % 85.7 % 92.3 %",
    ]


def many(classes: int, lost: int) -> TuneMetrics:
    """A search over so many classes of one test sample, of which the last `lost` are named as the first."""
    names = [f"class {i} with a very long name" for i in range(classes)]
    counts = [[int(j == (i if i < classes - lost else 0)) for j in range(classes)] for i in range(classes)]
    samples = sampled([(5, 1, 1)] * classes, names)
    return tune_metrics(models={"after": confused(counts, names)}, samples=samples)


def test_of_many_classes_the_worst_are_shown_and_more_where_one_is_lost() -> None:
    for classes, rows in ((10, 10), (11, 5)):
        text = shown(classes_table(many(classes, lost=0)))
        assert text.count("class ") - 1 == rows + text.count("by class ")
        assert ("and 6 others" in text) == (classes == 11)
    text = shown(classes_table(many(101, lost=12)))
    assert text.count("never found") == 10
    assert "and 91 others" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_names_of_classes_neither_escape_nor_colour() -> None:
    names = ("\x1b[31mred\x07", "[bold]x", "a\nb")
    metrics = tune_metrics(models={"after": confused([[0, 2, 0], [0, 2, 0], [0, 0, 2]], names)},
                           samples=sampled([(2, 2, 2)] * 3, names))  # fmt: skip
    text = shown(classes_table(metrics))
    assert "\x1b" not in text
    for name in (r"\x1b[31mred\x07", "[bold]x", r"a\nb"):
        assert name in text


def test_every_stage_shows_its_models_and_its_few_classes() -> None:
    assert len(stage_tables(many(3, lost=0))) == 2
    # The terminal stays calm, sentences with very long names included.
    for classes, lost in ((10, 0), (11, 0), (101, 12)):
        metrics = many(classes, lost)
        after = metrics.models["after"]
        models = {"baseline": after, "conventional": after, "after": after}
        parts = [*stage_tables(replace(metrics, models=models)), *class_lines(metrics)]
        assert sum(len(shown(part).splitlines()) for part in parts) <= 29


def test_tables_by_balanced_accuracy() -> None:
    rows = [depth(0, 18, "head", 0.7, val_balanced_accuracy=0.5)]
    lines = [line.split() for line in shown(layerwise_table(rows, 0, "balanced_accuracy")).splitlines()]
    assert lines[0][:2] == ["first", "trainable"]
    assert "balanced" in lines[0]
    assert "50.0" in lines[-1]
    point = replace(front_point(7, 0.812, params=1, flops=2), value=0.4)
    text = shown(front_table([point], 7, "balanced_accuracy"))
    assert "balanced acc." in text
    assert "40.0 %" in text
