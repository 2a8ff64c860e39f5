"""Groups, reasons and cuts of tiny networks with one peculiarity each; every cut is checked on values."""

import copy
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.models.inspect import hooked
from tascnet.surgery import Trace, WidthGroup, layer_widths, narrow
from tests.models.toys import EXAMPLE, body, conv, output, settle
from tests.surgery.networks import NETWORKS


def ignore_units(chain: nn.Module, group: WidthGroup, units: list[int]) -> None:
    """Let no consumer read the units."""
    for name, positions in group.inputs.items():
        weight = chain.get_submodule(name).weight
        with torch.no_grad():
            weight[:, positions[units].flatten()] = 0


def kept_statistics(chain: nn.Sequential, groups: Mapping[str, list[int]], traced: Trace) -> list:
    """Hooks by which operations with statistics over the channels see the kept ones alone."""
    kept: dict[str, Tensor] = {}
    for group in traced.groups:
        for name in group.mixers:
            channels = group.passed.get(name, next(iter(group.outputs.values())))
            kept[name] = channels[groups[group.name]].flatten()

    def masked(channels: Tensor, layer: nn.Module, inputs: tuple[Tensor], result: Tensor) -> Tensor:
        dim = -1 if isinstance(layer, nn.LayerNorm) or getattr(layer, "channel_dim", 1) == -1 else 1
        small = copy.deepcopy(layer)
        for name, weight in layer.named_parameters():
            setattr(small, name, nn.Parameter(weight[channels]))
        for name, value in {"num_channels": len(channels), "normalized_shape": (len(channels),)}.items():
            if hasattr(small, name):
                setattr(small, name, value)
        seen = inputs[0].movedim(dim, 1)[:, channels].movedim(1, dim)
        full = result.clone().movedim(dim, 1)
        full[:, channels] = small.forward(seen).movedim(dim, 1)
        return full.movedim(1, dim)

    return [
        chain.get_submodule(name).register_forward_hook(partial(masked, channels))
        for name, channels in kept.items()
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_cut_and_why_not(name: str) -> None:
    network = NETWORKS[name]
    chain = network.make()
    trace = Trace(chain, EXAMPLE)
    assert {group.name: (group.width, group.bundle) for group in trace.groups} == network.groups
    assert {layer.layer: layer.reason for layer in trace.uncut} == {
        **network.reasons,
        "classifier": "feeds the output",
    }
    assert {group.name: group.mixers for group in trace.groups if not group.is_exact} == network.mixers
    widths = layer_widths(chain)
    for group in trace.groups:
        assert group.channels == group.width * group.bundle == group.outputs[group.filters[0]].numel()
        assert set(group.outputs) == set(group.filters)
        assert set(group.inputs) == set(group.consumers)
        assert {*group.filters, *group.consumers} <= set(group.members)
        for layer, positions in group.outputs.items():
            assert positions.shape[0] == group.width
            assert positions.unique().numel() == positions.numel() <= widths[layer]


def check_cut(name: str, keep: dict[str, list[int]]) -> None:
    """A cut of units that nothing reads leaves the function as it is."""
    chain = NETWORKS[name].make()
    trace = Trace(chain, EXAMPLE)
    for group in trace.groups:
        removed = sorted(set(range(group.width)) - set(keep[group.name]))
        ignore_units(chain, group, removed)
    images = torch.cat([EXAMPLE, EXAMPLE.flip(3), EXAMPLE * EXAMPLE])
    with hooked(kept_statistics(chain, keep, trace)):
        expected = output(chain, images)
    changed = narrow(chain, trace, keep)
    torch.testing.assert_close(output(chain, images), expected, rtol=1e-5, atol=1e-5)
    widths = layer_widths(chain)
    for group in trace.groups:
        for layer in group.filters:
            assert changed[layer][1] == widths[layer]
    before = layer_widths(NETWORKS[name].make())
    for layer in before.keys() - changed.keys():
        assert widths[layer] == before[layer]
    for layer, count in changed.items():
        lost = [
            positions.shape[1] * (group.width - len(keep[group.name]))
            for group in trace.groups
            if (positions := group.outputs.get(layer)) is not None
        ]
        assert count == (before[layer], before[layer] - sum(lost))
    # What is left can be cut again; a GroupNorm of one group becomes a mixer.
    left = {group.name: group.width for group in Trace(chain, EXAMPLE).groups}
    for group in trace.groups:
        if (count := len(keep[group.name])) > 1:
            assert left[group.name] == count


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_every_group_is_cut(name: str) -> None:
    check_cut(name, {group: list(range(0, width, 2)) for group, (width, _) in NETWORKS[name].groups.items()})


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(NETWORKS)))
def test_any_units_can_be_cut(data: st.DataObject, name: str) -> None:
    keep = {
        group: data.draw(st.lists(st.integers(0, width - 1), min_size=1, unique=True).map(sorted))
        for group, (width, _) in NETWORKS[name].groups.items()
    }
    check_cut(name, keep)


class Foreign(nn.Module):
    """No layer of the closed list."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


def test_an_unknown_layer_stops_cuts_on_both_sides() -> None:
    chain = body(
        ("a", conv(3, 8)), ("flip", Foreign()), ("relu", nn.ReLU()), ("b", conv(8, 6)), ("c", conv(6, 5))
    )
    trace = Trace(settle(chain), EXAMPLE)
    assert [group.name for group in trace.groups] == ["b"]
    assert {layer.layer: layer.reason for layer in trace.uncut} == {
        "a": "'flip', a Foreign, takes the channels in block 'flip'",
        "c": "feeds the output",
    }


def test_layers_coupled_to_the_input_of_a_tail() -> None:
    chain = NETWORKS["channels_last"].make()
    tail, features = chain[2:], output(chain[:2])
    trace = Trace(tail, features)
    assert [group.name for group in trace.groups] == ["block.body.fc1"]
    assert {layer.layer: layer.reason for layer in trace.uncut} == {
        "block.body.dw": "coupled to the network's input",
        "block.body.fc2": "coupled to the network's input",
        "classifier": "feeds the output",
    }
