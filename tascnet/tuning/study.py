"""One search: `ask` for proposals, `tell` their trials; the journal is its whole memory."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeAlias

from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.records import NO_SECONDS, Trial, append_record, read_records, write_records
from tascnet.tuning.goal import Goal, front, value_of, winner
from tascnet.tuning.progression import layerwise_depths
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.propose import propose
from tascnet.tuning.sampling import draw, refuse_infeasible
from tascnet.tuning.space import EXIT, FIRST_TRAINED, Configuration, Space
from tascnet.tuning.surrogate import Hyperparameters

# Widths of the narrower first trials, as a share of the pre-trained ones.
HALF = 0.5
# Of so many quasi-random points the first that trains all units is tried.
DRAWN = 32
# The first proposals of a depth.
Starts: TypeAlias = Callable[[int], Sequence[Configuration]]


class Study:
    """The trials of a search in a journal, and the proposals that follow from them.

    A proposal is a pure function of journal, pending proposals and seed. It is written down beside the
    journal before it is returned, so an interrupted search resumes with the same ones.

    Args:
        path: the journal, of trials in the order in which they ended; a torn last line is ignored.
        space: the search space.
        seed: of all proposals.
        goal: None: validation accuracy, without bounds.
        algorithm: `bo`: quasi-random points, then a Gaussian process; `random`: independent uniform draws;
            `sobol`: one scrambled Sobol sequence for each depth; `layerwise`: the pre-trained settings,
            trained from every `every`-th unit on.
        every: units from one `layerwise` trial to the next.
        starts: the first proposals of a depth with `bo` in a nested space; None: the pre-trained setting
            trained from unit `k` on, and the same at half its widths.
        earlier: canonical configurations that are tried first with `bo`, each as soon as the depth holds it.
        max_seconds: of all trials together. Where some are left, the trials that an earlier bound ended are
            trained again, to their end.

    Attributes:
        pending: proposals that were asked for and have no trial yet, by number.
        left: those of an interrupted search, which are asked for first.
        exhausted: depths without an untried feasible configuration.

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
        starts: Starts | None = None,
        earlier: Sequence[Configuration] = (),
        max_seconds: float | None = None,
    ) -> None:
        self.path, self.space, self.seed = path, space, seed
        self.goal = goal or Goal()
        self.algorithm, self.every = algorithm, every
        self._earlier = earlier
        self._starts = starts or (lambda k: [space.neutral(k), space.narrowed(HALF, k)])
        self.exhausted: set[int] = set()
        # In the order in which they ended. Those that were lost, or were cut short, are tried again.
        ended = _read_trials(path, space)
        has_seconds = max_seconds is None or sum(trial.seconds for trial in ended) < max_seconds
        self._trials = {
            trial.trial: trial
            for trial in ended
            if trial.status != "lost" and not (trial.reason == NO_SECONDS and has_seconds)
        }
        self._holds_more = len(self._trials) < len(ended)
        self.pending: dict[int, Proposal] = {}
        proposed = read_records(proposals_of(self.path), Proposal, ordered=False)
        self._numbers = {proposal.trial for proposal in proposed}
        self.left = _without_trial(proposed, space, self._trials)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def seen_by(self, proposal: Proposal) -> tuple[Trial, ...]:
        """The trials that had ended when a proposal was made, by number."""
        return tuple(sorted(self._ended()[: proposal.seen], key=lambda trial: trial.trial))

    def _ended(self) -> list[Trial]:
        """The trials in the order in which they ended, without those that were lost."""
        return [trial for trial in self._trials.values() if trial.status != "lost"]

    def ask(self, k: int, n: int = 1, *, initial_trials: int = 0) -> list[Proposal]:
        """Up to `n` proposals, pending until `tell` gets their trials; fewer when depth `k` is exhausted.

        Those that an interrupted search left come first, of whatever depth.

        Args:
            k: depth; ignored with `layerwise`.
            n: how many.
            initial_trials: with `bo`, at the first depth of the search, trials before this number are
                quasi-random, and train all units where they can. In a nested space the first ones are the
                `starts` that keep the bounds.

        Raises:
            ConfigError: no configuration of any depth keeps the bounds.
        """
        if self._holds_more:
            write_records(self.path, self._trials.values())
            self._holds_more = False
        asked: list[Proposal] = []
        while self.left and len(asked) < n:
            number = min(self.left)
            self.pending[number] = self.left.pop(number)
            asked.append(self.pending[number])
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
                proposal = Proposal(
                    trial=number, depth=depth, config=config, seen=len(self._ended()), surrogate=surrogate
                )
                append_record(proposals_of(self.path), proposal)
                self._numbers.add(number)
                self.pending[number] = proposal
                asked.append(proposal)
        return asked

    def tell(self, trial: Trial) -> None:
        """Append the trial of a proposal to the journal.

        Raises:
            ConfigError: the journal has this trial, it was not proposed, or its configuration is not in the
                space.
        """
        if trial.trial in self._trials:
            raise ConfigError(f"trial {trial.trial} is already in the journal")
        if trial.trial not in self.pending:
            raise ConfigError(f"trial {trial.trial} was not proposed")
        if self.space.canonical(trial.config) != trial.config:
            raise ConfigError(f"the configuration of trial {trial.trial} is not canonical")
        append_record(self.path, trial)
        self._trials[trial.trial] = trial
        self.pending.pop(trial.trial, None)

    def best(self) -> Trial | None:
        """The `ok` trial of the highest value, the earliest of equals; None without one."""
        return max((t for t in self.trials if t.status == "ok"), key=value_of, default=None)

    def winner(
        self, n_val: float, tolerance: float | None = None, *, without: Collection[int] = ()
    ) -> Trial | None:
        """The smallest trial near the best, by params or by the cost of `pareto`; see `goal.winner`.

        Args:
            without: numbers of trials that may not win.
        """
        size = self.goal.pareto_cost if self.goal.objective == "pareto" else "params"
        trials = [trial for trial in self.trials if trial.trial not in without]
        return winner(trials, n_val, tolerance, size, self.goal.metric)

    def front(self) -> list[Trial]:
        """The `ok` trials that no other one matches or beats in value and the cost of `pareto`."""
        return front(self.trials, self.goal.pareto_cost)

    def _next_number(self) -> int:
        return next(n for n in count() if n not in self._trials and n not in self._numbers)

    def _configs(
        self, k: int, n: int, initial_trials: int
    ) -> tuple[list[Configuration], Hyperparameters | None]:
        """Up to `n` configurations to try next, and the surrogate's hyperparameters if it proposed them."""
        number, pending = self._next_number(), [proposal.config for proposal in self.pending.values()]
        tried = [*(trial.config for trial in self.trials), *pending]
        # Each proposal has a seed of its own.
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{number}".encode()).digest()[:4], "big")
        if self.algorithm == "layerwise":
            depths = layerwise_depths(self.space.depth, self.every)
            return [config for config in map(self.space.neutral, depths) if config not in tried][:n], None
        if self.algorithm == "random":
            return draw(self.space, self.goal, 1, k, seed, exclude=tried, method="random"), None
        for config in self._earlier if self.algorithm == "bo" else ():
            if self.space.holds(config, k) and config not in tried and self.goal.is_feasible(config):
                return [config], None
        depths = [one.depth for one in self.trials] + [one.depth for one in self.pending.values()]
        is_first_depth = all(depth >= k for depth in depths)
        if self.algorithm == "sobol" or (is_first_depth and number < initial_trials):
            if self.algorithm == "bo" and self.space.nested:
                # The first thing to learn is what narrowing all layers costs in accuracy.
                for start in self._starts(k):
                    if start not in tried and self.goal.is_feasible(start):
                        return [start], None
            if self.algorithm == "sobol":
                return draw(self.space, self.goal, 1, k, self.seed, exclude=tried), None
            # Draws that train fewer units differ in few choices, and say little about the others.
            drawn = draw(self.space, self.goal, DRAWN, k, self.seed, exclude=tried)
            deep = [config for config in drawn if config[FIRST_TRAINED] == k]
            return (deep or drawn)[:1], None
        slim = self.goal.slim
        fits = [trial.surrogate for trial in self.trials if trial.surrogate is not None]
        return propose(
            self.space,
            k,
            self.trials,
            pending,
            # Whether a proposal is slim depends on its number.
            n if slim is None else 1,
            seed,
            goal=self.goal,
            slim=slim is not None and slim.is_due(number),
            start=fits[-1] if fits else None,
        )


