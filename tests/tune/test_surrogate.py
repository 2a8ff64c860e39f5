import pytest
import torch

from tascnet.tune.space import Choice, Space, Unit
from tascnet.tune.surrogate import propose, standardise
from tests.tune.spaces import small_space

KINDS = [("matern", "onehot"), ("rbf", "onehot"), ("matern", "index"), ("mixed", "index")]


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
        (config,) = propose(space, 2, observed, [], 1, seed)
        observed.append((config, accuracy(config)))
    assert max(value for _, value in observed) == pytest.approx(0.9)


@pytest.mark.parametrize(("kernel", "coding"), KINDS)
def test_every_kernel_and_coding_proposes_something_new(kernel, coding):
    space = small_space()
    observed = observe(space, 8)
    (config,) = propose(space, 2, observed, [], 1, 0, kernel=kernel, coding=coding)
    assert space.key(config) not in {space.key(c) for c, _ in observed}


def test_a_proposal_is_a_pure_function_of_its_arguments():
    space = small_space()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = propose(space, 2, observe(space, 8), [], 2, 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert propose(space, 2, observe(space, 8), [], 2, 5) == one


def test_proposals_are_canonical_new_and_within_depth():
    space = small_space()
    observed = observe(space, 6, k=1)
    pending = space.sample(2, 1, 9, exclude=[config for config, _ in observed])
    proposed = propose(space, 1, observed, pending, 4, 0)
    known = {space.key(config) for config in [*(c for c, _ in observed), *pending]}
    assert len({space.key(config) for config in proposed} - known) == 4
    assert all(space.canonical(c) == c and c["first_trained"] <= 1 for c in proposed)


def test_deeper_observations_inform_a_shallower_depth():
    space = small_space()
    (config,) = propose(space, 1, observe(space, 8), [], 1, 0)
    assert config["first_trained"] <= 1


@pytest.mark.parametrize("left", [0, 1, 3])
def test_it_stops_when_every_configuration_is_known(left):
    space = small_space()
    everything = space.sample(space.count(1), 1, 0)
    known = everything[: len(everything) - left]
    proposed = propose(space, 1, [(c, accuracy(c)) for c in known], [], 5, 0)
    assert {space.key(c) for c in proposed} == {space.key(c) for c in everything[len(known) :]}


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [None, None], [None, 0.5]])
def test_without_two_different_values_it_is_quasi_random(values):
    space = small_space()
    known = space.sample(len(values), 2, 0)
    proposed = propose(space, 2, list(zip(known, values, strict=True)), [], 3, 7)
    assert proposed == space.sample(3, 2, 7, exclude=known)


def test_failures_count_as_the_worst_value_seen():
    # 0.6, 0.6, 0.9: mean 0.7, squares 0.01 + 0.01 + 0.04, deviation sqrt(0.06 / 2).
    expected = torch.tensor([[0.9 - 0.7], [0.6 - 0.7], [0.6 - 0.7]], dtype=torch.float64) / 0.03**0.5
    torch.testing.assert_close(standardise([0.9, None, 0.6]), expected)
    assert standardise([0.9, None, 0.6]).dtype == torch.float64


def test_a_region_of_failures_is_avoided():
    space = small_space()
    observed = [(c, None if c["a.activation"] == "tanh" else v) for c, v in observe(space, 25)]
    proposed = propose(space, 2, observed, [], 4, 0)
    assert all(config["a.activation"] != "tanh" for config in proposed)


def test_a_large_space_is_never_enumerated():
    choices = tuple(
        Choice(name=f"c{i}.width", values=tuple(range(8, 72, 8)), neutral=64, kind="ordinal", unit=1)
        for i in range(20)
    )
    space = Space((Unit(index=0, block=1, choices=()), Unit(index=1, block=0, choices=choices)))
    assert space.count(1) == 1 + 8**20
    observed = [(c, -sum(abs(v - 40) for v in space.key(c)[1:])) for c in space.sample(6, 1, 0)]
    assert len(propose(space, 1, observed, [], 1, 0)) == 1
