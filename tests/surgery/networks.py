"""Tiny networks with one peculiarity each, and what can be cut in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tascnet.models.blocks import L2Norm, MaxOverTime, Residual, SliceAndPad
from tascnet.models.graph import Graph, decode_step
from tascnet.models.layers import GRN, BlurPool2d, Conv2dSame, LayerNorm2d, LayerScale, Offset, Permute
from tascnet.surgery import WidthGroup
from tests.models.toys import TOYS, body, conv, settle


@dataclass(frozen=True)
class Network:
    """A network and what is expected of it.

    Args:
        make: the chain, for images `b x 3 x 8 x 8`.
        groups: by name, the units and the channels in each.
        reasons: why layers other than the classifier cannot be cut.
        mixers: by group.
    """

    make: Callable[[], nn.Sequential]
    groups: Mapping[str, tuple[int, int]]
    reasons: Mapping[str, str] = field(default_factory=dict)
    mixers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def silence(chain: nn.Sequential, group: WidthGroup, removed: list[int]) -> None:
    """Make the group's channels zero at its filters and behind each normalisation."""
    with torch.no_grad():
        for name, positions in (*group.outputs.items(), *group.passed.items()):
            layer = chain.get_submodule(name)
            at = positions[removed].flatten()
            if getattr(layer, "weight", None) is not None:
                layer.weight[at] = 0
            if getattr(layer, "bias", None) is not None:
                layer.bias[at] = 0


def graph(layers: dict[str, nn.Module], *steps: list[Any], **weights: Any) -> Graph:
    return Graph(layers, [decode_step(step) for step in steps], weights)


def network(*blocks: tuple[str, nn.Module], width: int) -> nn.Sequential:
    """The blocks, then a classifier on the mean of each of `width` channels."""
    return settle(
        body(
            *blocks,
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(width, 5)),
        )
    )


def excitation() -> nn.Sequential:
    block = graph(
        {"fc1": conv(8, 4, 1), "relu": nn.ReLU(), "fc2": conv(4, 8, 1, bias=True), "gate": nn.Sigmoid()},
        ["mean", "%0", [2, 3], True],
        ["layer", "fc1", "%1"],
        ["layer", "relu", "%2"],
        ["layer", "fc2", "%3"],
        ["layer", "gate", "%4"],
        ["mul", "%0", "%5"],
    )
    return network(("stem", conv(3, 8)), ("se", block), ("last", conv(8, 6)), width=6)


def effective_excitation() -> nn.Sequential:
    """Its only convolution reads and writes the same channels."""
    block = graph(
        {"fc": conv(8, 8, 1, bias=True), "gate": nn.Hardsigmoid()},
        ["mean", "%0", [2, 3], True],
        ["layer", "fc", "%1"],
        ["layer", "gate", "%2"],
        ["mul", "%0", "%3"],
    )
    return network(("stem", conv(3, 8)), ("ese", block), width=8)


def reparametrised() -> nn.Sequential:
    """Two convolutions and a batch-norm of the same input, as in training of RepVGG."""
    block = graph(
        {"conv3": conv(8, 8), "conv1": conv(8, 8, 1), "bn": nn.BatchNorm2d(8), "relu": nn.ReLU()},
        ["layer", "conv3", "%0"],
        ["layer", "conv1", "%0"],
        ["add", "%1", "%2"],
        ["layer", "bn", "%0"],
        ["add", "%3", "%4"],
        ["layer", "relu", "%5"],
    )
    return network(("stem", conv(3, 8)), ("rep", block), width=8)


def grouped() -> nn.Sequential:
    """A bottleneck with a convolution of four groups."""
    inner = body(
        ("conv1", conv(6, 8, 1)),
        ("bn1", nn.BatchNorm2d(8)),
        ("relu1", nn.ReLU()),
        ("conv2", conv(8, 8, groups=4, bias=True)),
        ("relu2", nn.ReLU()),
        ("conv3", conv(8, 6, 1)),
    )
    block = Residual(inner, nn.Identity(), nn.ReLU())
    return network(("stem", conv(3, 6)), ("block", block), width=6)


def multiplied() -> nn.Sequential:
    """A depthwise convolution with two filters for each channel."""
    wide = nn.Conv2d(4, 8, 3, padding=1, groups=4)
    return network(("stem", conv(3, 4)), ("wide", wide), ("last", conv(8, 6)), width=6)


