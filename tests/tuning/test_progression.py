from dataclasses import replace

import pytest

from tascnet.options import Tune
from tascnet.run.records import Trial
from tascnet.tuning.goal import Goal, KnownCosts
from tascnet.tuning.progression import Limits, layerwise_depths, next_depth
from tests.tuning.spaces import small_space

SPACE = small_space()
CONFIGS = {k: SPACE.sample(12, k, 0) for k in (1, 2)}


def trials(*depths):
    """One trial for each value; `depths` are lists of values at depth 1, 2, ...; None: failed."""
    made = []
    for depth, values in enumerate(depths, start=1):
        fresh = [c for c in CONFIGS[depth] if c not in [t.config for t in made]]
        for value, config in zip(values, fresh, strict=False):
            status = (
                {"status": "failed", "reason": "x"}
                if value is None
                else {"status": "ok", "value": value, "val_accuracy": value}
            )
            made.append(Trial(trial=len(made), depth=depth, config=config, seconds=10.0, **status))
    return made


def limits(**changes):
    return Limits(**{"trials_per_depth": 3, "max_units": 2, **changes})


def test_it_begins_at_depth_one_and_fills_it_before_it_goes_deeper():
    values = [0.5, 0.6, None]
    assert [next_depth(trials(values[:n]), SPACE, limits()).depth for n in range(4)] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ([0.7, 0.5, 0.5], "deepest"),
        ([0.6, 0.5, 0.5], "1 depth without a better"),
        ([None, None, None], "1 depth without a better"),
    ],
)
def test_it_stops_at_the_deepest_or_after_a_depth_that_is_no_better(second, says):
    advice = next_depth(trials([0.5, 0.6, 0.4], second), SPACE, limits())
    assert advice.depth is None
    assert says in advice.reason


def test_seconds_alone_are_spent_at_the_deepest_depth():
    seen = trials([0.5, 0.6, 0.4], [0.7, 0.5, 0.5])
    advice = next_depth(seen, SPACE, limits(max_seconds=100.0))
    assert advice.depth == 2
    assert next_depth(seen, SPACE, limits(max_seconds=60.0)).depth is None
    # A number of trials is a promise of its own, and a depth that is not the deepest keeps its quota.
    assert next_depth(seen, SPACE, limits(max_seconds=100.0, max_trials=20)).depth is None
    assert next_depth(trials([0.5, 0.6, 0.4]), SPACE, limits(max_seconds=100.0)).depth == 2


def test_patience_counts_depths_in_a_row():
    failing = trials([None, None, None])
    assert next_depth(failing, SPACE, limits()).depth is None
    assert next_depth(failing, SPACE, limits(patience=2)).depth == 2


def test_the_budgets_of_trials_and_seconds_end_it():
    some = trials([0.5, 0.6])
    assert next_depth(some, SPACE, limits(max_trials=2)).reason == "the limit of 2 trials is reached"
    assert next_depth(some, SPACE, limits(max_seconds=20.0)).reason == "the limit of 20 seconds is reached"
    assert next_depth(some, SPACE, limits(max_seconds=20.1)).depth == 1
    assert next_depth(trials([0.5]), SPACE, limits(max_trials=2)).depth == 1


def test_a_raised_budget_goes_on_at_the_depth_reached():
    stopped = trials([0.5, 0.6, 0.4], [0.5, 0.5, 0.5])
    assert next_depth(stopped, SPACE, limits()).depth is None
    assert next_depth(stopped, SPACE, limits(trials_per_depth=4)).depth == 2


def test_a_depth_with_nothing_left_to_try_is_done():
    everything = [
        Trial(trial=i, depth=1, config=config, status="ok", value=0.5, val_accuracy=0.5)
        for i, config in enumerate(SPACE.sample(SPACE.count(1), 1, 0))
    ]
    assert next_depth(everything[:-1], SPACE, limits(trials_per_depth=1000)).depth == 1
    assert next_depth(everything, SPACE, limits(trials_per_depth=1000)).depth == 2


def test_max_units_bounds_the_depth():
    advice = next_depth(trials([0.5, 0.6, 0.7]), SPACE, limits(max_units=1))
    assert advice.depth is None
    assert advice.reason == "depth 1 is the deepest allowed"


def test_a_bound_that_was_lowered_holds_for_a_search_that_was_deeper():
    seen = trials([0.5], [0.6, 0.4])
    assert next_depth(seen, SPACE, limits(max_units=1, max_trials=9)).depth == 1
    full = trials([0.5, 0.4, 0.3], [0.6, 0.4])
    assert next_depth(full, SPACE, limits(max_units=1)).reason == "depth 1 is the deepest allowed"


def test_it_may_begin_with_the_head_alone():
    assert next_depth([], SPACE, limits(start_depth=0)).depth == 0


