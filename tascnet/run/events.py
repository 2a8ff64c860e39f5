"""What happens in a run, for whoever watches it: stages begin and end, and records are made."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from tascnet.run.records import EpochRecord, Iteration, ModelMetrics, Trial

STARTED, FINISHED, FAILED = "started", "finished", "failed"


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """A stage begins or ends.

    Args:
        stage: `tune`, `prune` or `pretrain`.
        state: `started`, `finished` or `failed`, by a stop too.
    """

    stage: str
    state: str


@dataclass(frozen=True, kw_only=True)
class TrialEvent:
    """A trial of a search ended."""

    trial: Trial


@dataclass(frozen=True, kw_only=True)
class EpochEvent:
    """An epoch ended of the training with this description, such as `trial 3`."""

    training: str
    epoch: EpochRecord


@dataclass(frozen=True, kw_only=True)
class IterationEvent:
    """An iteration of pruning ended; the first one, 0, is the unpruned network."""

    iteration: Iteration


@dataclass(frozen=True, kw_only=True)
class ModelEvent:
    """A finished network was measured, of this name in `metrics.json`."""

    name: str
    metrics: ModelMetrics


Event: TypeAlias = RunEvent | TrialEvent | EpochEvent | IterationEvent | ModelEvent
Listener: TypeAlias = Callable[[Event], None]

_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def watching(listeners: Sequence[Listener]) -> Iterator[None]:
    """Let listeners, beside those that watch already, be called with each event within the context.

    What a listener raises ends the run. Results that are read back from an earlier run are no events.
    """
    token = _LISTENERS.set((*_LISTENERS.get(), *listeners))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def emit(event: Event) -> None:
    """Call all listeners."""
    for listener in _LISTENERS.get():
        listener(event)


@contextmanager
def running(stage: str) -> Iterator[None]:
    """Emit the beginning and the end of a stage; also a decorator of its function."""
    emit(RunEvent(stage=stage, state=STARTED))
    try:
        yield
    except BaseException:
        emit(RunEvent(stage=stage, state=FAILED))
        raise
    emit(RunEvent(stage=stage, state=FINISHED))
