"""The space of AutoTune: layers that are made anew, from the output backwards, and new dense layers.

Unit 0 is the dense head. Every further unit is one layer, counted from the output along the path of the
chain: a convolution, a pooling layer with a kernel, a dense layer before the classifier. Activations,
batch-norm, flattening, dropout and pooling to a vector are no layers of their own. A searched layer is
always new, so that nothing of its pre-trained setting must be among the values.

Source: Basha et al. 2020, section 3 and table 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.head import classifier_of, head_start
from tascnet.surgery import activation_name, block_of
from tascnet.surgery.layers import is_depthwise
from tascnet.surgery.rebuild import Skip, footprint, path_layers, shape_after
from tascnet.tuning.discover import HIDDEN_LAYERS
from tascnet.tuning.space import Choice, Unit, Value

Dense: TypeAlias = Literal["keep", "replace"]

HEAD_ACTIVATION = "head.activation"

# Layers with weights that can be made anew for an input of another width.
_REMADE = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def discover_autotune(
    chain: nn.Sequential,
    example: Tensor,
    *,
    skip: Skip = "keep",
    dense: Dense = "replace",
    max_units: int | None = None,
    filters: Sequence[int] = (64, 128, 256, 512),
    filter_sizes: Sequence[int] = (1, 2, 3, 5),
    activations: Sequence[str] = ("relu", "sigmoid", "tanh", "elu", "selu"),
    pool_sizes: Sequence[int] = (2, 3),
    paddings: Sequence[int] = (1, 3),
    hidden_layers: Sequence[int] = (1, 2, 3),
    neurons: Sequence[int] = (64, 128, 256, 512, 1024),
    dropouts: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and one unit for each layer before it; the units do not nest.

    An activation is searched where it is the block right after its layer, as in VGG-16. Paddings are
    searched in the strided stem alone, where other layers of the chain do not depend on the map's size.
    With `skip="keep"` a layer is offered the sizes that padding can fit to its map. The units end before
    the first layer that cannot be made anew.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        skip: what becomes of residual and dense connections, as `build_autotune` will be told.
        dense: `keep` makes dense layers before the classifier units; `replace` puts the head in their
            place, on the flattened features. In VGG-16 these are 512 maps of 7x7: a first dense layer
            of 64 to 1024 neurons has 1.6 to 25.7 million weights, against the 119.5 million replaced.
        max_units: units beside the head; None: all.
        filters: of a convolution.
        filter_sizes: of a convolution's kernel.
        activations: names in `tascnet.models.activations.ACTIVATIONS`.
        pool_sizes: of a pooling layer's kernel.
        paddings: pixels on each side, of strided convolutions and poolings of the stem.
        hidden_layers: numbers of dense layers in the head.
        neurons: of each dense layer.
        dropouts: probabilities after each dense layer.

    Raises:
        ConfigError: a value outside its bounds.
        SurgeryError: the chain does not take the example, or has no classifier.
    """
    check_options(skip=skip, dense=dense)
    _check_counts(filters=filters, filter_sizes=filter_sizes, pool_sizes=pool_sizes, neurons=neurons)
    _check("paddings", paddings, all(p >= 0 for p in paddings), "counts of pixels")
    _check("hidden_layers", hidden_layers, all(n >= 0 for n in hidden_layers), "counts")
    _check("dropouts", dropouts, all(0 <= p < 1 for p in dropouts), "probabilities below 1")
    names = ", ".join(ACTIVATIONS)
    _check("activations", activations, set(activations) <= set(ACTIVATIONS), f"some of {names}")
    start = head_begin(chain, dense)
    shape_after(chain, example)
    units = [_head(start, hidden_layers, neurons, dropouts, activations)]
    values = {
        "filters": filters,
        "filter_size": filter_sizes,
        "activation": activations,
        "pool_size": pool_sizes,
        "padding": paddings,
        "neurons": neurons,
        "dropout": [float(p) for p in dropouts],
    }
    for name, layer in reversed(list(path_layers(chain[:start]))):
        if (max_units is not None and len(units) > max_units) or not _can_be_remade(layer):
            break
        choices = tuple(_choices(_layer(chain, name, layer, len(units)), values, skip))
        if choices:
            units.append(Unit(index=len(units), block=block_of(chain, name), choices=choices))
    return tuple(units)


def _check(name: str, values: Sequence[Any], is_right: bool, expected: str) -> None:
    if not is_right or not values:
        raise ConfigError(f"{name} is {list(values)}, expected {expected}")


def _check_counts(**lists: Sequence[int]) -> None:
    for name, values in lists.items():
        _check(name, values, all(value > 0 for value in values), "positive counts")


def check_options(*, skip: str, dense: str) -> None:
    """Refuse what is no `Skip` and no `Dense`.

    Raises:
        ConfigError: an option is unknown.
    """
    if skip not in ("keep", "drop"):
        raise ConfigError(f"skip is {skip!r}, expected keep or drop")
    if dense not in ("keep", "replace"):
        raise ConfigError(f"dense is {dense!r}, expected keep or replace")


def head_begin(chain: nn.Sequential, dense: Dense) -> int:
    """Index of the first block of those in whose place the searched head comes."""
    first = _first_dense(chain)
    if first is None:
        return head_start(chain)
    return len(chain) - 1 if dense == "keep" else first


def _first_dense(chain: nn.Sequential) -> int | None:
    """Index of the first dense layer of those that lead to the classifier; None where it is the only one."""
    classifier_of(chain)
    first = None
    for index in reversed(range(len(chain) - 1)):
        block = chain[index]
        if isinstance(block, nn.Linear):
            first = index
        elif not isinstance(block, nn.Dropout | nn.BatchNorm1d) and activation_name(block) is None:
            break
    return first


