"""Networks of torchvision as chains of their blocks; the chains share the networks' layers."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import VGG

from tascnet.models.blocks import Concat, Residual, sequence


def vgg_chain(model: VGG) -> nn.Sequential:
    """VGG-16 as a chain of its layers.

    Blocks: `conv1_1`, `relu1_1`, ..., `pool5`, `avgpool`, `flatten`, `fc6`, `relu6`, `dropout6`,
    `fc7`, `relu7`, `dropout7`, `classifier`.

    Source: Simonyan and Zisserman 2015, table 1.
    """

    def features() -> Iterator[tuple[str, nn.Module]]:
        stage, layer = 1, 0
        for module in model.features:
            if isinstance(module, nn.MaxPool2d):
                yield f"pool{stage}", module
                stage, layer = stage + 1, 0
                continue
            kind = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu"}[type(module)]
            layer += kind == "conv"
            yield f"{kind}{stage}_{layer}", module

    names = ("fc6", "relu6", "dropout6", "fc7", "relu7", "dropout7", "classifier")
    middle = [("avgpool", model.avgpool), ("flatten", nn.Flatten())]
    return _in_place_off(sequence([*features(), *middle, *zip(names, model.classifier, strict=True)]))


def resnet_chain(model: ResNet) -> nn.Sequential:
    """ResNet-18 or ResNet-50 as a chain of its residual blocks.

    Blocks: `conv1`, `bn1`, `relu1`, `maxpool`, then `layerS_B` for block B of stage S, `avgpool`,
    `flatten`, `classifier`.
    """

    def blocks() -> Iterator[tuple[str, nn.Module]]:
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        for stage, stage_blocks in enumerate(stages, start=1):
            for number, block in enumerate(stage_blocks):
                down = block.downsample
                shortcut = nn.Identity() if down is None else sequence(zip(("conv", "bn"), down, strict=True))
                layers = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3")
                body = sequence(
                    (name, nn.ReLU() if name.startswith("relu") else getattr(block, name))
                    for name in layers[: 8 if isinstance(block, Bottleneck) else 5]
                )
                yield f"layer{stage}_{number}", Residual(body, shortcut, nn.ReLU())

    stem = [("conv1", model.conv1), ("bn1", model.bn1), ("relu1", nn.ReLU()), ("maxpool", model.maxpool)]
    head = [("avgpool", model.avgpool), ("flatten", nn.Flatten()), ("classifier", model.fc)]
    return _in_place_off(sequence([*stem, *blocks(), *head]))


def densenet_chain(model: DenseNet) -> nn.Sequential:
    """DenseNet-121 as a chain of its dense layers and transitions.

    Blocks: `conv0`, `norm0`, `relu0`, `pool0`, then `denseS_L` for layer L of block S and
    `transitionS` after it, `norm5`, `relu5`, `avgpool`, `flatten`, `classifier`.
    """

    def features() -> Iterator[tuple[str, nn.Module]]:
        for name, module in model.features.named_children():
            if name.startswith("denseblock"):
                stage = name.removeprefix("denseblock")
                for number, layer in enumerate(module.children(), start=1):
                    names = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
                    yield f"dense{stage}_{number}", Concat(_picked(layer, names))
            elif name.startswith("transition"):
                yield name, _picked(module, ("norm", "relu", "conv", "pool"))
            else:
                yield name, module

    head = [("relu5", nn.ReLU()), ("avgpool", nn.AdaptiveAvgPool2d((1, 1)))]
    head += [("flatten", nn.Flatten()), ("classifier", model.classifier)]
    return _in_place_off(sequence([*features(), *head]))


def _picked(module: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    return sequence((name, getattr(module, name)) for name in names)


def mobilenet_chain(model: MobileNetV2) -> nn.Sequential:
    """MobileNetV2 as a chain of its inverted residuals.

    Blocks: `stem`, `stem_bn`, `stem_relu`, then `block1` to `block17` (with the layers `expand`,
    `depthwise` and `project`), `last`, `last_bn`, `last_relu`, `avgpool`, `flatten`, `dropout`,
    `classifier`.
    """
    stem, *inverted, last = model.features
    dropout, classifier = model.classifier

    def blocks() -> Iterator[tuple[str, nn.Module]]:
        for number, block in enumerate(inverted, start=1):
            *units, project, norm = block.conv
            names = ("expand", "depthwise")[-len(units) :]
            layers = [item for name, unit in zip(names, units, strict=True) for item in _unit(name, unit)]
            body = sequence([*layers, ("project", project), ("project_bn", norm)])
            residual = Residual(body, nn.Identity(), nn.Identity())
            yield f"block{number}", residual if block.use_res_connect else body

    head = [("avgpool", nn.AdaptiveAvgPool2d((1, 1))), ("flatten", nn.Flatten())]
    head += [("dropout", dropout), ("classifier", classifier)]
    return _in_place_off(sequence([*_unit("stem", stem), *blocks(), *_unit("last", last), *head]))


def _unit(name: str, unit: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for suffix, module in zip(("", "_bn", "_relu"), unit.children(), strict=True):
        yield name + suffix, module


def _in_place_off(chain: nn.Sequential) -> nn.Sequential:
    """The chain with no activation that overwrites its input, which may be a cached feature."""
    for module in chain.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    return chain
