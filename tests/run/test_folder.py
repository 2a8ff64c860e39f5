"""Whose a stage's folder is: identity, budget and claim."""

import errno
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest

from tascnet.errors import BudgetError, RunFolderError
from tascnet.options import HistoryPrune, ImageFolder, Prune, RecipeChanges, Targets, Trainer, Tune
from tascnet.run.files import temporary_suffix, write_checked
from tascnet.run.folder import budget, claim, finished, identity, open_folder
from tascnet.run.records import StageMetrics, read_record

SAMPLES = ImageFolder(root="/photos")
TRAINER = Trainer(lr=0.1, head=RecipeChanges(lr=0.2))


def claimed(folder, content, **options):
    with claim(folder, content, **options):
        pass


def of_tune(tune=Tune(), *, seed=0, samples=SAMPLES, trainer=TRAINER, data="abc"):
    recipes = {f"trainer.{name}": trainer.recipe(name) for name in ("head", "trial", "finetune")}
    return identity(
        "tune", seed, {"data": data, "network": None}, {"dataset": samples, "tune": tune, **recipes}
    )


def test_identity_holds_what_can_change_the_numbers():
    tune = of_tune()
    assert (tune["stage"], tune["seed"], tune["input.data"], tune["input.network"]) == (
        "tune",
        0,
        "abc",
        None,
    )
    assert tune["tune.round_to"] == 8
    # As a file gives it back: a list, not a tuple.
    assert tune["tune.widths"] == [0.25, 0.5, 0.75, 1.0]
    # Recipes count as they resolve.
    assert (tune["trainer.head.lr"], tune["trainer.trial.lr"]) == (0.2, 0.1)
    left_out = {"tune.max_trials", "tune.patience", "tune.pick", "dataset.root", "dataset.csv"}
    assert not left_out & tune.keys()


def test_plain_values_count_too():
    plain = identity("prune", 0, {}, {"preprocessing": {"size": 8, "mean": (0.5,)}})
    assert plain == {"stage": "prune", "seed": 0, "preprocessing.size": 8, "preprocessing.mean": [0.5]}


@pytest.mark.parametrize(
    "options", [Tune(), Prune(), HistoryPrune()], ids=lambda options: type(options).__name__
)
def test_every_option_of_a_stage_is_in_identity_or_budget_or_changes_no_number(options):
    counting = {name.partition(".")[2] for name in identity("x", 0, {}, {"x": options}) if "." in name}
    extendable = budget(options).keys()
    cosmetic = {entry.name for entry in fields(options) if entry.metadata["cosmetic"]}
    assert counting | extendable | cosmetic == {entry.name for entry in fields(options)}
    assert not counting & extendable


def test_a_target_bounds_a_search_and_may_be_moved_in_pruning():
    targets = {entry.name for entry in fields(Targets)}
    assert not targets & budget(Tune()).keys()
    assert targets <= budget(Prune()).keys()


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"seed": 1}, True),
        ({"data": "other"}, True),
        ({"samples": replace(SAMPLES, flip=False)}, True),
        ({"samples": replace(SAMPLES, train=0.5)}, True),
        ({"samples": replace(SAMPLES, root="/elsewhere")}, False),
        ({"trainer": replace(TRAINER, trial=RecipeChanges(lr=0.5))}, True),
        ({"trainer": replace(TRAINER, lr=0.3)}, True),
        ({"trainer": replace(TRAINER, pretrain=RecipeChanges(lr=0.5))}, False),
        # The same recipes, said otherwise.
        ({"trainer": replace(TRAINER, trial=RecipeChanges(lr=0.1))}, False),
        ({"tune": Tune(widths=[0.5, 1.0])}, True),
        ({"tune": Tune(flops_target=0.5)}, True),
        ({"tune": Tune(max_trials=99, patience=3, trials_per_depth=2)}, False),
        ({"tune": Tune(pick=3)}, False),
    ],
)
def test_what_changes_the_identity_of_tune(change, counts):
    assert (of_tune(**change) != of_tune()) is counts


def test_places_do_not_count_since_digests_do():
    """A moved folder of the same photos is the same data."""
    moved = replace(SAMPLES, root=None, csv="/elsewhere/list.csv")
    assert of_tune(samples=moved) == of_tune()
    assert of_tune(samples=moved, data="other") != of_tune()


def test_claim_writes_the_identity_and_keeps_a_log(tmp_path):
    folder = tmp_path / "tune"
    with claim(folder, {"seed": 0}) as held:
        assert held == folder
        assert read_record(folder / "identity.json", dict[str, Any]) == {"seed": 0}
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
    assert text.endswith("keep it and give another `run`, or start over with `fresh=true`")


