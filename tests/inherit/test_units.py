"""Units of several channels, layers that read and write a group, parts of layers: what repeats is folded."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tascnet.inherit import (
    average_into,
    fold_into,
    fold_pairs,
    hand_over,
    input_moments,
    input_positions,
    moments,
    nearest_kept,
    rank_by_reconstruction,
    refit,
)
from tascnet.inherit.fold import _by_channel
from tascnet.surgery import WidthGroup, narrow, width_groups
from tests.models.toys import EXAMPLE, body, conv, output, settle
from tests.surgery.networks import NETWORKS


def batches(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(count)]


def exact_groups(name: str) -> list[WidthGroup]:
    return [g for g in width_groups(NETWORKS[name].make(), EXAMPLE) if g.is_exact and g.width > 2]


CASES = [(name, group) for name in NETWORKS for group in exact_groups(name)]
IDS = [f"{name}-{group.name}" for name, group in CASES]


def repeated(name: str, group: WidthGroup) -> nn.Sequential:
    """A network in which the last unit of a group is the same as its second one."""
    chain = NETWORKS[name].make()
    with torch.no_grad():
        for layer, positions in (*group.outputs.items(), *group.passed.items()):
            for value in _by_channel(chain.get_submodule(layer)):
                value[positions[-1]] = value[positions[1]]
    return chain


@pytest.mark.parametrize(("name", "group"), CASES, ids=IDS)
def test_a_unit_that_another_repeats_goes_without_loss(name: str, group: WidthGroup) -> None:
    chain, last = repeated(name, group), group.width - 1
    inputs = input_positions(chain, [group])
    expected = output(chain)
    fold_into(
        chain,
        inputs[group.name],
        input_moments(chain, inputs, batches())[group.name],
        [last],
        ridge=0.0,
    )
    narrow(chain, EXAMPLE, {group.name: list(range(last))})
    torch.testing.assert_close(output(chain), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "group"), CASES, ids=IDS)
def test_a_unit_that_another_repeats_goes_without_loss_by_weights_alone(name: str, group: WidthGroup) -> None:
    chain, last = repeated(name, group), group.width - 1
    expected = output(chain)
    partners = nearest_kept(chain, group, [last])
    assert partners == {last: 1}
    fold_pairs(chain, group, partners)
    narrow(chain, EXAMPLE, {group.name: list(range(last))})
    torch.testing.assert_close(output(chain), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "group"), CASES, ids=IDS)
def test_the_average_of_a_unit_and_its_repetition_is_the_unit(name: str, group: WidthGroup) -> None:
    chain = repeated(name, group)
    expected = output(chain)
    average_into(chain, group, [1], [group.width - 1], torch.rand(group.width))
    torch.testing.assert_close(output(chain), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "group"), CASES, ids=IDS)
def test_a_unit_that_another_repeats_is_removed_first(name: str, group: WidthGroup) -> None:
    chain, last = repeated(name, group), group.width - 1
    inputs = input_positions(chain, [group])
    found = input_moments(chain, inputs, batches())
    ranking = rank_by_reconstruction(chain, inputs[group.name], found[group.name], last)
    # Where another unit is silent on these samples its removal costs nothing either.
    costs = dict(zip(ranking.order, ranking.costs, strict=True))
    assert min(costs.get(1, 1.0), costs.get(last, 1.0)) < 2e-3
    assert ranking.costs == tuple(sorted(ranking.costs))


def test_units_are_removed_at_the_cost_of_all_their_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the consumer's outputs before and after each unit is folded, over the same samples."""
    monkeypatch.setattr(moments, "PIXELS", 64)
    chain = NETWORKS["grouped"].make()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.bundle == 2)
    inputs = input_positions(chain, [group])
    assert inputs[group.name]["block.body.conv3"].shape == (4, 2, 1)
    found = input_moments(chain, inputs, batches())
    ranking = rank_by_reconstruction(chain, inputs[group.name], found[group.name], 1, ridge=1e-9)
    read: list[Tensor] = []
    layer = chain.block.body.conv3
    layer.register_forward_pre_hook(lambda _module, arguments: read.append(arguments[0]))
    output(chain, torch.cat(batches()))
    x = read[0].double().transpose(0, 1).flatten(1)
    weight = layer.weight.detach().double().flatten(1)
    x = x - x.mean(1, keepdim=True)
    lost = []
    for unit in range(4):
        gone = [2 * unit, 2 * unit + 1]
        left = [channel for channel in range(8) if channel not in gone]
        predicted = torch.linalg.lstsq(x[left].T, x[gone].T).solution.T @ x[left]
        lost.append(float((weight[:, gone] @ (x[gone] - predicted)).square().sum()))
    total = float((weight @ x).square().sum())
    assert ranking.order == (lost.index(min(lost)),)
    assert ranking.costs[0] == pytest.approx(min(lost) / total, rel=1e-3)


def test_channels_of_a_unit_are_no_samples_of_one_another_but_pixels_are() -> None:
    flat = settle(
        body(
            ("stem", conv(3, 8)),
            ("norm", nn.GroupNorm(4, 8)),
            ("pool", nn.AdaptiveAvgPool2d(2)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(32, 5)),
        )
    )
    groups = width_groups(flat, EXAMPLE)
    # A unit has two channels of four pixels each.
    positions = input_positions(flat, groups)["stem"]["classifier"]
    assert positions.shape == (4, 2, 4)
    assert positions[1].tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    pooled = copy.deepcopy(flat)
    pooled.pool, pooled.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
    groups = width_groups(pooled, EXAMPLE)
    assert input_positions(pooled, groups)["stem"]["classifier"].shape == (4, 2, 1)
    # A map that is read twice is no map of two pixels.
    twice = NETWORKS["read_twice"].make()
    for group in width_groups(twice, EXAMPLE):
        assert all(found.shape[2] == 1 for found in input_positions(twice, [group])[group.name].values())


def test_linear_layers_on_maps_are_read_and_refitted_by_pixel() -> None:
    whole = NETWORKS["channels_last"].make()
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    name, labels = "block.body.fc1", torch.arange(16) % 5

    def error(network: nn.Sequential) -> float:
        with torch.no_grad():
            return float((network(images) - whole(images)).square().sum())

    dropped, folded = copy.deepcopy(whole), copy.deepcopy(whole)
    groups = [group for group in width_groups(folded, EXAMPLE) if group.name == name]
    keep = hand_over(folded, groups, {name: 6}, lambda: ((x, labels) for x in batches()))
    for network in (dropped, folded):
        narrow(network, EXAMPLE, keep)
    lost = error(dropped)
    assert error(folded) < 0.2 * lost
    # Without folding the layer that reads the map makes up for what is gone.
    refit(dropped, whole, keep, batches)
    assert error(dropped) < 0.2 * lost


def test_a_layer_that_writes_a_part_of_its_channels_into_a_group_keeps_the_others() -> None:
    chain = NETWORKS["partial"].make()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == "stem:2")
    before = chain.stem.weight.clone()
    average_into(chain, group, [0], [1], torch.ones(group.width))
    changed = (chain.stem.weight != before).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [int(group.outputs["stem"][0, 0])]
