import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tascnet.measure import complexity
from tascnet.measure.widths import lost_sizes
from tascnet.models.build import build_chain
from tascnet.models.head import HeadSpec, classifier_of, replace_head
from tascnet.models.layers import BlurPool2d
from tascnet.options import Tune
from tascnet.surgery import width_groups
from tascnet.tuning.build import CandidateBuilder
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import Cost, CostModel
from tascnet.tuning.ends import possible_exits
from tascnet.tuning.space import Space
from tests.models.toys import EXAMPLE, TOYS, body, conv
from tests.surgery.networks import NETWORKS
from tests.tuning.spaces import canonical_configs
from tests.tuning.splitting import SPLITTING

# Every kind of choice, with widths that are no multiples of anything.
OPTIONS = {
    "widths": (0.13, 0.5, 0.77),
    "round_to": 1,
    "kernels": (1, 3, 5),
    "activations": ("relu", "elu", "gelu"),
    "hidden_layers": (0, 1, 2),
    "neurons": (7, 16),
    "lr_factors": (0.1, 1.0),
    "head": "search",
}
# Units of several channels, layers that read and write a group, parts of layers.
UNITS = ("excitation", "reparametrised", "grouped", "group_norms", "channels_last", "partial", "chunked")
# With pixels.
BACKBONES = {"digits_cnn": 8, "resnet20": 16, "resnet18": 32}


class Case:
    """A chain, its space, its cost model and a way to count what is built."""

    def __init__(self, chain, classifier, example, max_units=None, **changes):
        self.chain, self.example = chain, example
        units = discover_units(chain, example, Tune(**{**OPTIONS, **changes}), max_units)
        self.space = Space(units, exits=possible_exits(chain, units, example))
        self.cost = CostModel(chain, self.space, example, classifier=classifier)
        self.build = CandidateBuilder(chain, self.space, example, classifier=classifier, magnitude=1.0)

    def measured(self, config):
        candidate = self.build(config)
        network = nn.Sequential(*self.chain[: candidate.cut], *candidate.tail)
        counted = complexity(network, self.example)
        return Cost(params=counted.params, flops=counted.flops)


@functools.cache
def backbone(name, pixels):
    channels = 1 if name == "digits_cnn" else 3
    source = build_chain(name, channels=channels)
    chain = replace_head(source, HeadSpec(), 5, seed=0)
    return Case(chain, classifier_of(source), torch.zeros(1, channels, pixels, pixels))


@functools.cache
def toy(name):
    make = (TOYS | SPLITTING).get(name) or NETWORKS[name].make
    chain = make()
    return Case(chain, nn.Linear(chain.classifier.in_features, 11), EXAMPLE)


few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


@few
@pytest.mark.parametrize("name", [*TOYS, *UNITS])
@given(data=st.data())
def test_costs_of_small_chains_are_those_of_the_built_networks(name, data):
    case = toy(name)
    config = data.draw(canonical_configs(case.space))
    assert case.cost(config) == case.measured(config)


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_all_costs_of_a_small_space_are_those_of_the_built_networks(name):
    one_value = {"kernels": (), "activations": (), "hidden_layers": (0,), "lr_factors": (1.0,)}
    case = Case(TOYS[name](), None, EXAMPLE, head="new", widths=(0.5,), dropouts=(0.0,), **one_value)
    assert case.space.exits == {"plain": 2, "residual": 3}[name]
    for config in case.space.frontier([], 2):
        assert case.cost(config) == case.measured(config)


@settings(few, max_examples=3)
@pytest.mark.parametrize("name", BACKBONES)
@given(data=st.data())
def test_costs_of_backbones_are_those_of_the_built_networks(name, data):
    case = backbone(name, BACKBONES[name])
    config = data.draw(canonical_configs(case.space))
    assert case.cost(config) == case.measured(config)


