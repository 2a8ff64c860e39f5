"""Every change of a chain's structure: widths, kernels, activations, and new layers for old ones.

Words: a *width group* is a set of layers whose channels are coupled, so that they can only be removed
together; its *filters* are the layers that produce these channels, its *consumers* those that read them. A
*unit* of it is the least that can be removed: one channel of each layer, or several that belong together.
A layer's name is its dotted module name in the chain, a block's index its position in the chain. An
*example* is one sample `1 x c x h x w` as the first block takes it. A `Trace`, which knows the channels of a
chain, can take its place in every function, so that a network is traced once for each structure.
"""

from tascnet.models.head import he_linear
from tascnet.surgery.ends import Shortener
from tascnet.surgery.groups import Uncut, WidthGroup
from tascnet.surgery.ignored import check_ignored, holds_ignored, is_ignored
from tascnet.surgery.layers import (
    activation_name,
    activations,
    block_of,
    holds_filters,
    is_depthwise,
    is_removable,
    layer_widths,
    replace_layer,
    set_activation,
    set_kernel,
    spatial_convs,
    without_blocks,
)
from tascnet.surgery.narrow import narrow
from tascnet.surgery.rebuild import Rebuilt, Skip, footprint, path_layers, rebuild, shape_after
from tascnet.surgery.scores import CRITERIA, GRADIENTS, Importance, all_channel_scores
from tascnet.surgery.trace import Trace, width_groups

__all__ = [
    "CRITERIA",
    "GRADIENTS",
    "Importance",
    "Rebuilt",
    "Shortener",
    "Skip",
    "Trace",
    "Uncut",
    "WidthGroup",
    "activation_name",
    "activations",
    "all_channel_scores",
    "block_of",
    "check_ignored",
    "footprint",
    "he_linear",
    "holds_filters",
    "holds_ignored",
    "is_depthwise",
    "is_ignored",
    "is_removable",
    "layer_widths",
    "narrow",
    "path_layers",
    "rebuild",
    "replace_layer",
    "set_activation",
    "set_kernel",
    "shape_after",
    "spatial_convs",
    "width_groups",
    "without_blocks",
]
