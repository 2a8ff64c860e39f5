"""The cut: removed filters are folded into the kept ones, and the network is made to fit together again."""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from tascnet.inherit import average_into, fold_into, fold_pairs, nearest_kept, refit
from tascnet.pruning.ranks import Ranks, read_inputs
from tascnet.surgery import consumer_inputs, narrow
from tascnet.train import MEASURED, Learner, reestimate_batchnorm

# Ways of merging that read activations.
BY_ACTIVATIONS = ("fold", "refit")

# A network before a cut, and by layer the outputs that are kept.
Teacher: TypeAlias = tuple[nn.Sequential, Mapping[str, Sequence[int]]]


def cut(
    learner: Learner, ranks: Ranks, counts: Mapping[str, int], merge: str, *, in_place: bool = False
) -> nn.Sequential:
    """Remove the first filters of groups from a network.

    Args:
        learner: the samples over which activations are folded.
        ranks: of the network.
        counts: by group, filters to remove.
        merge: what becomes of them, as in `Prune`.
        in_place: change the network, and let its history forget the removed filters; else a copy is cut.
    """
    network, history = ranks.network, ranks.history
    if not in_place:
        network, history = copy.deepcopy(network), copy.deepcopy(history)
    removed = ranks.first(counts)
    groups = [group for group in ranks.groups if group.name in removed]
    if merge == "average":
        assert history is not None, "the options allow averages of pairs alone"
        for group in groups:
            pairs = removed[group.name]
            average_into(network, group, pairs.partners or (), pairs.order, history.l1(group.name))
    elif merge in BY_ACTIVATIONS:
        readings = ranks.readings or read_inputs(learner, network, ranks.trace, groups)
        for name, ranking in removed.items():
            fold_into(network, readings.inputs[name], readings.moments[name], ranking.order)
    elif merge == "fold_weights":
        inputs = consumer_inputs(network, ranks.trace, groups)
        for group in groups:
            ranking = removed[group.name]
            if ranking.partners is None:
                partners = nearest_kept(network, group, ranking.order)
            else:
                partners = dict(zip(ranking.order, ranking.partners, strict=True))
            fold_pairs(network, group, inputs[group.name], partners)
    keep = _kept(ranks, counts)
    narrow(network, ranks.trace, keep)
    if history is not None:
        for name, indices in keep.items():
            history.keep(name, indices)
    return learner.place(network)


def _kept(ranks: Ranks, counts: Mapping[str, int]) -> dict[str, list[int]]:
    widths = ranks.widths
    return {n: sorted(set(range(widths[n])) - set(one.order)) for n, one in ranks.first(counts).items()}


def kept_outputs(ranks: Ranks, counts: Mapping[str, int]) -> dict[str, list[int]]:
    """The kept outputs of each layer of the groups that lose filters."""
    keep = _kept(ranks, counts)
    return {layer: keep[g.name] for g in ranks.groups if g.name in keep for layer in g.filters}


def teacher_of(network: nn.Sequential, kept: Mapping[str, Sequence[int]], merge: str) -> Teacher | None:
    """A copy of a network that is about to be cut, with the merge `refit`, which learns from it.

    Args:
        network: before the cut.
        kept: by layer, outputs that are kept, from `kept_outputs`.
        merge: as in `Prune`.
    """
    return (copy.deepcopy(network), kept) if merge == "refit" else None


def settle(
    learner: Learner,
    network: nn.Sequential,
    teacher: Teacher | None = None,
    *,
    first: int = 0,
    samples: int | None = None,
) -> None:
    """Make a network that has been cut fit together again, without training.

    Args:
        learner: the training samples.
        network: after the cut, on the device.
        teacher: from `teacher_of`: every layer behind the cut learns from it; None: batch-norm statistics are
            measured again.
        first: where they are, index of the first block that was changed.
        samples: how many are used; None: all, or with a teacher `MEASURED`.
    """
    network.requires_grad_(True)
    if teacher is None:
        source = learner.samples.train if samples is None else learner.samples.drawn(samples, learner.seed)
        reestimate_batchnorm(network, source, first_block=first, device=learner.device)
    else:
        count = samples or MEASURED
        refit(network, *teacher, lambda: (x for x, _ in learner.batches(count)), seed=learner.seed)
