"""Which multiples of widths a device runs fastest."""

import copy
import logging

from torch import nn

from tascnet.files import read_json, write_json
from tascnet.measure import compare_latency
from tascnet.models.surgery import WidthGroup, narrow
from tascnet.prune import WidthCosts, removable

from .stage import PruneStage, eligible_groups

__all__ = ["rounding"]

log = logging.getLogger("tascnet")

MULTIPLES = (1, 2, 4, 8, 16, 32)
# Share of each group that goes from the networks that are timed.
SHARE = 0.3
# Multiples this much slower for each FLOP than the fastest are as good: the finest of them is taken.
SLACK = 0.03
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
    """Milliseconds for each GFLOP of networks narrowed to different multiples, timed side by side."""
    groups = eligible_groups(stage, stage.before)
    costs = WidthCosts(stage.before, stage.session.example, [group.name for group in groups])
    networks, flops = {}, {}
    for multiple in MULTIPLES:
        counts = {g.name: removable(g.width, int(g.width * SHARE), multiple, 1) for g in groups}
        if any(counts.values()):
            networks[multiple] = _narrowed(stage, groups, counts)
            flops[multiple] = costs(counts)[1]
    names = {str(multiple): network for multiple, network in networks.items()}
    timed = compare_latency(names, stage.session.example, repeats=REPEATS, max_seconds=SECONDS)
    paces = {m: timed[str(m)].median_ms / flops[m] * 1e9 for m in networks}
    best = min(paces.values(), default=0.0)
    chosen = min((m for m, pace in paces.items() if pace <= best * (1 + SLACK)), default=1)
    log.info(
        "prune.round_to=auto: %s ms for each GFLOP with multiples of %s; widths become multiples of %d",
        ", ".join(f"{pace:.3g}" for pace in paces.values()),
        ", ".join(map(str, paces)),
        chosen,
    )
    return {"round_to": chosen, "ms_per_gflop": {str(m): pace for m, pace in paces.items()}}


def _narrowed(stage: PruneStage, groups: list[WidthGroup], counts: dict[str, int]) -> nn.Sequential:
    network = copy.deepcopy(stage.before)
    keep = {group.name: list(range(group.width - counts[group.name])) for group in groups}
    narrow(network, stage.session.example, keep)
    return stage.session.place(network)