def group_norms() -> nn.Sequential:
    return network(
        ("stem", conv(3, 8)),
        ("gn", nn.GroupNorm(4, 8)),
        ("relu", nn.ReLU()),
        ("conv", conv(8, 6)),
        ("one", nn.GroupNorm(1, 6)),
        ("last", conv(6, 4)),
        width=4,
    )


def channels_last() -> nn.Sequential:
    """ConvNeXt: its stream is normalised over channels, its expansion is not."""
    inner = body(
        ("dw", conv(8, 8, groups=8, bias=True)),
        ("there", Permute((0, 2, 3, 1))),
        ("norm", nn.LayerNorm(8)),
        ("fc1", nn.Linear(8, 12)),
        ("gelu", nn.GELU()),
        ("fc2", nn.Linear(12, 8)),
        ("back", Permute((0, 3, 1, 2))),
        ("scale", LayerScale((8, 1, 1))),
    )
    block = Residual(inner, nn.Identity(), nn.Identity())
    return network(("stem", conv(3, 8)), ("norm", LayerNorm2d(8)), ("block", block), width=8)


def response_norm() -> nn.Sequential:
    inner = body(
        ("there", Permute((0, 2, 3, 1))),
        ("fc1", nn.Linear(6, 8)),
        ("grn", GRN(8, -1)),
        ("fc2", nn.Linear(8, 6)),
        ("back", Permute((0, 3, 1, 2))),
    )
    block = Residual(inner, nn.Identity(), nn.ReLU())
    return network(("stem", conv(3, 6)), ("block", block), width=6)


def shuffled() -> nn.Sequential:
    """ShuffleNet: half of the channels pass by, and both halves are interleaved."""
    block = graph(
        {"conv1": conv(4, 6, 1), "relu": nn.ReLU(), "conv2": conv(6, 4, 1)},
        ["split", "%0", [4, 4], 1],
        ["getitem", "%1", 0],
        ["getitem", "%1", 1],
        ["layer", "conv1", "%3"],
        ["layer", "relu", "%4"],
        ["layer", "conv2", "%5"],
        ["cat", ["%2", "%6"], 1],
        ["shape", "%7"],
        ["getitem", "%8", 0],
        ["getitem", "%8", 1],
        ["floordiv", "%10", 2],
        ["getitem", "%8", 2],
        ["getitem", "%8", 3],
        ["reshape", "%7", ["%9", 2, "%11", "%12", "%13"]],
        ["transpose", "%14", 1, 2],
        ["reshape", "%15", ["%9", -1, "%12", "%13"]],
    )
    return network(("stem", conv(3, 8)), ("block", block), ("last", conv(8, 6)), width=6)


def partial() -> nn.Sequential:
    """CSPNet: a part of the stem's channels goes through a block, all are joined again."""
    block = graph(
        {"conv1": conv(5, 4), "relu": nn.ReLU(), "conv2": conv(4, 5), "merge": conv(8, 6, 1)},
        ["split", "%0", [3, 5], 1],
        ["getitem", "%1", 0],
        ["getitem", "%1", 1],
        ["layer", "conv1", "%3"],
        ["layer", "relu", "%4"],
        ["layer", "conv2", "%5"],
        ["add", "%6", "%3"],
        ["cat", ["%7", "%2"], 1],
        ["layer", "merge", "%8"],
    )
    return network(("stem", conv(3, 8)), ("bn", nn.BatchNorm2d(8)), ("csp", block), width=6)


def chunked() -> nn.Sequential:
    """Res2Net: each chunk is added to the convolution of the one before."""
    block = graph(
        {"conv0": conv(4, 4), "conv1": conv(4, 4)},
        ["chunk", "%0", 3, 1],
        ["getitem", "%1", 0],
        ["getitem", "%1", 1],
        ["getitem", "%1", 2],
        ["layer", "conv0", "%2"],
        ["add", "%5", "%3"],
        ["layer", "conv1", "%6"],
        ["cat", ["%5", "%7", "%4"], 1],
    )
    return network(("stem", conv(3, 12)), ("res2", block), ("last", conv(12, 6)), width=6)