def test_other_inputs_are_named_in_words(tmp_path):
    claimed(tmp_path, {"stage": "prune", "input.network": "3f2a", "input.data": "91c0", "input.other": "x"})
    (tmp_path / "iterations.jsonl").write_text("{}\n")
    changed = {"stage": "prune", "input.network": "77aa", "input.data": "0000", "input.other": "y"}
    with pytest.raises(RunFolderError) as caught:
        claimed(tmp_path, changed)
    text = str(caught.value)
    assert "(the samples differ, the network to start from differs, input.other differs)" in text
    assert not [digest for digest in ("3f2a", "77aa", "91c0") if digest in text]


def test_of_many_differences_four_are_named(tmp_path):
    claimed(tmp_path, {f"tune.option{number}": 0 for number in range(6)})
    (tmp_path / "trials.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"tune\.option3 was 0 and is now 1 and 2 more\)"):
        claimed(tmp_path, {f"tune.option{number}": 1 for number in range(6)})


def test_a_folder_in_which_nothing_was_computed_may_be_claimed_by_another(tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "splits.json").write_text("{}")
    claimed(tmp_path, {"seed": 1})
    assert read_record(tmp_path / "identity.json", dict[str, Any]) == {"seed": 1}


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


@pytest.mark.parametrize("fresh", [False, True])
def test_what_a_killed_export_left_goes_and_that_of_a_running_one_stays(tmp_path, fresh):
    alive = temporary_suffix()
    dead = alive.replace(f"-{os.getpid()}.", f"-{pid_of_the_dead()}.")
    for end in (alive, dead):
        (tmp_path / "export" / f".export{end}").mkdir(parents=True)
    claimed(tmp_path, {"seed": 0}, fresh=fresh)
    assert not (tmp_path / "export" / f".export{dead}").exists()
    assert (tmp_path / "export" / f".export{alive}").is_dir() != fresh


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


@pytest.mark.parametrize("content", [b"{", b"", b"null", b"[]", b'{"seed": 0}', b"[" * 100_000, b"\xe4"])
def test_a_damaged_identity_is_named_and_where_there_is_no_work_written_again(content, tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "identity.json").write_bytes(content)
    (tmp_path / "state").mkdir()
    with pytest.raises(RunFolderError, match=r"identity\.json cannot be read \(it .*fresh=true"):
        claimed(tmp_path, {"seed": 0})
    assert (tmp_path / "identity.json").read_bytes() == content
    (tmp_path / "state").rmdir()
    claimed(tmp_path, {"seed": 0})
    assert read_record(tmp_path / "identity.json", dict[str, Any]) == {"seed": 0}


