"""Tiny networks of three families, with what an exported file says about them."""

from collections import OrderedDict

import torch
from torch import nn

from tascnet.models import ModelInfo, Preprocessing, TextPreprocessing
from tascnet.models.chains.small import textcnn_chain
from tascnet.models.graph import Graph, Step, Value
from tascnet.models.info import with_info
from tascnet.models.layers import LayerNorm2d, Permute
from tascnet.models.text import SPECIAL
from tests.models.toys import settle

IMAGES = Preprocessing(size=8, resize=10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
TEXTS = TextPreprocessing(max_tokens=6, vocabulary=(*SPECIAL, "a", "good", "bad", "film"))


def info(preprocessing=IMAGES):
    return ModelInfo(
        backbone="toy",
        preprocessing=preprocessing,
        class_names=("cat", "dog", "caf\u00e9"),
        weights="random",
        licence="Apache-2.0",
        held_out="0a1b",
    )


def chain(**layers):
    return nn.Sequential(OrderedDict(layers))


def end(width):
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(width, 3),
    }


def skipping():
    """A 1x1 convolution, a depthwise and a 1x1 one, with batch-norms and a skip connection."""
    layers = {
        "conv1": nn.Conv2d(4, 6, 1, bias=False),
        "bn1": nn.BatchNorm2d(6),
        "relu": nn.ReLU(),
        "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        "bn2": nn.BatchNorm2d(6),
        "conv3": nn.Conv2d(6, 4, 1),
    }
    steps = [Step("layer", (name, Value(number))) for number, name in enumerate(layers)]
    return Graph(layers, [*steps, Step("add", (Value(0), Value(len(layers))))])


def convolutional():
    stem = {"conv": nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), "bn": nn.BatchNorm2d(4)}
    return with_info(settle(chain(**stem, act=nn.ReLU6(), block=skipping(), **end(4))), info())


def normed():
    """As ConvNeXt: a patchify stem with LayerNorm, then GELU between linear layers on the last axis."""
    layers = {
        "stem": nn.Conv2d(3, 4, 2, stride=2),
        "norm": LayerNorm2d(4),
        "last": Permute((0, 2, 3, 1)),
        "wide": nn.Linear(4, 8),
        "act": nn.GELU(),
        "narrow": nn.Linear(8, 4),
        "first": Permute((0, 3, 1, 2)),
    }
    return with_info(settle(chain(**layers, **end(4))), info())


def textual():
    return with_info(settle(textcnn_chain(3, len(TEXTS.vocabulary), 4, 5)), info(TEXTS))


FAMILIES = {"convolutional": convolutional, "normed": normed, "textual": textual}


def inputs(network, count, seed=1):
    """Random inputs of a network, `count x ...`."""
    generator = torch.Generator().manual_seed(seed)
    preprocessing = network.info.preprocessing
    shape = (count, *preprocessing.example_shape[1:])
    if isinstance(preprocessing, TextPreprocessing):
        return torch.randint(0, len(preprocessing.vocabulary), shape, generator=generator)
    return torch.randn(shape, generator=generator)
