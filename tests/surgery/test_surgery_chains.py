"""Surgery on networks as they are published: groups, tails, and cuts of all groups."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tascnet.models.build import build_chain
from tascnet.models.conversion import convert
from tascnet.models.head import HeadSpec, replace_head
from tascnet.surgery import all_channel_scores, layer_widths, narrow, width_groups
from tests.models.toys import EXAMPLE, TOYS
from tests.surgery.networks import silence

# Groups of coupled layers counted by hand: all convolutions and hidden linear layers, less the coupled ones.
EXPECTED = {
    # 5 convolutions.
    "digits_cnn": 5,
    # 9 blocks with an inner convolution; the padded stream cannot be cut.
    "resnet20": 9,
    # 8 inner convolutions and 4 streams, the first of which begins with the stem.
    "resnet18": 12,
    # Stem, 16 pairs of coupled inner convolutions, 4 streams.
    "resnext50_32x4d": 21,
    # Stem, 58 x 2, 3 transitions.
    "densenet121": 120,
    # Stem with the first depthwise layer, 16 expansions, 7 streams, the last convolution.
    "mobilenet_v2": 25,
    # The same with 15 expansions, and 16 layers that squeeze.
    "efficientnet_b0": 40,
    # Stem, 16 pairs of inner convolutions, 16 layers that squeeze, 4 streams.
    "regnet_y_400mf": 37,
    # 18 expansions, 4 streams.
    "convnext_tiny": 22,
    # In each of 16 blocks the inner width; two that enter a stage (stem and the last convolution).
    "shufflenet_v2_x0_5": 18,
    # 13 convolutions and 2 hidden linear layers.
    "vgg16": 15,
}
SMALL = ("digits_cnn", "resnet20")


def chain_of(name: str) -> tuple[nn.Sequential, Tensor]:
    """A chain and an example; of a large network without values, on the meta device."""
    if name in SMALL:
        channels, size = (1, 8) if name == "digits_cnn" else (3, 32)
        chain = build_chain(name, channels=channels)
        return chain, torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    # RegNet computes its widths with tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        module = getattr(torchvision.models, name)(weights=None).to("meta")
    example = torch.empty(1, 3, 32, 32, device="meta")
    return convert(module, example, check=False).chain.eval(), example


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
        # RegNet's widest layers have 13 groups of filters, of which 7 stay.
        layer: -(-group.width // 2) * positions.shape[1]
        for group in groups
        for layer, positions in group.outputs.items()
    }
    assert {layer: width for layer, width in after.items() if layer not in changed} == {
        layer: width for layer, width in before.items() if layer not in changed
    }
    with torch.no_grad():
        assert tuple(chain(example).shape) == (1, before["classifier"])


@pytest.mark.parametrize(
    ("name", "group_name"), [("resnet20", "layer2_0.body.conv1"), ("digits_cnn", "conv5")]
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


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_tails_have_the_groups_of_the_whole(name: str) -> None:
    chain, example = chain_of(name)
    groups = width_groups(chain, example)
    for cut in range(2, len(chain) - 1, 6):
        with torch.no_grad():
            features = chain[:cut](example)
        found = [(group.name, group.filters) for group in width_groups(chain[cut:], features)]
        assert found == [(group.name, group.filters) for group in groups if group.first_block >= cut]


def test_channels_last_and_training_change_nothing_in_the_groups() -> None:
    chain, example = TOYS["depthwise"](), EXAMPLE
    groups = width_groups(chain, example)
    chain = chain.train().to(memory_format=torch.channels_last)
    example = example.contiguous(memory_format=torch.channels_last)
    assert width_groups(chain, example) == groups
    narrow(chain, example, {group.name: range(group.width // 2) for group in groups})
    assert all(module.training for module in chain.modules())
    weights = [p for p in chain.parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_scores_of_a_depthwise_network() -> None:
    chain = TOYS["depthwise"]()
    groups = width_groups(chain, EXAMPLE)
    for criterion in ("magnitude", "fpgm"):
        scores = all_channel_scores(chain, EXAMPLE, groups, criterion)
        assert list(scores) == [group.name for group in groups]
        assert all(scores[g.name].shape == (g.width,) and scores[g.name].std() > 0 for g in groups)


def test_hidden_layers_of_a_new_head_are_groups() -> None:
    chain = TOYS["depthwise"]()
    trunk = len(width_groups(chain, EXAMPLE))
    chain = replace_head(chain, HeadSpec(hidden=(16, 12), dropout=0.2), 5, seed=0)
    groups = width_groups(chain, EXAMPLE)
    assert [group.width for group in groups[trunk:]] == [16, 12]
    narrow(chain, EXAMPLE, {group.name: range(8) for group in groups[trunk:]})
    assert list(layer_widths(chain).values())[-3:] == [8, 8, 5]
