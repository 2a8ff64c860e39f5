import pytest

from benchmarks import results
from tascnet.run.files import read_jsonl
from tests.reading import read_json

SHORT = (
    *("dataset=digits", "dataset.train=16", "dataset.val=16", "device=cpu"),
    *("backbone=digits_cnn", "backbone.weights=random", "backbone.size=8", "backbone.resize=8"),
    *("trainer.head.epochs=1", "trainer.trial.epochs=1", "trainer.finetune.epochs=1"),
    *("tune.max_trials=1", "tune.exit=false", "prune.epochs=1", "prune.final_epochs=0"),
    *("prune.max_iterations=1", "measure.repeats=3", "measure.batch=2"),
)


def row(network, seed, test, params, latency=None):
    return {
        "network": network,
        "seed": seed,
        "val_accuracy": 0.9,
        "test_accuracy": test,
        "params": params,
        "flops": 2 * params,
        "latencies": {} if latency is None else {"onnxruntime 1": latency, "eager 1": 7.0},
        "seconds": None if network == "baseline" else 30.0 + seed,
    }


ROWS = [
    *(row("baseline", seed, 0.70, 100) for seed in (0, 1)),
    *(row("conventional", seed, test, 100, 3.0) for seed, test in enumerate((0.80, 0.84))),
    *(row("tuned", seed, test, 40, latency) for seed, test, latency in ((0, 0.81, 2.0), (1, 0.83, 1.5))),
]


def test_differences_are_paired_by_seed():
    baseline, usual, tuned = results.summarise(ROWS)
    assert (usual["points"], usual["points_error"], usual["speedup"]) == (0.0, 0.0, 1.0)
    # +0.01 and -0.01: a deviation of 0.01 * sqrt 2, and a standard error of 0.01.
    assert (tuned["points"], tuned["points_error"]) == pytest.approx((0.0, 0.01))
    assert tuned["params_ratio"] == tuned["flops_ratio"] == pytest.approx(0.4)
    # 3 / 2 and 3 / 1.5.
    assert (tuned["latency_ms"], tuned["speedup"]) == pytest.approx((1.75, 1.75))
    assert tuned["seconds"] == pytest.approx(30.5)
    assert baseline["points"] == pytest.approx(-0.12)
    assert not {"speedup", "latency_ms", "seconds"} & baseline.keys()


def test_the_order_of_the_rows_does_not_matter():
    expected = {entry["network"]: entry for entry in results.summarise(ROWS)}
    assert {entry["network"]: entry for entry in results.summarise(ROWS[::-1])} == {
        name: pytest.approx(entry) for name, entry in expected.items()
    }


def test_both_stages_run_and_their_rows_are_read_back(bench, cache, shown, tmp_path, monkeypatch):
    chosen = ("--targets", 0.9, "--seeds", 1, "caltech101_mobilenet_v2", *SHORT, f"cache_dir={cache}")
    assert bench("results", *chosen) == 0
    rows = read_jsonl(tmp_path / "results" / "rows.jsonl")
    assert [one["network"] for one in rows] == ["baseline", "conventional", "tuned", "pruned 0.9"]
    assert read_json(tmp_path / "results" / "metrics.json")["summary"] == results.summarise(rows)
    assert rows[3]["flops"] < rows[1]["flops"]
    (line,) = (
        line for line in shown.export_text().splitlines() if "conventional" in line and "100.0 %" in line
    )
    assert "+0.0" in line
    monkeypatch.setattr(results.Bench, "row", lambda *key: pytest.fail("a row was computed again"))
    assert bench("results", *chosen) == 0
