"""The cut itself: what goes hands over to what stays, and is removed from the network."""

from collections.abc import Mapping

from torch import nn

from tascnet.models.surgery import WidthGroup, consumer_inputs, narrow
from tascnet.prune import (
    FilterHistory,
    Moments,
    Ranking,
    average_into,
    fold_into,
    fold_pairs,
    nearest_kept,
)

from .ranks import Inputs, measure_inputs
from .stage import PruneStage

__all__ = ["cut"]


def cut(
    stage: PruneStage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    chosen: Mapping[str, Ranking],
    *,
    history: FilterHistory | None = None,
    measured: tuple[Inputs, Moments] | None = None,
) -> None:
    """Remove filters from a network, in place.

    Args:
        stage: its `prune.merge` and `prune.fold_by` say what stays of them.
        network: on the device.
        groups: those that lose filters.
        chosen: by group, what goes, and for pairs what stays for it.
        history: with `merge=average`, whose norms weigh the members of a pair.
        measured: what `measure_inputs` gave for this network; None: it is measured where it is needed.
    """
    options = stage.config.prune
    if options.merge == "average":
        _average(network, groups, chosen, history)
    elif options.merge == "fold" and options.fold_by == "activations":
        inputs, moments = measured or measure_inputs(stage, network, groups)
        for group in groups:
            fold_into(network, inputs[group.name], moments[group.name], list(chosen[group.name].order))
    elif options.merge == "fold":
        _fold_by_weights(stage, network, groups, chosen)
    keep = {g.name: sorted(set(range(g.width)) - set(chosen[g.name].order)) for g in groups}
    narrow(network, stage.session.example, keep)
    stage.session.place(network)
    if history is not None:
        for name, indices in keep.items():
            history.keep(name, indices)


def _average(
    network: nn.Sequential,
    groups: list[WidthGroup],
    chosen: Mapping[str, Ranking],
    history: FilterHistory | None,
) -> None:
    assert history is not None, "the config allows averages of pairs alone"
    for group in groups:
        pairs = chosen[group.name]
        average_into(network, group, pairs.partners or (), pairs.order, history.l1(group.name))


def _fold_by_weights(
    stage: PruneStage, network: nn.Sequential, groups: list[WidthGroup], chosen: Mapping[str, Ranking]
) -> None:
    inputs = consumer_inputs(network, stage.session.example, groups)
    for group in groups:
        going = chosen[group.name]
        if going.partners is None:
            partners = nearest_kept(network, group, going.order)
        else:
            partners = dict(zip(going.order, going.partners, strict=True))
        fold_pairs(network, group, inputs[group.name], partners)
