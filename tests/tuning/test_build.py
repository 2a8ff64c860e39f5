import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

import tascnet.tuning.build
from tascnet.errors import SurgeryError
from tascnet.surgery import all_channel_scores, layer_widths, width_groups
from tascnet.tuning.build import CandidateBuilder
from tascnet.tuning.choices import discover_units
from tascnet.tuning.ends import possible_exits
from tascnet.tuning.space import Space
from tests.models.toys import EXAMPLE, TOYS
from tests.tuning.splitting import SPLITTING
from tests.tuning.test_discover import options

NAMES = list(TOYS)


def prepare(name, **changes):
    chain = TOYS[name]()
    return chain, Space(discover_units(chain, EXAMPLE, options(**changes)))


def prepare_exits(name, **changes):
    """With few values, so that all configurations can be built."""
    chain, space = prepare(name, widths=(0.5,), kernels=(), activations=(), hidden_layers=(0,), **changes)
    return chain, Space(space.units, exits=possible_exits(chain, space.units, EXAMPLE))


def every_configuration(space):
    return [*space.frontier([], space.depth)]


def pretrained(chain, classes=11):
    """A pre-trained classification layer on the chain's features."""
    layer = nn.Linear(chain.classifier.in_features, classes)
    weights = torch.linspace(-1, 1, layer.weight.numel()).reshape_as(layer.weight)
    layer.load_state_dict({"weight": weights, "bias": torch.linspace(-1, 1, classes)})
    return layer


def build(chain, space, config, **changes):
    return CandidateBuilder(chain, space, EXAMPLE, **changes)(config)


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
    removed = {c.layers[0] for c in space.choices if c.what == "kept" and not config[c.name]}
    assert not removed & set(tail._modules)
    for choice in space.active(config):
        value = config[choice.name]
        if choice.what == "kept":
            continue
        for layer in choice.layers:
            if layer.partition(".")[0] in removed:
                continue
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


def test_a_kernel_cropped_to_one_keeps_the_centre():
    chain, space = prepare("residual", kernels=(1, 3))
    candidate = build(chain, space, {**space.neutral(2), "b0.kernel": 1})
    for name in ("conv1", "conv2"):
        new, old = candidate.tail.b0.body.get_submodule(name), chain.b0.body.get_submodule(name)
        assert (new.kernel_size, new.stride, new.padding) == ((1, 1), old.stride, (0, 0))
        assert torch.equal(new.weight, old.weight[:, :, 1:2, 1:2])
    assert whole(chain, candidate).shape == (1, 5)


@pytest.mark.parametrize("first_trained", [1, 3])
def test_removing_a_block_is_removing_an_item(first_trained):
    chain, space = prepare("residual")
    candidate = build(chain, space, {**space.neutral(first_trained), "b1.kept": 0})
    # stem stem_bn stem_relu a0 b0 b1 pool flatten classifier
    assert torch.equal(whole(chain, candidate), nn.Sequential(*chain[:5], *chain[6:])(EXAMPLE))
    assert candidate.first_changed == 5 - candidate.cut
    assert candidate.cut == space.units[first_trained].block


@pytest.mark.parametrize(("name", "block"), [("residual", "b1"), ("residual", "a0"), ("depthwise", "i1")])
def test_a_block_that_adds_nothing_is_removed_without_a_trace(name, block):
    chain, space = prepare(name)
    # What enters is not negative where the block ends in a ReLU, so that ReLU(x + 0) = x.
    last = list(chain.get_submodule(block).body)[-1]
    last.load_state_dict({**last.state_dict(), "weight": 0 * last.weight, "bias": 0 * last.bias})
    candidate = build(chain, space, {**space.neutral(space.depth), f"{block}.kept": 0})
    assert block not in candidate.tail._modules
    torch.testing.assert_close(whole(chain, candidate), chain(EXAMPLE), rtol=0, atol=0)


def test_removed_blocks_have_no_say_in_what_the_others_keep():
    chain, space = prepare("residual")
    config = {**space.neutral(2), "b1.kept": 0, "b0.body.conv2.width": 4}
    candidate = build(chain, space, config)
    rest = nn.Sequential(OrderedDict((n, m) for n, m in chain.named_children() if n != "b1"))
    group = next(g for g in width_groups(rest, EXAMPLE) if g.name == "b0.body.conv2")
    kept = sorted(
        all_channel_scores(rest, EXAMPLE, [group], "magnitude")[group.name].topk(4).indices.tolist()
    )
    assert torch.equal(candidate.tail.b0.body.conv2.weight, chain.b0.body.conv2.weight[kept])
    assert torch.equal(candidate.tail.classifier.weight, chain.classifier.weight[:, kept])


