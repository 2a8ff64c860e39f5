"""What the tables say, read back from what the terminal shows."""

import io
from typing import Any

from rich.console import Console, RenderableType

from tascnet.report import front_table, insight_lines, layerwise_table, models_table, widths_table

MODELS = {
    "conventional": {"test_accuracy": 0.80, "params": 2_000_000, "flops": 100_000_000, "latency_ms": 10.0,
                     "latency_ms_batch": 100.0, "size_bytes": 8_000_000, "batch": 16, "val_accuracy": 0.9},
    "pruned": {"test_accuracy": 0.79, "params": 1_000_000, "flops": 60_000_000, "latency_ms": 8.0,
               "latency_ms_batch": 55.0, "size_bytes": None, "batch": 16, "val_accuracy": 0.91},
}  # fmt: skip


def shown(table: RenderableType, width: int = 80) -> str:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue()


def test_values_with_their_changes_below() -> None:
    lines = [line.split("  ") for line in shown(models_table(MODELS)).splitlines()]
    cells = [[part.strip() for part in line if part.strip()] for line in lines]
    assert cells[-3] == ["conventional", "90.0 %", "80.0 %", "2.00 M", "100 M", "8.0 MB", "10.0 ms", "100 ms"]
    assert cells[-2] == ["pruned", "91.0 %", "79.0 %", "1.00 M", "60.0 M", "–", "8.00 ms", "55.0 ms"]
    assert cells[-1] == ["+1.0 pp", "−1.0 pp", "−50 %", "−40 %", "−20 %", "−45 %"]


def test_fits_eighty_columns_unabridged() -> None:
    text = shown(models_table(dict(MODELS, baseline=MODELS["conventional"], tuned=MODELS["pruned"])))
    assert "…" not in text
    assert "batch 16" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_column_that_no_model_has_is_left_out() -> None:
    text = shown(models_table({"a": {"params": 3}, "b": {"params": 4, "flops": None}}))
    assert "params" in text
    assert "FLOPs" not in text
    assert "+33 %" in text


def test_no_model_at_all() -> None:
    assert "model" in shown(models_table({}))


def test_names_are_no_markup() -> None:
    assert "[red]" in shown(models_table({"[red]": {"params": 3}}))
    assert "[red]" in shown(widths_table({"[red]": 3}, {"[red]": 2}))


def test_widths_that_changed_and_a_count_of_the_others() -> None:
    text = shown(widths_table({"a": 64, "b": 32, "gone": 8}, {"a": 48, "b": 32, "new": 5}))
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "64", "48", "−25", "%"] in rows
    assert ["gone", "8", "–", "–"] in rows
    assert ["new", "–", "5", "–"] in rows
    assert not any(row[:1] == ["b"] for row in rows)
    assert "1 layer as before" in text


def test_the_front_with_the_way_to_fine_tune() -> None:
    rows = [{"trial": 7, "val_accuracy": 0.812, "params": 1_500_000, "flops": 78_000_000}]
    lines = [line.split() for line in shown(front_table(rows, chosen=7)).splitlines()]
    assert lines[-1] == ["7", "81.2", "%", "1.50", "M", "78.0", "M", "stage=tune", "tune.pick=7"]


def test_depths_by_first_trained_block() -> None:
    rows = [
        {"trial": 0, "block": 18, "name": "[head]", "trainable_params": 130_000, "val_accuracy": 0.7,
         "seconds": 12.34},
        {"trial": 1, "block": 17, "name": "conv2", "trainable_params": 2_000_000, "val_accuracy": None,
         "seconds": 65.0},
    ]  # fmt: skip
    lines = [line.split() for line in shown(layerwise_table(rows, chosen=0)).splitlines()]
    assert lines[-2] == ["18", "[head]", "130", "k", "70.0", "%", "12.3", "s"]
    assert lines[-1] == ["17", "conv2", "2.00", "M", "–", "1", "min", "05", "s"]


INSIGHT: dict[str, Any] = {
    "target": "val_accuracy",
    "sentence": "It explains half.",
    "learnt": True,
    "rmse": 0.0125,
    "deviation": 0.025,
    "r2": 0.75,
    "rank_correlation": 0.8,
    "refitted_r2": 0.5,
    "refitted_rank_correlation": 0.61,
    "importance": [
        {"choice": "a.width", "rise": 0.011, "lengthscale": 0.3},
        {"choice": "head.dropout", "rise": 0.00001, "lengthscale": 2.0},
        {"choice": "a.kernel", "rise": -0.001, "lengthscale": 2.0},
    ],
}


def test_what_the_search_learnt_in_sentences() -> None:
    assert insight_lines(INSIGHT) == [
        "It explains half.",
        "leave-one-out error (RMSE): 1.25 pp; deviation of the values: 2.50 pp; R², leave-one-out: 0.75; "
        "R², refitted: 0.50; rank correlation, refitted: 0.61.",
        "Rise of the leave-one-out error without a choice: a.width +1.10 pp.",
    ]


def test_choices_are_not_named_where_nothing_was_learnt() -> None:
    nothing = INSIGHT | {"learnt": False, "target": "val_loss", "refitted_rank_correlation": None}
    assert insight_lines(nothing)[1:] == [
        "leave-one-out error (RMSE): 0.013; deviation of the values: 0.025; R², leave-one-out: 0.75; "
        "R², refitted: 0.50; rank correlation, refitted: –."
    ]
    (line,) = insight_lines(None)
    assert line.startswith("Too few")
