"""Jobs as tasks of a Ray cluster, which schedules them, moves their arguments and tries them again.

What Ray does not do is done here: a job is ended when it takes too long, nodes of other versions are refused,
and the modules of the working folder travel with what they define.
"""

import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from pickle import PicklingError
from typing import Any

import torch

from tascnet.errors import (
    BudgetError,
    CacheLimitError,
    ConfigError,
    DataError,
    TascnetError,
    first_line,
    listed,
    plural,
)
from tascnet.execute.executor import Lost, Outcome, worker_name
from tascnet.models.device import using_threads
from tascnet.options import Ray
from tascnet.run.events import Event, emit, watching
from tascnet.run.files import may_be_in_use, temporary_suffix

log = logging.getLogger("tascnet")

# Of this process: a task that ran out of memory is tried once more.
ENVIRONMENT = {
    "RAY_task_oom_retries": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
# Of a cluster that is started here: it sends nothing, listens on this machine alone, and runs workers at the
# priority of this process.
OWN_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray itself would write one into the home folder. Ray reads it once in a process.
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
}
# Of connecting: without Ray's own remarks.
QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": True,
    "namespace": "tascnet",
}
# Packages of a clone of tascnet.
NOT_OWN = ("tascnet", "pipelines", "tascnet_pipelines", "benchmarks")
# Exit status of a worker whose job took too long.
TOO_LONG = 75
# Characters of a folder in which sockets of Ray, whose names are long, still find room.
LONGEST = 24
# A file in it that names its process, for which its own name is too short.
OWNER = "tascnet"
# Seconds that a node may take to answer before the first job, and a process of Ray to end.
ANSWER, ENDING = 120.0, 10.0


class RayExecutor:
    """Runs jobs on the cluster that this process is connected to.

    Args:
        options: of the executor.
    """

    is_remote = True

    def __init__(self, options: Ray) -> None:
        import ray

        self._ray, self._options, self.slots = ray, options, options.workers
        self._versions = _own_versions()
        self._remote = ray.remote(num_gpus=options.gpus, max_retries=options.retries, max_calls=0)(_call)
        # Of each job its key, and the seconds that it may take.
        self._jobs: dict[Any, tuple[int, float | None]] = {}

    def share(self, value: Any) -> Any:
        with _naming_what_cannot_travel():
            return self._ray.put(value)

    def submit(self, key: int, function: Callable[..., Any], *args: Any, threads: int | None = None) -> None:
        limit = self._options.trial_timeout if threads is None else None
        cpus = threads or self._options.cpus
        # A job waits for ever that takes more than any node has.
        remote = self._remote.options(num_cpus=min(cpus, self._most_cpus()))
        with _naming_what_cannot_travel():
            self._jobs[remote.remote(self._versions, function, cpus, limit, *args)] = key, limit

    def _most_cpus(self) -> float:
        """CPUs of the largest node with the GPUs of a job.

        Without such a node they are those of a trial, for which a new node has to suffice.
        """
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        fitting = [own.get("CPU", 0) for own in alive if own.get("GPU", 0) >= self._options.gpus]
        return max([self._options.cpus, *fitting])

    @property
    def running(self) -> int:
        return len(self._jobs)

    def next(self) -> Outcome:
        errors, key, limit = self._ray.exceptions, -1, None
        try:
            (reference,), _ = self._ray.wait(list(self._jobs), num_returns=1)
            key, limit = self._jobs.pop(reference)
            value, worker, started, ended, said, events = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, TascnetError):
                raise error.cause from error
            raise TascnetError(
                f"a trial ended with {type(error.cause).__name__} on a worker: {first_line(error.cause)}",
                "`debug=true` shows where",
            ) from error
        except errors.OutOfMemoryError:
            twice = " twice" if self._options.retries else ""
            return Outcome(key=key, value=MemoryError(f"it ran out of memory{twice}"), ended=time.time())
        except (errors.RayError, ConnectionError) as error:
            if key < 0 or not self._ray.is_initialized():
                raise TascnetError(
                    "the connection to the Ray cluster is lost", "run the same command again: it resumes"
                ) from error
            tries = self._options.retries + 1
            slow = "" if limit is None else f", or it took longer than {limit:g} s (`executor.trial_timeout`)"
            reason = f"the cluster lost it {tries} times{slow}, the last time because {_reason(error)}"
            return Outcome(key=key, value=Lost(reason=reason), ended=time.time())
        for line in said:
            log.warning("%s", line)
        for event in events:
            emit(event)
        return Outcome(key=key, value=value, worker=worker, started=started, ended=ended)

    def drop(self) -> None:
        jobs, self._jobs = self._jobs, {}
        # With the connection lost there is nothing to cancel.
        with suppress(self._ray.exceptions.RayError, ConnectionError):
            for reference in jobs:
                self._ray.cancel(reference)


