"""What the tables say, read back from what the terminal shows."""

import io

import pytest
from rich.console import Console, RenderableType

from tascnet.report import front_table, layerwise_table, models_table, models_text, widths_table
from tests.report.records import depth, front_point, model, widths

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


def shown(table: RenderableType, width: int = 80) -> str:
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
