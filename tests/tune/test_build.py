import copy

import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.surgery import all_channel_scores, layer_widths, width_groups
from tascnet.tune.build import build_candidate
from tascnet.tune.discover import discover_units
from tascnet.tune.space import Space
from tests.models.toys import EXAMPLE, TOYS
from tests.tune.test_discover import OPTIONS

NAMES = list(TOYS)


def prepare(name):
    chain = TOYS[name]()
    return chain, Space(discover_units(chain, EXAMPLE, **OPTIONS))


def build(chain, space, config, **changes):
    return build_candidate(chain, space, config, EXAMPLE, **{"num_classes": 5, **changes})


def whole(chain, candidate, x=EXAMPLE):
    with torch.no_grad():
        return candidate.tail.eval()(chain[: candidate.cut](x))


@pytest.mark.parametrize("name", NAMES)
def test_the_pre_trained_setting_gives_the_chains_outputs_to_the_last_bit(name):
    chain, space = prepare(name)
    for first_trained, unit in enumerate(space.units):
        candidate = build(chain, space, space.neutral(first_trained))
        assert candidate.cut == unit.block
        assert candidate.first_changed is None
        assert torch.equal(whole(chain, candidate), chain(EXAMPLE))


@pytest.mark.parametrize("name", NAMES)
def test_random_configurations_are_built_as_asked(name):
    chain, space = prepare(name)
    before = copy.deepcopy(chain.state_dict())
    for config in space.sample(8, space.depth, 0):
        candidate = build(chain, space, config)
        assert whole(chain, candidate).shape == (1, 5)
        check_structure(candidate.tail, space, config)
        assert all(parameter.requires_grad for parameter in candidate.tail.parameters())
    assert all(torch.equal(value, before[key]) for key, value in chain.state_dict().items())


def check_structure(tail, space, config):
    widths = layer_widths(tail)
    for choice in space.active(config):
        value = config[choice.name]
        for layer in choice.layers:
            if choice.what == "width":
                assert widths[layer] == value
            elif choice.what == "kernel":
                assert tail.get_submodule(layer).kernel_size == (value, value)
            else:
                assert type(tail.get_submodule(layer)).__name__.lower() == value
    hidden = [widths[name] for name in widths if name.startswith("head_linear")]
    assert hidden == [config["head.neurons"]] * config["head.hidden_layers"]
    dropouts = {block.p for name, block in tail.named_children() if name.startswith("head_dropout")}
    assert dropouts == ({config["head.dropout"]} if config["head.dropout"] else set())


def test_a_narrower_group_keeps_its_most_important_channels_and_their_weights():
    chain, space = prepare("plain")
    candidate = build(chain, space, {**space.neutral(2), "conv2.width": 4})
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == "conv2")
    scores = all_channel_scores(chain, EXAMPLE, [group], "magnitude")["conv2"]
    kept = sorted(scores.topk(4).indices.tolist())
    assert torch.equal(candidate.tail.conv2.weight, chain.conv2.weight[kept])
    assert torch.equal(candidate.tail.bn2.running_mean, chain.bn2.running_mean[kept])
    inputs = [channel * 16 + pixel for channel in kept for pixel in range(16)]
    assert torch.equal(candidate.tail.fc.weight, chain.fc.weight[:, inputs])


def test_a_larger_kernel_keeps_the_function_and_a_new_activation_changes_it():
    chain, space = prepare("plain")
    larger = build(chain, space, {**space.neutral(2), "conv2.kernel": 5})
    torch.testing.assert_close(whole(chain, larger), chain(EXAMPLE))
    other = build(chain, space, {**space.neutral(2), "conv2.activation": "elu"})
    assert isinstance(other.tail.relu2, nn.ELU)
    assert not torch.allclose(whole(chain, other), chain(EXAMPLE))


@pytest.mark.parametrize(
    ("change", "first_changed"),
    [
        # The tail is conv2 bn2 relu2 pool flatten fc relu3, then the head.
        ({"conv2.width": 4}, 0),
        ({"conv2.activation": "elu"}, 2),
        ({"fc.width": 4}, 5),
        ({"head.hidden_layers": 1}, 7),
        ({"head.dropout": 0.2}, None),
        ({"fc.width": 4, "conv2.kernel": 5}, 0),
    ],
)
def test_the_first_changed_block_is_named(change, first_changed):
    chain, space = prepare("plain")
    assert build(chain, space, {**space.neutral(2), **change}).first_changed == first_changed


def test_without_hidden_layers_the_trained_softmax_layer_stays():
    chain, space = prepare("plain")
    candidate = build(chain, space, {**space.neutral(0), "head.dropout": 0.2})
    assert [type(block) for block in candidate.tail] == [nn.Dropout, nn.Linear]
    assert torch.equal(candidate.tail.classifier.weight, chain.classifier.weight)


def test_a_new_head_depends_on_the_seed_alone():
    chain, space = prepare("plain")
    config = {**space.neutral(0), "head.hidden_layers": 1, "head.neurons": 8, "head.dropout": 0.2}
    heads = [build(chain, space, config, seed=seed).tail for seed in (0, 0, 1)]
    kinds = [nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(block) for block in heads[0]] == kinds
    assert torch.equal(heads[0].head_linear1.weight, heads[1].head_linear1.weight)
    assert not torch.equal(heads[0].head_linear1.weight, heads[2].head_linear1.weight)


def test_a_frozen_chain_in_training_mode_stays_as_it_is():
    chain, space = prepare("residual")
    chain.train().requires_grad_(False)
    candidate = build(chain, space, {**space.neutral(space.depth), "stem.width": 4})
    assert all(module.training for module in chain.modules())
    assert not any(parameter.requires_grad for parameter in chain.parameters())
    assert all(parameter.requires_grad for parameter in candidate.tail.parameters())


def test_an_impossible_structure_is_refused():
    chain, space = prepare("plain")
    with pytest.raises(SurgeryError, match=r"shape \(1, 5\), expected \(1, 7\)"):
        build(chain, space, space.neutral(1), num_classes=7)
    with pytest.raises(SurgeryError, match="unknown criterion"):
        build(chain, space, {**space.neutral(1), "fc.width": 4}, importance="size")
