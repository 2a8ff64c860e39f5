"""When pruning ends, and from which iteration it continues."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.options import Prune
from tascnet.pruning.schedule import (
    Verdict,
    decide,
    fitted_targets,
    is_retrained,
    missed_targets,
    noise,
    replayed,
    rounds,
)
from tascnet.run.records import Iteration


def runs(*accuracies: float) -> list[Iteration]:
    return [
        Iteration(
            iteration=i,
            start=max(i - 1, 0),
            step=1.0,
            state=f"iteration-{i:03d}",
            landed=None,
            val_accuracy=accuracy,
            val_balanced_accuracy=accuracy,
            val_loss=1.0,
            flops=100 - 10 * i,
            params=100 - 5 * i,
            size_bytes=1000 - 30 * i,
            latency_ms=8.0 - i,
            inside=True,
            removed={},
            pending={},
            seconds=60.0 if i else 0.0,
        )
        for i, accuracy in enumerate(accuracies)
    ]


def verdict_on(iterations: list[Iteration], tolerance: float = 0.02, retries: int = 0, **options) -> Verdict:
    return decide(iterations, Prune(tolerance=tolerance, retries=retries, **options))


def test_the_unpruned_network_counts_as_best() -> None:
    verdict = verdict_on(runs(0.90, 0.87))
    assert verdict.keep == 0
    assert verdict.inside == (True, False)
    assert "0.02" in str(verdict.reason)


def test_exactly_the_tolerance_is_inside() -> None:
    assert verdict_on(runs(0.90, 0.88)).reason is None


def test_the_best_rises_with_a_better_iteration() -> None:
    verdict = verdict_on(runs(0.90, 0.95, 0.92))
    assert verdict.keep == 1
    assert verdict.inside == (True, True, False)


def test_the_last_inside_is_kept_not_the_best() -> None:
    verdict = verdict_on(runs(0.90, 0.91, 0.895))
    assert (verdict.reason, verdict.keep) == (None, 2)


def test_a_raised_tolerance_reopens_the_loop() -> None:
    iterations = runs(0.90, 0.87)
    assert verdict_on(iterations).reason is not None
    assert verdict_on(iterations, tolerance=0.05).reason is None


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"flops_target": 0.8}, "FLOPs reached 80.0%"),
        ({"params_target": 0.9}, "parameters reached 90.0%"),
        ({"size_target": 0.94}, "saved bytes reached 94.0%"),
        ({"latency_target": 0.75}, "latency reached 75.0%"),
        ({"latency_target_ms": 6.0}, "latency reached 6 ms"),
        ({"max_iterations": 2}, "2 iterations"),
        ({"max_seconds": 120.0}, "120 seconds"),
    ],
)
def test_targets_and_limits(option: dict[str, float], word: str) -> None:
    verdict = verdict_on(runs(0.9, 0.9, 0.9), **option)
    assert word in str(verdict.reason)
    assert verdict.keep == 2
    assert verdict_on(runs(0.9, 0.9), **option).reason is None


def test_without_a_reason_the_loop_continues() -> None:
    assert verdict_on(runs(0.9), tolerance=0.0).reason is None


def test_an_iteration_below_the_tolerance_is_tried_again_from_the_last_good_one_with_half_the_step() -> None:
    verdict = verdict_on(runs(0.90, 0.89, 0.80), retries=2)
    assert (verdict.reason, verdict.keep, verdict.step) == (None, 1, 0.5)
    verdict = verdict_on(runs(0.90, 0.89, 0.80, 0.81), retries=2)
    assert (verdict.reason, verdict.keep, verdict.step) == (None, 1, 0.25)
    verdict = verdict_on(runs(0.90, 0.89, 0.80, 0.81, 0.85), retries=2)
    assert verdict.keep == 1
    assert "3 steps" in str(verdict.reason)
    # After one that holds failures are counted again, and the step stays small.
    verdict = verdict_on(runs(0.90, 0.89, 0.80, 0.885, 0.80), retries=1)
    assert (verdict.reason, verdict.keep, verdict.step) == (None, 3, 0.25)


def test_a_reverted_block_is_no_failed_step() -> None:
    good, bad = runs(0.90, 0.80)
    block = replace(bad, block="b1")
    verdict = verdict_on([good, block, block], flops_target=0.5)
    assert (verdict.reason, verdict.keep, verdict.step) == (None, 0, 1.0)
    verdict = verdict_on([good, block, bad, block], retries=1)
    assert (verdict.reason, verdict.keep, verdict.step) == (None, 0, 0.5)
    assert verdict_on([good, block, bad, block, bad], retries=1).reason is not None


def test_missed_targets_are_reported_with_what_was_reached() -> None:
    first, now = runs(0.9, 0.9)
    assert missed_targets(first, now, Prune()) is None
    assert missed_targets(first, now, Prune(flops_target=0.9, params_target=0.5)) is None
    options = Prune(flops_target=0.8, params_target=0.5, latency_target=0.5, latency_target_ms=1.5)
    said = missed_targets(first, now, options)
    assert said is not None
    assert "FLOPs are 90.00%" in said
    assert "not 80.00%" in said
    assert "parameters are 95.00%" in said
    assert "latency is 87.50% of the unpruned network's, not 50.00%" in said
    assert "7 ms for one sample, not 1.5" in said


def test_a_target_that_only_a_bad_network_reaches_is_not_reached() -> None:
    assert verdict_on(runs(0.90, 0.80), retries=1, flops_target=0.95).reason is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_the_kept_network_is_inside(accuracies: list[float], tolerance: float) -> None:
    verdict = verdict_on(runs(*accuracies), tolerance=tolerance)
    best = max(accuracies[: verdict.keep + 1])
    assert accuracies[verdict.keep] >= best - tolerance - 1e-6
    assert verdict.inside[verdict.keep]
    assert not any(verdict.inside[verdict.keep + 1 :])


def test_a_replay_ends_where_another_run_would_leave_the_journal() -> None:
    iterations = runs(0.90, 0.85, 0.85)
    loose, strict = Prune(tolerance=0.1), Prune(tolerance=0.02)
    assert replayed(iterations, loose)[0] == iterations
    # With a tolerance of 0.02 the first would be retrained once more.
    kept, verdict = replayed(iterations, strict)
    assert [(one.iteration, one.inside) for one in kept] == [(0, True)]
    assert (verdict.keep, verdict.step) == (0, 1.0)
    # Where that did not help, the second would start from the unpruned network, with half the step.
    again = [iterations[0], replace(iterations[1], val_accuracy_first=0.84), iterations[2]]
    kept, verdict = replayed(again, strict)
    assert [(one.iteration, one.inside) for one in kept] == [(0, True), (1, False)]
    assert (verdict.keep, verdict.step) == (0, 0.5)
    # It reaches a target to which its cut was not fitted.
    kept, _ = replayed(iterations, Prune(tolerance=0.1, flops_target=0.85))
    assert len(kept) == 2
    # It was fitted to a target that there is no more.
    target = Prune(tolerance=0.1, flops_target=0.8)
    landed = [*iterations[:2], replace(iterations[2], landed=fitted_targets(target))]
    assert replayed(landed, target)[0] == landed
    assert len(replayed(landed, loose)[0]) == 2


def test_the_tolerance_is_one_of_the_metric() -> None:
    first, second = runs(0.90, 0.90)
    iterations = [first, replace(second, val_balanced_accuracy=0.80)]
    options = Prune(tolerance=0.02, retries=0)
    assert decide(iterations, options).inside == (True, True)
    verdict = decide(iterations, options, "balanced_accuracy")
    assert verdict.inside == (True, False)
    assert verdict.reason == "validation balanced accuracy fell more than 0.02 below the best"
    assert replayed(iterations, options, "balanced_accuracy")[1] == verdict


def test_what_falls_below_the_tolerance_is_retrained_where_there_are_retries() -> None:
    before, options = runs(0.90, 0.92), Prune(tolerance=0.02, retries=1)
    assert is_retrained(0.89, before, options)
    assert not is_retrained(0.90, before, options)
    assert not is_retrained(0.89, before, replace(options, retries=0))


def test_a_replay_ends_where_a_second_retraining_is_missing_or_too_much() -> None:
    first, second = runs(0.90, 0.90)
    again = [first, replace(second, val_accuracy_first=0.85)]
    once = [first, replace(second, val_accuracy=0.85)]
    strict, loose = Prune(tolerance=0.02, retries=1), Prune(tolerance=0.1, retries=1)
    assert [len(replayed(again, options)[0]) for options in (strict, loose)] == [2, 1]
    assert [len(replayed(once, options)[0]) for options in (strict, loose)] == [1, 2]


def test_each_round_is_half_as_long_as_the_one_before() -> None:
    assert [rounds(n) for n in (0, 1, 7, 20)] == [[], [1], [7, 3, 1], [20, 10, 5, 2, 1]]


def test_noise_is_half_a_standard_error() -> None:
    """0.5 sqrt(0.8 x 0.2 / 100) = 0.02."""
    assert noise(0.8, 100) == pytest.approx(0.02)
    assert noise(1.0, 100) == 0.0
