"""Calls of layers and functions as operations of blocks: one form for everything that does the same.

Functions with fixed arguments become layers (activations, poolings, softmax, flatten, dropout, and those
that read weights: convolutions, normalisations, factors and offsets); everything else becomes steps.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ConversionError
from tascnet.models.conversion.calls import Call, needed
from tascnet.models.conversion.functions import FUNCTIONS
from tascnet.models.conversion.known import has_folded_weight, known_layer, settings, with_tensors
from tascnet.models.conversion.nodes import Node, tensors_of
from tascnet.models.layers import LayerScale, Offset, StochasticDepth

# Functions that change how a tensor's values are laid out, and neither which nor their order.
_RESHAPES = {"view", "reshape", "unsqueeze", "flatten", "squeeze", "contiguous"}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, StochasticDepth)


class Canonical:
    """The operations of a network, made call by call.

    Attributes:
        nodes: in the order of their calls, the input first.
        output: what the network gives.
        rewritten: what the chain does in another way than the network.
        origins: parameters that were made here, each with the network's parameter whose values it has in
            another shape.
    """

    def __init__(self, network: nn.Module, calls: Sequence[Call], output: Call) -> None:
        self.nodes: list[Node] = []
        self.rewritten: list[str] = []
        self.origins: list[tuple[Tensor, Tensor]] = []
        self._buffers = dict(network.named_buffers())
        self._layers: dict[Any, nn.Module] = {}
        self._made: dict[Call, Any] = {}
        self._call = output
        wanted = needed(calls, output)
        self._uses: dict[Call, int] = {}
        for call in wanted:
            for read in call.read():
                self._uses[read] = self._uses.get(read, 0) + 1
        if not output.varies:
            raise ConversionError("the network cannot be converted, its output does not depend on its input")
        for call in wanted:
            if call.varies:
                self._made[call] = self._node_of(call)
        self.output: Node = self._made[output]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the present call gives."""
        assert self._call.shape is not None
        return self._call.shape

    @property
    def name(self) -> str:
        """Of the present call, for messages: that of the layer, or of the module that it is made in."""
        return self._call.path or self._call.frame.path or self._call.function

    def refused(self, problem: str, hint: str | None = None) -> ConversionError:
        """The error of the present call."""
        return self._call.refused(problem, hint)

    def step(self, operation: str, *arguments: Any, shape: Sequence[int] | None = None) -> Node:
        """A step on nodes, constants and literals; by default with the shape that the call gave."""
        sizes = self._call.shape if shape is None else tuple(shape)
        return self._add(operation, tuple(map(self._resolved, arguments)), shape=sizes)

    def layer(self, layer: nn.Module, x: Any, shape: Sequence[int] | None = None, **content: Any) -> Node:
        """A layer on a node or a constant."""
        sizes = self._call.shape if shape is None else tuple(shape)
        return self._add("layer", (self._resolved(x),), shape=sizes, layer=layer, **content)

    def weighted(
        self, make: Callable[..., nn.Module], kind: str, settings: tuple[Any, ...], x: Any, *tensors: Any
    ) -> Node:
        """A layer that reads weights; calls with the same weights and settings share it."""
        key = (kind, repr(settings), *(self._identity(tensor) for tensor in tensors))
        if key not in self._layers:
            self._layers[key] = make(*map(self._tensor, tensors)).eval()
        return self.layer(self._layers[key], x)

    def elementwise(self, kind: type[LayerScale] | type[Offset], x: Node, other: Call) -> Node | None:
        """A layer for the product or sum of a tensor and a parameter; None where it takes steps."""
        origin = _origin(other)
        if origin is None or other.value.numel() != origin.value.numel():
            return None
        is_used_once = self._uses[other] == 1 and (origin is other or self._uses[origin] == 1)
        if not is_used_once or self.shape != x.shape:
            return None
        shape = other.value.shape
        while shape and shape[0] == 1:
            shape = shape[1:]
        with torch.device("meta"):
            layer = kind(tuple(shape))
        weight = self._in_shape(origin, shape)
        return self.layer(with_tensors(layer, weight=weight), x, path=origin.path)

    def side(self, x: Any, axis: int) -> Any:
        """The number of values along an axis of a tensor: a literal where the tensor is constant."""
        if isinstance(x, Call):
            return int(x.value.shape[axis])
        return self._add("getitem", (self._add("shape", (x,)), axis), value=x.shape[axis])

    def beside(self, call: Call, name: str) -> Tensor | None:
        """The buffer of that name of the module that has the buffer of a call."""
        return self._buffers.get(".".join(filter(None, (call.path.rpartition(".")[0], name))))

    def _node_of(self, call: Call) -> Any:
        self._call = call
        if call.function == "input":
            return self._add("input", (), shape=call.shape)
        if call.function == "layer":
            return self._whole_layer(call)
        if call.function == "weight":
            return self._weight(call)
        if call.function not in FUNCTIONS:
            raise call.refused(
                f"{call.function} is no operation that a block can do",
                "write it with layers of torch.nn and elementary functions",
            )
        arguments = map(self._argument, call.arguments)
        keywords = {
            "dim" if key == "axis" else key: self._argument(value) for key, value in call.keywords.items()
        }
        try:
            return FUNCTIONS[call.function](self, *arguments, **keywords)
        except (AttributeError, TypeError, ValueError) as error:
            raise call.refused(f"{call.function} is called in a way that no block knows") from error

    def _argument(self, argument: Any) -> Any:
        """An argument with nodes in place of what varies; constant tensors stay calls."""
        if isinstance(argument, Call):
            if argument.function == "size" or argument.function.endswith("_int"):
                return self._whole(argument)
            return self._made[argument] if argument.varies else argument
        if isinstance(argument, tuple):
            return tuple(map(self._argument, argument))
        if isinstance(argument, slice):
            return slice(*map(self._argument, (argument.start, argument.stop, argument.step)))
        return argument

    def _whole(self, argument: Any) -> Any:
        """A whole number that depends on a shape, computed where it is used."""
        if not isinstance(argument, Call):
            return argument
        if argument.function == "size":
            of, axis = argument.arguments
            return self.side(self._made[of], axis)
        operation = argument.function.replace("floordiv_int", "floordiv")
        return self._add(operation, tuple(map(self._whole, argument.arguments)), value=argument.value)

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, Call):
            return self._constant(argument)
        return tuple(map(self._resolved, argument)) if isinstance(argument, tuple) else argument

    def _constant(self, call: Call) -> Node:
        """A tensor that does not depend on the input: a weight, or what steps compute from weights."""
        if call not in self._made:
            outer, self._call = self._call, call
            try:
                made = self._node_of(call) if _weights_of(call) else self._weight(call)
                # What leaves a weight as it is gives the weight's own call.
                self._made[call] = self._resolved(made)
            except ConversionError:
                # No operation of blocks, but its value is known.
                self._made[call] = self._weight(call)
            self._call = outer
        node: Node = self._made[call]
        return node

    def _weight(self, call: Call) -> Node:
        if _weights_of(call) and call.function != "weight":
            self.rewritten.append(f"{self.name}: what {call.function} makes of weights is kept as it is")
        return self._add("weight", (), shape=call.shape, weight=call.value, path=call.path)

    def _identity(self, tensor: Any) -> int | None:
        return id(tensor.value) if isinstance(tensor, Call) else None

    def _tensor(self, call: Any) -> Tensor | None:
        """The value of a constant, which becomes the weight of a layer."""
        if call is None:
            return None
        if not isinstance(call, Call):
            raise self.refused("it has weights that depend on its input")
        origin = _origin(call)
        if origin is not None:
            return self._in_shape(origin, call.value.shape)
        if call.function == "weight":
            buffer: Tensor = call.value
            return buffer
        weights = _weights_of(call)
        if weights:
            self._fold()
        is_trained = any(weight.requires_grad for weight in weights)
        return nn.Parameter(call.value.detach().clone(), requires_grad=is_trained)

    def _fold(self) -> None:
        self.rewritten.append(f"{self.name}: the weight that it computes each time is kept as it is")

    def _in_shape(self, origin: Call, shape: Sequence[int]) -> Tensor:
        """A parameter of the network in a shape of the same number of values."""
        original: Tensor = origin.value
        if tuple(original.shape) == tuple(shape):
            return original
        return self.reshaped(original, shape)

    def reshaped(self, original: Tensor, shape: Sequence[int]) -> nn.Parameter:
        """A parameter of the network as one of another shape, with the same values in memory."""
        made = nn.Parameter(original.detach().reshape(tuple(shape)), requires_grad=original.requires_grad)
        self.origins.append((made, original))
        return made

    def _whole_layer(self, call: Call) -> Node:
        (read,) = call.arguments
        assert call.layer is not None
        layer = self._layers.get(call.layer)
        if layer is None:
            layer = self._copied(call.layer)
            if any(True for _ in tensors_of(layer)):
                self._layers[call.layer] = layer
        x = self._argument(read)
        is_idle = isinstance(layer, nn.Flatten) and x.shape == call.shape
        is_idle |= isinstance(layer, nn.Identity) or (isinstance(layer, _DROPOUTS) and layer.p == 0)
        return (
            x if is_idle and isinstance(x, Node) else self.layer(layer, x, path=call.path, is_function=False)
        )

    def _copied(self, original: nn.Module) -> nn.Module:
        """A layer of the closed list that does what another one does, and shares its tensors."""
        layer = known_layer(original)
        if layer is None:
            layer = copy.deepcopy(original, {id(tensor): tensor for tensor in tensors_of(original)})
        elif has_folded_weight(original):
            self._fold()
        for name, value in settings(layer).items():
            if name == "inplace":
                layer.inplace = False  # type: ignore[assignment]
            elif name not in ("bias", "shape"):
                setattr(layer, name, value)
        return layer.eval()

    def _add(self, operation: str, arguments: tuple[Any, ...], **content: Any) -> Node:
        call = self._call
        name = content.pop("name", call.function)
        path = content.pop("path", None) or ".".join(filter(None, (call.frame.path, name)))
        node = Node(
            operation=operation, arguments=arguments, path=path, frame=call.frame, place=call.place, **content
        )
        self.nodes.append(node)
        return node


def _origin(call: Call) -> Call | None:
    """The parameter whose values a constant has, perhaps in another shape; None where it has others."""
    value = call.value
    while call.function in _RESHAPES or _adds_axes(call):
        call = next(call.read())
    is_whole = isinstance(call.value, nn.Parameter) and call.value.numel() == value.numel()
    return call if call.function == "weight" and is_whole else None


def _adds_axes(call: Call) -> bool:
    """Whether it is `weight[:, None, None]` or the like."""
    if call.function != "getitem":
        return False
    index = call.arguments[1]
    items = index if isinstance(index, tuple) else (index,)
    return all(item is None or item is Ellipsis or item == slice(None) for item in items)


def _weights_of(call: Call) -> list[Tensor]:
    """The parameters and buffers of the network that a constant is computed from."""
    if call.function == "weight":
        return [call.value]
    own = tensors_of(call.layer) if call.layer is not None else ()
    return [*own, *(weight for read in call.read() for weight in _weights_of(read))]
