import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from tascnet.tuning.acquisition import _staircase, infer_reference_point, is_non_dominated
from tascnet.tuning.goal import Goal, KnownCosts, Slim
from tascnet.tuning.propose import _Evidence, _learn, propose
from tascnet.tuning.space import Choice, Space, Unit
from tests.tuning.spaces import enumerable_space, small_space
from tests.tuning.spaces import observed as told


def ask(space, k, pairs, pending, n, seed, **options):
    """Configurations, from observed pairs of configuration and value."""
    return propose(space, k, told(pairs), pending, n, seed, **options)[0]


def accuracy(config):
    """Best, at 0.9, where unit 2 is trained with width 16 and elu and unit 1 has width 8."""
    score = 0.5 + 0.1 * config["first_trained"]
    score += 0.1 * (config["a.width"] == 16) + 0.05 * (config["a.activation"] == "elu")
    return score + 0.05 * (config["b.width"] == 8)


def observe(space, n, k=2, seed=0):
    return [(config, accuracy(config)) for config in space.sample(n, k, seed)]


def test_it_finds_the_best_region_of_a_small_space():
    space = small_space()
    observed = observe(space, 12)
    assert max(value for _, value in observed) < 0.89
    for seed in range(6):
        (config,) = ask(space, 2, observed, [], 1, seed)
        observed.append((config, accuracy(config)))
    assert max(value for _, value in observed) == pytest.approx(0.9)


def test_a_proposal_is_a_pure_function_of_its_arguments():
    space = small_space()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = propose(space, 2, told(observe(space, 8)), [], 2, 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert propose(space, 2, told(observe(space, 8)), [], 2, 5) == one


def test_proposals_are_canonical_new_and_within_depth():
    space = small_space()
    observed = observe(space, 6, k=1)
    pending = space.sample(2, 1, 9, exclude=[config for config, _ in observed])
    proposed = ask(space, 1, observed, pending, 4, 0)
    known = {space.key(config) for config in [*(c for c, _ in observed), *pending]}
    assert len({space.key(config) for config in proposed} - known) == 4
    assert all(space.canonical(c) == c and c["first_trained"] <= 1 for c in proposed)


def test_deeper_observations_inform_a_shallower_depth():
    space = small_space()
    (config,) = ask(space, 1, observe(space, 8), [], 1, 0)
    assert config["first_trained"] <= 1


@pytest.mark.parametrize("left", [0, 1, 3])
def test_it_stops_when_every_configuration_is_known(left):
    space = small_space()
    everything = space.sample(space.count(1), 1, 0)
    known = everything[: len(everything) - left]
    proposed = ask(space, 1, [(c, accuracy(c)) for c in known], [], 5, 0)
    assert {space.key(c) for c in proposed} == {space.key(c) for c in everything[len(known) :]}


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [None, None], [None, 0.5]])
def test_without_two_different_values_it_is_quasi_random(values):
    space = small_space()
    known = space.sample(len(values), 2, 0)
    proposed, surrogate = propose(space, 2, told(zip(known, values, strict=True)), [], 3, 7)
    assert proposed == space.sample(3, 2, 7, exclude=known)
    assert surrogate is None


def test_a_region_of_failures_is_avoided():
    space = small_space()
    observed = [(c, None if c["a.activation"] == "tanh" else v) for c, v in observe(space, 25)]
    proposed = ask(space, 2, observed, [], 4, 0)
    assert all(config["a.activation"] != "tanh" for config in proposed)


def test_a_large_space_is_never_enumerated():
    choices = tuple(
        Choice(name=f"c{i}.width", values=tuple(range(8, 72, 8)), neutral=64, kind="ordinal", unit=1)
        for i in range(20)
    )
    space = Space((Unit(index=0, block=1, choices=()), Unit(index=1, block=0, choices=choices)))
    assert space.count(1) == 1 + 8**20
    observed = [(c, -sum(abs(v - 40) for v in space.key(c)[1:])) for c in space.sample(6, 1, 0)]
    assert len(ask(space, 1, observed, [], 1, 0)) == 1


@dataclass(frozen=True)
class Cost:
    params: int
    flops: int


def cost(config):
    return Cost(params=config["a.width"], flops=1000 * config["a.width"] + 10 * config["b.width"])


def test_failures_count_as_the_worst_value_seen():
    space = small_space()
    configs = space.sample(3, 2, 0)
    known = _Evidence(space, 2, told(zip(configs, [0.9, None, 0.6], strict=True)), [], Goal())
    # 0.6, 0.6, 0.9: mean 0.7, squares 0.01 + 0.01 + 0.04, deviation sqrt(0.06 / 2).
    expected = torch.tensor([[0.9 - 0.7], [0.6 - 0.7], [0.6 - 0.7]], dtype=torch.float64) / 0.03**0.5
    torch.testing.assert_close(known.values(), expected)


