"""Which trials are worth their next epochs, and what those that were not would have reached.

Both are judged by how much the finished trials of the search gained after the same epoch.
"""

import statistics
from collections.abc import Sequence

from tascnet.run.records import Trial
from tascnet.tuning.goal import Goal

# Trials are judged after 3, 6, 12, ... epochs. After the first one, in which the learning rate rises, their
# order says little about the end: a correlation of 0.28, and of 0.88 after three (223 trials, 9 epochs).
FIRST_RUNG = 3
# No trial is stopped before so many were trained to their end.
FINISHED = 3
# How far above the mean gain, in standard deviations, a trial may hope to gain.
HOPE = 1.5


def is_rung(epochs: int) -> bool:
    """Whether trials are judged after this epoch."""
    rung = FIRST_RUNG
    while rung < epochs:
        rung *= 2
    return rung == epochs


def is_promising(curve: Sequence[float], finished: Sequence[Sequence[float]], needed: float) -> bool:
    """Whether a trial may still reach a metric.

    It may if its best so far plus the mean gain of finished trials after this epoch, plus `HOPE` standard
    deviations of these gains, is at least `needed`.

    Args:
        curve: the metric after each epoch so far.
        finished: whole curves of trials that were trained to their end.
        needed: see `least_to_win`.
    """
    gains = gains_after(len(curve), finished)
    if len(gains) < FINISHED:
        return True
    return max(curve) + statistics.fmean(gains) + HOPE * statistics.stdev(gains) >= needed


def gains_after(epochs: int, finished: Sequence[Sequence[float]]) -> list[float]:
    """How much the best of each curve rose after so many epochs; of curves that are longer."""
    return [max(curve) - max(curve[:epochs]) for curve in finished if len(curve) > epochs]


def curves(trials: Sequence[Trial]) -> list[tuple[float, ...]]:
    """Learning curves of the trials that were trained to their end."""
    return [trial.curve for trial in trials if trial.status == "ok" and trial.curve]


def expected_values(trials: Sequence[Trial], goal: Goal) -> list[float | None]:
    """The values of trials; of a stopped one what it would have reached with the mean gain of finished ones.

    A loss does not follow from the curve of a metric, so with the objective `loss` values stay as they are.
    """
    finished = curves(trials)

    def value(trial: Trial) -> float | None:
        if trial.status != "stopped" or trial.value is None or not trial.curve or goal.objective == "loss":
            return trial.value
        gains = gains_after(len(trial.curve), finished)
        # Its weights from before the training may be better than all that follows.
        return max(trial.value, max(trial.curve) + (statistics.fmean(gains) if gains else 0.0))

    return [value(trial) for trial in trials]
