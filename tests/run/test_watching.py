"""TensorBoard and MLflow, with the packages themselves; what they wrote is read back."""

import importlib.util
import logging
import os
from contextlib import suppress

import pytest

from tascnet.errors import ConfigError
from tascnet.options import Log
from tascnet.run import watching as module
from tascnet.run.events import EpochEvent, IterationEvent, RunEvent, TrialEvent, emit, running
from tascnet.run.records import EpochRecord, Iteration, Trial
from tascnet.run.watching import numbers_of, watched

EPOCHS = [
    EpochRecord(
        epoch=number, train_loss=2.0 / number, val_loss=None, val_accuracy=None,
        val_balanced_accuracy=None, seconds=1.0,
    )
    for number in (1, 2)
]  # fmt: skip
TRIAL = Trial(trial=3, depth=1, config={}, status="failed", reason="out of memory", params=1000, seconds=2.5)
ITERATION = Iteration(
    iteration=1, start=0, step=1.0, state="iteration-001", landed=None, val_accuracy=0.75,
    val_balanced_accuracy=0.5, val_loss=1.0, params=10, flops=20, size_bytes=40, inside=True, removed={},
    pending={}, seconds=3.0,
)  # fmt: skip


def happens():
    """A search of one trial, then a pruning that fails."""
    with running("tune"):
        for epoch in EPOCHS:
            emit(EpochEvent(training="trial 3", epoch=epoch))
        emit(TrialEvent(trial=TRIAL))
    with suppress(ZeroDivisionError), running("prune"):
        emit(IterationEvent(iteration=ITERATION))
        raise ZeroDivisionError


def watch(tmp_path, **options):
    return watched(Log(**options), folder=tmp_path / "run", name="photos", parameters={"tune.max_trials": 5})


def test_numbers_are_those_that_a_record_has():
    assert numbers_of(TrialEvent(trial=TRIAL)) == ({"trials/params": 1000, "trials/seconds": 2.5}, 3)
    assert numbers_of(EpochEvent(training="head", epoch=EPOCHS[1])) == ({"head/train_loss": 1.0}, 2)
    assert numbers_of(RunEvent(stage="tune", state="started")) == ({}, 0)
    numbers, step = numbers_of(IterationEvent(iteration=ITERATION))
    assert (numbers["iterations/val_accuracy"], numbers["iterations/size_bytes"], step) == (0.75, 40, 1)


def test_nothing_is_written_unless_asked_for(tmp_path):
    with watch(tmp_path):
        happens()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with watch(tmp_path, tensorboard=True):
        happens()
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    found = {
        tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }
    assert found["tune/trial 3/train_loss"] == [(1, 2.0), (2, 1.0)]
    assert found["tune/trials/params"] == [(3, 1000)]
    assert found["prune/iterations/val_accuracy"] == [(1, 0.75)]


def test_tensorboard_makes_no_file_for_a_stage_that_is_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    with watch(tmp_path, tensorboard=True), running("tune"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    before = dict(os.environ)
    with suppress(ValueError), watch(tmp_path, mlflow=str(tmp_path / "mlruns")):
        happens()
        raise ValueError("after all stages, in the export")
    assert dict(os.environ) == before
    with watch(tmp_path, mlflow=str(tmp_path / "mlruns")), running("tune"):
        emit(TrialEvent(trial=TRIAL))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("tascnet").experiment_id
    second, first = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    assert (first.info.run_name, first.info.status, second.info.status) == ("photos", "FAILED", "FINISHED")
    assert first.data.params == {"tune.max_trials": "5"}
    assert first.data.metrics["prune/iterations/val_accuracy"] == 0.75
    losses = client.get_metric_history(first.info.run_id, "tune/trial 3/train_loss")
    assert [(loss.step, loss.value) for loss in losses] == [(1, 2.0), (2, 1.0)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_folder_that_is_a_file_is_found_before_the_run(tmp_path):
    pytest.importorskip("mlflow")
    (tmp_path / "mlruns").write_text("")
    with (
        pytest.raises(ConfigError, match=r"`log.mlflow=.*` cannot be used"),
        watch(tmp_path, mlflow=str(tmp_path / "mlruns")),
    ):
        pytest.fail("the run began")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_password_in_an_address_is_not_shown(tmp_path):
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError) as caught, watch(tmp_path, mlflow="http://me:secret@localhost:9"):
        pytest.fail("the run began")
    assert "secret" not in str(caught.value)
    assert "http://***@localhost:9" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "package"), [({"tensorboard": True}, "tensorboard"), ({"mlflow": "x"}, "mlflow-skinny")]
)
def test_a_missing_package_is_named(options, package, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package") as caught, watch(tmp_path, **options):
        pytest.fail("the run began")
    assert caught.value.hint == f"pip install {package}"


def test_a_disk_that_fails_ends_the_watching_and_not_the_run(tmp_path, caplog):
    pytest.importorskip("tensorboard")
    caplog.set_level(logging.WARNING, logger="tascnet")
    (tmp_path / "run").write_text("a file where the folder should be")
    with watch(tmp_path, tensorboard=True):
        happens()
    (message,) = caplog.messages
    assert message.startswith("the run is no longer logged to TensorBoard (")
