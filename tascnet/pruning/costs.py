"""What a network costs once channels are gone, told exactly before anything is cut."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tascnet.measure import complexity
from tascnet.measure.sized import SizedLayer, lost_sizes, sized_layer


class WidthCosts:
    """Parameters and FLOPs of a network as functions of the channels that its groups lose.

    Args:
        chain: the network; left as it is.
        example: `1 x c x h x w`, one sample as the chain takes it.
        groups: names of some of its width groups.

    Attributes:
        params: of the network as it is.
        flops: of one sample.

    Raises:
        SurgeryError: a group is not one of the chain's, or a layer's cost does not follow from its widths.
    """

    params: int
    flops: int

    def __init__(self, chain: nn.Sequential, example: Tensor, groups: Sequence[str]) -> None:
        measured = complexity(chain, example)
        self.params, self.flops = measured.params, measured.flops
        costs = {cost.name: cost for cost in measured.layers}
        self._lost = lost_sizes(chain, example, groups, costs)
        touched = {name for layers in self._lost.values() for name in layers}
        self._layers: dict[str, SizedLayer] = {
            name: sized_layer(chain.get_submodule(name), costs[name]) for name in touched
        }

    def __call__(self, removed: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and FLOPs without the channels removed, as counts by group."""
        sizes: dict[str, list[int]] = {}
        for group, count in removed.items():
            for name, (inputs, outputs) in self._lost[group].items():
                size = sizes.setdefault(name, list(self._layers[name].size))
                size[0] -= count * inputs
                size[1] -= count * outputs
        params, flops = self.params, self.flops
        for name, size in sizes.items():
            layer = self._layers[name]
            old, new = layer.cost(layer.size), layer.cost(size)
            params, flops = params + new[0] - old[0], flops + new[1] - old[1]
        return params, flops

    def saved(self, group: str) -> tuple[int, int]:
        """Parameters and FLOPs that go with one channel of a group."""
        params, flops = self({group: 1})
        return self.params - params, self.flops - flops
