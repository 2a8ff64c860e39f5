"""How many filters each group loses in one iteration."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.inherit import Ranking
from tascnet.pruning.allocate import (
    GroupSize,
    IterationPlan,
    allocate,
    landed,
    plan_iteration,
    plan_step,
    share_of,
)


def sizes_of(widths: Mapping[str, int]) -> dict[str, GroupSize]:
    """Groups in which each unit is one filter."""
    return {name: GroupSize(units=width) for name, width in widths.items()}


options = {
    "ratio": st.floats(0.0001, 0.5),
    "round_to": st.integers(1, 16),
    "group_ratio": st.floats(0, 1),
}


@pytest.mark.parametrize("ratio", [0.05, 0.08, 0.95, 0.01, 0.07, 0.12, 0.25, 0.29, 0.3, 0.5])
@pytest.mark.parametrize("step", [1.0, 0.5, 0.25, 1 / 4096])
def test_a_share_is_that_of_exact_arithmetic(ratio: float, step: float) -> None:
    """As the percentage that the option was: `width x percent / 100` with a whole percentage."""
    percent = round(100 * ratio)
    exact = [width * percent * int(4096 * step) // (100 * 4096) for width in range(20_000)]
    assert [share_of(width, ratio * step) for width in range(20_000)] == exact


@pytest.mark.parametrize(
    ("width", "pending", "ratio", "expected"),
    [
        # 5 % of 128 is 6: it waits; with the next 6 there are 12, of which 8 are removed and 4 wait.
        (128, 0, 0.05, (0, 6)),
        (128, 6, 0.05, (8, 4)),
        # 20 are asked for: 16 are removed.
        (128, 14, 0.05, (16, 4)),
        # A quarter of 32 is 8, of 24 only 6: never a multiple of 8.
        (32, 7, 0.05, (8, 0)),
        (24, 90, 0.05, (0, 91)),
        # From a width that is no multiple to the next lower one.
        (100, 0, 0.05, (4, 1)),
        (60, 0, 0.05, (0, 3)),
    ],
)
def test_steps_by_hand(width: int, pending: int, ratio: float, expected: tuple[int, int]) -> None:
    assert plan_step(width, pending, ratio, 8, 0.25) == expected


def test_what_the_largest_step_does_not_remove_is_asked_for_again() -> None:
    # Half of 32 is asked for, a quarter may be removed: the other eight do not wait.
    assert plan_step(32, 0, 0.5, 1, 0.25) == (8, 0)
    assert plan_step(32, 0, 0.5, 8, 0.25) == (8, 7)


def test_the_largest_share_has_no_rounding_errors() -> None:
    # 0.29 x 100 is 28.999999999999996 in floating point.
    assert plan_step(100, 99, 0.01, 1, 0.29)[0] == 29


@given(width=st.integers(1, 600), pending=st.integers(0, 300), **options)
def test_a_step_keeps_every_bound(
    width: int, pending: int, ratio: float, round_to: int, group_ratio: float
) -> None:
    remove, waiting = plan_step(width, pending, ratio, round_to, group_ratio)
    asked = max(1, math.floor(width * ratio + 1e-9))
    # What a cut leaves waiting is held back by rounding alone.
    assert remove + waiting <= pending + asked
    assert waiting < round_to if remove else waiting == pending + asked
    assert remove >= 0
    assert waiting >= 0
    if remove:
        left = width - remove
        assert left % round_to == 0
        assert left >= 1
        assert remove <= group_ratio * width + 1e-6


@given(width=st.integers(1, 300), **options)
def test_requests_lead_to_a_cut_wherever_one_is_possible(
    width: int, ratio: float, round_to: int, group_ratio: float
) -> None:
    most = math.floor(width * group_ratio + 1e-9)
    possible = any((width - remove) % round_to == 0 and width > remove for remove in range(1, most + 1))
    pending, cut = 0, 0
    for _ in range(width + 1):
        cut, pending = plan_step(width, pending, ratio, round_to, group_ratio)
        if cut:
            break
    assert bool(cut) == possible


@given(widths=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200)), **options)
def test_an_iteration_removes_something_or_has_a_reason(
    widths: dict[str, int], ratio: float, round_to: int, group_ratio: float
) -> None:
    plan = plan_iteration(sizes_of(widths), {}, ratio=ratio, round_to=round_to, group_ratio=group_ratio)
    assert bool(plan.remove) == (plan.reason is None)
    assert set(plan.pending) == set(widths)
    assert all(remove > 0 for remove in plan.remove.values())


def test_an_iteration_by_hand() -> None:
    widths, options = {"a": 128, "b": 32, "c": 24}, {"ratio": 0.05, "round_to": 8, "group_ratio": 0.25}
    # First requests: 6 and 1; nothing is removed; second: 12 and 2, of a 8 are. c can never lose 8.
    plan = plan_iteration(sizes_of(widths), {}, **options)
    assert plan.remove == {"a": 8}
    assert plan.pending == {"a": 4, "b": 2, "c": 0}
    # Widths 120 and 32: a asks for 6 more and has 10; b has 3.
    plan = plan_iteration(sizes_of(widths | {"a": 120}), plan.pending, **options)
    assert plan.remove == {"a": 8}
    assert plan.pending == {"a": 2, "b": 3, "c": 0}


def test_reasons_for_removing_nothing() -> None:
    stuck = plan_iteration(sizes_of({"a": 16, "b": 24}), {}, ratio=0.05, round_to=8, group_ratio=0.25)
    assert "`max_pruning_ratio`" in str(stuck.reason)
    assert "24" in str(stuck.reason)
    nothing = plan_iteration({}, {}, ratio=0.05, round_to=8, group_ratio=0.25)
    assert nothing.reason == "no group of layers can be pruned"


def test_the_last_step_is_as_small_as_the_target_allows() -> None:
    def plan(ratio: float) -> IterationPlan:
        return IterationPlan(remove={"a": int(100 * ratio)}, pending={})

    near = landed(plan, 0.4, lambda removed: removed["a"] >= 17)
    assert (near.remove, near.has_landed) == ({"a": 17}, True)
    far = landed(plan, 0.4, lambda removed: removed["a"] >= 50)
    assert (far.remove, far.has_landed) == ({"a": 40}, False)
    nothing = IterationPlan(remove={}, pending={}, reason="stuck")
    assert landed(lambda _: nothing, 0.4, lambda _: True) is nothing


rankings = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.floats(0, 10), min_size=2, max_size=24).map(sorted), min_size=1
)


@given(costs=rankings, count=st.integers(0, 60), round_to=st.integers(1, 5), group_ratio=st.floats(0, 0.9))
def test_competition_keeps_every_bound(
    costs: dict[str, list[float]], count: int, round_to: int, group_ratio: float
) -> None:
    ranked = {name: Ranking(order=tuple(range(len(c))), costs=tuple(c)) for name, c in costs.items()}
    widths, limits = {name: len(c) for name, c in costs.items()}, (round_to, group_ratio)
    options = dict(zip(("round_to", "group_ratio"), limits, strict=True))
    taken = allocate(ranked, sizes_of(widths), count, **options)
    for name, number in taken.items():
        left = widths[name] - number
        assert left % round_to == 0
        assert left >= 1
        assert number <= group_ratio * widths[name] + 1e-6
    more = allocate(ranked, sizes_of(widths), count + 1, **options)
    assert all(more.get(name, 0) >= number for name, number in taken.items())
    if round_to == 1 and sum(taken.values()) < count:
        assert allocate(ranked, sizes_of(widths), 10**6, **options) == taken


def test_the_cheapest_of_all_groups_are_removed_by_hand() -> None:
    ranked = {
        "a": Ranking(order=(0, 1, 2, 3), costs=(1.0, 2.0, 5.0, 9.0)),
        "b": Ranking(order=(0, 1, 2, 3), costs=(3.0, 4.0, 6.0, 7.0)),
    }
    widths = {"a": 4, "b": 4}
    assert allocate(ranked, sizes_of(widths), 3, group_ratio=0.9) == {"a": 2, "b": 1}
    # A channel of b saves ten times as much.
    assert allocate(ranked, sizes_of(widths), 3, group_ratio=0.9, worth={"a": 1.0, "b": 10.0}) == {"b": 3}
    # Two by two: a's first two cost 1.5 each, b's 3.5.
    assert allocate(ranked, sizes_of(widths), 1, round_to=2, group_ratio=0.9) == {"a": 2}


def test_negative_costs_keep_their_order_when_weighed() -> None:
    ranking = Ranking(order=(0, 1, 2, 3), costs=(-4.0, -3.0, -2.0, -1.0))
    other = Ranking(order=(0, 1, 2, 3), costs=(-3.5, -3.0, -2.0, -1.0))
    taken = allocate({"a": ranking, "b": other}, sizes_of({"a": 8, "b": 8}), 3, worth={"a": 1.0, "b": 1000.0})
    # The lowest of all costs nothing; of the others those that save a thousand times as much.
    assert taken == {"a": 1, "b": 2}


def test_round_to_counts_filters_where_units_have_several() -> None:
    # Eight filters are two units of four, four of two (or of six), one of eight or sixteen, eight of three.
    multiples = {bundle: GroupSize(units=9, bundle=bundle).multiple(8) for bundle in (1, 2, 3, 4, 6, 8, 16)}
    assert multiples == {1: 8, 2: 4, 3: 8, 4: 2, 6: 4, 8: 1, 16: 1}
    options = {"ratio": 0.25, "round_to": 8, "group_ratio": 0.5}
    # A quarter of 10 units is 2: four filters each, 40 become 32.
    plan = plan_iteration({"a": GroupSize(units=10, bundle=4)}, {}, **options)
    assert plan.remove == {"a": 2}


def test_groups_that_are_not_exact_wait_until_the_others_can_lose_no_more() -> None:
    exact, other = GroupSize(units=16), GroupSize(units=16, is_exact=False)
    options = {"round_to": 1, "group_ratio": 0.25}
    plan = plan_iteration({"a": other, "b": exact}, {}, ratio=0.125, **options)
    assert (plan.remove, plan.pending) == ({"b": 2}, {"a": 0, "b": 0})
    # A quarter is the most of one step: so the others lose theirs too.
    plan = plan_iteration({"a": other, "b": exact}, {}, ratio=0.5, **options)
    assert plan.remove == {"a": 4, "b": 4}
    plan = plan_iteration({"a": other}, {}, ratio=0.125, **options)
    assert plan.remove == {"a": 2}
    # Cheap filters of a group that is not exact come after all dear ones.
    ranked = {
        "a": Ranking(order=tuple(range(16)), costs=(0.0,) * 16),
        "b": Ranking(order=tuple(range(16)), costs=(9.0,) * 16),
    }
    assert allocate(ranked, {"a": other, "b": exact}, 3, group_ratio=0.25) == {"b": 3}
    assert allocate(ranked, {"a": other, "b": exact}, 6, group_ratio=0.25) == {"a": 2, "b": 4}


def test_filters_are_counted_and_priced_where_units_have_several() -> None:
    ranked = {
        "a": Ranking(order=(0, 1, 2, 3), costs=(3.0, 3.0, 3.0, 3.0)),
        "b": Ranking(order=(0, 1, 2, 3), costs=(2.0, 2.0, 2.0, 2.0)),
    }
    sizes = {"a": GroupSize(units=4, bundle=4), "b": GroupSize(units=4, bundle=1)}
    # A filter of a costs 3 / 4, one of b 2; six filters are two units of a.
    assert allocate(ranked, sizes, 6, group_ratio=0.75) == {"a": 2}
