"""A tiny network and images of three brightnesses, for the tests of the public function."""

import importlib

import torch
from torch import nn

import tascnet

# The package has the function under the name of its module.
MODULE = importlib.import_module("tascnet.tuning.tune")
CLASSES = ("dark", "light", "striped")
OPTIONS = {"max_trials": 2, "max_units": 1, "initial_trials": 2, "round_to": 2, "kernels": (3,)}


def own_network():
    torch.manual_seed(0)
    chain = nn.Sequential()
    chain.add_module("conv1", nn.Conv2d(3, 4, 3, padding=1))
    chain.add_module("relu1", nn.ReLU())
    chain.add_module("conv2", nn.Conv2d(4, 8, 3, stride=2, padding=1))
    chain.add_module("relu2", nn.ReLU())
    chain.add_module("pool", nn.AdaptiveAvgPool2d(1))
    chain.add_module("flatten", nn.Flatten())
    chain.add_module("classifier", nn.Linear(8, 7))
    return tascnet.backbone(chain, size=8, resize=8, mean=(0.5,) * 3, std=(0.25,) * 3)


def own_data():
    """Images of three brightnesses."""
    generator = torch.Generator().manual_seed(1)

    def samples(count):
        labels = torch.arange(count) % len(CLASSES)
        pixels = torch.rand(count, 3, 8, 8, generator=generator) * 0.3 + 0.3 * labels[:, None, None, None]
        return torch.utils.data.TensorDataset((pixels - 0.5) / 0.25, labels)

    return tascnet.datasets(train=samples(24), val=samples(12), test=samples(12), class_names=CLASSES)