def test_trials_at_one_depth_inform_the_first_proposal_at_the_next():
    """The head decides nearly all: whatever unit 2 is proposed with comes with the best head seen."""
    space = small_space()
    heads = {(0, 64): 0.5, (1, 64): 0.6, (1, 128): 0.9}
    observed = [
        (c, heads[c["head.hidden_layers"], c["head.neurons"]] - 0.001 * c["first_trained"])
        for c in space.sample(14, 1, 0)
    ]
    best = {"head.hidden_layers": 1, "head.neurons": 128}
    (config,) = ask(space, 2, observed, [], 1, 0)
    assert {name: config[name] for name in best} == best
    # The same trials with the opposite values.
    (other,) = ask(space, 2, [(c, -v) for c, v in observed], [], 1, 0)
    assert {name: other[name] for name in best} == {"head.hidden_layers": 0, "head.neurons": 64}
    assert ask(space, 2, [], [], 1, 0) != [config]


def test_spaces_that_do_not_nest_are_learnt_from_at_other_depths():
    space = Space(small_space().units, nested=False)
    observed = [*observe(space, 3, k=0), *observe(space, 6, k=1)]
    (config,) = ask(space, 2, observed, [], 1, 0)
    assert config["first_trained"] == 2
    (config,) = ask(space, 0, observed[1:], [], 1, 0)
    assert config == observed[0][0]


def test_no_proposal_is_beyond_a_bound_that_is_known_exactly():
    space = small_space()
    goal = Goal(cost=KnownCosts(cost), max_params=16, max_flops=16_160)
    observed = [(c, v) for c, v in observe(space, 120) if goal.is_feasible(c)]
    proposed = ask(space, 2, observed, [], 1000, 0, goal=goal)
    everything = space.sample(space.count(2), 2, 0)
    left = {space.key(c) for c in everything if goal.is_feasible(c)} - {space.key(c) for c, _ in observed}
    assert {space.key(c) for c in proposed} == left


def test_costs_are_asked_for_few_of_the_points():
    """A cost may take long: only the best by acquisition are looked at."""
    choices = tuple(
        Choice(name=f"c{i}.width", values=(8, 16, 32, 64), neutral=64, kind="ordinal", unit=1)
        for i in range(8)
    )
    space = Space((Unit(index=0, block=1, choices=()), Unit(index=1, block=0, choices=choices)))
    asked = []
    goal = Goal(
        cost=KnownCosts(
            lambda c: asked.append(c) or Cost(params=sum(c[choice.name] for choice in choices), flops=1)
        ),
        max_params=400,
    )
    observed = [(c, 0.1 * math.log(c["c0.width"])) for c in space.sample(8, 1, 0) if goal.is_feasible(c)]
    asked.clear()
    ask(space, 1, observed, [], 1, 0, goal=goal)
    assert 0 < len(asked) < 100


def latency(config):
    """1 to 4 ms by the width of unit 2."""
    return config["a.width"] / 8


def timed(space, n, bound):
    """What a bound on latency leaves: slow points are not trained."""
    trials = []
    for trial in told(observe(space, n)):
        slow = {"status": "infeasible", "value": None, "val_accuracy": None, "reason": "slow"}
        ms = latency(trial.config)
        trials.append(replace(trial, latency_ms=ms, **(slow if ms > bound else {})))
    return trials


def test_slow_points_are_avoided_though_their_value_is_unknown():
    space = small_space()
    goal = Goal(max_latency_ms=2.5)
    observed = timed(space, 16, 2.5)
    assert any(trial.value is None for trial in observed)
    configs, surrogate = propose(space, 2, observed, [], 4, 0, goal=goal)
    assert all(latency(config) <= 2.5 for config in configs)
    assert set(surrogate) == {"value", "latency"}
    # The slow ones are no bad ones: without the bound the wide networks are as likely.
    assert len(_Evidence(space, 2, observed, [], goal).tried) < len(observed)


def test_before_anything_was_fast_enough_the_probable_is_sought():
    space = small_space()
    observed = [trial for trial in timed(space, 40, 1.5) if trial.value is None][:8]
    goal = Goal(max_latency_ms=1.5)
    configs, surrogate = propose(space, 2, observed, [], 1, 0, goal=goal)
    assert [latency(config) for config in configs] == [1.0]
    assert set(surrogate) == {"latency"}


