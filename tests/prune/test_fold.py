"""Folding: where removed channels depend linearly on kept ones, the network's function stays."""

import pytest
import torch
from torch import Tensor, nn

from tascnet.models.surgery import consumer_inputs, narrow, width_groups
from tascnet.prune import fold_into, input_moments
from tests.models.toys import EXAMPLE, TOYS, output


def make_dependent(chain: nn.Sequential, name: str) -> int:
    """Make the last channel of a group proportional to channel 1 before every activation."""
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == name)
    last = group.width - 1
    # A scale passes linear layers and the batch-norm's affine part; its statistics must scale too.
    with torch.no_grad():
        for member in group.members:
            layer = chain.get_submodule(member)
            if member in group.consumers:
                continue
            if isinstance(layer, nn.BatchNorm2d) and layer.num_features == group.width:
                for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                    tensor[last] = tensor[1]  # type: ignore[index]
            elif member in group.filters:
                layer.weight[last] = layer.weight[1]  # type: ignore[index, operator]
                if layer.bias is not None:
                    layer.bias[last] = layer.bias[1]  # type: ignore[index, operator]
    return last


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(2)]


CASES = [
    (kind, group.name)
    for kind, make in TOYS.items()
    for group in width_groups(make(), EXAMPLE)
    # Behind the batch-norm of a concatenation equal channels are no longer equal.
    if group.width >= 4 and not (kind == "dense" and group.name in ("stem", "d0.body.conv2"))
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_dependent_channel_goes_without_loss(kind: str, name: str) -> None:
    chain = TOYS[kind]()
    last = make_dependent(chain, name)
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == name)
    inputs = consumer_inputs(chain, EXAMPLE, [group])
    expected = output(chain)
    moments = input_moments(chain, inputs, batches())
    fold_into(chain, inputs[name], moments[name], [last], ridge=0.0)
    narrow(chain, EXAMPLE, {name: list(range(last))})
    torch.testing.assert_close(output(chain), expected, rtol=1e-3, atol=1e-4)


def test_factor_and_constant_by_hand() -> None:
    # x_1 = 2 x_0 + 3 for x_0 in {1, 2, 3}: moments of (x_0, x_1, 1) summed over the three.
    rows = torch.tensor([[1.0, 5.0, 1.0], [2.0, 7.0, 1.0], [3.0, 9.0, 1.0]], dtype=torch.float64)
    chain = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        chain[0].weight.copy_(torch.tensor([[10.0, 100.0]]))
        chain[0].bias.fill_(7.0)
    fold_into(chain, {"0": torch.tensor([[0], [1]])}, {"0": rows.T @ rows}, [1], ridge=0.0)
    torch.testing.assert_close(chain[0].weight[0, 0].item(), 10.0 + 2 * 100.0)
    torch.testing.assert_close(chain[0].bias.item(), 7.0 + 3 * 100.0)


def test_moments_are_those_of_the_consumers_input() -> None:
    chain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = {"0": {"2": torch.tensor([[0], [2]])}}
    x = torch.randn(5, 3)
    moments = input_moments(chain, inputs, [x[:2], x[2:]])
    read = torch.relu(chain[0](x))[:, [0, 2]].double()
    rows = torch.cat([read, torch.ones(5, 1)], 1)
    torch.testing.assert_close(moments["0"]["2"], (rows.T @ rows).detach())


def test_folding_loses_less_than_dropping() -> None:
    """Into a layer with a bias: without one the constant part waits for batch-norm to be measured anew."""
    chain, folded = TOYS["plain"](), TOYS["plain"]()
    data = torch.cat(batches())
    expected = chain(data).detach()
    (group,) = (g for g in width_groups(chain, EXAMPLE) if g.name == "fc")
    inputs = consumer_inputs(folded, EXAMPLE, [group])
    moments = input_moments(folded, inputs, batches())
    fold_into(folded, inputs["fc"], moments["fc"], [0, 5, 7])
    for network in (chain, folded):
        narrow(network, EXAMPLE, {"fc": [1, 2, 3, 4, 6, 8, 9]})
    dropped, kept = (float((network(data).detach() - expected).norm()) for network in (chain, folded))
    assert kept < 0.5 * dropped
