"""The next configurations of a search that learns: fit, acquire, climb.

The space is never enumerated, and no configuration is proposed twice.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tascnet.run.records import Trial
from tascnet.tuning.acquisition import (
    Acquisition,
    LatencyModel,
    feasibility,
    hypervolume,
    improvement,
    reaching,
)
from tascnet.tuning.climb import Values, climb
from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.goal import Goal
from tascnet.tuning.promotion import expected_values
from tascnet.tuning.sampling import draw
from tascnet.tuning.space import Configuration, Space
from tascnet.tuning.surrogate import Hyperparameters, Standardiser, fit, hyperparameters, quiet, seeded

# Climbs may start at this many quasi-random configurations and at the neighbours of this many best ones.
_POOL = 512
_BEST = 3


def propose(
    space: Space,
    k: int,
    observed: Sequence[Trial],
    pending: Sequence[Mapping[str, Any]],
    n: int,
    seed: int,
    *,
    goal: Goal | None = None,
    slim: bool = False,
    start: Mapping[str, Any] | None = None,
) -> tuple[list[Configuration], Hyperparameters | None]:
    """New configurations of depth `k`: a pure function of its arguments.

    A Gaussian process (float64, inputs in [0, 1], standardised outputs) is fitted to the trials of all
    depths. Its acquisition function picks one configuration after the other. Before there are two different
    values the configurations are quasi-random.

    Args:
        space: the search space.
        k: depth.
        observed: all trials. A failed one counts as the worst value seen, a stopped one as what it would have
            reached (`promotion.expected_values`); an infeasible one, which was too slow to be trained, has
            no value to learn from.
        pending: configurations that are being evaluated.
        n: how many.
        seed: of everything random.
        goal: its bounds hold for every proposal; None: the highest value.
        slim: seek the smallest network near the best by `goal.slim`; if none is found that is smaller than
            the smallest seen there, the next best configuration is taken.
        start: hyperparameters of an earlier proposal, from which the fit starts.

    Returns:
        Up to `n` configurations, none of them observed or pending, fewer when no more are left; and the
        hyperparameters of the processes of `value` and `latency`, None if nothing was fitted.

    Source: Ament et al. 2023 (log expected improvement); Hvarfner et al. 2024 (priors).
    """
    evidence = _Evidence(space, k, observed, pending, goal or Goal())
    if not evidence.is_informative:
        return draw(space, evidence.goal, n, k, seed, exclude=evidence.configs), None
    chosen: list[Configuration] = []
    with seeded(seed), quiet():
        learnt, record = _learn(evidence, start or {})
        for own_seed in range(seed, seed + n):
            busy = [*pending, *chosen]
            found = _smallest(evidence, busy, learnt, own_seed) if slim else None
            if found is None:
                points = evidence.points(busy) if busy else None
                found = _best(evidence, busy, learnt.acquisition(evidence, points, own_seed), own_seed)
            if found is None:
                break
            chosen.append(found)
    return chosen, record


@dataclass(frozen=True)
class _Evidence:
    """What a proposal is made from."""

    space: Space
    k: int
    observed: Sequence[Trial]
    pending: Sequence[Mapping[str, Any]]
    goal: Goal

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        return [*(entry.config for entry in self.observed), *self.pending]

    @cached_property
    def tried(self) -> list[Trial]:
        """Trials that the process of values learns from: those that were trained, or failed by themselves."""
        own = [o for o in self.observed if o.status != "lost"]
        return [o for o in own if o.value is not None or not self.goal.is_too_slow(o.latency_ms)]

    @cached_property
    def timed(self) -> list[Trial]:
        """Trials that the process of latency learns from."""
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
        """The depth at which all configurations can be encoded."""
        return max([self.k, *map(self.space.depth_of, self.configs)])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return columns(self.space, self.deepest)

    @cached_property
    def cost_scale(self) -> Standardiser:
        return Standardiser.of([self._log_cost(entry.config) for entry in self.observed])

    @cached_property
    def filled(self) -> list[float]:
        """The values of `tried`, failures at the worst value seen."""
        values = expected_values(self.tried, self.goal)
        worst = min(value for value in values if value is not None)
        return [worst if value is None else value for value in values]

    @cached_property
    def value_scale(self) -> Standardiser:
        return Standardiser.of(self.filled)

    @property
    def reference(self) -> Tensor | None:
        """Standardised value and cost column of the goal's reference."""
        if self.goal.reference is None:
            return None
        value, cost = self.goal.reference
        return torch.cat([self.value_scale([value]), -self.cost_scale([math.log(cost)])], dim=-1).squeeze(0)

    def points(self, configs: Sequence[Mapping[str, Any]]) -> Tensor:
        """`n x d`; with `pareto` one more column holds the standardised log cost, negated."""
        X = encode(self.space, configs, self.deepest)
        if self.goal.objective != "pareto":
            return X
        return torch.cat([X, -self.cost_scale([self._log_cost(config) for config in configs])], dim=-1)

    def values(self) -> Tensor:
        """`filled`, standardised."""
        return self.value_scale(self.filled)

    def is_new(self, busy: Sequence[Mapping[str, Any]]) -> Callable[[Configuration], bool]:
        """Whether a configuration was neither observed nor is `busy`, and keeps the bounds."""
        seen = {self.space.key(config) for config in (*(o.config for o in self.observed), *busy)}
        return lambda config: self.space.key(config) not in seen and self.goal.is_feasible(config)

    def _log_cost(self, config: Mapping[str, Any]) -> float:
        """Infinite for a network that cannot be built, so that its acquisition value is not finite."""
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
    latency: LatencyModel | None

    def acquisition(self, evidence: _Evidence, pending: Tensor | None, seed: int) -> Acquisition:
        """The acquisition function of the goal."""
        if self.model is None:
            assert self.latency is not None, "there are values or latencies"
            return feasibility(self.latency)
        if evidence.goal.objective == "pareto":
            return hypervolume(self.model, self.X, pending, self.latency, evidence.reference)
        return improvement(self.model, self.X, pending, self.latency, seed)


