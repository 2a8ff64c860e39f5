"""Which widths lose least at a latency: an integer program over the times of the network's layers.

Each group takes one of a few widths. What a width loses is the sum of the costs in the group's ranking. The
time of a layer depends on the groups that decide its inputs and its outputs. Of one or two groups it is exact
at every pair of widths (a pair is a variable that its two widths bound); for more it is the sum of what each
saves alone.

Source: Shen et al. 2022, Structural pruning via latency-saliency knapsack (HALP), which takes a knapsack; an
    integer program that holds pairs of widths is that of Sun et al. 2025, MDP.
"""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tascnet.exporting.layers import Layer
from tascnet.inherit.ranking import Ranking
from tascnet.measure import Clock, WidthCosts, WidthTimes
from tascnet.options import Prune
from tascnet.pruning.allocate import GroupSize, IterationPlan, removable, share_of
from tascnet.pruning.ranks import Ranks
from tascnet.run.records import measured_once
from tascnet.surgery import narrow

log = logging.getLogger("tascnet")

# Widths of a group among which the program chooses.
LEVELS = 8
# A plan that reaches a target aims so much below it, and is measured as a whole this often at most.
MARGIN, CHECKS = 0.01, 4
# Relative gap at which the best plan is near enough, and seconds after which the best found one is taken.
GAP, SECONDS = 1e-3, 20.0
# Programs that are solved until their plan takes the time asked for.
ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """Widths that lose least at a latency.

    Args:
        remove: by group, units to remove; groups that keep all are left out.
        milliseconds: that are predicted.
        loss: that the ranking predicts.
    """

    remove: dict[str, int]
    milliseconds: float
    loss: float


def plan_latency(
    rankings: Mapping[str, Ranking],
    sizes: Mapping[str, GroupSize],
    times: WidthTimes,
    most_ms: float,
    *,
    round_to: int = 1,
    group_ratio: float = 0.5,
) -> LatencyPlan:
    """The widths of least predicted loss that take at most `most_ms`, or the fastest where none do.

    Groups that are not exact keep their widths unless the others cannot reach the time.

    Args:
        rankings: by group; their costs compare between groups.
        times: milliseconds as a function of widths.
        round_to: the widths left are multiples of this.
        group_ratio: largest share of a group that is removed.
    """
    every = {name: levels(rankings[name], sizes[name], round_to, group_ratio) for name in rankings}
    exact = {name: counts if sizes[name].is_exact else [0] for name, counts in every.items()}
    program = _Program(rankings, exact, times)
    if exact != every and program.least_ms() > most_ms:
        program = _Program(rankings, every, times)
    aim_ms = most_ms
    for _ in range(ATTEMPTS):
        remove = program.solve(aim_ms)
        milliseconds = times(remove)
        if milliseconds <= most_ms:
            break
        # Times of layers that more than two groups decide are not exact in the program.
        aim_ms -= milliseconds - most_ms
    loss = sum(sum(rankings[name].costs[:count]) for name, count in remove.items())
    return LatencyPlan(remove=remove, milliseconds=milliseconds, loss=loss)


def latency_removal(
    options: Prune,
    ranks: Ranks,
    costs: WidthCosts,
    clock: Clock,
    path: Path,
    ratio: float,
    round_to: int,
) -> IterationPlan:
    """What an iteration removes to save the share `ratio` of the time, no more than the latency target needs.

    The cut that reaches the target is measured as a whole, and planned again where the prediction was wrong.

    Args:
        costs: of the network of `ranks`.
        path: of a file that keeps the plan, so that a resumed run has the same one.
        round_to: widths left are multiples of this.
    """

    def decide() -> dict[str, Any]:
        times = clock.width_times(ranks.network, costs)
        now = times({})
        goal = latency_goal(options, clock.reference_ms)
        step = now * (1 - ratio)
        plan = partial(
            plan_latency,
            ranks.rankings,
            ranks.sizes,
            times,
            round_to=round_to,
            group_ratio=options.group_ratio,
        )
        if goal is None or step > goal:
            return {"remove": plan(step).remove, "has_landed": False}
        # However wrong the prediction is, something has to go.
        aim = min(goal * (1 - MARGIN), now * (1 - MARGIN))
        found: dict[float, dict[str, int]] = {}
        for _ in range(CHECKS):
            planned = plan(aim)
            if planned.remove in found.values():
                break
            network = copy.deepcopy(ranks.network)
            narrow(network, ranks.trace, ranks.kept(planned.remove))
            measured = clock.exact(network)
            # Of another machine's table both are predictions.
            level = logging.DEBUG if clock.is_foreign else logging.INFO
            log.log(
                level,
                "widths for %.3g ms in %s: %.3g ms predicted, %.3g ms measured (%+.0f %%)",
                *(goal, clock.name, planned.milliseconds, measured),
                100 * (planned.milliseconds / measured - 1),
            )
            found[measured] = planned.remove
            if goal * (1 - 3 * MARGIN) <= measured <= goal:
                break
            aim *= goal * (1 - MARGIN) / measured
        # The slowest of those that are fast enough, or else the fastest.
        enough = [measured for measured in found if measured <= goal]
        return {"remove": found[max(enough) if enough else min(found)], "has_landed": True}

    kept = measured_once(path, decide)
    remove = {name: int(count) for name, count in kept["remove"].items()}
    reason = None if remove else "no width that the options allow is faster"
    return IterationPlan(remove=remove, pending={}, reason=reason, has_landed=bool(kept["has_landed"]))


