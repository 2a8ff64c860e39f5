"""When a trial is hopeless: the median rule, a pure function of learning curves."""

import statistics
from collections.abc import Sequence


def median_stop(
    curve: Sequence[float], others: Sequence[Sequence[float]], *, stop_epoch: int, stop_trials: int
) -> bool:
    """Whether a trial should end: its best is below the median of what others had averaged by then.

    A stopped trial enters the surrogate's fit with the best value seen until then. That is a lower bound of
    what it would have reached, so the surrogate stays away from where it was. Without it the same place
    would be proposed again, and the worst value of all would say more than was seen.

    Args:
        curve: validation accuracy after each epoch so far.
        others: whole curves of the trials that were trained to their end.
        stop_epoch: no trial ends before this many epochs.
        stop_trials: no trial ends before this many others have reached its epoch.

    Source: Golovin et al. 2017 (Vizier), section 3.2.2: the best value so far against the median of the
    running averages of all completed trials, at equal epochs.
    """
    epochs = len(curve)
    reached = [other for other in others if len(other) >= epochs]
    if epochs < max(stop_epoch, 1) or len(reached) < max(stop_trials, 1):
        return False
    return max(curve) < statistics.median(statistics.fmean(other[:epochs]) for other in reached)
