"""How many filters each group loses in one iteration: pure functions."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tascnet.inherit.ranking import Ranking

# How finely the last step is fitted to its target.
_HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class IterationPlan:
    """What one iteration removes.

    Args:
        remove: by group, filters to remove; groups that keep all are left out.
        pending: by group, filters asked for and not removed yet.
        reason: why nothing can be removed; None where something is.
        has_landed: whether the plan is as small as a target allows.
    """

    remove: dict[str, int]
    pending: dict[str, int]
    reason: str | None = None
    has_landed: bool = False


def share_of(width: int, ratio: float) -> int:
    """A share of a width, rounded down."""
    # The product with a decimal fraction may be slightly less than a whole number.
    return int(width * ratio + 1e-9)


def removable(width: int, limit: int, round_to: int) -> int:
    """The most filters up to `limit` whose removal leaves a multiple of `round_to`; 0 where none do."""
    left = -(-max(width - limit, 1) // round_to) * round_to
    return max(width - left, 0)


def plan_step(width: int, pending: int, ratio: float, round_to: int, group_ratio: float) -> tuple[int, int]:
    """Filters to remove from one group in one step, and those that stay pending.

    Each step asks for `max(1, floor(width x ratio))` more. As many of the pending ones are removed as
    `group_ratio` allows and as leave a multiple of `round_to`. After a cut only those that rounding has held
    back stay pending.

    Args:
        pending: filters asked for by earlier steps and not removed.
        ratio: share of the group asked for in one step.
        round_to: the width left is a multiple of this.
        group_ratio: largest share of the group that one step removes; at most half where pairs are removed.
    """
    asked = pending + max(1, share_of(width, ratio))
    remove = removable(width, min(asked, share_of(width, group_ratio)), round_to)
    left = asked - remove
    return remove, min(left, round_to - 1) if remove else left


def plan_iteration(
    widths: Mapping[str, int], pending: Mapping[str, int], *, ratio: float, round_to: int, group_ratio: float
) -> IterationPlan:
    """What the next iteration removes from each group, all by the same share; see `plan_step`.

    As long as no group reaches a multiple, all ask again: the plan removes nothing only where no number of
    requests ever would. Groups that `pending` does not name have none.
    """
    waiting = {name: pending.get(name, 0) for name in widths}
    able = [n for n, width in widths.items() if removable(width, share_of(width, group_ratio), round_to)]
    if not able:
        reason = "no group of layers has enough filters to be pruned (`min_filters`)"
        if widths:
            reason = (
                f"no group can lose filters: a width of at most {max(widths.values())} that stays a multiple "
                f"of {round_to} (`round_to`) would need more than {group_ratio:.0%} of a group in one step "
                "(`max_pruning_ratio`)"
            )
        return IterationPlan(remove={}, pending=waiting, reason=reason)
    while True:
        steps = {n: plan_step(widths[n], waiting[n], ratio, round_to, group_ratio) for n in able}
        waiting |= {name: left for name, (_, left) in steps.items()}
        remove = {name: count for name, (count, _) in steps.items() if count}
        if remove:
            return IterationPlan(remove=remove, pending=waiting)


def allocate(
    rankings: Mapping[str, Ranking],
    widths: Mapping[str, int],
    count: int,
    *,
    round_to: int = 1,
    group_ratio: float = 0.5,
    worth: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """The cheapest `count` channels of all groups, as counts by group; groups that keep all are left out.

    Channels are removed in blocks that leave each width a multiple of `round_to`; the block of the lowest
    cost per channel, or per what it saves, comes first, within a group in the order of its ranking. The last
    block may exceed `count`.

    Args:
        rankings: by group; their costs compare between groups.
        count: channels to remove in all.
        round_to: the widths left are multiples of this.
        group_ratio: largest share of a group that is removed.
        worth: by group, what one channel saves; None: all alike.
    """
    # The price per saving must not change its sign.
    shift = min([0.0, *(ranking.costs[0] for ranking in rankings.values() if ranking.costs)])
    heap: list[tuple[float, str, int]] = []
    taken: dict[str, int] = {}

    def offer(name: str) -> None:
        ranking, width, done = rankings[name], widths[name], taken.get(name, 0)
        most = min(share_of(width, group_ratio), len(ranking.order))
        if done < removable(width, most, round_to):
            size = (width - done) % round_to or round_to
            price = sum(ranking.costs[done : done + size]) / size
            heapq.heappush(heap, ((price - shift) / (worth[name] if worth else 1.0), name, size))

    for name in rankings:
        offer(name)
    while heap and sum(taken.values()) < count:
        _, name, size = heapq.heappop(heap)
        taken[name] = taken.get(name, 0) + size
        offer(name)
    return taken


def landed(
    plan: Callable[[float], IterationPlan], ratio: float, reaches: Callable[[Mapping[str, int]], bool]
) -> IterationPlan:
    """The plan for `ratio`, or, where it `reaches` a target, the smallest one that does."""
    full = plan(ratio)
    if not full.remove or not reaches(full.remove):
        return full
    below, enough = 0.0, ratio
    for _ in range(_HALVINGS):
        middle = (below + enough) / 2
        if reaches(plan(middle).remove):
            enough = middle
        else:
            below = middle
    return replace(plan(enough), has_landed=True)
