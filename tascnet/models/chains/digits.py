"""A small VGG-style network for small scans."""

from collections.abc import Iterator

from torch import nn

from tascnet.models.chains.assemble import sequence

# Filters of the convolutions of each stage; a pooling layer halves the map between two stages.
_STAGES = ((16, 32), (32, 64), (64,))


def digits_cnn_chain(num_classes: int, channels: int = 1) -> nn.Sequential:
    """Five 3x3 convolutions with batch normalisation, two poolings and a classifier.

    Blocks: `conv1`, `bn1`, `relu1`, ..., `pool1`, ..., `relu5`, `avgpool`, `flatten`, `classifier`.
    An input of 8x8 pixels reaches the classifier as a map of 2x2; larger ones are averaged to it.
    """
    head = [("avgpool", nn.AdaptiveAvgPool2d((2, 2))), ("flatten", nn.Flatten())]
    head += [("classifier", nn.Linear(4 * _STAGES[-1][-1], num_classes))]
    chain = sequence([*_features(channels), *head])
    for module in chain.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return chain


def _features(inputs: int) -> Iterator[tuple[str, nn.Module]]:
    number = 1
    for stage, widths in enumerate(_STAGES):
        if stage:
            yield f"pool{stage}", nn.MaxPool2d(2)
        for width in widths:
            yield f"conv{number}", nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            yield f"bn{number}", nn.BatchNorm2d(width)
            yield f"relu{number}", nn.ReLU()
            inputs, number = width, number + 1
