"""What a convolution reads for single pixels of its output, so that it can be solved for as a matrix."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def patches(layer: nn.Module, inputs: Tensor, places: Tensor | None) -> Tensor:
    """The rows that a layer's weights are multiplied with.

    Args:
        layer: a linear layer, a convolution without groups, or a depthwise one.
        inputs: `b x c` for a linear layer, else `b x c x ...`.
        places: `b x p` flat positions in the map that a convolution gives.

    Returns:
        `g x (b * p) x d`: of a depthwise layer `g` channels and `d` kernel positions, else one part and all
        inputs of an output, in the order of the layer's weights.
    """
    if places is None:
        return inputs[None]
    conv: Any = layer
    grid: list[int] = []
    windows: Any = _padded(conv, inputs)
    for axis, (size, stride, step) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    ):
        windows = windows.unfold(2 + axis, step * (size - 1) + 1, stride)
        grid.append(windows.shape[2 + axis])
    # `b x c x ... x k ...`, a view: nothing is copied until single places are read.
    windows = windows[(..., *(slice(None, None, step) for step in conv.dilation))]
    samples = torch.arange(len(inputs), device=inputs.device)[:, None]
    at = torch.unravel_index(places, grid)
    # The indices lie apart, so that what they pick comes first: `b x p x c x k ...`.
    chosen = windows[(samples, slice(None), *at)].flatten(0, 1).flatten(2)
    return chosen.transpose(0, 1) if conv.groups > 1 else chosen.flatten(1)[None]


def output_rows(layer: nn.Module, rows: Tensor) -> Tensor:
    """What a layer makes of rows `g x m x d` from `patches`: `g x m x o`, `o` is 1 for a depthwise layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    flat = weight.flatten(1)
    is_depthwise = len(rows) > 1
    outputs = rows @ (flat[:, :, None] if is_depthwise else flat.T)
    if not isinstance(bias, Tensor):
        return outputs
    return outputs + (bias[:, None, None] if is_depthwise else bias)


def _padded(conv: Any, inputs: Tensor) -> Tensor:
    """The inputs as the convolution pads them."""
    if conv.padding == "valid":
        return inputs
    pairs = []
    for axis, (size, step) in enumerate(zip(conv.kernel_size, conv.dilation, strict=True)):
        total = step * (size - 1)
        # "same" puts the odd pixel behind.
        pairs.append(
            (total // 2, total - total // 2) if conv.padding == "same" else (conv.padding[axis],) * 2
        )
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    # The last dimension comes first.
    return functional.pad(inputs, [side for pair in reversed(pairs) for side in pair], mode=mode)
