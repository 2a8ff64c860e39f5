import pytest
from torch import nn

from tascnet.models.blocks import Residual
from tascnet.models.layers import LayerNorm2d
from tascnet.options import Tune
from tascnet.surgery import width_groups
from tascnet.tuning.choices import discover_units
from tascnet.tuning.space import Space
from tests.models.toys import EXAMPLE, TOYS, basic, body, conv
from tests.surgery.networks import NETWORKS

OPTIONS = {
    "widths": (0.25, 0.5, 1.0),
    "round_to": 4,
    "kernels": (3, 5),
    "activations": ("relu", "elu"),
    "hidden_layers": (0, 1),
    "neurons": (16, 8),
    "dropouts": (0.0, 0.2),
}


def options(**changes):
    return Tune(**{**OPTIONS, **changes})


def discover(name, max_units=None, **changes):
    return discover_units(TOYS[name](), EXAMPLE, options(**changes), max_units)


def table(units):
    """What each unit offers."""
    return {(unit.index, unit.block): {c.name: c.values for c in unit.choices} for unit in units}


def test_units_of_a_plain_chain_by_hand():
    # conv1 relu1 conv2 bn2 relu2 pool flatten fc relu3 | dropout (0.5) classifier
    assert table(discover("plain")) == {
        (0, 9): {
            "head.hidden_layers": (0, 1),
            "head.neurons": (8, 16),
            "head.dropout": (0.0, 0.2, 0.5),
        },
        # 10 x 0.25 and 10 x 0.5, rounded to multiples of 4.
        (1, 7): {"fc.width": (4, 10), "fc.activation": ("relu", "elu")},
        (2, 2): {"conv2.width": (4, 8, 12), "conv2.kernel": (3, 5), "conv2.activation": ("relu", "elu")},
        (3, 0): {"conv1.width": (4, 8), "conv1.kernel": (3, 5), "conv1.activation": ("relu", "elu")},
    }


def test_the_residual_stream_comes_with_the_first_block_of_its_stage():
    units = discover("residual")
    widths = {c.name: unit.block for unit in units for c in unit.choices if c.what == "width"}
    # stem stem_bn stem_relu a0 b0 b1 pool flatten classifier: b0 begins the stage of b0 and b1.
    assert widths == {
        "b1.body.conv1.width": 5,
        "b0.body.conv1.width": 4,
        "b0.body.conv2.width": 4,
        "a0.body.conv1.width": 3,
        "stem.width": 0,
    }
    (kernel,) = [c for c in units[1].choices if c.what == "kernel"]
    assert kernel.layers == ("b1.body.conv1", "b1.body.conv2")
    (activation,) = [c for c in units[1].choices if c.what == "activation"]
    assert activation.layers == ("b1.body.relu1", "b1.activation")


def widths_of(name, **changes):
    units = discover_units(NETWORKS[name].make(), EXAMPLE, options(**changes))
    return {c.name: c.values for unit in units for c in unit.choices if c.what == "width"}


def test_widths_are_channels_in_whole_units():
    # Two channels in each of four units: a quarter and a half of eight are 2 and 4, not 8 / 4.
    assert widths_of("grouped", round_to=1)["block.body.conv1.width"] == (2, 4, 8)
    assert widths_of("grouped", round_to=4)["block.body.conv1.width"] == (4, 8)
    # No smaller width is a multiple of eight: any number of units will do.
    assert widths_of("grouped", round_to=8)["block.body.conv1.width"] == (2, 4, 8)
    # Without units of several channels multiples come first.
    assert "stem.width" not in widths_of("grouped", round_to=8)


def test_widths_whose_cut_is_exact_come_first():
    chain = body(
        ("stem", conv(3, 8)),
        ("norm", LayerNorm2d(8)),
        ("block", body(("a", conv(8, 8)), ("ln", LayerNorm2d(8)), ("b", conv(8, 12)), ("c", conv(12, 8)))),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    ).eval()
    (unit,) = [unit for unit in discover_units(chain, EXAMPLE, options()) if unit.block == 2]
    offered = [choice.name for choice in unit.choices if choice.what == "width"]
    assert offered == ["block.b.width", "block.c.width", "block.a.width"]


def test_ignored_layers_are_not_searched():
    everything = {c.name for unit in discover("residual") for c in unit.choices}
    units = discover("residual", ignore=("b1", "*.conv1", "stem"))
    left = {c.name for unit in units for c in unit.choices}
    assert everything - left == {
        *("b1.kept", "b1.body.conv1.width", "b1.kernel", "b1.activation", "b0.body.conv2.width"),
        *("b0.body.conv1.width", "a0.body.conv1.width", "a0.kept", "stem.width", "stem.kernel"),
    }
    # The first convolution of a0 is spared, the second is not.
    (kernel,) = [c for unit in units for c in unit.choices if c.name == "a0.kernel"]
    assert kernel.layers == ("a0.body.conv2",)


