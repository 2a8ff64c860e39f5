"""What a search is after: the value of a trial, bounds on its network, and which trial wins."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tascnet.errors import ConfigError, SurgeryError
from tascnet.run.records import Trial

if TYPE_CHECKING:
    from tascnet.tuning.cost import Cost

Objective: TypeAlias = Literal["accuracy", "loss", "pareto"]
CostName: TypeAlias = Literal["params", "flops"]


class KnownCosts:
    """Exact params and FLOPs of canonical configurations' whole networks, each computed once."""

    def __init__(self, cost: "Callable[[dict[str, Any]], Cost]") -> None:
        self._cost = cost
        self._known: dict[frozenset[tuple[str, Any]], Cost | None] = {}

    def __call__(self, config: Mapping[str, Any]) -> "Cost | None":
        """The cost of a network; None: it cannot be built (`SurgeryError`)."""
        key = frozenset(config.items())
        if key not in self._known:
            try:
                self._known[key] = self._cost(dict(config))
            except SurgeryError:
                self._known[key] = None
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class Slim:
    """How the smallest network is sought among those near the best: what the winner will be.

    Args:
        every: of so many proposals one seeks a smaller network rather than a better one.
        n_val: number of validation samples behind an accuracy.
        tolerance: in accuracy, see `winner`; None: one binomial standard error of the best's accuracy.
    """

    every: int
    n_val: int
    tolerance: float | None = None

    def is_due(self, number: int) -> bool:
        """Whether the proposal of this number seeks a smaller network."""
        return number % self.every == self.every - 1

    def margin(self, best: float) -> float:
        """How far below the best accuracy is near it."""
        return near_margin(best, self.n_val, self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The objective of a search and its bounds.

    Params and FLOPs are known exactly before training, so that networks beyond their bounds are never
    proposed. Latency is known once a network is built and measured, so it is learnt.

    Args:
        objective: `accuracy` within the bounds, `loss`, or `pareto`: accuracy against a cost.
        cost: of networks; one that cannot be built is outside every bound.
        max_params: most params of the whole network; None: no bound.
        max_flops: most FLOPs of one sample.
        max_latency_ms: highest latency.
        pareto_cost: the cost of `pareto`.
        reference: value and cost of a network that exists before the search: the hypervolume of a `pareto`
            front counts from there. None: inferred from what was observed.
        slim: how the smallest network is sought among those near the best; None: it is not.

    Raises:
        ConfigError: a bound on params or FLOPs, `pareto` or `slim` without `cost`; a bound that is not
            positive; `slim` with an objective other than accuracy.
    """

    objective: Objective = "accuracy"
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
        if self.slim is not None and self.objective != "accuracy":
            raise ConfigError(
                f"slim proposals compare accuracies, but the objective is {self.objective}",
                "take the objective accuracy, or leave slim proposals out",
            )
        for name, bound in [*self.bounds.items(), ("latency", self.max_latency_ms)]:
            if bound is not None and not bound > 0:
                raise ConfigError(f"the bound on {name} is {bound}, expected a positive number")

    @property
    def bounds(self) -> dict[CostName, int]:
        """The bounds that are checked before a configuration is proposed."""
        both: dict[CostName, int | None] = {"params": self.max_params, "flops": self.max_flops}
        return {name: bound for name, bound in both.items() if bound is not None}

    def value(self, val_accuracy: float, val_loss: float) -> float:
        """What a trial is judged by: larger is better.

        Args:
            val_accuracy: best validation accuracy, in [0, 1].
            val_loss: lowest validation loss.
        """
        return -val_loss if self.objective == "loss" else val_accuracy

    def costs(self, config: Mapping[str, Any]) -> "Cost | None":
        """Params and FLOPs of a canonical configuration; None: its network cannot be built."""
        if self.cost is None:
            raise ConfigError("this search has no cost model")
        return self.cost(config)

    def excess(self, config: Mapping[str, Any]) -> float:
        """The largest ratio of a cost to its bound: at most 1 where all are kept; 0 without bounds."""
        if not self.bounds:
            return 0.0
        cost = self.costs(config)
        return math.inf if cost is None else max(getattr(cost, n) / bound for n, bound in self.bounds.items())

    def is_feasible(self, config: Mapping[str, Any]) -> bool:
        """Whether a canonical configuration keeps the bounds on params and FLOPs.

        With `pareto` it must have a cost, too.
        """
        if self.objective == "pareto" and self.costs(config) is None:
            return False
        return self.excess(config) <= 1

    def is_too_slow(self, latency_ms: float | None) -> bool:
        """Whether a measured latency is above its bound."""
        return None not in (latency_ms, self.max_latency_ms) and latency_ms > self.max_latency_ms  # type: ignore[operator]


def winner(
    trials: Sequence[Trial],
    n_val: int,
    tolerance: float | None = None,
    size: CostName = "params",
) -> Trial | None:
    """Of the trials near the best one the smallest; of equally small ones the better, then the earlier.

    The best has the highest value, and near are those whose validation accuracy is at most `tolerance` below
    its. Only trials that are `ok` compete; None without one.

    Args:
        trials: of any status.
        n_val: number of validation samples behind an accuracy.
        tolerance: in accuracy; 0: only the highest value is near; None: one binomial standard error of the
            best's accuracy.
        size: what is smallest. The winner is non-dominated in accuracy against it.
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    best = max(ok, key=value_of, default=None)
    if best is None:
        return None
    margin = near_margin(_accuracy(best), n_val, tolerance)
    lowest = _accuracy(best) - margin
    near = [t for t in ok if value_of(t) >= value_of(best) or (margin > 0 and _accuracy(t) >= lowest)]
    return min(near, key=lambda trial: (_size(trial, size), -value_of(trial), trial.trial))


def front(trials: Sequence[Trial], cost: CostName) -> list[Trial]:
    """The `ok` trials that no other one matches or beats in value and cost, cheapest first.

    Of trials with the same value and cost the earliest.
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    found: list[Trial] = []
    for trial in sorted(ok, key=lambda trial: (_size(trial, cost), -value_of(trial), trial.trial)):
        if not found or value_of(trial) > value_of(found[-1]):
            found.append(trial)
    return found


def near_margin(best: float, n_val: int, tolerance: float | None) -> float:
    """How far below the best accuracy is near it: the tolerance, or one standard error where it is None."""
    return binomial_error(best, n_val) if tolerance is None else tolerance


def binomial_error(p: float, n: int) -> float:
    """The standard error `sqrt(p (1 - p) / n)` of an accuracy `p` measured on `n` samples."""
    return math.sqrt(max(p * (1 - p), 0.0) / n)


def value_of(trial: Trial) -> float:
    """Its value, below all others where it has none."""
    return -math.inf if trial.value is None else trial.value


def _accuracy(trial: Trial) -> float:
    return -math.inf if trial.val_accuracy is None else trial.val_accuracy


def _size(trial: Trial, size: str) -> float:
    own = getattr(trial, size)
    return math.inf if own is None else float(own)
