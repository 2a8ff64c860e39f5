"""The copy that is exported: which batch-norms are folded, and that it computes the same."""

import copy

import pytest
import torch
from torch import nn

from tascnet.exporting.plain import plain_copy
from tascnet.models.blocks import MaxOverTime
from tascnet.models.graph import Graph, Step, Value
from tests.exporting.networks import chain, convolutional, inputs, textual
from tests.models.toys import EXAMPLE, TOYS, settle


def norms(network):
    return [
        name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    ]


def same(network, images):
    with torch.no_grad():
        torch.testing.assert_close(plain_copy(network)(images), network(images), rtol=1e-5, atol=1e-5)


def test_a_fold_worked_by_hand():
    network = chain(conv=nn.Conv2d(1, 1, 1), bn=nn.BatchNorm2d(1, eps=0.0)).eval()
    values = {"conv.weight": 3.0, "conv.bias": 1.0, "bn.weight": 4.0, "bn.bias": 5.0}
    statistics = {"bn.running_mean": 7.0, "bn.running_var": 0.25}
    with torch.no_grad():
        for name, value in (values | statistics).items():
            network.state_dict()[name].fill_(value)
    # 4 * ((3 x + 1) - 7) / 0.5 + 5 = 24 x - 43.
    plain = plain_copy(network)
    assert plain.conv.weight.item() == 24
    assert plain.conv.bias.item() == -43
    assert isinstance(plain.bn, nn.Identity)
    assert network.conv.weight.item() == 3


class Shortcut(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def hooked():
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda module, inputs, output: output.relu())
    return norm


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Shortcut(nn.BatchNorm2d(3), nn.ReLU())),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), ActivatedNorm(3)),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), hooked()),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
    ],
    ids=["sequential that adds", "norm with an activation", "hook", "parametrised weights"],
)
def test_what_computes_something_else_is_not_folded(network):
    torch.manual_seed(0)
    network = network().eval()
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 4)
    same(network, torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize("name", TOYS)
def test_outputs_stay(name):
    same(TOYS[name](), EXAMPLE.repeat(3, 1, 1, 1) * torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1))


def test_every_norm_behind_a_convolution_is_folded_and_others_stay():
    assert norms(plain_copy(convolutional())) == []
    # A layer of a dense block normalises what was joined, and the last norm follows a block.
    assert norms(plain_copy(TOYS["dense"]())) == [
        *("d0.body.norm1", "d1.body.norm1", "transition.norm", "d2.body.norm1", "norm")
    ]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_transposed_convolution_before_a_norm(groups):
    network = chain(
        conv=nn.Conv2d(3, 4, 1), up=nn.ConvTranspose2d(4, 4, 2, 2, groups=groups), bn=nn.BatchNorm2d(4)
    )
    same(settle(network), EXAMPLE)


def test_chains_in_chains_are_one_chain():
    network = settle(chain(first=chain(conv=nn.Conv2d(3, 4, 1)), second=chain(bn=nn.BatchNorm2d(4))))
    assert norms(plain_copy(network)) == []
    same(network, EXAMPLE)


def test_an_output_that_is_read_twice_is_left_alone():
    layers = {"conv": nn.Conv2d(3, 4, 1), "bn": nn.BatchNorm2d(4)}
    steps = [
        Step("layer", ("conv", Value(0))),
        Step("layer", ("bn", Value(1))),
        Step("cat", ((Value(1), Value(2)), 1)),
    ]
    network = settle(chain(block=Graph(layers, steps)))
    assert norms(plain_copy(network)) == ["block.bn"]
    same(network, EXAMPLE)


def test_a_layer_that_runs_twice_is_left_alone():
    layers = {"conv": nn.Conv2d(3, 3, 1), "bn": nn.BatchNorm2d(3)}
    twice = [
        Step("layer", ("conv", Value(0))),
        Step("layer", ("bn", Value(1))),
        Step("layer", ("conv", Value(2))),
    ]
    network = settle(chain(block=Graph(layers, twice)))
    assert norms(plain_copy(network)) == ["block.bn"]
    same(network, EXAMPLE)
    shared = nn.Conv2d(3, 3, 1)
    network = settle(chain(first=shared, bn=nn.BatchNorm2d(3), second=shared))
    assert norms(plain_copy(network)) == ["bn"]
    same(network, EXAMPLE)


def test_parallel_branches_are_no_chain():
    branches = nn.Sequential(nn.Conv1d(4, 4, 2), nn.BatchNorm1d(4))
    network = settle(chain(block=MaxOverTime(branches, nn.ReLU())))
    assert norms(plain_copy(network)) == ["block.branches.1"]
    same(network, torch.linspace(-1, 1, 4 * 6).reshape(1, 4, 6))


def test_a_norm_without_statistics_is_left_alone():
    network = settle(chain(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4, track_running_stats=False)))
    assert norms(plain_copy(network)) == ["bn"]


def test_the_copy_is_contiguous_and_frozen_and_the_network_as_it_was():
    network = convolutional().to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(network.state_dict())
    plain = plain_copy(network)
    assert all(tensor.is_contiguous() for tensor in plain.state_dict().values())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert not plain.training
    assert network.training
    assert not network.conv.weight.is_contiguous()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert plain.info == network.info


def test_text_networks_stay():
    network = textual()
    same(network, inputs(network, 4))
