"""The cut: removed filters are folded into the kept ones, and the other layers are adapted to it."""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from tascnet.inherit import average_into, fold_into, fold_pairs, nearest_kept, refit
from tascnet.pruning.ranks import Ranks, read_inputs
from tascnet.surgery import layer_widths, narrow
from tascnet.train import MEASURED, Learner, reestimate_batchnorm

# Ways of merging that read activations.
BY_ACTIVATIONS = ("fold", "refit")

# A network before or after a cut, and by layer the kept outputs.
WithKept: TypeAlias = tuple[nn.Sequential, Mapping[str, Sequence[int]]]


def cut(
    learner: Learner, ranks: Ranks, counts: Mapping[str, int], merge: str, *, in_place: bool = False
) -> nn.Sequential:
    """Remove the first units of groups, `counts` by group, from the network of `ranks`.

    With `in_place` the network and its history change, otherwise a copy is cut. `merge` is that of `Prune`.
    """
    network, history = ranks.network, ranks.history
    if not in_place:
        network, history = copy.deepcopy(network), copy.deepcopy(history)
    removed = ranks.first(counts)
    groups = [group for group in ranks.groups if group.name in removed]
    if merge == "average":
        assert history is not None, "only pairs can be averaged"
        for group in groups:
            pairs = removed[group.name]
            average_into(network, group, pairs.partners or (), pairs.order, history.l1(group.name))
    elif merge in BY_ACTIVATIONS:
        readings = ranks.readings or read_inputs(learner, network, groups)
        for name, ranking in removed.items():
            fold_into(network, readings.inputs[name], readings.moments[name], ranking.order)
    elif merge == "fold_weights":
        for group in groups:
            ranking = removed[group.name]
            if ranking.partners is None:
                partners = nearest_kept(network, group, ranking.order)
            else:
                partners = dict(zip(ranking.order, ranking.partners, strict=True))
            fold_pairs(network, group, partners)
    keep = ranks.kept(counts)
    narrow(network, ranks.trace, keep)
    if history is not None:
        history.keep(keep)
    return learner.place(network)


def kept_outputs(ranks: Ranks, counts: Mapping[str, int]) -> dict[str, list[int]]:
    """By layer, the kept outputs of the network of `ranks`, where some are removed."""
    widths, first = layer_widths(ranks.network), ranks.first(counts)
    removed: dict[str, set[int]] = {}
    for group in ranks.groups:
        if group.name in first:
            units = list(first[group.name].order)
            for layer, positions in group.outputs.items():
                removed.setdefault(layer, set()).update(positions[units].flatten().tolist())
    return {layer: sorted(set(range(widths[layer])) - gone) for layer, gone in removed.items()}


def teacher_of(network: nn.Sequential, kept: Mapping[str, Sequence[int]], merge: str) -> WithKept | None:
    """What the merge `refit` learns from: a copy of the network before the cut, with its `kept_outputs`."""
    return (copy.deepcopy(network), kept) if merge == "refit" else None


def settle(
    learner: Learner,
    network: nn.Sequential,
    teacher: WithKept | None = None,
    *,
    first: int = 0,
    samples: int | None = None,
) -> None:
    """Adapt the kept layers to a cut, without training.

    Args:
        network: after the cut, on the device.
        teacher: from `teacher_of`: every layer behind the cut is fitted to its outputs; None: batch-norm
            statistics are measured again.
        first: then, index of the first block that was changed.
        samples: how many are used; None: all, or with a teacher `MEASURED`.
    """
    network.requires_grad_(True)
    if teacher is None:
        train = learner.samples.train if samples is None else learner.samples.drawn(samples, learner.seed)
        reestimate_batchnorm(network, train, first_block=first, device=learner.device)
    else:
        count = samples or MEASURED
        refit(network, *teacher, lambda: (x for x, _ in learner.batches(count)), seed=learner.seed)