@contextmanager
def _naming_what_cannot_travel() -> Iterator[None]:
    """Turn the error of what cannot be pickled into one sentence."""
    try:
        yield
    except (TypeError, AttributeError, PicklingError) as error:
        raise ConfigError(
            f"the network or the data set cannot be sent to other processes ({first_line(error)})",
            "open files and connections when they are first used, or take `executor=local`",
        ) from error


def _reason(error: Exception) -> str:
    """One line of what Ray says."""
    return f"{type(error).__name__}: {first_line(error)}"


def _call(
    expected: Mapping[str, str], function: Callable[..., Any], cpus: int, limit: float | None, *args: Any
) -> tuple[Any, ...]:
    """Run a job in a worker: its value, the worker, when it began and ended, its warnings and its events."""
    # The node may have joined since the others were asked.
    _check_versions(socket.gethostname(), _own_versions(), expected)
    started, said, events = time.time(), _Warnings(), list[Event]()
    watch = threading.Timer(limit, os._exit, (TOO_LONG,)) if limit is not None else None
    if watch is not None:
        watch.daemon = True
        watch.start()
    try:
        with using_threads(cpus), said, watching([events.append]):
            value = function(*args)
    except (DataError, ConfigError, BudgetError) as error:
        if isinstance(error, CacheLimitError):
            raise
        raise type(error)(f"on the node of {worker_name()}: {error.message}", error.hint) from error
    finally:
        if watch is not None:
            watch.cancel()
    return value, worker_name(), started, time.time(), tuple(said.lines), tuple(events)


class _Warnings(logging.Handler):
    """The warnings that are logged within a block."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "_Warnings":
        log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)


@contextmanager
def cluster(options: Ray) -> Iterator[RayExecutor]:
    """Connect to the cluster of some options, or start one on this machine that ends with the block.

    Raises:
        ConfigError: Ray is not installed, this process is already connected, the cluster cannot be reached,
            or a node of it cannot take part.
    """
    check_there(options)
    with _environment(is_own=options.address is None):
        import ray

        if ray.is_initialized():
            raise ConfigError(
                "this process is already connected to a Ray cluster",
                "call `ray.shutdown()` first, or take `executor=local`",
            )
        ours: list[Any] = []
        with _connected(ray, options):
            try:
                _check_nodes(ray, options)
                for module in _own_modules():
                    ray.cloudpickle.register_pickle_by_value(module)
                    ours.append(module)
                yield RayExecutor(options)
            finally:
                for module in ours:
                    ray.cloudpickle.unregister_pickle_by_value(module)


@contextmanager
def _environment(*, is_own: bool) -> Iterator[None]:
    """What Ray reads when it is imported and started; what the user has set stays, and all is set back."""
    wanted = ENVIRONMENT | (OWN_ENVIRONMENT if is_own else {})
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextmanager
def _connected(ray: Any, options: Ray) -> Iterator[None]:
    """Connected to a cluster, without Ray's own remarks; one that was started ends with the block."""
    is_own, constants, place = options.address is None, ray._private.ray_constants, None
    printed, listens = ray._private.worker.print_to_stdstream, constants.ENABLE_RAY_CLUSTER
    try:
        with _silent(), _own_handler():
            if is_own:
                # Where Ray was imported before, it has not seen the environment.
                constants.ENABLE_RAY_CLUSTER = False
                place = _session_folder()
                _start(ray, options, place)
            else:
                _connect(ray, options)
        # What it says of lost workers is in the journal.
        ray._private.worker.print_to_stdstream = _to_log
        yield
    finally:
        node = ray._private.worker._global_node
        started = [one.process for several in node.all_processes.values() for one in several] if node else []
        with _silent(), suppress(Exception):
            ray.shutdown()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
        ray._private.worker.print_to_stdstream, constants.ENABLE_RAY_CLUSTER = printed, listens
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Only this thread may set one, and Ray sets none elsewhere; None is not one of Python.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start(ray: Any, options: Ray, place: str | None) -> None:
    """Start a cluster on this machine."""
    try:
        ray.init(
            address="local",
            num_cpus=options.workers * options.cpus,
            num_gpus=torch.cuda.device_count() if options.gpus else 0,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=place,
            **QUIET,
        )
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"no Ray cluster could be started on this machine ({first_line(error)})",
            "give `executor.address` of one that runs, or take `executor=local`",
        ) from error


