"""What stays takes over: folding, averaging, reconstruction and refitting after a cut.

`rank_*` order the channels of a group; `fold_into`, `fold_pairs` and `average_into` fold removed ones into
the kept ones; `refit` fits every layer to reproduce its outputs before the cut.
Symbols: `n` filters of a group, `d` weights of one filter over all of the group's layers.
"""

from tascnet.inherit.average import average_into
from tascnet.inherit.fold import Moments, fold_into, input_moments
from tascnet.inherit.gradients import loss_gradients, output_gradients
from tascnet.inherit.handover import hand_over
from tascnet.inherit.pairs import most_similar_pairs, pair_count, split_members
from tascnet.inherit.proportion import fold_pairs, nearest_kept
from tascnet.inherit.ranking import Ranking, rank_pairs, rank_scores
from tascnet.inherit.reconstruction import rank_all_by_reconstruction, rank_by_reconstruction
from tascnet.inherit.refitting import refit

__all__ = [
    "Moments",
    "Ranking",
    "average_into",
    "fold_into",
    "fold_pairs",
    "hand_over",
    "input_moments",
    "loss_gradients",
    "most_similar_pairs",
    "nearest_kept",
    "output_gradients",
    "pair_count",
    "rank_all_by_reconstruction",
    "rank_by_reconstruction",
    "rank_pairs",
    "rank_scores",
    "refit",
    "split_members",
]