def test_pareto_seeks_what_enlarges_the_front():
    """Accuracy and cost both grow with the width of unit 2; nothing else matters to either."""
    space = small_space()
    goal = Goal(objective="pareto", cost=KnownCosts(cost))

    def value(config):
        return 0.1 * math.log2(config["a.width"])

    observed = [(c, value(c)) for c in space.sample(30, 2, 0) if c["a.width"] != 8]
    configs = ask(space, 2, observed, [], 3, 0, goal=goal)
    assert len({space.key(config) for config in configs}) == 3
    # Only the narrowest is cheaper than what is known.
    assert configs[0]["a.width"] == 8


def test_the_hypervolume_is_that_of_values_and_exact_costs():
    """Against the closed form of two dimensions, for points whose values are known nearly exactly."""
    space = small_space()
    goal = Goal(objective="pareto", cost=KnownCosts(cost))
    configs = [c for c in space.sample(60, 2, 0) if c["first_trained"] == 2]
    observed = told((c, 0.1 * math.log2(c["a.width"])) for c in configs if c["a.width"] != 16)
    known = _Evidence(space, 2, observed, [], goal)
    assert known.points(configs)[:, -1].argmin() == max(
        range(len(configs)), key=lambda i: cost(configs[i]).flops
    )
    learnt, _ = _learn(known, {})
    between, dominated = ({**configs[0], "a.width": w, "b.width": b} for w, b in ((16, 8), (32, 32)))
    values = learnt.acquisition(known, None, 0)(known.points([between, dominated]))
    assert values[0] > values[1] + math.log(10)


def test_the_front_is_a_staircase_from_the_reference_on():
    points = torch.tensor([[0.5, 3.0], [0.7, 1.0], [0.4, 2.0], [-1.0, 5.0], [0.9, -2.0]])
    levels, starts, ends = _staircase(points, torch.tensor([0.0, 0.0]))
    assert levels.tolist() == pytest.approx([0.7, 0.5, 0.5, 0.0])
    assert starts.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert ends.tolist()[:3] == [1.0, 2.0, 3.0]
    # Nothing above the reference: one step without an end.
    levels, starts, ends = _staircase(points[-2:], torch.tensor([0.0, 0.0]))
    assert (levels.tolist(), starts.tolist()) == ([0.0], [0.0])


def area(points, reference):
    """Of the union of rectangles from the reference to each point, counted by columns of the grid."""
    edges = sorted({reference[1], *(c for v, c in points if v > reference[0] and c > reference[1])})
    tops = [max([v for v, c in points if c >= right], default=0.0) for right in edges[1:]]
    widths = [right - left for left, right in pairwise(edges)]
    return sum(w * max(top - reference[0], 0.0) for w, top in zip(widths, tops, strict=True))


@pytest.mark.parametrize("reference", [None, (0.05, 70_000.0)])
def test_the_expected_hypervolume_agrees_with_samples(reference):
    space = small_space()
    goal = Goal(objective="pareto", cost=KnownCosts(cost), reference=reference)
    seen = space.sample(10, 2, 3)
    known = _Evidence(space, 2, told((c, accuracy(c)) for c in seen), [], goal)
    learnt, _ = _learn(known, {})
    new = known.points([c for c in space.sample(30, 2, 4) if c not in seen][:6])
    means = learnt.model.posterior(learnt.X).mean.squeeze(-1)
    front = list(zip(means.tolist(), learnt.X[:, -1].tolist(), strict=True))
    corner = known.reference
    if corner is None:
        points = torch.tensor(front)
        corner = infer_reference_point(points[is_non_dominated(points)])
    posterior = learnt.model.posterior(new)
    normal = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = []
    for mean, deviation, column in zip(posterior.mean, posterior.variance.sqrt(), new[:, -1], strict=True):
        draws = (mean + deviation * normal).tolist()
        more = [area([*front, (y, float(column))], corner.tolist()) for y in draws]
        expected.append(sum(more) / len(more) - area(front, corner.tolist()))
    found = learnt.acquisition(known, None, 0)(new).exp().tolist()
    assert found == pytest.approx(expected, rel=0.15, abs=0.01)
    assert max(expected) > 0.01


def test_a_reference_leaves_out_what_is_worse_than_it():
    """The narrowest is far cheaper, and less accurate than what is to be had without a search."""
    space = small_space()

    def value(config):
        return {8: 0.2, 16: 0.6, 32: 0.7}[config["a.width"]]

    observed = [(c, value(c)) for c in space.sample(40, 2, 0) if c["a.width"] != 8 or c["b.width"] == 32]
    costs = [cost(c).flops for c, _ in observed]
    with_reference = Goal(objective="pareto", cost=KnownCosts(cost), reference=(0.5, max(costs)))
    widths = {
        goal: [c["a.width"] for c in ask(space, 2, observed, [], 2, 0, goal=goal)]
        for goal in (Goal(objective="pareto", cost=KnownCosts(cost)), with_reference)
    }
    anywhere, above = widths.values()
    assert 8 in anywhere
    assert 8 not in above


