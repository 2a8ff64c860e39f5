from dataclasses import replace

import pytest

from benchmarks import peers, search_quality
from benchmarks.peers import is_installed
from benchmarks.search_quality import METHODS, NEEDS, search, summarise
from tascnet.run.files import read_jsonl
from tests.benchmarks.tables import tiny_table
from tests.reading import read_json

OURS = [name for name in METHODS if name not in NEEDS]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    table = tiny_table()
    monkeypatch.setattr(search_quality, "_table", lambda name: table)
    return table


def key(method, trials=8, seed=0):
    return {"table": "tiny", "method": method, "seed": seed, "trials": trials}


@pytest.mark.parametrize("method", METHODS)
def test_every_search_gives_a_configuration_of_the_table_for_each_trial(method, tiny):
    if not is_installed(NEEDS.get(method, "torch")):
        pytest.skip(f"{NEEDS[method]} is not installed")
    row = search(key(method, trials=12))
    known = {entry.val_accuracy for entry in tiny.entries.values()}
    assert len(row["accuracies"]) == 12
    assert set(row["accuracies"]) - {None} <= known
    assert row["best"] == max(known)
    assert row["repeats"] == 0 or method in NEEDS
    again = search(key(method, trials=12))
    assert again["accuracies"] == row["accuracies"]


def test_our_search_finds_the_best_of_a_simple_table(tiny):
    row = search(key("ours", trials=20))
    # Of 129 networks 3 widths x 2 activations x 1 are best: random search misses them all in every third run.
    assert max(row["accuracies"]) == tiny.best


def test_depth_grows_evenly(tiny, monkeypatch):
    depths = []
    lookup = type(tiny).__getitem__
    monkeypatch.setattr(
        type(tiny), "__getitem__", lambda self, c: depths.append(c["first_trained"]) or lookup(self, c)
    )
    search(key("ours_growing", trials=8))
    assert max(depths[:4]) == 1
    assert len(depths) == 8


def test_all_networks_are_equally_likely_in_the_uniform_design(tiny):
    design = METHODS["uniform"](tiny, 0, 129, None)
    assert {tiny.space.key(design.ask()) for _ in range(129)} == set(tiny.entries)


def test_the_summary_by_hand():
    rows = [
        {
            **key("a", trials=7, seed=seed),
            "accuracies": accuracies,
            "spent": [1, 2, 3, 4, 5, 6, 7],
            "best": 0.9,
            "repeats": repeats,
            "seconds": 1.0,
        }
        for seed, accuracies, repeats in [
            (0, [0.5, 0.8, 0.6, 0.7, 0.5, 0.89, 0.1], 0),
            (1, [0.5, 0.6, 0.6, 0.7, 0.5, 0.6, 0.9], 3),
        ]
    ]
    (entry,) = summarise(rows)
    # Best seen after 5: 0.8 and 0.7; after 7: 0.89 and 0.9.
    assert entry["regret"] == pytest.approx({"5": 0.15, "7": 0.005})
    # Of two values a, b the standard error of the mean is |a - b| / 2.
    assert entry["error"] == pytest.approx({"5": 0.05, "7": 0.005})
    assert (entry["repeats"], entry["seeds"]) == (1.5, 2)


def test_with_epochs_a_stopped_trial_costs_its_own(tiny):
    budget = {"trials": 8, "epochs": True}
    whole, promoted = (search(key("ours") | budget | {"method": name}) for name in ("ours", "ours_promoted"))
    assert whole["spent"] == list(range(1, 9))
    # All curves gain 0.15 after their third epoch, so half of a training is enough to stop a trial.
    steps = [b - a for a, b in zip([0.0, *promoted["spent"]], promoted["spent"], strict=False)]
    for accuracy, spent in zip(promoted["accuracies"], steps, strict=True):
        assert spent == pytest.approx(0.5 if accuracy is None else 1)
    assert None in promoted["accuracies"]
    assert 8 <= promoted["spent"][-1] < 9
    assert len(promoted["accuracies"]) > 8


def test_tables_without_curves_have_no_epochs(bench, monkeypatch, tiny, capsys):
    bare = {name: replace(entry, curve=()) for name, entry in tiny.entries.items()}
    monkeypatch.setattr(search_quality, "_table", lambda name: replace(tiny, entries=bare))
    assert bench("search_quality", "--tables", "tiny", "--methods", "ours", "--epochs") == 2
    assert "the table tiny has no curves" in capsys.readouterr().err


def test_the_comparison_writes_its_rows_and_resumes(bench, shown, tmp_path, monkeypatch):
    options = ["--seeds", 2, "--trials", 6, "--tables", "tiny", "--methods", "ours", "random"]
    assert bench("search_quality", *options) == 0
    folder = tmp_path / "search_quality"
    metrics = read_json(folder / "metrics.json")
    assert len(metrics["rows"]) == 4 == len(read_jsonl(folder / "rows.jsonl"))
    assert [entry["method"] for entry in metrics["summary"]] == ["ours", "random"]
    assert {"machine", "versions"} <= metrics.keys()
    assert metrics["command"].startswith("python -m benchmarks search_quality --seeds 2")
    assert "ours" in shown.export_text()
    monkeypatch.setattr(search_quality, "search", lambda key: pytest.fail("a row was computed again"))
    assert bench("search_quality", *options) == 0
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def test_what_is_not_installed_is_left_out_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(peers, "is_installed", lambda package: package != "optuna")
    assert peers.installed(["ours", "optuna_tpe", "ax", "optuna_gp"], NEEDS) == ["ours", "ax"]
    assert "optuna_tpe, optuna_gp" in caplog.text


def test_an_unknown_search_is_refused(bench, capsys):
    assert bench("search_quality", "--methods", "ours", "best") == 2
    assert "there is no search 'best'" in capsys.readouterr().err
