"""Removal of whole blocks that the network fits together without."""

from collections import OrderedDict
from collections.abc import Collection

from torch import nn

from tascnet.models.blocks import Residual


def is_removable(block: nn.Module) -> bool:
    """Whether a block keeps its input's shape and passes it on: a residual one with an identity shortcut."""
    return isinstance(block, Residual) and isinstance(block.shortcut, nn.Identity)


def without_blocks(chain: nn.Sequential, removed: Collection[str]) -> tuple[nn.Sequential, list[int]]:
    """The other blocks of a chain, under their names, and the indices of those that follow a removed one."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    following = []
    # A block may stand in a chain more than once.
    for name, block in chain._modules.items():
        if name in removed:
            following.append(len(blocks))
        else:
            assert block is not None
            blocks[name] = block
    return nn.Sequential(blocks), following