def _learn(evidence: _Evidence, start: Mapping[str, Any]) -> tuple[_Learnt, Hyperparameters]:
    """The processes, and their hyperparameters."""
    record: Hyperparameters = {}
    X = evidence.points([entry.config for entry in evidence.tried])
    model, latency, bound_ms = None, None, evidence.goal.max_latency_ms
    if evidence.has_values:
        model = fit(X, evidence.values(), evidence.columns, start.get("value"))
        record["value"] = hyperparameters(model, evidence.columns)
    if bound_ms is not None and evidence.timed:
        logs = [math.log(entry.latency_ms) for entry in evidence.timed if entry.latency_ms is not None]
        scale = Standardiser.of(logs)
        points = evidence.points([entry.config for entry in evidence.timed])
        timer = fit(points, scale(logs), evidence.columns, start.get("latency"))
        latency = LatencyModel(model=timer, bound=scale([math.log(bound_ms)]).item())
        record["latency"] = hyperparameters(timer, evidence.columns)
    return _Learnt(model=model, X=X, latency=latency), record


def _best(
    evidence: _Evidence, busy: Sequence[Mapping[str, Any]], acquisition: Acquisition, seed: int
) -> Configuration | None:
    """The best new feasible configuration that climbs lead to; None when none is left."""
    space, k, is_new = evidence.space, evidence.k, evidence.is_new(busy)
    values = Values(lambda configs: acquisition(evidence.points(configs)).tolist())
    found = climb(space, k, values, _pool(evidence, seed), is_new)
    if found is not None:
        return found
    taken = [*(entry.config for entry in evidence.observed), *busy]
    return climb(space, k, values, draw(space, evidence.goal, 1, k, seed, exclude=taken), is_new)


def _smallest(
    evidence: _Evidence, busy: Sequence[Mapping[str, Any]], learnt: _Learnt, seed: int
) -> Configuration | None:
    """The configuration that is expected to save most params against the smallest network near the best.

    What is expected is the share saved, times the probability that the trial is near the best. None if
    nothing smaller is found, or nothing was trained yet.
    """
    space, goal = evidence.space, evidence.goal
    trained = [(o.config, o.value) for o in evidence.tried if o.value is not None and o.status == "ok"]
    if goal.slim is None or not trained or learnt.model is None:
        return None
    best = max(value for _, value in trained)
    lowest = best - goal.slim.margin(best)
    near = [config for config, value in trained if value >= lowest]
    level = evidence.value_scale([lowest]).item()
    model = learnt.model
    if busy:
        # Those that are being trained count as trained, with their posterior means as values.
        points = evidence.points(busy)
        with torch.no_grad():
            means = model.posterior(points).mean
            model = model.condition_on_observations(points, means)
        near += [dict(config) for config, mean in zip(busy, means.flatten(), strict=True) if mean >= level]
    winner = min(near, key=partial(_params, goal))
    smallest = _params(goal, winner)
    near_best = reaching(model, level, learnt.latency)
    is_new = evidence.is_new(busy)

    def is_new_and_smaller(config: Configuration) -> bool:
        return _params(goal, config) < smallest and is_new(config)

    def expected(configs: list[Configuration]) -> list[float]:
        params = torch.tensor([_params(goal, config) for config in configs], dtype=torch.float64)
        saved = (1 - params / smallest).clamp(min=0)
        return (near_best(evidence.points(configs)) + saved.log()).tolist()

    pool = [*space.neighbours(winner, evidence.k), *_pool(evidence, seed)]
    return climb(space, evidence.k, Values(expected), pool, is_new_and_smaller)


def _params(goal: Goal, config: Mapping[str, Any]) -> float:
    """Infinite for a network that cannot be built."""
    cost = goal.costs(config)
    return math.inf if cost is None else cost.params


def _pool(evidence: _Evidence, seed: int) -> list[Configuration]:
    """Where climbs may start: around the best, at the pre-trained settings, anywhere."""
    space, k = evidence.space, evidence.k
    good = [(entry.value, -i) for i, entry in enumerate(evidence.observed) if entry.value is not None]
    best = [evidence.observed[-i].config for _, i in heapq.nlargest(_BEST, good)]
    near = [near for config in best for near in space.neighbours(config, k)]
    return [
        *near,
        *(space.neutral(f, e) for e in space.exits_to(k) for f in space.firsts(k, e)),
        *space.sample(_POOL, k, seed),
    ]
