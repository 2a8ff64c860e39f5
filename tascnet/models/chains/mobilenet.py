"""MobileNetV2 as a chain of its inverted residuals."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2

from tascnet.models.blocks import Residual
from tascnet.models.chains.assemble import in_place_off, sequence

_UNIT = ("", "_bn", "_relu")


def mobilenet_chain(model: MobileNetV2) -> nn.Sequential:
    """The chain of torchvision's MobileNetV2, sharing its layers.

    Blocks: `stem`, `stem_bn`, `stem_relu`, then `block1` to `block17` (with the layers `expand`,
    `depthwise` and `project`), `last`, `last_bn`, `last_relu`, `avgpool`, `flatten`, `dropout`,
    `classifier`.
    """
    stem, *blocks, last = model.features
    dropout, classifier = model.classifier
    head = [
        ("avgpool", nn.AdaptiveAvgPool2d((1, 1))),
        ("flatten", nn.Flatten()),
        ("dropout", dropout),
        ("classifier", classifier),
    ]
    middle = ((f"block{number}", _block(block)) for number, block in enumerate(blocks, start=1))
    return in_place_off(sequence([*_unit("stem", stem), *middle, *_unit("last", last), *head]))


def _block(block: InvertedResidual) -> nn.Module:
    body = sequence(_body(block))
    return Residual(body, nn.Identity(), nn.Identity()) if block.use_res_connect else body


def _body(block: InvertedResidual) -> Iterator[tuple[str, nn.Module]]:
    *units, project, norm = block.conv
    for name, unit in zip(("expand", "depthwise")[-len(units) :], units, strict=True):
        yield from _unit(name, unit)
    yield "project", project
    yield "project_bn", norm


def _unit(name: str, unit: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for suffix, module in zip(_UNIT, unit.children(), strict=True):
        yield name + suffix, module
