"""Broken off anywhere, extended, repeated: the numbers are those of an uninterrupted run."""

import shutil
import subprocess
import sys

import pytest

from tascnet.run.files import read_jsonl
from tests.damage import flip
from tests.pipelines.commands import TINY, command, contents, metrics, without_times
from tests.reading import read_json

# Imports what takes long, then starts the command once for each point, in a process that kills itself there:
# `event:part of the path:which time`. Audit events come before the system call: at a `rename` the file is
# written but not yet in place, at an `append` the line is not yet written.
KILLER = """
import fnmatch, os, signal, sys
import hydra._internal.core_plugins.basic_sweeper, sklearn.datasets, sklearn.model_selection
import tascnet_pipelines.full
from tascnet.cli.main import main

def kill_at(kind, part, count):
    seen = []

    def hook(event, facts):
        if event == "os.rename" and kind == "rename":
            path = os.fspath(facts[1])
        elif event == "open" and kind == "append" and str(facts[1]).startswith("a"):
            path = os.fspath(facts[0])
        else:
            return
        if fnmatch.fnmatch(path, f"*{part}*"):
            seen.append(path)
            if len(seen) == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

points, command = sys.argv[1].split(","), sys.argv[2:]
for point in points:
    kind, part, count = point.split(":")
    child = os.fork()
    if child == 0:
        kill_at(kind, part, int(count))
        os._exit(main(command))
    _, status = os.waitpid(child, 0)
    print(point, os.waitstatus_to_exitcode(status), flush=True)
"""
POINTS = (
    # The softmax layer is trained and archived, its record is not.
    "rename:tune/state/baseline/record.json:1",
    # Three trials are journalled.
    "append:trials.jsonl:4",
    # Fine-tuning has one epoch in its checkpoint.
    "rename:tune/state/narrowed-:1",
    "rename:tune/state/taught-:2",
    "rename:tune/model/architecture.json:1",
    "rename:tune/metrics.json:1",
    # The first iteration has an epoch of retraining.
    "rename:iteration-001-*/retrain.pt:1",
    # The second iteration is archived and not journalled.
    "append:iterations.jsonl:2",
    "rename:prune/metrics.json:1",
)

# Of a pruning by history that is recorded through all phases.
HISTORY = ("stage=prune", "prune=tascnet", "prune.history=continue")
HISTORY_POINTS = (
    "rename:iteration-000-history/history.pt:1",
    "rename:iteration-001-*/optimise.pt:1",
    "rename:iteration-001-*/retrain.pt:2",
    "rename:iteration-001-*/history.safetensors:1",
    "append:iterations.jsonl:1",
)


