"""Patches times weights are what the layer gives."""

import pytest
import torch
from torch import nn

from tascnet.inherit.least_squares import output_rows, patches
from tascnet.models.layers import Conv2dSame

LAYERS = {
    "1x1": nn.Conv2d(4, 6, 1),
    "3x3": nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "strided": nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2),
    "same": nn.Conv2d(4, 6, 4, padding="same"),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "reflected": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4),
    "depthwise without bias": nn.Conv2d(4, 4, 3, groups=4, bias=False),
    "time": nn.Conv1d(4, 6, 3, padding=2),
    "volume": nn.Conv3d(4, 6, 2, stride=2),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", LAYERS)
def test_patches_of_a_convolution(kind: str) -> None:
    layer = LAYERS[kind]
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    torch.manual_seed(0)
    inputs = torch.randn(3, 4, *(9, 8, 7)[: len(layer.kernel_size)])
    expected = layer(inputs).flatten(2)
    places = torch.randint(expected.shape[2], (3, 5))
    rows = output_rows(layer, patches(layer, inputs, places))
    given = rows[:, :, 0].T if layer.groups > 1 else rows[0]
    wanted = torch.stack([expected[i, :, places[i]].T for i in range(3)]).flatten(0, 1)
    torch.testing.assert_close(given, wanted)


def test_patches_of_a_linear_layer() -> None:
    layer, inputs = nn.Linear(5, 2), torch.randn(3, 5)
    torch.testing.assert_close(output_rows(layer, patches(layer, inputs, None))[0], layer(inputs))


@pytest.mark.parametrize("stride", [1, 2])
def test_patches_of_padding_that_depends_on_the_map(stride: int) -> None:
    layer, inputs = Conv2dSame(4, 6, 3, stride=stride), torch.randn(2, 4, 8, 7)
    expected = layer(inputs).flatten(2)
    places = torch.arange(expected.shape[2]).expand(2, -1)
    rows = output_rows(layer, patches(layer, inputs, places))[0]
    torch.testing.assert_close(rows, expected.transpose(1, 2).flatten(0, 1))


def test_patches_of_a_linear_layer_on_a_map() -> None:
    layer, inputs = nn.Linear(5, 2), torch.randn(3, 4, 4, 5)
    places = torch.tensor([[0, 15], [7, 7], [3, 1]])
    expected = torch.stack([layer(inputs)[i].flatten(0, 1)[places[i]] for i in range(3)]).flatten(0, 1)
    torch.testing.assert_close(output_rows(layer, patches(layer, inputs, places))[0], expected)
