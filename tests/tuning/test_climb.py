import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tascnet.tuning.climb import Values, _lines, climb
from tascnet.tuning.goal import Goal
from tascnet.tuning.propose import _best, _Evidence, _learn
from tests.tuning.spaces import canonical_configs, enumerable_space, observed, small_space, spaces


def everything(space, k):
    return space.sample(space.count(k), k, 0)


def number_of(configs):
    return [float(sum(v for v in c.values() if isinstance(v, int))) for c in configs]


def always(config):
    return True


def test_values_are_computed_in_one_batch_and_once():
    batches = []
    values = Values(lambda configs: batches.append(len(configs)) or [math.nan] * len(configs))
    configs = everything(small_space(), 1)
    assert values([*configs[:3], configs[0]]) == [-math.inf] * 4
    values(configs[:5])
    assert batches == [3, 2]


def test_it_climbs_to_the_top_of_a_monotone_function():
    space = small_space()
    top = climb(space, 2, Values(number_of), [space.neutral(0)], always)
    # The head, then unit 1 at its pre-trained width with the larger kernel, then unit 2.
    assert number_of([top]) == [max(number_of(everything(space, 2)))]


def test_pairs_of_steps_leave_a_ridge():
    space = small_space()

    def ridge(configs):
        """Better only where width and kernel of unit 1 change together."""
        return [float(c["b.width"] == 8 and c["b.kernel"] == 5) for c in configs]

    start = space.canonical({"first_trained": 1, "b.width": 16})
    assert ridge([climb(space, 1, Values(ridge), [start], always)]) == [1.0]


def test_what_is_not_allowed_is_never_given_and_asked_for_the_best_first():
    space = small_space()
    order = sorted(everything(space, 1), key=lambda c: -number_of([c])[0])
    asked = []

    def allowed(config):
        asked.append(config)
        return config != order[0]

    found = climb(space, 1, Values(number_of), everything(space, 1), allowed)
    assert number_of([found]) == number_of(order[1:2])
    assert asked[0] == order[0]
    assert climb(space, 1, Values(number_of), everything(space, 1), lambda config: False) is None
    assert climb(space, 1, Values(number_of), [], always) is None


@given(st.data())
def test_lines_are_canonical_and_differ_in_one_choice(data):
    space = data.draw(spaces())
    config = data.draw(canonical_configs(space))
    lines = _lines(space, space.depth, config)
    assert all(near == space.canonical(near) and list(near) == list(config) for near in lines)
    assert config not in lines
    near = {space.key(c) for c in space.neighbours(config, space.depth)} - {space.key(config)}
    assert near <= {space.key(c) for c in lines}


def test_other_depths_of_the_pool_are_not_given():
    space = small_space()
    assert climb(space, 1, Values(number_of), [space.neutral(2)], always) is None


@pytest.fixture(scope="module")
def enumerated():
    """A space and all of it: 12 heads, alone, with 32 settings of unit 1, and with 32 more of unit 2."""
    space = enumerable_space()
    assert space.count(2) == 12 * (1 + 32 + 32 * 32)
    return space, everything(space, 2)


def accuracies(configs, seed):
    """A gain of depth and a seeded effect of every setting, with noise."""
    generator = torch.Generator().manual_seed(seed)
    values = {(name, value) for config in configs for name, value in config.items()}
    effects = {key: float(torch.randn((), generator=generator)) for key in sorted(values, key=str)}
    return [0.8 + 0.02 * sum(effects[item] for item in config.items()) for config in configs]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_climbs_find_the_highest_acquisition_value_of_all(seed, enumerated):
    space, configs = enumerated
    seen = space.sample(15, 2, 0)
    known = _Evidence(space, 2, observed(zip(seen, accuracies(seen, seed), strict=True)), [], Goal())
    acquisition = _learn(known, {})[0].acquisition(known, None, 0)
    values = acquisition(known.points([c for c in configs if c not in known.configs]))
    found = _best(known, [], acquisition, 0)
    assert acquisition(known.points([found])).item() == pytest.approx(values.max().item(), abs=1e-9)
