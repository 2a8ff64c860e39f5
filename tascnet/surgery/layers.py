"""Single layers and blocks: where they are, and other kernels and activations for them."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import Residual
from tascnet.models.layers import Conv2dSame

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Layers that have filters.
WEIGHTED = (*CONVS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Convolutions whose kernel can be changed: over an image, or over time.
Conv: TypeAlias = nn.Conv2d | nn.Conv1d


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children by name; unlike `named_children` a layer that is used twice under both its names."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def block_of(chain: nn.Sequential, name: str) -> int:
    """Index in the chain of the block that holds the layer `name`."""
    return list(chain._modules).index(name.split(".")[0])


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one filter for each channel of its input."""
    return isinstance(layer, CONVS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def layer_widths(chain: nn.Module) -> dict[str, int]:
    """Output channels or features of every layer that has filters, in chain order."""
    return {
        name: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for name, layer in chain.named_modules()
        if isinstance(layer, WEIGHTED)
    }


def holds_filters(block: nn.Module) -> bool:
    """Whether a block is, or holds, a convolution or linear layer."""
    return any(isinstance(layer, (*CONVS, nn.Linear)) for layer in block.modules())


def is_removable(block: nn.Module) -> bool:
    """Whether the network fits together without a block: a residual one with an identity shortcut."""
    return isinstance(block, Residual) and isinstance(block.shortcut, nn.Identity)


def without_blocks(chain: nn.Sequential, removed: Collection[str]) -> tuple[nn.Sequential, list[int]]:
    """The other blocks of a chain, under their names, and the indices of those that follow a removed one."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    following = []
    for name, block in children(chain):
        if name in removed:
            following.append(len(blocks))
        else:
            blocks[name] = block
    return nn.Sequential(blocks), following


def replace_layer(chain: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put `new` in the place of the layer `name`, in its training mode; returns the old layer.

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


def activation_name(layer: nn.Module) -> str | None:
    """The layer's name in `ACTIVATIONS`; None: it is no activation."""
    return next((name for name, kind in ACTIVATIONS.items() if type(layer) is kind), None)


def activations(chain: nn.Sequential) -> dict[int, list[str]]:
    """The activation layers, by block index."""
    return _names_by_block(chain, lambda layer: activation_name(layer) is not None)


def set_activation(chain: nn.Module, name: str, activation: str) -> nn.Module:
    """Replace the activation layer `name`; returns the old layer.

    Raises:
        SurgeryError: unknown activation or layer.
    """
    if activation not in ACTIVATIONS:
        raise SurgeryError(f"unknown activation '{activation}', expected one of {', '.join(ACTIVATIONS)}")
    return replace_layer(chain, name, ACTIVATIONS[activation]())


def spatial_convs(chain: nn.Sequential) -> dict[int, list[str]]:
    """The convolutions whose kernel can be changed, by block index.

    Square odd kernels larger than 1x1, padded so that a stride of 1 keeps the map's size; over time kernels
    of any width above 1, padded by half of it.
    """

    def is_spatial(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv1d):
            return layer.kernel_size[0] > 1 and layer.padding == (layer.kernel_size[0] // 2,)
        if not isinstance(layer, nn.Conv2d):
            return False
        height, width = layer.kernel_size
        if height != width or height == 1 or height % 2 == 0:
            return False
        if isinstance(layer, Conv2dSame):
            # With a larger stride the padding of another kernel would shift the pixels.
            return max(layer.stride) <= height
        if isinstance(layer.padding, str):
            return layer.padding == "same"
        return all(p == (height - 1) // 2 * d for p, d in zip(layer.padding, layer.dilation, strict=True))

    return _names_by_block(chain, is_spatial)


def _names_by_block(chain: nn.Sequential, wanted: Callable[[nn.Module], bool]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for index, (block_name, block) in enumerate(children(chain)):
        for name, layer in block.named_modules(prefix=block_name, remove_duplicate=False):
            if wanted(layer):
                found.setdefault(index, []).append(name)
    return found


def set_kernel(conv: Conv, size: int) -> Conv:
    """A convolution with another kernel size and the same output shape, which inherits the weights.

    A larger kernel gets zeros around the old one, so that the function stays the same; a smaller one is the
    centre of the old one. Sizes are odd; over time an even kernel becomes an even one.

    Raises:
        SurgeryError: another size, or the map would change its size.
    """
    is_even = isinstance(conv, nn.Conv1d) and conv.kernel_size[0] % 2 == 0
    if is_even and (size < 1 or size % 2):
        raise SurgeryError(f"a kernel of even width becomes an even one, got {conv.kernel_size} and {size}")
    if not is_even and (size < 1 or size % 2 == 0 or any(k % 2 == 0 for k in conv.kernel_size)):
        raise SurgeryError(f"kernel sizes must be odd, got {conv.kernel_size} to become {size}x{size}")
    kind = nn.Conv1d if isinstance(conv, nn.Conv1d) else nn.Conv2d
    padding = conv.padding
    is_same = isinstance(conv, Conv2dSame)
    if not isinstance(padding, str) and not is_same:
        steps = zip(padding, conv.dilation, conv.kernel_size, strict=True)
        padding = tuple(p + d * (size - k) // 2 for p, d, k in steps)
        if min(padding) < 0:
            old, wanted = ("x".join(map(str, sizes)) for sizes in (conv.kernel_size, [size] * len(padding)))
            raise SurgeryError(
                f"a {old} kernel with padding {tuple(conv.padding)} cannot become {wanted} without changing "
                "the map's size"
            )
    own: dict[str, Any] = {"padding": padding, "padding_mode": conv.padding_mode}
    new: Conv = (Conv2dSame if is_same else kind)(
        conv.in_channels,
        conv.out_channels,
        size,
        stride=conv.stride,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
        **({} if is_same else own),
    )
    new.weight = _like(_resized(conv.weight.detach(), size), conv.weight)
    if conv.bias is not None:
        new.bias = _like(conv.bias, conv.bias)
    return new.train(conv.training)


def _resized(weight: Tensor, size: int) -> Tensor:
    """Centre crop, or zeros around: `n x m x k x k` to `n x m x size x size`; over time there is one `k`."""
    for dim in range(2, weight.dim()):
        have = weight.shape[dim]
        if size <= have:
            weight = weight.narrow(dim, (have - size) // 2, size)
        else:
            edge = (size - have) // 2
            weight = nn.functional.pad(weight, (0, 0) * (weight.dim() - 1 - dim) + (edge, edge))
    return weight


def _like(values: Tensor, old: Tensor) -> nn.Parameter:
    """A parameter with a copy of `values`, in the memory format of `old` and frozen as it is."""
    channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not old.is_contiguous() else torch.contiguous_format
    copied = values.detach().clone(memory_format=layout)
    return nn.Parameter(copied, requires_grad=old.requires_grad)
