"""Layers that published networks need and torch.nn lacks.

Each takes one tensor and gives one. Shapes: `b` samples, `c` channels, maps of `h x w` pixels.
"""

from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """In training each sample is zero with probability `p`, and otherwise divided by `1 - p`.

    It draws from torch's global generator; in eval mode it passes its input on.

    Args:
        p: from 0 to 1.

    Source: Huang et al. 2016, arXiv 1603.09382, equation 5, scaled in training.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = 1 - self.p
        noise = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(kept)
        return x * (noise.div_(kept) if kept > 0 else noise)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of each pixel, `b x c x h x w`.

    Args:
        num_channels: `c`.
        eps: added to the variance.
        affine: with a learnable factor and, if `bias`, a learnable offset by channel.
        bias: with an offset; without `affine` there is none.

    Source: Ba et al. 2016, arXiv 1607.06450; over channels as in Liu et al. 2022, arXiv 2201.03545.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_channels: int, eps: float = 1e-6, affine: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, (self.num_channels,), self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}, bias={bias}"


class Permute(nn.Module):
    """The axes in another order.

    Args:
        dims: by axis of the output that of the input, from 0.
    """

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def extra_repr(self) -> str:
        return f"{self.dims}"


class _Elementwise(nn.Module):
    """One learnable tensor of a shape that broadcasts to the input's, such as `c x 1 x 1`."""

    initial: float

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, self.initial))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}"


class LayerScale(_Elementwise):
    """`x * weight`, with a learnable weight of `shape`.

    Source: Touvron et al. 2021, arXiv 2103.17239, equation 8.
    """

    initial = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Offset(_Elementwise):
    """`x + weight`, with a learnable weight of `shape`."""

    initial = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Conv2dSame(nn.Conv2d):
    """A convolution whose output has `ceil(h / stride)` rows, for any input, as TensorFlow's `SAME`.

    Zeros are added around each input, as many as it needs, the larger half of an odd number below and to the
    right. So its `padding` is 0 and says nothing: whoever makes such a layer from another one, with another
    kernel for instance, must make a `Conv2dSame` again.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype: as those of
            `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride),
            dilation=dilation,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(padded_same(input, self.kernel_size, self.stride, self.dilation))


class MaxPool2dSame(nn.Module):
    """Max pooling with the padding of `Conv2dSame`, by minus infinity.

    Args:
        kernel_size, stride, dilation, ceil_mode: as those of `nn.MaxPool2d`.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = map(_pair, (kernel_size, stride, dilation))
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        x = padded_same(x, self.kernel_size, self.stride, self.dilation, float("-inf"))
        return F.max_pool2d(x, self.kernel_size, self.stride, 0, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class AvgPool2dSame(nn.Module):
    """Average pooling with the padding of `Conv2dSame`; the zeros that are added count.

    Args:
        kernel_size, stride, ceil_mode: as those of `nn.AvgPool2d`.
    """

    def __init__(
        self, kernel_size: int | tuple[int, int], stride: int | tuple[int, int], ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        x = padded_same(x, self.kernel_size, self.stride)
        return F.avg_pool2d(x, self.kernel_size, self.stride, 0, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, ceil_mode={self.ceil_mode}"


class BlurPool2d(nn.Module):
    """Each channel is smoothed by a binomial filter and sampled, whatever the number of channels.

    Args:
        kernel_size: of the filter, from 2.
        stride: between samples, in both directions.
        padding_mode: `reflect`, `replicate`, `circular`, or `constant` for zeros; of
            `(stride + kernel_size - 2) // 2` pixels on each side.

    Source: Zhang 2019, arXiv 1904.11486.
    """

    def __init__(self, kernel_size: int = 3, stride: int = 2, padding_mode: str = "reflect") -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding_mode = padding_mode

    def forward(self, x: Tensor) -> Tensor:
        size, channels = self.kernel_size, x.shape[1]
        x = F.pad(x, ((self.stride + size - 2) // 2,) * 4, self.padding_mode)
        # Made each time: it is no weight, and follows the input's device and type.
        row = x.new_tensor([comb(size - 1, place) / 2 ** (size - 1) for place in range(size)])
        filters = (row[:, None] * row).expand(channels, 1, size, size)
        return F.conv2d(x, filters, stride=self.stride, groups=channels)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding_mode={self.padding_mode!r}"


class GRN(nn.Module):
    """Global response normalisation: `x + bias + weight * x * norm / mean(norm)`.

    `norm` is the Euclidean length of each channel's map, its mean runs over the channels.

    Args:
        num_channels: `c`.
        channel_dim: 1 for inputs `b x c x h x w`, -1 for `b x h x w x c`.
        eps: added to the mean.

    Source: Woo et al. 2023, arXiv 2301.00808, section 3.1.
    """

    def __init__(self, num_channels: int, channel_dim: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        is_first = self.channel_dim == 1
        pixels, shape = ((2, 3), (1, -1, 1, 1)) if is_first else ((1, 2), (1, 1, 1, -1))
        norm = x.norm(p=2, dim=pixels, keepdim=True)
        share = norm / (norm.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return x + torch.addcmul(self.bias.view(shape), self.weight.view(shape), x * share)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, channel_dim={self.channel_dim}, eps={self.eps}"


def padded_same(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...] = (1, 1),
    value: float = 0.0,
) -> Tensor:
    """Maps with as much around them that a layer gives `ceil(h / stride) x ceil(w / stride)` pixels."""
    amounts: list[int] = []
    # F.pad begins with the last axis.
    for side, k, s, d in zip(x.shape[:-3:-1], kernel_size[::-1], stride[::-1], dilation[::-1], strict=True):
        missing = max((-(-side // s) - 1) * s + (k - 1) * d + 1 - side, 0)
        amounts += [missing // 2, missing - missing // 2]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, tuple) else (value, value)
    return height, width
