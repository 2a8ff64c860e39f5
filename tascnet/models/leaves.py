"""The closed list of layers that a saved model may have, with a check for each of their arguments."""

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tascnet.models.blocks import ChannelsFirst, L2Norm, Scale, SliceAndPad
from tascnet.models.layers import (
    GRN,
    AvgPool2dSame,
    BlurPool2d,
    Conv2dSame,
    LayerNorm2d,
    LayerScale,
    MaxPool2dSame,
    Offset,
    Permute,
    StochasticDepth,
)

Check = Callable[[Any], bool]

# Of a layer's inputs and outputs, and of a kernel, stride or padding: far above any network's.
WIDEST = 1 << 20
_LONGEST = 4096
# Axes of a tensor.
MOST_AXES = 8


def is_int(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def is_tuple_of(check: Check, fewest: int = 1, most: int = 4) -> Check:
    return lambda value: isinstance(value, tuple) and fewest <= len(value) <= most and all(map(check, value))


def is_one_of(*values: str | bool) -> Check:
    return lambda value: isinstance(value, str | bool) and value in values


# Of a tensor of any number of axes.
is_shape = is_tuple_of(is_int(1, WIDEST), fewest=0, most=MOST_AXES)


def _is_number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_size(low: int) -> Check:
    """One whole number, or one for each direction."""
    whole = is_int(low, _LONGEST)
    return _either(whole, is_tuple_of(whole))


def _is_order(value: Any) -> bool:
    """Whether a value has each axis of a tensor once."""
    is_axes = is_tuple_of(is_int(0, MOST_AXES), most=MOST_AXES)(value)
    return is_axes and sorted(value) == list(range(len(value)))


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


_FACTOR = _is_number(0.01, 100.0)
_WIDTHS = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_embeddings"),
    *("embedding_dim", "num_features", "num_groups", "num_channels", "num_parameters"),
)
_SWITCHES = (
    *("bias", "affine", "track_running_stats", "inplace", "ceil_mode", "count_include_pad"),
    "elementwise_affine",
)
_NUMBERS = (
    *("initial", "alpha", "negative_slope", "beta", "threshold", "value", "min_val", "max_val", "lambd", "k"),
)
# A check for each argument of the layers below.
_ARGUMENTS: Mapping[str, Check] = {
    **dict.fromkeys(_WIDTHS, is_int(1, WIDEST)),
    **dict.fromkeys(_SWITCHES, is_one_of(True, False)),
    **dict.fromkeys(("eps", "p"), _is_number(0.0, 1.0)),
    **dict.fromkeys(_NUMBERS, _is_number(-1e6, 1e6)),
    **dict.fromkeys(("kernel_size", "stride", "dilation"), _is_size(1)),
    **dict.fromkeys(("before", "after"), is_int(0, _LONGEST)),
    **dict.fromkeys(("start_dim", "end_dim", "dim"), is_int(-MOST_AXES, MOST_AXES)),
    **dict.fromkeys(("upscale_factor", "downscale_factor"), is_int(1, 64)),
    **dict.fromkeys(("padding", "output_padding"), _is_size(0)),
    "channel_dim": lambda value: type(value) is int and value in (1, -1),
    "dims": _is_order,
    "shape": is_shape,
    "normalized_shape": is_tuple_of(is_int(1, WIDEST)),
    "padding_mode": is_one_of("zeros", "reflect", "replicate", "circular"),
    "padding_idx": _optional(is_int(0, WIDEST)),
    "momentum": _optional(_is_number(0.0, 1.0)),
    "approximate": is_one_of("none", "tanh"),
    "divisor_override": _optional(is_int(1, WIDEST)),
    "output_size": _either(_is_size(1), is_tuple_of(_optional(is_int(1, _LONGEST)))),
    "size": _optional(_is_size(1)),
    "scale_factor": _optional(_either(_FACTOR, is_tuple_of(_FACTOR))),
    "mode": is_one_of("nearest", "nearest-exact", "linear", "bilinear", "bicubic"),
    "align_corners": _optional(is_one_of(True, False)),
}


def _layers(*kinds: type[nn.Module], args: str = "", **own: Check) -> dict[type[nn.Module], dict[str, Check]]:
    """Layers with the checks of their arguments; `own` checks differ from those of other layers."""
    checks = {**_ARGUMENTS, **own}
    return {kind: {name: checks[name] for name in args.split()} for kind in kinds}


