"""A tiny network and random images, for the tests of the public function."""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn

from tascnet.data.named import datasets
from tascnet.models.blocks import Residual
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.layers import LayerNorm2d
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import Measure, Trainer

CLASSES = ("dark", "light")
QUICK = {
    "trainer": Trainer(batch_size=8, lr=1e-3),
    "measure": Measure(batch=2, repeats=3),
    "device": "cpu",
    "threads": 1,
}
SMALL = {
    "criterion": "magnitude",
    "scope": "group",
    "merge": "fold",
    "round_to": 1,
    "min_filters": 8,
    "pruning_ratio": 0.25,
    "epochs": 1,
    "tolerance": 1.0,
    "max_iterations": 1,
}


def images(count, seed):
    """Noise, brighter in the second class."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (0.5 * torch.rand(3, 8, 8, generator=generator) + 0.5 * (n % 2) - 0.5, n % 2) for n in range(count)
    ]


DATA = datasets(train=images(24, 0), val=images(12, 1), test=images(12, 2), class_names=CLASSES)


def network(**info):
    torch.manual_seed(0)
    layers = OrderedDict(conv=nn.Conv2d(16, 16, 3, padding=1, bias=False), bn=nn.BatchNorm2d(16))
    return described(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1),
            relu1=nn.ReLU(),
            block=Residual(nn.Sequential(layers), nn.Identity(), nn.ReLU()),
            conv2=nn.Conv2d(16, 20, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(20, 2),
        ),
        **info,
    )


def grouped():
    """Groups of four channels in a convolution, a layer normalisation, and a plain layer."""
    torch.manual_seed(0)
    return described(
        OrderedDict(
            conv1=nn.Conv2d(3, 12, 3, padding=1),
            norm=LayerNorm2d(12),
            conv2=nn.Conv2d(12, 32, 1),
            conv3=nn.Conv2d(32, 32, 3, padding=1, groups=8),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(32, 16, 1),
            relu4=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(16, 2),
        )
    )


def described(blocks, **info):
    """A chain with the attributes of every network."""
    chain = nn.Sequential(blocks).eval()
    values = {
        "backbone": "toy",
        "preprocessing": Preprocessing(size=8, resize=8, mean=(0.5,) * 3, std=(0.5,) * 3),
        "class_names": CLASSES,
        "weights": "random",
        "licence": "none",
        **info,
    }
    return with_info(chain, ModelInfo(**values))


def state(chain):
    return {key: value.clone() for key, value in chain.state_dict().items()}


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def untimed(iterations):
    return [replace(iteration, seconds=0.0) for iteration in iterations]
