"""The best configuration by an acquisition function, found by discrete climbs from many starts."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

from tascnet.tuning.space import EXIT, FIRST_TRAINED, Configuration, Key, Space, Value

# The number of climbs, and of the steps of each.
STARTS = 8
STEPS = 30
# Single steps from the best point found are combined in pairs if there are no more than these.
PAIRED = 60


class Values:
    """Values of canonical configurations, computed in batches and each once."""

    def __init__(self, value: Callable[[list[Configuration]], list[float]]) -> None:
        self._value = value
        self._computed: dict[Key, float] = {}

    def __call__(self, configs: Sequence[Configuration]) -> list[float]:
        """The values of canonical configurations; those that are not finite are the worst."""
        new = {key: c for c in configs if (key := tuple(c.values())) not in self._computed}
        if new:
            values = self._value(list(new.values()))
            clean = [value if math.isfinite(value) else -math.inf for value in values]
            self._computed |= dict(zip(new, clean, strict=True))
        return [self._computed[tuple(c.values())] for c in configs]


def climb(
    space: Space,
    k: int,
    values: Values,
    pool: Sequence[Configuration],
    is_allowed: Callable[[Configuration], bool],
) -> Configuration | None:
    """The best allowed configuration of depth `k` found from the best of `pool`; None: none is allowed.

    A step goes to the best configuration that differs in one choice, by any value; when all climbs have
    ended, pairs of single steps from the best point are tried, too. `is_allowed` is called on the best
    configurations first, and on no more than needed.

    Args:
        space: the search space.
        k: depth.
        values: larger is better.
        pool: where climbs may start; canonical, of any depth.
        is_allowed: whether a configuration may be a result or a step.
    """

    def allowed(config: Configuration) -> bool:
        return space.holds(config, k) and is_allowed(config)

    front = list(islice(filter(allowed, _ranked(values, pool)), STARTS))
    if not front:
        return None
    for _ in range(STEPS):
        around = [_lines(space, k, config) for config in front]
        values([near for configs in around for near in configs])
        moved = [_step(values, c, near, allowed) for c, near in zip(front, around, strict=True)]
        if moved == front:
            best = _ranked(values, front)[0]
            better = _step(values, best, _pairs(space, k, best), allowed)
            if better == best:
                break
            moved = [better]
        front = list({tuple(c.values()): c for c in moved}.values())
    return _ranked(values, front)[0]


def _ranked(values: Values, configs: Sequence[Configuration]) -> list[Configuration]:
    """Best first, the earlier of equals first."""
    value = values(configs)
    return [configs[i] for i in sorted(range(len(configs)), key=lambda i: -value[i])]


def _step(
    values: Values,
    origin: Configuration,
    near: Sequence[Configuration],
    allowed: Callable[[Configuration], bool],
) -> Configuration:
    """The best allowed configuration that is better than `origin`, else `origin`."""
    here = values([origin])[0]
    better = [c for c, value in zip(near, values(near), strict=True) if value > here]
    return next(filter(allowed, _ranked(values, better)), origin)


def _lines(space: Space, k: int, config: Configuration) -> list[Configuration]:
    """The configurations that differ in one choice, by any value, in the first trained unit or the exit."""
    exit = space.exit_of(config)
    steps: list[tuple[str, Value]] = [
        (FIRST_TRAINED, f) for f in space.firsts(k, exit) if f != config[FIRST_TRAINED]
    ]
    steps += [(EXIT, e) for e in space.exits_to(k) if e != exit]
    steps += [(c.name, v) for c in space.active(config) for v in c.values if v != config[c.name]]
    # Changing a choice on which no other depends keeps a configuration canonical, and `canonical` is slow.
    changed = (({**config, name: value}, name) for name, value in steps)
    return [space.canonical(near) if name in space.deciding else near for near, name in changed]


def _pairs(space: Space, k: int, config: Configuration) -> list[Configuration]:
    """The configurations that are two single steps away; none if there are too many."""
    near = space.neighbours(config, k)
    if len(near) > PAIRED:
        return []
    return [far for one in near for far in space.neighbours(one, k)]
