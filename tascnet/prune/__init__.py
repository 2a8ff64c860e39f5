"""Stage two: filters that stayed redundant through training are pulled together and removed.

Words: a filter's *trajectory* is its weights after every recorded epoch, one long vector; in a width
group it joins the filters of all coupled layers. A *pair* is two filters of a group with similar
trajectories; its *removed* member is the one with the smaller L1 norm, the other is *kept*.
Symbols: `n` filters of a group, `d` weights of one filter over all of the group's layers, `e` epochs.

Source: Basha et al. 2022, TASCNet (arXiv 2205.05967), after History Based Filter Pruning.
"""

from tascnet.prune.fold import fold_into, input_moments
from tascnet.prune.history import FilterHistory
from tascnet.prune.merge import average_into
from tascnet.prune.pairs import most_similar_pairs, pair_count, split_members
from tascnet.prune.regulariser import INERT_RATIO, PairRegulariser, gradient_ratio, pair_penalty
from tascnet.prune.schedule import (
    IterationPlan,
    IterationResult,
    StepPlan,
    Verdict,
    decide,
    plan_iteration,
    plan_step,
)

__all__ = [
    "INERT_RATIO",
    "FilterHistory",
    "IterationPlan",
    "IterationResult",
    "PairRegulariser",
    "StepPlan",
    "Verdict",
    "average_into",
    "decide",
    "fold_into",
    "gradient_ratio",
    "input_moments",
    "most_similar_pairs",
    "pair_count",
    "pair_penalty",
    "plan_iteration",
    "plan_step",
    "split_members",
]
