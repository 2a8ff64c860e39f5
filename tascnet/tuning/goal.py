"""What a search is after: the value of a trial, and the bounds that its network must keep."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tascnet.errors import ConfigError, SurgeryError
from tascnet.tuning.space import Configuration
from tascnet.tuning.winner import near_margin

if TYPE_CHECKING:
    from tascnet.tuning.cost import Cost

_CostOf: TypeAlias = "Callable[[Configuration], Cost]"
Objective: TypeAlias = Literal["accuracy", "loss", "constrained", "pareto"]
_CostName: TypeAlias = Literal["params", "flops"]


@dataclass(frozen=True, kw_only=True)
class Slim:
    """The smallest network among those near the best: what the winner will be.

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
        objective: `accuracy`, `loss`; `constrained`: accuracy within the bounds; `pareto`: accuracy against
            a cost.
        cost: exact params and FLOPs of a canonical configuration's whole network; a network that cannot be
            built (`SurgeryError`) is outside every bound.
        max_params: most params of the whole network; None: no bound.
        max_flops: most FLOPs of one sample.
        max_latency_ms: highest latency.
        pareto_cost: the cost of `pareto`.
        reference: a value and a cost that are to be had without a search: what a front of `pareto` is worth
            counts from there. None: inferred from what was observed.
        slim: how the smallest network is sought among those near the best; None: it is not.

    Raises:
        ConfigError: a bound on params or FLOPs, `pareto` or `slim` without `cost`; `constrained` without a
            bound; a bound that is not positive; `slim` with an objective other than accuracy.
    """

    objective: Objective = "accuracy"
    cost: "_CostOf | None" = None
    max_params: int | None = None
    max_flops: int | None = None
    max_latency_ms: float | None = None
    pareto_cost: _CostName = "flops"
    reference: tuple[float, float] | None = None
    slim: "Slim | None" = None
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given: list[tuple[str, float]] = [*self.bounds.items()]
        if self.max_latency_ms is not None:
            given.append(("latency", self.max_latency_ms))
        if self.objective == "constrained" and not given:
            raise ConfigError("the objective is constrained, but no bound is given", "bound params or flops")
        if self.cost is None and (self.bounds or self.objective == "pareto" or self.slim is not None):
            raise ConfigError("bounds on params or flops, pareto and slim proposals need a cost model")
        if self.slim is not None and self.objective not in ("accuracy", "constrained"):
            raise ConfigError(
                f"slim proposals compare accuracies, but the objective is {self.objective}",
                "take objective accuracy or constrained, or leave slim proposals out",
            )
        for name, bound in given:
            if not bound > 0:
                raise ConfigError(f"the bound on {name} is {bound}, expected a positive number")

    @property
    def bounds(self) -> dict[_CostName, int]:
        """The bounds that are checked before a configuration is proposed."""
        both: dict[_CostName, int | None] = {"params": self.max_params, "flops": self.max_flops}
        return {name: bound for name, bound in both.items() if bound is not None}

    def value(self, val_accuracy: float, val_loss: float) -> float:
        """What a trial is judged by: larger is better.

        Args:
            val_accuracy: best validation accuracy, in [0, 1].
            val_loss: lowest validation loss.
        """
        return -val_loss if self.objective == "loss" else val_accuracy

    def costs(self, config: Mapping[str, Any]) -> "Cost | None":
        """Params and FLOPs of a canonical configuration, computed once; None: it cannot be built."""
        if self.cost is None:
            raise ConfigError("this search has no cost model")
        key = frozenset(config.items())
        if key not in self._known:
            try:
                self._known[key] = self.cost(dict(config))
            except SurgeryError:
                self._known[key] = None
        known: Cost | None = self._known[key]
        return known

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
