"""How many filters each group loses in one iteration: pure functions."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tascnet.inherit.ranking import Ranking

# How finely the last step is fitted to its target.
_HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class IterationPlan:
    """What one iteration does to all groups.

    Args:
        remove: by group, filters to remove; groups that keep all are left out. Empty: nothing can be removed.
        pending: by group, filters asked for that wait.
        reason: why nothing can be removed; None where something is.
        has_landed: whether the plan is as small as a target allows.
    """

    remove: dict[str, int]
    pending: dict[str, int]
    reason: str | None = None
    has_landed: bool = False


def share_of(width: int, ratio: float) -> int:
    """A share of a width, rounded down."""
    # The product of a decimal fraction may fall a hair short of a whole number.
    return int(width * ratio + 1e-9)


def removable(width: int, limit: int, round_to: int) -> int:
    """The most filters up to `limit` whose removal leaves a multiple of `round_to`; 0 where none do."""
    left = -(-max(width - limit, 1) // round_to) * round_to
    return max(width - left, 0)


def plan_step(width: int, pending: int, ratio: float, round_to: int, group_ratio: float) -> tuple[int, int]:
    """Filters to remove from one group in one step, and those asked for that wait for a later one.

    The request of `max(1, floor(width x ratio))` is added to those that wait; they are met as far as
    `group_ratio` allows and the width left is a multiple of `round_to`. After a cut only what rounding has
    held back waits.

    Args:
        width: filters of the group now.
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
    """What the next iteration removes from each group, all of them by the same share.

    As long as no group reaches a multiple, all ask again: an iteration of training that removes nothing
    would be lost.

    Args:
        widths: by group, filters now.
        pending: by group, filters that wait; groups not named have none.
        ratio: see `plan_step`, as the other options.

    Returns:
        A plan that removes nothing only where no number of requests ever would.
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
    """The cheapest `count` channels of all groups, as counts by group.

    Channels are removed in blocks that leave each width a multiple of `round_to`; the block of the lowest
    cost per channel, or per what it saves, comes first, within a group in the order of its ranking. The last
    block may go beyond `count`.

    Args:
        rankings: by group; their costs compare between groups.
        widths: by group, channels now.
        count: channels to remove in all.
        round_to: the widths left are multiples of this.
        group_ratio: largest share of a group that is removed.
        worth: by group, what one channel saves; None: all alike.

    Returns:
        By group, how many channels to remove; groups that keep all are left out.
    """
    # A price per saving must not turn its sign.
    shift = min([0.0, *(ranking.costs[0] for ranking in rankings.values() if ranking.costs)])
    blocks = {
        name: _blocks(ranking, widths[name], share_of(widths[name], group_ratio), round_to)
        for name, ranking in rankings.items()
    }
    heap: list[tuple[float, str, int]] = []

    def offer(name: str) -> None:
        block = next(blocks[name], None)
        if block is not None:
            price, size = block
            heapq.heappush(heap, ((price - shift) / (worth[name] if worth else 1.0), name, size))

    for name in rankings:
        offer(name)
    taken: dict[str, int] = {}
    while heap and sum(taken.values()) < count:
        _, name, size = heapq.heappop(heap)
        taken[name] = taken.get(name, 0) + size
        offer(name)
    return taken


def _blocks(ranking: Ranking, width: int, limit: int, round_to: int) -> Iterator[tuple[float, int]]:
    """Mean cost and size of each block of channels that a group can lose, in order."""
    most, done = removable(width, min(limit, len(ranking.order)), round_to), 0
    while done < most:
        size = (width - done) % round_to or round_to
        yield sum(ranking.costs[done : done + size]) / size, size
        done += size


def landed(
    plan: Callable[[float], IterationPlan], ratio: float, reaches: Callable[[Mapping[str, int]], bool]
) -> IterationPlan:
    """The plan for `ratio`, or the smallest one that reaches a target where that one goes beyond it.

    Args:
        plan: what is removed for a ratio.
        ratio: of the full step.
        reaches: whether a target is reached once these counts by group are removed.
    """
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