@pytest.mark.parametrize("name", TOYS)
def test_every_group_is_offered_once_and_lies_in_its_units_tail(name):
    chain = TOYS[name]()
    groups = {group.name: group for group in width_groups(chain, EXAMPLE)}
    units = discover_units(chain, EXAMPLE, options(round_to=1))
    offered = [(c.layers[0], unit.block) for unit in units for c in unit.choices if c.what == "width"]
    assert sorted(group for group, _ in offered) == sorted(groups)
    assert all(groups[group].first_block >= block for group, block in offered)


@pytest.mark.parametrize("name", TOYS)
def test_the_neutral_setting_is_the_chains_own(name):
    chain = TOYS[name]()
    units = discover_units(chain, EXAMPLE, options())
    for choice in Space(units).choices:
        for layer in map(chain.get_submodule, choice.layers):
            if choice.what == "width":
                assert choice.neutral == (
                    layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
                )
            elif choice.what == "kernel":
                assert layer.kernel_size == (choice.neutral, choice.neutral)
            elif choice.what == "kept":
                assert choice.neutral == 1
                assert isinstance(layer, Residual)
            else:
                assert choice.neutral == {nn.ReLU: "relu", nn.ReLU6: "relu6"}[type(layer)]
    assert [unit.block for unit in units] == sorted((unit.block for unit in units), reverse=True)


def test_residual_blocks_with_identity_shortcuts_may_be_removed():
    units = discover("residual")
    # b0 begins a stage: its shortcut is a convolution.
    assert [c.name for unit in units for c in unit.choices if c.what == "kept"] == ["b1.kept", "a0.kept"]
    assert {c.name: c.only_if for c in units[1].choices} == {
        "b1.kept": None,
        "b1.body.conv1.width": "b1.kept",
        "b1.kernel": "b1.kept",
        "b1.activation": "b1.kept",
    }
    without = discover("residual", remove_blocks=False)
    assert all(c.what != "kept" and c.only_if is None for unit in without[1:] for c in unit.choices)


def test_what_reaches_out_of_a_block_does_not_depend_on_it():
    # The segment of block a0 holds an activation beside it.
    chain = body(
        ("stem", conv(3, 8)),
        ("stem_relu", nn.ReLU()),
        ("a0", basic(8, 8)),
        ("relu", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    )
    (_, last, _) = discover_units(chain, EXAMPLE, options())
    assert {c.name for c in last.choices if c.only_if} == {"a0.body.conv1.width", "a0.kernel"}
    (activation,) = [c for c in last.choices if c.what == "activation"]
    assert activation.layers == ("a0.body.relu1", "a0.activation", "relu")


def test_kernels_down_to_one_are_offered():
    units = discover("plain", kernels=(1, 3))
    assert [c.values for unit in units for c in unit.choices if c.what == "kernel"] == [(1, 3), (1, 3)]


@pytest.mark.parametrize(
    ("factors", "offered"), [((0.1, 10), (0.1, 1.0, 10.0)), ((1.0,), None), ((3,), (1.0, 3.0))]
)
def test_learning_rates_of_the_tail(factors, offered):
    found = {c.name: (c.values, c.neutral) for c in discover("plain", lr_factors=factors)[0].choices}
    assert found.get("tail.lr") == (offered and (offered, 1.0))


@pytest.mark.parametrize(("head", "grown"), [("new", None), ("grow", ((1,), 1)), ("search", ((0, 1), 0))])
def test_heads_on_the_pre_trained_classification_layer(head, grown):
    norms = {} if head == "new" else {"grow_norms": ["l2", "none"]}
    choices = {c.name: c for c in discover("plain", head=head, **norms)[0].choices}
    if grown is None:
        assert not choices.keys() & {"head.grown", "head.norm"}
        return
    assert (choices["head.grown"].values, choices["head.grown"].neutral) == grown
    norm = choices["head.norm"]
    assert (norm.values, norm.kind, norm.only_if) == (("l2", "none"), "categorical", "head.grown")


def test_max_units_keeps_the_last_ones():
    assert discover("plain", max_units=1) == discover("plain")[:2]


def test_blocks_with_nothing_tunable_are_passed_over():
    chain = body(
        ("conv1", conv(3, 8)),
        ("relu1", nn.ReLU()),
        ("mix", nn.Conv2d(8, 8, 1, groups=4)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    )
    units = discover_units(chain, EXAMPLE, options(widths=(1.0,)))
    assert [(unit.index, unit.block) for unit in units] == [(0, 5), (1, 0)]
