"""Layers that torch.nn lacks, compared to the last bit with those of torchvision and timm."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torchvision.ops
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d as TorchvisionLayerNorm2d

from tascnet.models.layers import (
    GRN,
    AvgPool2dSame,
    BlurPool2d,
    Conv2dSame,
    LayerNorm2d,
    LayerScale,
    MaxPool2dSame,
    Offset,
    Permute,
    StochasticDepth,
)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


X = images(2, 8, 13, 10)


def shaken(layer: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def assert_same(own: nn.Module, original: nn.Module, x: Tensor = X) -> None:
    """The same outputs and gradients, in both memory formats, with the original's weights."""
    own.load_state_dict(shaken(original).state_dict())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        results = []
        for layer in (own, original):
            given = x.clone(memory_format=memory_format).requires_grad_(True)
            output = layer(given)
            output.square().sum().backward()
            results.append((output, given.grad))
            layer.zero_grad()
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()


def timm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm.layers")


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_stochastic_depth(p: float) -> None:
    own, x = StochasticDepth(p), images(50, 2, 3, 3)

    def drawn(layer: nn.Module) -> Tensor:
        torch.manual_seed(5)
        return layer(x)

    output = drawn(own)
    assert torch.equal(output, drawn(torchvision.ops.StochasticDepth(p, "row")))
    zeroed = (output == 0).flatten(1).all(1).float().mean()
    # Five standard deviations of the mean of 50 samples.
    assert abs(zeroed - p) <= 5 * (p * (1 - p) / 50) ** 0.5
    assert own.eval()(x) is x
    assert torch.equal(output, drawn(timm().DropPath(p)))


def test_layer_norm_of_maps() -> None:
    assert_same(LayerNorm2d(8, 1e-5), TorchvisionLayerNorm2d(8, 1e-5))
    layers = timm()
    assert_same(LayerNorm2d(8), layers.LayerNorm2d(8))
    assert_same(LayerNorm2d(8, affine=False), layers.LayerNorm2d(8, affine=False))
    assert_same(LayerNorm2d(8, bias=False), layers.LayerNorm2d(8, bias=False))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(1, 2, 1), (2, 2, 1), (3, 1, 1), (3, 2, 2), (5, 3, 1), ((3, 4), (1, 2), 1)],
)
def test_padding_like_tensorflows(kernel: Any, stride: Any, dilation: int) -> None:
    layers = timm()
    assert_same(
        Conv2dSame(8, 4, kernel, stride, dilation, 2, False),
        layers.Conv2dSame(8, 4, kernel, stride, dilation=dilation, groups=2, bias=False),
    )
    assert_same(
        MaxPool2dSame(kernel, stride, dilation), layers.pool2d_same.MaxPool2dSame(kernel, stride, 0, dilation)
    )
    if dilation == 1:
        assert_same(AvgPool2dSame(kernel, stride), layers.pool2d_same.AvgPool2dSame(kernel, stride))


def test_maps_of_the_same_convolution_have_tensorflows_size() -> None:
    conv = Conv2dSame(1, 1, 3, 2)
    for side in range(1, 9):
        assert conv(images(1, 1, side, 5)).shape == (1, 1, (side + 1) // 2, 3)
    # By hand: five values and stride 2 need one zero on each side.
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    row = torch.tensor([1.0, 2, 3, 4, 5]).reshape(1, 1, 1, 5)
    assert conv(row).flatten().tolist() == [3, 9, 9]
    # And four of them one alone, after them.
    assert conv(row[..., :4]).flatten().tolist() == [6, 7]


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 2), (5, 1), (2, 2)])
def test_blurred_pooling(size: int, stride: int, mode: str) -> None:
    layers = timm()
    own = BlurPool2d(size, stride, mode)
    assert not own.state_dict()
    assert_same(own, layers.BlurPool2d(8, size, stride, mode))
    assert_same(own, layers.BlurPool2d(None, size, stride, mode))
    half = layers.BlurPool2d(8, size, stride, mode).half()
    assert torch.equal(own(X.half()), half(X.half()))


def test_a_blur_keeps_the_mean_of_a_constant_map() -> None:
    assert torch.equal(BlurPool2d(3, 2)(torch.ones(1, 5, 8, 8)), torch.ones(1, 5, 4, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_blur_is_traced() -> None:
    traced = torch.jit.trace(BlurPool2d().eval(), X)
    assert torch.equal(traced(X), BlurPool2d()(X))


def test_global_response_normalisation() -> None:
    layers = timm().grn
    assert_same(GRN(8), layers.GlobalResponseNorm(8, channels_last=False))
    last = images(2, 6, 5, 8)
    assert_same(GRN(8, -1), layers.GlobalResponseNorm(8), last)


def test_permuted_scaled_and_shifted() -> None:
    assert torch.equal(Permute((0, 2, 3, 1))(X), X.permute(0, 2, 3, 1))
    for shape in ((8, 1, 1), (10,), (1, 8, 1, 1), ()):
        scale, offset = shaken(LayerScale(shape)), shaken(Offset(shape))
        assert (scale.shape, offset.shape) == (shape, shape)
        assert torch.equal(scale(X), X * scale.weight)
        assert torch.equal(offset(X), X + offset.weight)
    assert torch.equal(LayerScale((8, 1, 1))(X), X)
    assert torch.equal(Offset((8, 1, 1))(X), X)


LAYERS = {
    "StochasticDepth(p=0.1)": StochasticDepth(0.1),
    "LayerNorm2d(8, eps=1e-06, affine=True, bias=True)": LayerNorm2d(8),
    "Permute((0, 1, 3, 2))": Permute((0, 1, 3, 2)),
    "LayerScale((8, 1, 1))": LayerScale((8, 1, 1)),
    "Offset((8, 1, 1))": Offset((8, 1, 1)),
    "Conv2dSame(8, 4, kernel_size=(3, 3), stride=(2, 2))": Conv2dSame(8, 4, 3, 2),
    "MaxPool2dSame(kernel_size=(3, 3), stride=(2, 2), dilation=(1, 1), ceil_mode=False)": MaxPool2dSame(3, 2),
    "AvgPool2dSame(kernel_size=(3, 3), stride=(2, 2), ceil_mode=False)": AvgPool2dSame(3, 2),
    "BlurPool2d(kernel_size=3, stride=2, padding_mode='reflect')": BlurPool2d(),
    "GRN(8, channel_dim=1, eps=1e-06)": GRN(8),
}


@pytest.mark.parametrize("shown", LAYERS)
def test_each_is_shown_with_its_arguments_copied_and_pickled(shown: str) -> None:
    layer = shaken(LAYERS[shown]).eval()
    assert repr(layer) == shown
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(X), layer(X))
