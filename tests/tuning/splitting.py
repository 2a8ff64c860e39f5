"""Tiny networks in which a block that can be removed decides how the channels around it are grouped."""

from torch import nn

from tascnet.models.blocks import Residual
from tests.models.toys import body, conv
from tests.surgery.networks import graph, network


def removable(inner: nn.Module) -> Residual:
    return Residual(inner, nn.Identity(), nn.ReLU())


def branches() -> nn.Sequential:
    """The block writes the first and the last channels of the stem by layers of their own."""
    inner = graph(
        {"narrow": conv(8, 3, 1), "wide": conv(8, 5)},
        ["layer", "narrow", "%0"],
        ["layer", "wide", "%0"],
        ["cat", ["%1", "%2"], 1],
    )
    return network(("stem", conv(3, 8)), ("block", removable(inner)), ("last", conv(8, 6)), width=6)


def bundles() -> nn.Sequential:
    """The block couples the channels of the stem in pairs."""
    inner = body(("paired", conv(8, 8, groups=4)), ("bn", nn.BatchNorm2d(8)))
    return network(("stem", conv(3, 8)), ("block", removable(inner)), ("last", conv(8, 6)), width=6)


def swapped() -> nn.Sequential:
    """The block couples the channels of two layers before it."""
    stem = graph(
        {"a": conv(3, 4), "b": conv(3, 4, 1)},
        ["layer", "a", "%0"],
        ["layer", "b", "%0"],
        ["cat", ["%1", "%2"], 1],
    )
    inner = graph(
        {"each": conv(8, 8, groups=8)},
        ["layer", "each", "%0"],
        ["chunk", "%1", 2, 1],
        ["getitem", "%2", 0],
        ["getitem", "%2", 1],
        ["cat", ["%4", "%3"], 1],
    )
    return network(("stem", stem), ("block", removable(inner)), ("last", conv(8, 6)), width=6)


SPLITTING = {"branches": branches, "bundles": bundles, "swapped": swapped}