@pytest.mark.parametrize(("exits", "start", "each"), [(0, 1, 8), (1, 2, 16), (2, 2, 16)])
def test_a_search_begins_where_the_network_may_end_earliest(exits, start, each):
    found = Limits.of(Tune(), small_space(exits))
    assert (found.start_depth, found.max_units, found.trials_per_depth) == (start, 2, each)
    assert found.most_trials(small_space(exits)) == 16


@pytest.mark.parametrize(("exits", "expected"), [(0, 8), (2, 20)])
def test_depths_that_are_passed_over_leave_their_trials_to_the_others(exits, expected):
    assert Limits.of(Tune(max_trials=20), small_space(exits)).trials_per_depth == expected


def test_accuracy_decides_on_depth_whatever_the_value_is():
    by_loss = [replace(t, value=-1.0 - t.trial) for t in trials([0.5, 0.6, 0.4], [0.7, 0.5, 0.5])]
    assert "deepest" in next_depth(by_loss, SPACE, limits()).reason


def test_stopped_trials_do_not_make_a_depth_better():
    some = trials([0.5, 0.6, 0.4], [0.7, 0.5, 0.5])
    some[3] = replace(some[3], status="stopped")
    assert "without a better" in next_depth(some, SPACE, limits()).reason


def test_a_depth_where_all_was_too_slow_says_nothing():
    slow = {"status": "infeasible", "value": None, "val_accuracy": None, "latency_ms": 9.0, "reason": "slow"}
    first = [replace(t, **slow) for t in trials([0.5, 0.5, 0.5])]
    assert next_depth(first, SPACE, limits()).depth == 2


def with_flops(made, flops):
    return [replace(trial, flops=f) for trial, f in zip(made, flops, strict=True)]


def pareto():
    return Goal(objective="pareto", cost=KnownCosts(lambda config: None))


@pytest.mark.parametrize(
    ("flops", "says"),
    [
        # Less accurate, but cheaper than all before.
        ([9, 9, 9, 8, 9, 9], "deepest"),
        ([9, 9, 9, 9, 9, 9], "without a larger front"),
        # Between the two of the front, and better than the cheaper one.
        ([5, 9, 9, 7, 9, 9], "deepest"),
        # The 0.55 at 5 dominates all of depth 2.
        ([9, 5, 9, 7, 9, 9], "without a larger front"),
    ],
)
def test_pareto_goes_on_while_the_front_grows(flops, says):
    made = with_flops(trials([0.5, 0.55, 0.6], [0.53, 0.4, 0.4]), flops)
    assert says in next_depth(made, SPACE, limits(), pareto()).reason


def test_a_depth_without_feasible_configurations_is_passed_over():
    assert next_depth([], SPACE, limits(), exhausted={1}).depth == 2
    assert next_depth(trials([0.5]), SPACE, limits(), exhausted={1}).depth == 2
    advice = next_depth([], SPACE, limits(), exhausted={1, 2})
    assert (advice.depth, advice.reason) == (None, "depth 2 is the deepest allowed")


def test_layerwise_goes_from_the_head_to_the_deepest_whatever_the_accuracy():
    assert layerwise_depths(5, 2) == [0, 2, 4, 5]
    assert layerwise_depths(4, 1) == [0, 1, 2, 3, 4]
    assert layerwise_depths(0, 3) == [0]
    every = limits(every=1)
    falling = [
        replace(t, depth=2 - t.trial, config=SPACE.neutral(2 - t.trial)) for t in trials([0.7, 0.6, 0.5])
    ]
    assert next_depth([], SPACE, every).depth == 0
    assert next_depth(falling[:1], SPACE, every).depth == 0
    assert next_depth(falling[1:], SPACE, every).depth == 2
    done = next_depth(falling, SPACE, every)
    assert (done.depth, done.reason) == (None, "each of the 3 freezing depths was tried")
    assert next_depth(falling[1:], SPACE, limits(every=1, max_trials=2)).depth is None
    assert next_depth(falling[1:], SPACE, limits(every=1, max_seconds=20.0)).depth is None


def test_the_metric_decides_whether_a_depth_is_better():
    configs = [SPACE.sample(2, depth, 0)[0] for depth in (1, 2)]
    made = [
        Trial(
            trial=i,
            depth=i + 1,
            config=config,
            status="ok",
            value=balanced,
            val_accuracy=accuracy,
            val_balanced_accuracy=balanced,
        )
        for i, (config, accuracy, balanced) in enumerate(zip(configs, (0.9, 0.8), (0.5, 0.6), strict=True))
    ]
    shallow = limits(trials_per_depth=1)
    assert next_depth(made, SPACE, shallow).reason == "1 depth without a better validation accuracy"
    by_balanced = next_depth(made, SPACE, shallow, Goal(metric="balanced_accuracy"))
    assert by_balanced.reason == "depth 2 is the deepest allowed"
