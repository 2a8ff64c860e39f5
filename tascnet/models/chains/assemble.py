"""Putting modules together into named chains."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn


def sequence(items: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """A named `nn.Sequential`."""
    return nn.Sequential(OrderedDict(items))


def in_place_off(chain: nn.Sequential) -> nn.Sequential:
    """The chain with no activation that overwrites its input, which may be a cached feature."""
    for module in chain.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    return chain
