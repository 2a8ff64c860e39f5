"""How deep the search goes next, and when it stops: a pure function of the trials so far."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from tascnet.errors import plural
from tascnet.options import Tune, TuneBase
from tascnet.run.records import Trial
from tascnet.tuning.goal import Goal
from tascnet.tuning.space import FIRST_TRAINED, Space

# Where the options leave the depth and the number of trials open.
DEPTH = 3
TRIALS = 24


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to deepen the search and when to end it.

    Args:
        trials_per_depth: trials at each depth; at the first one the quasi-random ones are among them. Where
            only seconds end the search (`is_timed`), it remains at the deepest one until they are spent.
        max_units: deepest unit.
        max_trials: trials in all; None: no limit.
        max_seconds: seconds that the trials may take together; None: no limit.
        patience: depths that bring nothing better before the growth ends.
        start_depth: depth of the first trials; 0: the dense head alone.
        every: one trial at every so many units, from 0 to the deepest of the space, in place of the growth;
            `trials_per_depth`, `max_units`, `patience` and `start_depth` are ignored then.
    """

    trials_per_depth: int
    max_units: int
    max_trials: int | None = None
    max_seconds: float | None = None
    patience: int = 1
    start_depth: int = 1
    every: int | None = None

    @classmethod
    def of(cls, options: TuneBase) -> Self:
        """The limits that options set; the algorithm layerwise goes through all depths once."""
        has_budget = options.is_layerwise or options.max_seconds is not None
        every = options.layerwise_every if isinstance(options, Tune) else 1
        return cls(
            trials_per_depth=options.trials_per_depth,
            max_units=options.max_units or DEPTH,
            max_trials=options.max_trials or (None if has_budget else TRIALS),
            max_seconds=options.max_seconds,
            patience=options.patience,
            start_depth=options.start_depth,
            every=every if options.is_layerwise else None,
        )

    @property
    def is_timed(self) -> bool:
        """Whether there are seconds to spend, and no number of trials ends the search before."""
        return self.max_seconds is not None and self.max_trials is None and self.every is None

    def most_trials(self, space: Space) -> int | None:
        """The number of trials if nothing ends the search early; None where only seconds end it."""
        if self.is_timed:
            return None
        if self.every is None:
            return self.max_trials or TRIALS
        depths = len(layerwise_depths(space.depth, self.every))
        return min(depths, self.max_trials or depths)

    def deepest(self, space: Space) -> int:
        """The deepest unit of a space that is searched."""
        return space.depth if self.every else min(self.max_units, space.depth)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What comes next.

    Args:
        depth: the depth to run at; None: stop.
        trials: how many trials are left at that depth; 0 when stopping.
        reason: why the search stops, or why it is at that depth.
    """

    depth: int | None
    trials: int
    reason: str


def next_depth(
    trials: Sequence[Trial],
    space: Space,
    limits: Limits,
    goal: Goal | None = None,
    exhausted: Collection[int] = (),
) -> Advice:
    """The depth of the next trial, or that the search ends and why.

    A depth brought something better when one of its trials that are `ok` has a validation accuracy above all
    before; with `pareto`, above that of all before that cost no more, which is when the front's hypervolume
    grows. Depths of which every trial was too slow to be trained are passed over.

    Args:
        trials: all trials so far, of any status.
        space: the search space; a depth of which every configuration was tried is done.
        limits: see `Limits`.
        goal: None: validation accuracy.
        exhausted: depths without an untried feasible configuration (`Study.exhausted`).
    """
    seconds = sum(trial.seconds for trial in trials)
    if limits.max_trials is not None and len(trials) >= limits.max_trials:
        return _stop(f"the limit of {limits.max_trials} trials is reached")
    if limits.max_seconds is not None and seconds >= limits.max_seconds:
        return _stop(f"the limit of {limits.max_seconds:g} seconds is reached")
    if limits.every is not None:
        return _next_layer(trials, space, limits, limits.every)
    goal = goal or Goal()
    deepest = limits.deepest(space)
    depth = max([min(limits.start_depth, deepest), *(trial.depth for trial in trials)])
    while True:
        quota = None if limits.is_timed and depth == deepest else limits.trials_per_depth
        left = 0 if depth in exhausted else _left(trials, space, limits, depth, quota)
        if left > 0:
            return Advice(depth=depth, trials=left, reason=f"depth {depth} has {left} trials left")
        stale = _stale_depths(trials, depth, goal)
        if stale >= limits.patience:
            sought = "larger front" if goal.objective == "pareto" else "better validation accuracy"
            return _stop(f"{plural(stale, 'depth')} without a {sought}")
        if depth >= deepest:
            return _stop(f"depth {depth} is the deepest allowed")
        depth += 1


def layerwise_depths(deepest: int, every: int) -> list[int]:
    """0, `every`, twice that and so on, and `deepest`."""
    return sorted({*range(0, deepest + 1, every), deepest})


def _next_layer(trials: Sequence[Trial], space: Space, limits: Limits, every: int) -> Advice:
    tried = {trial.depth for trial in trials}
    left = [depth for depth in layerwise_depths(space.depth, every) if depth not in tried]
    if not left:
        return _stop(f"each of the {len(tried)} freezing depths was tried")
    most = len(left) if limits.max_trials is None else min(len(left), limits.max_trials - len(trials))
    return Advice(depth=left[0], trials=most, reason=f"{len(left)} freezing depths are left")


def _stop(reason: str) -> Advice:
    return Advice(depth=None, trials=0, reason=reason)


def _left(trials: Sequence[Trial], space: Space, limits: Limits, depth: int, quota: int | None) -> int:
    """Trials that the budgets and the space leave at a depth; `quota` is the most that it may have."""
    used = sum(trial.depth == depth for trial in trials)
    tried = {space.key(t.config) for t in trials if int(t.config[FIRST_TRAINED]) in space.firsts(depth)}
    left = space.count(depth) - len(tried)
    if quota is not None:
        left = min(left, quota - used)
    if limits.max_trials is not None:
        left = min(left, limits.max_trials - len(trials))
    return max(left, 0)


def _stale_depths(trials: Sequence[Trial], depth: int, goal: Goal) -> int:
    """The number of depths, ending with this one, that brought nothing better than those before."""
    stale = 0
    for d in range(depth + 1):
        here = [trial for trial in trials if trial.depth == d and trial.status != "infeasible"]
        before = [t for t in trials if t.depth < d and t.status == "ok"]
        better = any(t.status == "ok" and _is_better(t, before, goal) for t in here)
        if here:
            stale = 0 if better else stale + 1
    return stale


def _is_better(trial: Trial, others: Sequence[Trial], goal: Goal) -> bool:
    """Whether it is above all others, of `pareto` those that cost no more."""
    if goal.objective == "pareto":
        cost = getattr(trial, goal.pareto_cost)
        others = [other for other in others if getattr(other, goal.pareto_cost) <= cost]
    accuracies = [other.val_accuracy for other in others if other.val_accuracy is not None]
    return not accuracies or (trial.val_accuracy or 0.0) > max(accuracies)
