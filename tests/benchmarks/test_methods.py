from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import methods
from benchmarks.common import Setup
from benchmarks.conventional import fine_tune_all
from tascnet import preset
from tascnet.errors import ConfigError
from tascnet.run.files import digest_file, read_jsonl
from tascnet.run.records import StepRecord, Trial, write_record
from tests.reading import read_json

USUAL = {"baseline_seconds": 10.0, "finetune_seconds": 20.0, "epochs": 8}
TUNE = {"initial_trials": 2, "trials_per_depth": 2, "patience": 3, "max_trials": 4}
TRAINER = {"head": {"epochs": 3}, "trial": {"epochs": 2}, "finetune": {"epochs": 1}}


def made(cache=Path("nowhere"), **tune):
    """A setup of the digits with these options of tune."""
    data, backbone = preset("dataset", "digits"), preset("backbone", "digits_cnn")
    setup = Setup(data=data, backbone=backbone, cache=cache, device="cpu")
    changes = {"tune": tune, "trainer": TRAINER, "measure": {"batch": 2, "repeats": 3}}
    return replace(setup, changes={**setup.changes, **changes})


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Makes what computes rows of one seed, with a conventional network of known seconds."""

    def make(seconds=100.0, **tune):
        monkeypatch.setattr(methods, "fine_tune_all", lambda *arguments: USUAL)
        return methods.Bench(made(**tune), seconds, tmp_path, torch.device("cpu"))

    return make


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_has_options_of_its_own(name):
    options = methods.method_options(made(patience=7), name, 12.5)
    assert (options.max_seconds, options.patience) == (12.5, 7)
    usual = preset("tune", "tascnet", patience=7, round_to=4, neurons=[32, 64])
    assert (replace(options, max_seconds=None) == usual) == (name == "tascnet")


@pytest.mark.parametrize(("start", "fits"), [("auto", 11 / 3), ("best", 2), ("all", 1), ("prefix", 1)])
def test_a_search_gets_what_fine_tuning_leaves(start, fits, maker, monkeypatch):
    taken = []
    monkeypatch.setattr(methods.tascnet, "tune", lambda *a, **k: taken.append(a[2].max_seconds))
    monkeypatch.setattr(methods, "figures", lambda *arguments: {})
    monkeypatch.setattr(methods.Bench, "share_features", lambda self: None)
    monkeypatch.setattr(Setup, "network", lambda self: None)
    given = {} if start == "auto" else {"finetune_from": start}
    maker(**given).row({"method": "tascnet"})
    assert taken == [pytest.approx(100.0 - 10.0 - fits * 20.0)]


@pytest.mark.parametrize("seconds", [50, 5])
def test_too_few_seconds_are_refused(seconds, maker):
    with pytest.raises(ConfigError, match=r"3\.7 fine-tunings take 73 seconds"):
        maker(seconds).row({"method": "tascnet"})


def test_methods_without_a_teacher_leave_its_options_out():
    setup = made(distill=0.5, finetune_from="conventional")
    own = {method: methods.method_options(setup, method, 60.0) for method in methods.METHODS}
    assert (own["tascnet"].distill, own["tascnet"].finetune_from) == (0.5, "conventional")
    assert {own[method].finetune_from for method in ("autotune", "grow", "layerwise")} == {"auto"}
    assert (own["grow"].distill, own["layerwise"].distill) == (0.8, 0.8)


@pytest.mark.parametrize(("origin", "seconds"), [("conventional", 1 + 2 + 4 + 8), ("best", 1 + 2 + 4)])
def test_the_conventional_network_counts_where_fine_tuning_begins_at_it(tmp_path, origin, seconds):
    steps = {"baseline": 2.0, "taught-abc": 4.0, "conventional-0": 8.0, "conventional-7": 16.0}
    for name, took in steps.items():
        (tmp_path / "state" / name).mkdir(parents=True)
        write_record(tmp_path / "state" / name / "record.json", StepRecord(seconds=took))

    trial = Trial(trial=0, depth=1, config={}, status="failed", reason="x", seconds=1.0)
    after = SimpleNamespace(**dict.fromkeys(methods.FIGURES, 0))
    metrics = SimpleNamespace(models={"after": after}, finetuned_from=origin, stopped="", best_config={})
    result = SimpleNamespace(trials=(trial,), metrics=metrics)
    assert methods.figures(result, tmp_path)["seconds"] == seconds


@pytest.mark.parametrize(("seconds", "epochs"), [(100, 36), (20, 8)])
def test_the_long_fine_tuning_fills_the_seconds(seconds, epochs, maker, monkeypatch):
    bench, asked = maker(seconds), []
    monkeypatch.setattr(methods, "fine_tune_all", lambda *arguments: asked.append(arguments[3:]) or USUAL)
    # 90 seconds at 2.5 an epoch are 36; never fewer epochs than the recipe's.
    bench.row({"method": "conventional_long"})
    assert asked == [(), (epochs,)]


def test_no_run_pays_for_the_features_that_all_share(tmp_path):
    # Ends are judged by one method alone, which pays for their features.
    bench = methods.Bench(made(tmp_path / "cache", exit=False, **TUNE), 100.0, tmp_path, torch.device("cpu"))
    bench.share_features()

    def contents():
        return {path: digest_file(path) for path in (tmp_path / "cache" / "features").glob("*.npy")}

    shared = contents()
    options = methods.method_options(bench.setup, "tascnet", 100.0)
    trainer = bench.setup.trainer()
    methods.tascnet.tune(
        bench.setup.network(), bench.setup.data, options, trainer=trainer, **bench.setup.place
    )
    assert shared
    assert contents() == shared


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
    found = methods.verdict([default, usual])
    assert (found["best"], found["is_within_one_deviation"]) == ("conventional", True)
    # 2.50 / 3 less 0.82.
    assert found["behind"] == pytest.approx(0.04 / 3)
    assert found["params_ratio"] == pytest.approx(0.6)
    assert methods.verdict([usual]) is None


def test_a_default_beyond_one_deviation_is_named():
    summary = methods.summarise([row("tascnet", 0, 0.5, 60), row("conventional", 0, 0.6, 100)])
    assert methods.verdict(summary)["is_within_one_deviation"] is False


OPTIONS = (
    *("--set", "tune.initial_trials=2", "tune.trials_per_depth=2", "tune.patience=3", "tune.max_trials=4"),
    *("trainer.head.epochs=3", "trainer.trial.epochs=2", "trainer.finetune.epochs=1"),
    *("measure.batch=2", "measure.repeats=3"),
)


def test_the_comparison_writes_its_rows_and_resumes(bench, cache, shown, tmp_path, monkeypatch):
    chosen = ["--methods", "tascnet", "conventional_long", "--seeds", 2, "--seconds", 100, "--cache", cache]

    def shortened(setup, folder, device, epochs=None):
        # As many epochs as fit into 100 seconds would be hundreds.
        return fine_tune_all(setup, folder, device, None if epochs is None else 2)

    monkeypatch.setattr(methods, "fine_tune_all", shortened)
    assert bench("methods", *chosen, *OPTIONS) == 0
    folder = tmp_path / "methods"
    metrics = read_json(folder / "metrics.json")
    assert metrics["rows"] == read_jsonl(folder / "rows.jsonl")
    assert [(row["method"], row["seed"]) for row in metrics["rows"]] == [
        (method, seed) for seed in (0, 1) for method in ("conventional", "tascnet", "conventional_long")
    ]
    (run,) = (folder / "runs").glob("*/seed1/tascnet/metrics.json")
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
    assert "conventional_long" in shown.export_text()
    monkeypatch.setattr(methods.Bench, "row", lambda *key: pytest.fail("a row was computed again"))
    assert bench("methods", *chosen, *OPTIONS) == 0
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--methods", "tasknet"], "there is no method 'tasknet'"),
        (["--set", "tune.space=autotune"], "tune.space would hold for all methods"),
    ],
)
def test_mistakes_are_named(bench, capsys, options, says):
    assert bench("methods", *options) == 2
    assert says in capsys.readouterr().err
