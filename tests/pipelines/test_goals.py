"""The goals, spaces and algorithms of stage tune, each in a tiny search on the digits."""

from pathlib import Path
from typing import Any

import pytest

import tascnet
from tascnet.models.archive import load
from tascnet.run.files import read_json, read_jsonl
from tests.pipelines.commands import TINY, command, metrics


@pytest.fixture
def search(tmp_path, cache):
    """Runs stage tune with options of one's own; gives the stage's folder."""

    def run(*options: str, name: str = "run") -> Path:
        where = (f"outputs={tmp_path}", f"cache_dir={cache}", f"name={name}")
        assert command("stage=tune", *TINY, *where, *options) == 0
        pick = [option.partition("=")[2] for option in options if option.startswith("tune.pick=")]
        return tmp_path / "digits" / "digits_cnn" / f"{name}-seed0" / "-pick".join(["tune", *pick])

    return run


def trials(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / "trials.jsonl")


def original_flops(folder: Path) -> int:
    return int(read_json(folder / "metrics.json")["models"]["baseline"]["flops"])


@pytest.mark.parametrize(("bound", "cost"), [("max_flops", "flops"), ("max_params", "params")])
def test_no_trial_exceeds_the_bound(search, bound, cost):
    folder = search("tune.objective=constrained", f"tune.{bound}=0.7", "tune.max_trials=6")
    found = read_json(folder / "metrics.json")
    limit = found["bounds"][cost]
    assert limit == int(0.7 * found["models"]["baseline"][cost])
    assert len(trials(folder)) >= 4
    assert all(trial[cost] <= limit for trial in trials(folder))
    assert found["models"]["after"][cost] <= limit
    # Without the bound the first trial is the pre-trained network itself.
    free = search(name="free")
    assert trials(free)[0][cost] > limit


def test_a_bound_that_nothing_keeps_is_refused(search, tmp_path, cache, capsys):
    where = (f"outputs={tmp_path}", f"cache_dir={cache}")
    code = command("stage=tune", *TINY, *where, "tune.objective=constrained", "tune.max_params=0.001")
    assert code == 2
    assert "params" in capsys.readouterr().err


def test_a_network_above_the_latency_bound_is_not_trained(search, monkeypatch):
    """Latency stands in for params here: 10 ms for the original, and in proportion."""

    def in_proportion(search, network):
        return (
            10.0
            * sum(p.numel() for p in network.parameters())
            / sum(p.numel() for p in search.chain.parameters())
        )

    monkeypatch.setattr("tascnet_pipelines.tuning.space._original_latency", lambda *_: 10.0)
    monkeypatch.setattr("tascnet_pipelines.tuning.trials.measured_latency", in_proportion)
    folder = search("tune.objective=constrained", "tune.max_latency=0.8", "tune.max_trials=8")
    found = read_json(folder / "metrics.json")
    assert found["bounds"]["latency_ms"] == 8.0
    assert {trial["status"] for trial in trials(folder)} == {"ok", "infeasible"}
    for trial in trials(folder):
        assert (trial["latency_ms"] > 8.0) is (trial["status"] == "infeasible")
        assert (trial["value"] is None) is (trial["status"] == "infeasible")
    assert found["models"]["after"]["params"] <= 0.8 * found["models"]["baseline"]["params"]


def test_a_search_goes_on_until_a_network_is_fast_enough(search, monkeypatch):
    latencies = iter([1e9] * 6 + [1e-9] * 2)
    monkeypatch.setattr("tascnet_pipelines.tuning.trials.measured_latency", lambda *_: next(latencies))
    options = ("tune.objective=constrained", "tune.max_latency=0.5", "tune.initial_trials=6")
    folder = search(*options, "tune.max_trials=8", "tune.trials_per_depth=8")
    assert [trial["status"] for trial in trials(folder)] == ["infeasible"] * 6 + ["ok"] * 2


