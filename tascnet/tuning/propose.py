"""The next configurations of a search that learns: a pure function of what is known.

Fit, acquire, climb: no space is ever enumerated and no point is proposed twice.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tascnet.tuning.acquisition import Acquisition, Latency, feasibility, hypervolume, improvement, reaching
from tascnet.tuning.climb import Values, climb
from tascnet.tuning.encoding import Coding, encode
from tascnet.tuning.goal import Goal
from tascnet.tuning.sampling import draw
from tascnet.tuning.space import FIRST_TRAINED, Configuration, Space
from tascnet.tuning.surrogate import (
    Columns,
    Hyperparameters,
    Kernel,
    Scale,
    fit,
    hyperparameters,
    quiet,
    seeded,
)

# Climbs may start at so many quasi-random configurations and at the neighbours of the best ones.
_POOL = 512
_BEST = 3


class Observation(NamedTuple):
    """What is known of a configuration.

    Args:
        config: canonical.
        value: larger is better; None: it failed, which counts as the worst value seen; or its latency is
            above the bound, so that it was not trained and its value is left open.
        latency_ms: None: not measured.
        may_win: False for a trial that was stopped early: it is learnt from, but never handed over.
    """

    config: Mapping[str, Any]
    value: float | None
    latency_ms: float | None = None
    may_win: bool = True


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What to try, and from what it was learnt.

    Args:
        configs: new configurations.
        surrogate: hyperparameters of the processes of `value` and `latency`, for the `start` of a later
            proposal; None where nothing was fitted.
    """

    configs: list[Configuration]
    surrogate: Hyperparameters | None = None


def propose(
    space: Space,
    k: int,
    observed: Sequence[Observation | tuple[Mapping[str, Any], float | None]],
    pending: Sequence[Mapping[str, Any]],
    n: int,
    seed: int,
    *,
    goal: Goal | None = None,
    slim: bool = False,
    start: Mapping[str, Any] | None = None,
    kernel: Kernel = "matern",
    coding: Coding = "onehot",
) -> Suggestion:
    """New configurations of depth `k`: a pure function of its arguments.

    A Gaussian process (float64, inputs in [0, 1], standardised outputs) is fitted to what is observed at any
    depth. What a configuration is expected to bring (`acquisition`) picks one after the other. Before two
    different values are known the points are quasi-random.

    Args:
        space: the search space.
        k: depth.
        observed: an `Observation`, or its first fields, for each canonical configuration known.
        pending: configurations that are being evaluated.
        n: how many.
        seed: of everything random.
        goal: what is sought, and the bounds that every proposal keeps; None: the value alone.
        slim: seek the smallest network near the best by `goal.slim`, where one is found that is smaller than
            the smallest seen there; pending configurations are then only left out.
        start: `Suggestion.surrogate` of an earlier proposal, where the fit starts.
        kernel: `matern` 5/2 or `rbf` with a lengthscale for each choice, or `mixed`, which compares
            categories by equality and wants `coding="index"`.
        coding: how categories become columns.

    Returns:
        Up to `n` configurations, none of them observed or pending; fewer when no more are left.

    Source: Ament et al. 2023 (log expected improvement); Hvarfner et al. 2024 (priors).
    """
    goal = goal or Goal()
    known = _Known(space, k, [Observation(*entry) for entry in observed], pending, coding, goal)
    if not known.is_informative:
        return Suggestion(configs=draw(space, goal, n, k, seed, exclude=known.configs))
    with seeded(seed), quiet():
        learnt, record = _learn(known, kernel, start or {})
        found = _choose(known, learnt, n, seed, slim=slim)
        return Suggestion(configs=found, surrogate=record)


