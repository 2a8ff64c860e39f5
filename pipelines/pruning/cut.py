"""The cut itself: what goes hands over to what stays, and is removed from the network."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from tascnet.inherit import Moments, Ranking, average_into, fold_into, fold_pairs, nearest_kept, refit
from tascnet.pruning import FilterHistory
from tascnet.surgery import WidthGroup, consumer_inputs, narrow
from tascnet.train import reestimate_batchnorm

from ..session import MEASURED
from .ranks import Inputs, measure_inputs
from .stage import PruneStage

# A network before a cut, and by layer the outputs that stay.
Teacher: TypeAlias = tuple[nn.Sequential, Mapping[str, Sequence[int]]]


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
    elif folds_by_activations(stage):
        inputs, moments = measured or measure_inputs(stage, network, groups)
        for group in groups:
            fold_into(network, inputs[group.name], moments[group.name], list(chosen[group.name].order))
    elif options.merge != "none":
        _fold_by_weights(stage, network, groups, chosen)
    keep = _keep(groups, chosen)
    narrow(network, stage.session.example, keep)
    stage.session.place(network)
    if history is not None:
        for name, indices in keep.items():
            history.keep(name, indices)


def folds_by_activations(stage: PruneStage) -> bool:
    """Whether a cut needs what `measure_inputs` gives."""
    options = stage.config.prune
    return options.merge in ("fold", "refit") and options.fold_by == "activations"


def kept_outputs(groups: Sequence[WidthGroup], chosen: Mapping[str, Ranking]) -> dict[str, list[int]]:
    """The outputs that stay of each layer of groups that lose filters."""
    keep = _keep(groups, chosen)
    return {layer: keep[group.name] for group in groups for layer in group.filters}


def _keep(groups: Sequence[WidthGroup], chosen: Mapping[str, Ranking]) -> dict[str, list[int]]:
    return {g.name: sorted(set(range(g.width)) - set(chosen[g.name].order)) for g in groups}


def teacher_of(
    stage: PruneStage, network: nn.Sequential, kept: Mapping[str, Sequence[int]]
) -> Teacher | None:
    """A copy of a network that is about to be cut, where `prune.merge=refit` learns from it.

    Args:
        stage: with the config.
        network: before the cut.
        kept: by layer, outputs that will stay, from `kept_outputs`.
    """
    return (copy.deepcopy(network), kept) if stage.config.prune.merge == "refit" else None


def settle(
    stage: PruneStage,
    network: nn.Sequential,
    teacher: Teacher | None = None,
    *,
    first: int = 0,
    samples: int | None = None,
) -> None:
    """Make a network that has been cut fit together again, without training.

    Args:
        stage: with the training samples.
        network: after the cut, on the device.
        teacher: from `teacher_of`: every layer behind the cut learns from it; None: batch-norm is measured
            anew.
        first: where it is, index of the first block that was changed.
        samples: how many are used; None: all, or of a teacher `MEASURED`.
    """
    network.requires_grad_(True)
    session = stage.session
    if teacher is None:
        source = session.train if samples is None else session.sample(samples)
        reestimate_batchnorm(network, source, first_block=first, device=session.device)
    else:
        refit(network, *teacher, partial(_images, stage, samples or MEASURED), seed=stage.config.seed)


def _images(stage: PruneStage, samples: int) -> Iterator[Tensor]:
    return (images for images, _ in stage.session.sample_batches(samples))


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
