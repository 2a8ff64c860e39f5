"""Single layers: where they are, their kernels and activations."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.activations import ACTIVATIONS

# Convolutions whose kernel can be changed: over an image, or over time.
Conv: TypeAlias = nn.Conv2d | nn.Conv1d


def block_of(chain: nn.Sequential, name: str) -> int:
    """Index in the chain of the block that holds the layer `name`."""
    return list(chain._modules).index(name.split(".")[0])


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one filter for each channel of its input."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1


def layer_widths(chain: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, in chain order."""
    widths = {}
    for name, layer in chain.named_modules():
        if isinstance(layer, nn.Linear):
            widths[name] = layer.out_features
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            widths[name] = layer.out_channels
    return widths


def replace_layer(chain: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put `new` in the place of the layer `name`, in the old one's training mode; gives the old one.

    Raises:
        SurgeryError: the chain has no layer of that name.
    """
    parent, _, last = name.rpartition(".")
    try:
        owner = chain.get_submodule(parent)
        old = owner.get_submodule(last)
    except AttributeError as error:
        raise SurgeryError(f"the network has no layer '{name}'") from error
    setattr(owner, last, new.train(old.training))
    return old


def _same_like_padding(conv: Conv) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same"
    wanted = [(k - 1) // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    return list(conv.padding) == wanted


def _is_spatial(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv1d):
        return layer.kernel_size[0] > 1 and layer.padding == (layer.kernel_size[0] // 2,)
    if not isinstance(layer, nn.Conv2d):
        return False
    height, width = layer.kernel_size
    return height == width and height > 1 and height % 2 == 1 and _same_like_padding(layer)


def _names_by_block(chain: nn.Sequential, wanted: Callable[[nn.Module], bool]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for index, (block_name, block) in enumerate(chain._modules.items()):
        assert block is not None
        for name, layer in block.named_modules(prefix=block_name, remove_duplicate=False):
            if wanted(layer):
                found.setdefault(index, []).append(name)
    return found


def spatial_convs(chain: nn.Sequential) -> dict[int, list[str]]:
    """The convolutions whose kernel can be changed, by block index.

    Square odd kernels larger than 1x1, padded so that a stride of 1 keeps the map's size; over time kernels
    of any width above 1, padded by half of it.
    """
    return _names_by_block(chain, _is_spatial)


def activation_name(layer: nn.Module) -> str | None:
    """The name in `ACTIVATIONS` of a layer, None for any other layer."""
    return next((name for name, kind in ACTIVATIONS.items() if type(layer) is kind), None)


def activations(chain: nn.Sequential) -> dict[int, list[str]]:
    """The activation layers, by block index."""
    return _names_by_block(chain, lambda layer: activation_name(layer) is not None)


def set_activation(chain: nn.Module, name: str, activation: str) -> nn.Module:
    """Replace the activation layer `name` by another of `ACTIVATIONS`; gives the old one.

    Raises:
        SurgeryError: unknown activation or layer.
    """
    if activation not in ACTIVATIONS:
        raise SurgeryError(f"unknown activation '{activation}', expected one of {', '.join(ACTIVATIONS)}")
    return replace_layer(chain, name, ACTIVATIONS[activation]())


def _new_padding(conv: Conv, size: int) -> str | tuple[int, ...]:
    if isinstance(conv.padding, str):
        return conv.padding
    padding = tuple(
        p + d * (size - k) // 2 for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    )
    if min(padding) < 0:
        old, new = ("x".join(map(str, sizes)) for sizes in (conv.kernel_size, [size] * len(padding)))
        raise SurgeryError(
            f"a {old} kernel with padding {tuple(conv.padding)} cannot become {new} without changing the "
            "map's size"
        )
    return padding


@torch.no_grad()
def _resized(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Centre crop, or zeros around: `n x m x k x k` to `n x m x size x size`, over time with one `k`."""
    for dim in range(2, weight.dim()):
        have = weight.shape[dim]
        if size <= have:
            weight = weight.narrow(dim, (have - size) // 2, size)
        else:
            edge = (size - have) // 2
            pad = (0, 0) * (weight.dim() - 1 - dim) + (edge, edge)
            weight = nn.functional.pad(weight, pad)
    return weight


def set_kernel(conv: Conv, size: int) -> Conv:
    """A convolution with another kernel size and the same output shape, that inherits the weights.

    A larger kernel gets zeros around the old one, so that the function stays the same; a smaller one
    keeps the centre. Stride, dilation, groups, training mode and `requires_grad` stay.

    Args:
        conv: a convolution with an odd kernel, or one over time.
        size: the new kernel's height and width: odd; over time even where the old one is.

    Raises:
        SurgeryError: a size that is not, or the map would change its size.
    """
    is_even = isinstance(conv, nn.Conv1d) and conv.kernel_size[0] % 2 == 0
    if is_even and (size < 1 or size % 2):
        raise SurgeryError(f"a kernel of even width becomes an even one, got {conv.kernel_size} and {size}")
    if not is_even and (size < 1 or size % 2 == 0 or any(k % 2 == 0 for k in conv.kernel_size)):
        raise SurgeryError(f"kernel sizes must be odd, got {conv.kernel_size} to become {size}x{size}")
    kind = nn.Conv1d if isinstance(conv, nn.Conv1d) else nn.Conv2d
    new = kind(
        conv.in_channels,
        conv.out_channels,
        size,
        stride=conv.stride,  # type: ignore[arg-type]
        padding=_new_padding(conv, size),  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    new.weight = _like(_resized(conv.weight, size), conv.weight)
    if conv.bias is not None:
        new.bias = _like(conv.bias, conv.bias)
    return new.train(conv.training)


def _like(values: torch.Tensor, old: torch.Tensor) -> nn.Parameter:
    """A parameter of its own with `values`, in the memory format of `old` and frozen as it is."""
    channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not old.is_contiguous() else torch.contiguous_format
    copied = values.detach().clone(memory_format=layout)
    return nn.Parameter(copied, requires_grad=old.requires_grad)
