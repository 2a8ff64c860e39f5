"""The goal of a search: the value of a trial, bounds on its network, and which trial wins."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tascnet.errors import ConfigError, SurgeryError
from tascnet.run.records import Trial, reaches, score
from tascnet.tuning.cost import Cost

Objective: TypeAlias = Literal["accuracy", "loss", "pareto"]
CostName: TypeAlias = Literal["params", "flops"]


class KnownCosts:
    """Exact params and FLOPs of the networks of canonical configurations, each computed once."""

    def __init__(self, cost: Callable[[dict[str, Any]], Cost]) -> None:
        self._cost = cost
        self._known: dict[frozenset[tuple[str, Any]], Cost | None] = {}

    def __call__(self, config: Mapping[str, Any]) -> Cost | None:
        """The cost of a network; None: it cannot be built."""
        key = frozenset(config.items())
        if key not in self._known:
            try:
                self._known[key] = self._cost(dict(config))
            except SurgeryError:
                self._known[key] = None
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class Slim:
    """Proposals that seek the smallest network near the best, which is what wins.

    Args:
        every: one in this many proposals seeks a smaller network in place of a better one.
        n_val: validation samples, as many as count for a standard error; see `near_margin`.
        tolerance: in the metric; None: one standard error of the best.
    """

    every: int
    n_val: float
    tolerance: float | None = None

    def is_due(self, number: int) -> bool:
        return number % self.every == self.every - 1

    def margin(self, best: float) -> float:
        return near_margin(best, self.n_val, self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The objective of a search and its bounds.

    Params and FLOPs are exact before training, so networks beyond their bounds are never proposed. Latency
    is measured once a network is built, so the surrogate learns it.

    Args:
        objective: `accuracy`, `loss`, or `pareto`: accuracy against a cost. Accuracy is that of the metric.
        metric: `accuracy` or `balanced_accuracy`.
        cost: of networks; one that cannot be built is outside every bound.
        max_params: of the whole network; None: no bound.
        max_flops: of one sample; None: no bound.
        max_latency_ms: of one sample; None: no bound.
        pareto_cost: the cost of `pareto`.
        reference: value and cost from which the hypervolume of a `pareto` front counts; None: inferred from
            the trials.
        slim: None: no proposal seeks a smaller network.

    Raises:
        ConfigError: a bound is not positive; bounds on params or FLOPs, `pareto` and `slim` need `cost`.
    """

    objective: Objective = "accuracy"
    metric: str = "accuracy"
    cost: KnownCosts | None = None
    max_params: int | None = None
    max_flops: int | None = None
    max_latency_ms: float | None = None
    pareto_cost: CostName = "flops"
    reference: tuple[float, float] | None = None
    slim: Slim | None = None

    def __post_init__(self) -> None:
        if self.cost is None and (self.bounds or self.objective == "pareto" or self.slim is not None):
            raise ConfigError("bounds on params or flops, pareto and slim proposals need a cost model")
        for name, bound in [*self.bounds.items(), ("latency", self.max_latency_ms)]:
            if bound is not None and not bound > 0:
                raise ConfigError(f"the bound on {name} is {bound}, expected a positive number")

    @property
    def bounds(self) -> dict[CostName, int]:
        """The bounds that every proposal keeps."""
        both: dict[CostName, int | None] = {"params": self.max_params, "flops": self.max_flops}
        return {name: bound for name, bound in both.items() if bound is not None}

    def value(self, val_score: float, val_loss: float) -> float:
        """The value of a trial, from its metric and its loss; larger is better."""
        return -val_loss if self.objective == "loss" else val_score

    def costs(self, config: Mapping[str, Any]) -> Cost | None:
        """Params and FLOPs of a canonical configuration; None: its network cannot be built."""
        assert self.cost is not None, "bounds, pareto and slim proposals have a cost model"
        return self.cost(config)

    def excess(self, config: Mapping[str, Any]) -> float:
        """The largest ratio of a cost to its bound: at most 1 if all are kept, 0 without bounds."""
        if not self.bounds:
            return 0.0
        cost = self.costs(config)
        return math.inf if cost is None else max(getattr(cost, n) / bound for n, bound in self.bounds.items())

    def is_feasible(self, config: Mapping[str, Any]) -> bool:
        """Whether a canonical configuration keeps the bounds, and with `pareto` can be built."""
        if self.objective == "pareto" and self.costs(config) is None:
            return False
        return self.excess(config) <= 1

    def is_too_slow(self, latency_ms: float | None) -> bool:
        """Whether a latency is above its bound."""
        return None not in (latency_ms, self.max_latency_ms) and latency_ms > self.max_latency_ms  # type: ignore[operator]


