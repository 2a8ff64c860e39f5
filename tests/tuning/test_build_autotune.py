import copy
import json

import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.measure import complexity
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import Concat, Residual
from tascnet.models.describe import construct, describe
from tascnet.options import Autotune
from tascnet.surgery import activation_name, shape_after
from tascnet.tuning import Space
from tascnet.tuning.autotune import AutotuneBuilder, AutotuneCost, discover_autotune
from tascnet.tuning.cost import Cost
from tests.models.toys import EXAMPLE, body, conv
from tests.tuning.autotunes import CASES, CLASSES, options, prepare, toy


def build(chain, space, config, seed=0, **changes):
    return AutotuneBuilder(chain, space, EXAMPLE, options(**changes), seed=seed)(config)


def placed(tail, name):
    """The searched layer itself, which may stand behind an upsampling and a padding."""
    layer = tail.get_submodule(name)
    if not isinstance(layer, nn.Sequential):
        return layer
    return next(m for m in layer if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.Linear))


def padding_of(tail, name):
    pads = [m for m in tail.get_submodule(name).modules() if isinstance(m, nn.ZeroPad2d)]
    return pads[0].padding[0] if pads else placed(tail, name).padding[0]


def pool_of(layer):
    return "max" if isinstance(layer, nn.MaxPool2d) else "average"


def found(tail, choice):
    """What the network has of a choice of a layer."""
    (name,) = choice.layers
    layer = placed(tail, name)
    return {
        "activation": lambda: activation_name(layer),
        "dropout": lambda: layer.p,
        "filter_size": lambda: layer.kernel_size[1],
        "filters": lambda: layer.out_channels,
        "neurons": lambda: layer.out_features,
        "padding": lambda: padding_of(tail, name),
        "pool": lambda: pool_of(layer),
        "pool_size": lambda: layer.kernel_size,
    }[choice.what]()


def check_layers(tail, space, config):
    searched = [choice for choice in space.active(config) if choice.unit]
    assert {c.name: found(tail, c) for c in searched} == {c.name: config[c.name] for c in searched}


def check_head(tail, config):
    count = config["head.hidden_layers"]
    layers = list(tail)[-4 * count - 1 :]
    activation = ACTIVATIONS[config["head.activation"]]
    kinds = [nn.Linear, nn.BatchNorm1d, activation, nn.Dropout] * count + [nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    numbers = range(1, count + 1)
    sizes = [config[f"head.neurons{n}"] for n in numbers]
    assert [layer.out_features for layer in layers[::4]] == [*sizes, CLASSES]
    assert [layer.p for layer in layers[3::4]] == [config[f"head.dropout{n}"] for n in numbers]


def check_frozen(chain, candidate):
    tail = candidate.tail
    for name in candidate.frozen:
        old, new = chain.get_submodule(name), tail.get_submodule(name)
        assert type(new) is type(old)
        state = new.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in old.state_dict().items())
    fixed = {id(p) for name in candidate.frozen for p in tail.get_submodule(name).parameters()}
    assert all(p.requires_grad == (id(p) not in fixed) for p in tail.parameters())
    first = next(iter(tail._modules))
    assert all(name.split(".")[0] == first for name in candidate.frozen)


def check_maps(chain, candidate, entry):
    """Block by block the maps have the pre-trained network's sizes."""
    old = new = entry
    for name, block in candidate.tail.named_children():
        if name.startswith("head_") or name == "classifier":
            break
        old, new = shape_after(chain.get_submodule(name), old), shape_after(block, new)
        assert new.shape[2:] == old.shape[2:], name
        if new.dim() == 2:
            break


def check_plain(tail):
    assert not any(isinstance(module, Residual | Concat) for module in tail.modules())


@pytest.mark.parametrize("skip", ["keep", "drop"])
@pytest.mark.parametrize(("name", "side", "dense"), CASES)
def test_random_configurations_are_built_as_asked(name, side, dense, skip):
    chain, example, space = prepare(name, side, skip=skip, dense=dense)
    for k in sorted({min(k, space.depth) for k in (0, 1, 3, 6, space.depth)}):
        (config,) = space.sample(1, k, seed=k)
        candidate = AutotuneBuilder(chain, space, example, options(skip=skip, dense=dense))(config)
        assert (candidate.cut, candidate.first_changed) == (space.units[k].block, 0)
        check_layers(candidate.tail, space, config)
        check_head(candidate.tail, config)
        check_frozen(chain, candidate)
        entry = shape_after(chain[: candidate.cut], example)
        if skip == "drop":
            check_plain(candidate.tail)
        elif not any(choice.what == "padding" for choice in space.active(config)):
            check_maps(chain, candidate, entry)
        features = torch.rand((2, *entry.shape[1:]), generator=torch.Generator().manual_seed(k))
        check_output(candidate.tail, features)
        if k in (3, space.depth):
            check_round_trip(candidate.tail, features)


def check_output(tail, features):
    with torch.no_grad():
        output = tail.eval()(features)
    assert output.shape == (2, CLASSES)
    assert output.isfinite().all()


