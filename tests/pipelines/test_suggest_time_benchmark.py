import io
import math

import pytest
from rich.console import Console

from tascnet.errors import ConfigError
from tascnet.options import BenchmarkConfig, Config
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.benchmarks import suggest_time
from tascnet_pipelines.benchmarks.peers import is_installed
from tascnet_pipelines.benchmarks.suggest_time import SIZES, made_space, memory_growth, suggest, summarise


@pytest.mark.parametrize("size", SIZES)
def test_a_made_space_has_twelve_choices_five_categories_and_that_many_configurations(size):
    space = made_space(size)
    assert len(space.choices) == 12
    assert sum(choice.kind == "categorical" for choice in space.choices) == 5
    assert size <= space.count(0) == math.prod(len(choice.values) for choice in space.choices) < 3 * size


def test_a_suggestion_of_ours_is_timed(monkeypatch):
    monkeypatch.setattr(suggest_time, "OBSERVED", 6)
    assert suggest({"method": "ours", "size": SIZES[0], "seed": 0})["seconds"] > 0


@pytest.mark.skipif(not is_installed("ax"), reason="ax is not installed")
def test_ax_learns_from_attached_trials_before_it_suggests():
    from tascnet_pipelines.benchmarks.peers import AxSearch

    space = made_space(SIZES[0])
    search = AxSearch(space, seed=0, is_initialised=True)
    for number, config in enumerate(space.sample(suggest_time.OBSERVED, 0, 0)):
        search.attach(config, 0.01 * number)
    assert space.key(search.ask())
    # Not its quasi-random start: what is timed is Bayesian optimisation.
    assert search.generator() == "MBM"


def test_memory_is_that_of_a_process_of_its_own():
    row = memory_growth({"memory_of": 10**12})
    assert row["configurations"] >= 10**12
    # One byte for each configuration would be 10^6 MiB.
    assert 0 <= row["growth_mib"] < 200


def test_the_summary_by_hand():
    rows = [{"method": "ours", "seconds": s} for s in (1.0, 3.0, 2.0)]
    rows += [{"method": "ax", "seconds": s} for s in (8.0, 4.0, 9.0)]
    ours, ax = summarise(rows)
    assert (ours["seconds"], ours["lowest"], ours["highest"], ours["share_of_ax"]) == (2.0, 1.0, 3.0, 0.25)
    assert (ax["repetitions"], ax["share_of_ax"]) == (3, 1.0)
    assert summarise(rows[:3])[0]["share_of_ax"] is None


def test_the_comparison_writes_its_rows_and_goes_on(tmp_path, monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(suggest_time, "output", lambda: console)
    monkeypatch.setattr(suggest_time, "suggest", lambda key: {"seconds": 1.0 + key["seed"]})
    grown = {"configurations": 10, "growth_mib": 2.0}
    monkeypatch.setattr(suggest_time, "memory_growth", lambda key: grown)
    options = BenchmarkConfig(name="suggest_time", seeds=3, methods=["ours"])
    suggest_time.run(Config(outputs=str(tmp_path), benchmark=options))
    folder = tmp_path / "benchmark" / "suggest_time"
    metrics = read_json(folder / "metrics.json")
    assert metrics["summary"][0]["seconds"] == 2.0
    assert [row["growth_mib"] for row in metrics["memory"]] == [2.0] * len(SIZES)
    assert len(read_jsonl(folder / "rows.jsonl")) == 3 + len(SIZES)
    monkeypatch.setattr(suggest_time, "suggest", lambda key: pytest.fail("a row was computed again"))
    suggest_time.run(Config(outputs=str(tmp_path), benchmark=options))
    assert "Memory" in console.export_text()


def test_an_unknown_search_is_refused(tmp_path):
    options = BenchmarkConfig(name="suggest_time", methods=["best"])
    with pytest.raises(ConfigError, match="no search 'best'"):
        suggest_time.run(Config(outputs=str(tmp_path), benchmark=options))
