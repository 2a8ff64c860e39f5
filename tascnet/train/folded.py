"""Training without passes of frozen batch-norms: each is computed with the weights of its convolution.

`b (W x - m) / s + a` is one convolution of weights `b W / s`. The products of weights are small beside the
maps, which a batch-norm reads and writes again forwards and backwards.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.exporting.plain import foldable_pairs
from tascnet.models.layers import Conv2dSame, padded_same


class _Folded(nn.Module):
    """A convolution and the batch-norm behind it, which is in eval mode; their parameters learn."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d, norm: _BatchNorm) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias
        weight = convolution.weight * scale.reshape(-1, *[1] * (convolution.weight.dim() - 1))
        function: Any = F.conv2d if isinstance(convolution, nn.Conv2d) else F.conv1d
        if isinstance(convolution, Conv2dSame):
            x = padded_same(x, convolution.kernel_size, convolution.stride, convolution.dilation)
        return function(
            *(x, weight, bias, convolution.stride),
            *(convolution.padding, convolution.dilation, convolution.groups),
        )


def folded(network: nn.Sequential) -> nn.Sequential:
    """The same network, whose batch-norms in eval mode are computed with the convolutions before them.

    It shares all parameters, buffers, hooks and layers that are not folded, and has the modes of `network` as
    they are now. Outputs and gradients differ by rounding alone.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for convolution, norm in foldable_pairs(network):
        if _is_frozen_pair(convolution, norm):
            twins[convolution] = _Folded(convolution, norm)
            twins[norm] = nn.Identity()
    return replaced(network, twins)


def replaced(network: nn.Sequential, twins: Mapping[nn.Module, nn.Module]) -> nn.Sequential:
    """The same network with other modules in the places of some; the rest is shared."""
    return _twin(network, {id(module): twin for module, twin in twins.items()})  # type: ignore[return-value]


def _is_frozen_pair(convolution: Any, norm: Any) -> bool:
    # A subclass may compute anything else.
    is_known = type(convolution) in (nn.Conv1d, nn.Conv2d, Conv2dSame) and convolution.padding_mode == "zeros"
    return is_known and not norm.training


def _twin(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """A module with other layers in the places of `twins`, by identity; its parts are the same."""
    if id(module) in twins:
        return twins[id(module)]
    if not module._modules:
        return module
    twin = copy.copy(module)
    twin._modules = {
        name: child if child is None else _twin(child, twins) for name, child in module._modules.items()
    }
    twins[id(module)] = twin
    return twin


@torch.no_grad()
def rescale(network: nn.Sequential) -> None:
    """Move the scale of each batch-norm in eval mode into the convolution before it, in place.

    The network computes the same, and its statistics stay those of what batch-norm reads. Adam moves all
    weights by about as much, whatever their gradients: in front of a large scale, which batch-norm has where
    a channel hardly varies, the first steps destroy what the network knows.
    Convolutions that are not trained stay as they are.
    """
    for convolution, norm in foldable_pairs(network):
        if (
            not _is_frozen_pair(convolution, norm)
            or not convolution.weight.requires_grad
            or norm.weight is None
        ):
            continue
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        convolution.weight.mul_(scale.reshape(-1, *[1] * (convolution.weight.dim() - 1)))
        if convolution.bias is not None:
            convolution.bias.mul_(scale)
        norm.running_mean.mul_(scale)
        norm.running_var.mul_(scale**2)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
