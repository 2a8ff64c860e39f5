"""Files of a search that were damaged: the results are the same, or a sentence names the file."""

import shutil
from dataclasses import replace
from itertools import count

import pytest

import tascnet
from tascnet.errors import RunFolderError
from tascnet.options import Measure, RecipeChanges, Trainer, Tune
from tascnet.run.records import StepRecord, read_record
from tascnet.train import Learner
from tests.damage import CONTENTS, age, double_last_line, drop_last_line, edit, flip
from tests.tuning.toy import MODULE, OPTIONS, own_data, own_network


def tuned(folder, cache, *, repeats=3, **options):
    return tascnet.tune(
        own_network(),
        own_data(),
        Tune(**OPTIONS | options),
        trainer=Trainer(epochs=1, batch_size=8, lr=3e-3, trial=RecipeChanges(epochs=1)),
        measure=Measure(repeats=repeats, batch=2),
        device="cpu",
        threads=1,
        cache=cache,
        run=folder,
    )


@pytest.fixture(autouse=True)
def without_a_report(monkeypatch):
    """It takes longest."""
    monkeypatch.setattr(MODULE, "tune_report", lambda *_: None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "tune_report", lambda *_: None)
        return tuned(tmp_path_factory.mktemp("whole"), cache)


def figures(result):
    """All but what the clock decides."""
    models = {name: (one.test_accuracy, one.params, one.flops) for name, one in result.metrics.models.items()}
    untimed = {"seconds": 0.0, "worker": None, "started": None, "ended": None}
    trials = [replace(trial, **untimed) for trial in result.trials]
    weights = {name: value.tolist() for name, value in result.network.state_dict().items()}
    return models, result.metrics.winner, trials, weights


def step(folder, name):
    """Folder of a step, not of the one that repeats it at a third of the learning rate."""
    (found,) = (p for p in (folder / "state").glob(f"{name}*") if not p.name.endswith("-slower"))
    return found


FINISHED = {
    **{
        f"metrics: {name}": lambda folder, content=content: (folder / "metrics.json").write_bytes(content)
        for name, content in CONTENTS.items()
    },
    "metrics of another version": lambda folder: age(folder / "metrics.json"),
    "metrics edited": lambda folder: edit(folder / "metrics.json", '"winner": ', '"winner": 1'),
    "weights": lambda folder: flip(folder / "model" / "model.safetensors"),
    "stride": lambda folder: edit(folder / "model" / "architecture.json", '"stride"', '"padding"'),
    "no model": lambda folder: shutil.rmtree(folder / "model"),
    "a trial is lost": lambda folder: drop_last_line(folder / "trials.jsonl"),
    "all trials are lost": lambda folder: (folder / "trials.jsonl").unlink(),
}


@pytest.mark.parametrize("damage", FINISHED.values(), ids=FINISHED)
def test_a_finished_search_is_made_whole_again(damage, whole, cache, said):
    damage(whole.folder)
    assert figures(tuned(whole.folder, cache)) == figures(whole)
    assert len(said()) == 1
    assert figures(tuned(whole.folder, cache)) == figures(whole)
    assert len(said()) == 1, "now it is whole"


def test_metrics_of_another_version_are_made_again_without_training(whole, cache, said, monkeypatch):
    age(whole.folder / "metrics.json")
    monkeypatch.setattr(Learner, "fit", lambda *_, **__: pytest.fail("trained"))
    again = tuned(whole.folder, cache)
    assert figures(again) == figures(whole)
    assert again.metrics.trainings == whole.metrics.trainings
    (message,) = said()
    assert message.endswith("cannot be read (its schema is 4, expected 5): the stage makes it again")


def test_each_training_is_kept_under_the_name_of_its_network(tmp_path, cache):
    found = tuned(tmp_path / "run", cache, exit=False, fallback=False)

    def of(name, part="training"):
        return getattr(read_record(step(found.folder, name) / "record.json", StepRecord), part)

    assert found.metrics.trainings == {
        "baseline: head": of("baseline"),
        "conventional": of("conventional"),
        "after": of("taught"),
    }
    assert all(training.epochs for training in found.metrics.trainings.values())


