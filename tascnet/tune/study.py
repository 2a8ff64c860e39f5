"""One search: ask for configurations, tell what came of them; the journal is its whole memory."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tascnet.errors import ConfigError, RunFolderError
from tascnet.files import append_jsonl, read_jsonl
from tascnet.tune.space import Configuration, Space
from tascnet.tune.surrogate import propose

__all__ = ["Proposal", "Study", "Trial", "binomial_error", "winner"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What to try: the trial's number, the depth it was asked for at, and the configuration."""

    trial: int
    depth: int
    config: Configuration


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a proposal: one line of the journal.

    Args:
        trial: its number.
        depth: the depth it was asked for at.
        config: canonical configuration.
        status: `ok`, or `failed` with a reason and no value.
        value: validation accuracy, in [0, 1].
        reason: why it failed.
        params: parameters of the whole network.
        flops: FLOPs of one sample.
        seconds: time it took.
        epochs: epochs trained.
        val_loss: validation loss of the epoch that gave the value.
    """

    trial: int
    depth: int
    config: Configuration
    status: Literal["ok", "failed"]
    value: float | None = None
    reason: str | None = None
    params: int | None = None
    flops: int | None = None
    seconds: float = 0.0
    epochs: int | None = None
    val_loss: float | None = None

    def __post_init__(self) -> None:
        if self.status == "ok" and (self.value is None or not math.isfinite(self.value)):
            raise ConfigError(f"trial {self.trial} has the value {self.value}, expected a finite number")
        if self.status == "failed" and (self.value is not None or not self.reason):
            raise ConfigError(f"trial {self.trial} failed: expected a reason and no value")

    def row(self) -> dict[str, Any]:
        """The journal's line."""
        return asdict(self)


class Study:
    """The search's memory: trials in a journal, and the proposals they lead to.

    A proposal is a pure function of journal, pending proposals and seed, so that a search that was
    broken off goes on as if it had not been. Proposals that were never told are given again.

    Args:
        path: the journal, made with the first trial; a torn last line is ignored.
        space: the search space.
        seed: of all proposals.

    Raises:
        RunFolderError: the journal does not fit the space.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        self.path = path
        self.space = space
        self.seed = seed
        self.pending: dict[int, Proposal] = {}
        self._trials = {trial.trial: trial for trial in _read_trials(path, space)}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials told so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def ask(self, k: int, n: int = 1, *, initial_trials: int = 0) -> list[Proposal]:
        """The next proposals, which are pending until they are told.

        Args:
            k: depth.
            n: how many.
            initial_trials: at depth 1 the trials before this number are the pre-trained setting trained
                from unit 1, then quasi-random ones.

        Returns:
            Up to `n` proposals; fewer when depth `k` has no untried configuration left.
        """
        asked: list[Proposal] = []
        while len(asked) < n:
            number = self._next_number()
            is_initial = k <= 1 and number < initial_trials
            configs = self._initial(k, number) if is_initial else self._learnt(k, number, n - len(asked))
            if not configs:
                break
            asked += [self._add_pending(k, config) for config in configs]
        return asked

    def tell(self, trial: Trial) -> None:
        """Journal what came of a proposal.

        Raises:
            ConfigError: the trial was told before, or its configuration is not in the space.
        """
        if trial.trial in self._trials:
            raise ConfigError(f"trial {trial.trial} was told before")
        if self.space.canonical(trial.config) != trial.config:
            raise ConfigError(f"the configuration of trial {trial.trial} is not canonical")
        append_jsonl(self.path, trial.row())
        self._trials[trial.trial] = trial
        self.pending.pop(trial.trial, None)

    def best(self) -> Trial | None:
        """The trial of the highest value, the earliest of equals; None before one succeeded."""
        return max(self._succeeded(), key=lambda trial: trial.value or 0.0, default=None)

    def winner(self, n_val: int, tolerance: float | None = None) -> Trial | None:
        """The smallest network among the trials near the best; see `winner`."""
        return winner(self.trials, n_val, tolerance)

    def _succeeded(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "ok"]

    def _next_number(self) -> int:
        number = 0
        while number in self._trials or number in self.pending:
            number += 1
        return number

    def _add_pending(self, k: int, config: Configuration) -> Proposal:
        proposal = Proposal(trial=self._next_number(), depth=k, config=config)
        self.pending[proposal.trial] = proposal
        return proposal

    def _initial(self, k: int, number: int) -> list[Configuration]:
        start = self.space.neutral(k)
        design = [start, *self.space.sample(number, k, self.seed, exclude=[start])]
        return design[number : number + 1]

    def _learnt(self, k: int, number: int, n: int) -> list[Configuration]:
        observed = [(trial.config, trial.value) for trial in self.trials]
        pending = [proposal.config for proposal in self.pending.values()]
        return propose(self.space, k, observed, pending, n, _trial_seed(self.seed, number))


def winner(trials: Sequence[Trial], n_val: int, tolerance: float | None = None) -> Trial | None:
    """Of the trials within `tolerance` of the best value the one with the fewest params.

    Of equally small ones the better, then the earlier one. None when no trial succeeded.

    Args:
        trials: failed ones are passed over.
        n_val: number of validation samples behind a value.
        tolerance: in accuracy; None: one binomial standard error of the best value.
    """
    succeeded = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not succeeded:
        return None
    best = max(value for value, _ in succeeded)
    margin = binomial_error(best, n_val) if tolerance is None else tolerance
    near = [(value, trial) for value, trial in succeeded if value >= best - margin]
    return min(near, key=lambda pair: (_size(pair[1]), -pair[0], pair[1].trial))[1]


def binomial_error(p: float, n: int) -> float:
    """The standard error `sqrt(p (1 - p) / n)` of an accuracy `p` measured on `n` samples."""
    return math.sqrt(max(p * (1 - p), 0.0) / n)


def _size(trial: Trial) -> float:
    return math.inf if trial.params is None else trial.params


def _trial_seed(seed: int, number: int) -> int:
    """A seed of its own for each proposal."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _read_trials(path: Path, space: Space) -> list[Trial]:
    try:
        return [_parse(row, space) for row in read_jsonl(path)]
    except (ConfigError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunFolderError(
            f"the journal {path} does not fit this search ({error})", "use fresh=true or another name"
        ) from error


def _parse(row: Mapping[str, Any], space: Space) -> Trial:
    known = {field.name for field in fields(Trial)}
    values = {name: value for name, value in row.items() if name in known}
    return Trial(**{**values, "config": space.canonical(row["config"])})
