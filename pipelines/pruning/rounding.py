"""Which multiples of widths a device runs fastest."""

import copy
import logging

from torch import nn

from tascnet.measure import compare_latency
from tascnet.pruning import WidthCosts, removable
from tascnet.run.files import read_json, write_json
from tascnet.surgery import WidthGroup, narrow

from .amounts import may_remove
from .stage import PruneStage, eligible_groups

log = logging.getLogger("tascnet")

MULTIPLES = (1, 2, 4, 8, 16, 32)
# Share of each group that goes from the networks that are timed, before rounding.
SHARE = 0.3
# So finely shares are fitted, so that all networks have about the same FLOPs.
HALVINGS = 12
# Multiples that save this much less time for each FLOP than the best are as good: the finest is taken.
SLACK = 0.05
REPEATS, SECONDS = 30, 20.0


def rounding(stage: PruneStage) -> int:
    """`prune.round_to`, or what is measured for it, once for a folder: a resumed stage goes on alike."""
    wanted = stage.config.prune.round_to
    if wanted != "auto":
        return int(wanted)
    known = stage.state("round_to.json")
    if not known.exists():
        write_json(known, _measured(stage))
    return int(read_json(known)["round_to"])


def _measured(stage: PruneStage) -> dict[str, object]:
    """Milliseconds saved for each GFLOP saved by narrowing to different multiples, timed side by side.

    All networks have about the FLOPs that they have without rounding: else the coarsest multiple, which
    leaves most, would look fastest wherever the time is not that of the FLOPs.
    """
    groups = eligible_groups(stage, stage.before)
    costs = WidthCosts(stage.before, stage.session.example, [group.name for group in groups])
    goal = costs(_counts(groups, SHARE, 1))[1]
    networks, saved = {"whole": stage.before}, {}
    widths = {group.name: group.width for group in groups}
    # A multiple under which no step could take a filter is of no use, however fast.
    for multiple in (m for m in MULTIPLES if may_remove(stage, widths, m) is None):
        counts = _nearest(groups, multiple, costs, goal)
        if any(counts.values()):
            networks[str(multiple)] = _narrowed(stage, groups, counts)
            saved[multiple] = (costs.flops - costs(counts)[1]) / 1e9
    if not saved:
        return {"round_to": 1, "saved_ms_per_gflop": {}}
    timed = compare_latency(networks, stage.session.example, repeats=REPEATS, max_seconds=SECONDS)
    whole = timed["whole"].median_ms
    gains = {m: (whole - timed[str(m)].median_ms) / gflops for m, gflops in saved.items()}
    best = max(gains.values())
    # Where narrowing saves no time at all, none is better than any other.
    chosen = min(m for m, gain in gains.items() if gain >= best * (1 - SLACK)) if best > 0 else 1
    log.info(
        "prune.round_to=auto: %s ms saved for each GFLOP with multiples of %s; widths become multiples of %d",
        ", ".join(f"{gain:.3g}" for gain in gains.values()),
        ", ".join(map(str, gains)),
        chosen,
    )
    return {"round_to": chosen, "saved_ms_per_gflop": {str(m): gain for m, gain in gains.items()}}


def _counts(groups: list[WidthGroup], share: float, multiple: int) -> dict[str, int]:
    """Filters that go from each group, its width left a multiple."""
    return {g.name: removable(g.width, int(g.width * share), multiple, 1) for g in groups}


def _nearest(groups: list[WidthGroup], multiple: int, costs: WidthCosts, goal: float) -> dict[str, int]:
    """The cut to a multiple whose FLOPs are nearest to a goal."""
    low, high = 0.0, 1.0
    tried = [_counts(groups, SHARE, multiple)]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried.append(_counts(groups, middle, multiple))
        low, high = (low, middle) if costs(tried[-1])[1] <= goal else (middle, high)
    return min(tried, key=lambda counts: abs(costs(counts)[1] - goal))


def _narrowed(stage: PruneStage, groups: list[WidthGroup], counts: dict[str, int]) -> nn.Sequential:
    network = copy.deepcopy(stage.before)
    keep = {group.name: list(range(group.width - counts[group.name])) for group in groups}
    narrow(network, stage.session.example, keep)
    return stage.session.place(network)
