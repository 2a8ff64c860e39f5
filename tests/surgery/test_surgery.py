"""Width groups and narrowing: a pruned network is the same network with those channels silenced."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery import WidthGroup, layer_widths, narrow, width_groups
from tests.models.toys import EXAMPLE, TOYS, body, conv, inverted, output, settle
from tests.surgery.networks import silence


def snapshot(chain: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in chain.state_dict().items()}


def named(chain: nn.Sequential, example: Tensor = EXAMPLE) -> dict[str, WidthGroup]:
    return {group.name: group for group in width_groups(chain, example)}


def test_groups_of_a_plain_chain_follow_it_through_flatten() -> None:
    conv1, conv2, fc = width_groups(TOYS["plain"](), EXAMPLE)
    assert (conv1.name, conv1.width, conv1.channels, conv1.bundle) == ("conv1", 8, 8, 1)
    assert (conv1.filters, conv1.members, conv1.consumers) == (("conv1",), ("conv1", "conv2"), ("conv2",))
    assert (conv1.first_block, conv1.last_block) == (0, 2)
    assert (conv2.name, conv2.members, conv2.consumers) == ("conv2", ("conv2", "bn2", "fc"), ("fc",))
    assert (conv2.first_block, conv2.last_block) == (2, 7)
    # Each of the 12 channels is a 4x4 map in front of the linear layer, and passes the pooling before it.
    assert torch.equal(conv2.inputs["fc"], torch.arange(12 * 16).reshape(12, 16))
    assert list(conv2.passed) == ["bn2", "pool"]
    assert torch.equal(conv2.passed["bn2"], torch.arange(12)[:, None])
    assert (fc.name, fc.width, fc.consumers) == ("fc", 10, ("classifier",))
    assert (fc.first_block, fc.last_block) == (7, 10)


def test_a_residual_stream_is_one_group_that_starts_with_its_stage() -> None:
    stream = named(TOYS["residual"]())["b0.body.conv2"]
    assert stream.filters == ("b0.body.conv2", "b0.shortcut.conv", "b1.body.conv2")
    assert stream.consumers == ("b1.body.conv1", "classifier")
    assert (stream.first_block, stream.last_block) == (4, 8)


def test_dense_and_depthwise_groups() -> None:
    dense = named(TOYS["dense"]())
    assert dense["stem"].consumers == ("d0.body.conv1", "d1.body.conv1", "transition.conv")
    assert dense["d1.body.conv2"].consumers == ("transition.conv",)
    assert len(dense) == 8
    mobile = named(TOYS["depthwise"]())
    assert mobile["i1.body.conv1"].filters == ("i1.body.conv1", "i1.body.conv2")
    assert mobile["i1.body.conv1"].consumers == ("i1.body.conv3",)
    assert list(mobile) == ["stem", "i0.conv1", "i0.conv3", "i1.body.conv1", "last"]


def test_streams_with_padded_shortcuts_are_left_out() -> None:
    assert list(named(TOYS["padded"]())) == ["a0.body.conv1", "b0.body.conv1", "b1.body.conv1"]


def test_layers_that_give_the_output_are_left_out_whatever_ends_the_chain() -> None:
    chain = body(("a", conv(3, 8)), ("b", conv(8, 6)), ("bn", nn.BatchNorm2d(6)), ("relu", nn.ReLU()))
    assert list(named(settle(chain))) == ["a"]


def test_groups_coupled_to_the_input_are_left_out_of_a_tail() -> None:
    chain = TOYS["residual"]()
    groups = width_groups(chain, EXAMPLE)
    for cut in range(1, len(chain)):
        features = output(chain[:cut])
        expected = {group.name: group.filters for group in groups if group.first_block >= cut}
        found = {group.name: group.filters for group in width_groups(chain[cut:], features)}
        assert found == expected
    assert [g.name for g in groups if g.first_block >= 5] == ["b1.body.conv1"]


@pytest.mark.parametrize("name", TOYS)
def test_a_tail_has_the_groups_of_the_whole_chain(name: str) -> None:
    chain = TOYS[name]()
    groups = width_groups(chain, EXAMPLE)
    for cut in range(1, len(chain) - 1):
        expected = [group.name for group in groups if group.first_block >= cut]
        assert [g.name for g in width_groups(chain[cut:], output(chain[:cut]))] == expected


@settings(max_examples=5, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", TOYS)
def test_narrowed_equals_silenced(name: str, data: st.DataObject) -> None:
    chain = TOYS[name]()
    groups = width_groups(chain, EXAMPLE)
    keep, silenced = {}, copy.deepcopy(chain)
    for group in groups:
        channels = st.lists(st.integers(0, group.width - 1), min_size=1, unique=True).map(sorted)
        keep[group.name] = data.draw(channels, label=group.name)
        removed = sorted(set(range(group.width)) - set(keep[group.name]))
        silence(silenced, group, removed)
    changed = narrow(chain, EXAMPLE, keep)
    for group in groups:
        for layer in group.filters:
            assert changed[layer] == (group.width, len(keep[group.name]))
            assert layer_widths(chain)[layer] == len(keep[group.name])
    torch.testing.assert_close(output(chain), output(silenced), rtol=1e-4, atol=1e-4)


def test_kept_filters_are_inherited_to_the_last_bit() -> None:
    chain = TOYS["plain"]()
    before = snapshot(chain)
    narrow(chain, EXAMPLE, {"conv2": [1, 5, 11]})
    assert torch.equal(chain.conv2.weight, before["conv2.weight"][[1, 5, 11]])
    assert torch.equal(chain.bn2.running_var, before["bn2.running_var"][[1, 5, 11]])
    # Each of the 12 channels is a 4x4 map in front of the linear layer.
    columns = before["fc.weight"].reshape(10, 12, 16)[:, [1, 5, 11]].reshape(10, 48)
    assert torch.equal(chain.fc.weight, columns)
    assert chain.fc.in_features == 48


def test_a_tail_is_narrowed_as_the_whole_chain_is() -> None:
    whole, other = TOYS["residual"](), TOYS["residual"]()
    keep = {"b0.body.conv2": [0, 2, 3, 7], "b1.body.conv1": [1, 4]}
    narrow(whole, EXAMPLE, keep)
    narrow(other[4:], output(other[:4]), keep)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in whole.state_dict().items())


def test_mode_freeze_and_memory_format_stay() -> None:
    chain = TOYS["residual"]().train().to(memory_format=torch.channels_last)
    chain.a0.eval()
    chain.a0.requires_grad_(False)
    chain.b0.body.conv1.weight.requires_grad_(False)
    modes = {name: module.training for name, module in chain.named_modules()}
    frozen = {name for name, p in chain.named_parameters() if not p.requires_grad}
    statistics = chain.stem_bn.num_batches_tracked.clone()
    narrow(chain, EXAMPLE, {"a0.body.conv1": [0, 3], "b0.body.conv1": range(8), "b0.body.conv2": range(8)})
    assert {name: module.training for name, module in chain.named_modules()} == modes
    assert {name for name, p in chain.named_parameters() if not p.requires_grad} == frozen
    assert torch.equal(chain.stem_bn.num_batches_tracked, statistics)
    weights = [p for p in chain.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    plain = TOYS["residual"]()
    narrow(plain, EXAMPLE, {"a0.body.conv1": [0, 3]})
    assert all(p.is_contiguous() for p in plain.parameters())


def test_frozen_layers_are_seen() -> None:
    chain = TOYS["depthwise"]().requires_grad_(False)
    assert list(named(chain)) == list(named(TOYS["depthwise"]()))


def test_finding_groups_leaves_the_chain_and_torch_alone() -> None:
    chain = TOYS["dense"]().train()
    before, generator = snapshot(chain), torch.random.get_rng_state()
    with torch.no_grad():
        width_groups(chain, EXAMPLE)
    assert chain.training
    assert all(torch.equal(before[key], value) for key, value in chain.state_dict().items())
    assert torch.equal(generator, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"b1.body.conv2": [0]}, "not the name of a group"),
        ({"nothing": [0]}, "'nothing'"),
        ({"a0.body.conv1": []}, "at least one"),
        ({"a0.body.conv1": [2, 1]}, "sorted"),
        ({"a0.body.conv1": [1, 1]}, "repetition"),
        ({"a0.body.conv1": [0, 8]}, "below 8"),
    ],
)
def test_impossible_requests_change_nothing(keep: dict[str, list[int]], words: str) -> None:
    chain = TOYS["residual"]()
    before = snapshot(chain)
    with pytest.raises(SurgeryError, match=words):
        narrow(chain, EXAMPLE, {"stem": range(4), **keep})
    assert all(torch.equal(before[key], value) for key, value in chain.state_dict().items())


def test_an_example_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SurgeryError, match=r"shape \(1, 4, 8, 8\)"):
        width_groups(TOYS["plain"](), torch.zeros(1, 4, 8, 8))


def test_a_narrowed_chain_can_be_narrowed_again() -> None:
    chain = TOYS["dense"]()
    for width in (3, 2, 1):
        keep = {g.name: range(width) for g in width_groups(chain, EXAMPLE) if g.width > width}
        narrow(chain, EXAMPLE, keep)
    assert set(layer_widths(chain).values()) == {1, 5}


def test_a_depthwise_group_can_shrink_to_one_channel() -> None:
    chain = settle(body(("i", inverted(3, 4, 6)), ("last", conv(4, 5))))
    narrow(chain, EXAMPLE, {"i.conv1": [4]})
    assert (chain.i.conv2.groups, chain.i.conv2.in_channels) == (1, 1)
    assert [group.name for group in width_groups(chain, EXAMPLE)] == ["i.conv3"]


def test_features_of_half_precision_serve_as_example() -> None:
    chain = TOYS["residual"]()
    features = output(chain[:4]).half()
    assert [group.name for group in width_groups(chain[4:], features)] == [
        "b0.body.conv1",
        "b0.body.conv2",
        "b1.body.conv1",
    ]
    assert narrow(chain[4:], features, {"b0.body.conv1": [0, 1]}) == {"b0.body.conv1": (12, 2)}