@pytest.mark.parametrize(
    ("name", "groups", "asked", "kept"),
    [
        # The stem's channels are one group without the block: 2 of 3 and 3 of 5, or 2 of 3 and all 5.
        ("branches", {"stem": 3, "stem:2": 5}, {"stem": 2, "stem:2": 3}, {"stem": 5, "last": 6}),
        ("branches", {"stem": 3, "stem:2": 5}, {"stem": 2, "last": 4}, {"stem": 7, "last": 4}),
        # 3 of 4 pairs, of which each channel is a unit of its own without the block.
        ("bundles", {"stem": 8}, {"stem": 6}, {"stem": 6, "last": 6}),
        # 3 of 4 units of one channel of each layer, which are two groups without the block.
        ("swapped", {"stem.a": 4}, {"stem.a": 3}, {"stem.a": 3, "stem.b": 3, "last": 6}),
    ],
)
@pytest.mark.parametrize("kept_by", ["importance", "hand_over"])
def test_without_the_block_that_grouped_them_layers_become_as_narrow_as_asked(
    name, groups, asked, kept, kept_by
):
    chain = SPLITTING[name]()
    space = Space(discover_units(chain, EXAMPLE, options(widths=(0.4, 0.6, 0.75), round_to=1)))
    found = {group.name: group.channels for group in width_groups(chain, EXAMPLE)}
    assert {group: found[group] for group in groups} == groups
    config = {**space.neutral(space.depth), "block.kept": 0}
    config |= {f"{group}.width": width for group, width in asked.items()}

    def first(tail, cut, groups, widths, first_changed):
        assert widths.keys() == {group.name for group in groups}
        return {group: list(range(count)) for group, count in widths.items()}

    changes = {"hand_over": first} if kept_by == "hand_over" else {}
    candidate = build(chain, space, config, **changes)
    assert "block" not in candidate.tail._modules
    assert {**kept, "classifier": 5} == layer_widths(candidate.tail)
    assert whole(chain, candidate).shape == (1, 5)
    assert candidate.first_changed == 0


def test_the_criterion_decides_what_is_kept():
    chain, space = prepare("plain")
    config = {**space.neutral(2), "conv2.width": 4}

    def kept(importance):
        weights = build(chain, space, config, importance=importance).tail.conv2.weight
        return [int((chain.conv2.weight == w).flatten(1).all(1).nonzero()) for w in weights]

    found = {criterion: kept(criterion) for criterion in ("magnitude", "fpgm", "random")}
    assert all(len(channels) == 4 for channels in found.values())
    assert len(set(map(tuple, found.values()))) == 3, found


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
        ({"tail.lr": 10.0}, None),
        ({"head.grown": 1}, 7),
    ],
)
def test_the_first_changed_block_is_named(change, first_changed):
    chain, space = prepare("plain", lr_factors=(10,), head="search")
    config = {**space.neutral(2), **change}
    candidate = build(chain, space, config, classifier=pretrained(chain), magnitude=1.0)
    assert candidate.first_changed == first_changed


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


def test_the_learning_rate_of_the_tail_is_handed_on():
    chain, space = prepare("plain", lr_factors=(0.1, 10))
    factors = [build(chain, space, {**space.neutral(1), "tail.lr": f}).lr_factor for f in (0.1, 1.0, 10.0)]
    assert factors == [0.1, 1.0, 10.0]
    chain, space = prepare("plain")
    assert build(chain, space, space.neutral(1)).lr_factor == 1.0


@pytest.mark.parametrize("norm", ["none", "l2", "batchnorm"])
def test_a_grown_head_keeps_the_classification_layer_and_loses_its_inputs_with_the_features(norm):
    chain, space = prepare("plain", head="search")
    old = pretrained(chain)
    config = {**space.neutral(1), "head.grown": 1, "head.norm": norm, "fc.width": 4}
    candidate = build(chain, space, config, classifier=old, magnitude=2.0)
    kept = next(m for m in candidate.tail if isinstance(m, nn.Linear) and m.out_features == 11)
    chosen = [int((chain.fc.weight == row).all(1).nonzero()) for row in candidate.tail.fc.weight]
    assert len(chosen) == 4
    assert torch.equal(kept.weight, old.weight[:, chosen])
    assert torch.equal(kept.bias, old.bias)
    assert kept.weight.requires_grad
    assert candidate.tail.classifier.in_features == 11
    assert whole(chain, candidate).shape == (1, 5)


def test_a_grown_head_begins_where_the_magnitudes_meet():
    chain, space = prepare("plain", head="grow")
    old = pretrained(chain)
    small, large = (
        whole(chain, build(chain, space, space.neutral(0), classifier=old, magnitude=m)) for m in (1.0, 4.0)
    )
    # Without a normalisation the scale is 1 / magnitude, and ReLU and the last layer, without bias, are
    # homogeneous.
    torch.testing.assert_close(small, 4 * large)


def test_a_head_grows_on_nothing_but_a_given_layer():
    chain, space = prepare("plain", head="grow")
    with pytest.raises(SurgeryError, match="which is missing") as raised:
        build(chain, space, space.neutral(0))
    assert raised.value.hint == "give `classifier` and `magnitude`"