def test_an_edited_identity_is_named(tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "state").mkdir()
    path = tmp_path / "identity.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunFolderError, match=r"identity\.json cannot be read \(it was changed or damaged"):
        claimed(tmp_path, {"seed": 1})


def test_results_without_an_identity_belong_to_nobody(tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "trials.jsonl").write_text("{}\n")
    (tmp_path / "identity.json").unlink()
    with pytest.raises(RunFolderError, match=r"holds results but no identity\.json"):
        claimed(tmp_path, {"seed": 0})
    claimed(tmp_path, {"seed": 0}, fresh=True)


def test_a_folder_of_other_files_may_be_claimed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claimed(tmp_path, {"seed": 0})


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", [".lock", "log.txt", "identity.json", "metrics.json"])
def test_what_is_no_regular_file_is_named(make, name, tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    read = finished if name == "metrics.json" else partial(claimed, content={"seed": 0})
    with pytest.raises(RunFolderError, match=rf"{re.escape(name)} cannot be read \(it is a "):
        read(tmp_path)


def test_fresh_does_not_need_a_whole_identity(tmp_path):
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "state").mkdir()
    (tmp_path / "identity.json").unlink()
    (tmp_path / "identity.json").mkdir()
    claimed(tmp_path, {"seed": 0}, fresh=True)


def worked(folder, content):
    """A folder of this identity in which something was computed."""
    claimed(folder, content)
    (folder / "state").mkdir()
    return folder


def test_latencies_of_one_runtime_are_not_continued_in_another(tmp_path):
    """As where ONNX Runtime was installed in the meantime."""
    folder = worked(tmp_path, of_tune() | {"measure.target": "eager"})
    with pytest.raises(RunFolderError, match=r"measure\.target was 'eager' and is now 'onnx") as caught:
        claimed(folder, of_tune() | {"measure.target": "onnxruntime"})
    assert caught.value.hint == "give `target=eager`, or start over with `fresh=true`"
    claimed(folder, of_tune())
    with pytest.raises(RunFolderError):
        claimed(folder, of_tune() | {"measure.target": "onnxruntime"})


def test_the_runtime_counts_from_the_first_latency_on(tmp_path):
    folder = worked(tmp_path, of_tune())
    claimed(folder, of_tune() | {"measure.target": "onnxruntime"})
    with pytest.raises(RunFolderError, match=r"measure\.target was 'onnxruntime' and is now 'eager'"):
        claimed(folder, of_tune() | {"measure.target": "eager"})


def test_a_folder_with_latencies_of_an_earlier_version_has_those_of_eager_pytorch(tmp_path):
    folder = worked(tmp_path, of_tune())
    (folder / "state" / "latency.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"measure\.target was 'eager' and is now 'onnxruntime'"):
        claimed(folder, of_tune() | {"measure.target": "onnxruntime"})
    claimed(folder, of_tune() | {"measure.target": "eager"})


def test_finished_by_metrics_of_this_very_budget(tmp_path):
    tune = Tune()
    assert not finished(tmp_path)
    content = {"schema": StageMetrics.schema, "budget": budget(tune)}
    write_checked(tmp_path / "metrics.json", content)
    assert finished(tmp_path)
    assert finished(tmp_path, budget(tune))
    assert not finished(tmp_path, budget(Tune(max_trials=25)))
    # What is no part of a budget leaves it finished.
    assert finished(tmp_path, budget(Tune(round_to=4)))


@pytest.mark.parametrize("content", [b"{", b"", b"null", b"5", b'{"budget": {}}', b"[" * 100_000, b"\xe4"])
def test_damaged_metrics_do_not_count_and_are_named(content, tmp_path, caplog):
    (tmp_path / "metrics.json").write_bytes(content)
    assert not finished(tmp_path)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'metrics.json'} cannot be read (it ")
    assert said.endswith("): the stage makes it again")


def test_a_folder_without_an_option_that_is_off_is_resumed(tmp_path):
    """It was made before there was such an option."""
    claimed(tmp_path, {"seed": 0})
    (tmp_path / "trials.jsonl").write_text("{}\n")
    claimed(tmp_path, {"seed": 0, "trainer.trial.compile": False, "trainer.trial.mixup": 0.0})
    assert (tmp_path / "trials.jsonl").exists()
    with pytest.raises(RunFolderError, match=r"trainer\.trial\.compile was None and is now True\)"):
        claimed(tmp_path, {"seed": 0, "trainer.trial.compile": True, "trainer.trial.mixup": 0.0})


def test_metrics_of_another_version_do_not_count(tmp_path, caplog):
    write_checked(tmp_path / "metrics.json", {"schema": StageMetrics.schema - 1, "budget": {}})
    assert not finished(tmp_path)
    (said,) = caplog.messages
    assert "its schema is 4, expected 5" in said


def test_a_run_without_a_folder_works_in_the_cache_and_leaves_nothing(tmp_path):
    cache = tmp_path / "cache"
    with open_folder(None, {"seed": 0}, cache=cache) as folder:
        assert folder.parent == cache
        (folder / "trials.jsonl").write_text("{}\n")
    assert os.listdir(cache) == []


def test_a_run_with_a_folder_claims_it(tmp_path):
    with open_folder(str(tmp_path / "tune"), {"seed": 0}, cache=tmp_path / "cache") as folder:
        (folder / "trials.jsonl").write_text("{}\n")
        with pytest.raises(RunFolderError, match="another process is working in"):
            claimed(folder, {"seed": 0})
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        claimed(tmp_path / "tune", {"seed": 1})
    with open_folder(tmp_path / "tune", {"seed": 1}, cache=tmp_path / "cache", fresh=True) as folder:
        assert not (folder / "trials.jsonl").exists()
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_elsewhere_is_not_that_of_the_folder(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    for run in (tmp_path / "run", None):
        with (
            pytest.raises(OSError, match="No space left") as caught,
            open_folder(run, {"seed": 0}, cache=tmp_path / "cache"),
        ):
            raise error
        assert caught.value is error


def test_a_full_disk_is_named_where_the_folder_is_claimed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tascnet.run.folder.write_record", full)
    with pytest.raises(BudgetError, match=f"the disk of {tmp_path / 'run'} is full"):
        claimed(tmp_path / "run", {"seed": 0})
    monkeypatch.undo()
    # The lock is released.
    claimed(tmp_path / "run", {"seed": 0})


def pid_of_the_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_in_the_cache_goes(tmp_path):
    cache, alive = tmp_path / "cache", temporary_suffix()
    dead = alive.replace(f"-{os.getpid()}.", f"-{pid_of_the_dead()}.")
    elsewhere = ".other-machine-1.tmp"
    files = [f"features/.a.npy{end}" for end in (alive, dead, elsewhere)]
    folders = [f"run-abc{end}" for end in (alive, dead, elsewhere)]
    for name in [*files, "pixels/key/.b.npy" + dead, "features/c.npy"]:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    for name in folders:
        (cache / name / "state").mkdir(parents=True)

    def left():
        with open_folder(tmp_path / "run", {"seed": 0}, cache=cache):
            return {str(path.relative_to(cache)) for path in [*cache.rglob("*.tmp"), *cache.rglob("*.npy")]}

    assert left() == {files[0], files[2], folders[0], folders[2], "features/c.npy"}
    for name in [*files, *folders]:
        if (cache / name).exists():
            os.utime(cache / name, (0, 0))
    assert left() == {folders[0], "features/c.npy"}
    assert (cache / folders[0] / "state").is_dir(), "its process runs"
