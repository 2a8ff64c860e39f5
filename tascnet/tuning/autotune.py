"""AutoTune: a space of new layers in place of the last ones, the networks of its configurations, their cost.

Unit 0 is the dense head. Each further unit is one layer, counted from the output along the path of the
chain: a convolution, a pooling layer with a kernel, a dense layer before the classifier. Activations,
batch-norm, flattening, dropout and pooling to a vector are not units. A searched layer is always new, so that
its pre-trained setting need not be among the values.

Source: Basha et al. 2020, section 3 and table 1.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure import complexity, costs_of_shapes
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.head import classifier_of, head_start
from tascnet.models.inspect import meta_copy
from tascnet.options import Autotune
from tascnet.surgery import (
    Skip,
    activation_name,
    block_of,
    footprint,
    he_linear,
    is_depthwise,
    path_layers,
    rebuild,
    shape_after,
)
from tascnet.surgery.layers import WEIGHTED
from tascnet.tuning.build import Candidate, check_output
from tascnet.tuning.cost import Cost, sum_of
from tascnet.tuning.head import HIDDEN_LAYERS
from tascnet.tuning.space import FIRST_TRAINED, Choice, Configuration, Space, Unit, Value

HEAD_ACTIVATION = "head.activation"

# Layers with weights that can be made new for an input of another width.
_REMADE = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
_Kernel: TypeAlias = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


def discover_autotune(
    chain: nn.Sequential, example: Tensor, options: Autotune, max_units: int | None = None
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and one unit for each layer before it; the units do not nest.

    An activation is searched if it comes right after its layer. Paddings are searched in the strided stem
    alone, where no other layer of the chain depends on the map's size. With `skip="keep"` the kernel sizes of
    a layer are those that padding can fit to its map. With `dense="replace"` the head replaces the dense
    layers before the classifier and reads the flattened features: where these are 512 maps of 7x7, a first
    dense layer of 64 to 1024 neurons has 1.6 to 25.7 million weights. The units end before the first layer
    that cannot be made new. Arguments are those of `discover_units`.

    Raises:
        SurgeryError: the chain does not take the example, or has no classifier.
    """
    start = head_begin(chain, options.dense)
    shape_after(chain, example)
    units = [Unit(index=0, block=start, choices=tuple(_head_choices(options)))]
    flat = list(_flat(chain))
    places = {name: place for place, (name, _) in enumerate(flat)}
    for name, layer in reversed(list(path_layers(chain[:start]))):
        can_be_new = isinstance(layer, _REMADE) or not any(True for _ in layer.parameters())
        if (max_units is not None and len(units) > max_units) or not can_be_new:
            break
        after = flat[places[name] + 1 :] if name in places else None
        if choices := tuple(_layer_choices(name, layer, after, len(units), options)):
            units.append(Unit(index=len(units), block=block_of(chain, name), choices=choices))
    return tuple(units)


