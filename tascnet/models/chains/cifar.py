"""CIFAR-style ResNets, with shortcuts that have no parameters."""

from collections.abc import Iterator, Mapping

from torch import nn

from tascnet.models.blocks import Residual, SliceAndPad
from tascnet.models.chains.assemble import sequence

_WIDTHS = (16, 32, 64)


def cifar_resnet_chain(depth: int, num_classes: int, channels: int = 3) -> nn.Sequential:
    """A ResNet of three stages of 16, 32 and 64 channels.

    Blocks: `conv1`, `bn1`, `relu1`, then `layerS_B` for block B of stage S, `avgpool`, `flatten`,
    `classifier`.

    Args:
        depth: 20, 32, 44, 56, ...: six layers for each block of a stage, and two.
        num_classes: outputs of the classifier.
        channels: of the input.

    Source: He et al. 2016, section 4.2, option A.
    """
    stem = [("conv1", _conv3x3(channels, _WIDTHS[0], 1)), ("bn1", nn.BatchNorm2d(_WIDTHS[0]))]
    stem += [("relu1", nn.ReLU())]
    head = [("avgpool", nn.AdaptiveAvgPool2d((1, 1))), ("flatten", nn.Flatten())]
    head += [("classifier", nn.Linear(_WIDTHS[-1], num_classes))]
    chain = sequence([*stem, *_blocks((depth - 2) // 6), *head])
    for module in chain.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return chain


def cifar_resnet_keys(chain: nn.Sequential) -> Mapping[str, str]:
    """For each key of the chain's state dict, its key in the published layout."""
    return {key: _published(key) for key in chain.state_dict()}


def _published(key: str) -> str:
    block, _, rest = key.partition(".")
    if block == "classifier":
        return f"linear.{rest}"
    return f"{block.replace('_', '.')}.{rest.removeprefix('body.')}"


def _blocks(per_stage: int) -> Iterator[tuple[str, nn.Module]]:
    inputs = _WIDTHS[0]
    for stage, width in enumerate(_WIDTHS, start=1):
        for number in range(per_stage):
            yield f"layer{stage}_{number}", _block(inputs, width)
            inputs = width


def _block(inputs: int, width: int) -> Residual:
    stride = 1 if inputs == width else 2
    body = sequence(
        [
            ("conv1", _conv3x3(inputs, width, stride)),
            ("bn1", nn.BatchNorm2d(width)),
            ("relu1", nn.ReLU()),
            ("conv2", _conv3x3(width, width, 1)),
            ("bn2", nn.BatchNorm2d(width)),
        ]
    )
    padding = (width - inputs) // 2
    shortcut = nn.Identity() if stride == 1 else SliceAndPad(stride, padding, padding)
    return Residual(body, shortcut, nn.ReLU())


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
