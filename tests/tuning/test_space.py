import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tascnet.errors import ConfigError
from tascnet.tuning.space import Choice, Space, Unit
from tests.tuning.spaces import canonical_configs, small_space, spaces


def every_config(space, k):
    """All assignments, canonical or not, by brute force."""
    names = [choice.name for choice in space.choices]
    values = [choice.values for choice in space.choices]
    for first in range(0 if space.nested else k, k + 1):
        for exit in range(min(space.exits, k) + 1):
            for setting in itertools.product(*values):
                config = {"first_trained": first, **dict(zip(names, setting, strict=True))}
                yield {**config, "exit": exit} if space.has_exit else config


def network(space, config):
    """What a configuration builds, told independently of `canonical`."""
    exit = config.get("exit", 0)
    first = config["first_trained"] if config["first_trained"] > exit else 0
    parts = {("first_trained", first), ("exit", exit)}

    def setting(choice):
        is_next = space.has_exit and choice.what == "kept" and choice.unit == exit + 1
        fixed = is_next or (choice.whole_only and exit > 0)
        return choice.neutral if fixed else config[choice.name]

    choices = {choice.name: choice for choice in space.choices}
    for unit in [space.units[0], *space.units[exit + 1 : first + 1]]:
        for choice in unit.choices:
            other = choices.get(choice.only_if)
            if other is None or setting(other) >= choice.only_from:
                parts.add((choice.name, setting(choice)))
    return frozenset(parts)


def test_counts_of_the_small_space_by_hand():
    space = small_space()
    assert [space.count(k) for k in range(3)] == [3, 3 + 3 * 6, 3 + 3 * 6 + 3 * 6 * 9]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_network_has_exactly_one_canonical_configuration(data):
    space = data.draw(spaces())
    k = data.draw(st.integers(0, space.depth))
    pairs = {(network(space, c), space.key(c)) for c in itertools.islice(every_config(space, k), 2000)}
    networks = {net for net, _ in pairs}
    keys = {key for _, key in pairs}
    assert len(pairs) == len(networks) == len(keys)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_count_is_the_number_of_networks(data):
    space = data.draw(spaces().filter(lambda s: s.count(s.depth) < 400))
    k = data.draw(st.integers(0, space.depth))
    shallow = Space(space.units[: k + 1], nested=space.nested, exits=min(space.exits, k))
    assert space.count(k) == len({network(shallow, c) for c in every_config(shallow, k)})


@given(st.data())
def test_canonical_is_idempotent_and_names_the_same_network(data):
    space = data.draw(spaces())
    config = data.draw(canonical_configs(space))
    assert space.canonical(config) == config
    assert list(config) == list(space.names)
    deeper = space.choices[-1] if space.choices else None
    if deeper is not None and deeper.unit > config["first_trained"]:
        assert space.canonical({**config, deeper.name: deeper.values[0]}) == config


def test_canonical_resets_deeper_units_and_inactive_choices():
    config = {"first_trained": 1, "head.neurons": 128, "b.width": 8, "a.width": 8, "a.activation": "elu"}
    assert small_space().canonical(config) == {
        "first_trained": 1,
        "head.hidden_layers": 0,
        "head.neurons": 64,
        "b.width": 8,
        "b.kernel": 3,
        "a.width": 32,
        "a.activation": "relu",
    }


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_neighbours_are_canonical_different_and_within_depth(data):
    space = data.draw(spaces())
    k = data.draw(st.integers(0, space.depth))
    shallow = Space(space.units[: k + 1], exits=min(space.exits, k))
    config = space.canonical(data.draw(canonical_configs(shallow)))
    for near in space.neighbours(config, k):
        assert space.canonical(near) == near != config
        assert space.holds(near, k)


