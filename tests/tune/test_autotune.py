import copy
from functools import lru_cache

import pytest
import torch
from torch import nn

from tascnet.errors import ConfigError, SurgeryError
from tascnet.models.archive import load, save
from tascnet.models.blocks import Concat, Residual
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.info import ModelInfo, Preprocessing
from tascnet.models.surgery import ACTIVATIONS, activation_name, shape_after
from tascnet.models.weights import build_backbone
from tascnet.tune import Space, build_autotune, discover_autotune
from tests.models.networks import shaken
from tests.models.toys import EXAMPLE, TOYS, body, conv

CLASSES = 3
# Backbone, side of the images, dense layers before the classifier.
CASES = [
    ("digits_cnn", 8, "replace"),
    ("resnet20", 32, "replace"),
    ("resnet18", 64, "replace"),
    ("resnet50", 64, "replace"),
    ("densenet121", 64, "replace"),
    ("mobilenet_v2", 64, "replace"),
    ("vgg16", 32, "keep"),
    ("vgg16", 32, "replace"),
]
# Widths of their own: small ones, and none of them a backbone's.
SMALL = {"filters": (10, 20, 30), "neurons": (10, 20), "dropouts": (0.0, 0.3, 0.9)}


@lru_cache(maxsize=1)
def backbone(name):
    channels = 1 if name == "digits_cnn" else 3
    chain = build_backbone(name, weights="random", channels=channels).chain
    return shaken(replace_head(chain, HeadSpec(), CLASSES, seed=0))


def prepare(name, side, **options):
    chain = backbone(name)
    example = torch.zeros(1, 1 if name == "digits_cnn" else 3, side, side)
    return chain, example, Space(discover_autotune(chain, example, **{**SMALL, **options}), nested=False)


def toy(name, **options):
    chain = TOYS[name]()
    return chain, Space(discover_autotune(chain, EXAMPLE, **{**SMALL, **options}), nested=False)


def build(chain, space, config, **changes):
    return build_autotune(chain, space, config, EXAMPLE, **{"num_classes": 5, **changes})


def names(space):
    """The layers of the units, from the output."""
    return [unit.choices[0].name.rpartition(".")[0] for unit in space.units[1:]]


def values(space, unit):
    return {choice.name: choice.values for choice in space.units[unit].choices}


# The space.


def test_units_of_a_plain_chain_by_hand():
    # conv1 relu1 conv2 bn2 relu2 pool flatten | fc relu3 dropout classifier
    _, space = toy("plain", hidden_layers=(1, 2))
    head = space.units[0]
    assert head.block == 7
    assert [(c.name, c.only_if, c.only_from) for c in head.choices] == [
        ("head.hidden_layers", None, 1),
        ("head.activation", "head.hidden_layers", 1),
        ("head.neurons1", "head.hidden_layers", 1),
        ("head.dropout1", "head.hidden_layers", 1),
        ("head.neurons2", "head.hidden_layers", 2),
        ("head.dropout2", "head.hidden_layers", 2),
    ]
    assert [(unit.block, values(space, unit.index)) for unit in space.units[1:]] == [
        (5, {"pool.pool": ("max", "average"), "pool.pool_size": (2, 3)}),
        (2, {"conv2.filter_size": (1, 2, 3, 5), "conv2.filters": (10, 20, 30)}),
        # Its activation is the block right after it; that of conv2 is behind a batch-norm.
        (
            0,
            {
                "conv1.filter_size": (1, 2, 3, 5),
                "conv1.filters": (10, 20, 30),
                "conv1.activation": ("relu", "sigmoid", "tanh", "elu", "selu"),
            },
        ),
    ]
    # 12 filters of size 3 and a pooling of size 2; of 8 filters 10 are the nearest.
    assert {c.name: c.neutral for unit in space.units[1:] for c in unit.choices} == {
        "pool.pool": "max",
        "pool.pool_size": 2,
        "conv2.filter_size": 3,
        "conv2.filters": 10,
        "conv1.filter_size": 3,
        "conv1.filters": 10,
        "conv1.activation": "relu",
    }


def test_dense_layers_before_the_classifier_can_be_units():
    _, space = toy("plain", dense="keep")
    # The dropout belongs to fc, so the head begins at the classifier.
    assert space.units[0].block == 10
    assert (space.units[1].block, values(space, 1)) == (
        7,
        {
            "fc.neurons": (10, 20),
            "fc.activation": ("relu", "sigmoid", "tanh", "elu", "selu"),
            "fc.dropout": (0.0, 0.3, 0.9),
        },
    )
    assert names(space) == ["fc", "pool", "conv2", "conv1"]


