"""Files of a pruning that were damaged: the results are the same, or a sentence names the file."""

import shutil
from dataclasses import replace

import pytest

from tascnet.errors import RunFolderError
from tascnet.options import HistoryPrune, Prune
from tascnet.pruning import prune
from tascnet.run.records import Iteration, read_records, write_records
from tascnet.train import Archive, Learner
from tests.damage import CONTENTS, age, double_last_line, drop_last_line, edit, flip
from tests.pruning.toy import DATA, QUICK, SMALL, are_equal, network, state, untimed

TWICE = Prune(**SMALL | {"max_iterations": 2, "pruning_ratio": 0.12})


def figures(result):
    """All but what the clock decides."""
    models = {name: (one.test_accuracy, one.params, one.flops) for name, one in result.metrics.models.items()}
    metrics = result.metrics
    return models, metrics.kept_iteration, metrics.stopped, metrics.iterations, untimed(result.iterations)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    return prune(network(), DATA, TWICE, cache=cache, run=tmp_path_factory.mktemp("whole"), **QUICK)


def unfinish(folder):
    (folder / "metrics.json").unlink()
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "model")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def state_of(folder, number):
    (found,) = (folder / "state").glob(f"iteration-{number:03d}*")
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "metrics.json").write_bytes(b"null"),
        lambda folder: age(folder / "metrics.json"),
        lambda folder: edit(folder / "metrics.json", '"test_accuracy": ', '"test_accuracy": 0.0'),
        lambda folder: flip(folder / "model" / "model.safetensors"),
        lambda folder: edit(folder / "model" / "architecture.json", '"eps": ', '"eps": 1'),
        lambda folder: shutil.rmtree(folder / "model"),
        lambda folder: drop_last_line(folder / "iterations.jsonl"),
        lambda folder: (folder / "iterations.jsonl").unlink(),
        lambda folder: flip(folder / "state" / "iteration-000" / "model.safetensors"),
        lambda folder: edit(folder / "state" / "iteration-000" / "record.json", "0.0", "1.0"),
    ],
)
def test_a_finished_pruning_is_made_whole_again(damage, whole, run, said):
    damage(whole.folder)
    again = run(TWICE)
    assert figures(again) == figures(whole)
    assert are_equal(state(again.network), state(whole.network))
    assert len(said()) == 1
    assert figures(run(TWICE)) == figures(whole)
    assert len(said()) == 1, "now it is whole"


def test_metrics_of_another_version_are_made_again_without_training(whole, run, monkeypatch):
    age(whole.folder / "metrics.json")
    monkeypatch.setattr(Learner, "fit", lambda *_, **__: pytest.fail("trained"))
    again = run(TWICE)
    assert figures(again) == figures(whole)
    assert again.metrics.trainings == whole.metrics.trainings
    assert list(whole.metrics.trainings) == ["iteration 1", "iteration 2"]


def test_the_training_of_an_iteration_that_is_lost_is_left_out(whole, run, said):
    first = (state_of(whole.folder, number) for number in (1, 2) if number != whole.metrics.kept_iteration)
    lost = next(first)
    shutil.rmtree(lost)
    (whole.folder / "metrics.json").unlink()
    again = run(TWICE)
    assert figures(again) == figures(whole)
    assert set(again.metrics.trainings) == {f"iteration {whole.metrics.kept_iteration}"}
    (message,) = said()
    assert f"{lost / 'record.json'} cannot be read (it does not exist)" in message


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_damaged_metrics_are_made_again(content, whole, run, said):
    (whole.folder / "metrics.json").write_bytes(content)
    assert figures(run(TWICE)) == figures(whole)
    (message,) = said()
    assert message.startswith(f"{whole.folder / 'metrics.json'} cannot be read (it ")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: edit(folder / "architecture.json", '"eps": ', '"eps": 1'),
        lambda folder: edit(folder / "record.json", '"val_loss": ', '"val_loss": 1'),
        lambda folder: (folder / "record.json").write_bytes(b"[]"),
        lambda folder: (folder / "architecture.json").unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_iteration_is_made_again_from_the_one_before(number, damage, whole, run, said):
    unfinish(whole.folder)
    damage(state_of(whole.folder, number))
    again = run(TWICE)
    assert figures(again) == figures(whole)
    assert are_equal(state(again.network), state(whole.network))
    assert len(said()) <= 1
    for message in said():
        # Of an iteration that is not kept the training alone is read.
        if number == whole.metrics.kept_iteration:
            assert message.endswith(": the step is computed again")
        else:
            assert message.startswith(f"the training of iteration {number} is left out of the report: ")


