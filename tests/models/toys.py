"""Small chains for the tests of surgery and pruning."""

import hashlib
import json
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.models.blocks import Concat, Residual, SliceAndPad

EXAMPLE = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


def body(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def conv(n: int, m: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(n, m, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)


def settle(chain: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """Seeded weights and batch-norm statistics that are no neutral values; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in chain.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            positive = name.endswith("running_var")
            values = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values + 0.5 if positive else values - 0.4)
    return chain.eval()


def plain(classes: int = 5) -> nn.Sequential:
    """VGG-style: conv with bias, batch-norm, pooling, flatten of a 4x4 map, two linear layers."""
    return settle(
        body(
            ("conv1", conv(3, 8, bias=True)),
            ("relu1", nn.ReLU()),
            ("conv2", conv(8, 12)),
            ("bn2", nn.BatchNorm2d(12)),
            ("relu2", nn.ReLU()),
            ("pool", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc", nn.Linear(12 * 16, 10)),
            ("relu3", nn.ReLU()),
            ("dropout", nn.Dropout(0.5)),
            ("classifier", nn.Linear(10, classes)),
        )
    )


def basic(n: int, m: int, stride: int = 1) -> Residual:
    inner = body(
        ("conv1", conv(n, m, stride=stride)),
        ("bn1", nn.BatchNorm2d(m)),
        ("relu1", nn.ReLU()),
        ("conv2", conv(m, m)),
        ("bn2", nn.BatchNorm2d(m)),
    )
    same = n == m and stride == 1
    shortcut = nn.Identity() if same else body(("conv", conv(n, m, 1, stride)), ("bn", nn.BatchNorm2d(m)))
    return Residual(inner, shortcut, nn.ReLU())


def residual() -> nn.Sequential:
    """ResNet-style: stem, an identity block on it, a stage of two blocks."""
    return settle(
        body(
            ("stem", conv(3, 8)),
            ("stem_bn", nn.BatchNorm2d(8)),
            ("stem_relu", nn.ReLU()),
            ("a0", basic(8, 8)),
            ("b0", basic(8, 12, 2)),
            ("b1", basic(12, 12)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(12, 5)),
        )
    )


def dense() -> nn.Sequential:
    """DenseNet-style: two dense layers, a transition, another dense layer."""

    def layer(n: int, growth: int = 4) -> Concat:
        return Concat(
            body(
                ("norm1", nn.BatchNorm2d(n)),
                ("relu1", nn.ReLU()),
                ("conv1", conv(n, 8, 1)),
                ("norm2", nn.BatchNorm2d(8)),
                ("relu2", nn.ReLU()),
                ("conv2", conv(8, growth)),
            )
        )

    return settle(
        body(
            ("stem", conv(3, 6)),
            ("d0", layer(6)),
            ("d1", layer(10)),
            ("transition", body(("norm", nn.BatchNorm2d(14)), ("relu", nn.ReLU()), ("conv", conv(14, 6, 1)))),
            ("pool0", nn.AvgPool2d(2)),
            ("d2", layer(6)),
            ("norm", nn.BatchNorm2d(10)),
            ("relu", nn.ReLU()),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(10, 5)),
        )
    )


def inverted(n: int, m: int, hidden: int) -> nn.Module:
    inner = body(
        ("conv1", conv(n, hidden, 1)),
        ("bn1", nn.BatchNorm2d(hidden)),
        ("relu1", nn.ReLU6()),
        ("conv2", conv(hidden, hidden, groups=hidden)),
        ("bn2", nn.BatchNorm2d(hidden)),
        ("relu2", nn.ReLU6()),
        ("conv3", conv(hidden, m, 1)),
        ("bn3", nn.BatchNorm2d(m)),
    )
    return Residual(inner, nn.Identity(), nn.Identity()) if n == m else inner


def depthwise() -> nn.Sequential:
    """MobileNetV2-style: a stem, an inverted residual without and one with a skip, a linear layer."""
    return settle(
        body(
            ("stem", conv(3, 4)),
            ("stem_bn", nn.BatchNorm2d(4)),
            ("stem_relu", nn.ReLU6()),
            ("i0", inverted(4, 6, 8)),
            ("i1", inverted(6, 6, 12)),
            ("last", conv(6, 16, 1)),
            ("last_bn", nn.BatchNorm2d(16)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(16, 5)),
        )
    )


def padded() -> nn.Sequential:
    """CIFAR-style: the shortcut of the second stage slices and pads."""
    widening = basic(8, 12, 2)
    widening.shortcut = SliceAndPad(2, 2, 2)
    return settle(
        body(
            ("stem", conv(3, 8)),
            ("stem_relu", nn.ReLU()),
            ("a0", basic(8, 8)),
            ("b0", widening),
            ("b1", basic(12, 12)),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("classifier", nn.Linear(12, 5)),
        )
    )


TOYS = {
    "plain": plain,
    "residual": residual,
    "dense": dense,
    "depthwise": depthwise,
    "padded": padded,
}


def silence(chain: nn.Module, filters: dict[str, list[int]]) -> None:
    """Make channels of filter layers zero for good, through their normalisation too.

    For groups whose filter layers are each followed by a batch-norm of their own, or by none.
    """
    for name, channels in filters.items():
        layer = chain.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        with torch.no_grad():
            layer.weight[channels] = 0
            if layer.bias is not None:
                layer.bias[channels] = 0


def output(chain: nn.Sequential, x: Tensor = EXAMPLE) -> Tensor:
    with torch.no_grad():
        return chain(x)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a changed architecture.json with its digest, as a stranger could make it."""
    content = {key: value for key, value in content.items() if key != "digest"}
    return {**content, "digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}