def proposals_of(journal: Path) -> Path:
    """The file beside a journal that holds the proposals."""
    return journal.with_suffix(f".proposed{journal.suffix}")


def _read_trials(path: Path, space: Space) -> list[Trial]:
    """The trials of a journal, in the order in which they ended; none if there is no file.

    Raises:
        RunFolderError: a line is no trial of this space.
    """
    trials: list[Trial] = []
    for line, trial in enumerate(read_records(path, Trial, ordered=False), start=1):
        try:
            trials.append(replace(trial, config=_in_space(trial.config, space)))
        except ConfigError as error:
            raise RunFolderError(
                f"line {line} of the journal {path} does not fit this search ({error})",
                "give the options that it was made with, or another folder, or start over with `fresh=true`",
            ) from error
    return trials


def _in_space(config: Configuration, space: Space) -> Configuration:
    """A configuration of a journal as a space has it; choices that were not there then are neutral.

    Raises:
        ConfigError: it is not in the space.
    """
    first = config.get(FIRST_TRAINED)
    if isinstance(first, int) and first > space.depth:
        raise ConfigError(f"it trains unit {first}, and the deepest one is {space.depth} (`max_units`)")
    exit = config.get(EXIT, 0)
    if isinstance(exit, int) and exit > space.exits:
        raise ConfigError(f"its network ends before unit {exit}, and the earliest end is {space.exits}")
    # If the space now has fewer units, choices of the deeper ones were neutral.
    own = {name: value for name, value in config.items() if name in space.names}
    found = space.canonical(own)
    for choice in space.choices:
        if choice.removes_unit and own.get(choice.name, choice.neutral) != found[choice.name]:
            raise ConfigError(f"it removes unit {choice.unit} by {choice.name}, which is now an `exit`")
    return found


def _without_trial(proposed: Sequence[Proposal], space: Space, done: Collection[int]) -> dict[int, Proposal]:
    """Proposals without a trial, by number; those that are not in the space are left out."""
    left = {}
    for proposal in proposed:
        if proposal.trial not in done:
            with suppress(ConfigError):
                left[proposal.trial] = replace(proposal, config=_in_space(proposal.config, space))
    return left