def _flat(chain: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """The blocks by name; in place of a sequence with one layer that has filters, the layers in it."""
    for name, block in chain.named_children():
        with_filters = sum(isinstance(layer, WEIGHTED) for layer in block.modules())
        if isinstance(block, nn.Sequential) and with_filters == 1:
            yield from ((f"{name}.{inner}", layer) for inner, layer in block.named_children())
        else:
            yield name, block


def head_begin(chain: nn.Sequential, dense: str) -> int:
    """Index of the first block that the searched head replaces.

    Dense layers before the classifier are layers of the chain (`dense="keep"`) or part of the head
    (`"replace"`).
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
        name: str, values: Sequence[Value], layer: int, kind: Literal["ordinal", "categorical"] = "ordinal"
    ) -> Choice:
        settings: dict[str, Any] = {"values": tuple(values), "neutral": values[0], "kind": kind}
        return Choice(name=name, unit=0, only_if=HIDDEN_LAYERS, only_from=layer, **settings)

    if counts[-1]:
        yield dependent(HEAD_ACTIVATION, options.activations, 1, "categorical")
    for number in range(1, counts[-1] + 1):
        yield dependent(f"head.neurons{number}", sorted(options.neurons), number)
        yield dependent(f"head.dropout{number}", sorted(options.dropouts), number)


def _layer_choices(
    name: str, layer: nn.Module, after: Sequence[tuple[str, nn.Module]] | None, unit: int, options: Autotune
) -> Iterator[Choice]:
    """The choices of a layer; none if it is not searched.

    `after` are the blocks that follow the layer; None: it is part of a block.
    """

    def choice(what: str, values: Sequence[Value], own: Any, acts_on: str = name) -> Choice:
        """Neutral is the pre-trained setting `own`, or else the nearest number or the first text."""
        settings: dict[str, Any]
        if isinstance(own, str):
            settings = {"kind": "categorical", "neutral": own if own in values else values[0]}
        else:
            values = sorted(set(values))
            settings = {"kind": "ordinal", "neutral": min(values, key=lambda value: abs(value - own))}
        return Choice(name=f"{name}.{what}", values=tuple(values), unit=unit, layers=(acts_on,), **settings)

    def sizes(layer: _Kernel, offered: Sequence[int]) -> Sequence[int]:
        if options.skip == "drop":
            return offered
        smallest = max(footprint(layer))
        return [size for size in offered if size >= smallest] or [smallest]

    if isinstance(layer, nn.Conv2d):
        yield choice("filter_size", sizes(layer, options.filter_sizes), layer.kernel_size[0])
        # A depthwise convolution has as many filters as inputs.
        if not is_depthwise(layer):
            yield choice("filters", options.filters, layer.out_channels)
    elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        yield choice("pool", ("max", "average"), "max" if isinstance(layer, nn.MaxPool2d) else "average")
        yield choice("pool_size", sizes(layer, options.pool_sizes), _first(layer.kernel_size))
    elif isinstance(layer, nn.Linear):
        yield choice("neurons", options.neurons, layer.out_features)
    if isinstance(layer, _Kernel):
        # Inside a block a map of another size would not fit the shortcut.
        padding = _first(layer.padding)
        if after is not None and isinstance(padding, int) and padding > 0 and _first(layer.stride) > 1:
            yield choice("padding", options.paddings, padding)
    if isinstance(layer, nn.Conv2d | nn.Linear) and after and (own := activation_name(after[0][1])):
        yield choice("activation", options.activations, own, after[0][0])
    if isinstance(layer, nn.Linear):
        behind, block = next(
            dropwhile(lambda block: activation_name(block[1]) is not None, after or ()), ("", None)
        )
        if isinstance(block, nn.Dropout):
            yield choice("dropout", options.dropouts, block.p, behind)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


class AutotuneBuilder:
    """Builds the tail of a configuration: its searched layers, all that follows them, and the dense head.

    In the first trained block the layers before the searched one keep their pre-trained weights and are
    frozen.

    Args:
        chain: the pre-trained network with its trained softmax layer; it is not changed.
        space: made of `discover_autotune(chain, ...)` with the same options.
        example: `1 x c x h x w`, one sample as the chain takes it.
        options: whether connections and dense layers are kept.
        seed: of the new weights; None leaves them without values.
    """

    def __init__(
        self, chain: nn.Sequential, space: Space, example: Tensor, options: Autotune, *, seed: int | None = 0
    ) -> None:
        self._chain, self._space, self._example = chain, space, example
        self._options, self._seed = options, seed
        self._entries: dict[int, Tensor] = {}

    def entry(self, cut: int) -> Tensor:
        """A tensor of the shape in which one sample reaches a tail."""
        if cut not in self._entries:
            self._entries[cut] = shape_after(self._chain[:cut], self._example)
        return self._entries[cut]

    def __call__(self, config: Mapping[str, Any]) -> Candidate:
        """The trained part of a configuration's network.

        Raises:
            SurgeryError: the new layers do not fit together.
        """
        config, chain = self._space.canonical(config), self._chain
        generator = None if self._seed is None else torch.Generator().manual_seed(self._seed)
        first = int(config[FIRST_TRAINED])
        cut, start = self._space.units[first].block, head_begin(chain, self._options.dense)
        settings: dict[str, dict[str, Value]] = {}
        for choice in self._space.active(config):
            for name in choice.layers:
                settings.setdefault(name, {})[choice.what] = config[choice.name]
        # Of the trained units alone: deeper ones, which may join the space later, do not change a network.
        kernels = [c for c in self._space.choices_to(first) if c.what in ("filter_size", "pool_size")]
        rebuilt = rebuild(
            chain[cut:start],
            self.entry(cut),
            settings,
            skip=cast(Skip, self._options.skip),
            side=max((int(choice.values[-1]) for choice in kernels), default=1),
            generator=generator,
        )
        shape = tuple(rebuilt.features.shape)
        if len(shape) != 2:
            raise SurgeryError(f"features of shape {shape} reach the head, but vectors are expected")
        head, is_new = self._head(chain[start:], shape[1], config, generator)
        tail = nn.Sequential(OrderedDict([*rebuilt.chain.named_children(), *head]))
        classifier = classifier_of(chain)
        tail.to(device=classifier.weight.device, dtype=classifier.weight.dtype).train(chain.training)
        check_output(tail, self.entry(cut), classifier.out_features)
        first_changed = 0 if cut < start or is_new else None
        return Candidate(tail=tail, cut=cut, first_changed=first_changed, frozen=rebuilt.frozen)

    def _head(
        self, old: nn.Sequential, width: int, config: Configuration, generator: torch.Generator | None
    ) -> tuple[list[tuple[str, nn.Module]], bool]:
        """The blocks of the head by name, and whether its classifier is new.

        Args:
            old: the blocks that the head replaces; the last one is the trained classifier.
            width: number of features.
            config: the configuration.
            generator: of the new weights.
        """
        hidden, classifier = int(config[HIDDEN_LAYERS]), classifier_of(old)
        layers: list[tuple[str, nn.Module]] = []
        if not hidden and not any(isinstance(block, nn.Linear) for block in old[:-1]):
            kept = copy.deepcopy(old).requires_grad_(True)
            if classifier.in_features == width:
                return list(kept.named_children()), False
            layers += kept[:-1].named_children()
        for number in range(1, hidden + 1):
            neurons = int(config[f"head.neurons{number}"])
            layers += [
                (f"head_linear{number}", he_linear(width, neurons, generator)),
                (f"head_bn{number}", nn.BatchNorm1d(neurons)),
                (f"head_activation{number}", ACTIVATIONS[str(config[HEAD_ACTIVATION])]()),
                (f"head_dropout{number}", nn.Dropout(float(config[f"head.dropout{number}"]))),
            ]
            width = neurons
        return [*layers, ("classifier", he_linear(width, classifier.out_features, generator))], True


class AutotuneCost:
    """The cost of each configuration's network, from the shapes of its layers without their weights.

    Arguments are those of `AutotuneBuilder`.

    Raises:
        SurgeryError: the cost of a layer of the chain does not follow from its shape.
    """

    def __init__(self, chain: nn.Sequential, space: Space, example: Tensor, options: Autotune) -> None:
        costs = costs_of_shapes(chain, example)
        for layer in complexity(chain, example).layers:
            if costs.get(layer.name, (0, 0)) != (layer.params, layer.flops):
                raise SurgeryError(
                    f"the cost of layer '{layer.name}' ({layer.kind}) does not follow from its shape",
                    "search without bounds on params and flops",
                )
        ghost = cast(nn.Sequential, meta_copy(chain))
        self._build = AutotuneBuilder(ghost, space, example, options, seed=None)
        blocks = list(chain._modules)
        self._trunks = {
            cut: sum_of(cost for name, cost in costs.items() if name.partition(".")[0] in blocks[:cut])
            for cut in {unit.block for unit in space.units}
        }

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """The cost of a configuration's whole network, trunk and tail.

        Raises:
            SurgeryError: the new layers do not fit together.
        """
        built = self._build(config)
        tail = costs_of_shapes(built.tail, self._build.entry(built.cut))
        return self._trunks[built.cut] + sum_of(tail.values())
