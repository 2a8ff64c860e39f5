"""Layers of timm and torchvision that become one layer of ours, by the name of their class.

Neither library is imported. Whatever is not listed is looked into: its calls of functions are recorded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.models.layers import (
    GRN,
    AvgPool2dSame,
    BlurPool2d,
    Conv2dSame,
    MaxPool2dSame,
    StochasticDepth,
)
from tascnet.models.leaves import LEAVES, arguments_of, oddity, unfit_arguments

_LIBRARIES = ("timm", "torchvision")


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is converted as a whole, and not looked into."""
    if oddity(module) is not None:
        return False
    if _maker(module) is not None:
        return True
    return type(module) in LEAVES and unfit_arguments(type(module).__name__, settings(module)) is None


def settings(layer: nn.Module) -> dict[str, Any]:
    """The arguments of a layer of the closed list, with tuples for lists and Python's numbers for NumPy's."""
    return {name: _plain(value) for name, value in arguments_of(layer).items()}


def known_layer(module: nn.Module) -> nn.Module | None:
    """The layer of ours for one of a library, which shares its weights; None where there is none."""
    make = _maker(module)
    return None if make is None else make(module)


def has_folded_weight(module: nn.Module) -> bool:
    """Whether the layer of ours has a weight that the library computes from several ones each time."""
    return _maker(module) is _standardised


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, np.integer | np.floating):
        return value.item()
    return int(value) if isinstance(value, int) and type(value) not in (int, bool) else value


def _maker(module: nn.Module) -> Callable[[Any], nn.Module] | None:
    kind = type(module)
    # Drawn by sample, and scaled: otherwise there is no such layer of ours, and nothing of it in eval mode.
    if getattr(module, "mode", "row") != "row" or not getattr(module, "scale_by_keep", True):
        return None
    return _KNOWN.get(kind.__name__) if kind.__module__.partition(".")[0] in _LIBRARIES else None


def _drop_path(module: Any) -> nn.Module:
    return StochasticDepth(float(module.drop_prob))


def _stochastic_depth(module: Any) -> nn.Module:
    return StochasticDepth(float(module.p))


def _conv_same(module: Any) -> nn.Module:
    return conv2d(
        *(module.weight, module.bias, module.stride, 0, module.dilation, module.groups),
        is_same=True,
    )


def _standardised(module: Any) -> nn.Module:
    """A convolution whose weight has mean 0 and variance 1 by filter, times a gain."""
    scale = (module.gain * module.scale).view(-1) if hasattr(module, "gain") else None
    rows = module.weight.reshape(1, module.out_channels, -1)
    weight = F.batch_norm(rows, None, None, scale, training=True, momentum=0.0, eps=module.eps)
    return conv2d(
        weight.reshape_as(module.weight).detach(),
        *(module.bias, module.stride, module.padding, module.dilation, module.groups),
        is_same=getattr(module, "same_pad", False),
    )


def _max_pool_same(module: Any) -> nn.Module:
    return MaxPool2dSame(module.kernel_size, module.stride, module.dilation, module.ceil_mode)


def _avg_pool_same(module: Any) -> nn.Module:
    return AvgPool2dSame(module.kernel_size, module.stride, module.ceil_mode)


def _blur_pool(module: Any) -> nn.Module:
    return BlurPool2d(module.filt_size, module.stride, module.pad_mode)


def _grn(module: Any) -> nn.Module:
    with torch.device("meta"):
        layer = GRN(len(module.weight), module.channel_dim, module.eps)
    layer.weight, layer.bias = module.weight, module.bias
    return layer


_KNOWN: Mapping[str, Callable[[Any], Any]] = {
    "AvgPool2dSame": _avg_pool_same,
    "BlurPool2d": _blur_pool,
    "Conv2dSame": _conv_same,
    "DropPath": _drop_path,
    "GlobalResponseNorm": _grn,
    "MaxPool2dSame": _max_pool_same,
    "ScaledStdConv2d": _standardised,
    "ScaledStdConv2dSame": _standardised,
    "StdConv2d": _standardised,
    "StdConv2dSame": _standardised,
    "StochasticDepth": _stochastic_depth,
}


def conv2d(
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    is_same: bool = False,
) -> nn.Conv2d:
    """A convolution that has these tensors as its own."""
    outputs, inputs, *kernel = weight.shape
    kind, more = (Conv2dSame, {}) if is_same else (nn.Conv2d, {"padding": padding})
    layer = kind(
        inputs * groups,
        outputs,
        (kernel[0], kernel[1]),
        stride=stride,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
        **more,
    )
    return with_tensors(layer, weight=weight, bias=bias)


def with_tensors(layer: Any, **tensors: Tensor | None) -> Any:
    """The layer with other parameters and buffers."""
    for name, tensor in tensors.items():
        if name in layer._buffers:
            layer._buffers[name] = tensor
        elif tensor is not None and not isinstance(tensor, nn.Parameter):
            layer._parameters[name] = nn.Parameter(tensor)
        else:
            layer._parameters[name] = tensor
    return layer
