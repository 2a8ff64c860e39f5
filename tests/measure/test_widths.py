"""Costs of networks that are not built: those that are counted once they are."""

import copy

import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.measure import WidthCosts, complexity, costs_of_shapes, reach
from tascnet.measure.widths import SizedLayers
from tascnet.surgery import Trace, narrow, replace_layer, set_kernel, width_groups
from tests.models.toys import EXAMPLE, TOYS, body, conv
from tests.surgery.networks import NETWORKS

# A product of matrices and a linear layer that run for each channel, without filters for it.
BY_CHANNEL = ("context", "literal_sizes")
MAKERS = TOYS | {name: network.make for name, network in NETWORKS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_costs_of_cut_networks_are_those_that_are_counted(name: str) -> None:
    chain = MAKERS[name]()
    trace = Trace(chain, EXAMPLE)
    groups = width_groups(chain, trace)
    costs = WidthCosts(chain, EXAMPLE, groups)
    assert (costs.params, costs.flops) == costs({})
    for share in (0.3, 0.6):
        removed = {group.name: int(group.width * share) for group in groups}
        cut = copy.deepcopy(chain)
        narrow(cut, trace, {g.name: range(g.width - removed[g.name]) for g in groups})
        counted = complexity(cut, EXAMPLE)
        if name in BY_CHANNEL:
            assert costs(removed)[0] == counted.params
            assert costs(removed)[1] > counted.flops
            continue
        assert costs(removed) == (counted.params, counted.flops)


def test_what_one_channel_saves_by_hand() -> None:
    chain = body(("a", conv(3, 4, bias=True)), ("bn", nn.BatchNorm2d(4)), ("b", conv(4, 2, 1)))
    # Of a 27 weights and a bias, of the batch-norm 2, of b 2; on 64 pixels 27, 2 and 2 each.
    assert WidthCosts(chain, EXAMPLE, width_groups(chain, EXAMPLE)).saved("a") == (
        27 + 1 + 2 + 2,
        64 * (27 + 2 + 2),
    )


def test_widths_and_kernels_together_and_blocks_in_which_nothing_counts() -> None:
    chain = body(("a", conv(3, 4)), ("b", conv(4, 2)))
    measured = complexity(chain, EXAMPLE)
    layers = SizedLayers(chain, {cost.name: cost for cost in measured.layers}, ["a", "b"])
    one = {"a": (0, 1), "b": (1, 0)}
    changed = copy.deepcopy(chain)
    replace_layer(changed, "b", set_kernel(changed.b, 5))
    narrow(changed, EXAMPLE, {"a": [0, 1]})
    counted = complexity(changed, EXAMPLE)
    assert layers.change([(2, one)], {"b": 25}) == (
        counted.params - measured.params,
        counted.flops - measured.flops,
    )
    # Two filters of 27 weights on 64 pixels.
    assert layers.change([(2, one)], {"b": 25}, without={"b"}) == (-54, -54 * 64)


def test_a_layer_whose_cost_does_not_follow_from_its_widths_is_named() -> None:
    chain = body(("a", conv(3, 4)), ("mix", nn.Conv2d(4, 4, 1, groups=2)))
    cost = {cost.name: cost for cost in complexity(chain, EXAMPLE).layers}["a"]
    with pytest.raises(SurgeryError, match="cost of layer 'a'"):
        SizedLayers(body(("a", nn.Linear(5, 7))), {"a": cost}, ["a"])


@pytest.mark.parametrize("name", [*TOYS, "channels_last", "group_norms"])
def test_costs_of_shapes_are_those_of_fvcore(name: str) -> None:
    chain = MAKERS[name]()
    costs = costs_of_shapes(chain.train(), EXAMPLE)
    counted = {cost.name: (cost.params, cost.flops) for cost in complexity(chain, EXAMPLE).layers}
    assert {name: costs.get(name, (0, 0)) for name in counted} == counted
    assert all(module.training for module in chain.modules())


def test_what_is_left_where_every_group_has_one_unit() -> None:
    chain = NETWORKS["response_norm"].make()
    trace = Trace(chain, EXAMPLE)
    whole = complexity(chain, EXAMPLE)
    found = reach(chain, trace, lambda _: None)
    cut = copy.deepcopy(chain)
    narrow(cut, trace, {group.name: [0] for group in trace.groups})
    left = complexity(cut, EXAMPLE)
    assert found.params_left == pytest.approx(left.params / whole.params)
    assert found.flops_left == pytest.approx(left.flops / whole.flops)
    assert found.inexact == ("block.body.fc1",)
    assert [(one.reason, one.layers) for one in found.uncut] == [("feeds the output", ("classifier",))]
    # The classifier has 6 weights and a bias for each of five classes.
    assert found.uncut[0].params == pytest.approx(35 / whole.params)
    assert found.uncut[0].flops == pytest.approx(30 / whole.flops)


def test_spared_groups_stay_whole_and_are_named_beside_those_that_cannot_be_cut() -> None:
    chain = NETWORKS["shuffled"].make()
    trace = Trace(chain, EXAMPLE)
    found = reach(chain, trace, lambda group: "spared" if group.name == "last" else None)
    # What happens in several blocks is one reason, without their names.
    shuffled = "channels are shuffled by reshape"
    assert {one.reason: one.layers for one in found.uncut} == {
        shuffled: ("stem", "block.conv2"),
        "feeds the output": ("classifier",),
        "spared": ("last",),
    }
    everything = reach(chain, trace, lambda _: "spared")
    assert (everything.params_left, everything.flops_left, everything.inexact) == (1, 1, ())


def test_costs_of_shapes_need_no_values() -> None:
    chain = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Upsample(scale_factor=2.0)).to("meta")
    # 3 x 6 weights and 3 biases at 4 pixels; 3 x 8 pixels are copied.
    expected = {"0": (21, 3 * 6 * 4), "1": (0, 0), "2": (0, 24)}
    assert costs_of_shapes(chain, torch.zeros(1, 2, 6)) == expected
