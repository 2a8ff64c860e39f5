"""Runs in TensorBoard and MLflow: the numbers of each event, under the same names in both."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from tascnet.errors import ConfigError, first_line
from tascnet.options import Log
from tascnet.run.events import (
    EpochEvent,
    Event,
    IterationEvent,
    Listener,
    ModelEvent,
    RunEvent,
    TrialEvent,
    watching,
)

log = logging.getLogger("tascnet")

# Folder of TensorBoard's files in that of a run.
TENSORBOARD = "tensorboard"
# User and password in an address.
_PASSWORD = re.compile(r"//[^/@\s]+@")
PACKAGES = {"tensorboard": ("tensorboard", "tensorboard"), "mlflow": ("mlflow", "mlflow-skinny")}
# The numbers of each kind of event.
EPOCH = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy")
TRIAL = (
    "value",
    "val_accuracy",
    "val_balanced_accuracy",
    "val_loss",
    "params",
    "flops",
    "latency_ms",
    "seconds",
)
ITERATION = (
    *("val_accuracy", "val_balanced_accuracy", "val_loss", "val_accuracy_after_cut"),
    *("params", "flops", "size_bytes", "latency_ms", "seconds"),
)
MODEL = (
    *("val_accuracy", "val_balanced_accuracy", "test_accuracy", "test_balanced_accuracy"),
    *("params", "flops", "size_bytes", "latency_ms", "deployed_ms"),
)
# What MLflow takes of a name.
_FOREIGN = re.compile(r"[^\w./ :-]")
# Of a parameter's value, in characters, and of parameters in one request.
_LONGEST, _TOGETHER = 6000, 100
# A server that is away is found in seconds, not in minutes.
_TRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# MLflow keeps experiments in folders only where it is asked to.
_FOLDERS = {"MLFLOW_ALLOW_FILE_STORE": "true"}

Scalars: TypeAlias = Mapping[str, float]


def numbers_of(event: Event) -> tuple[Scalars, int]:
    """The numbers of an event by name, and the step that they belong to; a stage's own has none."""
    match event:
        case EpochEvent(training=training, epoch=epoch):
            return _numbers(epoch, EPOCH, training), epoch.epoch
        case TrialEvent(trial=trial):
            return _numbers(trial, TRIAL, "trials"), trial.trial
        case IterationEvent(iteration=iteration):
            return _numbers(iteration, ITERATION, "iterations"), iteration.iteration
        case ModelEvent(name=name, metrics=metrics):
            return _numbers(metrics, MODEL, f"models/{name}"), 0
        case RunEvent():
            return {}, 0


def _numbers(record: object, names: tuple[str, ...], prefix: str) -> Scalars:
    values = {name: getattr(record, name) for name in names}
    return {f"{prefix}/{name}": float(value) for name, value in values.items() if value is not None}


@contextmanager
def watched(options: Log, *, folder: Path, name: str, parameters: Mapping[str, object]) -> Iterator[None]:
    """Log events within the context where the options say.

    Args:
        options: where.
        folder: of the run; TensorBoard's files lie in it.
        name: of the run in MLflow.
        parameters: of the run in MLflow.

    Raises:
        ConfigError: a package is missing, or the server of MLflow does not answer.
    """
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if options.tensorboard:
            _need("tensorboard")
            listeners.append(_Numbers(stack.enter_context(_tensorboard(folder / TENSORBOARD)), "TensorBoard"))
        if options.mlflow is not None:
            _need("mlflow")
            writer, end = _mlflow(options.mlflow, name, parameters)
            numbers = _Numbers(writer, "MLflow")
            listeners.append(numbers)
            stack.push(lambda kind, *_: numbers.attempt(lambda: end(kind is not None)))
        with watching(listeners):
            yield


def _need(name: str) -> None:
    module, package = PACKAGES[name]
    if find_spec(module) is None:
        raise ConfigError(f"`log.{name}` needs the package {module}", f"pip install {package}")


# Takes numbers by name, and their step.
_Writer: TypeAlias = Callable[[Scalars, int], None]


class _Numbers:
    """Hands the numbers of each event to a writer, after the name of the stage.

    Watching is no reason to lose a search: the first error of the writer is logged, and ends the watching.
    """

    def __init__(self, write: _Writer, where: str) -> None:
        self._write, self._where, self._stage, self._is_broken = write, where, "", False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunEvent):
            self._stage = f"{event.stage}/"
        numbers, step = numbers_of(event)
        if numbers:
            named = {f"{self._stage}{name}": value for name, value in numbers.items()}
            self.attempt(lambda: self._write(named, step))

    def attempt(self, work: Callable[[], None]) -> None:
        """Do it, unless something failed before."""
        if self._is_broken:
            return
        try:
            work()
        # Of servers, disks and other people's code.
        except Exception as error:
            self._is_broken = True
            log.warning("the run is no longer logged to %s (%s)", self._where, first_line(error))


@contextmanager
def _tensorboard(folder: Path) -> Iterator[_Writer]:
    from tensorboard.summary import Writer

    # It makes its folder and file at once, and a stage that is read back has nothing for them.
    writers: list[Writer] = []

    def write(numbers: Scalars, step: int) -> None:
        if not writers:
            writers.append(Writer(str(folder)))
        for name, value in numbers.items():
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def _mlflow(uri: str, name: str, parameters: Mapping[str, object]) -> tuple[_Writer, Callable[[bool], None]]:
    """A run of the experiment `tascnet` in MLflow, and what ends it."""
    # Its client alone: no other state of the process changes.
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    is_folder = "://" not in uri and not uri.startswith("databricks")
    place = Path(uri).expanduser().absolute().as_uri() if is_folder else uri
    try:
        with _environment(_TRIES | (_FOLDERS if is_folder else {})):
            client = MlflowClient(tracking_uri=place)
            known = client.get_experiment_by_name("tascnet")
            experiment = known.experiment_id if known else client.create_experiment("tascnet")
            run = client.create_run(experiment, run_name=name).info
            texts = [
                Param(_FOREIGN.sub("_", key), str(value)[:_LONGEST]) for key, value in parameters.items()
            ]
            for first in range(0, len(texts), _TOGETHER):
                client.log_batch(run.run_id, params=texts[first : first + _TOGETHER])
    # Of the network, of the server, and of the disk.
    except Exception as error:
        message = f"`log.mlflow={uri}` cannot be used ({first_line(error)})"
        raise ConfigError(
            _PASSWORD.sub("//***@", message),
            "give the address of a running server such as http://localhost:5000, or a folder",
        ) from error

    def write(numbers: Scalars, step: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(_FOREIGN.sub("_", key), value, now, step) for key, value in numbers.items()]
        client.log_batch(run.run_id, metrics=metrics)

    def end(has_failed: bool) -> None:
        client.set_terminated(run.run_id, "FAILED" if has_failed else "FINISHED")

    return write, end


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are not set have these values within the context."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
