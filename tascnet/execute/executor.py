"""What runs jobs, and the executor of this process."""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tascnet.errors import ConfigError
from tascnet.models.device import using_threads
from tascnet.options import Local, Ray


@dataclass(frozen=True, kw_only=True)
class Lost:
    """In place of the value of a job whose every try the cluster lost; `reason` says how."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a job.

    Args:
        key: that it was submitted with.
        value: what it returned, or `Lost`.
        worker: the process that ran it last: host and process number; None where it is not known.
        started: when it began, in seconds since 1970; None likewise.
        ended: when it ended.
    """

    key: int
    value: Any
    worker: str | None = None
    started: float | None = None
    ended: float | None = None


class Executor(Protocol):
    """Runs jobs, and returns what comes of them in the order in which they end.

    A job is a function and its arguments; what it returns must not depend on where it runs.

    Attributes:
        slots: how many jobs are worth submitting at a time.
        is_remote: whether jobs run in other processes, so that function and arguments are pickled.
    """

    slots: int
    is_remote: bool

    def share(self, value: Any) -> Any:
        """A value that many jobs take: in its place among their arguments, and sent once."""

    def submit(self, key: int, function: Callable[..., Any], *args: Any, threads: int | None = None) -> None:
        """Let a job run, now or as soon as there is room.

        With `threads` the job has so many and no time limit; else it is a trial, with those of the options.
        """

    @property
    def running(self) -> int:
        """How many jobs have been submitted and not returned."""

    def next(self) -> Outcome:
        """What came of the job that ends next.

        Raises:
            Exception: what the job raised.
        """

    def drop(self) -> None:
        """Forget the jobs that have been submitted and not returned."""


class Sequential:
    """Runs jobs one after the other in this process.

    Args:
        cpus: threads of each trial; None: as they are.
    """

    slots, is_remote = 1, False

    def __init__(self, cpus: int | None = None) -> None:
        self._cpus = cpus
        self._jobs: deque[tuple[int, Callable[..., Any], tuple[Any, ...], int | None]] = deque()

    def share(self, value: Any) -> Any:
        return value

    def submit(self, key: int, function: Callable[..., Any], *args: Any, threads: int | None = None) -> None:
        self._jobs.append((key, function, args, threads or self._cpus))

    @property
    def running(self) -> int:
        return len(self._jobs)

    def next(self) -> Outcome:
        key, function, args, threads = self._jobs.popleft()
        started = time.time()
        with using_threads(threads):
            value = function(*args)
        return Outcome(key=key, value=value, worker=worker_name(), started=started, ended=time.time())

    def drop(self) -> None:
        self._jobs.clear()


def worker_name() -> str:
    """Host and number of this process."""
    return f"{socket.gethostname()}/{os.getpid()}"


def check_executor(options: Local, device: str, devices: int = 1) -> None:
    """Refuse workers on GPUs that nobody counts, GPUs that nobody uses, and a cluster that is not there.

    Args:
        device: a type of devices.
        devices: of a training on samples.
    """
    if isinstance(options, Ray) and devices > 1:
        raise ConfigError(
            f"workers train on one device each, but `devices={devices}`",
            "leave it at 1, or take `executor=local`",
        )
    if isinstance(options, Ray) and (device == "cuda") != (options.gpus > 0):
        raise ConfigError(
            f"a trial takes {options.gpus:g} GPUs (`executor.gpus`), but networks are trained on `{device}`",
            "give `executor.gpus=1`, or a fraction, with `device=cuda`, and neither without",
        )
    if isinstance(options, Ray):
        from tascnet.execute.cluster import check_there

        check_there(options)


@contextmanager
def opened(options: Local) -> Iterator[Executor]:
    """The executor of some options; a cluster that it starts ends with the block.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or a node of it cannot take part.
    """
    if isinstance(options, Ray):
        from tascnet.execute.cluster import cluster

        with cluster(options) as executor:
            yield executor
    else:
        yield Sequential(options.cpus)