@few
@pytest.mark.parametrize("name", SPLITTING)
@given(data=st.data())
def test_costs_without_a_block_that_divides_groups_are_those_of_the_built_networks(name, data):
    case = toy(name)
    config = data.draw(canonical_configs(case.space))
    config = case.space.canonical({**config, "exit": 0, "first_trained": case.space.depth, "block.kept": 0})
    assert case.cost(config) == case.measured(config)


def test_neutral_configurations_cost_what_the_chain_costs():
    case = toy("residual")
    # By hand, 8 x 8 pixels: stem 8 * 27 weights; a0 2 x 8 * 72 on the same map; b0, at 4 x 4 pixels, 12 * 72
    # and 12 * 108, its shortcut 12 * 8; b1 2 x 12 * 108; batch-norm two parameters and two FLOPs a channel;
    # the pooling one FLOP a value of its input; classifier 12 * 5 and 5 biases.
    convolutions = [(216, 64), (576, 64), (576, 64), (864, 16), (1296, 16), (96, 16), (1296, 16), (1296, 16)]
    norms = [(8, 64)] * 3 + [(12, 16)] * 5
    params = sum(n for n, _ in convolutions) + sum(2 * c for c, _ in norms) + 65
    flops = sum(n * m for n, m in convolutions) + sum(2 * c * m for c, m in norms) + 12 * 16 + 60
    assert case.cost.neutral == Cost(params=params, flops=flops)
    for first_trained in range(case.space.depth + 1):
        assert case.cost(case.space.neutral(first_trained)) == case.cost.neutral


def test_a_removed_block_costs_nothing():
    case = toy("residual")
    config = {**case.space.neutral(1), "b1.kept": 0}
    # Two convolutions of 12 x 12 x 9 weights and two batch-norms, on a map of 4 x 4.
    assert case.cost(config) == Cost(
        params=case.cost.neutral.params - 2 * (1296 + 24),
        flops=case.cost.neutral.flops - 2 * 16 * (1296 + 24),
    )


def test_no_network_is_built(monkeypatch):
    case = toy("plain")
    configs = case.space.sample(40, case.space.depth, 0)
    known = [case.cost(config) for config in configs]
    monkeypatch.setattr("tascnet.tuning.cost.complexity", None)
    assert [case.cost(config) for config in configs] == known


def test_a_space_of_the_head_alone():
    chain = TOYS["plain"]()
    case = Case(chain, None, EXAMPLE, max_units=0, head="new")
    for config in case.space.sample(6, 0, 0):
        assert case.cost(config) == case.measured(config)


def test_a_layer_without_weights_is_counted_by_channels():
    chain = body(
        ("conv1", conv(3, 8)),
        ("conv2", conv(8, 8)),
        ("blur", BlurPool2d()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    ).eval()
    case = Case(chain, None, EXAMPLE, head="new")
    config = {**case.space.neutral(2), "conv2.width": 4}
    # 4 of 8 channels less: their weights, nine for each of the 16 pixels of the smoothed map, the 16 values
    # that are averaged, and the features of the classifier.
    assert case.cost(config) == Cost(
        params=case.cost.neutral.params - 4 * 72 - 4 * 5,
        flops=case.cost.neutral.flops - 4 * 72 * 64 - 4 * 9 * 16 - 4 * 16 - 4 * 5,
    )
    assert case.cost(config) == case.measured(config)


def test_slots_by_hand():
    def slots(name):
        chain = TOYS[name]()
        costs = {cost.name: cost for cost in complexity(chain, EXAMPLE).layers}
        return lost_sizes(width_groups(chain, EXAMPLE), costs)

    assert slots("plain") == {
        "conv1": {"conv1": (0, 1), "conv2": (1, 0)},
        # Each channel is a map of 4 x 4 when it is flattened.
        "conv2": {"conv2": (0, 1), "bn2": (0, 1), "fc": (16, 0)},
        "fc": {"fc": (0, 1), "classifier": (1, 0)},
    }
    dense = slots("dense")
    assert dense["d2.body.conv2"] == {
        "d2.body.conv2": (0, 1),
        "norm": (0, 1),
        "pool": (0, 1),
        "classifier": (1, 0),
    }
    assert "pool" not in dense["stem"]