def test_a_latency_that_no_network_keeps_is_told(tmp_path, cache, capsys, monkeypatch):
    monkeypatch.setattr("tascnet_pipelines.tuning.trials.measured_latency", lambda *_: 12.5)
    where = (f"outputs={tmp_path}", f"cache_dir={cache}")
    options = ("tune.objective=constrained", "tune.max_latency=0.5", "tune.max_trials=2")
    assert command("stage=tune", *TINY, *where, *options) == 2
    assert "none of 2 networks keeps the latency bound" in capsys.readouterr().err


def test_a_deeper_space_does_not_train_the_same_winner_again(search, monkeypatch):
    """The trials' values are such that the first one, the smallest of equals or not, stays the winner."""
    options = ("tune.max_units=1", "tune.max_trials=2", "tune.tolerance=0.0")
    folder = search(*options, name="run")
    state = {path.name for path in (folder / "state").iterdir()}
    winner = read_json(folder / "metrics.json")["winner"]
    best = max(trial["value"] for trial in trials(folder))
    again = search("tune.max_units=2", "tune.max_trials=3", "tune.tolerance=0.0", name="run")
    found = read_json(again / "metrics.json")
    if found["winner"] == winner:
        assert {path.name for path in (again / "state").iterdir()} == state
    else:
        assert max(trial["value"] for trial in trials(again)) > best


def test_a_front_is_reported_and_a_point_of_it_fine_tuned_beside_the_winner(search, cache, capsys):
    options = ("tune.objective=pareto", "tune.max_trials=6")
    folder = search(*options)
    found = metrics(folder)
    front = found["front"]
    rows = [trial for trial in trials(folder) if trial["status"] == "ok"]
    for point in front:
        better = [r for r in rows if r["value"] > point["value"] and r["flops"] <= point["flops"]]
        cheaper = [r for r in rows if r["value"] >= point["value"] and r["flops"] < point["flops"]]
        assert not better
        assert not cheaper
    other = next(row["trial"] for row in rows if row["trial"] != found["winner"])
    picked = search(*options, f"tune.pick={other}")
    assert picked.name == f"tune-pick{other}"
    chosen = metrics(picked)
    assert chosen["winner"] == other
    assert chosen["best_config"] == rows[[row["trial"] for row in rows].index(other)]["config"]
    assert chosen["models"]["after"]["flops"] == next(r["flops"] for r in rows if r["trial"] == other)
    assert metrics(folder) == found
    where = (f"outputs={folder.parents[3]}", f"cache_dir={cache}", "name=run")
    assert command("stage=tune", *TINY, *where, *options, "tune.pick=0", "tune.max_trials=9") == 2
    assert "run the same command without tune.pick first" in capsys.readouterr().err
    assert tascnet.load(picked / "model").training is False