def check_round_trip(tail, features):
    again = construct(json.loads(json.dumps(describe(tail))))
    again.load_state_dict(tail.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(features), tail.eval()(features))


def test_the_first_searched_layer_is_new_and_nothing_before_it_is():
    chain, space = toy("residual")
    candidate = build(chain, space, space.neutral(1))
    old, new = chain.b1, candidate.tail.b1
    assert torch.equal(new.body.conv1.weight, old.body.conv1.weight)
    assert not torch.equal(new.body.conv2.weight[:10], old.body.conv2.weight[:10])
    # The batch-norm behind it reads 10 filters instead of 12, and so does the shortcut.
    assert (new.body.bn2.num_features, new.shortcut.conv.weight.shape) == (10, (10, 12, 1, 1))
    assert candidate.frozen == ("b1.body.conv1", "b1.body.bn1", "b1.body.relu1")


def test_the_seed_alone_decides_the_new_weights():
    chain, space = toy("depthwise")
    (config,) = space.sample(1, 5, seed=0)
    before = torch.get_rng_state()
    states = [build(chain, space, config, seed=seed).tail.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_without_hidden_layers_the_trained_softmax_layer_stays_where_it_fits():
    chain, space = toy("residual", hidden_layers=(0, 1), filters=(8, 12))
    kept = build(chain, space, space.neutral(0))
    assert kept.first_changed is None
    assert torch.equal(kept.tail.classifier.weight, chain.classifier.weight)
    same = build(chain, space, {**space.neutral(1), "b1.body.conv2.filters": 12})
    assert torch.equal(same.tail.classifier.weight, chain.classifier.weight)
    narrower = build(chain, space, {**space.neutral(1), "b1.body.conv2.filters": 8})
    assert narrower.tail.classifier.in_features == 8


def test_a_classifier_on_replaced_dense_layers_is_new():
    chain, space = toy("plain", hidden_layers=(0,))
    candidate = build(chain, space, space.neutral(0))
    # 12 maps of 4 x 4 instead of fc's 10 neurons.
    assert [(type(block), block.in_features) for block in candidate.tail] == [(nn.Linear, 192)]
    assert (candidate.cut, candidate.first_changed) == (7, 0)


def test_kept_dense_layers_get_batch_norm_and_what_is_searched_of_them():
    chain, space = toy("plain", dense="keep", hidden_layers=(0, 1))
    config = {**space.neutral(1), "fc.neurons": 20, "fc.activation": "selu", "fc.dropout": 0.3}
    tail = build(chain, space, config, dense="keep").tail
    assert list(tail._modules) == ["fc", "relu3", "dropout", "classifier"]
    assert [type(layer) for layer in tail.fc] == [nn.Linear, nn.BatchNorm1d]
    assert (tail.fc.linear.weight.shape, type(tail.relu3), tail.dropout.p) == ((20, 192), nn.SELU, 0.3)
    assert tail.classifier.in_features == 20


def test_features_that_are_no_vectors_are_refused():
    chain = body(("conv", conv(3, 8)), ("classifier", nn.Linear(8, 5)))
    space = Space(discover_autotune(chain, torch.zeros(1, 3, 8, 8), Autotune()), nested=False)
    with pytest.raises(SurgeryError, match="vectors"):
        build(chain, space, space.neutral(1))


def test_mode_type_and_chain_stay_as_they_are():
    chain, space = toy("dense")
    chain.double().train().requires_grad_(False)
    before = copy.deepcopy(chain.state_dict())
    candidate = build(chain, space, space.neutral(4))
    assert all(module.training for module in candidate.tail.modules())
    assert {p.dtype for p in candidate.tail.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in chain.parameters())
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())


@pytest.mark.parametrize("skip", ["keep", "drop"])
@pytest.mark.parametrize(("name", "side", "dense"), CASES)
def test_the_cost_told_beforehand_is_the_measured_one(name, side, dense, skip):
    chain, example, space = prepare(name, side, skip=skip, dense=dense, max_units=6)
    cost = AutotuneCost(chain, space, example, options(skip=skip, dense=dense))
    build = AutotuneBuilder(chain, space, example, options(skip=skip, dense=dense))
    for k in (0, min(4, space.depth)):
        (config,) = space.sample(1, k, seed=k)
        candidate = build(config)
        whole = nn.Sequential(*chain[: candidate.cut], *candidate.tail)
        measured = complexity(whole, example)
        assert cost(config) == Cost(params=measured.params, flops=measured.flops)


def test_a_cost_that_no_shape_tells_is_refused():
    class Squared(nn.Module):
        def forward(self, x):
            return x @ x

    chain = body(
        ("conv", conv(3, 8)),
        ("squared", Squared()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    )
    space = Space(discover_autotune(chain, EXAMPLE, Autotune()), nested=False)
    with pytest.raises(SurgeryError, match="'squared'"):
        AutotuneCost(chain, space, EXAMPLE, Autotune())