def latency_goal(options: Prune, reference_ms: float) -> float | None:
    """The latency at which a target is reached, in milliseconds; None without one."""
    share, most = options.latency_target, options.latency_target_ms
    goals = [most] if most is not None else []
    goals += [share * reference_ms] if share is not None else []
    return max(goals, default=None)


def levels(ranking: Ranking, size: GroupSize, round_to: int, group_ratio: float) -> list[int]:
    """Numbers of units that may be removed from a group: none, and at most `LEVELS - 1` others."""
    multiple = size.multiple(round_to)
    limit = min(share_of(size.units, group_ratio), len(ranking.order), size.units - 1)
    most = removable(size.units, limit, multiple)
    first = size.units % multiple or multiple
    counts = [0, *range(first, most + 1, multiple)]
    if len(counts) <= LEVELS:
        return counts
    return [counts[round(at)] for at in np.linspace(0, len(counts) - 1, LEVELS)]


class _Program:
    """The integer program of a network; `counts`: by group, the numbers of units that may be removed."""

    def __init__(
        self, rankings: Mapping[str, Ranking], counts: Mapping[str, Sequence[int]], times: WidthTimes
    ) -> None:
        self._counts, self._at, at = counts, {}, 0
        for name, own in counts.items():
            self._at[name], at = at, at + len(own)
        self._widths = at
        self._loss, self._ms, self._constant_ms = [0.0] * at, [0.0] * at, 0.0
        # Rows of equations: columns, coefficients and right side.
        self._rows: list[tuple[list[int], list[float], float]] = []
        # The price of a unit must not change its sign.
        shift = min([0.0, *(ranking.costs[0] for ranking in rankings.values() if ranking.costs)])
        for name, own in counts.items():
            self._rows.append((self._columns(name), [1.0] * len(own), 1.0))
            cumulative = np.cumsum([0.0, *(cost - shift for cost in rankings[name].costs)])
            for column, count in zip(self._columns(name), own, strict=True):
                self._loss[column] = float(cumulative[count])
        for groups, layers in times.by_groups().items():
            able = tuple(name for name in groups if len(counts.get(name, ())) > 1)
            if len(able) == 2:
                self._add_pair((able[0], able[1]), layers, times)
                continue
            whole = times.of(layers, {})
            self._constant_ms += whole
            for name in able:
                for column, count in zip(self._columns(name), counts[name], strict=True):
                    self._ms[column] += times.of(layers, {name: count}) - whole

    def _columns(self, name: str) -> list[int]:
        return list(range(self._at[name], self._at[name] + len(self._counts[name])))

    def _add_pair(
        self, names: tuple[str, str], layers: Sequence[tuple[str, Layer]], times: WidthTimes
    ) -> None:
        """Add layers whose times two groups decide: one variable for each pair of their widths."""
        one, other = names
        first, start = self._counts[one], len(self._ms)
        second = self._counts[other]
        for a, b in itertools.product(first, second):
            self._ms.append(times.of(layers, {one: a, other: b}))
            self._loss.append(0.0)
        pairs = np.arange(start, len(self._ms)).reshape(len(first), len(second))
        for name, sides in ((one, pairs), (other, pairs.T)):
            for column, own in zip(self._columns(name), sides.tolist(), strict=True):
                self._rows.append(([*own, column], [1.0] * len(own) + [-1.0], 0.0))

    def least_ms(self) -> float:
        """Milliseconds of the fastest network."""
        return self._constant_ms + float(np.dot(self._ms, self._solved(self._ms)))

    def solve(self, most_ms: float) -> dict[str, int]:
        """The units to remove at which the network takes `most_ms` at most, or least time."""
        scale = max(max(self._loss), 1e-300)
        values = self._solved([loss / scale for loss in self._loss], most_ms - self._constant_ms)
        if values is None:
            values = self._solved(self._ms)
        assert values is not None
        chosen: dict[str, int] = {}
        for name, counts in self._counts.items():
            count = counts[int(np.argmax(values[self._columns(name)]))]
            chosen |= {name: count} if count else {}
        return chosen

    def _solved(self, price: Sequence[float], most_ms: float | None = None) -> Any:
        """The variables of least price; None: none fit."""
        rows = [row for row, (columns, _, _) in enumerate(self._rows) for _ in columns]
        columns = [column for columns, _, _ in self._rows for column in columns]
        numbers = [number for _, numbers, _ in self._rows for number in numbers]
        shape = (len(self._rows), len(self._ms))
        right = [value for *_, value in self._rows]
        constraints = [
            LinearConstraint(coo_array((numbers, (rows, columns)), shape=shape).tocsr(), right, right)
        ]
        if most_ms is not None:
            constraints.append(LinearConstraint(np.array([self._ms]), -np.inf, most_ms))
        found = milp(
            np.asarray(price),
            integrality=[1] * self._widths + [0] * (len(self._ms) - self._widths),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
        return found.x
