import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.run.records import Trial
from tascnet.tuning import Cost, Goal
from tascnet.tuning.goal import least_to_win, winner
from tascnet.tuning.promotion import curves, expected_values, gains_after, is_promising, is_rung

# After the first epoch the best rose by 0.2, 0.3 and 0.4: 0.3 in the mean, with a deviation of 0.1.
FINISHED = [(0.4, 0.6, 0.5), (0.4, 0.5, 0.7), (0.3, 0.7, 0.7)]


def trial(number, value, status="ok", *, params=10, flops=10, curve=()):
    return Trial(
        trial=number,
        depth=1,
        config={},
        status=status,
        value=value,
        val_accuracy=value,
        params=params,
        flops=flops,
        curve=curve,
        reason=None if status == "ok" else "why",
    )


def test_trials_are_judged_after_three_epochs_and_twice_as_many():
    assert [epochs for epochs in range(30) if is_rung(epochs)] == [3, 6, 12, 24]


def test_gains_are_those_of_the_best_so_far():
    assert gains_after(1, FINISHED) == pytest.approx([0.2, 0.3, 0.4])
    assert gains_after(2, FINISHED) == pytest.approx([0.0, 0.2, 0.0])
    # Curves that end here say nothing.
    assert gains_after(3, FINISHED) == []


def test_a_trial_goes_on_while_it_may_reach_what_is_needed():
    # 0.35 + 0.3 + 1.5 x 0.1 = 0.8.
    assert is_promising([0.35], FINISHED, 0.799)
    assert not is_promising([0.35], FINISHED, 0.801)
    # Of two finished trials nothing is concluded.
    assert is_promising([0.0], FINISHED[:2], 0.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 0.2))
def test_a_better_curve_is_never_less_promising(curve, needed, more):
    better = [value + more for value in curve]
    assert is_promising(better, FINISHED, needed) or not is_promising(curve, FINISHED, needed)


def test_a_stopped_trial_is_worth_what_the_mean_gain_promises():
    done = [trial(i, max(curve), curve=curve) for i, curve in enumerate(FINISHED)]
    trials = [*done, trial(3, 0.35, "stopped", curve=(0.35,)), trial(4, None, "failed")]
    assert curves(trials) == FINISHED
    assert expected_values(trials, Goal()) == [0.6, 0.7, 0.7, pytest.approx(0.65), None]
    # What it was before the training is kept where no epoch reaches it.
    kept = trial(3, 0.68, "stopped", curve=(0.35,))
    assert expected_values([*done, kept], Goal())[3] == 0.68
    # Nothing is known without finished ones, and a loss does not follow from a curve of accuracies.
    assert expected_values(trials[3:4], Goal()) == [0.35]
    assert expected_values(trials, Goal(objective="loss"))[3] == 0.35


def test_what_changes_the_winner():
    # The winner is the smallest within 0.02 of the best: trial 1.
    trials = [trial(0, 0.80, params=30), trial(1, 0.79, params=20), trial(2, 0.9, "stopped", params=5)]

    def needed(params):
        return least_to_win(trials, Goal(), Cost(params=params, flops=1), 100, tolerance=0.02)

    assert needed(19) == pytest.approx(0.78)
    assert needed(20) == needed(99) == 0.80
    assert winner(trials, 100, 0.02).trial == 1
    assert least_to_win([], Goal(), Cost(params=1, flops=1), 100) == float("-inf")


def test_what_changes_a_front():
    goal = Goal(objective="pareto", cost=lambda config: None)
    trials = [trial(0, 0.8, flops=30), trial(1, 0.7, flops=20)]

    def needed(flops):
        return least_to_win(trials, goal, Cost(params=1, flops=flops), 100)

    assert (needed(19), needed(20), needed(29), needed(30)) == (float("-inf"), 0.7, 0.7, 0.8)
