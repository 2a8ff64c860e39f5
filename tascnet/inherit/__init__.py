"""Ranking, folding, averaging and refitting around a cut: kept channels inherit from removed ones.

Words: a *unit* of a group is what is removed at a time: one channel of each layer, or several that belong
together. `inputs` are, by consumer of a group, the positions `n x v x r` at which it reads the channels, from
`input_positions`; `moments` are, by consumer, the means and covariances of what it reads there, from
`input_moments`.
Symbols: `n` units of a group, `s` channels of one unit in a layer, `v` different ones that a consumer reads,
`r` pixels of each, `d` weights of one filter over all of the group's layers, `b` samples, `p` pixels, `m`
rows, `o` outputs, `g` independent parts of a layer (channels of a depthwise one, else 1).
"""

from tascnet.inherit.filters import input_positions
from tascnet.inherit.fold import average_into, fold_into, fold_pairs, nearest_kept
from tascnet.inherit.gradients import loss_gradients, output_gradients
from tascnet.inherit.moments import ChannelMoments, Moments, input_moments
from tascnet.inherit.ranking import Ranking, most_similar_pairs, rank_pairs, rank_scores
from tascnet.inherit.reconstruction import hand_over, rank_all_by_reconstruction, rank_by_reconstruction
from tascnet.inherit.refitting import refit

__all__ = [
    "ChannelMoments",
    "Moments",
    "Ranking",
    "average_into",
    "fold_into",
    "fold_pairs",
    "hand_over",
    "input_moments",
    "input_positions",
    "loss_gradients",
    "most_similar_pairs",
    "nearest_kept",
    "output_gradients",
    "rank_all_by_reconstruction",
    "rank_by_reconstruction",
    "rank_pairs",
    "rank_scores",
    "refit",
]
