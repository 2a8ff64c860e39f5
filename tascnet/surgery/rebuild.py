"""New layers in place of the last ones of a chain, and the layers that reconcile their shapes.

The *path* of a chain is the sequence of its layers without those of its shortcuts; layers are searched along
it.

Source: Basha et al. 2020, section 3; its two ways of joining new layers to an old network are the two
values of `skip`. `keep`: connections stay, a 1x1 convolution gives a shortcut the new width, and padding
keeps the size of every map. `drop`: the result is a plain chain of convolutions of stride 1 without padding,
and a map that is smaller than a kernel is enlarged before it.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.errors import SurgeryError, first_line
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import Concat, Residual, SliceAndPad
from tascnet.models.head import he_linear, he_normal
from tascnet.models.inspect import input_for, meta_copy, meta_like
from tascnet.models.layers import Conv2dSame, LayerNorm2d
from tascnet.surgery.layers import children, is_depthwise

Skip: TypeAlias = Literal["keep", "drop"]
# By layer, values of `filter_size`, `filters`, `padding`, `pool`, `pool_size`, `neurons`, `activation` and
# `dropout`.
Settings: TypeAlias = Mapping[str, Mapping[str, Any]]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A part of a chain with new layers.

    Args:
        chain: the blocks under their old names; a layer that needs others around it becomes a sequence.
        features: the output for the example, on the meta device.
        frozen: names of the pre-trained layers with no new layer before them.
    """

    chain: nn.Sequential
    features: Tensor
    frozen: tuple[str, ...]


def rebuild(
    chain: nn.Sequential,
    example: Tensor,
    settings: Settings,
    *,
    skip: Skip,
    side: int,
    generator: torch.Generator | None,
) -> Rebuilt:
    """Replace the layers named in `settings` by new ones, and with them all whose input's width changes.

    New weights are He-normal, new biases zero. All other layers are copied with their weights.

    Args:
        chain: a slice of a chain; stays as it is.
        example: its shape alone matters.
        settings: of searched layers on the path.
        skip: what becomes of residual and dense connections.
        side: a map that is smaller than its kernel is enlarged to at least this many pixels.
        generator: draws the new weights; None leaves them without values, on the meta device.

    Raises:
        SurgeryError: the new layers do not fit together.
    """
    path = pairwise(path_layers(chain))
    walk = _Walk(
        settings=settings,
        skip=skip,
        side=side,
        normed=frozenset(name for (name, _), (_, after) in path if isinstance(after, _BatchNorm)),
        generator=generator,
        features=meta_like(example),
    )
    new = walk.module("", chain)
    assert isinstance(new, nn.Sequential)
    for name in walk.frozen:
        new.get_submodule(name).requires_grad_(False)
    return Rebuilt(chain=new, features=walk.features, frozen=tuple(walk.frozen))


