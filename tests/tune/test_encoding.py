import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tascnet.tune.encoding import categorical_columns, decode, encode, width
from tascnet.tune.space import Space
from tests.tune.spaces import canonical_configs, small_space, spaces

codings = st.sampled_from(["onehot", "index"])


@settings(max_examples=80, deadline=None)
@given(st.data(), codings)
def test_decoding_an_encoded_configuration_gives_it_back(data, coding):
    space = data.draw(spaces())
    k = data.draw(st.integers(0, space.depth))
    shallow = Space(space.units[: k + 1])
    configs = [space.canonical(data.draw(canonical_configs(shallow))) for _ in range(3)]
    points = encode(space, configs, k, coding)
    assert points.shape == (3, width(space, k, coding))
    assert points.dtype == torch.float64
    assert ((points >= 0) & (points <= 1)).all()
    assert decode(space, points, k, coding) == configs


def test_columns_of_the_small_space_by_hand():
    space = small_space()
    config = {**space.neutral(2), "head.hidden_layers": 1, "b.width": 16, "a.activation": "elu"}
    # first_trained, hidden_layers, neurons, width 16 of 8 to 32 (by its logarithm the middle), kernel,
    # width, and relu, elu, tanh.
    assert encode(space, [config], 2).tolist() == [[1.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0]]
    assert encode(space, [config], 2, "index").tolist() == [[1.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.5]]
    assert categorical_columns(space, 2, "index") == [6]
    assert categorical_columns(space, 2, "onehot") == [6, 7, 8]


def test_shallower_depths_have_fewer_columns():
    space = small_space()
    assert [width(space, k) for k in range(3)] == [2, 5, 9]
    assert encode(space, [space.neutral()], 0).tolist() == [[0.0, 0.0]]
    assert encode(space, [], 1).shape == (0, 5)
