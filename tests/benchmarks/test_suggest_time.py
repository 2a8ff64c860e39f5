import math

import pytest

from benchmarks import suggest_time
from benchmarks.peers import AxSearch, is_installed
from benchmarks.suggest_time import SIZES, added_memory, made_space, made_trials, suggest, summarise
from tascnet.run.files import read_jsonl
from tests.reading import read_json


@pytest.mark.parametrize("size", SIZES)
def test_a_made_space_has_twelve_choices_five_categories_and_that_many_configurations(size):
    space = made_space(size)
    assert len(space.choices) == 12
    assert sum(choice.kind == "categorical" for choice in space.choices) == 5
    assert size <= space.count(0) == math.prod(len(choice.values) for choice in space.choices) < 3 * size


def test_trials_differ_by_seed_alone():
    space = made_space(suggest_time.TINY)
    one, again, other = made_trials(space, 0), made_trials(space, 0), made_trials(space, 1)
    assert one == again != other
    assert len({space.key(trial.config) for trial in one}) == suggest_time.OBSERVED == len(one)
    assert all(0.5 < trial.value < 1.1 for trial in one)


def test_a_suggestion_of_ours_is_timed(monkeypatch):
    monkeypatch.setattr(suggest_time, "OBSERVED", 6)
    assert suggest({"method": "ours", "size": suggest_time.TINY, "seed": 0})["seconds"] > 0


@pytest.mark.skipif(not is_installed("ax"), reason="ax is not installed")
def test_ax_learns_from_attached_trials_before_it_suggests():
    space = made_space(suggest_time.TINY)
    search = AxSearch(space, seed=0, is_initialised=True)
    for trial in made_trials(space, 0):
        search.attach(trial.config, trial.value)
    assert space.key(search.ask())
    # Not its quasi-random start: what is timed is Bayesian optimisation.
    assert search._client.summarize()["generation_node"].iloc[-1] == "MBM"


def test_memory_is_that_of_a_process_of_its_own():
    row = added_memory({"memory_of": 10**12})
    assert row["configurations"] >= 10**12
    # One byte for each configuration would be 10^6 MiB.
    assert row["growth_mib"] is None or 0 <= row["growth_mib"] < 200


def test_the_summary_by_hand():
    rows = [{"method": "ours", "seconds": s} for s in (1.0, 3.0, 2.0)]
    rows += [{"method": "ax", "seconds": s} for s in (8.0, 4.0, 9.0)]
    ours, ax = summarise(rows)
    assert (ours["seconds"], ours["lowest"], ours["highest"], ours["share_of_ax"]) == (2.0, 1.0, 3.0, 0.25)
    assert (ax["repetitions"], ax["share_of_ax"]) == (3, 1.0)
    assert summarise(rows[:3])[0]["share_of_ax"] is None


def test_the_comparison_writes_its_rows_and_resumes(bench, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest_time, "suggest", lambda key: {"seconds": 1.0 + key["seed"]})
    grown = {"configurations": 10, "growth_mib": 2.0}
    monkeypatch.setattr(suggest_time, "added_memory", lambda key: grown)
    assert bench("suggest_time", "--seeds", 3, "--methods", "ours") == 0
    folder = tmp_path / "suggest_time"
    metrics = read_json(folder / "metrics.json")
    assert metrics["summary"][0]["seconds"] == 2.0
    assert [row["growth_mib"] for row in metrics["memory"]] == [2.0] * len(SIZES)
    assert len(read_jsonl(folder / "rows.jsonl")) == 3 + len(SIZES)
    monkeypatch.setattr(suggest_time, "suggest", lambda key: pytest.fail("a row was computed again"))
    assert bench("suggest_time", "--seeds", 3, "--methods", "ours") == 0
    assert "Memory" in shown.export_text()


def test_an_unknown_search_is_refused(bench, capsys):
    assert bench("suggest_time", "--methods", "best") == 2
    assert "there is no search 'best'" in capsys.readouterr().err