@pytest.mark.parametrize(
    ("name", "side", "dense", "count", "first", "padded"),
    [
        # Convolutions, poolings and dense layers of the published tables; shortcuts are no layers.
        ("digits_cnn", 8, "replace", 5 + 2, ["conv5", "pool2", "conv4"], []),
        ("resnet20", 32, "replace", 19, ["layer3_2.body.conv2", "layer3_2.body.conv1"], []),
        ("resnet18", 64, "replace", 17 + 1, ["layer4_1.body.conv2"], ["maxpool", "conv1"]),
        ("resnet50", 64, "replace", 49 + 1, ["layer4_2.body.conv3"], ["maxpool", "conv1"]),
        ("densenet121", 64, "replace", 120 + 4, ["dense4_16.body.conv2"], ["pool0", "conv0"]),
        ("mobilenet_v2", 64, "replace", 52, ["last", "block17.project"], ["stem"]),
        ("vgg16", 32, "keep", 13 + 5 + 2, ["fc7", "fc6", "pool5", "conv5_3"], []),
        ("vgg16", 32, "replace", 13 + 5, ["pool5", "conv5_3", "conv5_2"], []),
    ],
)
def test_units_of_the_backbones(name, side, dense, count, first, padded):
    _, _, space = prepare(name, side, dense=dense)
    layers = names(space)
    assert len(layers) == count
    assert layers[: len(first)] == first
    assert [c.name for c in space.choices if c.what == "padding"] == [f"{layer}.padding" for layer in padded]
    blocks = [unit.block for unit in space.units]
    assert blocks == sorted(blocks, reverse=True)


def test_layers_of_one_block_share_it():
    chain, _, space = prepare("resnet50", 64, max_units=4)
    assert [list(chain._modules)[unit.block] for unit in space.units[1:]] == ["layer4_2"] * 3 + ["layer4_1"]
    assert len(space.units) == 5


def test_a_searched_depthwise_convolution_has_no_filters_of_its_own():
    _, space = toy("depthwise")
    # last, then conv3, conv2 and conv1 of the second inverted residual.
    assert values(space, 3) == {"i1.body.conv2.filter_size": (1, 2, 3, 5)}


def test_kept_maps_offer_the_kernels_that_padding_can_fit():
    chain = body(
        ("conv1", nn.Conv2d(3, 8, 3)),
        ("pool1", nn.MaxPool2d(3, 2)),
        ("conv2", nn.Conv2d(8, 8, 7)),
        ("relu", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    )
    example = torch.zeros(1, 3, 17, 17)

    def sizes(skip):
        units = discover_autotune(chain, example, skip=skip)
        return {c.name: c.values for u in units for c in u.choices if "size" in c.what}

    assert sizes("keep") == {
        "conv2.filter_size": (7,),
        "pool1.pool_size": (3,),
        "conv1.filter_size": (3, 5),
    }
    assert sizes("drop") == {
        "conv2.filter_size": (1, 2, 3, 5),
        "pool1.pool_size": (2, 3),
        "conv1.filter_size": (1, 2, 3, 5),
    }


def test_the_units_end_before_a_layer_that_cannot_be_made_anew():
    chain = TOYS["plain"]()
    chain.relu1 = nn.PReLU(8)
    assert names(Space(discover_autotune(chain, EXAMPLE), nested=False)) == ["pool", "conv2"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("skip", "cut"),
        ("dense", "drop"),
        ("filters", (0, 8)),
        ("filter_sizes", ()),
        ("pool_sizes", (-1,)),
        ("neurons", ()),
        ("paddings", (-1,)),
        ("hidden_layers", (-1,)),
        ("dropouts", (1.0,)),
        ("activations", ("softer",)),
    ],
)
def test_values_outside_their_bounds_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        discover_autotune(TOYS["plain"](), EXAMPLE, **{option: value})


# The networks.


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
def test_random_configurations_are_built_as_asked(name, side, dense, skip, tmp_path):
    chain, example, space = prepare(name, side, skip=skip, dense=dense)
    for k in (0, 1, 3, 6, space.depth):
        (config,) = space.sample(1, k, seed=k)
        candidate = build_autotune(chain, space, config, example, num_classes=CLASSES, skip=skip, dense=dense)
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
            check_round_trip(candidate.tail, features, tmp_path)


def check_output(tail, features):
    with torch.no_grad():
        output = tail.eval()(features)
    assert output.shape == (2, CLASSES)
    assert output.isfinite().all()


def check_round_trip(tail, features, folder):
    preprocessing = Preprocessing(size=8, resize=8, mean=(0.5,), std=(0.2,))
    info = ModelInfo(
        backbone="toy",
        preprocessing=preprocessing,
        class_names=("a", "b", "c"),
        weights="random",
        licence="none",
    )
    save(folder, tail, info)
    with torch.no_grad():
        assert torch.equal(load(folder)(features), tail.eval()(features))


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
    space = Space(discover_autotune(chain, torch.zeros(1, 3, 8, 8)), nested=False)
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
