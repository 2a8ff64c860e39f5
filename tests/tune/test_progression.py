import pytest

from tascnet.tune.progression import Limits, next_depth
from tascnet.tune.study import Trial
from tests.tune.spaces import small_space

SPACE = small_space()
CONFIGS = {k: SPACE.sample(12, k, 0) for k in (1, 2)}


def trials(*depths):
    """One trial for each value; `depths` are lists of values at depth 1, 2, ...; None: failed."""
    made = []
    for depth, values in enumerate(depths, start=1):
        fresh = [c for c in CONFIGS[depth] if c not in [t.config for t in made]]
        for value, config in zip(values, fresh, strict=False):
            status = (
                {"status": "failed", "reason": "x"} if value is None else {"status": "ok", "value": value}
            )
            made.append(Trial(trial=len(made), depth=depth, config=config, seconds=10.0, **status))
    return made


def limits(**changes):
    return Limits(**{"trials_per_depth": 3, "max_units": 2, **changes})


def test_it_begins_at_depth_one_and_fills_it():
    assert next_depth([], SPACE, limits()).depth == 1
    advice = next_depth(trials([0.5]), SPACE, limits())
    assert (advice.depth, advice.trials) == (1, 2)


def test_it_goes_deeper_when_a_depth_is_full():
    advice = next_depth(trials([0.5, 0.6, None]), SPACE, limits())
    assert (advice.depth, advice.trials) == (2, 3)


@pytest.mark.parametrize(
    ("second", "min_delta", "says"),
    [
        ([0.7, 0.5, 0.5], 0.0, "deepest"),
        ([0.6, 0.5, 0.5], 0.0, "1 depth without a better"),
        ([0.7, 0.5, 0.5], 0.2, "1 depth without a better"),
        ([None, None, None], 0.0, "1 depth without a better"),
    ],
)
def test_it_stops_at_the_deepest_or_after_a_depth_that_is_no_better(second, min_delta, says):
    advice = next_depth(trials([0.5, 0.6, 0.4], second), SPACE, limits(min_delta=min_delta))
    assert advice.depth is None
    assert advice.trials == 0
    assert says in advice.reason


def test_patience_counts_depths_in_a_row():
    failing = trials([None, None, None])
    assert next_depth(failing, SPACE, limits()).depth is None
    assert next_depth(failing, SPACE, limits(patience=2)).depth == 2


def test_the_budgets_of_trials_and_seconds_end_it():
    some = trials([0.5, 0.6])
    assert next_depth(some, SPACE, limits(max_trials=2)).reason == "the limit of 2 trials is reached"
    assert next_depth(some, SPACE, limits(max_seconds=20.0)).reason == "the limit of 20 seconds is reached"
    assert next_depth(some, SPACE, limits(max_seconds=20.1)).depth == 1
    assert next_depth(trials([0.5]), SPACE, limits(max_trials=2)).trials == 1


def test_a_raised_budget_goes_on_at_the_depth_reached():
    stopped = trials([0.5, 0.6, 0.4], [0.5, 0.5, 0.5])
    assert next_depth(stopped, SPACE, limits()).depth is None
    advice = next_depth(stopped, SPACE, limits(trials_per_depth=5))
    assert (advice.depth, advice.trials) == (2, 2)


def test_a_depth_with_nothing_left_to_try_is_done():
    everything = [
        Trial(trial=i, depth=1, config=config, status="ok", value=0.5)
        for i, config in enumerate(SPACE.sample(SPACE.count(1), 1, 0))
    ]
    assert next_depth(everything[:-1], SPACE, limits(trials_per_depth=1000)).trials == 1
    assert next_depth(everything, SPACE, limits(trials_per_depth=1000)).depth == 2


def test_max_units_bounds_the_depth():
    advice = next_depth(trials([0.5, 0.6, 0.7]), SPACE, limits(max_units=1))
    assert advice.depth is None
    assert advice.reason == "depth 1 is the deepest allowed"
