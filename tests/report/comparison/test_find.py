"""Which folders are runs, and why others are not."""

import os

import pytest

from tascnet.errors import RunFolderError
from tascnet.report.comparison import find_runs
from tascnet.report.comparison.runs import parse_run_name, parse_stage_name
from tascnet.run.files import read_checked, write_checked
from tascnet.run.records import to_json
from tests.report.comparison.folders import write_run
from tests.report.records import model, timed


def set_json(path, **changes):
    write_checked(path, read_checked(path) | changes)


def reason(path):
    """Why the only folder under a path does not take part, beside others that do."""
    _, asides = find_runs(path)
    (aside,) = asides
    return aside.reason


def test_runs_are_found_at_any_depth_and_by_their_own_path(tmp_path):
    folder = write_run(tmp_path / "a" / "b", 3)
    for path in (tmp_path, tmp_path / "a", folder.parent, folder):
        ((run,), asides) = find_runs(path)
        assert (run.folder, run.dataset, run.backbone, run.name, run.seed) == (
            str(folder),
            *("digits", "cnn", "run", 3),
        )
        assert asides == []


def test_what_lies_beside_runs_is_none(tmp_path):
    """Benchmarks keep runs of their own, a multirun its overrides, and the cache anything."""
    write_run(tmp_path)
    for name in ("benchmarks", "cache", "compare", ".hidden"):
        write_run(tmp_path / name)
    (tmp_path / "multirun" / "0").mkdir(parents=True)
    (tmp_path / "multirun" / "multirun.yaml").write_text("a: 1")
    (tmp_path / "multirun" / "metrics.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "pictures").mkdir()
    runs, asides = find_runs(tmp_path)
    assert (len(runs), asides) == (1, [])


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(RunFolderError, match="gone does not exist: give the folder that holds the runs"):
        find_runs(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file is no folder"):
        find_runs(tmp_path / "file")


def models(**changes):
    return {"models": dict.fromkeys(("baseline", "conventional", "after"), to_json(model()) | changes)}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tune: (tune / "metrics.json").unlink(), "tune: unfinished, with no trial in trials.jsonl"),
        (
            lambda tune: (tune / "metrics.json").write_text('{"models": '),
            "metrics.json cannot be read (it is not JSON: Expec",
        ),
        (lambda tune: (tune / "metrics.json").write_text("[]"), "cannot be read (it is no JSON object)"),
        (
            lambda tune: (tune / "metrics.json").write_bytes(b"\xff\xfe"),
            "metrics.json cannot be read (it is n",
        ),
        (lambda tune: set_json(tune / "metrics.json", schema=1), "its schema is 1, expected 5"),
        (lambda tune: (tune / "identity.json").unlink(), "no identity.json, so it is not tascnet's"),
        (lambda tune: (tune / "identity.json").write_text("[]"), "identity.json cannot be read (it is no J"),
        (
            lambda tune: set_json(tune / "identity.json", seed=4),
            "seed is 4 in identity.json and 0 in the fol",
        ),
        (lambda tune: set_json(tune / "metrics.json", seed=5), "seed is 5 in metrics.json and 0 in the fold"),
        (lambda tune: set_json(tune / "identity.json", stage="prune"), "identity.json is of stage prune"),
        (lambda tune: set_json(tune / "metrics.json", backbone=None), "TuneMetrics.backbone is null"),
        (lambda tune: set_json(tune / "metrics.json", models=None), "TuneMetrics.models is null"),
        (lambda tune: set_json(tune / "metrics.json", machine=None), "TuneMetrics.machine is null"),
        (lambda tune: set_json(tune / "metrics.json", models={}), "it lacks the model 'baseline'"),
        (lambda tune: set_json(tune / "metrics.json", **models(params=None)), "baseline.params is null"),
        (lambda tune: set_json(tune / "metrics.json", **models(flops=True)), "baseline.flops is true"),
        (
            lambda tune: set_json(tune / "metrics.json", **models(val_accuracy=83.1)),
            "val_accuracy of 'baseline' is 83.1",
        ),
        (
            lambda tune: set_json(tune / "metrics.json", **models(latencies=[to_json(timed(single=-1.0))])),
            "latency_ms of 'baseline' is -1",
        ),
        (
            lambda tune: set_json(tune / "metrics.json", **models(latencies=[to_json(timed("compile"))])),
            "it lacks the latency of 'baseline' in eager PyTorch",
        ),
        (lambda tune: set_json(tune / "metrics.json", **models(threads=None)), "baseline.threads is null"),
    ],
)
def test_a_run_whose_search_is_not_whole_does_not_take_part(tmp_path, spoil, says):
    """Its pruning neither: nothing says from which network it came."""
    write_run(tmp_path, 1)
    spoil(write_run(tmp_path, 0, prune={}) / "tune")
    runs, _ = find_runs(tmp_path)
    assert [run.seed for run in runs] == [1]
    assert says in reason(tmp_path)


def test_an_unfinished_pruning_leaves_what_was_tuned(tmp_path):
    folder = write_run(tmp_path, prune={}) / "prune"
    (folder / "metrics.json").unlink()
    (folder / "iterations.jsonl").write_text("{}\n{}\n{}")
    runs, asides = find_runs(tmp_path)
    assert [list(run.stages) for run in runs] == [["tune"]]
    assert [aside.folder for aside in asides] == [str(folder)]
    assert asides[0].reason == "unfinished, with 2 lines in iterations.jsonl"


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ("2026-01-02 03:04:05,678 ERROR the loss is not finite\nTraceback", "(the loss is not finite)"),
        ("2026-01-02 03:04:05,678 ERROR broke\n2026-01-02 03:04:06,000 INFO again", None),
        ("no log of ours", None),
    ],
)
def test_the_log_says_what_ended_an_unfinished_stage(tmp_path, last, says):
    tune = write_run(tmp_path) / "tune"
    (tune / "metrics.json").unlink()
    (tune / "trials.jsonl").write_text("{}\n")
    (tune / "log.txt").write_text(f"2026-01-02 03:04:04,000 INFO starts\n{last}\n")
    expected = "tune: unfinished, with 1 trial in trials.jsonl"
    assert reason(tmp_path) == (expected if says is None else f"{expected} {says}")