def selected() -> nn.Sequential:
    """SKNet: two paths, weighted for each channel by a softmax over the paths; all sizes are literals."""
    block = graph(
        {"a": conv(6, 8), "b": conv(6, 8, 5), "fc1": conv(8, 4, 1), "fc2": conv(4, 16, 1)},
        ["layer", "a", "%0"],
        ["layer", "b", "%0"],
        ["stack", ["%1", "%2"], 1],
        ["sum", "%3", [1], False],
        ["mean", "%4", [2, 3], True],
        ["layer", "fc1", "%5"],
        ["layer", "fc2", "%6"],
        ["reshape", "%7", [-1, 2, 8, 1, 1]],
        ["softmax", "%8", 1],
        ["mul", "%3", "%9"],
        ["sum", "%10", [1], False],
    )
    return network(("stem", conv(3, 6)), ("sk", block), ("last", conv(8, 6)), width=6)


def selected_by_shape() -> nn.Sequential:
    """As `selected`, of one convolution whose output is reshaped by sizes that are computed."""
    block = graph(
        {"a": conv(6, 16), "fc1": conv(8, 4, 1), "fc2": conv(4, 16, 1)},
        ["layer", "a", "%0"],
        ["shape", "%1"],
        ["getitem", "%2", 0],
        ["getitem", "%2", 1],
        ["floordiv", "%4", 2],
        ["getitem", "%2", 2],
        ["getitem", "%2", 3],
        ["reshape", "%1", ["%3", 2, "%5", "%6", "%7"]],
        ["sum", "%8", [1], False],
        ["mean", "%9", [2, 3], True],
        ["layer", "fc1", "%10"],
        ["layer", "fc2", "%11"],
        ["reshape", "%12", ["%3", 2, -1, 1, 1]],
        ["softmax", "%13", 1],
        ["mul", "%8", "%14"],
        ["sum", "%15", [1], False],
    )
    return network(("stem", conv(3, 6)), ("sk", block), ("last", conv(8, 6)), width=6)


def miscounted() -> nn.Sequential:
    """A computed size that does not follow a cut: half of the channels, less one."""
    block = graph(
        {"a": conv(8, 8, 1)},
        ["shape", "%0"],
        ["getitem", "%1", 1],
        ["floordiv", "%2", 2],
        ["getitem", "%0", [":", "%3:"]],
        ["getitem", "%0", [":", ":%3"]],
        ["cat", ["%4", "%5"], 1],
        ["layer", "a", "%6"],
    )
    return network(("stem", conv(3, 8)), ("block", block), width=8)


def read_twice() -> nn.Sequential:
    """DLA: one convolution reads a concatenation in which some channels lie twice."""
    block = graph(
        {"conv": conv(4, 6), "root": conv(14, 6, 1)},
        ["layer", "conv", "%0"],
        ["cat", ["%0", "%1", "%0"], 1],
        ["layer", "root", "%2"],
    )
    return network(("stem", conv(3, 4)), ("tree", block), width=6)


def ghost() -> nn.Sequential:
    """GhostNet: half of the channels are made from the others, and what is too much is sliced off."""
    block = graph(
        {"primary": conv(6, 4, 1), "cheap": conv(4, 4, groups=4)},
        ["layer", "primary", "%0"],
        ["layer", "cheap", "%1"],
        ["cat", ["%1", "%2"], 1],
        ["getitem", "%3", [":", ":7", ":", ":"]],
    )
    return network(("stem", conv(3, 6)), ("ghost", block), ("last", conv(7, 6)), width=6)


def shared() -> nn.Sequential:
    """One convolution and its batch-norm run twice."""
    block = graph(
        {"conv": conv(8, 8), "bn": nn.BatchNorm2d(8), "relu": nn.ReLU()},
        ["layer", "conv", "%0"],
        ["layer", "bn", "%1"],
        ["layer", "relu", "%2"],
        ["layer", "conv", "%3"],
        ["layer", "bn", "%4"],
    )
    return network(("stem", conv(3, 8)), ("twice", block), width=8)


def gated_by_pixel() -> nn.Sequential:
    """CBAM: a map of one channel weighs all pixels, made from a mean over the channels."""
    block = graph(
        {"conv": conv(2, 1, 3), "gate": nn.Sigmoid()},
        ["mean", "%0", [1], True],
        ["amax", "%0", [1], True],
        ["cat", ["%1", "%2"], 1],
        ["layer", "conv", "%3"],
        ["layer", "gate", "%4"],
        ["mul", "%0", "%5"],
    )
    return network(("stem", conv(3, 8)), ("cbam", block), ("last", conv(8, 6)), width=6)