def test_a_model_of_another_step_is_found(whole, run, said):
    unfinish(whole.folder)
    own, other = state_of(whole.folder, 2), state_of(whole.folder, 1)
    for name in ("architecture.json", "model.safetensors"):
        shutil.copy(other / name, own / name)
    assert figures(run(TWICE)) == figures(whole)
    assert f"{own / 'architecture.json'} was changed or damaged" in said()[0]


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_history_is_recorded_again(number, run, said):
    options = HistoryPrune(
        **SMALL | {"criterion": "history", "max_iterations": 2, "pruning_ratio": 0.12, "epochs": 3},
        history="continue",
    )
    whole = run(options)
    unfinish(whole.folder)
    histories = sorted((whole.folder / "state").glob("*/history.safetensors"))
    flip(histories[number])
    # So that it is read again.
    (whole.folder / "iterations.jsonl").unlink()
    again = run(options)
    assert figures(again) == figures(whole)
    assert f"{histories[number]} was changed or damaged" in said()[0]


def test_a_damaged_iteration_that_other_options_would_not_make_is_named(run):
    options = replace(TWICE, blocks=True)
    folder = run(options).folder
    unfinish(folder)
    journal = folder / "iterations.jsonl"
    *before, last = read_records(journal, Iteration)
    # As a version that removes something else has named it.
    write_records(journal, [*before, replace(last, state="iteration-002-0123abcd")])
    with pytest.raises(
        RunFolderError, match=r"state/iteration-002-0123abcd is missing or damaged, and these"
    ):
        run(options)
    assert journal.read_bytes().count(b"\n") == 3


def test_a_damaged_iteration_of_another_target_is_not_needed(run):
    # Which blocks may be removed depends on the targets.
    options = replace(TWICE, blocks=True)
    other = replace(options, flops_target=0.01)
    folder = run(options).folder
    unfinish(folder)
    flip(state_of(folder, 2) / "model.safetensors")
    assert figures(run(other)) == figures(run(other, name="other"))


def test_a_damaged_iteration_that_is_dropped_is_not_made_again(whole, run, tmp_path):
    unfinish(whole.folder)
    damaged = state_of(whole.folder, 1)
    flip(damaged / "model.safetensors")
    content = contents(damaged)
    # Iteration 1 overshoots this target.
    other = replace(TWICE, flops_target=0.99)
    assert figures(run(other)) == figures(run(other, name="other"))
    assert contents(damaged) == content


def test_only_the_network_that_is_continued_is_read(whole, run, monkeypatch):
    unfinish(whole.folder)
    read, load = [], Archive.read

    def noted(archive, folder):
        read.append(folder)
        return load(archive, folder)

    monkeypatch.setattr(Archive, "read", noted)
    run(TWICE)
    assert state_of(whole.folder, 2) in read
    assert state_of(whole.folder, 1) not in read


def test_networks_that_were_made_from_one_another_are_made_again(whole, run):
    unfinish(whole.folder)
    for number in (1, 2):
        flip(state_of(whole.folder, number) / "model.safetensors")
    assert figures(run(TWICE)) == figures(whole)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: edit(path, '"val_loss": ', '"val_loss": 1'), 1),
        (lambda path: edit(path, '"iteration": 1', '"iteration": 7'), 2),
        (double_last_line, 4),
        (lambda path: flip(path, 40), 1),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_changed_journal_is_refused_with_its_line(damage, line, is_finished, whole, run):
    if not is_finished:
        unfinish(whole.folder)
    damage(whole.folder / "iterations.jsonl")
    with pytest.raises(RunFolderError, match=rf"line {line} of .*iterations\.jsonl is corrupt .*delete it"):
        run(TWICE)


def test_lines_that_were_deleted_as_the_message_says_are_computed_again(whole, run):
    unfinish(whole.folder)
    journal = whole.folder / "iterations.jsonl"
    edit(journal, '"iteration": 1', '"iteration": 7')
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    assert figures(run(TWICE)) == figures(whole)


@pytest.mark.parametrize("content", [b"null", b"{}", b'{"samples": 12}'])
def test_a_damaged_sensitivity_is_measured_again(content, run, said):
    options = replace(TWICE, sensitivity=True)
    whole = run(options)
    unfinish(whole.folder)
    (whole.folder / "state" / "sensitivity.json").write_bytes(content)
    again = run(options)
    assert again.metrics.sensitivity == whole.metrics.sensitivity
    (message,) = said()
    assert message.endswith(": it is made again")


def test_a_damaged_measurement_on_which_decisions_rest_is_named(run):
    options = replace(TWICE, round_to="auto")
    whole = run(options)
    unfinish(whole.folder)
    (whole.folder / "iterations.jsonl").unlink()
    path = whole.folder / "state" / "round_to.json"
    edit(path, '"round_to": ', '"round_to": 1')
    with pytest.raises(RunFolderError, match=r"round_to\.json cannot be read .*or delete it: it is measured"):
        run(options)
    path.unlink()
    run(options)


def test_damaged_splits_are_written_again(whole, run):
    path = whole.folder / "splits.json"
    content = path.read_bytes()
    path.write_bytes(b"null")
    run(TWICE)
    assert path.read_bytes() == content
