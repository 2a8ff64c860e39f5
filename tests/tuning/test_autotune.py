import pytest
import torch
from torch import nn

from tascnet.options import Autotune
from tascnet.tuning import Space
from tascnet.tuning.autotune import discover_autotune
from tests.models.toys import EXAMPLE, TOYS, body
from tests.tuning.autotunes import prepare, toy


def names(space):
    """The layers of the units, from the output."""
    return [unit.choices[0].name.rpartition(".")[0] for unit in space.units[1:]]


def values(space, unit):
    return {choice.name: choice.values for choice in space.units[unit].choices}


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
        # Convolutions and poolings of the published tables; shortcuts are no layers.
        ("digits_cnn", 8, "replace", 5 + 2, ["conv5", "pool2", "conv4"], []),
        ("resnet20", 32, "replace", 19, ["layer3_2.body.conv2", "layer3_2.body.conv1"], []),
        ("resnet18", 64, "replace", 17 + 1, ["layer4_1.body.conv2"], ["maxpool", "conv1"]),
        # Stem, three dense layers of two convolutions, one between them, and a pooling.
        ("dense", 8, "replace", 1 + 3 * 2 + 1 + 1, ["d2.body.conv2", "d2.body.conv1", "pool0"], []),
        ("mobilenet_v2", 64, "replace", 52, ["features_18.0", "features_17.conv_2"], ["features_0.0"]),
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
    chain, _, space = prepare("resnet18", 64, max_units=3)
    assert [list(chain._modules)[unit.block] for unit in space.units[1:]] == ["layer4_1"] * 2 + ["layer4_0"]
    assert len(space.units) == 4


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
        units = discover_autotune(chain, example, Autotune(skip=skip))
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
    assert names(Space(discover_autotune(chain, EXAMPLE, Autotune()), nested=False)) == ["pool", "conv2"]
