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

from tascnet.prune.allocate import Limits, allocate
from tascnet.prune.costs import WidthCosts
from tascnet.prune.fold import Moments, fold_into, input_moments
from tascnet.prune.gradients import loss_gradients, output_gradients
from tascnet.prune.handover import hand_over
from tascnet.prune.history import FilterHistory
from tascnet.prune.importance import find_importance
from tascnet.prune.merge import average_into
from tascnet.prune.pairs import most_similar_pairs, pair_count, split_members
from tascnet.prune.proportion import fold_pairs, nearest_kept
from tascnet.prune.ranking import Ranking, rank_pairs, rank_scores
from tascnet.prune.reconstruction import rank_all_by_reconstruction, rank_by_reconstruction
from tascnet.prune.refitting import refit
from tascnet.prune.regulariser import INERT_RATIO, PairRegulariser, gradient_ratio, pair_penalty
from tascnet.prune.schedule import (
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
    "Moments",
    "PairRegulariser",
    "Ranking",
    "StepPlan",
    "Verdict",
    "WidthCosts",
    "allocate",
    "average_into",
    "decide",
    "find_importance",
    "fold_into",
    "fold_pairs",
    "gradient_ratio",
    "hand_over",
    "input_moments",
    "landed",
    "loss_gradients",
    "missed_goals",
    "most_similar_pairs",
    "nearest_kept",
    "output_gradients",
    "pair_count",
    "pair_penalty",
    "plan_iteration",
    "plan_step",
    "rank_all_by_reconstruction",
    "rank_by_reconstruction",
    "rank_pairs",
    "rank_scores",
    "refit",
    "removable",
    "split_members",
]
