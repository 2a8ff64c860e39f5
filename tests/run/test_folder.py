import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.errors import RunFolderError
from tascnet.options import Config, TuneConfig
from tascnet.run.files import write_json
from tascnet.run.folder import (
    DEFAULT_PRUNE,
    budget,
    claim,
    finished,
    identity,
    parse_run_name,
    parse_stage_name,
    run_folder,
    safe_name,
    stage_folder,
)


def claimed(folder, content, **options):
    with claim(folder, content, **options):
        pass


def test_the_folder_is_a_function_of_the_config():
    config = Config(name="mine", seed=3, outputs="/out")
    config.prune.name = DEFAULT_PRUNE
    assert str(run_folder(config)) == "/out/digits/digits_cnn/mine-seed3"
    assert str(stage_folder(config, "tune")) == "/out/digits/digits_cnn/mine-seed3/tune"
    assert str(stage_folder(config, "prune")) == "/out/digits/digits_cnn/mine-seed3/prune"
    config.prune.name = "gentle"
    assert str(stage_folder(config, "prune")) == "/out/digits/digits_cnn/mine-seed3/prune-gentle"
    assert str(stage_folder(config, "tune")) == "/out/digits/digits_cnn/mine-seed3/tune"
    config.tune.pick = 7
    assert str(stage_folder(config, "search")) == "/out/digits/digits_cnn/mine-seed3/tune"
    assert str(stage_folder(config, "tune")) == "/out/digits/digits_cnn/mine-seed3/tune-pick7"
    assert str(stage_folder(config, "prune")) == "/out/digits/digits_cnn/mine-seed3/prune-gentle-pick7"


def test_without_a_name_the_tune_preset_gives_it():
    assert run_folder(Config()).name == "tascnet-seed0"


@given(st.text())
def test_safe_names_are_single_folders(text):
    name = safe_name(text)
    assert 1 <= len(name) <= 120
    assert name not in (".", "..")
    assert not set(name) & set("/\\\0 \n")


@given(st.text(min_size=1, max_size=100), st.integers(0, 10**9))
def test_name_and_seed_are_read_back_from_the_folder(name, seed):
    assert parse_run_name(run_folder(Config(name=name, seed=seed)).name) == (safe_name(name), seed)


@pytest.mark.parametrize("pick", [None, 3])
@pytest.mark.parametrize("preset", [DEFAULT_PRUNE, "tascnet", "my-own"])
def test_stage_preset_and_trial_are_read_back_from_the_folder(preset, pick):
    config = Config()
    config.prune.name, config.tune.pick = preset, pick
    assert parse_stage_name(stage_folder(config, "prune").name) == ("prune", preset, pick)
    assert parse_stage_name(stage_folder(config, "tune").name) == ("tune", None, pick)


@pytest.mark.parametrize(
    "name", ["state", "pruned", "tune-x", "prune-", "tune-pick", "benchmark", "pretrain"]
)
def test_other_folders_are_no_stages_and_no_runs(name):
    assert parse_stage_name(name) is None
    assert parse_run_name(name) is None


def test_long_names_that_differ_at_the_end_stay_different():
    assert safe_name("a" * 200 + "b") != safe_name("a" * 200 + "c")


def test_identity_holds_what_can_change_the_numbers():
    tune = identity(Config(), "tune", {"data": "abc"})
    assert tune["stage"] == "tune"
    assert tune["input.data"] == "abc"
    assert tune["tune.round_to"] == 8
    assert tune["trainer.finetune.lr"] == 1e-3
    left_out = {
        "tune.max_trials",
        "tune.patience",
        "tune.name",
        "dataset.download",
        "device",
        "threads",
        "name",
    }
    assert not left_out & tune.keys()
    assert not [key for key in tune if key.startswith(("prune.", "measure.", "trainer.recover"))]


def test_every_option_of_a_stage_is_in_identity_or_budget_or_a_label():
    config = Config()
    names = {f"tune.{entry.name}" for entry in fields(TuneConfig)}
    counted = identity(config, "tune", {}).keys() | budget(config, "tune").keys() | {"tune.name", "tune.pick"}
    assert names <= counted
    assert not identity(config, "tune", {}).keys() & budget(config, "tune").keys()


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda c: setattr(c, "seed", 1), True),
        (lambda c: setattr(c.backbone, "weights", "random"), True),
        (lambda c: setattr(c.dataset, "flip", False), True),
        (lambda c: setattr(c.trainer.trial, "lr", 0.5), True),
        (lambda c: setattr(c.tune, "widths", [0.5, 1.0]), True),
        (lambda c: setattr(c.tune, "max_trials", 99), False),
        (lambda c: setattr(c.prune, "percent", 9.0), False),
        (lambda c: setattr(c.trainer.recover, "lr", 0.5), False),
        (lambda c: setattr(c, "device", "cuda"), False),
        (lambda c: setattr(c, "threads", 7), False),
        (lambda c: setattr(c, "cache_limit_gb", 7.0), False),
        (lambda c: setattr(c, "debug", True), False),
    ],
)
def test_what_changes_the_identity_of_tune(change, counts):
    config = Config()
    before = identity(config, "tune", {})
    change(config)
    assert (identity(config, "tune", {}) != before) is counts