def test_neighbours_of_an_ordinal_are_the_values_beside_it():
    space = small_space()
    config = {**space.neutral(2), "b.width": 16, "a.activation": "elu"}
    near = space.neighbours(config, 2)
    assert {c["b.width"] for c in near if c["first_trained"] == 2} == {8, 16, 32}
    assert {c["b.width"] for c in space.neighbours({**config, "b.width": 8}, 2)} == {8, 16}
    assert {c["a.activation"] for c in near} == {"relu", "elu", "tanh"}
    # first_trained - 1, hidden layer on, two widths, one kernel, a width and two activations.
    assert len(near) == 1 + 1 + 2 + 1 + 1 + 2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_frontier_reaches_every_configuration_once(data):
    space = data.draw(spaces().filter(lambda s: s.count(s.depth) < 300))
    k = data.draw(st.integers(0, space.depth))
    start = data.draw(canonical_configs(space))
    reached = {space.key(config) for config in space.frontier([start], k)}
    assert len(reached) == space.count(k) - space.holds(start, k)


def test_without_nesting_a_depth_trains_exactly_its_units():
    space = Space(small_space().units, nested=False)
    # The settings of the head, of units 0 and 1, and of all three.
    assert [space.count(k) for k in range(3)] == [3, 3 * 6, 3 * 6 * 9]
    assert {config["first_trained"] for config in space.sample(30, 1, 0)} == {1}
    assert space.neighbours(space.neutral(1), 2) == [space.neutral(2)]
    assert all(config["first_trained"] == 2 for config in space.neighbours(space.neutral(2), 2))


def test_a_choice_matters_from_the_value_that_it_names():
    layers = Choice(name="h.layers", values=(1, 2, 3), neutral=1, kind="ordinal", unit=0)
    second, third = (
        Choice(
            name=f"h.neurons{n}",
            values=(64, 128),
            neutral=64,
            kind="ordinal",
            unit=0,
            only_if="h.layers",
            only_from=n,
        )
        for n in (2, 3)
    )
    space = Space((Unit(index=0, block=0, choices=(layers, second, third)),))
    # One layer: 1 network; two: 2; three: 2 x 2.
    assert space.count(0) == 1 + 2 + 4
    config = {"first_trained": 0, "h.layers": 2, "h.neurons2": 128, "h.neurons3": 128}
    assert space.canonical(config)["h.neurons2"] == 128
    assert space.canonical(config)["h.neurons3"] == 64


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_samples_differ_depend_on_the_seed_and_extend_each_other(method):
    space = small_space()
    ten = space.sample(10, 2, seed=3, method=method)
    assert len({space.key(config) for config in ten}) == 10
    assert space.sample(4, 2, seed=3, method=method) == ten[:4]
    assert space.sample(10, 2, seed=4, method=method) != ten


def test_sampling_avoids_the_excluded_and_ends_when_nothing_is_left():
    space = small_space()
    first = space.sample(15, 1, seed=0)
    rest = space.sample(100, 1, seed=0, exclude=first)
    assert len(rest) == space.count(1) - 15
    assert not {space.key(c) for c in first} & {space.key(c) for c in rest}
    assert space.sample(1, 1, seed=0, exclude=[*first, *rest]) == []


def test_quasi_random_points_cover_the_depths_evenly():
    firsts = [c["first_trained"] for c in itertools.islice(small_space()._draws(2, 0, "sobol"), 96)]
    assert [firsts.count(f) for f in range(3)] == pytest.approx([32, 32, 32], abs=2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"first_trained": 3}, "first_trained is 3, expected 0 to 2"),
        ({"first_trained": 0, "b.with": 8}, "no choice 'b.with'"),
        ({"first_trained": 1, "b.width": 9}, r"b.width is 9, expected one of \(8, 16, 32\)"),
    ],
)
def test_a_foreign_configuration_is_refused(config, said):
    with pytest.raises(ConfigError, match=said):
        small_space().canonical(config)


