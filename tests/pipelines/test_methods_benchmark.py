import io
from dataclasses import replace

import pytest
from rich.console import Console

from tascnet.cli.compose import Tree
from tascnet.errors import ConfigError
from tascnet.run.files import append_jsonl, read_json, read_jsonl, write_json
from tascnet_pipelines.benchmarks import methods
from tests.pipelines.commands import TINY, contents

USUAL = {"baseline_seconds": 10.0, "finetune_seconds": 20.0, "epochs": 8}


def composed(*overrides):
    return Tree().compose(["stage=benchmark", "benchmark=methods", *map(str, overrides)])


def test_a_preset_holds_where_nothing_else_was_said():
    plain = Tree().compose([])
    preset = replace(
        plain,
        tune=replace(plain.tune, skip="drop", trials_per_depth=20),
        trainer=replace(plain.trainer, trial=replace(plain.trainer.trial, lr=0.5, epochs=50)),
    )
    own = composed("trainer.trial.epochs=3", "tune.trials_per_depth=2", "tune.filters=[32]")
    merged = methods.with_preset(own, plain, preset)
    assert (merged.tune.skip, merged.trainer.trial.lr) == ("drop", 0.5)
    assert (merged.trainer.trial.epochs, merged.tune.trials_per_depth) == (3, 2)
    assert merged.tune.filters == [32]
    assert merged.benchmark == own.benchmark
    # The config itself stays as it was.
    assert own.tune.skip == "keep"


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_gives_a_config_of_its_own(name):
    own = composed("trainer.finetune.epochs=3", "seed=4")
    config = methods.method_config(own, name, 12.5)
    assert (config.name, config.seed, config.tune.max_seconds) == (name, 4, 12.5)
    assert config.trainer.finetune.epochs == 3
    if name != "tascnet":
        assert replace(config.tune, max_seconds=None) != own.tune
    else:
        assert replace(config.tune, max_seconds=None) == own.tune


@pytest.mark.parametrize(("start", "fits"), [("auto", 7 / 3), ("best", 2), ("all", 1), ("prefix", 1)])
def test_a_search_gets_what_fine_tuning_leaves(start, fits, monkeypatch):
    taken = []
    monkeypatch.setattr(methods.tune, "run", lambda config: taken.append(config.tune.max_seconds))
    monkeypatch.setattr(methods, "_figures", lambda folder: {})
    monkeypatch.setattr(methods, "_share_features", lambda config: None)
    config = composed("benchmark.seconds=100", f"tune.finetune_from={start}")
    methods._row(config, "tascnet", USUAL)
    assert taken == [pytest.approx(100.0 - 10.0 - fits * 20.0)]


@pytest.mark.parametrize("seconds", [50, 5])
def test_too_few_seconds_are_refused(seconds):
    with pytest.raises(ConfigError, match=r"2\.3 fine-tunings take 47 seconds"):
        methods._row(composed(f"benchmark.seconds={seconds}"), "tascnet", USUAL)


def test_methods_without_a_teacher_leave_its_options_out():
    config = composed("tune.distill=0.5", "tune.finetune_from=conventional")
    own = {method: methods.method_config(config, method, 60.0).tune for method in methods.METHODS}
    assert (own["tascnet"].distill, own["tascnet"].finetune_from) == (0.5, "conventional")
    for method in ("autotune", "grow", "layerwise"):
        assert (own[method].distill, own[method].finetune_from) == (0.8, "auto")


@pytest.mark.parametrize(("origin", "seconds"), [("conventional", 1 + 2 + 4 + 8), ("best", 1 + 2 + 4)])
def test_the_conventional_network_counts_where_fine_tuning_begins_at_it(tmp_path, origin, seconds):
    steps = {"baseline": 2.0, "taught-abc": 4.0, "conventional-0": 8.0, "conventional-7": 16.0}
    for name, took in steps.items():
        (tmp_path / "state" / name).mkdir(parents=True)
        write_json(tmp_path / "state" / name / "record.json", {"seconds": took})
    append_jsonl(tmp_path / "trials.jsonl", {"seconds": 1.0})
    after = dict.fromkeys(methods.FIGURES, 0)
    metrics = {"models": {"after": after}, "finetuned_from": origin, "stopped": "", "best_config": {}}
    write_json(tmp_path / "metrics.json", metrics)
    assert methods._figures(tmp_path)["seconds"] == seconds