def convolved_channels() -> nn.Sequential:
    """ECA: a convolution over neighbouring channels."""
    block = graph(
        {"conv": nn.Conv1d(1, 1, 3, padding=1, bias=False), "gate": nn.Sigmoid()},
        ["mean", "%0", [2, 3], False],
        ["unsqueeze", "%1", 1],
        ["layer", "conv", "%2"],
        ["layer", "gate", "%3"],
        ["transpose", "%4", 1, 2],
        ["unsqueeze", "%5", 3],
        ["mul", "%0", "%6"],
    )
    return network(("stem", conv(3, 8)), ("eca", block), ("last", conv(8, 6)), width=6)


def attention() -> nn.Sequential:
    block = graph(
        {"q": conv(8, 4, 1), "k": conv(8, 4, 1), "v": conv(8, 6, 1)},
        *(["layer", name, "%0"] for name in "qkv"),
        *(["flatten", f"%{number}", 2, 3] for number in (1, 2, 3)),
        *(["transpose", f"%{number}", 1, 2] for number in (4, 5, 6)),
        ["attention", "%7", "%8", "%9"],
        ["transpose", "%10", 1, 2],
        ["reshape", "%11", [-1, 6, 8, 8]],
    )
    return network(("stem", conv(3, 8)), ("att", block), ("last", conv(6, 6)), width=6)


def context() -> nn.Sequential:
    """GCNet: channels are summed over pixels, with the weights of a map of one channel."""
    block = graph(
        {"mask": conv(8, 1, 1), "add": conv(8, 8, 1)},
        ["layer", "mask", "%0"],
        ["flatten", "%1", 2, 3],
        ["transpose", "%2", 1, 2],
        ["softmax", "%3", 1],
        ["flatten", "%0", 2, 3],
        ["matmul", "%5", "%4"],
        ["unsqueeze", "%6", -1],
        ["layer", "add", "%7"],
        ["add", "%0", "%8"],
    )
    return network(("stem", conv(3, 8)), ("gc", block), width=8)


def padded_channels() -> nn.Sequential:
    block = graph(
        {"conv": conv(4, 6)},
        ["pad", "%0", [0, 0, 0, 0, 0, 2], "constant", 0.0],
        ["layer", "conv", "%0"],
        ["add", "%1", "%2"],
    )
    return network(("stem", conv(3, 4)), ("block", block), width=6)


def extended() -> nn.Sequential:
    """ReXNet: the first channels have a shortcut, the others none."""
    block = graph(
        {"conv": conv(4, 7)},
        ["layer", "conv", "%0"],
        ["getitem", "%1", [":", "0:4"]],
        ["add", "%2", "%0"],
        ["getitem", "%1", [":", "4:"]],
        ["cat", ["%3", "%4"], 1],
    )
    return network(("stem", conv(3, 4)), ("block", block), ("last", conv(7, 6)), width=6)


def literal_sizes() -> nn.Sequential:
    """Channels counted by sizes of a reshape and an expansion; linear layers over each channel's map."""
    block = graph(
        {"mix": nn.Linear(64, 10), "back": nn.Linear(10, 64), "conv": conv(8, 8)},
        ["reshape", "%0", [-1, 8, 64]],
        ["layer", "mix", "%1"],
        ["layer", "back", "%2"],
        ["reshape", "%3", [-1, 8, 8, 8]],
        ["layer", "conv", "%4"],
        ["expand", "%5", [-1, 8, 8, 8]],
        ["add", "%4", "%6"],
    )
    return network(("stem", conv(3, 8)), ("block", block), width=8)


def heads() -> nn.Sequential:
    """The same linear layer for each half of the channels: halves are cut alike."""
    block = graph(
        {"fc": nn.Linear(4, 6)},
        ["mean", "%0", [2, 3], False],
        ["reshape", "%1", [-1, 2, 4]],
        ["layer", "fc", "%2"],
        ["sum", "%3", [1], False],
        ["unsqueeze", "%4", -1],
        ["unsqueeze", "%5", -1],
    )
    return network(("stem", conv(3, 8)), ("heads", block), width=6)


