"""Parameters and FLOPs of a configuration's network, told exactly without building it.

The pre-trained network is counted once, layer by layer. A layer has inputs x outputs x area of the kernel
weights, so that its cost follows from its widths and its kernel; the layers of a removed block cost nothing;
a head's cost is a constant and a share for each feature that it reads.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.measure import LayerCost, complexity
from tascnet.measure.sized import lost_sizes, sized_layer
from tascnet.models.head import classifier_of, head_start
from tascnet.surgery import shape_after
from tascnet.tuning.build import is_grown, with_head_of
from tascnet.tuning.discover import DROPOUT, HIDDEN_LAYERS, NEURONS, NORM
from tascnet.tuning.space import Space


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters and FLOPs of a whole network, counted as `tascnet.measure.complexity` counts them."""

    params: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class _Effect:
    """What a choice changes.

    Args:
        neutral: the value at which it changes nothing.
        slots: by layer, the inputs and outputs that go with one channel of a group.
        features: those of the head's inputs that do.
        kernels: layers that get another kernel.
        dimensions: of these kernels.
        block: the block that goes.
        saved: parameters and FLOPs that go with the block.
    """

    neutral: int
    slots: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    features: int = 0
    kernels: tuple[str, ...] = ()
    dimensions: int = 2
    block: str | None = None
    saved: tuple[int, int] = (0, 0)


class CostModel:
    """The cost of every configuration's network.

    Args:
        chain: the pre-trained network with its new softmax layer; left as it is.
        space: made of `discover_units(chain, ...)`.
        example: `1 x c x h x w`, one sample as the chain takes it.
        classifier: the pre-trained classification layer, where the head may grow on it.

    Attributes:
        neutral: the cost of the chain as it is.

    Raises:
        SurgeryError: the cost of a layer that the space changes does not follow from its size.
    """

    neutral: Cost

    def __init__(
        self, chain: nn.Sequential, space: Space, example: Tensor, *, classifier: nn.Linear | None = None
    ) -> None:
        measured = complexity(chain, example)
        self.neutral = Cost(params=measured.params, flops=measured.flops)
        self._space = space
        self._softmax = classifier_of(chain)
        self._classifier = classifier
        self._heads: dict[tuple[Any, ...], tuple[Cost, Cost]] = {}
        head = {name for name, _ in list(chain.named_children())[head_start(chain) :]}
        costs = {cost.name: cost for cost in measured.layers if _block_of(cost.name) not in head}
        self._features = _total(costs.values())
        self._effects = _effects(chain, space, example, costs)
        touched = {name for e in self._effects.values() for name in (*e.slots, *e.kernels)}
        self._layers = {name: sized_layer(chain.get_submodule(name), costs[name]) for name in touched}

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """Parameters and FLOPs of the whole network, trunk and tail.

        Args:
            config: a canonical configuration of the space.
        """
        changes = [(e, config[name]) for name, e in self._effects.items() if config[name] != e.neutral]
        gone = {effect.block for effect, _ in changes}
        params, flops = self._features
        features = self._softmax.in_features
        for effect, value in changes:
            params, flops = params - effect.saved[0], flops - effect.saved[1]
            features -= effect.features * (effect.neutral - value)
        for name, size in self._sizes(changes).items():
            if _block_of(name) not in gone:
                layer = self._layers[name]
                old, new = layer.cost(layer.size), layer.cost(size)
                params, flops = params + new[0] - old[0], flops + new[1] - old[1]
        constant, each = self._head(config)
        return Cost(
            params=params + constant.params + features * each.params,
            flops=flops + constant.flops + features * each.flops,
        )

    def _sizes(self, changes: Iterable[tuple[_Effect, int]]) -> dict[str, list[int]]:
        """Inputs, outputs and area of the kernel of the layers that are changed, by name."""
        sizes: dict[str, list[int]] = {}
        for effect, value in changes:
            lost = effect.neutral - value
            for name, (inputs, outputs) in effect.slots.items():
                size = sizes.setdefault(name, list(self._layers[name].size))
                size[0] -= lost * inputs
                size[1] -= lost * outputs
            for name in effect.kernels:
                sizes.setdefault(name, list(self._layers[name].size))[2] = value**effect.dimensions
        return sizes

    def _head(self, config: Mapping[str, Any]) -> tuple[Cost, Cost]:
        """A head's cost without features, and for each of them; measured once for each kind of head."""
        hidden = config.get(HIDDEN_LAYERS, 0)
        key = (is_grown(config) and config[NORM], hidden, hidden and config[NEURONS])
        if key not in self._heads:
            one, two = (self._measured_head(config, features) for features in (1, 2))
            each = Cost(params=two.params - one.params, flops=two.flops - one.flops)
            constant = Cost(params=one.params - each.params, flops=one.flops - each.flops)
            self._heads[key] = constant, each
        return self._heads[key]

    def _measured_head(self, config: Mapping[str, Any], features: int) -> Cost:
        softmax = _resized(self._softmax, features)
        kept = None if self._classifier is None else _resized(self._classifier, features)
        head = with_head_of(
            nn.Sequential(OrderedDict(classifier=softmax)),
            {**config, DROPOUT: 0.0},
            softmax.out_features,
            classifier=kept,
            magnitude=1.0,
        )
        measured = complexity(head, torch.zeros(1, features))
        return Cost(params=measured.params, flops=measured.flops)


def _resized(layer: nn.Linear, inputs: int) -> nn.Linear:
    """A layer of other inputs, with any weights."""
    return nn.utils.skip_init(nn.Linear, inputs, layer.out_features, bias=layer.bias is not None)


def _block_of(name: str) -> str:
    return name.partition(".")[0]


def _total(costs: Iterable[LayerCost]) -> tuple[int, int]:
    counted = list(costs)
    return sum(cost.params for cost in counted), sum(cost.flops for cost in counted)


def _effects(
    chain: nn.Sequential, space: Space, example: Tensor, costs: Mapping[str, LayerCost]
) -> dict[str, _Effect]:
    """What the choices of the space change, but for the head's; activations cost nothing."""
    groups = [choice.layers[0] for choice in space.choices if choice.what == "width"]
    slots = {}
    if groups:
        cut = space.units[-1].block
        slots = lost_sizes(chain[cut:], shape_after(chain[:cut], example), groups, costs)
    effects = {}
    for choice in space.choices:
        if choice.what == "kernel":
            is_over_time = isinstance(chain.get_submodule(choice.layers[0]), nn.Conv1d)
            effects[choice.name] = _Effect(
                neutral=int(choice.neutral), kernels=choice.layers, dimensions=1 if is_over_time else 2
            )
        elif choice.what == "kept":
            block = choice.layers[0]
            saved = _total(cost for cost in costs.values() if _block_of(cost.name) == block)
            effects[choice.name] = _Effect(neutral=int(choice.neutral), block=block, saved=saved)
        elif choice.what == "width":
            of_group = slots[choice.layers[0]]
            effects[choice.name] = _Effect(
                neutral=int(choice.neutral),
                slots={name: lost for name, lost in of_group.items() if name in costs},
                # What is not counted among the features is the head's first layer.
                features=sum(inputs for name, (inputs, _) in of_group.items() if name not in costs),
            )
    return effects
