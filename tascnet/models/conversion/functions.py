"""What functions and methods of torch become: layers and steps, by their bare name.

Each takes what collects the operations, and then what the function takes under the same names: tensors are
nodes or, where they do not depend on the network's input, calls. Methods and functions of one name do the
same, in place or not. A name without underscores around it stands for an operator too.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tascnet.models.blocks import L2Norm
from tascnet.models.conversion.calls import Call
from tascnet.models.conversion.known import conv2d, with_tensors
from tascnet.models.conversion.nodes import Node
from tascnet.models.layers import LayerScale, Offset

if TYPE_CHECKING:
    from tascnet.models.conversion.canonical import Canonical

Function = Callable[..., Any]
FUNCTIONS: dict[str, Function] = {}


def _takes(*names: str) -> Callable[[Function], Function]:
    """Enter a function under these names."""

    def entered(function: Function) -> Function:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return entered


def _number(value: Any) -> Any:
    """The literal of a whole number, which may be computed from a shape."""
    return value.value if isinstance(value, Node) else value


def _number_or_all(value: Any) -> Any:
    return tuple(map(_number, value)) if isinstance(value, tuple) else _number(value)


def _axis(axis: Any, x: Any) -> int:
    return int(axis) % max(len(x.shape), 1)


def _axes(axes: Any, x: Any) -> tuple[int, ...]:
    if axes is None or axes == ():
        return tuple(range(len(x.shape)))
    return tuple(_axis(axis, x) for axis in (axes if isinstance(axes, tuple) else (axes,)))


def _items(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """`(1, 2)` of `f(1, 2)` and of `f((1, 2))`."""
    return values[0] if len(values) == 1 and isinstance(values[0], tuple) else values


# Activations, and other layers without weights.


def _activation(name: str, make: Callable[[], nn.Module]) -> None:
    _takes(name)(lambda b, input, inplace=False: b.layer(make(), input))


for _name, _kind in {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
}.items():
    _activation(_name, _kind)


@_takes("leaky_relu")
def _leaky_relu(b: "Canonical", input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Node:
    return b.layer(nn.LeakyReLU(negative_slope), input)


@_takes("elu")
def _elu(b: "Canonical", input: Any, alpha: float = 1.0, inplace: bool = False) -> Node:
    return b.layer(nn.ELU(alpha), input)


@_takes("celu")
def _celu(b: "Canonical", input: Any, alpha: float = 1.0, inplace: bool = False) -> Node:
    return b.layer(nn.CELU(alpha), input)


@_takes("gelu")
def _gelu(b: "Canonical", input: Any, *, approximate: str = "none") -> Node:
    return b.layer(nn.GELU(approximate), input)


@_takes("softplus")
def _softplus(b: "Canonical", input: Any, beta: float = 1.0, threshold: float = 20.0) -> Node:
    return b.layer(nn.Softplus(beta, threshold), input)


@_takes("hardtanh")
def _hardtanh(
    b: "Canonical", input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Node:
    return b.layer(nn.Hardtanh(min_val, max_val), input)


@_takes("softmax")
def _softmax(b: "Canonical", input: Any, dim: Any = None, *_: Any, dtype: Any = None, **__: Any) -> Node:
    if dim is None or dtype is not None:
        raise b.refused("softmax without an axis, or to another type")
    return b.layer(nn.Softmax(_axis(dim, input)), input)


@_takes("log_softmax")
def _log_softmax(b: "Canonical", input: Any, dim: Any = None, *_: Any, dtype: Any = None, **__: Any) -> Node:
    if dim is None or dtype is not None:
        raise b.refused("log_softmax without an axis, or to another type")
    return b.layer(nn.LogSoftmax(_axis(dim, input)), input)


def _dropout(kind: Callable[[float], nn.Module]) -> Function:
    # The third argument is called `training` or `train`.
    def function(b: "Canonical", input: Any, p: float = 0.5, *_: Any, **__: Any) -> Node:
        return b.layer(kind(p), input) if p else input  # type: ignore[no-any-return]

    return function


_takes("dropout")(_dropout(nn.Dropout))
_takes("dropout1d")(_dropout(nn.Dropout1d))
_takes("dropout2d")(_dropout(nn.Dropout2d))
_takes("alpha_dropout")(_dropout(nn.AlphaDropout))


@_takes("max_pool2d")
def _max_pool2d(
    b: "Canonical",
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Node:
    sizes = _number_or_all(kernel_size), _number_or_all(stride) or None
    return b.layer(nn.MaxPool2d(*sizes, padding, dilation, False, ceil_mode), input)


@_takes("avg_pool2d")
def _avg_pool2d(
    b: "Canonical",
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    layer = nn.AvgPool2d(
        _number_or_all(kernel_size),
        _number_or_all(stride) or None,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    return b.layer(layer, input)


@_takes("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(b: "Canonical", input: Any, output_size: Any) -> Node:
    return b.layer(nn.AdaptiveAvgPool2d(output_size), input)


@_takes("adaptive_max_pool2d")
def _adaptive_max_pool2d(b: "Canonical", input: Any, output_size: Any, return_indices: bool = False) -> Node:
    return b.layer(nn.AdaptiveMaxPool2d(output_size), input)


@_takes("pixel_shuffle")
def _pixel_shuffle(b: "Canonical", input: Any, upscale_factor: int) -> Node:
    return b.layer(nn.PixelShuffle(upscale_factor), input)


@_takes("pixel_unshuffle")
def _pixel_unshuffle(b: "Canonical", input: Any, downscale_factor: int) -> Node:
    return b.layer(nn.PixelUnshuffle(downscale_factor), input)


@_takes("normalize")
def _normalize(
    b: "Canonical", input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Node:
    axis = _axis(dim, input)
    if p != 2:
        raise b.refused("normalize by another norm than the Euclidean one")
    if axis == 1 and len(input.shape) == 2:
        return b.layer(L2Norm(eps), input)
    b.rewritten.append(f"{b.name}: the norm is the root of a sum of squares")
    squares = b.step("pow", input, 2)
    shape = (*input.shape[:axis], 1, *input.shape[axis + 1 :])
    norm = b.step("pow", b.step("sum", squares, (axis,), True, shape=shape), 0.5, shape=shape)
    return b.step("div", input, b.step("clamp", norm, eps, None, shape=shape))


@_takes("interpolate", "upsample")
def _interpolate(
    b: "Canonical",
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Node:
    if recompute_scale_factor or antialias:
        raise b.refused("interpolate with recompute_scale_factor or antialias")
    sizes = (size,) * 2 if size is not None and not isinstance(size, tuple) else size
    is_fixed = sizes is None or not any(isinstance(item, Node) for item in sizes)
    if is_fixed and mode != "area":
        return b.layer(
            nn.Upsample(size=sizes, scale_factor=scale_factor, mode=mode, align_corners=align_corners), input
        )
    if isinstance(scale_factor, tuple):
        scale_factor = scale_factor[0] if len(set(scale_factor)) == 1 else scale_factor
    factor = None if scale_factor is None else float(scale_factor)
    return b.step("interpolate", input, sizes, factor, mode, align_corners)


# Layers that read weights.


@_takes("conv2d")
def _conv2d(
    b: "Canonical",
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    settings = (stride, padding, dilation, _number(groups))
    return b.weighted(lambda w, v: conv2d(w, v, *settings), "conv2d", settings, input, weight, bias)


@_takes("linear")
def _linear(b: "Canonical", input: Any, weight: Any, bias: Any = None) -> Node:
    def make(weight: Any, bias: Any) -> Any:
        outputs, inputs = weight.shape
        layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
        return with_tensors(layer, weight=weight, bias=bias)

    return b.weighted(make, "linear", (), input, weight, bias)


@_takes("batch_norm")
def _batch_norm(
    b: "Canonical",
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Node:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(len(input.shape))
    if training or running_mean is None or running_var is None or kind is None:
        raise b.refused("batch_norm without running statistics")
    if (weight is None) != (bias is None):
        raise b.refused("batch_norm with a factor and no offset, or the other way round")

    def make(mean: Any, var: Any, weight: Any, bias: Any) -> Any:
        layer = kind(len(mean), eps, momentum, weight is not None, device="meta")
        counted = b.beside(running_mean, "num_batches_tracked")
        tracked = torch.zeros((), dtype=torch.long, device=mean.device) if counted is None else counted
        return with_tensors(
            layer, running_mean=mean, running_var=var, weight=weight, bias=bias, num_batches_tracked=tracked
        )

    return b.weighted(make, "batch_norm", (momentum, eps), input, running_mean, running_var, weight, bias)


@_takes("layer_norm")
def _layer_norm(
    b: "Canonical",
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
) -> Node:
    shape = tuple(map(_number, _items((normalized_shape,))))

    def make(weight: Any, bias: Any) -> Any:
        layer = nn.LayerNorm(shape, eps, weight is not None, bias is not None, device="meta")
        return with_tensors(layer, weight=weight, bias=bias)

    if weight is None and bias is not None:
        raise b.refused("layer_norm with an offset and no factor")
    return b.weighted(make, "layer_norm", (shape, eps), input, weight, bias)


@_takes("group_norm")
def _group_norm(
    b: "Canonical",
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Node:
    if weight is None and bias is not None:
        raise b.refused("group_norm with an offset and no factor")
    if weight is not None and bias is None:
        b.rewritten.append(f"{b.name}: an offset of zero is added")

    def make(weight: Any, bias: Any) -> Any:
        layer = nn.GroupNorm(num_groups, input.shape[1], eps, weight is not None, device="meta")
        if weight is not None and bias is None:
            bias = nn.Parameter(torch.zeros_like(weight))
        return with_tensors(layer, weight=weight, bias=bias)

    return b.weighted(make, "group_norm", (num_groups, eps), input, weight, bias)


@_takes("prelu")
def _prelu(b: "Canonical", input: Any, weight: Any) -> Node:
    def make(weight: Any) -> Any:
        return with_tensors(nn.PReLU(weight.numel(), device="meta"), weight=weight)

    return b.weighted(make, "prelu", (), input, weight)


# Arithmetic.


def _elementwise(b: "Canonical", operation: str, kind: Any, first: Any, second: Any) -> Node:
    """A sum or product, which is a layer where one part of it is a weight."""
    for x, other in ((first, second), (second, first)):
        if isinstance(x, Node) and x.shape is not None and isinstance(other, Call):
            layer = b.elementwise(kind, x, other)
            if layer is not None:
                return layer
    return b.step(operation, first, second)


@_takes("add", "radd", "iadd")
def _add(b: "Canonical", input: Any, other: Any, *, alpha: float = 1) -> Node:
    if alpha != 1:
        other = b.step("mul", other, alpha, shape=getattr(other, "shape", ()))
    return _elementwise(b, "add", Offset, input, other)


@_takes("mul", "rmul", "multiply", "imul")
def _mul(b: "Canonical", input: Any, other: Any) -> Node:
    return _elementwise(b, "mul", LayerScale, input, other)


@_takes("sub", "subtract", "isub")
def _sub(b: "Canonical", input: Any, other: Any, *, alpha: float = 1) -> Node:
    if alpha != 1:
        raise b.refused("sub with alpha")
    return b.step("sub", input, other)


@_takes("rsub")
def _rsub(b: "Canonical", input: Any, other: Any) -> Node:
    return b.step("sub", other, input)


@_takes("div", "truediv", "true_divide", "divide", "itruediv")
def _div(b: "Canonical", input: Any, other: Any, *, rounding_mode: str | None = None) -> Node:
    if rounding_mode is not None:
        raise b.refused("div with rounding")
    return b.step("div", input, other)


@_takes("rdiv", "rtruediv")
def _rdiv(b: "Canonical", input: Any, other: Any) -> Node:
    return b.step("div", other, input)


@_takes("pow", "ipow")
def _pow(b: "Canonical", input: Any, exponent: Any) -> Node:
    return b.step("pow", input, exponent)


@_takes("square")
def _square(b: "Canonical", input: Any) -> Node:
    return b.step("pow", input, 2)


@_takes("sqrt")
def _sqrt(b: "Canonical", input: Any) -> Node:
    return b.step("pow", input, 0.5)


@_takes("rsqrt")
def _rsqrt(b: "Canonical", input: Any) -> Node:
    return b.step("pow", input, -0.5)


@_takes("neg")
def _neg(b: "Canonical", input: Any) -> Node:
    return b.step("mul", input, -1)


@_takes("addcmul")
def _addcmul(b: "Canonical", input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Node:
    product = _mul(b, tensor1, tensor2)
    return _add(b, input, product, alpha=value)


@_takes("maximum")
def _maximum(b: "Canonical", input: Any, other: Any) -> Node:
    return b.step("maximum", input, other)


@_takes("clamp", "clip")
def _clamp(b: "Canonical", input: Any, min: Any = None, max: Any = None) -> Node:
    if isinstance(min, Node | Call) or isinstance(max, Node | Call):
        raise b.refused("clamp to values of a tensor", "clamp to numbers, or use torch.maximum")
    return b.step("clamp", input, min, max)


@_takes("clamp_min")
def _clamp_min(b: "Canonical", input: Any, min: Any) -> Node:
    return b.step("clamp", input, min, None)


@_takes("matmul", "bmm", "mm")
def _matmul(b: "Canonical", input: Any, other: Any) -> Node:
    return b.step("matmul", input, other)


@_takes("scaled_dot_product_attention")
def _attention(
    b: "Canonical",
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Node:
    if attn_mask is not None or dropout_p or is_causal or scale is not None or enable_gqa:
        raise b.refused("attention with a mask, dropout or a scale of its own")
    return b.step("attention", query, key, value)


def _reduction(name: str) -> None:
    def function(
        b: "Canonical", input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Node:
        if dtype is not None:
            raise b.refused(f"{name} to another type")
        return b.step(name, input, _axes(dim, input), bool(keepdim))

    _takes(name)(function)


for _name in ("sum", "amax"):
    _reduction(_name)


@_takes("mean")
def _mean(b: "Canonical", input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Node:
    axes = _axes(dim, input)
    if dtype is not None:
        raise b.refused("mean to another type")
    if len(input.shape) == 4 and set(axes) == {2, 3}:
        # torch computes both alike.
        pooled = b.layer(nn.AdaptiveAvgPool2d(1), input, shape=(*input.shape[:2], 1, 1))
        return pooled if keepdim else b.layer(nn.Flatten(), pooled, name="flatten")
    return b.step("mean", input, axes, bool(keepdim))


@_takes("max")
def _max(b: "Canonical", input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None or isinstance(dim, Node | Call):
        raise b.refused("max of two tensors or over all values", "use torch.maximum or torch.amax")
    shape = list(input.shape)
    shape[_axis(dim, input)] = 1
    if not keepdim:
        del shape[_axis(dim, input)]
    # Where several values are the largest, torch gives the gradient to one of them, and here to all.
    return (b.step("amax", input, (_axis(dim, input),), bool(keepdim), shape=shape), None)


# Several tensors.


@_takes("cat", "concat", "concatenate")
def _cat(b: "Canonical", tensors: Any, dim: Any = 0) -> Node:
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    return b.step("cat", tensors, _axis(dim, tensors[0]))


@_takes("stack")
def _stack(b: "Canonical", tensors: Any, dim: Any = 0) -> Node:
    return b.step("stack", tensors, int(dim) % (len(tensors[0].shape) + 1))


@_takes("chunk")
def _chunk(b: "Canonical", input: Any, chunks: Any, dim: Any = 0) -> Node:
    width = input.shape[_axis(dim, input)]
    return _split(b, input, -(-width // _number(chunks)), dim)


@_takes("split", "split_with_sizes")
def _split_named(b: "Canonical", input: Any, *args: Any, dim: Any = 0, **sizes: Any) -> Node:
    # The second argument has another name in the method and in the function.
    values = (*args, *sizes.values())
    return _split(b, input, values[0], values[1] if len(values) > 1 else dim)


def _split(b: "Canonical", input: Any, sizes: Any, dim: Any) -> Node:
    axis = _axis(dim, input)
    width = input.shape[axis]
    if isinstance(sizes, tuple):
        parts = tuple(map(_number, sizes))
    else:
        each = _number(sizes)
        parts = tuple(min(each, width - start) for start in range(0, width, each))
    return b.step("split", input, parts, axis)


@_takes("unbind")
def _unbind(b: "Canonical", input: Any, dim: Any = 0) -> Node:
    return b.step("unbind", input, _axis(dim, input))


@_takes("part")
def _part(b: "Canonical", several: Any, number: int) -> Node:
    """One of several tensors that a call gave."""
    if isinstance(several, tuple):
        if several[number] is None:
            raise b.refused("the places of largest values are read")
        return several[number]  # type: ignore[no-any-return]
    return b.step("getitem", several, number)


# Shapes.


@_takes("getitem")
def _getitem(b: "Canonical", input: Any, index: Any) -> Node:
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, tuple | Call | bool) for item in items) or any(
        isinstance(item, Node) and item.value is None for item in items
    ):
        raise b.refused("a tensor is indexed by values", "index by whole numbers and slices")
    shape = b.shape
    if input.shape == shape and all(item is Ellipsis or item == slice(None) for item in items):
        return input  # type: ignore[no-any-return]
    is_head = items[0] == slice(None) and not any(item is None or item is Ellipsis for item in items)
    if is_head and len(input.shape) > 2 and shape == (input.shape[0], math.prod(input.shape[1:])):
        return b.layer(nn.Flatten(), input)
    return b.step("getitem", input, index)


@_takes("view", "reshape")
def _reshape(b: "Canonical", input: Any, *sizes: Any, **named: Any) -> Node:
    sizes = _items(tuple(named.values()) if named else sizes)
    if any(not isinstance(size, int | Node) or isinstance(size, bool) for size in sizes):
        raise b.refused("view as another type")
    return _reshaped(b, input, sizes)


@_takes("unflatten")
def _unflatten(b: "Canonical", input: Any, dim: Any, sizes: Any) -> Node:
    axis = _axis(dim, input)
    sides = [b.side(input, i) for i in range(len(input.shape))]
    return _reshaped(b, input, (*sides[:axis], *sizes, *sides[axis + 1 :]))


@_takes("view_as", "reshape_as")
def _reshape_as(b: "Canonical", input: Any, other: Any) -> Node:
    return _reshaped(b, input, tuple(b.side(other, axis) for axis in range(len(other.shape))))


def _reshaped(b: "Canonical", input: Any, sizes: Sequence[Any]) -> Node:
    """A tensor of another shape; flattened where that is all."""
    before, after = input.shape, b.shape
    if before == after:
        return input  # type: ignore[no-any-return]
    if isinstance(input, Node):
        joined = len(before) - len(after) + 1
        # Not the batch where another axis will do.
        for start in (*range(1, len(after)), 0) if joined > 1 else ():
            end = start + joined
            if (*before[:start], math.prod(before[start:end]), *before[end:]) == after:
                return b.layer(nn.Flatten(start, -1 if end == len(before) else end - 1), input)
    return b.step("reshape", input, tuple(_own_side(b, input, axis, size) for axis, size in enumerate(sizes)))


def _own_side(b: "Canonical", x: Any, axis: int, size: Any) -> Any:
    """A size from the shape of another tensor as that of this one where they agree: the other may go."""
    is_side = isinstance(size, Node) and size.operation == "getitem"
    if not is_side or not isinstance(x, Node) or x.shape is None or axis >= len(x.shape):
        return size
    shape, of_axis = size.arguments
    is_own = of_axis == axis and shape.arguments[0] is not x and x.shape[axis] == size.value
    return b.side(x, axis) if is_own else size


@_takes("flatten")
def _flatten(b: "Canonical", input: Any, start_dim: int = 0, end_dim: int = -1) -> Node:
    start, end = _axis(start_dim, input), _axis(end_dim, input)
    if start == end:
        return input  # type: ignore[no-any-return]
    return b.layer(nn.Flatten(start, -1 if end == len(input.shape) - 1 else end), input)


@_takes("squeeze")
def _squeeze(b: "Canonical", input: Any, dim: Any = None) -> Node:
    axes = [axis for axis in _axes(dim, input) if input.shape[axis] == 1]
    if not axes:
        return input  # type: ignore[no-any-return]
    if b.shape == input.shape[:2] and len(input.shape) > 2 and isinstance(input, Node):
        return b.layer(nn.Flatten(), input)
    if 0 in axes and isinstance(input, Node):
        raise b.refused("squeeze of a batch")
    shape = list(input.shape)
    for axis in sorted(axes, reverse=True):
        del shape[axis]
        input = b.step("squeeze", input, axis, shape=shape)
    return input  # type: ignore[no-any-return]


@_takes("unsqueeze")
def _unsqueeze(b: "Canonical", input: Any, dim: Any) -> Node:
    return b.step("unsqueeze", input, int(dim) % (len(input.shape) + 1))


@_takes("expand")
def _expand(b: "Canonical", input: Any, *sizes: Any, **named: Any) -> Node:
    sizes = _items(tuple(named.values()) if named else sizes)
    if input.shape == b.shape:
        return input  # type: ignore[no-any-return]
    return b.step("expand", input, sizes)


@_takes("expand_as")
def _expand_as(b: "Canonical", input: Any, other: Any) -> Node:
    return _expand(b, input, *(b.side(other, axis) for axis in range(len(other.shape))))


@_takes("permute")
def _permute(b: "Canonical", input: Any, *dims: Any, **named: Any) -> Node:
    order = tuple(_axis(axis, input) for axis in _items(tuple(named.values()) if named else dims))
    if order == tuple(range(len(order))):
        return input  # type: ignore[no-any-return]
    return b.step("permute", input, order)


@_takes("transpose", "swapaxes", "swapdims")
def _transpose(b: "Canonical", input: Any, dim0: Any, dim1: Any) -> Node:
    return b.step("transpose", input, _axis(dim0, input), _axis(dim1, input))


@_takes("contiguous")
def _contiguous(b: "Canonical", input: Any, *, memory_format: Any = None) -> Node:
    return b.step("contiguous", input)


@_takes("clone")
def _clone(b: "Canonical", input: Any, *, memory_format: Any = None) -> Node:
    return input  # type: ignore[no-any-return]


@_takes("pad")
def _pad(b: "Canonical", input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Node:
    amounts = tuple(map(_number, pad))
    if not any(amounts):
        return input  # type: ignore[no-any-return]
    return b.step("pad", input, amounts, mode, float(value or 0.0))


@_takes("zeros_like")
def _zeros_like(b: "Canonical", input: Any, **_: Any) -> Node:
    return b.step("mul", input, 0)
