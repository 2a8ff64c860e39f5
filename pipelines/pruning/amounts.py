"""How many filters of each group one iteration takes."""

from collections.abc import Mapping
from functools import partial

from tascnet.pruning import IterationPlan, Limits, WidthCosts, allocate, landed, plan_iteration

from .journal import Row, lands
from .ranks import Ranks
from .stage import PruneStage

# Bytes of a parameter in a saved model.
FLOAT_BYTES = 4


def may_remove(stage: PruneStage, widths: Mapping[str, int], round_to: int) -> str | None:
    """Why no group can give up a filter; None where one can. Nothing needs to be trained to know it."""
    return _by_group(widths, {}, _limits(stage, round_to), stage.config.prune.percent).reason


def cost_model(stage: PruneStage, ranks: Ranks) -> WidthCosts:
    """What the network costs without some of the channels of its groups."""
    return WidthCosts(ranks.network, stage.session.example, [group.name for group in ranks.groups])


def plan_amounts(
    stage: PruneStage,
    ranks: Ranks,
    costs: WidthCosts,
    rows: list[Row],
    start: int,
    step: float,
    round_to: int,
) -> IterationPlan:
    """Filters that go from each group, so many that the goals are reached and not passed.

    Args:
        stage: what the steps share.
        ranks: in which order they go.
        costs: what `cost_model` gave for them.
        rows: of the journal.
        start: of these, the one whose network is pruned.
        step: share of the full percent.
        round_to: widths left are multiples of it.
    """
    limits = _limits(stage, round_to)
    widths = {group.name: group.width for group in ranks.groups}
    percent = stage.config.prune.percent * step
    if stage.config.prune.scope == "group":
        plan = partial(_by_group, widths, rows[start]["pending"], limits)
    else:
        plan = partial(_over_all, stage, ranks, widths, limits, costs)
    return landed(plan, percent, partial(_reaches, stage, costs, rows[0], rows[start]))


def _limits(stage: PruneStage, round_to: int) -> Limits:
    options = stage.config.prune
    return Limits(round_to=round_to, max_step=options.max_step, min_width=options.min_width)


def _by_group(
    widths: Mapping[str, int], pending: Mapping[str, int], limits: Limits, percent: float
) -> IterationPlan:
    return plan_iteration(
        widths,
        pending,
        percent=percent,
        round_to=limits.round_to,
        max_step=limits.max_step,
        min_width=limits.min_width,
    )


def _over_all(
    stage: PruneStage,
    ranks: Ranks,
    widths: Mapping[str, int],
    limits: Limits,
    costs: WidthCosts,
    percent: float,
) -> IterationPlan:
    """The cheapest filters of all groups, weighed against what they save where `prune.per` says so."""
    per = stage.config.prune.per
    worth = None
    if per != "filters":
        saved = {name: costs.saved(name) for name in widths}
        worth = {name: float(flops if per == "flops" else params) for name, (params, flops) in saved.items()}
    count = max(1, int(sum(widths.values()) * percent / 100))
    return IterationPlan(remove=allocate(ranks.rankings, widths, count, limits, worth), pending={})


def reaches_goal(stage: PruneStage, first: Row, now: Row, params: int, flops: float) -> bool:
    """Whether a network that is cut from that of row `now` reaches a goal that the last step is fitted to."""
    size = now["size_bytes"] - FLOAT_BYTES * (now["params"] - params)
    return lands({"flops": flops, "params": params, "size_bytes": size}, first, stage.config.prune)


def _reaches(stage: PruneStage, costs: WidthCosts, first: Row, now: Row, removed: Mapping[str, int]) -> bool:
    """Whether a goal is reached once so many filters are gone."""
    return reaches_goal(stage, first, now, *costs(removed))
