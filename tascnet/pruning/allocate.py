"""How many units each group loses in one iteration: pure functions.

A unit is what can be removed at a time: one filter, or a whole group of a grouped convolution or a GroupNorm.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from tascnet.inherit.ranking import Ranking
from tascnet.surgery import WidthGroup

# How finely the last step is fitted to its target.
_HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class GroupSize:
    """How wide a group of layers is.

    Args:
        units: those that it has.
        bundle: filters in each.
        is_exact: whether removing a unit changes nothing but what is computed of it.
    """

    units: int
    bundle: int = 1
    is_exact: bool = True

    @classmethod
    def of(cls, group: WidthGroup) -> Self:
        return cls(units=group.width, bundle=group.bundle, is_exact=group.is_exact)

    @property
    def filters(self) -> int:
        return self.units * self.bundle

    def multiple(self, round_to: int) -> int:
        """Units of which multiples have filters in multiples of `round_to`."""
        return round_to // math.gcd(round_to, self.bundle)

    def most(self, group_ratio: float, round_to: int) -> int:
        """The most units that one step removes."""
        return removable(self.units, share_of(self.units, group_ratio), self.multiple(round_to))


@dataclass(frozen=True, kw_only=True)
class IterationPlan:
    """What one iteration removes.

    Args:
        remove: by group, units to remove; groups that keep all are left out.
        pending: by group, units asked for and not removed yet.
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
    """The most units up to `limit` whose removal leaves a multiple of `round_to`; 0 where none do."""
    left = -(-max(width - limit, 1) // round_to) * round_to
    return max(width - left, 0)


def plan_step(width: int, pending: int, ratio: float, round_to: int, group_ratio: float) -> tuple[int, int]:
    """Units to remove from one group in one step, and those that stay pending.

    Each step asks for `max(1, floor(width x ratio))` more. As many of the pending ones are removed as
    `group_ratio` allows and as leave a multiple of `round_to`. After a cut only those that rounding has held
    back stay pending.

    Args:
        pending: units asked for by earlier steps and not removed.
        ratio: share of the group asked for in one step.
        round_to: the width left is a multiple of this.
        group_ratio: largest share of the group that one step removes; at most half where pairs are removed.
    """
    asked = pending + max(1, share_of(width, ratio))
    remove = removable(width, min(asked, share_of(width, group_ratio)), round_to)
    left = asked - remove
    return remove, min(left, round_to - 1) if remove else left


def plan_iteration(
    sizes: Mapping[str, GroupSize],
    pending: Mapping[str, int],
    *,
    ratio: float,
    round_to: int,
    group_ratio: float,
) -> IterationPlan:
    """What the next iteration removes from each group, all by the same share; see `plan_step`.

    Groups that are not exact lose something only where the others lose as much as one step may take from
    them. As long as no group reaches a multiple, all ask again: the plan removes nothing only where no number
    of requests ever would. Groups that `pending` does not name have none.
    """
    waiting = {name: pending.get(name, 0) for name in sizes}
    most = {name: size.most(group_ratio, round_to) for name, size in sizes.items()}
    able = [name for name in sizes if most[name]]
    exact = [name for name in able if sizes[name].is_exact]
    if not able:
        reason = "no group of layers can be pruned"
        if sizes:
            widest = max(size.filters for size in sizes.values())
            reason = (
                f"no group can lose filters: a width of at most {widest} that stays a multiple of {round_to} "
                f"(`round_to`) would need more than {group_ratio:.0%} of a group in one step "
                "(`max_pruning_ratio`)"
            )
        return IterationPlan(remove={}, pending=waiting, reason=reason)

    def ask(names: Sequence[str]) -> dict[str, int]:
        remove: dict[str, int] = {}
        while names and not remove:
            for name in names:
                units, multiple = sizes[name].units, sizes[name].multiple(round_to)
                count, waiting[name] = plan_step(units, waiting[name], ratio, multiple, group_ratio)
                remove |= {name: count} if count else {}
        return remove

    remove = ask(exact)
    if all(remove.get(name) == most[name] for name in exact):
        remove |= ask([name for name in able if name not in exact])
    return IterationPlan(remove=remove, pending=waiting)


def allocate(
    rankings: Mapping[str, Ranking],
    sizes: Mapping[str, GroupSize],
    count: int,
    *,
    round_to: int = 1,
    group_ratio: float = 0.5,
    worth: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """The cheapest units of all groups that have `count` filters, as counts by group without zeros.

    Units are removed in blocks that leave each width a multiple of `round_to` filters; the block of the
    lowest cost for what it saves comes first, within a group in the order of its ranking. Groups that are not
    exact come after all others. The last block may exceed `count`.

    Args:
        rankings: by group; their costs compare between groups.
        count: filters to remove in all.
        round_to: the widths left are multiples of this.
        group_ratio: largest share of a group that is removed.
        worth: by group, what one unit saves; None: its filters.
    """
    # The price per saving must not change its sign.
    shift = min([0.0, *(ranking.costs[0] for ranking in rankings.values() if ranking.costs)])
    heap: list[tuple[bool, float, str, int]] = []
    taken: dict[str, int] = {}

    def offer(name: str) -> None:
        ranking, size, done = rankings[name], sizes[name], taken.get(name, 0)
        multiple = size.multiple(round_to)
        if done < removable(size.units, min(share_of(size.units, group_ratio), len(ranking.order)), multiple):
            block = (size.units - done) % multiple or multiple
            price = sum(ranking.costs[done : done + block]) / block
            saved = worth[name] if worth else size.bundle
            heapq.heappush(heap, (not size.is_exact, (price - shift) / saved, name, block))

    for name in rankings:
        offer(name)
    while heap and sum(units * sizes[name].bundle for name, units in taken.items()) < count:
        *_, name, block = heapq.heappop(heap)
        taken[name] = taken.get(name, 0) + block
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
