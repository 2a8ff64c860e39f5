import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.blocks import Concat, Residual, SliceAndPad
from tascnet.models.layers import Conv2dSame, LayerNorm2d
from tascnet.surgery import footprint, path_layers, rebuild, shape_after
from tests.models.toys import TOYS, basic, body, conv, inverted, settle
from tests.surgery.networks import excitation

# The largest filter size.
FIVE = 5


def remake(chain, shape, settings, skip="keep", seed=0, side=FIVE):
    generator = torch.Generator().manual_seed(seed)
    return rebuild(chain, torch.zeros(shape), settings, skip=skip, side=side, generator=generator)


def bottleneck(n=256, inner=64):
    return Residual(
        body(
            ("conv1", conv(n, inner, 1)),
            ("bn1", nn.BatchNorm2d(inner)),
            ("relu1", nn.ReLU()),
            ("conv2", conv(inner, inner)),
            ("bn2", nn.BatchNorm2d(inner)),
            ("relu2", nn.ReLU()),
            ("conv3", conv(inner, n, 1)),
            ("bn3", nn.BatchNorm2d(n)),
        ),
        nn.Identity(),
        nn.ReLU(),
    )


def wanted(size, filters):
    return {"filter_size": size, "filters": filters}


def test_the_path_passes_over_shortcuts():
    names = [name for name, _ in path_layers(TOYS["residual"]())]
    first = names.index("b0.body.conv1")
    assert names[first : first + 7] == [
        "b0.body.conv1",
        "b0.body.bn1",
        "b0.body.relu1",
        "b0.body.conv2",
        "b0.body.bn2",
        "b0.activation",
        "b1.body.conv1",
    ]
    assert not any("shortcut" in name for name in names)


