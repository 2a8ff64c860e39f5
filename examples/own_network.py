"""Tune and prune a network of your own on a torch data set of your own: python examples/own_network.py"""

import torch
import torch.nn.functional as F
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


class Net(nn.Module):
    """Three convolutions, the last one on a shortcut, and a classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.grow = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.grow(F.relu(self.stem(x))))
        x = F.relu(x + self.body(x))
        return self.classifier(x.mean((2, 3)))


torch.manual_seed(0)
data = tascnet.datasets(train=Stripes(400, seed=1), val=Stripes(200, seed=2), test=Stripes(200, seed=3))
network = tascnet.backbone(Net(4), size=16, mean=[0, 0, 0], std=[1, 1, 1])
tuned = tascnet.tune(network, data, tascnet.Tune(max_trials=6, initial_trials=3, neurons=[32]))
small = tascnet.prune(tuned.network, data, tascnet.Prune(flops_target=0.5, tolerance=0.1, max_iterations=4))
print(tuned, small, sep="\n")