def _can_be_remade(layer: nn.Module) -> bool:
    return isinstance(layer, _REMADE) or not any(True for _ in layer.parameters())


def _head(
    start: int,
    hidden_layers: Iterable[int],
    neurons: Iterable[int],
    dropouts: Iterable[float],
    activations: Iterable[str],
) -> Unit:
    counts = sorted(set(hidden_layers))
    choices = [Choice(name=HIDDEN_LAYERS, values=tuple(counts), neutral=counts[0], kind="ordinal", unit=0)]
    if counts[-1]:
        names = tuple(dict.fromkeys(activations))
        choices.append(_head_choice(HEAD_ACTIVATION, names, "categorical", 1))
    for number in range(1, counts[-1] + 1):
        choices.append(_head_choice(f"head.neurons{number}", tuple(sorted(set(neurons))), "ordinal", number))
        probabilities = tuple(sorted(set(map(float, dropouts))))
        choices.append(_head_choice(f"head.dropout{number}", probabilities, "ordinal", number))
    return Unit(index=0, block=start, choices=tuple(choices))


def _head_choice(
    name: str, values: tuple[Value, ...], kind: Literal["ordinal", "categorical"], layer: int
) -> Choice:
    return Choice(
        name=name,
        values=values,
        neutral=values[0],
        kind=kind,
        unit=0,
        only_if=HIDDEN_LAYERS,
        only_from=layer,
    )


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer on the path as a unit of the space.

    Args:
        name: its dotted name.
        module: the pre-trained layer.
        after: the blocks of the chain that follow it, where it is a block itself.
        unit: the unit's index.
    """

    name: str
    module: nn.Module
    after: tuple[tuple[str, nn.Module], ...]
    unit: int

    def ordinal(self, what: str, values: Iterable[float], own: float, acts_on: str | None = None) -> Choice:
        """A choice whose neutral value is the nearest to the pre-trained setting."""
        ascending = tuple(sorted(set(values)))
        neutral = min(ascending, key=lambda value: abs(value - own))
        return self._choice(what, ascending, neutral, "ordinal", acts_on)

    def categorical(
        self, what: str, values: Iterable[str], own: str | None, acts_on: str | None = None
    ) -> Choice:
        """A choice whose neutral value is the pre-trained setting, or else the first one."""
        names = tuple(dict.fromkeys(values))
        return self._choice(what, names, own if own in names else names[0], "categorical", acts_on)

    def _choice(
        self,
        what: str,
        values: tuple[Value, ...],
        neutral: Value | None,
        kind: Literal["ordinal", "categorical"],
        acts_on: str | None,
    ) -> Choice:
        assert neutral is not None
        return Choice(
            name=f"{self.name}.{what}",
            values=values,
            neutral=neutral,
            kind=kind,
            unit=self.unit,
            layers=(acts_on or self.name,),
        )


def _layer(chain: nn.Sequential, name: str, module: nn.Module, unit: int) -> _Layer:
    blocks = list(chain.named_children())
    after = blocks[block_of(chain, name) + 1 :] if "." not in name else []
    return _Layer(name=name, module=module, after=tuple(after), unit=unit)


def _choices(layer: _Layer, values: Mapping[str, Sequence[Any]], skip: Skip) -> Iterator[Choice]:
    """What is searched of a layer; nothing where it is passed over."""
    module = layer.module
    if isinstance(module, nn.Conv2d):
        yield layer.ordinal("filter_size", _sizes(module, values["filter_size"], skip), module.kernel_size[0])
        # The filters of a depthwise convolution are as many as its inputs.
        if not is_depthwise(module):
            yield layer.ordinal("filters", values["filters"], module.out_channels)
        yield from _padding_choice(layer, module, values["padding"])
        yield from _activation_choice(layer, values["activation"])
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        own = "max" if isinstance(module, nn.MaxPool2d) else "average"
        yield layer.categorical("pool", ("max", "average"), own)
        size = _first(module.kernel_size)
        yield layer.ordinal("pool_size", _sizes(module, values["pool_size"], skip), size)
        yield from _padding_choice(layer, module, values["padding"])
    elif isinstance(module, nn.Linear):
        yield layer.ordinal("neurons", values["neurons"], module.out_features)
        yield from _activation_choice(layer, values["activation"])
        yield from _dropout_choice(layer, values["dropout"])


def _sizes(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, sizes: Sequence[int], skip: Skip) -> Sequence[int]:
    """The kernels that padding can fit to the layer's map; its own one where none of `sizes` can be."""
    if skip == "drop":
        return sizes
    smallest = max(footprint(layer))
    return [size for size in sizes if size >= smallest] or [smallest]


def _padding_choice(
    layer: _Layer, module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, paddings: Iterable[int]
) -> Iterator[Choice]:
    """Of a strided, padded layer that is a block of the chain.

    Inside a block another map size would not join the connection. Source: the layers conv1_pad and
    pool1_pad of the Keras networks.
    """
    padding = _first(module.padding)
    if "." not in layer.name and padding > 0 and _first(module.stride) > 1:
        yield layer.ordinal("padding", paddings, padding)


def _activation_choice(layer: _Layer, names: Iterable[str]) -> Iterator[Choice]:
    if layer.after and (own := activation_name(layer.after[0][1])) is not None:
        yield layer.categorical("activation", names, own, layer.after[0][0])


def _dropout_choice(layer: _Layer, dropouts: Iterable[float]) -> Iterator[Choice]:
    """Of the dropout after the layer and its activation."""
    skipped = dropwhile(lambda block: activation_name(block[1]) is not None, layer.after)
    name, block = next(skipped, ("", None))
    if isinstance(block, nn.Dropout):
        yield layer.ordinal("dropout", dropouts, block.p, name)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value