def test_a_bottlenecks_last_convolution_gets_another_width_and_an_even_kernel():
    chain = settle(body(("block", bottleneck())))
    rebuilt = remake(chain, (1, 256, 7, 7), {"block.body.conv3": wanted(2, 64)})
    block = rebuilt.chain.block
    assert tuple(rebuilt.features.shape) == (1, 64, 7, 7)
    assert block.body.conv3.conv.weight.shape == (64, 64, 2, 2)
    # left, right, top, bottom: (2 - 1) // 2 = 0 pixels before the map, 2 // 2 = 1 after it.
    assert block.body.conv3.pad.padding == (0, 1, 0, 1)
    assert block.body.bn3.num_features == 64
    assert block.shortcut.conv.weight.shape == (64, 256, 1, 1)
    assert block.shortcut.conv.bias is None
    assert block.shortcut.bn.num_features == 64
    assert rebuilt.frozen == tuple(
        f"block.body.{name}" for name in ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2")
    )


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize(
    ("kernel", "padding", "stride"),
    [
        *((kernel, padding, 1) for kernel, padding in ((1, 0), (3, 1), (7, 3), (3, "same"), (2, 0))),
        *((kernel, padding, 2) for kernel, padding in ((1, 0), (3, 1), (7, 3), (2, 0))),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_padding_keeps_the_size_of_the_map(size, kernel, padding, stride, side):
    old = nn.Conv2d(4, 4, kernel, stride=stride, padding=padding)
    if size < footprint(old)[0]:
        with pytest.raises(SurgeryError, match="cannot keep the size"):
            remake(body(("conv", old)), (1, 4, side, side), {"conv": wanted(size, 8)})
        return
    rebuilt = remake(body(("conv", old)), (1, 4, side, side), {"conv": wanted(size, 8)})
    assert rebuilt.features.shape[2:] == old(torch.zeros(1, 4, side, side)).shape[2:]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_padded_kernels_are_torchs_own_same_padding(size):
    chain = remake(body(("conv", conv(4, 4))), (1, 4, 6, 6), {"conv": wanted(size, 8)}).chain
    layer = next(m for m in chain.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        # torch tells of the padded copy that an even kernel takes.
        warnings.simplefilter("ignore")
        expected = F.conv2d(x, layer.weight, padding="same")
    torch.testing.assert_close(chain(x), expected)


@pytest.mark.parametrize(
    ("old", "size", "side"),
    [
        (nn.MaxPool2d(2), 3, 14),  # VGG
        (nn.MaxPool2d(3, stride=2, padding=1), 2, 56),  # ResNet and DenseNet
        (nn.AvgPool2d(2, stride=2), 3, 9),  # transitions of DenseNet
    ],
)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_pooling_layer_keeps_its_map_in_another_kind_and_size(kind, old, size, side):
    rebuilt = remake(body(("pool", old)), (1, 4, side, side), {"pool": {"pool": kind, "pool_size": size}})
    new = [m for m in rebuilt.chain.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
    assert [type(m) for m in new] == [nn.MaxPool2d if kind == "max" else nn.AvgPool2d]
    assert (new[0].kernel_size, new[0].stride) == (size, old.stride)
    assert rebuilt.features.shape == old(torch.zeros(1, 4, side, side)).shape
    assert not list(rebuilt.chain.parameters())


def test_the_padding_that_is_searched_changes_the_map():
    stem = body(("conv", nn.Conv2d(3, 8, 7, stride=2, padding=3)), ("pool", nn.MaxPool2d(3, 2, 1)))
    settings = {
        "conv": {**wanted(5, 16), "padding": 1},
        "pool": {"pool": "max", "pool_size": 2, "padding": 3},
    }
    # (64 + 2 - 5) // 2 + 1 = 31, and (31 + 6 - 2) // 2 + 1 = 18.
    assert tuple(remake(stem, (1, 3, 64, 64), settings).features.shape) == (1, 16, 18, 18)


@pytest.mark.parametrize("kind", ["convolution", "slice and pad"])
def test_a_strided_shortcut_takes_the_new_width_and_keeps_its_stride(kind):
    block = basic(8, 12, 2)
    if kind != "convolution":
        block.shortcut = SliceAndPad(2, 2, 2)
    rebuilt = remake(body(("block", block)), (1, 8, 7, 7), {"block.body.conv2": wanted(3, 32)})
    shortcut = rebuilt.chain.block.shortcut
    assert (shortcut.conv.in_channels, shortcut.conv.out_channels, shortcut.conv.stride) == (8, 32, (2, 2))
    # Every second of 7 pixels.
    assert tuple(rebuilt.features.shape) == (1, 32, 4, 4)


def test_a_shortcut_that_still_fits_keeps_its_weights_and_is_frozen_before_the_searched_layer():
    chain = settle(body(("a", basic(8, 12, 2)), ("b", basic(12, 12))))
    settings = {"a.body.conv2": wanted(5, 12), "b.body.conv1": wanted(3, 16), "b.body.conv2": wanted(3, 12)}
    rebuilt = remake(chain, (1, 8, 8, 8), settings)
    assert torch.equal(rebuilt.chain.a.shortcut.conv.weight, chain.a.shortcut.conv.weight)
    assert rebuilt.frozen == (
        "a.body.conv1",
        "a.body.bn1",
        "a.body.relu1",
        "a.shortcut.conv",
        "a.shortcut.bn",
    )
    frozen = {name for name, p in rebuilt.chain.named_parameters() if not p.requires_grad}
    assert frozen == {
        *("a.body.conv1.weight", "a.body.bn1.weight", "a.body.bn1.bias"),
        *("a.shortcut.conv.weight", "a.shortcut.bn.weight", "a.shortcut.bn.bias"),
    }


def test_a_block_without_batch_norm_gets_a_plain_convolution_as_its_shortcut():
    block = Residual(body(("conv", conv(8, 8, bias=True))), nn.Identity(), nn.ReLU())
    shortcut = remake(
        body(("block", block)), (1, 8, 4, 4), {"block.body.conv": wanted(3, 16)}
    ).chain.block.shortcut
    assert [type(layer) for layer in shortcut] == [nn.Conv2d]
    assert shortcut.conv.bias is not None


def test_dense_connections_go_on_joining_and_what_reads_them_is_made_anew():
    chain = TOYS["dense"]()[1:]
    settings = {
        "d1.body.conv2": wanted(2, 10),
        "transition.conv": wanted(1, 7),
        "pool0": {"pool": "max", "pool_size": 2},
        "d2.body.conv1": wanted(1, 8),
        "d2.body.conv2": wanted(3, 3),
    }
    rebuilt = remake(chain, (1, 6, 8, 8), settings)
    # d0: 6 + 4; d1: 10 + 10 instead of 10 + 4; d2: 7 + 3; five classes.
    assert rebuilt.chain.transition.norm.num_features == 20
    assert rebuilt.chain.transition.conv.weight.shape == (7, 20, 1, 1)
    assert rebuilt.chain.d2.body.norm1.num_features == 7
    assert isinstance(rebuilt.chain.d2, Concat)
    # The pre-trained classifier reads 6 + 4 features, and so do the 7 + 3 new ones.
    assert torch.equal(rebuilt.chain.classifier.weight, chain.classifier.weight)
    assert "d0.body.conv2" in rebuilt.frozen
    assert "d1.body.norm2" in rebuilt.frozen
    assert "d2.body.norm1" not in rebuilt.frozen


@pytest.mark.parametrize("name", ["residual", "dense", "depthwise", "padded"])
def test_without_connections_a_plain_chain_is_left(name):
    chain = TOYS[name]()
    convs = [n for n, m in path_layers(chain) if isinstance(m, nn.Conv2d)]
    settings = {n: wanted(3, 8) for n in convs}
    rebuilt = remake(chain, (1, 3, 8, 8), settings, skip="drop")
    modules = list(rebuilt.chain.modules())
    assert not any(isinstance(m, Residual | Concat | SliceAndPad) for m in modules)
    new = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(new) == len(convs)
    assert {(m.stride, m.padding) for m in new} == {((1, 1), (0, 0))}
    assert tuple(rebuilt.chain.eval()(torch.zeros(2, 3, 8, 8)).shape) == (2, 5)


@pytest.mark.parametrize(
    ("side", "size", "factor", "after"),
    [
        (7, 5, None, 3),
        (5, 5, None, 1),
        # ceil(5 / 4) = 2: 8 pixels, 8 - 5 + 1 = 4.
        (4, 5, 2, 4),
        # ceil(5 / 2) = 3: 6 pixels, 6 - 3 + 1 = 4.
        (2, 3, 3, 4),
        # ceil(5 / 1) = 5: 5 pixels, 5 - 2 + 1 = 4.
        (1, 2, 5, 4),
        (1, 1, None, 1),
    ],
)
def test_a_map_smaller_than_the_kernel_is_enlarged(side, size, factor, after):
    rebuilt = remake(body(("conv", conv(4, 4))), (1, 4, side, side), {"conv": wanted(size, 8)}, skip="drop")
    ups = [m for m in rebuilt.chain.modules() if isinstance(m, nn.Upsample)]
    assert [(m.scale_factor, m.mode) for m in ups] == ([] if factor is None else [(factor, "nearest")])
    assert tuple(rebuilt.features.shape) == (1, 8, after, after)


def test_a_map_smaller_than_the_pooling_is_enlarged():
    settings = {"pool": {"pool": "average", "pool_size": 3}}
    rebuilt = remake(body(("pool", nn.MaxPool2d(2))), (1, 4, 2, 2), settings, skip="drop")
    # ceil(5 / 2) = 3 times 2 pixels, in steps of 3.
    assert rebuilt.chain.pool.upsample.scale_factor == 3
    assert tuple(rebuilt.features.shape) == (1, 4, 2, 2)


def test_a_depthwise_convolution_follows_the_width_before_it():
    chain = settle(body(("block", inverted(6, 6, 12))))
    settings = {
        "block.body.conv1": wanted(1, 64),
        "block.body.conv2": {"filter_size": 5},
        "block.body.conv3": wanted(1, 6),
    }
    block = remake(chain, (1, 6, 8, 8), settings).chain.block
    assert (block.body.conv2.groups, block.body.conv2.weight.shape) == (64, (64, 1, 5, 5))
    assert isinstance(block.shortcut, nn.Identity)
    unsearched = remake(chain, (1, 6, 8, 8), {"block.body.conv1": wanted(1, 64)}).chain.block
    assert unsearched.body.conv2.weight.shape == (64, 1, 3, 3)
    assert unsearched.body.conv3.weight.shape == (6, 64, 1, 1)


def test_a_dense_layer_gets_batch_norm_unless_one_follows_it():
    settings = {"fc": {"neurons": 16}, "act": {"activation": "selu"}, "drop": {"dropout": 0.3}}
    plain = body(("fc", nn.Linear(8, 4)), ("act", nn.ReLU()), ("drop", nn.Dropout(0.5)))
    new = remake(plain, (1, 8), settings).chain
    assert [type(layer) for layer in (*new.fc, new.act, new.drop)] == [
        *(nn.Linear, nn.BatchNorm1d, nn.SELU, nn.Dropout)
    ]
    assert (new.fc.linear.out_features, new.drop.p) == (16, 0.3)
    normed = body(("fc", nn.Linear(8, 4)), ("bn", nn.BatchNorm1d(4)))
    new = remake(normed, (1, 8), {"fc": {"neurons": 16}}).chain
    assert (type(new.fc), new.bn.num_features) == (nn.Linear, 16)


def test_weights_are_he_normal_and_come_from_the_generator_alone():
    chain = body(("conv", conv(64, 8)), ("flatten", nn.Flatten()), ("fc", nn.Linear(8 * 16, 4)))
    settings = {"conv": wanted(3, 256), "fc": {"neurons": 64}}
    before = torch.get_rng_state()
    first, again, other = (remake(chain, (1, 64, 4, 4), settings, seed=s).chain for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for weight, fan_in in ((first.conv.weight, 64 * 9), (first.fc.linear.weight, 256 * 16)):
        # 147,456 and 262,144 draws: five standard errors are below 1 %.
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.01)
        assert abs(float(weight.detach().mean())) < 0.02 * math.sqrt(2 / fan_in)
    assert not first.fc.linear.bias.any()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.conv.weight, other.conv.weight)


def test_the_chain_is_left_as_it_is():
    chain = TOYS["residual"]()
    before, modules = copy.deepcopy(chain.state_dict()), list(chain.modules())
    rebuilt = remake(chain[4:], (1, 8, 8, 8), {"b1.body.conv2": wanted(2, 12)})
    with torch.no_grad():
        for parameter in rebuilt.chain.parameters():
            parameter.zero_()
    assert list(chain.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())


def test_a_layer_that_nothing_can_fit_is_named():
    with pytest.raises(SurgeryError, match="ReLU cannot be replaced by"):
        remake(body(("relu", nn.ReLU())), (1, 4, 4, 4), {"relu": wanted(3, 8)})
    with pytest.raises(SurgeryError, match=r"input of shape \(1, 4, 4, 4\)"):
        shape_after(conv(3, 8), torch.zeros(1, 4, 4, 4))


def test_a_graph_is_one_layer_and_is_copied_where_its_input_stays():
    chain = excitation()
    assert [name for name, _ in path_layers(chain)][:3] == ["stem", "se", "last"]
    rebuilt = remake(chain, (1, 3, 8, 8), {"last": wanted(3, 4)})
    assert rebuilt.frozen == ("stem", "se")
    assert torch.equal(rebuilt.chain.se.fc1.weight, chain.se.fc1.weight)
    assert not rebuilt.chain.se.fc1.weight.requires_grad
    assert rebuilt.chain.classifier.in_features == 4


def test_a_graph_whose_input_changes_is_named():
    with pytest.raises(SurgeryError, match=r"in 'se' a layer does not take an input of shape \(1, 4, 8, 8\)"):
        remake(excitation(), (1, 3, 8, 8), {"stem": wanted(3, 4)})


def test_padding_that_follows_the_input_is_kept():
    chain = settle(
        body(
            ("stem", conv(3, 8)),
            ("norm", LayerNorm2d(8)),
            ("same", Conv2dSame(8, 6, 3, stride=2)),
            ("prelu", nn.PReLU(6)),
            ("last", Conv2dSame(6, 6, 3, stride=2)),
        )
    )
    rebuilt = remake(chain, (1, 3, 9, 9), {"stem": wanted(3, 4), "last": wanted(5, 7)})
    assert rebuilt.chain.norm.num_channels == 4
    assert isinstance(rebuilt.chain.same, Conv2dSame)
    assert rebuilt.chain.same.in_channels == 4
    assert rebuilt.chain.prelu.num_parameters == 6
    # ceil(9 / 2) = 5 and ceil(5 / 2) = 3, as before.
    assert tuple(rebuilt.features.shape) == (1, 7, 3, 3)


@pytest.mark.parametrize("layer", [Conv2dSame(4, 4, 3, 2), Conv2dSame(4, 4, 5)])
def test_the_footprint_of_layers_that_pad_as_they_need(layer):
    # ceil(h / stride) rows, as a kernel of one pixel has.
    assert footprint(layer) == (1, 1)