@pytest.mark.parametrize(("seconds", "epochs"), [(100, 36), (20, 8)])
def test_the_long_fine_tuning_fills_the_seconds(seconds, epochs, monkeypatch):
    asked = []
    monkeypatch.setattr(methods, "fine_tune_all", lambda config, count: asked.append(count))
    # 90 seconds at 2.5 an epoch are 36; never fewer epochs than the recipe's.
    methods._row(composed(f"benchmark.seconds={seconds}"), "conventional_long", USUAL)
    assert asked == [epochs]


def test_no_run_pays_for_the_features_that_all_share(tmp_path):
    options = [*TINY, "tune.max_trials=3", "tune.algorithm=random", f"outputs={tmp_path}"]
    config = composed(*options, f"cache_dir={tmp_path}")
    methods._share_features(config)
    shared = contents(tmp_path / "features")
    methods.tune.run(config)
    assert shared
    assert contents(tmp_path / "features") == shared


def row(method, seed, test, params):
    return {
        "method": method,
        "seed": seed,
        "val_accuracy": 0.5,
        "test_accuracy": test,
        "params": params,
        "flops": 10,
        "seconds": 3.0,
    }


def test_the_summary_by_hand():
    rows = [row("tascnet", seed, test, 60) for seed, test in enumerate((0.80, 0.82, 0.84))]
    rows += [row("conventional", seed, test, 100) for seed, test in enumerate((0.82, 0.83, 0.85))]
    default, usual = methods.summarise(rows)
    assert default["test_accuracy"] == pytest.approx(0.82)
    # Of -0.02, 0, 0.02: the root of 0.0008 / 2.
    assert default["test_deviation"] == pytest.approx(0.02)
    assert default["seeds"] == 3
    assert (default["params"], default["flops"], default["seconds"]) == (60, 10, 3.0)
    told = methods.verdict([default, usual])
    assert (told["best"], told["is_within_one_deviation"]) == ("conventional", True)
    # 2.50 / 3 less 0.82.
    assert told["behind"] == pytest.approx(0.04 / 3)
    assert told["params_ratio"] == pytest.approx(0.6)
    assert methods.verdict([usual]) is None


def test_a_default_beyond_one_deviation_is_told():
    summary = methods.summarise([row("tascnet", 0, 0.5, 60), row("conventional", 0, 0.6, 100)])
    assert methods.verdict(summary)["is_within_one_deviation"] is False


def test_the_comparison_writes_its_rows_and_goes_on(tmp_path, cache, monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(methods, "output", lambda: console)
    chosen = ("benchmark.methods=[tascnet,conventional_long]", "benchmark.seeds=2", "benchmark.seconds=100")
    config = composed(
        *TINY, *chosen, "trainer.finetune.epochs=1", f"outputs={tmp_path}", f"cache_dir={cache}"
    )
    # As many epochs as fit into 100 seconds would be hundreds.
    monkeypatch.setattr(methods, "fine_tune_all", shortened(methods.fine_tune_all))
    methods.run(config)
    folder = tmp_path / "benchmark" / "methods"
    metrics = read_json(folder / "metrics.json")
    assert metrics["rows"] == read_jsonl(folder / "rows.jsonl")
    assert [(row["method"], row["seed"]) for row in metrics["rows"]] == [
        (method, seed) for seed in (0, 1) for method in ("conventional", "tascnet", "conventional_long")
    ]
    (run,) = (folder / "runs").glob("*/digits/digits_cnn/tascnet-seed1/tune/metrics.json")
    after = read_json(run)["models"]["after"]
    found = metrics["rows"][4]
    assert {name: found[name] for name in methods.FIGURES} == {name: after[name] for name in methods.FIGURES}
    assert 0 < found["seconds"] < read_json(run)["seconds"]
    assert found["trials"] == read_json(run)["trials"]
    usual, long = metrics["rows"][0], metrics["rows"][2]
    assert (usual["epochs"], long["epochs"]) == (1, 2)
    assert usual["params"] == long["params"] > 0
    assert metrics["summary"] == methods.summarise(metrics["rows"])
    assert metrics["verdict"] == methods.verdict(metrics["summary"])
    assert "conventional_long" in console.export_text()
    monkeypatch.setattr(methods, "_row", lambda *key: pytest.fail("a row was computed again"))
    methods.run(config)
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def shortened(work):
    return lambda config, epochs=None: work(config, None if epochs is None else 2)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["benchmark.methods=[tasknet]"], "there is no method 'tasknet'"),
        (["tune=autotune"], "tune=autotune would hold for all methods"),
    ],
)
def test_mistakes_are_told(tmp_path, overrides, says):
    with pytest.raises(ConfigError, match=says):
        methods.run(composed(f"outputs={tmp_path}", *overrides))
