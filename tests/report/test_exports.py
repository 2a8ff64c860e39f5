"""The table of an export, as a terminal of 80 characters shows it."""

from io import StringIO

from rich.console import Console

from tascnet.report.exports import export_table
from tascnet.run.records import ExportedFile, ExportMetrics
from tests.report.records import MACHINE

FLOAT = ExportedFile(
    format="onnx",
    path="model.onnx",
    size_bytes=8_900_000,
    preprocess="inside",
    samples=50,
    equal_classes=1.0,
    largest_difference=0.000025,
    val_accuracy=0.9,
    val_balanced_accuracy=0.8,
    float_val_accuracy=0.9,
    float_val_balanced_accuracy=0.8,
)
INT8 = ExportedFile(
    format="onnx_int8",
    path="model_int8.onnx",
    size_bytes=2_500_000,
    preprocess="inside",
    samples=50,
    equal_classes=0.98,
    largest_difference=None,
    val_accuracy=0.88,
    val_balanced_accuracy=0.79,
    float_val_accuracy=0.9,
    float_val_balanced_accuracy=0.8,
    calibration="percentile 99.99",
    float_layers=("stem\n", "block1.conv", "block2.conv"),
)


def lines(metric: str) -> list[str]:
    metrics = ExportMetrics(
        weights_digest="w", files=(FLOAT, INT8), machine=MACHINE, seconds=1.0, versions={}
    )
    text = StringIO()
    Console(file=text, width=80, color_system=None).print(export_table(metrics, metric))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_each_file_has_its_figures_beside_the_networks_own() -> None:
    shown = lines("accuracy")
    assert "model.onnx 8.9 MB 90.0 % 90.0 % 100.00 % 2.5e-05" in shown
    assert any(line.startswith("model_int8.onnx 2.5 MB 88.0 % 90.0 % 98.00 % – percentile") for line in shown)
    assert r"stem\n" in " ".join(shown)
    assert "1 more" in " ".join(shown)


def test_the_accuracy_is_the_metric_of_the_run() -> None:
    assert any(line.startswith("model_int8.onnx 2.5 MB 79.0 % 80.0 %") for line in lines("balanced_accuracy"))
