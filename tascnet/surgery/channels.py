"""Which channels of a chain belong together: what each layer reads and writes, and what becomes one.

A chain is followed once, from its input to its output, with shapes in place of values and a label on every
channel. A convolution or linear layer without groups writes new labels; all else passes them on, joins those
that an operation combines, or, where no channel can be removed, notes why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import ChannelsFirst, Concat, L2Norm, MaxOverTime, Residual, Scale, SliceAndPad
from tascnet.models.graph import OPERATIONS, Graph, Step
from tascnet.models.inspect import meta_copy, meta_like
from tascnet.models.layers import (
    GRN,
    AvgPool2dSame,
    BlurPool2d,
    LayerNorm2d,
    LayerScale,
    MaxPool2dSame,
    Offset,
    Permute,
    StochasticDepth,
)
from tascnet.surgery.flows import Flow, Labels, compressed, reshaped, varying, with_dimensions
from tascnet.surgery.layers import CONVS, children
from tascnet.surgery.notes import CONSTANT, INPUT, Channels, Notes
from tascnet.surgery.steps import COMBINING, StepPlace, labels_after, resolved, without_labels

# The same for each value, whatever the dimensions mean.
_ELEMENTWISE = (
    *ACTIVATIONS.values(),
    *(nn.Identity, nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign, nn.Threshold),
    *(_DropoutNd, StochasticDepth, Scale),
)
# The shape of their output is that of their input.
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, LayerNorm2d, GRN)
# Each channel, dimension 1, is a map of its own.
_BY_MAP = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(MaxPool2dSame, AvgPool2dSame, BlurPool2d, nn.Upsample),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d),
    *(nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d, nn.CircularPad2d),
)


@dataclass(frozen=True)
class Classes:
    """Channels that can be removed only together.

    Attributes:
        of: by label the number of its class.
        reasons: by class, why it cannot be removed; None: it can.
    """

    of: Labels
    reasons: tuple[str | None, ...]

    @property
    def free(self) -> NDArray[np.bool_]:
        """By class, whether it can be removed."""
        return np.array([reason is None for reason in self.reasons])


def follow(
    chain: nn.Module,
    example: Tensor,
    *,
    ghosts: Mapping[str, nn.Module] | None = None,
    steps: Mapping[str, Sequence[Step]] | None = None,
    outputs: Mapping[str, Labels] | None = None,
) -> Channels:
    """Walk along a chain with an example, whose shape alone matters.

    Args:
        ghosts: by name, layers on the meta device to use in the place of the chain's.
        steps: by name of a `Graph`, steps to use in place of its own.
        outputs: labels that the layers write; None: new ones.

    Raises:
        RuntimeError, ValueError, IndexError: the chain does not take the example.
    """
    walk = _ChannelWalk(ghosts or {}, steps or {}, outputs)
    weight = next((p for p in chain.parameters() if p.is_floating_point()), None)
    value = meta_like(example)
    if weight is not None and value.is_floating_point():
        value = value.to(weight.dtype)
    with torch.no_grad():
        given = walk.module("", chain, Flow(value, np.full((1,) * value.ndim, INPUT)))
    walk.found.shape = given.value.shape
    walk.fix(given.labels, "feeds the output")
    return walk.found


def classes_of(found: Channels) -> Classes:
    """What the unions make of the labels, and why some of them cannot be removed."""
    none = np.empty(0, np.int64)
    rows, columns = (np.concatenate([none, *(pair[side] for pair in found.unions)]) for side in (0, 1))
    graph = coo_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(found.count,) * 2)
    count, of = connected_components(graph, directed=False)
    reasons: list[str | None] = [None] * count
    # The first reason is kept; grids are checked when all unions are known.
    for labels, reason in found.fixes:
        for number in np.unique(of[labels]).tolist():
            reasons[number] = reasons[number] or reason
    for labels, reason in found.grids:
        if len(varying(compressed(of[labels]))) > 1:
            for number in np.unique(of[labels]).tolist():
                reasons[number] = reasons[number] or reason
    reasons[of[CONSTANT]] = reasons[of[INPUT]] = "is no layer's channel"
    return Classes(of, tuple(reasons))


class _ChannelWalk(Notes):
    """Follows a chain and notes what it finds."""

    def __init__(
        self,
        ghosts: Mapping[str, nn.Module],
        steps: Mapping[str, Sequence[Step]],
        outputs: Mapping[str, Labels] | None,
    ) -> None:
        super().__init__(outputs)
        self._ghosts = ghosts
        self._steps = steps
        # A module that is used under several names has the first one.
        self._names: dict[int, str] = {}

    def module(self, name: str, module: nn.Module, flow: Flow) -> Flow:
        if isinstance(module, nn.Sequential):
            for part, child in children(module):
                if not name:
                    self.block = part
                flow = self.module(f"{name}.{part}" if name else part, child, flow)
            return flow
        if isinstance(module, Residual):
            body = self.module(f"{name}.body", module.body, flow)
            shortcut = self.module(f"{name}.shortcut", module.shortcut, flow)
            total = Flow(body.value + shortcut.value, self.combine([body, shortcut]))
            return self.module(f"{name}.activation", module.activation, total)
        if isinstance(module, Concat):
            return self.concatenation([flow, self.module(f"{name}.body", module.body, flow)], 1)
        if isinstance(module, MaxOverTime):
            parts = []
            for part, branch in children(module.branches):
                filtered = self.module(f"{name}.branches.{part}", branch, flow)
                active = self.module(f"{name}.activation", module.activation, filtered)
                parts.append(Flow(active.value.amax(-1), self.reduced(active, [2], False, "a maximum")))
            return self.concatenation(parts, 1)
        if isinstance(module, Graph):
            return self.graph(self._names.setdefault(id(module), name), module, flow)
        return self.layer(self._names.setdefault(id(module), name), module, flow)

    # Layers.

    def layer(self, name: str, module: nn.Module, flow: Flow) -> Flow:
        ghost = self._ghosts.get(name) or ghost_of(module)
        if isinstance(ghost, (*_NORMS, *_ELEMENTWISE)):
            # On the meta device these take longer than all else, and the shape stays.
            value = flow.value
            channels = _channels_of(ghost)
            if channels is not None and channels != value.shape[_channel_dim(ghost, value.ndim)]:
                raise RuntimeError(f"'{name}' takes {channels} channels, got {tuple(value.shape)}")
        else:
            value = ghost(flow.value)
        return Flow(value, self._labels_after(name, ghost, flow, value))

    def _labels_after(self, name: str, module: nn.Module, flow: Flow, value: Tensor) -> Labels:
        labels = flow.labels
        if isinstance(module, CONVS):
            return self._convolution(name, module, flow)
        if isinstance(module, nn.Linear):
            return self._linear(name, module, flow)
        if isinstance(module, nn.Embedding):
            return np.full((1,) * value.ndim, CONSTANT)
        if isinstance(module, (_BatchNorm, _InstanceNorm)):
            return self._with_weights(name, flow, 1)
        if isinstance(module, nn.PReLU):
            # The only channel that a cut has left has a weight of its own.
            is_shared = module.num_parameters == 1 and (value.ndim < 2 or value.shape[1] > 1)
            return labels if is_shared else self._with_weights(name, flow, 1)
        if isinstance(module, nn.GroupNorm):
            return self._group_norm(name, module, flow)
        if isinstance(module, (nn.LayerNorm, LayerNorm2d, GRN)):
            return self._layer_norm(name, module, flow)
        if isinstance(module, (LayerScale, Offset)):
            return self._elementwise_weight(name, module, flow)
        if isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, L2Norm)):
            dim = getattr(module, "dim", 1)
            self.mix(name, labels, 1 if dim is None else dim % labels.ndim)
            return labels
        if isinstance(module, _BY_MAP):
            # Of fewer dimensions torch takes the first for channels, and runs over the second.
            is_batch = value.ndim > (2 if type(module).__name__.endswith("1d") else 3)
            if not (is_batch or isinstance(module, nn.Upsample)) or any(dim > 1 for dim in varying(labels)):
                return self.blocked([labels], value.ndim, f"'{name}' runs over the channels")
            self.slot(name, "taken", self.along(flow, 1))
            return labels
        if isinstance(module, nn.Flatten):
            return self.grid(reshaped(labels, flow.value.shape, value.shape), "flatten")
        if isinstance(module, Permute):
            return labels.transpose(module.dims)
        if isinstance(module, ChannelsFirst):
            return labels.swapaxes(1, 2)
        if isinstance(module, SliceAndPad) and module.before == module.after == 0:
            return labels
        if isinstance(module, SliceAndPad):
            return self.blocked([labels], value.ndim, "channels are padded")
        if isinstance(module, _ELEMENTWISE):
            return labels
        return self.blocked([labels], value.ndim, f"'{name}', a {type(module).__name__}, takes the channels")

    def _convolution(self, name: str, module: Any, flow: Flow) -> Labels:
        if any(dim > 1 for dim in varying(flow.labels)):
            self.blocked([flow.labels], flow.value.ndim, f"the convolution '{name}' runs over the channels")
            flow = Flow(flow.value, np.full((1,) * flow.value.ndim, CONSTANT))
        read = self.along(flow, 1)
        self.slot(name, "inputs" if module.groups == 1 else "grouped", read)
        written = self.new(name, module.out_channels)
        if module.groups > 1 and len(read) == module.in_channels:
            inputs, outputs = read.reshape(module.groups, -1), written.reshape(module.groups, -1)
            self.unite(inputs[:, :1], inputs)
            self.unite(outputs[:, :1], outputs)
            self.unite(inputs[:, :1], outputs[:, :1])
        return written.reshape((1, -1) + (1,) * (flow.value.ndim - 2))

    def _linear(self, name: str, module: nn.Linear, flow: Flow) -> Labels:
        labels = flow.labels
        if labels.shape[-1] == 1 and varying(labels):
            # It runs over pixels; the channels are among the other dimensions.
            self.fix(self.new(name, module.out_features), f"runs over pixels in block '{self.block}'")
            return labels
        self.slot(name, "inputs", self.along(flow, -1))
        return with_dimensions(self.new(name, module.out_features), labels.ndim)

    def _with_weights(self, name: str, flow: Flow, dim: int) -> Labels:
        """The same labels, of a layer that has weights for each position of `dim`."""
        if flow.labels.shape[dim] > 1 or not varying(flow.labels):
            self.slot(name, "passed", self.along(flow, dim))
        return flow.labels

    def _group_norm(self, name: str, module: nn.GroupNorm, flow: Flow) -> Labels:
        labels = self._with_weights(name, flow, 1)
        if module.num_groups == 1:
            self.mix(name, labels, 1)
        else:
            channels = self.along(flow, 1)
            by_group = channels.reshape(-1, module.num_channels // module.num_groups)
            self.unite(by_group[:, :1], by_group)
        return labels

    def _layer_norm(self, name: str, module: nn.LayerNorm | LayerNorm2d | GRN, flow: Flow) -> Labels:
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            over = range(flow.value.ndim - len(module.normalized_shape), flow.value.ndim)
            if set(over) & set(varying(flow.labels)):
                return self.blocked([flow.labels], flow.value.ndim, f"'{name}' runs over the channels")
            return flow.labels
        dim = _channel_dim(module, flow.value.ndim)
        self.mix(name, flow.labels, dim)
        return self._with_weights(name, flow, dim)

    def _elementwise_weight(self, name: str, module: LayerScale | Offset, flow: Flow) -> Labels:
        count = flow.value.ndim
        shape = (1,) * (count - module.weight.ndim) + tuple(module.weight.shape)
        dims = [dim for dim in range(count) if shape[dim] > 1]
        over = [dim for dim in dims if dim in varying(flow.labels)]
        if len(over) > 1 or len(module.weight.shape) > count:
            return self.blocked([flow.labels], flow.value.ndim, f"'{name}' meets channels of two kinds")
        if over and len(dims) > 1:
            return self.blocked([flow.labels], count, f"'{name}' has weights for each pixel")
        if over:
            return self._with_weights(name, flow, over[0])
        if not varying(flow.labels):
            # Of a single channel that a cut has left, the weight has one value too.
            alone = [dim for dim in range(count - module.weight.ndim, count) if flow.value.shape[dim] == 1]
            if one := dims if len(dims) == 1 else [] if dims else alone[:1]:
                return self._with_weights(name, flow, one[0])
        return flow.labels

    # Steps of graphs.

    def graph(self, name: str, module: Graph, flow: Flow) -> Flow:
        values: list[Any] = [flow]
        for number, step in enumerate(self._steps.get(name, module.steps)):
            values.append(self._step(StepPlace(name, number, step), module, values))
        result = values[-1]
        assert isinstance(result, Flow)
        return result

    def _step(self, place: StepPlace, module: Graph, values: Sequence[Any]) -> Any:
        operation, arguments = place.step.operation, place.step.arguments
        if operation == "layer":
            child = str(arguments[0])
            layer = module._modules[child]
            assert layer is not None
            return self.module(f"{place.graph}.{child}", layer, resolved(arguments[1], values))
        if operation == "weight":
            value = meta_like(module.own_weights[str(arguments[0])])
            return Flow(value, np.full((1,) * value.ndim, CONSTANT))
        given = resolved(arguments, values)
        if operation == "getitem" and not isinstance(given[0], Flow):
            return given[0][given[1]]
        if operation in COMBINING:
            shapes = [argument.value.shape for argument in given if isinstance(argument, Flow)]
            result = values[0].value.new_empty(torch.broadcast_shapes(*shapes))
        else:
            result = OPERATIONS[operation].function(*without_labels(given))
        if isinstance(result, Tensor):
            return Flow(result, self.grid(labels_after(self, place, given, result), operation))
        if isinstance(result, tuple) and isinstance(result[0], Tensor):
            return tuple(map(Flow, result, labels_after(self, place, given, result)))
        return result


def _channel_dim(layer: nn.Module, count: int) -> int:
    """Which of `count` dimensions of a normalisation's input holds the channels."""
    return count - 1 if isinstance(layer, nn.LayerNorm) or getattr(layer, "channel_dim", 1) == -1 else 1


def _channels_of(layer: Any) -> int | None:
    """How many channels a normalisation takes; None: it is none."""
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[-1])
    given: int | None = getattr(layer, "num_features", getattr(layer, "num_channels", None))
    return given


def ghost_of(layer: nn.Module) -> nn.Module:
    """A layer on the meta device in eval mode; it shares nothing that can be changed with the given one."""
    if layer._modules:
        return meta_copy(layer).eval()
    ghost = layer.__new__(type(layer))
    parameters = {
        name: None if value is None else nn.Parameter(meta_like(value), value.is_floating_point())
        for name, value in layer._parameters.items()
    }
    buffers = {name: None if value is None else meta_like(value) for name, value in layer._buffers.items()}
    vars(ghost).update(vars(layer), _parameters=parameters, _buffers=buffers, training=False)
    return ghost
