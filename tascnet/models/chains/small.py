"""Small networks that are written here: CIFAR-style ResNets, a network for digits, and one for sentences."""

from collections.abc import Iterator, Mapping

from torch import nn

from tascnet.models.blocks import ChannelsFirst, MaxOverTime, Residual, SliceAndPad, sequence

# Channels of the stages of a CIFAR-style ResNet.
_STAGES = (16, 32, 64)
# Filters of the convolutions of each stage of the digits network.
_DIGITS = ((16, 32), (32, 64), (64,))
# Widths of the convolutions over words.
_WORDS = (3, 4, 5)


def cifar_resnet_chain(depth: int, num_classes: int, channels: int = 3) -> nn.Sequential:
    """A ResNet of three stages, with shortcuts that have no parameters.

    Blocks: `conv1`, `bn1`, `relu1`, then `layerS_B` for block B of stage S, `avgpool`, `flatten`,
    `classifier`. Depths are 20, 32, 44, 56, ...: six layers for each block of a stage, and two.

    Source: He et al. 2016, section 4.2, option A.
    """

    def blocks() -> Iterator[tuple[str, nn.Module]]:
        inputs = _STAGES[0]
        for stage, width in enumerate(_STAGES, start=1):
            for number in range((depth - 2) // 6):
                yield f"layer{stage}_{number}", _cifar_block(inputs, width)
                inputs = width

    stem = [("conv1", _conv3x3(channels, _STAGES[0], 1)), ("bn1", nn.BatchNorm2d(_STAGES[0]))]
    stem += [("relu1", nn.ReLU())]
    head = [("avgpool", nn.AdaptiveAvgPool2d((1, 1))), ("flatten", nn.Flatten())]
    head += [("classifier", nn.Linear(_STAGES[-1], num_classes))]
    return _he_normal(sequence([*stem, *blocks(), *head]))


def cifar_resnet_keys(chain: nn.Sequential) -> Mapping[str, str]:
    """For each key of the chain's state dict, its key in the published layout."""

    def published(key: str) -> str:
        block, _, rest = key.partition(".")
        if block == "classifier":
            return f"linear.{rest}"
        return f"{block.replace('_', '.')}.{rest.removeprefix('body.')}"

    return {key: published(key) for key in chain.state_dict()}


def _cifar_block(inputs: int, width: int) -> Residual:
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


def digits_cnn_chain(num_classes: int, channels: int = 1) -> nn.Sequential:
    """Five 3x3 convolutions with batch normalisation, two poolings and a classifier.

    Blocks: `conv1`, `bn1`, `relu1`, ..., `pool1`, ..., `relu5`, `avgpool`, `flatten`, `classifier`.
    An input of 8x8 pixels reaches the classifier as a map of 2x2; larger ones are averaged to it.
    """

    def features() -> Iterator[tuple[str, nn.Module]]:
        inputs, number = channels, 1
        for stage, widths in enumerate(_DIGITS):
            if stage:
                yield f"pool{stage}", nn.MaxPool2d(2)
            for width in widths:
                yield f"conv{number}", _conv3x3(inputs, width, 1)
                yield f"bn{number}", nn.BatchNorm2d(width)
                yield f"relu{number}", nn.ReLU()
                inputs, number = width, number + 1

    head = [("avgpool", nn.AdaptiveAvgPool2d((2, 2))), ("flatten", nn.Flatten())]
    head += [("classifier", nn.Linear(4 * _DIGITS[-1][-1], num_classes))]
    return _he_normal(sequence([*features(), *head]))


def textcnn_chain(num_classes: int, words: int, embedding_width: int, filters: int) -> nn.Sequential:
    """Parallel convolutions over the words of a text, their largest values over time, and a classifier.

    Blocks: `embedding`, `channels_first`, `convolutions`, `dropout`, `classifier`; the input is numbers of
    words, `b x T`, `T` at least 1.

    Args:
        num_classes: outputs of the classifier.
        words: size of the vocabulary; word 0 is padding, whose vector is zero and not trained.
        embedding_width: numbers in a word's vector.
        filters: of each of the convolutions of widths 3, 4 and 5.

    Source: Kim 2014, Convolutional Neural Networks for Sentence Classification.
    """
    branches = sequence(
        (f"conv{width}", nn.Conv1d(embedding_width, filters, width, padding=width // 2)) for width in _WORDS
    )
    embedding = nn.Embedding(words, embedding_width, padding_idx=0)
    nn.init.uniform_(embedding.weight, -0.25, 0.25)
    nn.init.zeros_(embedding.weight[0])
    return sequence(
        [
            ("embedding", embedding),
            ("channels_first", ChannelsFirst()),
            ("convolutions", MaxOverTime(branches, nn.ReLU())),
            ("dropout", nn.Dropout(0.5)),
            ("classifier", nn.Linear(filters * len(_WORDS), num_classes)),
        ]
    )


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _he_normal(chain: nn.Sequential) -> nn.Sequential:
    for module in chain.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return chain