def test_places_do_not_count_since_digests_do():
    config = Config()
    config.backbone.weights = "w.pth"
    before = identity(config, "tune", {"data": "d", "weights": "w"})
    config.dataset.root = "/elsewhere/photos"
    config.backbone.weights = "/elsewhere/w.pth"
    assert identity(config, "tune", {"data": "d", "weights": "w"}) == before
    assert identity(config, "tune", {"data": "e", "weights": "w"}) != before


def test_claim_writes_the_identity_and_keeps_a_log(tmp_path):
    folder = tmp_path / "tune"
    with claim(folder, {"seed": 0}) as held:
        assert held == folder
        assert json.loads((folder / "identity.json").read_text()) == {"seed": 0}
    assert (folder / "log.txt").exists()
    claimed(folder, {"seed": 0})


def test_another_identity_is_refused_with_the_difference(tmp_path):
    claimed(tmp_path, {"seed": 0, "tune.round_to": 8, "same": 1})
    (tmp_path / "trials.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError) as caught:
        claimed(tmp_path, {"seed": 0, "tune.round_to": 4, "same": 1})
    text = str(caught.value)
    assert "tune.round_to was 8 and is now 4" in text
    assert "same" not in text.replace("another configuration", "")
    assert "name=" in text
    assert "fresh=true" in text


def test_other_inputs_are_told_in_words(tmp_path):
    claimed(tmp_path, {"stage": "prune", "input.model": "3f2a", "input.data": "91c0", "input.other": "x"})
    (tmp_path / "iterations.jsonl").write_text("{}\n")
    changed = {"stage": "prune", "input.model": "77aa", "input.data": "0000", "input.other": "y"}
    with pytest.raises(RunFolderError) as caught:
        claimed(tmp_path, changed)
    text = str(caught.value)
    assert (
        "(the samples are others, the model that it starts from is another, input.other is another)" in text
    )
    assert not [digest for digest in ("3f2a", "77aa", "91c0") if digest in text]
    assert text.endswith(
        "keep it and choose another folder with prune.name=..., or start over with stage=prune fresh=true"
    )


def test_fresh_empties_that_folder_alone(tmp_path):
    claimed(tmp_path / "tune", {"seed": 0})
    claimed(tmp_path / "prune", {"seed": 0})
    (tmp_path / "tune" / "model").mkdir()
    (tmp_path / "tune" / "model" / "x").write_text("x")
    claimed(tmp_path / "tune", {"seed": 1}, fresh=True)
    assert sorted(os.listdir(tmp_path / "tune")) == [".lock", "identity.json", "log.txt"]
    claimed(tmp_path / "prune", {"seed": 0})


def test_fresh_that_was_broken_off_is_refused_without_fresh(tmp_path, monkeypatch):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "state").mkdir()
    (tmp_path / "trials.jsonl").write_text("{}")

    def killed(_path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            claimed(tmp_path, {"seed": 0}, fresh=True)
    with pytest.raises(RunFolderError, match="fresh=true"):
        claimed(tmp_path, {"seed": 0})
    claimed(tmp_path, {"seed": 0}, fresh=True)
    assert sorted(os.listdir(tmp_path)) == [".lock", "identity.json", "log.txt"]


def test_what_a_killed_process_was_writing_goes(tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".fit.pt.123.tmp").write_text("torn")
    (tmp_path / "state" / "fit.pt").write_text("whole")
    claimed(tmp_path, {"seed": 0})
    assert os.listdir(tmp_path / "state") == ["fit.pt"]


def test_a_folder_in_use_is_refused_also_with_fresh(tmp_path):
    code = (
        "import sys, pathlib\nfrom tascnet.run.folder import claim\n"
        "with claim(pathlib.Path(sys.argv[1]), {'seed': 0}):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match="another process is working in"):
            claimed(tmp_path, {"seed": 0}, fresh=True)
        assert (tmp_path / "identity.json").exists()
    finally:
        holder.communicate()
    claimed(tmp_path, {"seed": 0})


def test_an_unreadable_identity_is_named(tmp_path):
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"identity\.json is not readable"):
        claimed(tmp_path, {"seed": 0})


def test_finished_by_metrics_of_this_very_budget(tmp_path):
    config = Config()
    assert not finished(tmp_path)
    write_json(tmp_path / "metrics.json", {"budget": budget(config, "tune")})
    assert finished(tmp_path)
    assert finished(tmp_path, budget(config, "tune"))
    config.tune.max_trials = 25
    assert not finished(tmp_path, budget(config, "tune"))
