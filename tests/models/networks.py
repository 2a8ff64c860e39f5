"""Original networks with weights and statistics that are not those of a fresh one."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

TORCHVISION = ("vgg16", "resnet18", "resnet50", "densenet121", "mobilenet_v2")
CIFAR = {"resnet20": 3, "resnet56": 9}


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with random batch-norm statistics and affine parameters."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
    return model.eval()


def torchvision_original(name: str, num_classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return shaken(torchvision.models.get_model(name, weights=None, num_classes=num_classes))


class CifarBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grow = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.grow else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            zeros = torch.zeros_like(x[:, : self.grow // 2, ::2, ::2])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """The published network, written down a second time in its own layout."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = CifarBlock(inputs, outputs)
            rest = (CifarBlock(outputs, outputs) for _ in range(blocks - 1))
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def cifar_original(name: str, num_classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return shaken(CifarResNet(CIFAR[name], num_classes))


def original(name: str, num_classes: int) -> nn.Module:
    return cifar_original(name, num_classes) if name in CIFAR else torchvision_original(name, num_classes)
