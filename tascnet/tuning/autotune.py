"""The space of AutoTune: new layers in place of the last ones, and new dense layers.

Unit 0 is the dense head. Every further unit is one layer, counted from the output along the path of the
chain: a convolution, a pooling layer with a kernel, a dense layer before the classifier. Activations,
batch-norm, flattening, dropout and pooling to a vector are no layers of their own. A searched layer is
always new, so that its pre-trained setting need not be among the values.

Source: Basha et al. 2020, section 3 and table 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Literal

from torch import Tensor, nn

from tascnet.models.head import classifier_of, head_start
from tascnet.options import Autotune
from tascnet.surgery import activation_name, block_of, footprint, is_depthwise, path_layers, shape_after
from tascnet.tuning.head import HIDDEN_LAYERS
from tascnet.tuning.space import Choice, Unit, Value

HEAD_ACTIVATION = "head.activation"

# Layers with weights that can be made new for an input of another width.
_REMADE = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def discover_autotune(
    chain: nn.Sequential, example: Tensor, options: Autotune, max_units: int | None = None
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and one unit for each layer before it; the units do not nest.

    An activation is searched where it is the block right after its layer, as in VGG-16. Paddings are
    searched in the strided stem alone, where other layers of the chain do not depend on the map's size.
    With `skip="keep"` a layer is offered the sizes that padding can fit to its map. With `dense="replace"`
    the head replaces the dense layers before the classifier and reads the flattened features: in VGG-16 these
    are 512 maps of 7x7, so that a first dense layer of 64 to 1024 neurons has 1.6 to 25.7 million weights,
    against the 119.5 million replaced. The units end before the first layer that cannot be made new.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        options: the values of the choices.
        max_units: units beside the head; None: all.

    Raises:
        SurgeryError: the chain does not take the example, or has no classifier.
    """
    start = head_begin(chain, options.dense)
    shape_after(chain, example)
    units = [Unit(index=0, block=start, choices=tuple(_head_choices(options)))]
    for name, layer in reversed(list(path_layers(chain[:start]))):
        can_be_new = isinstance(layer, _REMADE) or not any(True for _ in layer.parameters())
        if (max_units is not None and len(units) > max_units) or not can_be_new:
            break
        after = list(chain.named_children())[block_of(chain, name) + 1 :] if "." not in name else []
        searched = _Layer(name=name, after=tuple(after), unit=len(units), options=options)
        if choices := tuple(searched.choices(layer)):
            units.append(Unit(index=len(units), block=block_of(chain, name), choices=choices))
    return tuple(units)


def head_begin(chain: nn.Sequential, dense: str) -> int:
    """Index of the first block that the searched head replaces.

    Args:
        chain: ends in a classifier.
        dense: whether dense layers before the classifier are layers of the chain (`keep`) or part of the
            head (`replace`).
    """
    classifier_of(chain)
    first = None
    for index in reversed(range(len(chain) - 1)):
        block = chain[index]
        if isinstance(block, nn.Linear):
            first = index
        elif not isinstance(block, nn.Dropout | nn.BatchNorm1d) and activation_name(block) is None:
            break
    if first is None:
        return head_start(chain)
    return len(chain) - 1 if dense == "keep" else first


def _head_choices(options: Autotune) -> Iterator[Choice]:
    """The number of dense layers and their activation; neurons and dropout of each."""
    counts = sorted(options.hidden_layers)
    yield Choice(name=HIDDEN_LAYERS, values=tuple(counts), neutral=counts[0], kind="ordinal", unit=0)

    def dependent(
        name: str, values: tuple[Value, ...], layer: int, kind: Literal["ordinal", "categorical"] = "ordinal"
    ) -> Choice:
        settings: dict[str, Any] = {"values": values, "neutral": values[0], "kind": kind}
        return Choice(name=name, unit=0, only_if=HIDDEN_LAYERS, only_from=layer, **settings)

    if counts[-1]:
        yield dependent(HEAD_ACTIVATION, options.activations, 1, "categorical")
    for number in range(1, counts[-1] + 1):
        yield dependent(f"head.neurons{number}", tuple(sorted(options.neurons)), number)
        yield dependent(f"head.dropout{number}", tuple(sorted(options.dropouts)), number)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer on the path as a unit of the space.

    Args:
        name: its dotted name.
        after: the blocks of the chain that follow it, where it is a block itself.
        unit: the unit's index.
        options: the values of the choices.
    """

    name: str
    after: tuple[tuple[str, nn.Module], ...]
    unit: int
    options: Autotune

    def choices(self, layer: nn.Module) -> Iterator[Choice]:
        """What is searched of the layer; nothing where it is passed over."""
        options = self.options
        if isinstance(layer, nn.Conv2d):
            yield self._ordinal("filter_size", self._sizes(layer, options.filter_sizes), layer.kernel_size[0])
            # The filters of a depthwise convolution are as many as its inputs.
            if not is_depthwise(layer):
                yield self._ordinal("filters", options.filters, layer.out_channels)
            yield from self._padding(layer)
            yield from self._activation()
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            own = "max" if isinstance(layer, nn.MaxPool2d) else "average"
            yield self._categorical("pool", ("max", "average"), own)
            size = _first(layer.kernel_size)
            yield self._ordinal("pool_size", self._sizes(layer, options.pool_sizes), size)
            yield from self._padding(layer)
        elif isinstance(layer, nn.Linear):
            yield self._ordinal("neurons", options.neurons, layer.out_features)
            yield from self._activation()
            # Of the dropout after the layer and its activation.
            skipped = dropwhile(lambda block: activation_name(block[1]) is not None, self.after)
            name, block = next(skipped, ("", None))
            if isinstance(block, nn.Dropout):
                yield self._ordinal("dropout", options.dropouts, block.p, name)

    def _ordinal(self, what: str, values: Iterable[float], own: float, acts_on: str | None = None) -> Choice:
        """A choice whose neutral value is the nearest to the pre-trained setting."""
        ascending = tuple(sorted(set(values)))
        neutral = min(ascending, key=lambda value: abs(value - own))
        return self._choice(what, acts_on, values=ascending, neutral=neutral, kind="ordinal")

    def _categorical(
        self, what: str, values: tuple[str, ...], own: str, acts_on: str | None = None
    ) -> Choice:
        """A choice whose neutral value is the pre-trained setting, or else the first one."""
        neutral = own if own in values else values[0]
        return self._choice(what, acts_on, values=values, neutral=neutral, kind="categorical")

    def _choice(self, what: str, acts_on: str | None, **settings: Any) -> Choice:
        layers = (acts_on or self.name,)
        return Choice(name=f"{self.name}.{what}", unit=self.unit, layers=layers, **settings)

    def _sizes(self, layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, sizes: Sequence[int]) -> Sequence[int]:
        """The kernels that padding can fit to the layer's map; its own one where none of `sizes` can be."""
        if self.options.skip == "drop":
            return sizes
        smallest = max(footprint(layer))
        return [size for size in sizes if size >= smallest] or [smallest]

    def _padding(self, layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> Iterator[Choice]:
        """Of a strided, padded layer that is a block of the chain.

        Inside a block another map size would not join the connection. Source: the layers conv1_pad and
        pool1_pad of the Keras networks.
        """
        padding = _first(layer.padding)
        if "." not in self.name and padding > 0 and _first(layer.stride) > 1:
            yield self._ordinal("padding", self.options.paddings, padding)

    def _activation(self) -> Iterator[Choice]:
        if self.after and (own := activation_name(self.after[0][1])) is not None:
            yield self._categorical("activation", self.options.activations, own, self.after[0][0])


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value
