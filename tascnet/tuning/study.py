"""One search: ask for configurations, tell the trials; the journal is its whole memory."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.files import read_jsonl
from tascnet.run.records import Trial, append_record, from_json
from tascnet.tuning.goal import Goal, front, value_of, winner
from tascnet.tuning.progression import layerwise_depths
from tascnet.tuning.propose import propose
from tascnet.tuning.sampling import draw, refuse_infeasible
from tascnet.tuning.space import FIRST_TRAINED, Configuration, Space
from tascnet.tuning.surrogate import Hyperparameters

# Share of the widths of the second trial.
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What to try.

    Args:
        trial: its number.
        depth: the depth at which it is proposed.
        config: canonical configuration.
        surrogate: hyperparameters of the surrogate that chose it; None: none did.
    """

    trial: int
    depth: int
    config: Configuration
    surrogate: Hyperparameters | None = None

    def came(self, status: str, **results: Any) -> Trial:
        """The trial of this proposal."""
        return Trial(
            trial=self.trial,
            depth=self.depth,
            config=self.config,
            surrogate=self.surrogate,
            status=status,
            **results,
        )


class Study:
    """The search's memory: trials in a journal, and the proposals they lead to.

    A proposal is a pure function of journal, pending proposals and seed, so that an interrupted search
    resumes as if it had not been interrupted. Proposals without a trial are made again.

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
        algorithm: str = "bo",
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
        """All trials so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def ask(self, k: int, n: int = 1, *, initial_trials: int = 0) -> list[Proposal]:
        """The next proposals, which are pending until `tell` gets their trials.

        Args:
            k: depth; ignored with `layerwise`.
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
            configs, surrogate = self._configs(k, n - len(asked), initial_trials)
            if not configs:
                if not self._trials and not self.pending and self.algorithm != "layerwise":
                    refuse_infeasible(self.space, self.goal)
                self.exhausted.add(k)
                break
            for config in configs:
                depth = int(config[FIRST_TRAINED]) if self.algorithm == "layerwise" else k
                number = self._next_number()
                self.pending[number] = Proposal(trial=number, depth=depth, config=config, surrogate=surrogate)
                asked.append(self.pending[number])
        return asked

    def tell(self, trial: Trial) -> None:
        """Journal what came of a proposal, with the hyperparameters that led to it.

        Raises:
            ConfigError: the journal has this trial, or its configuration is not in the space.
        """
        if trial.trial in self._trials:
            raise ConfigError(f"trial {trial.trial} is already in the journal")
        if self.space.canonical(trial.config) != trial.config:
            raise ConfigError(f"the configuration of trial {trial.trial} is not canonical")
        proposal = self.pending.get(trial.trial)
        if trial.surrogate is None and proposal is not None and proposal.config == trial.config:
            trial = replace(trial, surrogate=proposal.surrogate)
        append_record(self.path, trial)
        self._trials[trial.trial] = trial
        self.pending.pop(trial.trial, None)

    def best(self) -> Trial | None:
        """The `ok` trial of the highest value, the earliest of equals; None before one succeeded."""
        return max((t for t in self.trials if t.status == "ok"), key=value_of, default=None)

    def winner(self, n_val: int, tolerance: float | None = None) -> Trial | None:
        """The smallest network among the trials near the best, by params or by the cost of `pareto`."""
        size = self.goal.pareto_cost if self.goal.objective == "pareto" else "params"
        return winner(self.trials, n_val, tolerance, size)

    def front(self) -> list[Trial]:
        """The `ok` trials that no other one matches or beats in value and the cost of `pareto`."""
        return front(self.trials, self.goal.pareto_cost)

    def curves(self) -> list[tuple[float, ...]]:
        """Learning curves of the trials that were trained to their end, for the median rule."""
        return [trial.curve for trial in self.trials if trial.status == "ok" and trial.curve is not None]

    def _tried(self) -> list[Configuration]:
        pending = (proposal.config for proposal in self.pending.values())
        return [*(trial.config for trial in self.trials), *pending]

    def _next_number(self) -> int:
        number = 0
        while number in self._trials or number in self.pending:
            number += 1
        return number

    def _configs(
        self, k: int, n: int, initial_trials: int
    ) -> tuple[list[Configuration], Hyperparameters | None]:
        """Up to `n` configurations to try next, and the surrogate's hyperparameters where it chose them."""
        number = self._next_number()
        if self.algorithm == "layerwise":
            tried = self._tried()
            depths = layerwise_depths(self.space.depth, self.every)
            return [c for c in map(self.space.neutral, depths) if c not in tried][:n], None
        if self.algorithm == "random":
            return self._draw(k, _trial_seed(self.seed, number), "random"), None
        is_first_depth = all(trial.depth >= k for trial in self.trials)
        if self.algorithm == "sobol" or (is_first_depth and number < initial_trials):
            return self._start(k) or self._draw(k, self.seed, "sobol"), None
        slim = self.goal.slim
        fits = [trial.surrogate for trial in self.trials if trial.surrogate is not None]
        return propose(
            self.space,
            k,
            self.trials,
            [proposal.config for proposal in self.pending.values()],
            # One at a time, as each number has its turn.
            n if slim is None else 1,
            _trial_seed(self.seed, number),
            goal=self.goal,
            slim=slim is not None and slim.is_due(number),
            start=fits[-1] if fits else None,
        )

    def _start(self, k: int) -> list[Configuration]:
        """The pre-trained setting, then it at half its widths, where they are to be the next trial.

        What all widths together cost in accuracy is the first thing to learn about them.
        """
        if self.algorithm != "bo" or not self.space.nested:
            return []
        tried, starts = self._tried(), (self.space.neutral(k), self.space.narrowed(HALF, k))
        return [start for start in starts if start not in tried and self.goal.is_feasible(start)][:1]

    def _draw(self, k: int, seed: int, method: Literal["sobol", "random"]) -> list[Configuration]:
        return draw(self.space, self.goal, 1, k, seed, exclude=self._tried(), method=method)


def read_trials(path: Path, space: Space) -> list[Trial]:
    """The trials of a journal; none where there is no file.

    Raises:
        RunFolderError: a line is no trial of this space.
    """
    trials = []
    for line, row in enumerate(read_jsonl(path), start=1):
        try:
            trial = from_json(Trial, row)
            trials.append(replace(trial, config=_canonical(trial.config, space)))
        except (ConfigError, ValueError) as error:
            raise RunFolderError(
                f"line {line} of the journal {path} does not fit this search ({error})",
                "give the options that it was made with, or another folder, or start over with `fresh=true`",
            ) from error
    return trials


def _canonical(config: Mapping[str, Any], space: Space) -> Configuration:
    """A journal's configuration in a space that may have fewer units, whose choices it leaves neutral.

    Raises:
        ConfigError: it trains a unit that the space lacks, or has a value that the space lacks.
    """
    first = config.get(FIRST_TRAINED)
    if isinstance(first, int) and first > space.depth:
        raise ConfigError(f"it went to unit {first}, and `max_units` ends at {space.depth}")
    names = {FIRST_TRAINED, *(choice.name for choice in space.choices)}
    return space.canonical({name: value for name, value in config.items() if name in names})


def _trial_seed(seed: int, number: int) -> int:
    """A seed of its own for each proposal."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
