"""DenseNet-121 as a chain of its dense layers and transitions."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.densenet import DenseNet

from tascnet.models.blocks import Concat
from tascnet.models.chains.assemble import in_place_off, sequence

_LAYER = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
_TRANSITION = ("norm", "relu", "conv", "pool")


def densenet_chain(model: DenseNet) -> nn.Sequential:
    """The chain of torchvision's DenseNet, sharing its layers.

    Blocks: `conv0`, `norm0`, `relu0`, `pool0`, then `denseS_L` for layer L of block S and
    `transitionS` after it, `norm5`, `relu5`, `avgpool`, `flatten`, `classifier`.
    """
    head = [
        ("relu5", nn.ReLU()),
        ("avgpool", nn.AdaptiveAvgPool2d((1, 1))),
        ("flatten", nn.Flatten()),
        ("classifier", model.classifier),
    ]
    return in_place_off(sequence([*_named_features(model.features), *head]))


def _named_features(features: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    for name, module in features.named_children():
        if name.startswith("denseblock"):
            stage = name.removeprefix("denseblock")
            for number, layer in enumerate(module.children(), start=1):
                yield f"dense{stage}_{number}", Concat(_picked(layer, _LAYER))
        elif name.startswith("transition"):
            yield name, _picked(module, _TRANSITION)
        else:
            yield name, module


def _picked(module: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    return sequence((name, getattr(module, name)) for name in names)