def test_slim_proposals_are_smaller_than_the_smallest_near_the_best():
    """Accuracy does not depend on the width of unit 1, and falls below 32 channels of unit 2."""
    space = small_space()

    def value(config):
        return 0.8 if config["a.width"] == 32 else 0.6

    def cost(config):
        return Cost(params=config["a.width"] + config["b.width"], flops=1)

    everything = space.sample(space.count(2), 2, 0)
    observed = [(c, value(c)) for c in everything if c["b.width"] != 8]
    goal = Goal(cost=KnownCosts(cost), slim=Slim(every=2, n_val=100, tolerance=0.05))
    near_best = [c for c, v in observed if v == 0.8]
    smallest = min(cost(c).params for c in near_best)
    (slim,) = ask(space, 2, observed, [], 1, 0, goal=goal, slim=True)
    assert slim["a.width"] == 32
    assert cost(slim).params == min(cost(c).params for c in everything if c["a.width"] == 32) < smallest


def test_workers_do_not_seek_the_same_smaller_network():
    space = enumerable_space()

    def cost(config):
        return Cost(params=1000 + sum(10 * config[f"u{unit}.width"] for unit in (1, 2)), flops=1)

    goal = Goal(cost=KnownCosts(cost), slim=Slim(every=2, n_val=100, tolerance=0.02))
    # A network with 200 parameters less than the best, of 2280, is no longer near it.
    observed = [(c, 0.8 + 1e-4 * cost(c).params) for c in space.sample(8, 2, 0)]
    (first,) = ask(space, 2, observed, [], 1, 0, goal=goal, slim=True)
    (second,) = ask(space, 2, observed, [first], 1, 0, goal=goal, slim=True)
    assert cost(first).params < 2280
    # What is being trained is expected to do, so only what is smaller still is sought.
    assert cost(second).params < cost(first).params


def test_a_trial_that_was_stopped_early_is_not_the_one_to_undercut():
    space = small_space()
    goal = Goal(
        cost=KnownCosts(lambda config: Cost(params=config["a.width"] + config["b.width"], flops=1)),
        slim=Slim(every=2, n_val=100, tolerance=1.0),
    )
    neutral = space.neutral(2)
    observed = told([(neutral, 0.9), ({**neutral, "a.activation": "elu"}, 0.91)])
    (smallest,) = told([({**neutral, "a.width": 8, "b.width": 8}, 0.5)])
    every_other = told(
        (c, None)
        for c in space.sample(space.count(2), 2, 0)
        if c not in (neutral, observed[1].config, smallest.config) and c["a.width"] + c["b.width"] < 24
    )
    stopped = [*observed, replace(smallest, status="stopped"), *every_other]
    ((slim,), _) = propose(space, 2, stopped, [], 1, 0, goal=goal, slim=True)
    assert 24 <= slim["a.width"] + slim["b.width"] < 64
    won = [*observed, smallest, *every_other]
    assert propose(space, 2, won, [], 1, 0, goal=goal, slim=True) == (
        propose(space, 2, won, [], 1, 0, goal=goal)
    )


def test_where_nothing_smaller_is_left_a_slim_proposal_seeks_a_better_one():
    space = small_space()
    goal = Goal(cost=KnownCosts(lambda config: Cost(params=1000, flops=1000)), slim=Slim(every=2, n_val=100))
    observed = observe(space, 12)
    one, other = (ask(space, 2, observed, [], 1, 0, goal=goal, slim=slim) for slim in (True, False))
    assert one == other


def test_a_fit_starts_where_the_last_one_ended(monkeypatch):
    space = small_space()
    observed = told(observe(space, 12))
    _, first = propose(space, 2, observed, [], 1, 0)
    assert set(first["value"]) == {"lengthscales", "noise", "mean"}
    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", lambda mll, **options: None)
    assert propose(space, 2, observed, [], 1, 0, start=first)[1] == first
    assert propose(space, 2, observed, [], 1, 0)[1] != first


def test_pending_points_move_the_next_proposal():
    space = small_space()
    observed = observe(space, 12)
    (first,) = ask(space, 2, observed, [], 1, 0)
    (second,) = ask(space, 2, observed, [first], 1, 0)
    assert second != first
    assert ask(space, 2, observed, [], 2, 0) == [first, second]
