"""Saved models whose answers can be worked out by hand."""

from collections import OrderedDict

import torch
from torch import nn

from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def colour_network(names: tuple[str, ...] = tuple(COLOURS)) -> nn.Sequential:
    """Takes each image for the class of its brightest channel: logits are four times the channels' means."""
    network = nn.Sequential(
        OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(3, 3))
    )
    with torch.no_grad():
        network.classifier.weight.copy_(4 * torch.eye(3))
        network.classifier.bias.zero_()
    expected = Preprocessing(size=4, resize=5, mean=(0.0,) * 3, std=(1.0,) * 3)
    info = ModelInfo(
        backbone="colours", preprocessing=expected, class_names=names, weights="random", licence=""
    )
    return with_info(network.eval(), info)


def word_network() -> nn.Sequential:
    """Glad where `good` occurs more often than `bad` among four words, else sad: logits count them."""
    network = nn.Sequential(
        OrderedDict(embedding=nn.Embedding(4, 2), flatten=nn.Flatten(), classifier=nn.Linear(8, 2))
    )
    with torch.no_grad():
        network.embedding.weight.copy_(torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]]))
        network.classifier.weight.copy_(torch.eye(2).repeat(1, 4))
        network.classifier.bias.zero_()
    words = TextPreprocessing(max_tokens=4, vocabulary=("[PAD]", "[UNK]", "good", "bad"))
    info = ModelInfo(
        backbone="words", preprocessing=words, class_names=("glad", "sad"), weights="random", licence=""
    )
    return with_info(network.eval(), info)
