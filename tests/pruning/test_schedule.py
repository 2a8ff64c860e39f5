"""How much goes in each step, and when the loop ends."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.pruning import (
    Goals,
    IterationPlan,
    IterationResult,
    StepPlan,
    decide,
    landed,
    missed_goals,
    plan_iteration,
    plan_step,
)

options = {
    "percent": st.floats(0.01, 50),
    "round_to": st.integers(1, 16),
    "max_step": st.floats(0, 1),
    "min_width": st.integers(1, 20),
}


@pytest.mark.parametrize(
    ("width", "pending", "percent", "expected"),
    [
        # 5 % of 128 is 6: it waits; with the next 6 there are 12, of which 8 go and 4 wait.
        (128, 0, 5, (0, 6)),
        (128, 6, 5, (8, 4)),
        # 20 are asked for: 16 go.
        (128, 14, 5, (16, 4)),
        # A quarter of 32 is 8, of 24 only 6: never a multiple of 8.
        (32, 7, 5, (8, 0)),
        (24, 90, 5, (0, 91)),
        # From a width that is no multiple to the next lower one.
        (100, 0, 5, (4, 1)),
        (60, 0, 5, (0, 3)),
    ],
)
def test_steps_by_hand(width: int, pending: int, percent: float, expected: tuple[int, int]) -> None:
    assert plan_step(width, pending, percent, 8, 0.25) == expected


def test_what_the_largest_step_does_not_take_is_asked_for_anew() -> None:
    # Half of 32 is asked for, a quarter may go: the other eight do not wait.
    assert plan_step(32, 0, 50, 1, 0.25) == StepPlan(8, 0)
    assert plan_step(32, 0, 50, 8, 0.25) == StepPlan(8, 7)


def test_max_step_is_a_share_without_rounding_errors() -> None:
    # 0.29 x 100 is 28.999999999999996 in floating point.
    assert plan_step(100, 99, 1, 1, 0.29).remove == 29


def test_the_least_width_holds() -> None:
    assert plan_step(16, 99, 5, 8, 0.5, min_width=9).remove == 0
    assert plan_step(16, 99, 5, 4, 0.5, min_width=9).remove == 4
    assert plan_step(16, 99, 5, 8, 0.5, min_width=8).remove == 8


@given(width=st.integers(1, 600), pending=st.integers(0, 300), **options)
def test_a_step_keeps_every_bound(
    width: int, pending: int, percent: float, round_to: int, max_step: float, min_width: int
) -> None:
    step = plan_step(width, pending, percent, round_to, max_step, min_width)
    asked = max(1, math.floor(width * percent / 100 + 1e-9))
    # What a cut leaves waiting is held back by rounding alone.
    assert step.remove + step.pending <= pending + asked
    assert step.pending < round_to if step.remove else step.pending == pending + asked
    assert step.remove >= 0
    assert step.pending >= 0
    if step.remove:
        left = width - step.remove
        assert left % round_to == 0
        assert left >= min_width
        assert step.remove <= max_step * width + 1e-6


@given(width=st.integers(1, 300), **options)
def test_requests_lead_to_a_cut_wherever_one_is_possible(
    width: int, percent: float, round_to: int, max_step: float, min_width: int
) -> None:
    most = math.floor(width * max_step + 1e-9)
    possible = any(
        (width - remove) % round_to == 0 and width - remove >= min_width for remove in range(1, most + 1)
    )
    pending, cut = 0, 0
    for _ in range(width + 1):
        cut, pending = plan_step(width, pending, percent, round_to, max_step, min_width)
        if cut:
            break
    assert bool(cut) == possible


@given(widths=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200)), **options)
def test_an_iteration_removes_something_or_says_why(
    widths: dict[str, int], percent: float, round_to: int, max_step: float, min_width: int
) -> None:
    plan = plan_iteration(
        widths, {}, percent=percent, round_to=round_to, max_step=max_step, min_width=min_width
    )
    assert bool(plan.remove) == (plan.reason is None)
    assert set(plan.pending) == set(widths)
    assert all(remove > 0 for remove in plan.remove.values())


def test_an_iteration_by_hand() -> None:
    widths, options = {"a": 128, "b": 32, "c": 24}, {"percent": 5.0, "round_to": 8, "max_step": 0.25}
    # First requests: 6 and 1; nothing goes; second: 12 and 2, of a go 8. c can never lose 8.
    plan = plan_iteration(widths, {}, **options)
    assert plan.remove == {"a": 8}
    assert plan.pending == {"a": 4, "b": 2, "c": 0}
    # Widths 120 and 32: a asks for 6 more and has 10; b has 3.
    plan = plan_iteration(widths | {"a": 120}, plan.pending, **options)
    assert plan.remove == {"a": 8}
    assert plan.pending == {"a": 2, "b": 3, "c": 0}


def test_reasons_for_removing_nothing() -> None:
    stuck = plan_iteration({"a": 16, "b": 24}, {}, percent=5, round_to=8, max_step=0.25)
    assert "prune.max_step" in str(stuck.reason)
    assert "24" in str(stuck.reason)
    least = plan_iteration({"a": 16}, {}, percent=5, round_to=1, max_step=0.25, min_width=20)
    assert least.reason == "no group has more than 20 filters, which is prune.min_width"
    nothing = plan_iteration({}, {}, percent=5, round_to=8, max_step=0.25)
    assert "prune.min_filters" in str(nothing.reason)


def runs(*accuracies: float) -> list[IterationResult]:
    return [
        IterationResult(
            iteration=i,
            val_accuracy=accuracy,
            flops=100 - 10 * i,
            params=100 - 5 * i,
            size_bytes=1000 - 30 * i,
            latency_ms=8.0 - i,
            seconds=60.0 * i,
        )
        for i, accuracy in enumerate(accuracies)
    ]


def test_the_unpruned_network_counts_as_best() -> None:
    verdict = decide(runs(0.90, 0.87), tolerance=0.02, goals=Goals())
    assert verdict.stop
    assert verdict.keep == 0
    assert verdict.inside == (True, False)
    assert verdict.best == 0.90
    assert "0.02" in str(verdict.reason)


def test_exactly_the_tolerance_is_inside() -> None:
    assert not decide(runs(0.90, 0.88), tolerance=0.02, goals=Goals()).stop


def test_the_best_rises_with_a_better_iteration() -> None:
    verdict = decide(runs(0.90, 0.95, 0.92), tolerance=0.02, goals=Goals())
    assert verdict.keep == 1
    assert verdict.inside == (True, True, False)


def test_the_last_inside_is_kept_not_the_best() -> None:
    verdict = decide(runs(0.90, 0.91, 0.895), tolerance=0.02, goals=Goals())
    assert not verdict.stop
    assert verdict.keep == 2


def test_a_raised_tolerance_reopens_the_loop() -> None:
    history = runs(0.90, 0.87)
    assert decide(history, tolerance=0.02, goals=Goals()).stop
    assert not decide(history, tolerance=0.05, goals=Goals()).stop


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        ({"flops": 0.8}, "FLOPs reached 80.0%"),
        ({"params": 0.9}, "parameters reached 90.0%"),
        ({"size": 0.94}, "saved bytes reached 94.0%"),
        ({"latency_ms": 6.0}, "latency reached 6 ms"),
        ({"max_iterations": 2}, "2 iterations"),
        ({"max_seconds": 120.0}, "120 seconds"),
    ],
)
def test_goals_and_budgets(goal: dict[str, float], word: str) -> None:
    verdict = decide(runs(0.9, 0.9, 0.9), tolerance=0.02, goals=Goals(**goal))
    assert verdict.stop
    assert word in str(verdict.reason)
    assert verdict.keep == 2
    assert not decide(runs(0.9, 0.9), tolerance=0.02, goals=Goals(**goal)).stop


def test_nothing_to_stop_for_goes_on() -> None:
    verdict = decide(runs(0.9), tolerance=0.0, goals=Goals())
    assert not verdict.stop
    assert verdict.reason is None


def test_an_iteration_below_the_tolerance_is_tried_again_from_the_last_good_one_with_half_the_step() -> None:
    verdict = decide(runs(0.90, 0.89, 0.80), tolerance=0.02, goals=Goals(), retries=2)
    assert (verdict.stop, verdict.keep, verdict.step) == (False, 1, 0.5)
    verdict = decide(runs(0.90, 0.89, 0.80, 0.81), tolerance=0.02, goals=Goals(), retries=2)
    assert (verdict.stop, verdict.keep, verdict.step) == (False, 1, 0.25)
    verdict = decide(runs(0.90, 0.89, 0.80, 0.81, 0.85), tolerance=0.02, goals=Goals(), retries=2)
    assert (verdict.stop, verdict.keep) == (True, 1)
    assert "3 steps" in str(verdict.reason)
    # One that holds counts anew, and the step stays small.
    verdict = decide(runs(0.90, 0.89, 0.80, 0.885, 0.80), tolerance=0.02, goals=Goals(), retries=1)
    assert (verdict.stop, verdict.keep, verdict.step) == (False, 3, 0.25)


def test_a_block_that_is_taken_back_is_no_failed_step() -> None:
    good, bad = runs(0.90, 0.80)
    block = replace(bad, is_block=True)
    verdict = decide([good, block, block], tolerance=0.02, goals=Goals(flops=0.99), retries=0)
    assert (verdict.stop, verdict.keep, verdict.step) == (False, 0, 1.0)
    verdict = decide([good, block, bad, block], tolerance=0.02, goals=Goals(), retries=1)
    assert (verdict.stop, verdict.keep, verdict.step) == (False, 0, 0.5)
    assert decide([good, block, bad, block, bad], tolerance=0.02, goals=Goals(), retries=1).stop


def test_missed_goals_are_told_with_what_was_reached() -> None:
    first, now = runs(0.9, 0.9)
    assert missed_goals(first, now, Goals()) is None
    assert missed_goals(first, now, Goals(flops=0.9, params=0.5)) is None
    said = missed_goals(first, now, Goals(flops=0.8, params=0.5, latency_ms=1.5))
    assert said is not None
    assert "FLOPs are 90.00%" in said
    assert "not 80.00%" in said
    assert "parameters are 95.00%" in said
    assert "7 ms for one sample, not 1.5" in said


def test_a_goal_that_only_a_bad_network_reaches_is_not_reached() -> None:
    verdict = decide(runs(0.90, 0.80), tolerance=0.02, goals=Goals(flops=0.95), retries=1)
    assert not verdict.stop


def test_the_last_step_is_as_small_as_the_goal_allows() -> None:
    def plan(percent: float) -> IterationPlan:
        return IterationPlan(remove={"a": int(percent)}, pending={})

    near = landed(plan, 40.0, lambda removed: removed["a"] >= 17)
    assert (near.remove, near.has_landed) == ({"a": 17}, True)
    far = landed(plan, 40.0, lambda removed: removed["a"] >= 50)
    assert (far.remove, far.has_landed) == ({"a": 40}, False)
    nothing = IterationPlan(remove={}, pending={}, reason="stuck")
    assert landed(lambda _: nothing, 40.0, lambda _: True) is nothing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_the_kept_network_is_inside(accuracies: list[float], tolerance: float) -> None:
    verdict = decide(runs(*accuracies), tolerance=tolerance, goals=Goals())
    best = max(accuracies[: verdict.keep + 1])
    assert accuracies[verdict.keep] >= best - tolerance - 1e-6
    assert verdict.inside[verdict.keep]
    assert not any(verdict.inside[verdict.keep + 1 :])