def test_picking_needs_a_finished_search_and_one_of_its_trials(search, tmp_path, cache, capsys):
    options = ("stage=tune", *TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run")
    assert command(*options, "tune.pick=1") == 2
    assert "run the same command without tune.pick first" in capsys.readouterr().err
    search()
    assert command(*options, "tune.pick=99") == 2
    assert "choose one of 0, 1, 2, 3" in capsys.readouterr().err


def test_the_lowest_loss_is_another_goal(search):
    folder = search("tune.objective=loss")
    for trial in trials(folder):
        assert trial["value"] == pytest.approx(-trial["val_loss"])


def test_layerwise_freezing_goes_through_the_depths(search):
    folder = search("tune.freeze=layerwise", "tune.max_trials=null", "tune.freeze_every=2")
    found = read_json(folder / "metrics.json")
    # The head alone, every second of the five convolutions from the output, and all of them.
    assert [row["first_trained"] for row in found["layerwise"]] == [0, 2, 4, 5]
    neutral = {key: value for key, value in found["neutral_config"].items() if key != "first_trained"}
    for trial in trials(folder):
        assert {k: v for k, v in trial["config"].items() if k != "first_trained"} == neutral
    best = max(found["layerwise"], key=lambda row: row["val_accuracy"])
    assert found["winner"] == best["trial"]
    assert "accuracy against depth" in (folder / "report.html").read_text().lower()


def test_the_pretrained_classification_layer_stays_in_a_grown_head(search, cache):
    folder = search("tune.head=grow", "tune.grow_norms=[l2]", "tune.hidden_layers=[0]", "tune.max_trials=2")
    after = load(folder / "model")
    names = [name for name, _ in after.named_children()]
    assert names[-1] == "classifier"
    # The source task has five classes, the old layer that many outputs.
    kept = [block for block in after if getattr(block, "out_features", None) == 5]
    assert len(kept) == 2
    assert all(trial["config"]["head.grown"] == 1 for trial in trials(folder))


def test_whether_the_head_is_grown_can_be_searched(search):
    folder = search(
        "tune.head=search", "tune.algorithm=random", "tune.max_trials=8", "tune.trials_per_depth=8"
    )
    assert {trial["config"]["head.grown"] for trial in trials(folder)} == {0, 1}
    # A grown head is fine-tuned from its trial: the conventional network has none.
    has_grown = read_json(folder / "metrics.json")["best_config"]["head.grown"]
    origin = read_json(folder / "metrics.json")["finetuned_from"]
    assert (origin == "conventional") is not bool(has_grown)


@pytest.mark.parametrize("skip", ["keep", "drop"])
def test_autotune_searches_new_layers(search, skip):
    folder = search(
        "tune=autotune",
        f"tune.skip={skip}",
        "tune.neurons=[16,32]",
        "tune.filters=[16,32]",
        "tune.max_trials=4",
        "trainer.trial.epochs=2",
        "trainer.head.epochs=2",
    )
    rows = trials(folder)
    assert [row["depth"] for row in rows] == [0, 0, 1, 1]
    assert all(row["config"]["first_trained"] == row["depth"] for row in rows)
    assert all(row["status"] == "ok" for row in rows), [row["reason"] for row in rows]
    assert all(row["value"] == pytest.approx(-row["val_loss"]) for row in rows)


def test_the_algorithms_differ_from_the_first_learnt_trial_on(search):
    proposed = {}
    for algorithm in ("bo", "random", "sobol"):
        rows = trials(search(f"tune.algorithm={algorithm}", name=algorithm))
        proposed[algorithm] = [tuple(row["config"].values()) for row in rows]
    assert proposed["bo"] != proposed["sobol"] != proposed["random"] != proposed["bo"]


def test_slim_proposals_change_the_search_on_their_turns(search):
    """Trial 3 is the first of its turn that the surrogate proposes; every trial before is the same."""
    usual = [trial["config"] for trial in trials(search("tune.slim_every=0"))]
    slim = [trial["config"] for trial in trials(search("tune.slim_every=2", name="slim"))]
    assert slim[:3] == usual[:3]
    assert slim[3] != usual[3]


def test_a_hopeless_trial_is_stopped_early(search):
    options = (
        "tune.max_trials=8",
        "tune.trials_per_depth=8",
        "tune.initial_trials=8",
        "trainer.trial.epochs=6",
    )
    stopping = ("tune.early_stop=median", "tune.stop_epoch=1", "tune.stop_trials=2")
    rows = trials(search(*options, *stopping))
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert stopped
    for row in stopped:
        assert row["epochs"] == len(row["curve"]) < 6
        assert row["value"] == max(row["curve"])
    whole = trials(search(*options, name="whole"))
    assert {row["status"] for row in whole} == {"ok"}
    assert sum(row["epochs"] for row in rows) < sum(row["epochs"] for row in whole)


def test_the_trials_tell_what_the_surrogate_learnt(search):
    folder = search("tune.max_trials=8", "tune.trials_per_depth=8")
    learnt = read_json(folder / "metrics.json")["surrogate"]
    assert [row["trial"] for row in learnt["predictions"]] == list(range(8))
    observed = {row["trial"]: row["val_accuracy"] for row in trials(folder)}
    assert {row["trial"]: row["observed"] for row in learnt["predictions"]} == observed
    assert learnt["sentence"] in (folder / "report.html").read_text()
