"""How far a network can be cut: what filters of its layers can be removed, and why others cannot."""

from collections.abc import Callable

from torch import nn

from tascnet.measure.widths import WidthCosts
from tascnet.run.records import Reach, UncutLayers
from tascnet.surgery import Trace, WidthGroup


def reach(chain: nn.Sequential, trace: Trace, spared: Callable[[WidthGroup], str | None]) -> Reach:
    """What is left of a network where every group is cut to one unit, and the layers that keep their width.

    Args:
        trace: of the chain.
        spared: why a group is not to be cut; None: it may be.

    Raises:
        SurgeryError: a layer's cost does not follow from its widths.
    """
    kept = {group.name: spared(group) for group in trace.groups}
    cut = [group for group in trace.groups if kept[group.name] is None]
    costs = WidthCosts(chain, trace.example, cut)
    params, flops = costs({group.name: group.width - 1 for group in cut})
    uncut = []
    for reason, layers in reasons(trace, spared).items():
        found = [costs.layers[layer] for layer in layers if layer in costs.layers]
        uncut.append(
            UncutLayers(
                reason=reason,
                layers=layers,
                params=sum(layer.params for layer in found) / costs.params,
                flops=sum(layer.flops for layer in found) / max(costs.flops, 1),
            )
        )
    return Reach(
        params_left=params / costs.params,
        flops_left=flops / max(costs.flops, 1),
        inexact=tuple(group.name for group in cut if not group.is_exact),
        uncut=tuple(uncut),
    )


def reasons(trace: Trace, spared: Callable[[WidthGroup], str | None]) -> dict[str, tuple[str, ...]]:
    """By reason, the layers that have outputs which cannot or must not be removed.

    What happens in several blocks is one reason, and the blocks are left out.
    """
    found: dict[str, list[str]] = {}
    for one in trace.uncut:
        found.setdefault(one.reason.partition(" in block '")[0], []).append(one.layer)
    for group in trace.groups:
        if (reason := spared(group)) is not None:
            found.setdefault(reason, []).extend(group.filters)
    return {reason: tuple(dict.fromkeys(layers)) for reason, layers in found.items()}
