"""Quasi-random or random configurations that keep the bounds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from tascnet.errors import ConfigError
from tascnet.tuning.goal import Goal
from tascnet.tuning.space import Configuration, Key, Space

# If this many draws hold too few feasible configurations, this many of the cheapest are made cheaper.
_DRAWS = 512
_DESCENTS = 4


def draw(
    space: Space,
    goal: Goal,
    n: int,
    k: int,
    seed: int,
    *,
    exclude: Iterable[Mapping[str, Any]] = (),
    method: Literal["sobol", "random"] = "sobol",
) -> list[Configuration]:
    """Up to `n` different feasible configurations of depth `k` that are not in `exclude`.

    They are the first ones of `space.sample`. If it has too few within the bounds, the rest are reached from
    its cheapest ones by steps to ever cheaper neighbours, and by steps around those. A smaller `n` yields a
    prefix.
    """
    seen = {space.key(config) for config in exclude}
    limit = len(seen) + (max(n, _DRAWS) if goal.bounds or goal.objective == "pareto" else n)
    size = min(len(seen) + 4 * n, limit)
    while True:
        drawn = space.sample(size, k, seed, method=method)
        fresh = (c for c in drawn if space.key(c) not in seen and goal.is_feasible(c))
        found = list(islice(fresh, n))
        if len(found) == n or size >= limit or len(drawn) < size:
            break
        size = min(4 * size, limit)
    if len(found) < n and len(drawn) == size:
        seen |= {space.key(config) for config in found}
        found += islice(_descend(space, goal, k, drawn, seen), n - len(found))
    return found


def refuse_infeasible(space: Space, goal: Goal) -> None:
    """Raise a ConfigError if no configuration of any depth is found that keeps the bounds."""
    depths = range(space.depth + 1)
    if any(draw(space, goal, 1, k, 0) for k in depths):
        return
    lowest = [low for k in depths for low in _lowest_of(space, goal, k, space.sample(_DRAWS, k, 0))]
    costs = [cost for config in lowest if (cost := goal.costs(config)) is not None]
    if not costs:
        raise ConfigError("no network of the search space can be built")
    lows = {name: min(getattr(cost, name) for cost in costs) for name in goal.bounds}
    seen = [f"{name} {bound}, {lows[name]}" for name, bound in goal.bounds.items()]
    raise ConfigError(
        f"no configuration within the bounds was found (bound and smallest cost seen: {'; '.join(seen)})",
        "raise the bound, or widen the space",
    )


def _lowest_of(space: Space, goal: Goal, k: int, drawn: Sequence[Configuration]) -> Iterator[Configuration]:
    """The ends of descents from the cheapest of `drawn`."""
    return (_lowest(space, goal, k, config) for config in sorted(drawn, key=goal.excess)[:_DESCENTS])


def _descend(
    space: Space, goal: Goal, k: int, drawn: Sequence[Configuration], seen: set[Key]
) -> Iterator[Configuration]:
    """Feasible configurations at the ends of descents, and around them."""
    ends = {space.key(config): config for config in _lowest_of(space, goal, k, drawn)}
    queue = [config for config in ends.values() if goal.is_feasible(config)]
    met = set(ends)
    for origin in queue:
        if space.key(origin) not in seen:
            yield origin
        for near in space.neighbours(origin, k):
            if space.key(near) not in met and goal.is_feasible(near):
                met.add(space.key(near))
                queue.append(near)


def _lowest(space: Space, goal: Goal, k: int, config: Configuration) -> Configuration:
    """Step to the cheapest neighbour while it is cheaper."""
    while True:
        inside = [near for near in space.neighbours(config, k) if space.holds(near, k)]
        lower = min(inside, key=goal.excess, default=config)
        if goal.excess(lower) >= goal.excess(config):
            return config
        config = lower