def test_what_is_remembered_changes_nothing(monkeypatch):
    chain, space = prepare("residual", head="search")
    grown = {"classifier": pretrained(chain), "magnitude": 2.0}
    remembering = CandidateBuilder(chain, space, EXAMPLE, **grown)
    configs = space.sample(8, space.depth, 3)
    for config in [*configs, *configs]:
        ours = remembering(config)
        fresh = build(chain, space, config, **grown)
        assert (ours.cut, ours.first_changed) == (fresh.cut, fresh.first_changed)
        assert ours.tail.state_dict().keys() == fresh.tail.state_dict().keys()
        states = zip(ours.tail.state_dict().values(), fresh.tail.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
    searched = []
    monkeypatch.setattr(tascnet.tuning.build, "Trace", searched.append)
    for config in configs:
        remembering(config)
    assert searched == []


def test_a_frozen_chain_in_training_mode_stays_as_it_is():
    chain, space = prepare("residual")
    chain.train().requires_grad_(False)
    candidate = build(chain, space, {**space.neutral(space.depth), "stem.width": 4})
    assert all(module.training for module in chain.modules())
    assert not any(parameter.requires_grad for parameter in chain.parameters())
    assert all(parameter.requires_grad for parameter in candidate.tail.parameters())


def test_an_impossible_structure_is_refused():
    chain, space = prepare("plain")
    with pytest.raises(SurgeryError, match="unknown criterion"):
        build(chain, space, {**space.neutral(1), "fc.width": 4}, importance="size")


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "padded"])
def test_no_two_configurations_are_the_same_network(name):
    chain, space = prepare_exits(name, dropouts=(0.0,))
    build_it = CandidateBuilder(chain, space, EXAMPLE)
    configs = every_configuration(space)
    found = set()
    for config in configs:
        candidate = build_it(config)
        network = nn.Sequential(*chain[: candidate.cut], *candidate.tail)
        assert network.eval()(EXAMPLE).shape == (1, 5)
        trained = list(candidate.tail._modules)
        found.add((*map(repr, network), *list(chain._modules)[: candidate.cut], "|", *trained))
    assert len(found) == len(configs) == space.count(space.depth)


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "dense"])
def test_an_exit_is_the_first_blocks_the_own_pooling_and_the_head(name):
    chain, space = prepare_exits(name)
    pooling = nn.Sequential(chain.pool, chain.flatten)
    for exit in range(1, space.exits + 1):
        features = chain[: space.units[exit].block](EXAMPLE)
        features = pooling(features) if features.dim() > 2 else features
        head = nn.Linear(features.shape[1], 5)
        candidate = build(chain, space, space.neutral(0, exit), heads={exit: head})
        assert (candidate.cut, candidate.new_head) == (space.units[exit].block, False)
        assert torch.equal(whole(chain, candidate), head(features))
        deeper = build(chain, space, space.neutral(space.depth, exit), heads={exit: head})
        if space.depth > exit:
            assert deeper.cut == space.units[-1].block
        assert torch.equal(whole(chain, deeper), head(features))


def test_the_head_of_an_exit_loses_its_inputs_with_the_features():
    chain, space = prepare_exits("depthwise")
    # Without the last convolution the head reads the 6 channels of i0 and i1, of which 4 are kept.
    head = nn.Linear(6, 5)
    config = {**space.neutral(3, 1), "i0.conv3.width": 4}
    candidate = build(chain, space, config, heads={1: head})
    last = candidate.tail.i0.conv3.weight
    kept = [int((chain.i0.conv3.weight == w).flatten(1).all(1).nonzero()) for w in last]
    assert len(kept) == 4
    assert torch.equal(candidate.tail.classifier.weight, head.weight[:, kept])
    assert torch.equal(candidate.tail.classifier.bias, head.bias)


def test_a_head_that_nothing_has_trained_is_called_new():
    chain, space = prepare_exits("residual", dropouts=(0.0, 0.2))
    assert not build(chain, space, space.neutral(1)).new_head
    without = build(chain, space, space.neutral(2, 1))
    again = build(chain, space, space.neutral(2, 1))
    assert without.new_head
    # Of stem stem_bn stem_relu a0 b0 | pool flatten classifier, trained from b0 on.
    assert without.first_changed == 1
    assert torch.equal(without.tail.classifier.weight, again.tail.classifier.weight)
    chain, space = prepare("residual")
    assert build(chain, space, {**space.neutral(0), "head.hidden_layers": 1}).new_head


def test_a_head_does_not_grow_on_the_old_one_at_an_exit():
    chain, space = prepare_exits("residual", head="search")
    config = space.canonical({**space.neutral(0, 1), "head.grown": 1, "head.norm": "l2"})
    assert config == space.neutral(0, 1)
    assert build(chain, space, config).tail.classifier.in_features == 12


def test_what_the_user_spares_is_not_removed():
    chain, space = prepare("residual")
    # Units: b1, b0, a0, stem.
    assert possible_exits(chain, space.units, EXAMPLE) == 3
    assert possible_exits(chain, space.units, EXAMPLE, ["b0.body.conv1"]) == 1
    assert possible_exits(chain, space.units, EXAMPLE, ["b1"]) == 0
