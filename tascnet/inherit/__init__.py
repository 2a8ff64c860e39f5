"""Ranking, folding, averaging and refitting around a cut: kept channels inherit from removed ones.

Words: `inputs` are, by consumer of a group, the `width x s` positions at which it reads the channels, from
`consumer_inputs`; `moments` are, by consumer, the means and covariances of what it reads there, from
`input_moments`.
Symbols: `n` filters of a group, `d` weights of one filter over all of the group's layers, `b` samples, `p`
pixels, `m` rows, `o` outputs, `g` independent parts of a layer (channels of a depthwise one, else 1).
"""

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
