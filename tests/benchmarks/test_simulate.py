import pytest

from benchmarks import simulate
from tascnet.run.files import read_jsonl
from tests.benchmarks.tables import tiny_table


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    table = tiny_table()
    monkeypatch.setattr(simulate, "load_table", lambda name: table)


def key(workers, failures=0.0, trials=12, seed=0):
    own = {"workers": workers, "failures": failures, "trials": trials, "seed": seed}
    return {**own, "table": "tiny", "seconds": 60.0}


def test_four_workers_end_sooner_and_are_never_more_than_four_times_as_fast():
    alone, four = simulate.simulated(key(1)), simulate.simulated(key(4))
    assert len(alone["times"]) == len(four["times"]) == 12
    assert alone["busy"] == pytest.approx(1.0, abs=0.02)
    assert 2 < alone["seconds_all"] / four["seconds_all"] < 6
    # The workers wait for the longest at the end.
    assert four["busy"] < alone["busy"]
    assert sorted(four["regret"], reverse=True) == four["regret"]


def test_trials_that_are_lost_three_times_are_not_among_the_results():
    row = simulate.simulated(key(4, failures=0.6, trials=24))
    assert row["lost"] > 0
    assert len(row["times"]) == 24 - row["lost"]


def test_the_benchmark_draws_and_prints(bench, tmp_path, shown):
    bench("simulate", "--workers", 1, 3, "--failures", 0, "--trials", 6, "--seeds", 2)
    assert len(read_jsonl(tmp_path / "simulate" / "rows.jsonl")) == 4
    assert "<svg" in (tmp_path / "simulate" / "simulate.svg").read_text()
    assert "times faster" in shown.export_text()