@dataclass(frozen=True)
class _Known:
    """What is known when a proposal is made."""

    space: Space
    k: int
    observed: Sequence[Observation]
    pending: Sequence[Mapping[str, Any]]
    coding: Coding
    goal: Goal

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        return [*(entry.config for entry in self.observed), *self.pending]

    @cached_property
    def tried(self) -> list[Observation]:
        """What was trained or failed: what the process of values learns from."""
        return [o for o in self.observed if o.value is not None or not self.goal.is_too_slow(o.latency_ms)]

    @cached_property
    def timed(self) -> list[Observation]:
        """What the process of latency learns from."""
        return [o for o in self.observed if self.goal.max_latency_ms is not None and o.latency_ms is not None]

    @property
    def has_values(self) -> bool:
        return any(entry.value is not None for entry in self.tried)

    @property
    def is_informative(self) -> bool:
        """Whether there are two different values, or something was too slow and latencies differ."""
        values = {entry.value for entry in self.tried if entry.value is not None}
        latencies = {entry.latency_ms for entry in self.timed}
        is_slow = any(self.goal.is_too_slow(latency) for latency in latencies)
        return len(values) > 1 or (is_slow and len(latencies) > 1)

    @cached_property
    def deepest(self) -> int:
        """The depth at which everything known can be encoded."""
        return max([self.k, *(int(config[FIRST_TRAINED]) for config in self.configs)])

    @cached_property
    def columns(self) -> Columns:
        return Columns.of(self.space, self.deepest, self.coding)

    @cached_property
    def cost_scale(self) -> Scale:
        return Scale.of([self._log_cost(entry.config) for entry in self.observed])

    @cached_property
    def filled(self) -> list[float]:
        """Values of what was tried, failures at the worst value seen."""
        worst = min(entry.value for entry in self.tried if entry.value is not None)
        return [worst if entry.value is None else entry.value for entry in self.tried]

    @cached_property
    def value_scale(self) -> Scale:
        return Scale.of(self.filled)

    @property
    def reference(self) -> Tensor | None:
        """Standardised value and cost column of the goal's reference."""
        if self.goal.reference is None:
            return None
        value, cost = self.goal.reference
        return torch.cat([self.value_scale([value]), -self.cost_scale([math.log(cost)])], dim=-1).squeeze(0)

    def points(self, configs: Sequence[Mapping[str, Any]]) -> Tensor:
        """`n x d`; with `pareto` one more column holds the standardised log cost, negated."""
        X = encode(self.space, configs, self.deepest, self.coding)
        if self.goal.objective != "pareto":
            return X
        return torch.cat([X, -self.cost_scale([self._log_cost(config) for config in configs])], dim=-1)

    def values(self) -> Tensor:
        """`filled`, standardised."""
        return self.value_scale(self.filled)

    def _log_cost(self, config: Mapping[str, Any]) -> float:
        """Infinite for a network that cannot be built: it has no finite acquisition value."""
        cost = self.goal.costs(config)
        return math.inf if cost is None else math.log(getattr(cost, self.goal.pareto_cost))


@dataclass(frozen=True, kw_only=True)
class _Learnt:
    """The fitted processes.

    Args:
        model: of values; None before anything was trained.
        X: what it was fitted to.
        latency: None without a bound on it.
    """

    model: Any
    X: Tensor
    latency: Latency | None

    def acquisition(self, known: _Known, pending: Tensor | None, seed: int) -> Acquisition:
        """What the goal makes of it."""
        if self.model is None:
            assert self.latency is not None, "values or latencies are known"
            return feasibility(self.latency)
        if known.goal.objective == "pareto":
            return hypervolume(self.model, self.X, pending, self.latency, known.reference)
        return improvement(self.model, self.X, pending, self.latency, seed)


def _learn(known: _Known, kernel: Kernel, start: Mapping[str, Any]) -> tuple[_Learnt, Hyperparameters]:
    """The processes, and their hyperparameters."""
    record: Hyperparameters = {}
    X = known.points([entry.config for entry in known.tried])
    model, latency = None, None
    if known.has_values:
        model = fit(X, known.values(), known.columns, kernel, start.get("value"))
        record["value"] = hyperparameters(model, known.columns)
    if known.goal.max_latency_ms is not None and known.timed:
        latency = _learn_latency(known, known.goal.max_latency_ms, kernel, start.get("latency"))
        record["latency"] = hyperparameters(latency.model, known.columns)
    return _Learnt(model=model, X=X, latency=latency), record


