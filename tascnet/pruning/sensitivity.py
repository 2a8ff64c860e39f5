"""Where a network can lose filters: its accuracy without a share of each group alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from tascnet.data import evenly
from tascnet.execute.workers import Workers
from tascnet.measure import WidthCosts
from tascnet.options import Prune
from tascnet.pruning.check import eligible_groups
from tascnet.pruning.cut import BY_ACTIVATIONS, cut
from tascnet.pruning.ranks import rank_untrained, read_inputs
from tascnet.run.console import track
from tascnet.run.records import GroupSensitivity, GroupShare, Sensitivity, made_once
from tascnet.surgery import Trace, WidthGroup
from tascnet.train import Archive, Learner

FILE = "sensitivity.json"
SHARES = (0.10, 0.25, 0.50)
# Validation samples on which accuracies are compared.
SAMPLES = 256


def sensitivity(
    learner: Learner, archive: Archive, options: Prune, unpruned: nn.Sequential, workers: Workers
) -> Sensitivity:
    """Validation accuracy without 10, 25 and 50 % of each group's filters, nothing trained; computed once.

    The filters are those that the criterion removes first (for `history`, by similarity as they are), and
    they are merged as the options say, `refit` as `fold`.
    """

    def measure() -> Sensitivity:
        trace = Trace(unpruned, learner.samples.example)
        groups = eligible_groups(options, archive.info, trace)
        return _measured(learner, options, unpruned, trace, groups, workers)

    return made_once(archive.path(FILE), Sensitivity, measure)


def _measured(
    learner: Learner,
    options: Prune,
    network: nn.Sequential,
    trace: Trace,
    groups: Sequence[WidthGroup],
    workers: Workers,
) -> Sensitivity:
    count = min(SAMPLES, len(learner.samples.val))
    whole = _accuracies(learner, count, network)
    if not groups:
        # Only blocks can be removed.
        return Sensitivity(samples=count, **whole, groups=())
    ranks = rank_untrained(learner, options, network, trace, groups, ratio=max(SHARES))
    if ranks.readings is None and options.merge in BY_ACTIVATIONS:
        ranks = replace(ranks, readings=read_inputs(learner, network, ranks.groups))
    costs = WidthCosts(network, trace.example, ranks.groups)
    saved: list[float] = []

    def narrowed() -> Iterator[nn.Sequential]:
        for group in track(ranks.groups, "sensitivity"):
            for share in SHARES:
                removed = ranks.first({group.name: max(1, int(group.width * share))})
                counts = {name: len(ranking.order) for name, ranking in removed.items()}
                saved.append(1 - costs(counts)[1] / costs.flops)
                yield cut(learner, ranks, counts, options.merge)

    found = iter(workers.map(learner, _accuracies, [count], narrowed()))
    flops = iter(saved)
    shares = {
        group.name: tuple(GroupShare(share=share, **next(found), flops_saved=next(flops)) for share in SHARES)
        for group in ranks.groups
    }
    measured = (
        GroupSensitivity(group=group.name, width=group.channels, shares=shares[group.name])
        for group in ranks.groups
    )
    return Sensitivity(samples=count, **whole, groups=tuple(measured))


def _accuracies(learner: Learner, count: int, network: nn.Sequential) -> dict[str, float]:
    """Accuracies on so many validation samples."""
    samples = learner.samples
    rows = samples.val.rows[evenly(len(samples.val), count)]
    found = learner.evaluate(network, samples.dataset.take(rows, samples.preprocessing))
    return {"val_accuracy": found.accuracy, "val_balanced_accuracy": found.balanced_accuracy}
