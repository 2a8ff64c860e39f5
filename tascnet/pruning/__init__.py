"""Stage two: filters that others make up for, or that stayed redundant through training, are removed.

A criterion ranks the filters of each group (`Ranking`), counts by group follow from the rankings or from
equal shares (`allocate`, `plan_iteration`), and what stays takes over from what goes (`fold_into`,
`fold_pairs`, `average_into`, `refit`).

Words: a filter's *trajectory* is its weights after every recorded epoch, one long vector; in a width
group it joins the filters of all coupled layers. A *pair* is two filters of a group with similar
trajectories; its *removed* member is the one with the smaller L1 norm, the other is *kept*.
Symbols: `n` filters of a group, `d` weights of one filter over all of the group's layers, `e` epochs.

Source: Basha et al. 2022, TASCNet (arXiv 2205.05967), after History Based Filter Pruning.
"""

from tascnet.pruning.allocate import Limits, allocate
from tascnet.pruning.costs import WidthCosts
from tascnet.pruning.history import FilterHistory
from tascnet.pruning.importance import find_importance
from tascnet.pruning.regulariser import INERT_RATIO, PairRegulariser, gradient_ratio, pair_penalty
from tascnet.pruning.schedule import (
    Goals,
    IterationPlan,
    IterationResult,
    StepPlan,
    Verdict,
    decide,
    landed,
    missed_goals,
    plan_iteration,
    plan_step,
    removable,
)

__all__ = [
    "INERT_RATIO",
    "FilterHistory",
    "Goals",
    "IterationPlan",
    "IterationResult",
    "Limits",
    "PairRegulariser",
    "StepPlan",
    "Verdict",
    "WidthCosts",
    "allocate",
    "decide",
    "find_importance",
    "gradient_ratio",
    "landed",
    "missed_goals",
    "pair_penalty",
    "plan_iteration",
    "plan_step",
    "removable",
]
