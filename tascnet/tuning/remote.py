"""Trials through an executor: prepared in this process, trained where there is room."""

import copy
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tascnet.execute import Executor, Lost
from tascnet.execute.workers import RemoteLearner
from tascnet.run.records import Trial
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.sizes import SIZE, Settings
from tascnet.tuning.study import Study
from tascnet.tuning.tails import Tails
from tascnet.tuning.trials import TrialTask, finished, prepare, train

# Of this process, by the keys of their learners.
_TAILS: dict[str, Tails] = {}


@dataclass(frozen=True, kw_only=True)
class RemoteTails:
    """Makes in another process what trains the tails of a search: the same as in the process that searches.

    Args:
        chain: the network, on the CPU.
        learners: of the images of each size; None is the network's own.
        objective: of the search.
        cuts: see `Tails`.
    """

    chain: nn.Sequential
    learners: Mapping[int | None, RemoteLearner]
    objective: str
    cuts: tuple[int, ...]

    def __call__(self, size: int | None) -> Tails:
        """The tails for images of a size, made once in each process.

        Raises:
            DataError: the samples cannot be read here, or are others than those of the search.
        """
        maker = self.learners[size]
        for key in [key for key in _TAILS if key != maker.key]:
            # Features take memory, and an earlier search is over.
            _TAILS[key].forget()
            if key not in {one.key for one in self.learners.values()}:
                del _TAILS[key]
        if maker.key not in _TAILS:
            learner = maker()
            chain = learner.place(self.chain)
            _TAILS[maker.key] = Tails(learner, chain, self.objective, self.cuts)
        return _TAILS[maker.key]


class TrialTrainer:
    """Trains the trials of a search by an executor; see `run_search`.

    Args:
        executor: where trials are trained.
        study: the search.
        settings: of the images' sizes, in this process.
        tails: what jobs make tails from, by size: `Settings` here, or `RemoteTails`.
        options: further ones of `prepare`.
    """

    def __init__(
        self,
        executor: Executor,
        study: Study,
        settings: Settings,
        tails: Callable[[int | None], Tails],
        **options: Any,
    ) -> None:
        self._executor, self._study, self._settings, self._options = executor, study, settings, options
        self._tails = executor.share(tails)
        self._done: deque[Trial] = deque()
        # By number: the proposal, the seconds of preparing it, and when it was sent.
        self._started: dict[int, tuple[Proposal, float, float]] = {}

    def has_room(self) -> bool:
        return not self._done and self._executor.running < self._executor.slots

    def start(self, proposal: Proposal) -> None:
        started, own = time.perf_counter(), self._settings(proposal.config)
        made = prepare(proposal, self._study, own.tails, own.build, own.clock, **self._options)
        seconds = time.perf_counter() - started
        if not isinstance(made, TrialTask):
            self._done.append(finished(proposal, self._study, made, seconds))
            return
        if self._executor.is_remote:
            made = copy.deepcopy(made)
            made.candidate.tail.cpu()
        self._started[proposal.trial] = proposal, seconds, time.perf_counter()
        size = proposal.config.get(SIZE)
        self._executor.submit(proposal.trial, train_by, self._tails, size, made)

    @property
    def running(self) -> int:
        return len(self._done) + self._executor.running

    def next(self) -> Trial:
        if self._done:
            return self._done.popleft()
        outcome = self._executor.next()
        proposal, seconds, sent = self._started.pop(outcome.key)
        found, place = outcome.value, {"worker": outcome.worker, "started": outcome.started}
        if isinstance(found, Lost | MemoryError):
            # All tries and the waiting count, or trials like this would never use up `max_seconds`.
            seconds += time.perf_counter() - sent
            status = "lost" if isinstance(found, Lost) else "failed"
            found = {"status": status, "reason": getattr(found, "reason", str(found))}
        else:
            seconds += found.pop("seconds")
        return finished(proposal, self._study, {**found, **place, "ended": outcome.ended}, seconds)


def train_by(tails: Callable[[int | None], Tails], size: int | None, task: TrialTask) -> dict[str, Any]:
    """Train a trial in this process; see `trials.train`."""
    started = time.perf_counter()
    return {**train(task, tails(size)), "seconds": time.perf_counter() - started}
