from dataclasses import dataclass

import pytest

from tascnet.errors import ConfigError
from tascnet.tuning.goal import Goal, KnownCosts
from tascnet.tuning.sampling import draw, refuse_infeasible
from tascnet.tuning.space import Choice, Space, Unit
from tests.tuning.spaces import small_space


@dataclass(frozen=True)
class Cost:
    params: int
    flops: int


def wide_space(n=12):
    """8 to 64 channels in each of `n` layers: 8 ** n settings, and the head's one."""
    choices = tuple(
        Choice(name=f"c{i}.width", values=tuple(range(8, 72, 8)), neutral=64, kind="ordinal", unit=1)
        for i in range(n)
    )
    return Space((Unit(index=0, block=1, choices=()), Unit(index=1, block=0, choices=choices)))


def channels(config):
    total = sum(value for name, value in config.items() if name != "first_trained")
    return Cost(params=total, flops=1000 * total)


def keys(space, configs):
    return [space.key(config) for config in configs]


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_without_bounds_it_is_the_sequence_of_the_space(method):
    space = small_space()
    expected = space.sample(9, 2, 3, method=method)
    assert draw(space, Goal(), 9, 2, 3, method=method) == expected
    assert draw(space, Goal(), 5, 2, 3, exclude=expected[1:3], method=method) == [
        expected[0],
        *expected[3:7],
    ]


def test_more_known_points_than_the_sequence_repeats_in_a_row_do_not_end_it():
    space = wide_space()
    known = space.sample(100, 1, 0)
    assert draw(space, Goal(), 2, 1, 0, exclude=known) == space.sample(102, 1, 0)[100:]


def test_bounds_keep_the_feasible_part_of_the_sequence():
    space = small_space()
    goal = Goal(
        cost=KnownCosts(lambda c: Cost(params=c["a.width"], flops=c["b.width"])), max_params=16, max_flops=16
    )
    everything = space.sample(space.count(2), 2, 0)
    expected = [c for c in everything if c["a.width"] <= 16 and c["b.width"] <= 16]
    assert draw(space, goal, 7, 2, 0) == expected[:7]
    assert draw(space, goal, 1000, 2, 0) == expected
    assert draw(space, goal, 1000, 2, 0, exclude=expected[:-2]) == expected[-2:]


def test_a_corner_that_no_draw_meets_is_found_step_by_step():
    space = wide_space()
    # Of 8 ** 12 settings only those with at most one layer of 16 in place of 8 channels.
    goal = Goal(cost=KnownCosts(channels), max_params=12 * 8 + 8)
    found = draw(space, goal, 20, 1, 0)
    assert len(set(keys(space, found))) == len(found) == 13
    assert all(goal.is_feasible(config) for config in found)
    assert draw(space, goal, 20, 1, 0, exclude=found) == []


def test_bounds_that_nothing_keeps_are_refused_with_the_smallest_cost():
    space = wide_space()
    with pytest.raises(ConfigError, match=r"params 95, 96; flops 90000, 96000\): raise the bound"):
        refuse_infeasible(space, Goal(cost=KnownCosts(channels), max_params=95, max_flops=90_000))
    refuse_infeasible(space, Goal(cost=KnownCosts(channels), max_params=96))


def test_a_depth_that_can_keep_the_bounds_is_enough():
    space = small_space()
    # Unit 2 alone has this width, so that no shallower configuration is small enough.
    goal = Goal(cost=KnownCosts(lambda c: Cost(params=c["a.width"], flops=1)), max_params=8)
    assert draw(space, goal, 1, 1, 0) == []
    assert {c["a.width"] for c in draw(space, goal, 5, 2, 0)} == {8}
    refuse_infeasible(space, goal)
