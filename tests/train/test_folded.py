"""Frozen batch-norm in training: the folded network computes and learns the same."""

import copy

import pytest
import torch
from torch import nn

from tascnet.models.layers import Conv2dSame
from tascnet.train.folded import folded, rescale
from tests.models.toys import EXAMPLE, TOYS, settle


def networks():
    return [(name, make) for name, make in TOYS.items()]


def gradients(network, run, inputs):
    network.zero_grad()
    (run(inputs) ** 2).mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(("name", "make"), networks(), ids=[name for name, _ in networks()])
def test_outputs_and_gradients_are_those_of_the_network(name, make):
    network = settle(make()).double().eval()
    inputs = torch.cat([EXAMPLE, EXAMPLE.flip(-1)]).double()
    twin = folded(network)
    torch.testing.assert_close(twin(inputs), network(inputs), rtol=1e-9, atol=1e-9)
    expected = gradients(network, network, inputs)
    found = gradients(network, twin, inputs)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-7, atol=1e-9, msg=parameter)


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize(
    "convolution", [Conv2dSame(3, 4, 3, 2), Conv2dSame(3, 4, 5), Halved(3, 4, 3, padding=1)]
)
def test_convolutions_that_are_more_than_one_compute_what_they_did(convolution):
    network = settle(nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU())).double().eval()
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = network(inputs)
    torch.testing.assert_close(folded(network)(inputs), expected)
    rescale(network)
    torch.testing.assert_close(network(inputs), expected)
    torch.testing.assert_close(folded(network)(inputs), expected)


def test_a_batchnorm_that_learns_its_statistics_is_not_folded():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    network[1].eval()
    network[3].train()
    twin = folded(network)
    assert isinstance(twin[1], nn.Identity)
    assert twin[3] is network[3]
    twin(torch.randn(5, 3, 2, 2))
    assert network[1].num_batches_tracked == 0
    assert network[3].num_batches_tracked == 1


def test_the_network_itself_stays_and_shares_its_parameters():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = copy.deepcopy(network.state_dict())
    twin = folded(network)
    with torch.no_grad():
        network[1].weight.mul_(2.0)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in network.parameters()}
    inputs = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(twin(inputs), network(inputs))
    assert list(network.state_dict()) == list(before)


@pytest.mark.parametrize(("name", "make"), networks(), ids=[name for name, _ in networks()])
def test_rescaling_changes_neither_outputs_nor_statistics(name, make):
    network = settle(make()).double().eval()
    inputs = torch.cat([EXAMPLE, EXAMPLE.flip(-1)]).double()
    rescaled = copy.deepcopy(network)
    rescale(rescaled)
    torch.testing.assert_close(rescaled(inputs), network(inputs), rtol=1e-9, atol=1e-9)
    # A second time nothing is left to move.
    again = copy.deepcopy(rescaled)
    rescale(again)
    for first, second in zip(rescaled.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(first, second)


def test_a_scale_worked_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    values = [("0.weight", 3.0), ("0.bias", 1.0), ("1.weight", 4.0), ("1.bias", 5.0)]
    with torch.no_grad():
        for name, value in (*values, ("1.running_mean", 7.0), ("1.running_var", 0.25)):
            network.state_dict()[name].fill_(value)
    rescale(network)
    # The scale is 4 / 0.5 = 8: 24 x + 8 has the mean 56 and the deviation 4.
    found = {name: value.item() for name, value in network.state_dict().items()}
    assert found | {"1.num_batches_tracked": 0} == {
        **{"0.weight": 24.0, "0.bias": 8.0, "1.weight": 4.0, "1.bias": 5.0},
        **{"1.running_mean": 56.0, "1.running_var": 16.0, "1.num_batches_tracked": 0},
    }


def test_what_is_not_trained_or_not_frozen_keeps_its_scale():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    settle(network)
    network[0].requires_grad_(False)
    network[3].train()
    before = copy.deepcopy(network.state_dict())
    rescale(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
