"""Which multiples of widths a device runs fastest."""

import copy
import logging
from collections.abc import Sequence
from typing import cast

from torch import nn

from tascnet.measure import Clock, WidthCosts
from tascnet.options import Prune
from tascnet.pruning.allocate import plan_iteration, removable
from tascnet.pruning.check import eligible_groups
from tascnet.pruning.ranks import sizes_of
from tascnet.run.records import measured_once
from tascnet.surgery import Trace, WidthGroup, narrow
from tascnet.train import Archive, Learner

log = logging.getLogger("tascnet")

MULTIPLES = (1, 2, 4, 8, 16, 32)
# Share of each group that is removed from the networks that are timed, before rounding.
SHARE = 0.3
# Bisections of the share at which a rounded network has the same FLOPs.
HALVINGS = 12
# Multiples that save up to this share less time for each FLOP than the best are as good: the finest is taken.
SLACK = 0.05
REPEATS, SECONDS = 30, 20.0


def rounding(
    learner: Learner, archive: Archive, options: Prune, unpruned: nn.Sequential, clock: Clock
) -> int:
    """`round_to`, or what is measured for it once for a run."""
    if options.round_to != "auto":
        return int(options.round_to)

    def measure() -> dict[str, object]:
        trace = Trace(unpruned, learner.samples.example)
        groups = eligible_groups(options, archive.info, trace)
        return _measured(learner, options, unpruned, trace, groups, clock)

    return int(cast(int, measured_once(archive.path("round_to.json"), measure)["round_to"]))


def _measured(
    learner: Learner,
    options: Prune,
    network: nn.Sequential,
    trace: Trace,
    groups: Sequence[WidthGroup],
    clock: Clock,
) -> dict[str, object]:
    """Milliseconds saved for each GFLOP saved by narrowing to different multiples.

    All networks have about the FLOPs that they have without rounding: otherwise the coarsest multiple, which
    removes least, would look fastest.
    """
    costs = WidthCosts(network, trace.example, groups)
    target = costs(_counts(groups, SHARE, 1))[1]
    networks, saved = {"whole": network}, {}
    sizes = sizes_of(groups)
    for multiple in MULTIPLES:
        # A multiple at which no step can remove a filter is useless, however fast.
        first = plan_iteration(
            sizes, {}, ratio=options.ratio, round_to=multiple, group_ratio=options.group_ratio
        )
        if not first.remove:
            continue
        low, high = 0.0, 1.0
        tried = [_counts(groups, SHARE, multiple)]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            tried.append(_counts(groups, middle, multiple))
            low, high = (low, middle) if costs(tried[-1])[1] <= target else (middle, high)
        counts = min(tried, key=lambda counts: abs(costs(counts)[1] - target))
        if any(counts.values()):
            narrowed = copy.deepcopy(network)
            narrow(narrowed, trace, {g.name: list(range(g.width - counts[g.name])) for g in groups})
            networks[str(multiple)] = learner.place(narrowed)
            saved[multiple] = (costs.flops - costs(counts)[1]) / 1e9
    if not saved:
        return {"round_to": 1, "saved_ms_per_gflop": {}}
    timed = clock.times(networks, repeats=REPEATS, max_seconds=SECONDS)
    gains = {m: (timed["whole"] - timed[str(m)]) / gflops for m, gflops in saved.items()}
    best = max(gains.values())
    # Where narrowing saves no time, no multiple is better than another.
    chosen = min(m for m, gain in gains.items() if gain >= best * (1 - SLACK)) if best > 0 else 1
    log.info(
        "`round_to=auto`: widths become multiples of %d; ms saved in %s for each GFLOP by multiple: %s",
        *(chosen, clock.name),
        ", ".join(f"{multiple}: {gain:.3g}" for multiple, gain in gains.items()),
    )
    return {"round_to": chosen, "saved_ms_per_gflop": {str(m): gain for m, gain in gains.items()}}


def _counts(groups: Sequence[WidthGroup], share: float, multiple: int) -> dict[str, int]:
    """Units to remove from each group, the filters left a multiple."""
    return {
        name: removable(size.units, int(size.units * share), size.multiple(multiple))
        for name, size in sizes_of(groups).items()
    }