def options(run, cache):
    return [*TINY, f"outputs={run.parents[2]}", f"cache_dir={cache}", "name=run"]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, free to be changed."""
    run = tmp_path.joinpath(*finished.parts[-3:])
    shutil.copytree(finished, run)
    return run


def unfinish(stage, *steps):
    """Take away what a stage writes at its end, and the steps named."""
    for name in ("metrics.json", "report.html"):
        (stage / name).unlink()
    shutil.rmtree(stage / "model")
    for name in steps:
        for path in (stage / "state").glob(name):
            shutil.rmtree(path)


def tear_last_line(journal):
    text = journal.read_bytes()
    journal.write_bytes(text[: text.rstrip().rfind(b"\n") + 20])


def assert_equal_but_for_times(run, expected):
    for stage, journal in (("tune", "trials.jsonl"), ("prune", "iterations.jsonl")):
        assert metrics(run / stage) == metrics(expected / stage)
        rows = [without_times(read_jsonl(folder / stage / journal)) for folder in (run, expected)]
        assert rows[0] == rows[1]
        weights = [contents(folder / stage / "model") for folder in (run, expected)]
        assert weights[0] == weights[1]
    left = [path for path in run.rglob("*") if path.suffix in (".pt", ".tmp")]
    assert left == []


def test_the_shared_run_searches_with_the_surrogate_and_prunes(finished):
    """What the others compare with is worth comparing with."""
    trials = read_jsonl(finished / "tune" / "trials.jsonl")
    assert [trial["surrogate"] is None for trial in trials] == [True, True, False, False]
    assert {trial["status"] for trial in trials} == {"ok"}
    assert read_json(finished / "prune" / "metrics.json")["kept_iteration"] == 2


def test_killed_at_every_point_it_ends_with_the_same_numbers(finished, tmp_path, cache):
    run = tmp_path.joinpath(*finished.parts[-3:])
    arguments = [sys.executable, "-c", KILLER, ",".join(POINTS), *options(run, cache)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("rename:", "append:"))]
    assert lines == [f"{point} -9" for point in POINTS], done.stderr
    assert command(*options(run, cache)) == 0
    assert_equal_but_for_times(run, finished)


def test_a_recorded_history_survives_being_killed(copied, cache):
    assert command(*options(copied, cache), *HISTORY) == 0
    folder = copied / "prune-tascnet"
    expected = [
        metrics(folder),
        without_times(read_jsonl(folder / "iterations.jsonl")),
        contents(folder / "model"),
    ]
    shutil.rmtree(folder)
    arguments = [sys.executable, "-c", KILLER, ",".join(HISTORY_POINTS), *options(copied, cache), *HISTORY]
    done = subprocess.run(arguments, cwd=copied, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("rename:", "append:"))]
    assert lines == [f"{point} -9" for point in HISTORY_POINTS], done.stderr
    assert command(*options(copied, cache), *HISTORY) == 0
    assert [
        metrics(folder),
        without_times(read_jsonl(folder / "iterations.jsonl")),
        contents(folder / "model"),
    ] == (expected)


def test_torn_journals_lose_their_last_line_alone(finished, copied, cache):
    unfinish(copied / "tune", "narrowed-*", "taught-*")
    unfinish(copied / "prune", "iteration-002-*")
    for journal in (copied / "tune" / "trials.jsonl", copied / "prune" / "iterations.jsonl"):
        tear_last_line(journal)
    assert len(read_jsonl(copied / "tune" / "trials.jsonl")) == 3
    assert command(*options(copied, cache)) == 0
    assert_equal_but_for_times(copied, finished)


def test_a_run_that_was_damaged_in_many_places_ends_with_the_same_numbers(finished, copied, cache, capsys):
    (copied / "tune" / "metrics.json").write_text("null")
    flip(copied / "tune" / "model" / "model.safetensors")
    kept = metrics(copied / "prune")["kept_iteration"]
    for step in ("tune/state/taught-*", f"prune/state/iteration-{kept:03d}-*"):
        flip(next(copied.glob(step)) / "model.safetensors")
    unfinish(copied / "prune")
    for path in cache.rglob("*.npy"):
        flip(path)
    assert command(*options(copied, cache)) == 0
    assert_equal_but_for_times(copied, finished)
    said = capsys.readouterr().err
    assert said.count(": the step is computed again\n") == 2
    assert "metrics.json cannot be read (it is no JSON object): the stage makes it again\n" in said


def test_a_damaged_network_is_not_pruned_and_is_made_again_by_its_own_stage(finished, copied, cache, capsys):
    shutil.rmtree(copied / "prune")
    flip(copied / "tune" / "model" / "model.safetensors")
    assert command(*options(copied, cache), "stage=prune") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "model.safetensors is corrupt" in said
    assert said.endswith("run stage=tune again, which makes it again")
    assert command(*options(copied, cache)) == 0
    assert_equal_but_for_times(copied, finished)


def test_a_finished_run_says_so_and_writes_nothing(finished, cache, capsys):
    before = contents(finished)
    assert command(*options(finished, cache)) == 0
    captured = capsys.readouterr()
    for stage in ("tune", "prune"):
        assert (
            f"{stage} is finished in {finished / stage}; stage={stage} fresh=true starts it over\n"
            in captured.err
        )
    for name in ("baseline", "conventional", "tuned", "pruned"):
        assert f"\n{name} " in captured.out
    assert contents(finished) == before


def test_other_options_of_measure_measure_a_finished_search_again(copied, cache, capsys):
    before = metrics(copied / "tune")
    assert command(*options(copied, cache), "stage=tune", "measure.batch=3") == 0
    assert "latencies are measured again: measure.batch was 2 and is now 3\n" in capsys.readouterr().err
    after = metrics(copied / "tune")
    assert after["measure"]["batch"] == 3
    for name, row in after["models"].items():
        assert {**row, "batch": 2} == before["models"][name]


def test_other_options_of_measure_measure_a_finished_stage_again_and_nothing_else(
    copied, cache, capsys, monkeypatch
):
    before, files = read_json(copied / "prune" / "metrics.json"), contents(copied)
    eager = {"runtimes": ["eager"], "target": "eager"}
    assert before["measure"] == {"batch": 2, "repeats": 3, **eager}
    monkeypatch.setattr("tascnet.pruning.stage.judge", lambda *_: pytest.fail("judged again"))
    assert command(*options(copied, cache), "stage=prune", "measure.batch=3", "measure.repeats=4") == 0
    said = capsys.readouterr().err
    assert "measured again: measure.batch was 2 and is now 3, measure.repeats was 3 and is now 4\n" in said
    after, left = read_json(copied / "prune" / "metrics.json"), contents(copied)
    assert after["measure"] == {"batch": 3, "repeats": 4, **eager}
    assert {name for name in left if left[name] != files[name]} == {"prune/metrics.json", "prune/report.html"}
    for name, row in after["models"].items():
        old = before["models"][name]
        assert (old["batch"], row["batch"]) == (2, 3)
        assert row["latencies"][0]["latency_ms_batch"] != old["latencies"][0]["latency_ms_batch"]
        assert without_times(row) == {**without_times(old), "batch": 3}
    assert command(*options(copied, cache), "stage=prune", "measure.batch=3", "measure.repeats=4") == 0
    assert "measured again" not in capsys.readouterr().err
    assert contents(copied) == left


def test_fresh_starts_a_stage_over_and_leaves_the_other(finished, copied, cache):
    prune = contents(copied / "prune")
    (copied / "tune" / "state" / "stray").mkdir()
    journalled = (copied / "tune" / "trials.jsonl").read_bytes()
    assert command(*options(copied, cache), "stage=tune", "fresh=true") == 0
    assert not (copied / "tune" / "state" / "stray").exists()
    # Other seconds: the trials were run again.
    assert (copied / "tune" / "trials.jsonl").read_bytes() != journalled
    assert contents(copied / "prune") == prune
    assert_equal_but_for_times(copied, finished)


def test_more_trials_continue_the_journal(copied, tmp_path, cache):
    journalled = (copied / "tune" / "trials.jsonl").read_bytes()
    more = ("stage=tune", "tune.max_trials=5")
    assert command(*options(copied, cache), *more) == 0
    assert (copied / "tune" / "trials.jsonl").read_bytes().startswith(journalled)
    assert read_json(copied / "tune" / "metrics.json")["trials"] == 5
    at_once = tmp_path / "at_once" / "digits" / "digits_cnn" / "run-seed0"
    assert command(*options(at_once, cache), *more) == 0
    assert metrics(copied / "tune") == metrics(at_once / "tune")


def test_more_iterations_continue_the_journal(copied, cache):
    before = metrics(copied / "prune")
    journalled = (copied / "prune" / "iterations.jsonl").read_bytes()
    assert command(*options(copied, cache), "stage=prune", "prune.max_iterations=3") == 0
    assert (copied / "prune" / "iterations.jsonl").read_bytes().startswith(journalled)
    after = metrics(copied / "prune")
    assert after["iterations"] == after["kept_iteration"] == 3
    assert after["models"]["before"] == before["models"]["before"]
    assert after["models"]["after"]["params"] < before["models"]["after"]["params"]


def test_another_configuration_is_refused_and_nothing_is_touched(finished, cache, capsys):
    before = contents(finished)
    assert command(*options(finished, cache), "dataset.val=20") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "dataset.val was 30 and is now 20" in said
    assert "fresh=true" in said
    assert contents(finished) == before


def test_a_mistake_before_any_work_does_not_claim_the_folder(tmp_path, cache, capsys):
    run = tmp_path / "digits" / "digits_cnn" / "run-seed0"
    diverging = [
        "trainer.head.lr=100",
        "trainer.head.weight_decay=10",
        "trainer.head.batch_size=2",
        "trainer.head.optimizer=sgd",
        "stage=tune",
    ]
    assert command(*options(run, cache), *diverging) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "loss became" in said
    assert (run / "tune" / "log.txt").read_text().splitlines()[-1].endswith(f"ERROR {said}")
    assert command(*options(run, cache), "stage=tune", "tune.max_trials=1") == 0