def winner(
    trials: Sequence[Trial],
    n_val: float,
    tolerance: float | None = None,
    size: CostName = "params",
    metric: str = "accuracy",
) -> Trial | None:
    """The smallest of the `ok` trials near the best; of equally small ones the better, then the earlier.

    Near the best, which has the highest value, are trials whose metric is at most `tolerance` below its. None
    without an `ok` trial.

    Args:
        trials: of any status.
        n_val: validation samples, as many as count for a standard error; see `near_margin`.
        tolerance: in the metric; 0: only the highest value is near; None: one standard error of the best.
        size: by which trials are compared.
        metric: `accuracy` or `balanced_accuracy`.
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    best = max(ok, key=value_of, default=None)
    highest = None if best is None else score(best, metric)
    if best is None or highest is None:
        return None
    margin = near_margin(highest, n_val, tolerance)
    near = [
        trial
        for trial in ok
        if value_of(trial) >= value_of(best)
        or (margin > 0 and reaches(score(trial, metric) or 0.0, highest - margin))
    ]
    return min(near, key=lambda trial: _smallest_first(trial, size))


def least_to_win(
    trials: Sequence[Trial],
    goal: Goal,
    network: Cost,
    n_val: float,
    tolerance: float | None = None,
) -> float:
    """The metric that a new trial has to reach to change which trial wins, or the front.

    A network that is smaller than the winner has to come near the best; another one has to be as good as the
    best. With `pareto` it has to be as good as the best of those that cost no more.

    Args:
        trials: so far.
        goal: of the search.
        network: what the new trial's network costs.
        n_val: see `winner`.
        tolerance: see `winner`.
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    if goal.objective == "pareto":
        ok = [t for t in ok if getattr(t, goal.pareto_cost) <= getattr(network, goal.pareto_cost)]
    highest = max((score(trial, goal.metric) or 0.0 for trial in ok), default=-math.inf)
    first = winner(ok, n_val, tolerance, metric=goal.metric)
    if goal.objective == "pareto" or first is None or network.params >= (first.params or 0):
        return highest
    return highest - near_margin(highest, n_val, tolerance)


def front(trials: Sequence[Trial], cost: CostName) -> list[Trial]:
    """The `ok` trials that no other one matches or beats in value and cost, cheapest first.

    Of trials with the same value and cost it holds the earliest.
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    found: list[Trial] = []
    for trial in sorted(ok, key=lambda trial: _smallest_first(trial, cost)):
        if not found or value_of(trial) > value_of(found[-1]):
            found.append(trial)
    return found


def near_margin(best: float, n_val: float, tolerance: float | None) -> float:
    """How far below the best accuracy another one is near it: `tolerance`, or one standard error if None.

    The binomial standard error of an accuracy `p` on `n` samples is `sqrt(p (1 - p) / n)`. For a balanced
    accuracy `n` is `train.evaluate.effective_samples`.
    """
    return math.sqrt(max(best * (1 - best), 0.0) / n_val) if tolerance is None else tolerance


def value_of(trial: Trial) -> float:
    """The value of a trial; one without a value is below all others."""
    return -math.inf if trial.value is None else trial.value


def _smallest_first(trial: Trial, cost: CostName) -> tuple[float, float, int]:
    """A sort key: the smaller, then the better, then the earlier trial comes first."""
    size = getattr(trial, cost)
    return math.inf if size is None else float(size), -value_of(trial), trial.trial
