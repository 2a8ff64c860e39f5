import math
from dataclasses import dataclass, replace

import pytest

from tascnet.errors import ConfigError, SurgeryError
from tascnet.run.records import Trial
from tascnet.tuning.goal import Goal, KnownCosts, Slim, winner
from tests.tuning.spaces import small_space


@dataclass(frozen=True)
class Cost:
    params: int
    flops: int


def cost(config):
    """A hundred params and a thousand FLOPs for each channel of both widths."""
    channels = config["a.width"] + config["b.width"]
    return Cost(params=100 * channels, flops=1000 * channels)


def config(a, b=32):
    return small_space().canonical({"first_trained": 2, "a.width": a, "b.width": b})


def test_the_value_is_larger_for_the_better():
    assert Goal().value(0.9, 0.3) == 0.9
    assert Goal(objective="loss").value(0.9, 0.3) == -0.3


def test_bounds_on_params_and_flops_are_inclusive():
    goal = Goal(cost=KnownCosts(cost), max_params=4800, max_flops=48_000)
    assert goal.is_feasible(config(16))
    assert goal.excess(config(16)) == 1.0
    assert not goal.is_feasible(config(32))
    # 64 channels: 64,000 of 48,000 FLOPs.
    assert goal.excess(config(32)) == pytest.approx(4 / 3)


def test_without_bounds_everything_is_feasible():
    assert Goal().is_feasible(config(32))
    assert Goal().excess(config(32)) == 0.0


def test_a_cost_is_computed_once_for_each_configuration():
    asked = []
    goal = Goal(cost=KnownCosts(lambda config: asked.append(config) or cost(config)), max_flops=50_000)
    for _ in range(3):
        goal.is_feasible(config(16))
        goal.excess(config(32))
    assert asked == [config(16), config(32)]


def test_what_cannot_be_built_is_outside_every_bound():
    def impossible(config):
        raise SurgeryError("the map is smaller than the kernel")

    goal = Goal(objective="pareto", cost=KnownCosts(impossible), max_params=10**9)
    assert goal.costs(config(8)) is None
    assert goal.excess(config(8)) == math.inf
    assert not goal.is_feasible(config(8))
    assert not Goal(objective="pareto", cost=KnownCosts(impossible)).is_feasible(config(8))


def test_latency_is_judged_when_it_is_known():
    goal = Goal(max_latency_ms=2.0)
    assert goal.is_feasible(config(32))
    assert [goal.is_too_slow(ms) for ms in (None, 2.0, 2.1)] == [False, False, True]
    assert not Goal().is_too_slow(1000.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_flops": 10}, "need a cost model"),
        ({"objective": "pareto"}, "need a cost model"),
        ({"slim": Slim(every=2, n_val=100)}, "need a cost model"),
        ({"cost": KnownCosts(cost), "max_params": 0}, "bound on params is 0"),
        ({"max_latency_ms": -1.0}, "bound on latency is -1.0"),
    ],
)
def test_contradictions_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        Goal(**options)


def test_slim_proposals_have_their_turns_and_a_margin():
    slim = Slim(every=3, n_val=400, tolerance=None)
    assert [number for number in range(9) if slim.is_due(number)] == [2, 5, 8]
    assert slim.margin(0.8) == pytest.approx(0.02)
    assert Slim(every=1, n_val=400, tolerance=0.01).margin(0.8) == 0.01


def test_the_metric_decides_which_trial_is_the_best_and_which_are_near():
    figures = [(0.90, 0.50, 30), (0.80, 0.70, 20), (0.95, 0.69, 10), (0.70, 0.60, 5)]
    trials = [
        Trial(
            trial=i,
            depth=1,
            config={},
            status="ok",
            value=balanced,
            val_accuracy=accuracy,
            val_balanced_accuracy=balanced,
            params=params,
        )
        for i, (accuracy, balanced, params) in enumerate(figures)
    ]
    assert winner(trials, 100, 0.02, metric="balanced_accuracy").trial == 2
    assert winner(trials, 100, 0.0, metric="balanced_accuracy").trial == 1
    # One standard error of 0.7 on 21 samples is 0.1; on 84 it is half of that.
    assert winner(trials, 20.9, metric="balanced_accuracy").trial == 3
    assert winner(trials, 84, metric="balanced_accuracy").trial == 2
    plain = [replace(trial, value=trial.val_accuracy) for trial in trials]
    assert winner(plain, 100, 0.06).trial == 2