def test_no_training_of_a_step_is_left_out(whole):
    """Also of networks that were not handed over; the heads of ends have a curve of their own."""
    records = {
        path.parent.name: read_record(path, StepRecord) for path in whole.folder.glob("state/*/record.json")
    }
    trainings = [record.training for name, record in records.items() if not name.startswith("end-")]
    kept = list(whole.metrics.trainings.values())
    assert all(training in kept for training in trainings if training is not None)
    assert any(name.endswith("-slower") for name in records), "the winner was trained twice"


@pytest.mark.parametrize("name", ["baseline", "narrowed", "taught", "conventional"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: edit(folder / "architecture.json", '"stride"', '"padding"'),
        lambda folder: edit(folder / "record.json", '"seconds": ', '"seconds": 1'),
        lambda folder: (folder / "record.json").write_bytes(b"null"),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
)
def test_a_damaged_step_is_computed_again(name, damage, whole, cache, said):
    (whole.folder / "metrics.json").unlink()
    damage(step(whole.folder, name))
    assert figures(tuned(whole.folder, cache)) == figures(whole)
    (message,) = said()
    assert message.endswith(": the step is computed again")


def test_a_damaged_step_is_found_when_it_is_measured_again(whole, cache, said):
    flip(step(whole.folder, "baseline") / "model.safetensors")
    again = tuned(whole.folder, cache, repeats=4)
    assert figures(again) == figures(whole)
    assert again.metrics.measure["repeats"] == 4
    assert said()


@pytest.mark.parametrize("name", ["baseline", "conventional"])
def test_a_damaged_step_of_a_finished_search_is_computed_again(name, whole, cache, said):
    flip(step(whole.folder, name) / "model.safetensors")
    assert figures(tuned(whole.folder, cache)) == figures(whole)
    assert said()
    known = len(said())
    assert figures(tuned(whole.folder, cache)) == figures(whole)
    assert len(said()) == known, "now it is whole"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: edit(path, '"val_accuracy": ', '"val_accuracy": 0.0'), 1),
        (lambda path: edit(path, '"trial": 1', '"trial": 5'), 2),
        (double_last_line, 3),
        (lambda path: flip(path, 30), 1),
        (lambda path: edit(path, "{", "[" * 100_000), 1),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_changed_journal_is_refused_with_its_line(damage, line, is_finished, whole, cache):
    if not is_finished:
        (whole.folder / "metrics.json").unlink()
    damage(whole.folder / "trials.jsonl")
    with pytest.raises(RunFolderError, match=rf"line {line} of .*trials\.jsonl is corrupt .*delete it"):
        tuned(whole.folder, cache)


def test_the_magnitude_of_the_kept_layer_is_measured_again(tmp_path, cache, said):
    whole = tuned(tmp_path / "run", cache, head="grow")
    (whole.folder / "metrics.json").unlink()
    path = whole.folder / "state" / "magnitude.json"
    content = path.read_bytes()
    edit(path, '"rms": ', '"rms": 1')
    assert figures(tuned(whole.folder, cache, head="grow")) == figures(whole)
    assert path.read_bytes() == content
    (message,) = said()
    assert message.startswith(f"{path} cannot be read (it was changed or damaged after it was written)")


def test_damaged_features_change_nothing(tmp_path, undisturbed, caplog):
    """Of all trials and of the steps after them; each file is reported once."""
    cache = tmp_path / "cache"
    whole = tuned(tmp_path / "first", cache)
    assert figures(whole) == figures(undisturbed)
    arrays, places = sorted(cache.rglob("*.npy")), count(-1, -7)
    for path in arrays:
        flip(path, next(places))
    caplog.clear()
    assert figures(tuned(tmp_path / "second", cache)) == figures(whole)
    said = [message for message in caplog.messages if message.endswith("it is made again")]
    assert len(said) == len(set(said)) > 0
    assert {message.split()[0] for message in said} <= set(map(str, arrays))
