"""Parameters and FLOPs of a configuration's network, computed exactly without building it.

The pre-trained network is counted once, layer by layer. The cost of a layer follows from its widths and its
kernel (`tascnet.measure.widths`); that of a head is a constant and a share for each feature that it reads.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.measure import complexity
from tascnet.measure.widths import SizedLayers, lost_sizes
from tascnet.models.head import HeadSpec, classifier_of, head_start
from tascnet.surgery import shape_after, width_groups
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
        measured = complexity(chain, example)
        self.neutral = Cost(params=measured.params, flops=measured.flops)
        self._softmax, self._classifier = classifier_of(chain), classifier
        self._heads: dict[SearchedHead, tuple[Cost, Cost]] = {}
        head = {name for name, _ in list(chain.named_children())[head_start(chain) :]}
        costs = {cost.name: cost for cost in measured.layers if cost.name.partition(".")[0] not in head}
        self._features = sum_of((cost.params, cost.flops) for cost in costs.values())
        self._choices = [choice for choice in space.choices if isinstance(choice, LayerChoice)]
        # All that any configuration changes.
        every = Changes()
        for choice in self._choices:
            choice.change(every, choice.neutral)
        cut = space.units[-1].block
        entry = shape_after(chain[:cut], example)
        groups = [group for group in width_groups(chain[cut:], entry) if group.name in every.widths]
        lost = lost_sizes(groups, costs)
        self._bundles = {group.name: group.bundle for group in groups}
        # The only layer outside `costs` is the head's first one.
        self._slots = {
            g: {name: slot for name, slot in by.items() if name in costs} for g, by in lost.items()
        }
        self._inputs = {
            g: sum(slot[0] for name, slot in by.items() if name not in costs) for g, by in lost.items()
        }
        self._widths = every.widths
        self._saved = {
            block: sum_of((c.params, c.flops) for c in costs.values() if c.name.partition(".")[0] == block)
            for block in every.removed
        }
        self._dimensions = {n: chain.get_submodule(n).weight.dim() - 2 for n in every.kernels}  # type: ignore[operator]
        touched = {*every.kernels, *(name for slots in self._slots.values() for name in slots)}
        self._layers = SizedLayers(chain, costs, touched)

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """The cost of a canonical configuration's whole network, trunk and tail."""
        changes = Changes.of(self._choices, config)
        # In units of the groups.
        lost = {
            group: (self._widths[group] - width) // self._bundles[group]
            for group, width in changes.widths.items()
        }
        added = self._layers.change(
            ((count, self._slots[group]) for group, count in lost.items()),
            {name: side ** self._dimensions[name] for name, side in changes.kernels.items()},
            without=changes.removed,
        )
        features = self._softmax.in_features - sum(n * self._inputs[group] for group, n in lost.items())
        constant, each = self._head(config)
        total = self._features + sum_of([added]) + constant + features * each
        for block in changes.removed:
            total -= self._saved[block]
        return total

    def _head(self, config: Mapping[str, Any]) -> tuple[Cost, Cost]:
        """The cost of a head without features, and of each feature; measured once for each kind of head."""
        head = SearchedHead.of(config)
        # Dropout costs nothing.
        head = replace(head, spec=HeadSpec(hidden=head.spec.hidden))
        if head not in self._heads:
            one, two = (self._measured(head, features) for features in (1, 2))
            self._heads[head] = one - (two - one), two - one
        return self._heads[head]

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
