"""Folding: where removed channels depend linearly on kept ones, the network's function stays."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from tascnet.inherit import (
    ChannelMoments,
    fold_into,
    fold_pairs,
    input_moments,
    input_positions,
    nearest_kept,
)
from tascnet.surgery import narrow, width_groups
from tascnet.surgery.layers import is_depthwise
from tests.models.toys import EXAMPLE, TOYS, output


def make_dependent(chain: nn.Sequential, name: str, factor: float) -> int:
    """Make the last channel of a group `factor` times channel 1 before every activation."""
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == name)
    last = group.width - 1
    members = [member for member, _ in chain.named_modules() if member in group.members]
    with torch.no_grad():
        for member in members:
            layer = chain.get_submodule(member)
            if member in group.consumers:
                continue
            if isinstance(layer, nn.BatchNorm2d):
                # Behind a concatenation the group's channels lie elsewhere.
                to, of = (int(group.passed[member][i, 0]) for i in (last, 1))
                # Its input is that much larger, and so is what it gives.
                layer.running_mean[to] = factor * layer.running_mean[of]  # type: ignore[index]
                layer.running_var[to] = layer.running_var[of]  # type: ignore[index]
                layer.weight[to] = layer.weight[of]
                layer.bias[to] = factor * layer.bias[of]
            elif member in group.filters:
                own = 1.0 if is_depthwise(layer) else factor
                layer.weight[last] = own * layer.weight[1]  # type: ignore[index, operator]
                if layer.bias is not None:
                    layer.bias[last] = factor * layer.bias[1]  # type: ignore[index, operator]
    return last


def below_the_clip(chain: nn.Sequential) -> nn.Sequential:
    """Batch-norms whose outputs stay small: ReLU6 treats multiples alike below 6 alone."""
    with torch.no_grad():
        for layer in chain.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight *= 0.3
                layer.bias *= 0.3
    return chain


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(2)]


CASES = [
    (kind, group.name)
    for kind, make in TOYS.items()
    for group in width_groups(make(), EXAMPLE)
    if group.width >= 4
]


@pytest.mark.parametrize("factor", [1.0, 0.4])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_dependent_channel_goes_without_loss(kind: str, name: str, factor: float) -> None:
    chain = below_the_clip(TOYS[kind]())
    last = make_dependent(chain, name, factor)
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == name)
    inputs = input_positions(chain, [group])
    expected = output(chain)
    moments = input_moments(chain, inputs, batches())
    fold_into(chain, inputs[name], moments[name], [last], ridge=0.0)
    narrow(chain, EXAMPLE, {name: list(range(last))})
    torch.testing.assert_close(output(chain), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 0.4])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_proportional_channel_goes_without_loss_by_weights_alone(
    kind: str, name: str, factor: float
) -> None:
    chain = below_the_clip(TOYS[kind]())
    last = make_dependent(chain, name, factor)
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == name)
    expected = output(chain)
    partners = nearest_kept(chain, group, [last])
    assert partners == {last: 1}
    fold_pairs(chain, group, partners)
    narrow(chain, EXAMPLE, {name: list(range(last))})
    torch.testing.assert_close(output(chain), expected, rtol=1e-3, atol=1e-4)


def test_two_channels_may_have_one_partner_and_opposite_ones_share_nothing() -> None:
    chain = nn.Sequential(
        OrderedDict(a=nn.Linear(2, 4, bias=False), relu=nn.ReLU(), b=nn.Linear(4, 1, bias=False))
    )
    with torch.no_grad():
        chain.a.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [-1.0, 0.0]]))
        chain.b.weight.copy_(torch.tensor([[10.0, 20.0, 30.0, 40.0]]))
    (group,) = width_groups(chain, torch.zeros(1, 2))
    fold_pairs(chain, group, {1: 0, 2: 0, 3: 0})
    # 10 + 2 x 20 + 3 x 30; the filter that points the other way adds nothing.
    assert chain.b.weight[0, 0].item() == 140.0


def test_factor_and_constant_by_hand() -> None:
    # x_1 = 2 x_0 + 3 for x_0 in {1, 2, 3}.
    moments = ChannelMoments(2)
    moments.add(torch.tensor([[1.0, 5.0], [2.0, 7.0], [3.0, 9.0]]))
    chain = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        chain[0].weight.copy_(torch.tensor([[10.0, 100.0]]))
        chain[0].bias.fill_(7.0)
    fold_into(chain, {"0": torch.tensor([[[0]], [[1]]])}, {"0": moments}, [1], ridge=0.0)
    torch.testing.assert_close(chain[0].weight[0, 0].item(), 10.0 + 2 * 100.0)
    torch.testing.assert_close(chain[0].bias.item(), 7.0 + 3 * 100.0)


def test_moments_are_those_of_the_consumers_input() -> None:
    chain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = {"0": {"2": torch.tensor([[[0]], [[2]]])}}
    x = torch.randn(5, 3)
    batches = [x[:2], x[2:]]
    moments = input_moments(chain, inputs, batches)
    # In the same batches: others round differently.
    read = torch.cat([torch.relu(chain[0](batch))[:, [0, 2]] for batch in batches]).double()
    found = moments["0"]["2"]
    torch.testing.assert_close(found.mean, read.mean(0).detach())
    torch.testing.assert_close(found.covariance, torch.cov(read.T, correction=0).detach())


def test_folding_loses_less_than_dropping() -> None:
    """Into a layer with a bias: without one the constant part waits for batch-norm to be measured anew."""
    chain, folded = TOYS["plain"](), TOYS["plain"]()
    data = torch.cat(batches())
    expected = chain(data).detach()
    (group,) = (g for g in width_groups(chain, EXAMPLE) if g.name == "fc")
    inputs = input_positions(folded, [group])
    moments = input_moments(folded, inputs, batches())
    fold_into(folded, inputs["fc"], moments["fc"], [0, 5, 7])
    for network in (chain, folded):
        narrow(network, EXAMPLE, {"fc": [1, 2, 3, 4, 6, 8, 9]})
    dropped, kept = (float((network(data).detach() - expected).norm()) for network in (chain, folded))
    assert kept < 0.5 * dropped
