"""A network as a user may have it, in one file without tascnet, which tests copy into a working folder."""

import torch
import torch.nn.functional as F
from torch import nn


class SqueezeExcitation(nn.Module):
    """Weighs channels by their means."""

    def __init__(self, channels, reduction=4):
        super().__init__()
        self.down = nn.Conv2d(channels, channels // reduction, 1)
        self.up = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x):
        scale = x.mean((2, 3), keepdim=True)
        scale = F.relu(self.down(scale))
        return x * torch.sigmoid(self.up(scale))


class TwoBranches(nn.Module):
    """A narrow and a wide view of the same features, side by side, on a shortcut."""

    def __init__(self, channels, act):
        super().__init__()
        half = channels // 2
        self.narrow = nn.Conv2d(channels, half, 1, bias=False)
        self.wide = nn.Conv2d(channels, half, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.attend = SqueezeExcitation(channels)
        self.act = act

    def forward(self, x):
        both = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        return self.act(self.attend(self.norm(both)) + x)


class Net(nn.Module):
    """A stem, two blocks that share one activation, and a classifier."""

    def __init__(self, num_classes=10, width=24):
        super().__init__()
        self.act = nn.SiLU(inplace=True)
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.first = TwoBranches(width, self.act)
        self.grow = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.second = TwoBranches(2 * width, self.act)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.first(x)
        x = F.max_pool2d(F.relu(self.grow(x)), 2)
        x = self.second(x)
        x = F.adaptive_avg_pool2d(x, 1)
        return self.classifier(x.view(x.size(0), -1))
