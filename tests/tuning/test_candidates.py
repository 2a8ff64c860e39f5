"""Which network is handed over, by validation."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tascnet.run.records import CandidateRecord
from tascnet.tuning.candidates import choose, is_near

NAMES = ("baseline", "conventional", "winner", "best trial", "tuned")


def candidate(name, accuracy, params=100, *, fits=True, balanced=None, flops=100):
    return CandidateRecord(
        name=name,
        val_accuracy=accuracy,
        val_balanced_accuracy=balanced,
        params=params,
        flops=flops,
        fits=fits,
    )


def chosen(*candidates, tolerance=0.02, n_val=100, **own):
    return choose(candidates, n_val, tolerance, **own).name


def test_the_tuned_network_is_handed_over_while_it_is_near_the_best():
    # A smaller one that is as near does not matter: the tuned one is what was asked for.
    others = candidate("conventional", 0.85), candidate("winner", 0.84, 50)
    assert chosen(*others, candidate("tuned", 0.83, 60)) == "tuned"
    # 2.1 points below.
    assert chosen(*others, candidate("tuned", 0.829, 60)) == "winner"


def test_few_images_and_one_epoch_as_measured():
    """Baseline 29 %, a trial 30 %, conventional and the fine-tuned winner 16 %: the trial or the baseline."""
    found = [
        candidate("baseline", 0.29, 235),
        candidate("conventional", 0.16, 235),
        candidate("winner", 0.30, 120),
        candidate("tuned", 0.16, 120),
    ]
    assert chosen(*found) == "winner"
    found[2] = candidate("winner", 0.26, 120)
    assert chosen(*found) == "baseline"


def test_of_equally_small_ones_the_better_and_at_no_tolerance_the_best():
    found = candidate("baseline", 0.80, 235), candidate("conventional", 0.81, 235), candidate("tuned", 0.70)
    assert chosen(*found) == "conventional"
    assert chosen(*found, candidate("winner", 0.795, 50), tolerance=0.0) == "conventional"


def test_targets_may_force_more_loss():
    found = (
        candidate("conventional", 0.90, 235, fits=False),
        candidate("winner", 0.80, 50),
        candidate("tuned", 0.80, 50),
    )
    assert chosen(*found) == "tuned"
    better = candidate("best trial", 0.82, 60)
    assert chosen(*found, better) == "best trial"


def test_one_standard_error_of_the_best_without_a_tolerance():
    # sqrt(0.8 x 0.2 / 100) = 0.04.
    best = candidate("conventional", 0.8)
    assert is_near(candidate("tuned", 0.76), [best], 100, None)
    assert not is_near(candidate("tuned", 0.759), [best], 100, None)


def test_other_metric_and_other_size():
    found = (
        candidate("conventional", 0.9, 10, balanced=0.5, flops=30),
        candidate("best trial", 0.7, 30, balanced=0.81, flops=20),
        candidate("winner", 0.8, 20, balanced=0.8, flops=40),
        candidate("tuned", 0.9, 10, balanced=0.4),
    )
    assert chosen(*found, metric="balanced_accuracy") == "winner"
    assert chosen(*found, metric="balanced_accuracy", size="flops") == "best trial"


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 100), st.integers(1, 9), st.booleans()),
        min_size=len(NAMES),
        max_size=len(NAMES),
    ),
    tolerance=st.sampled_from([None, 0.0, 0.01, 0.05]),
)
def test_nothing_that_fits_is_better_by_more_than_the_tolerance(rows, tolerance):
    candidates = [
        candidate(name, accuracy / 100, params, fits=fits or name == "tuned")
        for name, (accuracy, params, fits) in zip(NAMES, rows, strict=True)
    ]
    found = choose(candidates, 400, tolerance)
    assert found.fits
    best = max(one.val_accuracy for one in candidates if one.fits)
    highest = max(one.val_accuracy for one in candidates)
    allowed = math.sqrt(highest * (1 - highest) / 400) if tolerance is None else tolerance
    assert found.val_accuracy >= best - allowed - 1e-9
