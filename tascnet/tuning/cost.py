"""Parameters and FLOPs of a configuration's network, computed exactly without building it.

The pre-trained network is counted once for each of its ends, layer by layer. The cost of a layer follows from
its widths and its kernel (`tascnet.measure.widths`); that of a head is a constant and a share for each
feature that it reads.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.measure import Complexity, complexity
from tascnet.measure.widths import SizedLayers, lost_sizes
from tascnet.models.head import HeadSpec, classifier_of, head_start, head_width
from tascnet.surgery import Shortener, WidthGroup, shape_after, width_groups
from tascnet.tuning.build import channel_shares, lost_units
from tascnet.tuning.choices import Changes, LayerChoice
from tascnet.tuning.head import SearchedHead
from tascnet.tuning.space import Space


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters and FLOPs of a whole network, as `tascnet.measure.complexity` counts them."""

    params: int
    flops: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(params=self.params + other.params, flops=self.flops + other.flops)

    def __sub__(self, other: "Cost") -> "Cost":
        return self + -1 * other

    def __rmul__(self, factor: int) -> "Cost":
        return Cost(params=factor * self.params, flops=factor * self.flops)


class CostModel:
    """The cost of each configuration's network; arguments are those of `CandidateBuilder`.

    Attributes:
        neutral: the cost of the chain.

    Raises:
        SurgeryError: the cost of a layer that the space changes does not follow from its size.
    """

    neutral: Cost

    def __init__(
        self, chain: nn.Sequential, space: Space, example: Tensor, *, classifier: nn.Linear | None = None
    ) -> None:
        self._space = space
        self._heads = _HeadCosts(classifier_of(chain), classifier)
        self._choices = [choice for choice in space.choices if isinstance(choice, LayerChoice)]
        cut = space.units[-1].block
        entry = shape_after(chain[:cut], example)
        named = width_groups(chain[cut:], entry)
        measured = complexity(chain, example)
        self.neutral = Cost(params=measured.params, flops=measured.flops)
        self._at = {0: _ChainCosts(chain, self._choices, named, named, measured)}
        if space.has_exit:
            shortener = Shortener(chain, example)
            for exit in range(1, space.exits + 1):
                block = space.units[exit].block
                ended = shortener.network(block)
                choices = [choice for choice in self._choices if choice.unit > exit]
                groups = width_groups(ended[cut:], entry) if block > cut else ()
                self._at[exit] = _ChainCosts(ended, choices, named, groups, complexity(ended, example))

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """The cost of a canonical configuration's whole network, trunk and tail."""
        ended = self._at[self._space.exit_of(config)]
        without_head, features = ended(Changes.of(self._choices, config))
        constant, each = self._heads(SearchedHead.of(config))
        return without_head + constant + features * each


class _ChainCosts:
    """The cost of a chain without its head, and the features that the head reads, after changes.

    Args:
        chain: ends in a softmax layer.
        choices: of the blocks that the chain has.
        named: the width groups by which changes name widths.
        groups: those of the chain, which differ where it ends before that of `named`.
        measured: what the chain costs.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        choices: Iterable[LayerChoice],
        named: Sequence[WidthGroup],
        groups: Sequence[WidthGroup],
        measured: Complexity,
    ) -> None:
        # All that any configuration changes.
        every = Changes()
        for choice in choices:
            choice.change(every, choice.neutral)
        self._named = [group for group in named if group.name in every.widths]
        layers = {layer for group in self._named for layer in group.outputs}
        self._groups = [group for group in groups if layers & group.outputs.keys()]
        self._shares = channel_shares(self._named, self._groups)
        self._inputs_of_head = head_width(chain)
        head = {name for name, _ in list(chain.named_children())[head_start(chain) :]}
        costs = {cost.name: cost for cost in measured.layers if cost.name.partition(".")[0] not in head}
        self._features = sum_of((cost.params, cost.flops) for cost in costs.values())
        lost = lost_sizes(self._groups, costs)
        # The only layer outside `costs` is the head's first one.
        self._slots = {
            g: {name: slot for name, slot in by.items() if name in costs} for g, by in lost.items()
        }
        self._inputs = {
            g: sum(slot[0] for name, slot in by.items() if name not in costs) for g, by in lost.items()
        }
        self._saved = {
            block: sum_of((c.params, c.flops) for c in costs.values() if c.name.partition(".")[0] == block)
            for block in every.removed
        }
        self._dimensions = {n: chain.get_submodule(n).weight.dim() - 2 for n in every.kernels}  # type: ignore[operator]
        touched = {*every.kernels, *(name for slots in self._slots.values() for name in slots)}
        self._layers = SizedLayers(chain, costs, touched)

    def __call__(self, changes: Changes) -> tuple[Cost, int]:
        """The cost without the head, and the features that the head reads."""
        lost = self._lost(changes.widths)
        added = self._layers.change(
            ((count, self._slots[group]) for group, count in lost.items()),
            {name: side ** self._dimensions[name] for name, side in changes.kernels.items()},
            without=changes.removed,
        )
        total = self._features + sum_of([added])
        for block in changes.removed:
            total -= self._saved[block]
        return total, self._inputs_of_head - sum(n * self._inputs[group] for group, n in lost.items())

    def _lost(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Removed units by group of the chain."""
        lost = {name: lost_units(shares, widths) for name, shares in self._shares.items()}
        return {name: count for name, count in lost.items() if count}


class _HeadCosts:
    """The cost of a head without features, and of each feature; measured once for each kind of head."""

    def __init__(self, softmax: nn.Linear, classifier: nn.Linear | None) -> None:
        self._softmax, self._classifier = softmax, classifier
        self._known: dict[SearchedHead, tuple[Cost, Cost]] = {}

    def __call__(self, head: SearchedHead) -> tuple[Cost, Cost]:
        # Dropout costs nothing.
        head = replace(head, spec=HeadSpec(hidden=head.spec.hidden))
        if head not in self._known:
            one, two = (self._measured(head, features) for features in (1, 2))
            self._known[head] = one - (two - one), two - one
        return self._known[head]

    def _measured(self, head: SearchedHead, features: int) -> Cost:
        def resized(layer: nn.Linear) -> nn.Linear:
            return nn.utils.skip_init(nn.Linear, features, layer.out_features, bias=layer.bias is not None)

        chain = nn.Sequential(OrderedDict(classifier=resized(self._softmax)))
        classifier = None if self._classifier is None else resized(self._classifier)
        built = head.on(chain, self._softmax.out_features, classifier=classifier, magnitude=1.0)
        measured = complexity(built, torch.zeros(1, features))
        return Cost(params=measured.params, flops=measured.flops)


def sum_of(costs: Iterable[tuple[int, int]]) -> Cost:
    counted = list(costs)
    return Cost(params=sum(params for params, _ in counted), flops=sum(flops for _, flops in counted))