def weighted() -> nn.Sequential:
    """Weights of a block, of a layer for each channel, and of one for each pixel."""
    block = graph({}, ["weight", "gamma"], ["mul", "%0", "%1"], gamma=nn.Parameter(settle_ones(6)))
    return network(
        ("stem", Conv2dSame(3, 8, 3)),
        ("offset", Offset((8, 1, 1))),
        ("pixel", LayerScale((8, 8))),
        ("prelu", nn.PReLU(8)),
        ("blur", BlurPool2d()),
        ("norm", nn.InstanceNorm2d(8, affine=True)),
        ("last", conv(8, 6)),
        ("block", block),
        width=6,
    )


def settle_ones(width: int) -> Any:
    return nn.Parameter(nn.init.ones_(nn.Linear(1, width).weight).reshape(width, 1, 1))


def fused() -> nn.Sequential:
    """BiFPN: two maps, each times one of two weights that are made positive and sum to one."""
    block = graph(
        {"conv": conv(8, 8), "relu": nn.ReLU(), "share": nn.Softmax(0)},
        ["weight", "two"],
        ["layer", "relu", "%1"],
        ["layer", "share", "%2"],
        ["getitem", "%3", 0],
        ["getitem", "%3", 1],
        ["layer", "conv", "%0"],
        ["mul", "%6", "%4"],
        ["mul", "%0", "%5"],
        ["add", "%7", "%8"],
        two=nn.Parameter(torch.tensor([0.5, 1.5])),
    )
    return network(("stem", conv(3, 8)), ("fuse", block), ("last", conv(8, 6)), width=6)


def placed() -> nn.Sequential:
    """An offset for each pixel of each channel, and one for each pixel of all."""
    return network(
        *(("stem", conv(3, 8)), ("place", Offset((8, 8, 8))), ("conv", conv(8, 6))),
        *(("pixels", Offset((8, 8))), ("last", conv(6, 4))),
        width=4,
    )


def own_slopes() -> nn.Sequential:
    """Activations with a slope for each channel, and with one for all."""
    return network(
        *(("stem", conv(3, 8)), ("own", nn.PReLU(8)), ("last", conv(8, 6)), ("one", nn.PReLU())), width=6
    )


