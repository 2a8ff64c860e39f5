"""Kernels, activations, layer names and channel scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.layers import Conv2dSame
from tascnet.surgery import (
    CRITERIA,
    WidthGroup,
    activation_name,
    activations,
    all_channel_scores,
    block_of,
    layer_widths,
    replace_layer,
    set_activation,
    set_kernel,
    spatial_convs,
    width_groups,
)
from tests.models.toys import EXAMPLE, TOYS, body, conv, output, settle
from tests.surgery.networks import NETWORKS


@given(
    old=st.sampled_from([1, 3, 5]),
    new=st.sampled_from([3, 5, 7]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    depthwise=st.booleans(),
    side=st.integers(6, 11),
)
def test_a_larger_kernel_keeps_the_function(
    old: int, new: int, stride: int, dilation: int, depthwise: bool, side: int
) -> None:
    if new < old:
        return
    padding = (old - 1) // 2 * dilation
    layer = nn.Conv2d(
        4, 4, old, stride=stride, padding=padding, dilation=dilation, groups=4 if depthwise else 1
    )
    x = torch.rand(2, 4, side, side)
    grown = set_kernel(layer, new)
    assert grown.kernel_size == (new, new)
    torch.testing.assert_close(grown(x), layer(x))


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 4), (2, 2, 1)])
def test_a_smaller_kernel_is_the_centre_and_keeps_the_map(stride: int, dilation: int, groups: int) -> None:
    layer = nn.Conv2d(
        4, 4, 5, stride=stride, padding=2 * dilation, dilation=dilation, groups=groups, bias=False
    )
    small = set_kernel(layer, 3)
    assert torch.equal(small.weight, layer.weight[:, :, 1:4, 1:4])
    x = torch.rand(1, 4, 9, 9)
    assert small(x).shape == layer(x).shape
    assert torch.equal(set_kernel(small, 1).weight[:, :, 0, 0], layer.weight[:, :, 2, 2])


def test_set_kernel_keeps_freeze_mode_and_format_and_shares_nothing() -> None:
    layer = conv(4, 4, bias=True).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    for size in (1, 3, 5):
        new = set_kernel(layer, size)
        assert not new.training
        assert not new.weight.requires_grad
        assert not new.bias.requires_grad
        assert new.weight.is_contiguous(memory_format=torch.channels_last)
        assert new.weight.data_ptr() != layer.weight.data_ptr()
        assert new.bias.data_ptr() != layer.bias.data_ptr()


@pytest.mark.parametrize(
    ("old", "new", "stride", "side"), [(3, 5, 1, 8), (3, 7, 2, 8), (3, 5, 2, 7), (5, 7, 3, 9)]
)
def test_padding_that_follows_the_input_stays_with_another_kernel(
    old: int, new: int, stride: int, side: int
) -> None:
    layer = Conv2dSame(4, 6, old, stride, groups=2)
    grown = set_kernel(layer, new)
    assert type(grown) is Conv2dSame
    x = torch.rand(2, 4, side, side)
    torch.testing.assert_close(grown(x), layer(x))
    assert torch.equal(set_kernel(grown, old).weight, layer.weight)
    chain = nn.Sequential(layer, Conv2dSame(6, 6, 3, 4))
    assert spatial_convs(chain) == {0: ["0"]}


def test_impossible_kernels_are_refused() -> None:
    with pytest.raises(SurgeryError, match="odd"):
        set_kernel(conv(3, 3), 2)
    with pytest.raises(SurgeryError, match="odd"):
        set_kernel(nn.Conv2d(3, 3, 4), 3)
    with pytest.raises(SurgeryError, match="map's size"):
        set_kernel(nn.Conv2d(3, 3, 3), 1)


def test_spatial_convs_by_block() -> None:
    assert spatial_convs(TOYS["residual"]()) == {
        0: ["stem"],
        3: ["a0.body.conv1", "a0.body.conv2"],
        4: ["b0.body.conv1", "b0.body.conv2"],
        5: ["b1.body.conv1", "b1.body.conv2"],
    }
    odd = body(("even", nn.Conv2d(3, 3, 2)), ("bare", nn.Conv2d(3, 3, 3)), ("wide", nn.Conv2d(3, 3, (1, 3))))
    assert spatial_convs(odd) == {}


def test_activations_by_block_include_shared_ones() -> None:
    assert activations(TOYS["residual"]())[3] == ["a0.body.relu1", "a0.activation"]
    assert activations(TOYS["depthwise"]())[4] == ["i1.body.relu1", "i1.body.relu2"]
    shared = nn.ReLU()
    assert activations(nn.Sequential(shared, conv(3, 3), shared)) == {0: ["0"], 2: ["2"]}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_replaced_in_place(name: str) -> None:
    chain = TOYS["residual"]().eval()
    old = set_activation(chain, "a0.activation", name)
    assert isinstance(old, nn.ReLU)
    assert activation_name(chain.a0.activation) == name
    assert not chain.a0.activation.training
    assert not getattr(chain.a0.activation, "inplace", False)
    assert activation_name(chain.b0.activation) == "relu"


def test_replacing_unknown_things_is_refused() -> None:
    chain = TOYS["plain"]()
    with pytest.raises(SurgeryError, match="relu6"):
        set_activation(chain, "relu1", "swish")
    with pytest.raises(SurgeryError, match=r"no layer 'conv9\.x'"):
        replace_layer(chain, "conv9.x", nn.ReLU())
    with pytest.raises(SurgeryError, match="no layer 'conv9'"):
        replace_layer(chain, "conv9", nn.ReLU())


def test_a_block_is_replaced_where_it_was() -> None:
    chain = TOYS["plain"]()
    names = [name for name, _ in chain.named_children()]
    set_activation(chain, "relu2", "tanh")
    assert [name for name, _ in chain.named_children()] == names
    assert isinstance(chain[4], nn.Tanh)


def test_blocks_and_widths() -> None:
    chain = TOYS["plain"]()
    assert block_of(chain, "conv2") == 2
    assert block_of(TOYS["residual"](), "b0.shortcut.conv") == 4
    assert layer_widths(chain) == {"conv1": 8, "conv2": 12, "fc": 10, "classifier": 5}


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_group_has_finite_scores(name: str, criterion: str) -> None:
    chain = TOYS[name]()
    groups = width_groups(chain, EXAMPLE)
    chain(EXAMPLE).logsumexp(1).sum().backward()
    scores = all_channel_scores(chain, EXAMPLE, groups, criterion)
    normed = {g.name for g in groups if any(".bn" in m or "bn" in m or "norm" in m for m in g.members)}
    # A criterion of batch-norm's scales passes over what has none.
    assert set(scores) == (normed if criterion == "bn_scale" else {group.name for group in groups})
    for group in groups:
        if group.name in scores:
            assert scores[group.name].shape == (group.width,)
            assert scores[group.name].dtype == torch.float32
            assert scores[group.name].isfinite().all()


@pytest.mark.parametrize(
    "name", ["grouped", "group_norms", "chunked", "read_twice", "ghost", "channels_last"]
)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_units_of_several_channels_have_one_score(name: str, criterion: str) -> None:
    chain = NETWORKS[name].make()
    groups = width_groups(chain, EXAMPLE)
    chain(EXAMPLE).logsumexp(1).sum().backward()
    scores = all_channel_scores(chain, EXAMPLE, groups, criterion)
    assert criterion == "bn_scale" or set(scores) == {group.name for group in groups}
    for group in groups:
        if group.name in scores:
            assert scores[group.name].shape == (group.width,)
            assert scores[group.name].isfinite().all()


def test_scores_of_a_units_channels_are_averaged() -> None:
    chain = NETWORKS["grouped"].make()
    (group,) = (g for g in width_groups(chain, EXAMPLE) if g.bundle == 2)
    scores = all_channel_scores(chain, EXAMPLE, [group], lambda coupled: torch.arange(8.0))
    assert scores[group.name].tolist() == [0.5, 2.5, 4.5, 6.5]
    with torch.no_grad():
        chain.block.body.conv2.weight[4:6] += 10
    assert channel_scores(chain, EXAMPLE, group, "magnitude").argmax() == 2


def test_a_criterion_of_ones_own_gives_one_score_a_channel() -> None:
    chain = TOYS["plain"]()
    groups = width_groups(chain, EXAMPLE)
    scores = all_channel_scores(chain, EXAMPLE, groups, lambda group: torch.arange(len(group[0].idxs)))
    assert scores["conv2"].tolist() == list(range(12))
    with pytest.raises(SurgeryError, match="one score for each of its 8 channels"):
        all_channel_scores(chain, EXAMPLE, groups, lambda group: torch.zeros(3))
    assert all_channel_scores(chain, EXAMPLE, groups, lambda group: None) == {}


def channel_scores(
    chain: nn.Sequential, example: torch.Tensor, group: WidthGroup, criterion: str, seed: int = 0
) -> torch.Tensor:
    return all_channel_scores(chain, example, [group], criterion, seed)[group.name]


def test_magnitude_scores_by_hand() -> None:
    chain = body(("a", nn.Linear(2, 3, bias=False)), ("b", nn.Linear(3, 1, bias=False)))
    with torch.no_grad():
        chain.a.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]))
        chain.b.weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
    (group,) = width_groups(chain, torch.zeros(1, 2))
    # Squares: 5, 0, 9 of the filters and 1, 1, 1 of the consumer; halved: 3, 0.5, 5; over their mean 17/6.
    scores = channel_scores(chain, torch.zeros(1, 2), group, "magnitude")
    torch.testing.assert_close(scores, torch.tensor([3.0, 0.5, 5.0]) / (8.5 / 3))


def test_fpgm_finds_the_filter_nearest_to_all_others() -> None:
    chain = body(("a", nn.Linear(1, 3, bias=False)), ("b", nn.Linear(3, 1, bias=False)))
    with torch.no_grad():
        chain.a.weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    (group,) = width_groups(chain, torch.zeros(1, 1))
    scores = channel_scores(chain, torch.zeros(1, 1), group, "fpgm")
    assert scores.argmin() == 1


def test_depthwise_filters_count() -> None:
    chain = TOYS["depthwise"]()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == "i0.conv1")
    before = channel_scores(chain, EXAMPLE, group, "magnitude")
    with torch.no_grad():
        chain.i0.conv2.weight[3] += 10
    after = channel_scores(chain, EXAMPLE, group, "magnitude")
    assert before.argmax() != 3
    assert after.argmax() == 3


def test_random_scores_follow_the_seed_and_leave_the_generator() -> None:
    chain = TOYS["plain"]()
    group = width_groups(chain, EXAMPLE)[0]
    state = torch.random.get_rng_state()
    first, again, other = (channel_scores(chain, EXAMPLE, group, "random", seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_scoring_leaves_the_chain_alone_and_knows_its_criteria() -> None:
    chain = settle(TOYS["residual"]()).train()
    reference = output(settle(TOYS["residual"]()))
    group = width_groups(chain, EXAMPLE)[0]
    channel_scores(chain, EXAMPLE, group, "fpgm")
    assert chain.training
    assert torch.equal(output(chain.eval()), reference)
    with pytest.raises(SurgeryError, match="magnitude, fpgm, random"):
        channel_scores(chain, EXAMPLE, group, "l1")
