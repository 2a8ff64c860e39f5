"""One search: ask for configurations, tell what came of them; the journal is its whole memory."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tascnet.errors import ConfigError
from tascnet.run.files import append_jsonl
from tascnet.tuning.goal import Goal
from tascnet.tuning.progression import layerwise_depths
from tascnet.tuning.propose import Observation, Suggestion, propose
from tascnet.tuning.sampling import draw, refuse_infeasible
from tascnet.tuning.space import Configuration, Space
from tascnet.tuning.trial import Trial, read_trials
from tascnet.tuning.winner import front, value_of, winner

# Share of the widths of the second trial.
HALF = 0.5

Algorithm: TypeAlias = Literal["bo", "random", "sobol", "layerwise"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What to try.

    Args:
        trial: its number.
        depth: the depth it was asked for at.
        config: canonical configuration.
        surrogate: hyperparameters of the surrogate that chose it; None: none did. `Study.tell` journals them.
    """

    trial: int
    depth: int
    config: Configuration
    surrogate: dict[str, Any] | None = None


class Study:
    """The search's memory: trials in a journal, and the proposals they lead to.

    A proposal is a pure function of journal, pending proposals and seed, so that a search that was
    broken off goes on as if it had not been. Proposals that were never told are given again.

    Args:
        path: the journal, made with the first trial; a torn last line is ignored.
        space: the search space.
        seed: of all proposals.
        goal: what is sought; None: validation accuracy, without bounds.
        algorithm: `bo`: quasi-random points, then a Gaussian process; `random`: independent uniform draws of
            every choice; `sobol`: one scrambled Sobol sequence a depth; `layerwise`: the pre-trained
            settings, trained from every `every`-th unit on.
        every: units from one `layerwise` trial to the next.

    Attributes:
        exhausted: depths that had no untried feasible configuration left when asked.

    Raises:
        RunFolderError: the journal does not fit the space.
    """

    def __init__(
        self,
        path: Path,
        space: Space,
        seed: int,
        goal: Goal | None = None,
        algorithm: Algorithm = "bo",
        every: int = 1,
    ) -> None:
        self.path = path
        self.space = space
        self.seed = seed
        self.goal = goal or Goal()
        self.algorithm = algorithm
        self.every = every
        self.pending: dict[int, Proposal] = {}
        self.exhausted: set[int] = set()
        self._trials = {trial.trial: trial for trial in read_trials(path, space)}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials told so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def ask(self, k: int, n: int = 1, *, initial_trials: int = 0) -> list[Proposal]:
        """The next proposals, which are pending until they are told.

        Args:
            k: depth; of no account with `layerwise`.
            n: how many.
            initial_trials: with `bo`, at the first depth of the search, the trials before this number are
                quasi-random; where spaces nest the very first are the pre-trained setting trained from unit
                `k` on, and the same at half its widths, if they keep the bounds.

        Returns:
            Up to `n` proposals; fewer when depth `k` has no untried feasible configuration left.

        Raises:
            ConfigError: no configuration of any depth keeps the bounds.
        """
        asked: list[Proposal] = []
        while len(asked) < n:
            suggested = self._suggest(k, n - len(asked), initial_trials)
            if not suggested.configs:
                self._close(k)
                break
            asked += [self._add_pending(k, config, suggested.surrogate) for config in suggested.configs]
        return asked

    def tell(self, trial: Trial) -> None:
        """Journal what came of a proposal, with the hyperparameters that led to it.

        Raises:
            ConfigError: the trial was told before, or its configuration is not in the space.
        """
        if trial.trial in self._trials:
            raise ConfigError(f"trial {trial.trial} was told before")
        if self.space.canonical(trial.config) != trial.config:
            raise ConfigError(f"the configuration of trial {trial.trial} is not canonical")
        proposal = self.pending.get(trial.trial)
        if trial.surrogate is None and proposal is not None and proposal.config == trial.config:
            trial = replace(trial, surrogate=proposal.surrogate)
        append_jsonl(self.path, trial.row())
        self._trials[trial.trial] = trial
        self.pending.pop(trial.trial, None)

    def best(self) -> Trial | None:
        """The `ok` trial of the highest value, the earliest of equals; None before one succeeded."""
        return max(self._succeeded(), key=value_of, default=None)

    def winner(self, n_val: int, tolerance: float | None = None) -> Trial | None:
        """The smallest network among the trials near the best, by params or by the cost of `pareto`."""
        size = self.goal.pareto_cost if self.goal.objective == "pareto" else "params"
        return winner(self.trials, n_val, tolerance, size)

    def front(self) -> list[Trial]:
        """The `ok` trials that no other one matches or beats in value and the cost of `pareto`."""
        return front(self.trials, self.goal.pareto_cost)

    def curves(self) -> list[list[float]]:
        """Learning curves of the trials that were trained to their end, for `median_stop`."""
        return [trial.curve for trial in self._succeeded() if trial.curve is not None]

    def _succeeded(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "ok"]

    def _known(self) -> list[Configuration]:
        told = [trial.config for trial in self.trials]
        return [*told, *(proposal.config for proposal in self.pending.values())]

    def _next_number(self) -> int:
        number = 0
        while number in self._trials or number in self.pending:
            number += 1
        return number

    def _add_pending(self, k: int, config: Configuration, surrogate: dict[str, Any] | None) -> Proposal:
        depth = int(config["first_trained"]) if self.algorithm == "layerwise" else k
        proposal = Proposal(trial=self._next_number(), depth=depth, config=config, surrogate=surrogate)
        self.pending[proposal.trial] = proposal
        return proposal

    def _close(self, k: int) -> None:
        """Note that nothing is left at depth `k`; refuse bounds that nothing keeps."""
        if not self._trials and not self.pending and self.algorithm != "layerwise":
            refuse_infeasible(self.space, self.goal)
        self.exhausted.add(k)

    def _suggest(self, k: int, n: int, initial_trials: int) -> Suggestion:
        number = self._next_number()
        if self.algorithm == "layerwise":
            return Suggestion(configs=self._layerwise(n))
        if self.algorithm == "random":
            return Suggestion(configs=self._draw(k, 1, _trial_seed(self.seed, number), "random"))
        is_first_depth = all(trial.depth >= k for trial in self.trials)
        if self.algorithm == "sobol" or (is_first_depth and number < initial_trials):
            return Suggestion(configs=self._start(k) or self._draw(k, 1, self.seed, "sobol"))
        return self._learnt(k, n, number)

    def _start(self, k: int) -> list[Configuration]:
        """The pre-trained setting, then it at half its widths, where they are to be the next trial.

        What all widths together cost in accuracy is the first thing to know of them.
        """
        if self.algorithm != "bo" or not self.space.nested:
            return []
        known, starts = self._known(), (self.space.neutral(k), self.space.narrowed(HALF, k))
        return [start for start in starts if start not in known and self.goal.is_feasible(start)][:1]

    def _draw(self, k: int, n: int, seed: int, method: Literal["sobol", "random"]) -> list[Configuration]:
        return draw(self.space, self.goal, n, k, seed, exclude=self._known(), method=method)

    def _layerwise(self, n: int) -> list[Configuration]:
        known = self._known()
        depths = layerwise_depths(self.space.depth, self.every)
        return [c for c in map(self.space.neutral, depths) if c not in known][:n]

    def _learnt(self, k: int, n: int, number: int) -> Suggestion:
        slim = self.goal.slim
        # One at a time, as each number has its turn.
        n = n if slim is None else 1
        fits = [trial.surrogate for trial in self.trials if trial.surrogate is not None]
        return propose(
            self.space,
            k,
            [
                Observation(trial.config, trial.value, trial.latency_ms, may_win=trial.status == "ok")
                for trial in self.trials
            ],
            [proposal.config for proposal in self.pending.values()],
            n,
            _trial_seed(self.seed, number),
            goal=self.goal,
            slim=slim is not None and slim.is_due(number),
            start=fits[-1] if fits else None,
        )


def _trial_seed(seed: int, number: int) -> int:
    """A seed of its own for each proposal."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
