"""Which trials are handed over: the winner, and the front of value against cost."""

import math
from collections.abc import Sequence
from typing import Literal

from tascnet.tuning.trial import Trial


def winner(
    trials: Sequence[Trial],
    n_val: int,
    tolerance: float | None = None,
    size: Literal["params", "flops"] = "params",
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


def front(trials: Sequence[Trial], cost: Literal["params", "flops"]) -> list[Trial]:
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
    known = getattr(trial, size)
    return math.inf if known is None else float(known)
