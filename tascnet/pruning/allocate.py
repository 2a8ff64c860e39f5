"""How many channels each group gives up, when all groups compete."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tascnet.inherit.ranking import Ranking
from tascnet.pruning.schedule import removable


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What holds for every group.

    Args:
        round_to: the width left is a multiple of this.
        max_step: largest share of a group that one iteration takes.
        min_width: no group is left smaller.
    """

    round_to: int = 1
    max_step: float = 0.5
    min_width: int = 1

    def most(self, width: int) -> int:
        """The most channels that one iteration may take of a group, rounding left aside."""
        # The product of a decimal fraction may fall a hair short of a whole number.
        return int(width * self.max_step + 1e-9)


def allocate(
    rankings: Mapping[str, Ranking],
    widths: Mapping[str, int],
    count: int,
    limits: Limits,
    worth: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """The cheapest `count` channels of all groups, as counts by group.

    Channels go in blocks that leave each width a multiple of `round_to`; the block of the lowest cost per
    channel, or per what it saves, goes first, within a group in the order of its ranking. The last block
    may go beyond `count`.

    Args:
        rankings: by group; their costs compare between groups.
        widths: by group, channels now.
        count: channels to remove in all.
        limits: of each group.
        worth: by group, what one channel saves; None: all alike.

    Returns:
        By group, how many channels go; groups that lose none are left out.
    """
    # A price per saving must not turn its sign.
    lowest = min((ranking.costs[0] for ranking in rankings.values() if ranking.costs), default=0.0)
    shift = min(lowest, 0.0)
    blocks = {name: _blocks(ranking, widths[name], limits) for name, ranking in rankings.items()}
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


def _blocks(ranking: Ranking, width: int, limits: Limits) -> Iterator[tuple[float, int]]:
    """Mean cost and size of each block of channels that a group may give up, in order."""
    most = removable(width, min(limits.most(width), len(ranking.order)), limits.round_to, limits.min_width)
    done = 0
    while done < most:
        size = (width - done) % limits.round_to or limits.round_to
        yield sum(ranking.costs[done : done + size]) / size, size
        done += size