def unit_length() -> nn.Sequential:
    return settle(
        body(
            ("stem", conv(3, 8)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("norm", L2Norm()),
            ("classifier", nn.Linear(8, 5)),
        )
    )


def over_time() -> nn.Sequential:
    """Kim's network, whose embedding is the image's rows of pixels."""
    branches = body(("three", nn.Conv1d(24, 6, 3)), ("five", nn.Conv1d(24, 4, 5)))
    rows = graph({}, ["permute", "%0", [0, 1, 3, 2]], ["reshape", "%1", [-1, 24, 8]])
    return settle(
        body(("rows", rows), ("filters", MaxOverTime(branches, nn.ReLU())), ("classifier", nn.Linear(10, 5)))
    )


def padded_shortcut() -> nn.Sequential:
    shortcut = SliceAndPad(1, 1, 1)
    return network(("stem", conv(3, 4)), ("block", Residual(conv(4, 6), shortcut, nn.ReLU())), width=6)


def _toy(name: str, **groups: int) -> Network:
    return Network(TOYS[name], {key.replace("__", "."): (width, 1) for key, width in groups.items()})


def pooled_vectors() -> nn.Sequential:
    """torch takes vectors `b x c` for one sample of b channels, and pools over c."""
    return settle(
        body(
            ("stem", conv(3, 8)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("short", nn.AdaptiveAvgPool1d(4)),
            ("classifier", nn.Linear(4, 5)),
        )
    )


NETWORKS = {
    "plain": _toy("plain", conv1=8, conv2=12, fc=10),
    "excitation": Network(excitation, {"stem": (8, 1), "se.fc1": (4, 1), "last": (6, 1)}),
    "effective_excitation": Network(effective_excitation, {"stem": (8, 1)}),
    "reparametrised": Network(reparametrised, {"stem": (8, 1)}),
    "grouped": Network(grouped, {"stem": (6, 1), "block.body.conv1": (4, 2)}),
    "multiplied": Network(multiplied, {"stem": (4, 1), "last": (6, 1)}),
    "group_norms": Network(
        group_norms, {"stem": (4, 2), "conv": (6, 1), "last": (4, 1)}, mixers={"conv": ("one",)}
    ),
    "channels_last": Network(
        channels_last,
        {"stem": (8, 1), "block.body.fc1": (12, 1)},
        mixers={"stem": ("norm", "block.body.norm")},
    ),
    "response_norm": Network(
        response_norm,
        {"stem": (6, 1), "block.body.fc1": (8, 1)},
        mixers={"block.body.fc1": ("block.body.grn",)},
    ),
    "shuffled": Network(
        shuffled,
        {"stem": (4, 1), "block.conv1": (6, 1), "last": (6, 1)},
        dict.fromkeys(("stem", "block.conv2"), "channels are shuffled by reshape in block 'block'"),
    ),
    "partial": Network(partial, {"stem": (3, 1), "stem:2": (5, 1), "csp.conv1": (4, 1), "csp.merge": (6, 1)}),
    "chunked": Network(
        chunked, {"stem": (4, 1), "stem:2": (4, 1), "stem:3": (4, 1), "res2.conv1": (4, 1), "last": (6, 1)}
    ),
    "selected": Network(selected, {"stem": (6, 1), "sk.a": (8, 1), "sk.fc1": (4, 1), "last": (6, 1)}),
    "selected_by_shape": Network(
        selected_by_shape, {"stem": (6, 1), "sk.a": (8, 2), "sk.fc1": (4, 1), "last": (6, 1)}
    ),
    "miscounted": Network(miscounted, {"block.a": (8, 1)}, {"stem": "a size is computed in block 'block'"}),
    "read_twice": Network(read_twice, {"stem": (4, 1), "tree.conv": (6, 1), "tree.root": (6, 1)}),
    "ghost": Network(
        ghost,
        {"stem": (6, 1), "ghost.primary": (3, 1), "last": (6, 1)},
        {
            "ghost.primary": "its channels can only be removed together",
            "ghost.cheap": "its channels can only be removed together",
        },
    ),
    "shared": Network(shared, {"stem": (8, 1)}),
    "gated_by_pixel": Network(
        gated_by_pixel,
        {"last": (6, 1)},
        {
            "stem": "a mean over the channels in block 'cbam'",
            "cbam.conv": "is broadcast over channels in block 'cbam'",
        },
    ),
    "convolved_channels": Network(
        convolved_channels,
        {"last": (6, 1)},
        {
            "stem": "the convolution 'eca.conv' runs over the channels in block 'eca'",
            "eca.conv": "channels meet pixels in block 'eca'",
        },
    ),
    "attention": Network(
        attention,
        {"stem": (8, 1), "last": (6, 1)},
        dict.fromkeys(("att.q", "att.k", "att.v"), "an attention mixes channels in block 'att'"),
    ),
    "context": Network(context, {"stem": (8, 1)}, {"gc.mask": "is broadcast over channels in block 'gc'"}),
    "padded_channels": Network(
        padded_channels, {}, dict.fromkeys(("stem", "block.conv"), "channels are padded in block 'block'")
    ),
    "padded_shortcut": Network(
        padded_shortcut, {}, dict.fromkeys(("stem", "block.body"), "channels are padded in block 'block'")
    ),
    "extended": Network(extended, {"stem": (4, 1), "block.conv": (3, 1), "last": (6, 1)}),
    "literal_sizes": Network(
        literal_sizes,
        {"stem": (8, 1)},
        dict.fromkeys(("block.mix", "block.back"), "runs over pixels in block 'block'"),
    ),
    "heads": Network(heads, {"stem": (4, 2), "heads.fc": (6, 1)}),
    "weighted": Network(weighted, {"stem": (8, 1)}, {"last": "meets weights or constants in block 'block'"}),
    "fused": Network(fused, {"stem": (8, 1), "last": (6, 1)}),
    "placed": Network(
        placed,
        {"conv": (6, 1), "last": (4, 1)},
        {"stem": "'place' has weights for each pixel in block 'place'"},
    ),
    "pooled_vectors": Network(
        pooled_vectors, {}, {"stem": "'short' runs over the channels in block 'short'"}
    ),
    "own_slopes": Network(own_slopes, {"stem": (8, 1), "last": (6, 1)}),
    "unit_length": Network(unit_length, {"stem": (8, 1)}, mixers={"stem": ("norm",)}),
    "over_time": Network(over_time, {"filters.branches.three": (6, 1), "filters.branches.five": (4, 1)}),
}
