import pytest

from tascnet.tuning.trials import median_stop

# Averages over the first two epochs: 0.3, 0.4, 0.6; their median is 0.4.
OTHERS = [[0.2, 0.4, 0.9], [0.3, 0.5, 0.5], [0.6, 0.6, 0.1]]


def stops(curve, others=OTHERS, stop_epoch=1, stop_trials=3):
    return median_stop(curve, others, stop_epoch=stop_epoch, stop_trials=stop_trials)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.39, 0.1], True),
        # The best until then counts, not the last.
        ([0.41, 0.1], False),
        # Strictly below.
        ([0.1, 0.4], False),
        # After three epochs the averages are 0.5, 13/30 and 13/30.
        ([0.41, 0.1, 0.2], True),
        ([0.44, 0.1, 0.2], False),
    ],
)
def test_the_best_so_far_is_held_against_the_median_of_averages(curve, expected):
    assert stops(curve) is expected


def test_it_waits_for_epochs_and_for_trials():
    assert stops([0.0, 0.0], stop_epoch=2)
    assert not stops([0.0, 0.0], stop_epoch=3)
    assert not stops([0.0, 0.0], stop_trials=4)
    assert not stops([], stop_epoch=0, stop_trials=0)


def test_only_trials_that_reached_the_epoch_count():
    assert not stops([0.0, 0.0], [*OTHERS[:2], [0.9]])
    # With the last one left out the median of 0.3 and 0.4 is 0.35.
    assert not stops([0.36, 0.0], [*OTHERS[:2], [0.9]], stop_trials=2)
    assert stops([0.34, 0.0], [*OTHERS[:2], [0.9]], stop_trials=2)
