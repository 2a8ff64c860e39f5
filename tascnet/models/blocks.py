"""The blocks that chains are made of, beside the layers of torch.nn.

Each maps one tensor to one tensor, and is made of named children alone, so that an architecture can be
described as a tree of layers and blocks with their arguments.
"""

from collections import OrderedDict
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sequence(items: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """A named `nn.Sequential`."""
    return nn.Sequential(OrderedDict(items))


class Residual(nn.Module):
    """`activation(body(x) + shortcut(x))`: the block of ResNet and MobileNetV2.

    Args:
        body: from `b x c x h x w` to `b x d x h' x w'`.
        shortcut: the same shapes; `nn.Identity` where the block keeps its input's shape.
        activation: of the sum; `nn.Identity` for a linear sum (MobileNetV2).
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class Concat(nn.Module):
    """`cat(x, body(x))` over channels: one layer of a DenseNet."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class SliceAndPad(nn.Module):
    """The parameter-free shortcut of CIFAR-style ResNets: every `stride`-th pixel, zero channels added.

    Args:
        stride: step in both directions of the map.
        before: zero channels before the input's.
        after: zero channels after them.

    Source: He et al. 2016, section 4.2, option A.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class L2Norm(nn.Module):
    """`x / max(|x|, eps)`: each sample's features `b x d` as a vector of Euclidean length 1."""

    def __init__(self, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class Scale(nn.Module):
    """`x * initial * weight`: one learnable factor for all of its input.

    Its parameter starts at 1, so that an optimizer's step changes the factor by the same share of itself
    whatever its size.
    """

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.initial = initial
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.initial * self.weight)

    def extra_repr(self) -> str:
        return f"initial={self.initial}"


class ChannelsFirst(nn.Module):
    """From the vectors of a text's tokens, `b x T x d`, to inputs of convolutions over time, `b x d x T`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class MaxOverTime(nn.Module):
    """The largest value over time of each filter of parallel convolutions, `b x d x T` to `b x n`.

    Args:
        branches: convolutions over time, whose filters are joined in order.
        activation: of each branch, before the maximum.

    Source: Kim 2014, equations 2 to 4.
    """

    def __init__(self, branches: nn.Sequential, activation: nn.Module) -> None:
        super().__init__()
        self.branches = branches
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.activation(branch(x)).amax(-1) for branch in self.branches], 1)
