"""VGG-16 as a chain of its layers."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.vgg import VGG

from tascnet.models.chains.assemble import in_place_off, sequence


def vgg_chain(model: VGG) -> nn.Sequential:
    """The chain of torchvision's VGG, sharing its layers.

    Blocks: `conv1_1`, `relu1_1`, ..., `pool5`, `avgpool`, `flatten`, `fc6`, `relu6`, `dropout6`,
    `fc7`, `relu7`, `dropout7`, `classifier`.

    Source: Simonyan and Zisserman 2015, table 1.
    """
    fc6, relu6, dropout6, fc7, relu7, dropout7, classifier = model.classifier
    dense = [("fc6", fc6), ("relu6", relu6), ("dropout6", dropout6)]
    dense += [("fc7", fc7), ("relu7", relu7), ("dropout7", dropout7), ("classifier", classifier)]
    middle = [("avgpool", model.avgpool), ("flatten", nn.Flatten())]
    return in_place_off(sequence([*_named_features(model.features), *middle, *dense]))


def _named_features(features: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    stage, layer = 1, 0
    for module in features:
        if isinstance(module, nn.MaxPool2d):
            yield f"pool{stage}", module
            stage, layer = stage + 1, 0
            continue
        kind = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu"}[type(module)]
        layer += kind == "conv"
        yield f"{kind}{stage}_{layer}", module