def path_layers(chain: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers on the path with their dotted names, from the input to the output.

    A `Graph`, and every module that is neither a sequence nor a block, counts as one layer.
    """
    for name, child in children(chain):
        if isinstance(chain, Residual) and name == "shortcut":
            continue
        if isinstance(child, nn.Sequential | Residual | Concat):
            yield from path_layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def shape_after(module: nn.Module, example: Tensor) -> Tensor:
    """The output on the meta device, which takes neither memory nor time.

    Raises:
        SurgeryError: the module does not take the example.
    """
    ghost = meta_copy(module).eval()
    try:
        with torch.no_grad():
            output: Tensor = ghost(input_for(ghost, meta_like(example)))
    except (RuntimeError, ValueError, IndexError) as error:
        raise SurgeryError(
            f"a layer does not take an input of shape {tuple(example.shape)} ({first_line(error)})"
        ) from error
    return output


def footprint(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int]:
    """Height and width of the kernel with its dilation, less the layer's own padding on both sides.

    A kernel of size `k` keeps the size of the layer's map if the map is padded by `k - footprint` pixels.
    """
    if isinstance(layer, Conv2dSame) or layer.padding == "same":
        return 1, 1
    padding = (0, 0) if layer.padding == "valid" else _pair(layer.padding)
    (height, width), (down, right) = _pair(layer.kernel_size), _pair(getattr(layer, "dilation", 1))
    return down * (height - 1) + 1 - 2 * padding[0], right * (width - 1) + 1 - 2 * padding[1]


@dataclass(kw_only=True)
class _Walk:
    """Follows the path and builds each layer for its new input.

    Args:
        normed: names of the layers that a batch-norm follows.
        features: input of the next layer, on the meta device.
        begun: whether a searched layer lies before the next layer.
        frozen: names of the pre-trained layers met before that.
    """

    settings: Settings
    skip: Skip
    side: int
    normed: frozenset[str]
    generator: torch.Generator | None
    features: Tensor
    begun: bool = False
    frozen: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Channels, or features of a flattened input."""
        return int(self.features.shape[1])

    def module(self, path: str, old: nn.Module) -> nn.Module:
        if isinstance(old, nn.Sequential):
            prefix = f"{path}." if path else ""
            parts = ((name, self.module(prefix + name, child)) for name, child in children(old))
            return nn.Sequential(OrderedDict(parts))
        if isinstance(old, Residual):
            return self._residual(path, old)
        if isinstance(old, Concat):
            return self._concat(path, old)
        new = self._searched(path, old) if path in self.settings else self._fitted(old)
        self.begun = self.begun or path in self.settings
        if not self.begun:
            self.frozen.append(path)
        try:
            self.features = shape_after(new, self.features)
        except SurgeryError as error:
            raise SurgeryError(f"in '{path}' {error.message}") from error
        return new

    def _residual(self, path: str, old: Residual) -> nn.Module:
        entry, downstream = self.features, self.begun
        body = self.module(f"{path}.body", old.body)
        if self.skip == "drop":
            activation = self.module(f"{path}.activation", old.activation)
            return nn.Sequential(OrderedDict(body=body, activation=activation))
        if self._fits(old.shortcut, entry):
            shortcut = copy.deepcopy(old.shortcut).requires_grad_(True)
            if not downstream:
                layers = shortcut.named_modules(prefix=f"{path}.shortcut")
                self.frozen += [name for name, layer in layers if not any(layer.children())]
        else:
            shortcut = self._new_shortcut(old, entry)
        return Residual(body, shortcut, self.module(f"{path}.activation", old.activation))

    def _fits(self, shortcut: nn.Module, entry: Tensor) -> bool:
        try:
            return shape_after(shortcut, entry).shape == self.features.shape
        except SurgeryError:
            return False

    def _new_shortcut(self, old: Residual, entry: Tensor) -> nn.Module:
        """A 1x1 convolution to the body's new width."""
        normed = any(isinstance(layer, nn.BatchNorm2d) for layer in old.body.modules())
        strided = (nn.Conv2d, *_POOLS, SliceAndPad)
        strides = [_pair(layer.stride)[0] for layer in old.shortcut.modules() if isinstance(layer, strided)]
        sizes = (entry.shape[1], self.width, 1)
        conv = self._conv(*sizes, stride=math.prod(strides), bias=not normed)
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if normed:
            parts["bn"] = nn.BatchNorm2d(self.width)
        new = nn.Sequential(parts)
        if not self._fits(new, entry):
            came, wanted = tuple(entry.shape), tuple(self.features.shape)
            raise SurgeryError(f"no 1x1 convolution takes a shortcut from {came} to {wanted}")
        return new

    def _concat(self, path: str, old: Concat) -> nn.Module:
        entry = self.features
        body = self.module(f"{path}.body", old.body)
        if self.skip == "drop":
            return nn.Sequential(OrderedDict(body=body))
        if entry.shape[2:] != self.features.shape[2:]:
            before, after = tuple(entry.shape[2:]), tuple(self.features.shape[2:])
            raise SurgeryError(f"maps of {before} and {after} pixels cannot be joined")
        self.features = torch.cat([entry, self.features], 1)
        return Concat(body)

    def _searched(self, path: str, old: nn.Module) -> nn.Module:
        """A new layer in the place of `old`, with what it needs before or after it."""
        wanted = self.settings[path]
        if "filter_size" in wanted and isinstance(old, nn.Conv2d):
            return self._new_conv(old, wanted)
        if "pool" in wanted and isinstance(old, _POOLS):
            return self._new_pool(old, wanted)
        if "neurons" in wanted and isinstance(old, nn.Linear):
            linear = he_linear(self.width, wanted["neurons"], self.generator)
            norm = nn.BatchNorm1d(linear.out_features)
            return linear if path in self.normed else nn.Sequential(OrderedDict(linear=linear, bn=norm))
        if "activation" in wanted:
            return ACTIVATIONS[wanted["activation"]]()
        if "dropout" in wanted and isinstance(old, nn.Dropout):
            return nn.Dropout(wanted["dropout"])
        raise SurgeryError(f"a {type(old).__name__} cannot be replaced by {dict(wanted)}")

    def _new_conv(self, old: nn.Conv2d, wanted: Mapping[str, Any]) -> nn.Module:
        size = wanted["filter_size"]

        def conv(padding: tuple[int, int]) -> nn.Module:
            return self._conv(
                *(self.width, wanted.get("filters", self.width), size),
                stride=1 if self.skip == "drop" else old.stride,
                padding=padding,
                groups=self.width if is_depthwise(old) else 1,
                bias=old.bias is not None,
            )

        return self._padded("conv", old, size, wanted.get("padding"), conv)

    def _new_pool(self, old: nn.MaxPool2d | nn.AvgPool2d, wanted: Mapping[str, Any]) -> nn.Module:
        size, keep = wanted["pool_size"], self.skip == "keep"
        kind = nn.MaxPool2d if wanted["pool"] == "max" else nn.AvgPool2d

        def pool(padding: tuple[int, int]) -> nn.Module:
            stride = old.stride if keep else size
            return kind(size, stride=stride, padding=padding, ceil_mode=keep and old.ceil_mode)

        # torch pads a pooling layer by half of its kernel at most.
        return self._padded("pool", old, size, wanted.get("padding"), pool, most=size // 2)

    def _padded(
        self,
        name: str,
        old: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d,
        size: int,
        padding: int | None,
        layer: Callable[[tuple[int, int]], nn.Module],
        most: int | None = None,
    ) -> nn.Module:
        """A layer of kernel size `size`, behind the upsampling and the padding that its input needs.

        Args:
            name: of the layer, where there are others before it.
            old: the layer that it replaces.
            size: of its kernel.
            padding: pixels on each side of the map; None: as many as keep its size, or none with `drop`.
            layer: makes it, given its own padding.
            most: largest padding of its own; None: any.
        """
        if padding is not None:
            height = width = 2 * padding
        elif self.skip == "drop":
            height = width = 0
        else:
            height, width = (size - pixels for pixels in footprint(old))
            if min(height, width) < 0:
                raise SurgeryError(
                    f"a kernel of size {size} in place of {old} cannot keep the size of the map"
                )
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        sides = [int(side) for side in self.features.shape[2:]]
        if sides[0] + height < size or sides[1] + width < size:
            # Source: the upsampling variant of the published code.
            factor = math.ceil(max(self.side, size) / min(sides))
            parts["upsample"] = nn.Upsample(scale_factor=float(factor), mode="nearest")
        own = (height // 2, width // 2)
        if height % 2 or width % 2 or (most is not None and max(own) > most):
            # The larger half of an odd number of pixels comes after the map.
            parts["pad"] = nn.ZeroPad2d((own[1], width - own[1], own[0], height - own[0]))
            own = (0, 0)
        parts[name] = layer(own)
        return nn.Sequential(parts) if len(parts) > 1 else parts[name]

    def _fitted(self, old: nn.Module) -> nn.Module:
        """A copy, or a new layer of the same kind where the input has another width."""
        if isinstance(old, _BatchNorm) and old.num_features != self.width:
            return type(old)(self.width, old.eps, old.momentum, old.affine, old.track_running_stats)
        if isinstance(old, nn.GroupNorm) and old.num_channels != self.width:
            return nn.GroupNorm(math.gcd(old.num_groups, self.width), self.width, old.eps, old.affine)
        if isinstance(old, LayerNorm2d) and old.num_channels != self.width:
            return LayerNorm2d(self.width, old.eps, old.affine, old.bias is not None)
        last = int(self.features.shape[-1])
        if (
            isinstance(old, nn.LayerNorm)
            and old.normalized_shape[1:] == ()
            and old.normalized_shape != (last,)
        ):
            return nn.LayerNorm(last, old.eps, old.elementwise_affine, old.bias is not None)
        if isinstance(old, nn.PReLU) and old.num_parameters not in (1, self.width):
            return nn.PReLU(self.width)
        if isinstance(old, nn.Linear) and old.in_features != last:
            return he_linear(last, old.out_features, self.generator, bias=old.bias is not None)
        if isinstance(old, nn.Conv2d) and old.in_channels != self.width:
            depthwise = is_depthwise(old)
            is_same = isinstance(old, Conv2dSame)
            padding = {} if is_same else {"padding": old.padding, "padding_mode": old.padding_mode}
            return self._conv(
                *(self.width, self.width if depthwise else old.out_channels, old.kernel_size),
                kind=Conv2dSame if is_same else nn.Conv2d,
                stride=old.stride,
                dilation=old.dilation,
                groups=self.width if depthwise else 1,
                bias=old.bias is not None,
                **padding,
            )
        return copy.deepcopy(old).requires_grad_(True)

    def _conv(self, *sizes: Any, kind: type[nn.Conv2d] = nn.Conv2d, **own: Any) -> nn.Module:
        conv: nn.Module = he_normal(nn.utils.skip_init(kind, *sizes, **own), self.generator)
        return conv


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, tuple | list) else (value, value)
    return height, width
