"""How deep the search goes next, and when it stops: a pure function of the trials so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tascnet.tune.space import FIRST_TRAINED, Space

if TYPE_CHECKING:
    from tascnet.tune.study import Trial

__all__ = ["Advice", "Limits", "next_depth"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to deepen the search and when to end it.

    Args:
        trials_per_depth: trials at each depth; at the first one the quasi-random ones are among them.
        max_units: deepest unit.
        max_trials: trials in all; None: no limit.
        max_seconds: seconds that the trials may take together; None: no limit.
        patience: depths without a better value before the growth ends.
        min_delta: what a depth's best must exceed the best before by, in accuracy.
    """

    trials_per_depth: int
    max_units: int
    max_trials: int | None = None
    max_seconds: float | None = None
    patience: int = 1
    min_delta: float = 0.0


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


def next_depth(trials: "Sequence[Trial]", space: Space, limits: Limits) -> Advice:
    """The depth of the next trial, or that the search ends and why.

    Args:
        trials: all trials so far, failed ones included.
        space: the search space; a depth of which every configuration was tried is done.
        limits: see `Limits`.
    """
    deepest = min(limits.max_units, space.depth)
    depth = max([min(1, deepest), *(trial.depth for trial in trials)])
    if reason := _exhausted_budget(trials, limits):
        return _stop(reason)
    left = _left(trials, space, limits, depth)
    if left > 0:
        return Advice(depth=depth, trials=left, reason=f"depth {depth} has {left} trials left")
    stale = _stale_depths(trials, depth, limits.min_delta)
    if stale >= limits.patience:
        return _stop(f"{stale} {'depth' if stale == 1 else 'depths'} without a better validation accuracy")
    if depth >= deepest:
        return _stop(f"depth {depth} is the deepest allowed")
    left = _left(trials, space, limits, depth + 1)
    return Advice(depth=depth + 1, trials=left, reason=f"depth {depth} is done")


def _stop(reason: str) -> Advice:
    return Advice(depth=None, trials=0, reason=reason)


def _exhausted_budget(trials: "Sequence[Trial]", limits: Limits) -> str | None:
    if limits.max_trials is not None and len(trials) >= limits.max_trials:
        return f"the limit of {limits.max_trials} trials is reached"
    seconds = sum(trial.seconds for trial in trials)
    if limits.max_seconds is not None and seconds >= limits.max_seconds:
        return f"the limit of {limits.max_seconds:g} seconds is reached"
    return None


def _left(trials: "Sequence[Trial]", space: Space, limits: Limits, depth: int) -> int:
    """Trials that the budgets and the space leave at a depth."""
    used = sum(trial.depth == depth for trial in trials)
    tried = {space.key(t.config) for t in trials if int(t.config[FIRST_TRAINED]) in space.firsts(depth)}
    left = min(limits.trials_per_depth - used, space.count(depth) - len(tried))
    if limits.max_trials is not None:
        left = min(left, limits.max_trials - len(trials))
    return max(left, 0)


def _stale_depths(trials: "Sequence[Trial]", depth: int, min_delta: float) -> int:
    """The number of depths, ending with this one, whose best did not exceed the best before."""
    stale = 0
    best: float | None = None
    for d in range(depth + 1):
        values = [t.value for t in trials if t.depth == d and t.value is not None]
        better = bool(values) and (best is None or max(values) > best + min_delta)
        if any(t.depth == d for t in trials):
            stale = 0 if better else stale + 1
        best = max([*values, *([] if best is None else [best])], default=None)
    return stale
