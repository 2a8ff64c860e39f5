"""The convolutional network for sentences."""

from torch import nn

from tascnet.models.blocks import ChannelsFirst, MaxOverTime
from tascnet.models.chains.assemble import sequence

_WIDTHS = (3, 4, 5)
_DROPOUT = 0.5


def textcnn_chain(num_classes: int, words: int, embedding_width: int, filters: int) -> nn.Sequential:
    """Parallel convolutions over the words of a text, their largest values over time, and a classifier.

    Blocks: `embedding`, `channels_first`, `convolutions`, `dropout`, `classifier`; it takes the numbers of
    words, `b x T`. Texts are padded so that any length of at least one word will do.

    Args:
        num_classes: outputs of the classifier.
        words: of the vocabulary; number 0 is padding, whose vector is zero and stays so.
        embedding_width: numbers in a word's vector.
        filters: of each of the convolutions of widths 3, 4 and 5.

    Source: Kim 2014, Convolutional Neural Networks for Sentence Classification.
    """
    branches = sequence(
        (f"conv{width}", nn.Conv1d(embedding_width, filters, width, padding=width // 2)) for width in _WIDTHS
    )
    embedding = nn.Embedding(words, embedding_width, padding_idx=0)
    nn.init.uniform_(embedding.weight, -0.25, 0.25)
    nn.init.zeros_(embedding.weight[0])
    return sequence(
        [
            ("embedding", embedding),
            ("channels_first", ChannelsFirst()),
            ("convolutions", MaxOverTime(branches, nn.ReLU())),
            ("dropout", nn.Dropout(_DROPOUT)),
            ("classifier", nn.Linear(filters * len(_WIDTHS), num_classes)),
        ]
    )
