import io

import pytest
from rich.console import Console

from tascnet.options import BenchmarkConfig, Config
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.benchmarks import surrogate
from tascnet_pipelines.benchmarks.synthetic import KINDS, synthetic, synthetic_space


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_value_is_that_of_an_exhaustive_search(kind):
    space = synthetic_space(units=1)
    task = synthetic(kind, seed=3, space=space)
    values = [task.value(config) for config in space.frontier([], 1)]
    assert len(values) == space.count(1) == 12 + 12 * 32
    assert task.best() == pytest.approx(max(values), abs=1e-12)


def test_regret_falls_to_zero_when_everything_was_tried(monkeypatch):
    monkeypatch.setattr(surrogate, "synthetic", lambda kind, seed: quiet(kind, seed))
    row = surrogate.search("random", "smooth", 0, synthetic_space(units=1).count(1))
    assert row["regret"] == pytest.approx(0.0, abs=1e-12)
    assert row["mean_regret"] > 0


def quiet(kind, seed):
    task = synthetic(kind, seed, synthetic_space(units=1))
    object.__setattr__(task, "observe", lambda config, seed: task.value(config))
    return task


def test_the_comparison_writes_its_rows_and_goes_on(tmp_path, monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(surrogate, "output", lambda: console)
    config = Config(outputs=str(tmp_path), benchmark=BenchmarkConfig(seeds=1, trials=3))
    methods = {name: surrogate.METHODS[name] for name in ("random", "matern-onehot")}
    monkeypatch.setattr(surrogate, "METHODS", methods)
    surrogate.run(config)
    folder = tmp_path / "benchmark" / "surrogate"
    metrics = read_json(folder / "metrics.json")
    assert len(metrics["rows"]) == 2 * len(KINDS) == len(read_jsonl(folder / "rows.jsonl"))
    assert {row["method"] for row in metrics["summary"]} == {"random", "matern-onehot"}
    assert {"rows", "summary", "machine", "versions", "command"} <= metrics.keys()
    monkeypatch.setattr(surrogate, "search", lambda **key: pytest.fail("a row was computed again"))
    surrogate.run(config)
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]
    assert "matern-onehot" in console.export_text()


def test_the_summary_by_hand():
    shared = {"seed": 0, "trials": 3, "mean_regret": 0.1}
    rows = [
        {"method": "a", "kind": "smooth", "regret": 0.01, "seconds": 1.0, **shared},
        {"method": "a", "kind": "categories", "regret": 0.03, "seconds": 3.0, **shared},
    ]
    rows += [{**row, "method": "random", "regret": row["regret"] + 0.02} for row in rows]
    row, _ = surrogate.summarise(rows)
    # Mean 0.02, deviation sqrt(2 x 0.0001), error that over sqrt(2).
    assert row["regret"] == pytest.approx(0.02)
    assert row["error"] == pytest.approx(0.01)
    # Paired with random search on the same accuracies every difference is 0.02.
    assert row["gain"] == pytest.approx(0.02)
    assert row["gain_error"] == pytest.approx(0.0)
    assert row["by_kind"] == {"smooth": 0.01, "categories": 0.03}
    assert row["seconds"] == 2.0
