import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tascnet.options import Tune
from tascnet.tuning.choices import discover_units
from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.space import Space
from tests.models.toys import EXAMPLE, TOYS
from tests.tuning.spaces import canonical_configs, small_space, spaces
from tests.tuning.test_discover import OPTIONS


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_different_configurations_are_different_points(data):
    space = data.draw(spaces())
    k = data.draw(st.integers(0, space.depth))
    shallow = Space(space.units[: k + 1], exits=min(space.exits, k))
    configs = [space.canonical(data.draw(canonical_configs(shallow))) for _ in range(3)]
    points = encode(space, configs, k)
    assert points.shape == (3, len(columns(space, k)))
    assert points.dtype == torch.float64
    assert ((points >= 0) & (points <= 1)).all()
    assert_distinct(space, configs, points)


def assert_distinct(space, configs, points):
    """Two points are equal where the configurations are, and nowhere else."""
    assert len({tuple(row) for row in points.tolist()}) == len({space.key(config) for config in configs})


def test_columns_of_the_small_space_by_hand():
    space = small_space()
    config = {**space.neutral(2), "head.hidden_layers": 1, "b.width": 16, "a.activation": "elu"}
    # first_trained, hidden_layers, neurons, width 16 of 8 to 32 (by its logarithm the middle), kernel,
    # width, and relu, elu, tanh.
    assert encode(space, [config], 2).tolist() == [[1.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0]]
    assert columns(space, 2) == (
        *("first_trained", "head.hidden_layers", "head.neurons", "b.width", "b.kernel", "a.width"),
        *("a.activation", "a.activation", "a.activation"),
    )


def test_shallower_depths_have_fewer_columns():
    space = small_space()
    assert [len(columns(space, k)) for k in range(3)] == [2, 5, 9]
    assert encode(space, [space.neutral()], 0).tolist() == [[0.0, 0.0]]
    assert encode(space, [], 1).shape == (0, 5)


def test_an_exit_is_a_column_by_rank():
    space = small_space(exits=2)
    configs = [space.neutral(2), space.neutral(2, 1), space.neutral(0, 2)]
    assert columns(space, 2)[:2] == ("first_trained", "exit")
    assert encode(space, configs, 2)[:, :2].tolist() == [[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]]
    # At depth 0 there is nothing to choose, and a space without exits has no column for them.
    assert columns(space, 0) == ("head.hidden_layers", "head.neurons")
    assert "exit" not in columns(small_space(), 2)


def test_columns_of_our_own_space_by_hand():
    options = {
        **OPTIONS,
        "lr_factors": (0.1, 10),
        "head": "search",
        "grow_norms": ("none", "l2"),
    }
    space = Space(discover_units(TOYS["residual"](), EXAMPLE, Tune(**options), 1))
    names = [choice.name for choice in space.choices]
    assert names == [
        "head.hidden_layers",
        "head.neurons",
        "head.dropout",
        "head.grown",
        "head.norm",
        "tail.lr",
        "b1.kept",
        "b1.body.conv1.width",
        "b1.kernel",
        "b1.activation",
    ]
    changes = {"head.grown": 1, "head.norm": "l2", "tail.lr": 0.1, "b1.body.conv1.width": 8}
    config = space.canonical({**space.neutral(1), **changes})
    # Zero among the values: by rank. Multiples of the learning rate 0.1, 1, 10 and the widths 4, 8, 12: by
    # their logarithm, log 2 / log 3 for 8. The neutral setting of a block is to be kept. The last two columns
    # are those of relu, the neutral activation, and of elu.
    expected = [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, math.log(2) / math.log(3), 0.0, 1.0, 0.0]]
    torch.testing.assert_close(encode(space, [config], 1), torch.tensor(expected).double())
    removed = space.canonical({**config, "b1.kept": 0, "tail.lr": 1.0, "head.grown": 0})
    # A removed block's other choices are neutral, as is the normalisation of a head that does not grow.
    expected = [[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0]]
    torch.testing.assert_close(encode(space, [removed], 1), torch.tensor(expected).double())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_different_configurations_of_our_own_space_are_different_points(data):
    options = Tune(**OPTIONS, lr_factors=(0.3, 3), head="search")
    space = Space(discover_units(TOYS["residual"](), EXAMPLE, options))
    configs = [data.draw(canonical_configs(space)) for _ in range(4)]
    assert_distinct(space, configs, encode(space, configs, space.depth))