def test_a_wrong_space_is_refused():
    choice = Choice(name="a.width", values=(1, 2), neutral=2, kind="ordinal", unit=0)
    with pytest.raises(ConfigError, match="expected 0, 1"):
        Space((Unit(index=1, block=0, choices=()),))
    with pytest.raises(ConfigError, match="same name"):
        Space((Unit(index=0, block=0, choices=(choice, choice)),))
    with pytest.raises(ConfigError, match="none of"):
        Choice(name="x", values=(1,), neutral=2, kind="ordinal", unit=0)
    with pytest.raises(ConfigError, match="not ascending"):
        Choice(name="x", values=(2, 1), neutral=2, kind="ordinal", unit=0)


def test_narrowed_settings_have_the_nearest_widths_of_the_units_that_are_trained():
    space = small_space()
    assert space.narrowed(0.5, 2) == {**space.neutral(2), "a.width": 16, "b.width": 16}
    assert space.narrowed(0.5, 1) == {**space.neutral(1), "b.width": 16}
    # 12 lies between 8 and 16: the smaller one.
    assert space.narrowed(0.375, 1) == {**space.neutral(1), "b.width": 8}
    assert space.narrowed(0.5, 0) == space.neutral(0)


def test_counts_with_exits_by_hand():
    # Without an exit 3, 3 x 6 and 3 x 6 x 9 networks, trained from units 0, 1 and 2; without unit 1 the head
    # alone, or unit 2 as well; without both the head alone.
    space = small_space(exits=2)
    assert [space.count(k) for k in range(3)] == [3, 3 + 18 + 3, 3 + 18 + 162 + (3 + 3 * 9) + 3]
    # Depth 2 without the last exit.
    assert small_space(exits=1).count(2) == 3 + 18 + 162 + (3 + 3 * 9)


def test_units_behind_an_exit_are_neutral_and_not_trained():
    space = small_space(exits=2)
    config = {"first_trained": 2, "exit": 1, "b.width": 8, "a.width": 8, "head.hidden_layers": 1}
    expected = {**space.neutral(2, 1), "a.width": 8, "head.hidden_layers": 1}
    assert space.canonical(config) == expected
    assert space.canonical({**config, "exit": 2}) == {**space.neutral(0, 2), "head.hidden_layers": 1}
    assert (space.cut(expected), space.cut(space.neutral(0, 2)), space.cut(space.neutral())) == (1, 1, 5)
    assert space.cut(space.neutral(0, 1)) == 3
    assert [space.depth_of(space.neutral(*at)) for at in ((0, 0), (1, 0), (0, 2), (2, 1))] == [0, 1, 2, 2]
    assert [space.holds(space.neutral(0, 1), k) for k in range(3)] == [False, True, True]
    assert space.narrowed(0.5, 2, 1) == {**space.neutral(2, 1), "a.width": 16}


def test_a_configuration_without_exit_ends_where_the_network_does():
    space = small_space(exits=1)
    assert space.canonical({"first_trained": 1, "b.width": 8})["exit"] == 0
    assert "exit" not in small_space().neutral()


@pytest.mark.parametrize(
    ("exits", "config", "said"),
    [
        (1, {"first_trained": 0, "exit": 2}, "exit is 2, expected 0 to 1"),
        (0, {"first_trained": 0, "exit": 0}, "no choice 'exit'"),
    ],
)
def test_a_foreign_exit_is_refused(exits, config, said):
    with pytest.raises(ConfigError, match=said):
        small_space(exits).canonical(config)


def test_only_nested_spaces_have_exits_and_none_beyond_the_deepest_unit():
    units = small_space().units
    with pytest.raises(ConfigError, match="3 exits, expected 0 to 2"):
        Space(units, exits=3)
    with pytest.raises(ConfigError, match="1 exits, expected 0 to 0"):
        Space(units, nested=False, exits=1)


def test_quasi_random_points_cover_the_exits_evenly():
    exits = [c["exit"] for c in itertools.islice(small_space(2)._draws(2, 0, "sobol"), 96)]
    assert [exits.count(e) for e in range(3)] == pytest.approx([32, 32, 32], abs=2)
