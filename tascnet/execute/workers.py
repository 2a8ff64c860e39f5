"""A learner's work by an executor: its samples are opened where the work runs."""

import copy
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from tascnet.data import open_samples
from tascnet.data.sources import AnyPreprocessing
from tascnet.errors import DataError, TascnetError
from tascnet.execute.executor import Executor, Lost, opened
from tascnet.models.device import usable_device
from tascnet.models.info import ModelInfo
from tascnet.options import Data, Local, Ray
from tascnet.options import Trainer as Recipes
from tascnet.run.console import progress
from tascnet.run.files import temporary_folder, whole_file
from tascnet.train import Archive, Learner
from tascnet.train.steps import RECORD

# Of this process, by the keys of what they were made from; so many are kept.
_LEARNERS: dict[str, Learner] = {}
KEPT = 8
# Results that may be early, for each job that runs.
AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class RemoteLearner:
    """Makes in another process a learner of the same samples.

    Args:
        data: the data set.
        preprocessing: of its samples.
        fingerprint: of the samples.
        recipes: of training.
        seed: of the splits and trainings.
        metric: by which epochs are compared.
        device: `cpu` or `cuda`.
        cache: folder of decoded images and features, shared by all nodes or of each node.
        cache_limit_gb: of this folder.
    """

    data: Data
    preprocessing: AnyPreprocessing
    fingerprint: str
    recipes: Recipes
    seed: int
    metric: str
    device: str
    cache: Path
    cache_limit_gb: float | None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, learner: Learner, data: Data) -> "RemoteLearner":
        samples = learner.samples
        return cls(
            data=data,
            preprocessing=samples.preprocessing,
            fingerprint=samples.fingerprint,
            recipes=learner.trainer,
            seed=learner.seed,
            metric=learner.metric,
            device=learner.device.type,
            cache=samples.cache.absolute(),
            cache_limit_gb=samples.cache_limit_gb,
        )

    def __call__(self) -> Learner:
        """The learner, made once in each process.

        Raises:
            DataError: the samples cannot be read here, or are others.
        """
        if self.key in _LEARNERS:
            return _LEARNERS[self.key]
        samples = open_samples(
            self.data,
            self.preprocessing,
            seed=self.seed,
            cache=self.cache,
            cache_limit_gb=self.cache_limit_gb,
            quiet=True,
        )
        if samples.fingerprint != self.fingerprint:
            raise DataError(
                f"the samples of {samples.dataset.name} are others than where the run was started",
                "give all nodes the same folder",
            )
        while len(_LEARNERS) >= KEPT:
            del _LEARNERS[next(iter(_LEARNERS))]
        device = usable_device(self.device)
        _LEARNERS[self.key] = Learner(
            samples=samples, device=device, trainer=self.recipes, seed=self.seed, metric=self.metric
        )
        return _LEARNERS[self.key]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Steps of an archive that follow from a learner and some arguments.

    Args:
        learner: trains them.
        archive: keeps them.
        last: name of the last one.
        function: makes them, from a learner, an archive and `args`.
        args: networks are given to it on the learner's device.
    """

    learner: Learner
    archive: Archive
    last: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()


class Workers:
    """Runs functions of a learner: here, or side by side where the options say so.

    The executor is opened when it is first needed, and closed with this context. Each function has the
    threads of this process, so it gives what it gives here.

    Args:
        options: of the executor.
        data: the data set of the learners.

    Attributes:
        data: the same, as other processes find it.
    """

    def __init__(self, options: Local, data: Data) -> None:
        self._options, self.data = options, _absolute(data) if isinstance(options, Ray) else data
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._learners: list[tuple[Learner, RemoteLearner, Any]] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def is_remote(self) -> bool:
        """Whether functions run in other processes."""
        return isinstance(self._options, Ray)

    @property
    def trial_threads(self) -> int | None:
        """Threads of a trial; None: those of this process."""
        return self._options.cpus

    @property
    def executor(self) -> Executor:
        """The executor, opened.

        Raises:
            ConfigError: see `opened`.
        """
        if self._executor is None:
            self._executor = self._stack.enter_context(opened(self._options))
        return self._executor

    def map(
        self, learner: Learner, function: Callable[..., Any], common: Sequence[Any], jobs: Iterable[Any]
    ) -> list[Any]:
        """What `function(learner, *common, job)` gives for each job, in their order.

        Jobs are taken one after the other as there is room for them. Networks are given to the function on
        its device; those of `common` travel once.

        Raises:
            TascnetError: the cluster lost a job, or what a function raised.
        """
        return list(self.spread(learner, function, common)(jobs))

    def spread(
        self,
        learner: Learner,
        function: Callable[..., Any],
        common: Sequence[Any],
        threads: int | None = None,
    ) -> Callable[[Iterable[Any]], Iterator[Any]]:
        """Like `map`, for several series of jobs; each result is there as soon as its turn comes.

        With `threads` each job has so many, in place of those of this process.
        """
        sent: list[Any] = []

        def results(jobs: Iterable[Any]) -> Iterator[Any]:
            if not sent:
                sent.extend([self._maker(learner), *(self._travels(one) for one in common)])
            maker, *shared = sent
            calls = ((_of_learner, maker, function, *shared, self._ready(job)) for job in jobs)
            early: dict[int, Any] = {}
            turn = 0
            # What is early takes memory until its turn.
            for key, value in self._all(calls, threads, ahead=AHEAD * self.executor.slots):
                early[key] = value
                while turn in early:
                    yield early.pop(turn)
                    turn += 1

        return results

    def ahead(self, steps: Sequence[Assignment]) -> None:
        """Let steps be made side by side in other processes, before they are asked for; here nothing is done.

        Steps that the archive has are not made again. Each is kept as soon as it is made; one that is
        interrupted starts over.
        """
        steps = [step for step in steps if not step.archive.has(step.last)] if self.is_remote else []
        if not steps:
            return
        calls = (
            (
                *(_archived, self._maker(step.learner), step.archive.info),
                *(step.function, *map(self._ready, step.args)),
            )
            for step in steps
        )
        with progress("trainings by workers", total=len(steps)) as bar:
            for key, files in self._all(calls):
                folder = steps[key].archive.folder
                # Without its record a step is unfinished, whatever interrupts this.
                for name in sorted(files, key=lambda name: name.endswith(RECORD)):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with whole_file(folder / name) as place:
                        place.write_bytes(files[name])
                bar.advance(1)

    def _all(
        self, calls: Iterable[tuple[Any, ...]], threads: int | None = None, ahead: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """The number of each call and what it gives, as they end.

        Args:
            threads: of each; None: those of this process.
            ahead: how many calls may follow one that has not ended; None: all.
        """
        executor, threads, waiting = self.executor, threads or torch.get_num_threads(), set[int]()

        def ended() -> tuple[int, Any]:
            outcome = executor.next()
            if isinstance(outcome.value, (Lost, MemoryError)):
                reason = getattr(outcome.value, "reason", outcome.value)
                raise TascnetError(
                    f"what was sent to a worker never came back: {reason}",
                    "run the same command again: it resumes",
                )
            waiting.discard(outcome.key)
            return outcome.key, outcome.value

        try:
            for key, (function, *args) in enumerate(calls):
                executor.submit(key, function, *args, threads=threads)
                waiting.add(key)
                while waiting:
                    is_full = executor.running >= executor.slots
                    runs_ahead = ahead is not None and key - min(waiting) >= ahead
                    if not (is_full or runs_ahead):
                        break
                    yield ended()
            while executor.running:
                yield ended()
        finally:
            executor.drop()

    def described(self, learner: Learner) -> RemoteLearner:
        """What makes a learner in another process."""
        for known, remote, _ in self._learners:
            if known is learner:
                return remote
        remote = RemoteLearner.of(learner, self.data)
        self._learners.append((learner, remote, self.executor.share(remote)))
        return remote

    def _maker(self, learner: Learner) -> Any:
        """What gives a learner where a function runs, sent once for each."""
        if not self.is_remote:
            return lambda: learner
        remote = self.described(learner)
        return next(shared for _, known, shared in self._learners if known is remote)

    def _travels(self, value: Any) -> Any:
        return self.executor.share(self._ready(value)) if self.is_remote else value

    def _ready(self, value: Any) -> Any:
        """A value as another process can read it: networks on the CPU."""
        if not self.is_remote:
            return value
        if isinstance(value, nn.Module):
            return copy.deepcopy(value).cpu()
        return tuple(map(self._ready, value)) if type(value) is tuple else value


def _absolute(data: Data) -> Data:
    """A data set whose files are found from any working folder."""
    places: dict[str, Any] = {
        name: str(Path(value).expanduser().absolute())
        for name in ("root", "csv")
        if isinstance(value := getattr(data, name, None), str)
    }
    return replace(data, **places) if places else data


def _placed(learner: Learner, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value.to(learner.device)
    return tuple(_placed(learner, one) for one in value) if type(value) is tuple else value


def _of_learner(maker: Callable[[], Learner], function: Callable[..., Any], *args: Any) -> Any:
    learner = maker()
    return function(learner, *(_placed(learner, one) for one in args))


def _archived(
    maker: Callable[[], Learner], info: ModelInfo, function: Callable[..., Any], *args: Any
) -> dict[str, bytes]:
    """The files of the steps that a function makes, by name."""
    learner = maker()
    with temporary_folder(learner.samples.cache) as place:
        folder = Path(place)
        function(learner, Archive(folder=folder, info=info), *(_placed(learner, one) for one in args))
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
