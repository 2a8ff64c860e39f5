"""Which file to deploy: by time, and by the accuracy that is known of it."""

from dataclasses import replace

import pytest

from tascnet.report import recommendation_lines
from tascnet.report.advice import best_form, faster, forms_of
from tascnet.run.records import ExportedFile, ExportMetrics, ModelMetrics, RuntimeLatency
from tests.report.records import MACHINE, model, timed


def in_runtimes(int8: tuple[float, float], threads: int = 2) -> tuple[RuntimeLatency, ...]:
    """8 and 40 ms in eager PyTorch, 4 and 20 in ONNX Runtime, and these in its int8."""
    return (
        timed("eager", 8.0, 40.0, threads=threads),
        timed("onnxruntime", 4.0, 20.0, threads=threads),
        timed("onnxruntime_int8", *int8, threads=threads),
    )


def pruned(*int8: float) -> ModelMetrics:
    """A network that takes so long in int8 for one sample and for 16."""
    return model(latencies=in_runtimes((int8[0], int8[1])))


def file(format: str, val_accuracy: float | None, float_val_accuracy: float | None = 0.8) -> ExportedFile:
    """An exported file; its balanced accuracy is 0.3 below, that of the network 0.2."""
    return ExportedFile(
        format=format,
        path={"onnx": "model.onnx", "onnx_int8": "model_int8.onnx"}[format],
        size_bytes=1,
        preprocess="inside",
        samples=10,
        equal_classes=1.0,
        largest_difference=None,
        val_accuracy=val_accuracy,
        val_balanced_accuracy=None if val_accuracy is None else val_accuracy - 0.3,
        float_val_accuracy=float_val_accuracy,
        float_val_balanced_accuracy=0.6,
    )


def exported(int8: float | None = 0.795) -> ExportMetrics:
    """An export of a float file and, where its validation accuracy is given, an int8 one."""
    files = (file("onnx", 0.8), *([] if int8 is None else [file("onnx_int8", int8)]))
    return ExportMetrics(weights_digest="w", files=files, machine=MACHINE, seconds=1.0, versions={})


def test_each_batch_has_its_file() -> None:
    assert recommendation_lines(pruned(2.5, 25.0), exported()) == [
        "Deploy `model_int8.onnx` in ONNX Runtime int8 for one sample: 2.50 ms (3.2 times faster than eager "
        "PyTorch).",
        "Deploy `model.onnx` in ONNX Runtime for batches of 16: 20.0 ms (2.0 times faster than eager "
        "PyTorch).",
        "In int8 the validation accuracy is 79.5 % (float: 80.0 %). It saves no time for batches of 16: "
        "float, which keeps the network's outputs, is better there.",
    ]


def test_one_file_for_both_is_said_once() -> None:
    first, second = recommendation_lines(pruned(2.0, 10.0), exported(), int8=model(test_accuracy=0.74))
    assert first == (
        "Deploy `model_int8.onnx` in ONNX Runtime int8: 2.00 ms (4.0 times faster than eager PyTorch) for "
        "one sample and 10.0 ms (4.0 times faster than eager PyTorch) for batches of 16."
    )
    assert second == (
        "In int8 the validation accuracy is 79.5 % (float: 80.0 %), the test accuracy 74.0 % (float: 75.0 %)."
    )


def test_int8_is_not_recommended_for_a_few_per_cent() -> None:
    # 3.8 of 4 ms are 5 % less, 10 of 20 a half.
    single, batched, why = recommendation_lines(pruned(3.8, 10.0), exported())
    assert single.startswith("Deploy `model.onnx`")
    assert batched.startswith("Deploy `model_int8.onnx`")
    assert "It saves only 5.0 % of the time for one sample: float" in why


def test_int8_that_loses_more_than_a_point_is_not_recommended() -> None:
    first, why = recommendation_lines(pruned(2.0, 10.0), exported(0.785))
    assert first.startswith("Deploy `model.onnx` in ONNX Runtime: 4.00 ms")
    assert why == (
        "In int8 the validation accuracy is 78.5 % (float: 80.0 %). int8 is not recommended: it loses more "
        "than a point on the validation samples."
    )
    # A point to the last bit, and the other metric: 0.49 of 0.6.
    assert recommendation_lines(pruned(2.0, 10.0), exported(0.79))[0].startswith("Deploy `model_int8.onnx`")
    by_recall = recommendation_lines(pruned(2.0, 10.0), exported(0.79), "balanced_accuracy")
    assert by_recall[0].startswith("Deploy `model.onnx`")
    assert "the validation balanced accuracy is 49.0 % (float: 60.0 %)" in by_recall[1]


def test_layers_in_float_are_said_where_they_were_not_timed() -> None:
    mixed = replace(exported(), files=(replace(file("onnx_int8", 0.795), float_layers=("stem", "head")),))
    words = "Its time is that of a network wholly in int8; 2 layers of the file stayed in float."
    assert words in recommendation_lines(pruned(2.0, 10.0), mixed)[-1]
    assert words not in recommendation_lines(pruned(2.0, 10.0), exported())[-1]
    assert words not in recommendation_lines(pruned(2.0, 10.0), mixed, int8=model())[-1]


def test_int8_without_a_file_or_an_accuracy_is_not_recommended() -> None:
    # It was refused, or not asked for, or there is no export at all.
    for export, first in ((exported(None), "Deploy `model.onnx` in"), (None, "Export `onnx` in")):
        line, why = recommendation_lines(pruned(2.0, 10.0), export)
        assert line.startswith(first)
        assert why == "int8 is not recommended: there is no int8 file whose accuracy is known."
    unjudged = replace(exported(), files=(file("onnx", None), file("onnx_int8", None)))
    assert [form.runtime for form in forms_of(pruned(2.0, 10.0), unjudged, "accuracy")] == ["onnxruntime"]


def test_a_runtime_without_a_file_is_no_choice_after_an_export() -> None:
    latencies = (*in_runtimes((5.0, 50.0)), timed("openvino", 1.0, 5.0))
    both = model(latencies=latencies)
    assert [form.runtime for form in forms_of(both, exported(None), "accuracy")] == ["onnxruntime"]
    assert best_form(forms_of(both, None, "accuracy")).runtime == "openvino"


def test_each_number_of_threads_has_its_best_file() -> None:
    latencies = in_runtimes((2.0, 30.0)) + in_runtimes((5.0, 50.0), threads=1)
    single, batched, one, _ = recommendation_lines(model(latencies=latencies), exported())
    assert single.startswith("With 2 threads: Deploy `model_int8.onnx` in ONNX Runtime int8 for one sample")
    assert batched.startswith("With 2 threads: Deploy `model.onnx` in ONNX Runtime for batches of 16")
    assert one.startswith("With 1 thread: Deploy `model.onnx` in ONNX Runtime: 4.00 ms")


def test_nothing_is_recommended_where_no_exported_form_was_timed() -> None:
    assert recommendation_lines(model()) == []
    in_torch = (timed(), timed("compile", 1.0, 2.0))
    assert recommendation_lines(model(latencies=in_torch)) == []


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (4.14, "4.1 times faster than that"),
        (1.06, "1.1 times faster than that"),
        (1.02, "as fast as that"),
        (0.97, "as fast as that"),
        (0.5, "2.0 times slower than that"),
    ],
)
def test_times_in_words(ratio: float, words: str) -> None:
    assert faster(ratio, "that") == words
    assert faster(ratio) == words.removesuffix(" that").removesuffix(" than").removesuffix(" as")
