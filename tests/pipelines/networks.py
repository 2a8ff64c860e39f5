"""Small networks with the structure of the published ones."""

import torchvision
from torch import nn

published = torchvision.models.get_model


def slim(name, **options):
    """A network of torchvision with a quarter of its channels, and dense layers of 64 neurons."""
    original = published(name, **options)
    for parent in list(original.modules()):
        for key, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d):
                inputs = layer.in_channels if layer.in_channels == 3 else layer.in_channels // 4
                fixed = {
                    name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")
                }
                groups = inputs if layer.groups > 1 else 1
                bias = layer.bias is not None
                new = nn.Conv2d(inputs, layer.out_channels // 4, groups=groups, bias=bias, **fixed)
            elif isinstance(layer, nn.BatchNorm2d):
                new = nn.BatchNorm2d(layer.num_features // 4)
            elif isinstance(layer, nn.Linear):
                is_last = layer.out_features == options["num_classes"]
                inner = layer.in_features // (64 if layer.in_features == 4096 else 4)
                new = nn.Linear(inner, layer.out_features if is_last else 64)
            else:
                continue
            setattr(parent, key, new)
    return original


def dense(num_classes=1000):
    """A DenseNet of four layers."""
    return torchvision.models.DenseNet(16, (2, 2), 32, num_classes=num_classes)