def _connect(ray: Any, options: Ray) -> None:
    """Connect to an existing cluster."""
    try:
        ray.init(address=options.address, **QUIET)
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _absent(options, error) from error


def check_there(options: Ray) -> None:
    """Check that Ray is installed, and that something listens at the address; Ray would try for minutes.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("`executor=ray` needs Ray", "pip install 'tascnet[ray]'")
    host, colon, port = (options.address or "").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER).close()
        except (OSError, OverflowError) as error:
            raise _absent(options, error) from error


def _absent(options: Ray, error: Exception) -> ConfigError:
    return ConfigError(
        f"there is no Ray cluster at {options.address} that lets this process in ({first_line(error)})",
        "give `executor.address` of one that runs, and its RAY_AUTH_TOKEN if it wants one, or leave the "
        "address out to start one here",
    )


def _session_folder() -> str | None:
    """A folder for the files of a cluster, which goes with it; None: where Ray keeps them.

    Those of killed processes are removed.
    """
    folder = tempfile.gettempdir()
    if "RAY_TMPDIR" in os.environ or len(folder) > LONGEST:
        return None
    for owner in Path(folder).glob(f"ray-*/{OWNER}.*.tmp"):
        if not may_be_in_use(owner):
            shutil.rmtree(owner.parent, ignore_errors=True)
    place = tempfile.mkdtemp(prefix="ray-", dir=folder)
    Path(place, OWNER + temporary_suffix()).touch()
    return place


def _check_nodes(ray: Any, options: Ray) -> None:
    """Refuse a cluster without a node that is large enough for a trial, and nodes of other versions."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    expected = _versions()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    wanted = {"CPU": options.cpus, "GPU": options.gpus}
    if not any(all(node["Resources"].get(key, 0) >= n for key, n in wanted.items()) for node in nodes):
        most = {key: max(node["Resources"].get(key, 0) for node in nodes) for key in wanted}
        raise ConfigError(
            f"a trial takes {options.cpus} CPUs and {options.gpus:g} GPUs, but the largest node of the Ray "
            f"cluster has {most['CPU']:g} and {most['GPU']:g}",
            "lower `executor.cpus` or `executor.gpus`",
        )
    asked = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(_versions)
        asked[task.remote()] = node["NodeManagerHostname"]
    for reference, name in asked.items():
        try:
            found = ray.get(reference, timeout=ANSWER)
        except Exception as error:
            raise ConfigError(
                f"the node {name} of the Ray cluster cannot run tascnet ({first_line(error)})",
                "install tascnet there, in the versions of this machine",
            ) from error
        _check_versions(name, found, expected)
    if (room := sum(_room(node["Resources"], wanted) for node in nodes)) < options.workers:
        log.warning(
            "the Ray cluster has room for %s at a time, but `executor.workers=%d`: the others wait, and are "
            "proposed before it is known what those before them give",
            *(plural(room, "trial"), options.workers),
        )


def _room(resources: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many trials a node can train at a time."""
    return min(int(resources.get(key, 0) / n) for key, n in wanted.items() if n)


def _check_versions(node: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse a node whose versions change results.

    Raises:
        ConfigError: they do.
    """
    odd = [key for key in ("tascnet", "torch", "torchvision") if found.get(key) != expected.get(key)]
    if odd:
        theirs = listed([f"{key} {found.get(key)}, here {expected.get(key)}" for key in odd])
        raise ConfigError(
            f"the node {node} of the Ray cluster has {theirs}", "install the same versions on all nodes"
        )


def _versions() -> dict[str, str]:
    # What it imports takes seconds.
    from tascnet.measure import versions

    return dict(versions())


# Once in each process; Ray's tasks have to be plain functions.
_own_versions = cache(_versions)


def _own_modules() -> Iterator[Any]:
    """Modules of the user's working folder, which nodes do not have."""
    folder = Path.cwd().resolve()
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    for name, module in list(sys.modules.items()):
        file, first = getattr(module, "__file__", None), name.partition(".")[0]
        if not isinstance(file, str) or not os.path.isabs(file):
            continue
        if first in sys.stdlib_module_names or first in ("__main__", *NOT_OWN):
            continue
        place = Path(file).resolve()
        is_installed = {"site-packages", "dist-packages"} & {*place.parts}
        if (
            place.is_relative_to(folder)
            and not is_installed
            and not any(map(place.is_relative_to, installed))
        ):
            yield module


def _to_log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    log.debug("Ray: %s", " ".join(data["lines"]))


@contextmanager
def _silent() -> Iterator[None]:
    """Without Ray's own remarks on starting and ending."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
