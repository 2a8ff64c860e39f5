"""How deep the search goes next, and when it stops: a pure function of the trials so far."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from tascnet.errors import plural
from tascnet.options import Tune, TuneBase
from tascnet.run.records import Trial, score
from tascnet.tuning.goal import Goal
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.space import Space

# Trials that say nothing about their depth.
NOT_TRAINED = ("infeasible", "lost")
# Where the options leave the depth and the number of trials open.
DEPTH = 3
TRIALS = 24


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to deepen the search and when to end it.

    Args:
        trials_per_depth: trials at each depth, quasi-random ones included. If only seconds end the search
            (`is_timed`), it stays at the deepest depth until they are spent.
        max_units: deepest unit.
        max_trials: trials in all; None: no limit.
        max_seconds: seconds of all trials together; None: no limit.
        patience: after this many depths without anything better the search ends.
        start_depth: depth of the first trials; 0: the dense head alone.
        every: with `layerwise`, units from one trial to the next; only `max_trials` and `max_seconds` have
            an effect then. None: the search deepens.
    """

    trials_per_depth: int
    max_units: int
    max_trials: int | None = None
    max_seconds: float | None = None
    patience: int = 1
    start_depth: int = 1
    every: int | None = None

    @classmethod
    def of(cls, options: TuneBase, space: Space | None = None) -> Self:
        """The limits that options set.

        Where a `space` is given the search may go to its deepest unit, and begins where the network may end
        earliest and still train the unit before: smaller depths hold later ends alone. The trials of a given
        `max_trials` that these would have had go to the other depths; if one depth is left, it has those of
        two.
        """
        has_budget = options.is_layerwise or options.max_seconds is not None
        every = options.layerwise_every if isinstance(options, Tune) else 1
        start_depth, max_units = options.start_depth, options.max_units or DEPTH
        each = options.trials_per_depth
        if space is not None and not options.is_layerwise:
            max_units = space.depth
            if space.exits:
                start_depth = max(start_depth, min(space.exits + 1, space.depth))
                depths = max_units - start_depth + 1
                each = max(each, math.ceil((options.max_trials or 2 * each) / depths))
        return cls(
            trials_per_depth=each,
            max_units=max_units,
            max_trials=options.max_trials or (None if has_budget else TRIALS),
            max_seconds=options.max_seconds,
            patience=options.patience,
            start_depth=start_depth,
            every=every if options.is_layerwise else None,
        )

    @property
    def is_timed(self) -> bool:
        """Whether seconds limit the search and no number of trials does."""
        return self.max_seconds is not None and self.max_trials is None and self.every is None

    def most_trials(self, space: Space) -> int | None:
        """The number of trials if nothing ends the search early; None: only seconds limit it."""
        if self.is_timed:
            return None
        deepest = self.deepest(space)
        most = self.trials_per_depth * (deepest - min(self.start_depth, deepest) + 1)
        if self.every is not None:
            most = len(layerwise_depths(space.depth, self.every))
        return min(most, self.max_trials or most)

    def deepest(self, space: Space) -> int:
        """The deepest searched unit of a space."""
        return space.depth if self.every else min(self.max_units, space.depth)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The depth of the next trial; None: the search ends, and `reason` says why, or it waits without one."""

    depth: int | None = None
    reason: str = ""


def next_depth(
    trials: Sequence[Trial],
    space: Space,
    limits: Limits,
    goal: Goal | None = None,
    exhausted: Collection[int] = (),
    pending: Sequence[Proposal] = (),
) -> Advice:
    """The depth of the next trial, or why the search ends, or neither: pending trials have to come first.

    A depth is better than those before if one of its `ok` trials has a higher metric than all before; with
    `pareto`, than all before that cost no more, which is when the front's hypervolume grows.
    Depths at which every trial was too slow to be trained, or was lost, do not count.

    Args:
        trials: all trials so far, of any status.
        space: the search space.
        limits: when to deepen and when to end the search.
        goal: None: validation accuracy.
        exhausted: depths without an untried feasible configuration (`Study.exhausted`).
        pending: proposals without a trial yet; they count as trials, and nothing is known of their results.
    """
    seconds = sum(trial.seconds for trial in trials)
    asked: list[Trial | Proposal] = [*trials, *pending]
    if limits.max_trials is not None and len(asked) >= limits.max_trials:
        return Advice(reason=f"the limit of {plural(limits.max_trials, 'trial')} is reached")
    if limits.max_seconds is not None and seconds >= limits.max_seconds:
        return Advice(reason=f"the limit of {limits.max_seconds:g} seconds is reached")
    if limits.every is not None:
        tried = {trial.depth for trial in asked}
        for depth in layerwise_depths(space.depth, limits.every):
            if depth not in tried:
                return Advice(depth=depth)
        return Advice(reason=f"each of the {len(tried)} freezing depths was tried")
    goal = goal or Goal()
    deepest = limits.deepest(space)
    # Trials may be deeper if `max_units` was lowered.
    depth = min(deepest, max([limits.start_depth, *(trial.depth for trial in asked)]))
    while True:
        is_open = limits.is_timed and depth == deepest
        is_full = sum(trial.depth == depth for trial in asked) >= limits.trials_per_depth
        if depth not in exhausted and (is_open or not is_full):
            of_depth = (trial.config for trial in asked if space.holds(trial.config, depth))
            if len({space.key(config) for config in of_depth}) < space.count(depth):
                return Advice(depth=depth)
        stale = _stale_depths(trials, depth, goal)
        if stale >= limits.patience and pending:
            # One of these may be better.
            return Advice()
        if stale >= limits.patience:
            better = f"better validation {goal.metric.replace('_', ' ')}"
            sought = "larger front" if goal.objective == "pareto" else better
            return Advice(reason=f"{plural(stale, 'depth')} without a {sought}")
        if depth >= deepest:
            return Advice(reason=f"depth {depth} is the deepest allowed")
        depth += 1


def layerwise_depths(deepest: int, every: int) -> list[int]:
    """0, `every`, twice that and so on, and `deepest`."""
    return sorted({*range(0, deepest + 1, every), deepest})


def _stale_depths(trials: Sequence[Trial], depth: int, goal: Goal) -> int:
    """The number of depths, ending with this one, that are no better than those before."""
    stale = 0
    for d in range(depth + 1):
        here = [trial for trial in trials if trial.depth == d and trial.status not in NOT_TRAINED]
        before = [trial for trial in trials if trial.depth < d and trial.status == "ok"]
        is_better = any(trial.status == "ok" and _is_better(trial, before, goal) for trial in here)
        if here:
            stale = 0 if is_better else stale + 1
    return stale


def _is_better(trial: Trial, others: Sequence[Trial], goal: Goal) -> bool:
    if goal.objective == "pareto":
        cost = getattr(trial, goal.pareto_cost)
        others = [other for other in others if getattr(other, goal.pareto_cost) <= cost]
    scores = [score(other, goal.metric) or 0.0 for other in others]
    return not scores or (score(trial, goal.metric) or 0.0) > max(scores)