LEAVES: Mapping[type[nn.Module], Mapping[str, Check]] = {
    **_layers(
        *(nn.Conv1d, nn.Conv2d),
        args="in_channels out_channels kernel_size stride padding dilation groups bias padding_mode",
        padding=_either(_is_size(0), is_one_of("same", "valid")),
    ),
    **_layers(Conv2dSame, args="in_channels out_channels kernel_size stride dilation groups bias"),
    **_layers(
        nn.ConvTranspose2d,
        args="in_channels out_channels kernel_size stride padding output_padding groups bias dilation",
    ),
    **_layers(nn.Linear, args="in_features out_features bias"),
    **_layers(nn.Embedding, args="num_embeddings embedding_dim padding_idx"),
    **_layers(
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d),
        args="num_features eps momentum affine track_running_stats",
    ),
    **_layers(nn.GroupNorm, args="num_groups num_channels eps affine"),
    **_layers(nn.LayerNorm, args="normalized_shape eps elementwise_affine bias"),
    **_layers(LayerNorm2d, args="num_channels eps affine bias"),
    **_layers(GRN, args="num_channels channel_dim eps"),
    **_layers(nn.LocalResponseNorm, args="size alpha beta k", size=is_int(1, _LONGEST)),
    **_layers(L2Norm, args="eps"),
    **_layers(Scale, args="initial"),
    **_layers(LayerScale, Offset, args="shape"),
    **_layers(nn.Identity, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, ChannelsFirst),
    **_layers(nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, args="inplace"),
    **_layers(nn.ELU, nn.CELU, args="alpha inplace"),
    **_layers(nn.LeakyReLU, args="negative_slope inplace"),
    **_layers(nn.Hardtanh, args="min_val max_val inplace"),
    **_layers(nn.Threshold, args="threshold value inplace"),
    **_layers(nn.Hardshrink, nn.Softshrink, args="lambd"),
    **_layers(nn.PReLU, args="num_parameters"),
    **_layers(nn.GELU, args="approximate"),
    **_layers(nn.Softplus, args="beta threshold"),
    **_layers(nn.Softmax, nn.LogSoftmax, args="dim"),
    **_layers(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, args="p inplace"),
    **_layers(StochasticDepth, args="p"),
    **_layers(nn.MaxPool1d, nn.MaxPool2d, args="kernel_size stride padding ceil_mode dilation"),
    **_layers(nn.AvgPool1d, args="kernel_size stride padding ceil_mode count_include_pad"),
    **_layers(nn.AvgPool2d, args="kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    **_layers(MaxPool2dSame, args="kernel_size stride dilation ceil_mode"),
    **_layers(AvgPool2dSame, args="kernel_size stride ceil_mode"),
    **_layers(
        BlurPool2d,
        args="kernel_size stride padding_mode",
        kernel_size=is_int(2, 64),
        stride=is_int(1, _LONGEST),
        padding_mode=is_one_of("constant", "reflect", "replicate", "circular"),
    ),
    **_layers(
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        args="output_size",
    ),
    **_layers(nn.Flatten, args="start_dim end_dim"),
    **_layers(Permute, args="dims"),
    **_layers(nn.PixelShuffle, args="upscale_factor"),
    **_layers(nn.PixelUnshuffle, args="downscale_factor"),
    **_layers(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, args="padding"),
    **_layers(nn.ConstantPad2d, args="padding value"),
    **_layers(SliceAndPad, args="stride before after", stride=is_int(1, _LONGEST)),
    **_layers(nn.Upsample, args="size scale_factor mode align_corners"),
}
LEAF_NAMES: Mapping[str, type[nn.Module]] = {kind.__name__: kind for kind in LEAVES}


def arguments_of(layer: nn.Module) -> dict[str, Any]:
    """The arguments by which a layer of the list is made again."""
    args = {name: getattr(layer, name) for name in LEAVES[type(layer)]}
    if "bias" in args:
        args["bias"] = args["bias"] is not None
    return args


def oddity(layer: nn.Module) -> str | None:
    """What a layer does that its class and arguments do not say; None: nothing."""
    if "forward" in vars(layer):
        return "has a `forward` of its own"
    if getattr(layer, "recompute_scale_factor", None):
        return "has recompute_scale_factor=True"
    return None


def unfit_arguments(kind: str, args: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a layer of that class; None where nothing is."""
    checks = LEAVES[LEAF_NAMES[kind]]
    if set(args) != set(checks):
        return f"needs exactly the arguments {sorted(checks)} of a {kind}"
    for name, value in args.items():
        if not checks[name](value):
            return f"has an impossible {name} of a {kind}: {reprlib.repr(value)}"
        # torch takes a tuple of any length and fails when the layer runs.
        found = re.search(r"(\d)d", kind)
        axes = 4 if kind.endswith("Pad2d") else int(found[1]) if found else None
        if isinstance(value, tuple) and axes is not None and len(value) != axes:
            return f"has {len(value)} values as {name} of a {kind}, expected {axes}"
    # torch checks it with an assertion, which Python may skip.
    padding = args.get("padding_idx")
    if padding is not None and padding >= args["num_embeddings"]:
        return f"has an impossible padding_idx of a {kind}: {padding}"
    return None
