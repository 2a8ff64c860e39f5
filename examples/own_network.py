"""Tune and prune a network of your own on a torch data set of your own: python examples/own_network.py"""

import torch
from torch import nn

import tascnet


class Stripes(torch.utils.data.Dataset):
    """Noisy stripes in one of four directions: (image `3 x 16 x 16`, label)."""

    def __init__(self, count: int, seed: int) -> None:
        noise = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        down, right = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        along = torch.stack([right, down, right + down, right - down])
        self.labels = torch.arange(count) % 4
        self.images = 0.5 * noise + torch.sin(1.5 * along)[self.labels, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Each block of a chain takes one tensor and gives one tensor."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


torch.manual_seed(0)
chain = nn.Sequential(
    block(3, 16), block(16, 32), block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)
)
data = tascnet.datasets(train=Stripes(400, seed=1), val=Stripes(200, seed=2), test=Stripes(200, seed=3))
network = tascnet.backbone(chain, size=16, mean=[0, 0, 0], std=[1, 1, 1])
tuned = tascnet.tune(network, data, tascnet.Tune(max_trials=6, initial_trials=3, neurons=[32]))
small = tascnet.prune(tuned.network, data, tascnet.Prune(flops_target=0.5, tolerance=0.1, max_iterations=4))
print(tuned, small, sep="\n")
