"""Surgery on every backbone: groups, tails, and a cut that equals silencing."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tascnet.models.build import build_chain
from tascnet.models.head import HeadSpec, replace_head
from tascnet.surgery import (
    WidthGroup,
    all_channel_scores,
    layer_widths,
    narrow,
    width_groups,
)

# Groups of coupled layers counted by hand: all convolutions and hidden linear layers, less the coupled ones.
EXPECTED = {
    # 5 convolutions.
    "digits_cnn": 5,
    # 9 blocks with an inner convolution; the padded stream cannot be cut.
    "resnet20": 9,
    "resnet56": 27,
    # 8 inner convolutions and 4 streams, the first of which begins with the stem.
    "resnet18": 12,
    # Stem, 16 x 2 inner convolutions, 4 streams.
    "resnet50": 37,
    # Stem, 58 x 2, 3 transitions.
    "densenet121": 120,
    # Stem with the first depthwise layer, 16 expansions, 7 streams, the last convolution.
    "mobilenet_v2": 25,
    # 13 convolutions and 2 hidden linear layers.
    "vgg16": 15,
}


def chain_of(name: str) -> tuple[nn.Sequential, Tensor]:
    channels, size = (1, 8) if name == "digits_cnn" else (3, 32)
    chain = build_chain(name, channels=channels)
    return chain, torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", EXPECTED)
def test_all_groups_are_found_and_narrowed(name: str) -> None:
    chain, example = chain_of(name)
    groups = width_groups(chain, example)
    assert len(groups) == EXPECTED[name]
    assert [g.first_block for g in groups] == sorted(g.first_block for g in groups)
    before = layer_widths(chain)
    changed = narrow(chain, example, {g.name: range(0, g.width, 2) for g in groups})
    after = layer_widths(chain)
    assert {layer: widths[1] for layer, widths in changed.items()} == {
        layer: before[layer] // 2 for group in groups for layer in group.filters
    }
    assert {layer: width for layer, width in after.items() if layer not in changed} == {
        layer: width for layer, width in before.items() if layer not in changed
    }
    with torch.no_grad():
        assert chain(example).isfinite().all()


def silence(chain: nn.Sequential, group: WidthGroup, removed: list[int]) -> None:
    for name in group.members:
        if name in group.consumers:
            continue
        layer = chain.get_submodule(name)
        with torch.no_grad():
            layer.weight[removed] = 0
            if layer.bias is not None:
                layer.bias[removed] = 0


@pytest.mark.parametrize(
    ("name", "group_name"),
    [
        ("resnet20", "layer2_0.body.conv1"),
        ("resnet50", "layer2_0.body.conv3"),
        ("mobilenet_v2", "block2.project"),
        ("mobilenet_v2", "block3.body.expand"),
        ("digits_cnn", "conv5"),
    ],
)
def test_a_cut_equals_silencing(name: str, group_name: str) -> None:
    chain, example = chain_of(name)
    group = next(group for group in width_groups(chain, example) if group.name == group_name)
    removed = [0, 3, group.width - 1]
    silenced = copy.deepcopy(chain)
    silence(silenced, group, removed)
    narrow(chain, example, {group_name: sorted(set(range(group.width)) - set(removed))})
    with torch.no_grad():
        torch.testing.assert_close(chain(example), silenced(example), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_tails_have_the_groups_of_the_whole(name: str) -> None:
    chain, example = chain_of(name)
    groups = width_groups(chain, example)
    for cut in range(4, len(chain) - 1, 4):
        with torch.no_grad():
            features = chain[:cut](example)
        found = [(group.name, group.filters) for group in width_groups(chain[cut:], features)]
        assert found == [(group.name, group.filters) for group in groups if group.first_block >= cut]


def test_channels_last_and_training_change_nothing_in_the_groups() -> None:
    chain, example = chain_of("mobilenet_v2")
    groups = width_groups(chain, example)
    chain = chain.train().to(memory_format=torch.channels_last)
    example = example.contiguous(memory_format=torch.channels_last)
    assert width_groups(chain, example) == groups
    narrow(chain, example, {group.name: range(group.width // 2) for group in groups})
    assert all(module.training for module in chain.modules())
    weights = [p for p in chain.parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_scores_of_a_depthwise_network() -> None:
    chain, example = chain_of("mobilenet_v2")
    groups = width_groups(chain, example)
    for criterion in ("magnitude", "fpgm"):
        scores = all_channel_scores(chain, example, groups, criterion)
        assert list(scores) == [group.name for group in groups]
        assert all(scores[g.name].shape == (g.width,) and scores[g.name].std() > 0 for g in groups)


def test_hidden_layers_of_a_new_head_are_groups() -> None:
    chain, example = chain_of("mobilenet_v2")
    trunk = len(width_groups(chain, example))
    chain = replace_head(chain, HeadSpec(hidden=(16, 12), dropout=0.2), 5, seed=0)
    groups = width_groups(chain, example)
    assert [group.width for group in groups[trunk:]] == [16, 12]
    narrow(chain, example, {group.name: range(8) for group in groups[trunk:]})
    assert list(layer_widths(chain).values())[-3:] == [8, 8, 5]