def test_one_that_cannot_be_read_does_not_end_the_others(tmp_path):
    tune = write_run(tmp_path) / "tune"
    (tune / "metrics.json").unlink()
    (tune / "log.txt").mkdir()
    write_run(tmp_path, 1)
    runs, asides = find_runs(tmp_path)
    assert [run.seed for run in runs] == [1]
    assert asides[0].reason == "tune: log.txt cannot be read (it is a folder)"


@pytest.mark.parametrize("name", ["metrics.json", "identity.json", "trials.jsonl", "log.txt"])
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(tmp_path, name):
    tune = write_run(tmp_path) / "tune"
    if name in ("trials.jsonl", "log.txt"):
        (tune / "metrics.json").unlink()
    (tune / name).unlink(missing_ok=True)
    os.mkfifo(tune / name)
    assert f"{name} cannot be read (it is a pipe or a device, not a file)" in reason(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "identity.json", "trials.jsonl", "log.txt"])
def test_a_file_of_fifty_gigabytes_is_not_read_whole(tmp_path, name):
    tune = write_run(tmp_path) / "tune"
    if name in ("trials.jsonl", "log.txt"):
        (tune / "metrics.json").unlink()
    with open(tune / name, "ab") as file:
        file.truncate(50_000_000_000)
    if name == "log.txt":
        with open(tune / name, "ab") as file:
            file.write(b"\n2026-01-02 03:04:05,678 ERROR broke\n")
        assert reason(tmp_path).endswith("(broke)")
    else:
        assert f"{name} cannot be read (it has 50,000,000,000 bytes, expected at most" in reason(tmp_path)


def test_folders_that_look_like_runs(tmp_path):
    write_run(tmp_path)
    (tmp_path / "digits/cnn/empty-seed1").mkdir()
    (tmp_path / "digits/cnn/else-seed2/pretrain").mkdir(parents=True)
    renamed = write_run(tmp_path, 3).rename(tmp_path / "digits/cnn/final")
    stray = write_run(tmp_path, 4) / "tune"
    stray.rename(tmp_path / "digits" / "loose")
    (tmp_path / "digits/cnn/run-seed4").rmdir()
    runs, asides = find_runs(tmp_path)
    assert len(runs) == 1
    assert {aside.folder.removeprefix(f"{tmp_path}/digits/"): aside.reason for aside in asides} == {
        "cnn/else-seed2": "it holds no stage tune or prune, but pretrain",
        "cnn/empty-seed1": "it is empty",
        f"cnn/{renamed.name}": "its name does not end in -seed<number>",
        "loose": "it holds metrics, but is no stage of a run",
    }


def test_a_finished_pretraining_is_no_run_and_one_beside_a_search_takes_nothing_away(tmp_path):
    for folder in (tmp_path / "digits/cnn/pre-seed1", write_run(tmp_path)):
        (folder / "pretrain").mkdir(parents=True)
        (folder / "pretrain" / "metrics.json").write_text("{}")
    runs, asides = find_runs(tmp_path)
    assert [run.name for run in runs] == ["run"]
    assert asides == []
    assert find_runs(tmp_path / "digits/cnn/pre-seed1") == ([], [])


def test_stages_of_different_runs_in_one_folder(tmp_path):
    folder = write_run(tmp_path)
    other = write_run(tmp_path / "other", backbone="vgg", prune={})
    (other / "prune").rename(folder / "prune")
    assert "its stages belong to several runs (prune: vgg on digits, tune: cnn on digits)" in reason(folder)


def test_a_pruning_alone_is_a_run(tmp_path):
    """It pruned a model from elsewhere."""
    folder = write_run(tmp_path, prune={})
    (folder / "tune").rename(tmp_path / "gone")
    ((run,), _) = find_runs(folder)
    assert list(run.stages) == ["prune"]


def test_the_path_of_a_damaged_file_is_named_once(tmp_path):
    folder = write_run(tmp_path, prune={}) / "prune"
    (folder / "metrics.json").write_text("[]")
    assert reason(tmp_path) == "metrics.json cannot be read (it is no JSON object)"


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("tune", ("tune", None, None)),
        ("tune-pick3", ("tune", None, 3)),
        ("prune", ("prune", "reconstruction", None)),
        ("prune-pick3", ("prune", "reconstruction", 3)),
        ("prune-my-own", ("prune", "my-own", None)),
        ("prune-my-own-pick12", ("prune", "my-own", 12)),
    ],
)
def test_stage_preset_and_trial_are_read_from_the_folder(name, stage):
    assert parse_stage_name(name) == stage


def test_name_and_seed_are_read_from_the_folder():
    assert parse_run_name("my-seed-seed12") == ("my-seed", 12)


@pytest.mark.parametrize(
    "name", ["state", "pruned", "tune-x", "prune-", "tune-pick", "benchmark", "pretrain"]
)
def test_other_folders_are_no_stages_and_no_runs(name):
    assert parse_stage_name(name) is None
    assert parse_run_name(name) is None