def _learn_latency(
    known: _Known, bound_ms: float, kernel: Kernel, start: Mapping[str, Any] | None
) -> Latency:
    logs = [math.log(entry.latency_ms) for entry in known.timed if entry.latency_ms is not None]
    scale = Scale.of(logs)
    X = known.points([entry.config for entry in known.timed])
    model = fit(X, scale(logs), known.columns, kernel, start)
    return Latency(model=model, bound=scale([math.log(bound_ms)]).item())


def _choose(known: _Known, learnt: _Learnt, n: int, seed: int, *, slim: bool) -> list[Configuration]:
    """One after the other, each in view of those before."""
    chosen: list[Configuration] = []
    for i in range(n):
        busy = [*known.pending, *chosen]
        pending = known.points(busy) if busy else None
        found = _smallest(known, busy, learnt, seed + i) if slim else None
        found = found or _best(known, busy, learnt.acquisition(known, pending, seed + i), seed + i)
        if found is None:
            break
        chosen.append(found)
    return chosen


def _best(
    known: _Known, busy: Sequence[Mapping[str, Any]], acquisition: Acquisition, seed: int
) -> Configuration | None:
    """The best new feasible configuration that climbs lead to; None when none is left."""
    space, k, goal = known.space, known.k, known.goal
    taken = [*(entry.config for entry in known.observed), *busy]
    seen = {space.key(config) for config in taken}

    def is_new(config: Configuration) -> bool:
        return space.key(config) not in seen and goal.is_feasible(config)

    values = Values(lambda configs: acquisition(known.points(configs)).tolist())
    found = climb(space, k, values, _pool(known, seed), is_new)
    if found is not None:
        return found
    return climb(space, k, values, draw(space, goal, 1, k, seed, exclude=taken), is_new)


def _smallest(
    known: _Known, busy: Sequence[Mapping[str, Any]], learnt: _Learnt, seed: int
) -> Configuration | None:
    """Where the most params are expected to be saved, against the smallest network near the best.

    The share saved, times the probability that the trial comes out near the best. None where nothing
    smaller is found, or nothing was trained yet.
    """
    space, goal = known.space, known.goal
    trained = [(o.config, o.value) for o in known.tried if o.value is not None and o.may_win]
    if goal.slim is None or not trained or learnt.model is None:
        return None
    best = max(value for _, value in trained)
    lowest = best - goal.slim.margin(best)
    winner = min((config for config, value in trained if value >= lowest), key=partial(_params, goal))
    smallest = _params(goal, winner)
    near_best = reaching(learnt.model, known.value_scale([lowest]).item(), learnt.latency)
    seen = {space.key(config) for config in (*(o.config for o in known.observed), *busy)}

    def is_new_and_smaller(config: Configuration) -> bool:
        return _params(goal, config) < smallest and space.key(config) not in seen and goal.is_feasible(config)

    def expected(configs: list[Configuration]) -> list[float]:
        params = torch.tensor([_params(goal, config) for config in configs], dtype=torch.float64)
        saved = (1 - params / smallest).clamp(min=0)
        return (near_best(known.points(configs)) + saved.log()).tolist()

    pool = [*space.neighbours(winner, known.k), *_pool(known, seed)]
    return climb(space, known.k, Values(expected), pool, is_new_and_smaller)


def _params(goal: Goal, config: Mapping[str, Any]) -> float:
    """Infinite for a network that cannot be built."""
    cost = goal.costs(config)
    return math.inf if cost is None else cost.params


def _pool(known: _Known, seed: int) -> list[Configuration]:
    """Where a climb may start: around the best, at the pre-trained settings, anywhere."""
    space, k = known.space, known.k
    good = [(entry.value, -i) for i, entry in enumerate(known.observed) if entry.value is not None]
    best = [known.observed[-i].config for _, i in heapq.nlargest(_BEST, good)]
    near = [near for config in best for near in space.neighbours(config, k)]
    return [*near, *(space.neutral(f) for f in space.firsts(k)), *space.sample(_POOL, k, seed)]
