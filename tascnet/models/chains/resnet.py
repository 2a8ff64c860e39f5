"""ResNet-18 and ResNet-50 as chains of their residual blocks."""

from collections.abc import Iterator

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tascnet.models.blocks import Residual
from tascnet.models.chains.assemble import bare, in_place_off, sequence


def resnet_chain(model: ResNet) -> nn.Sequential:
    """The chain of torchvision's ResNet, sharing its layers.

    Blocks: `conv1`, `bn1`, `relu1`, `maxpool`, then `layerS_B` for block B of stage S, `avgpool`,
    `flatten`, `classifier`.
    """
    stem = [("conv1", model.conv1), ("bn1", model.bn1), ("relu1", nn.ReLU()), ("maxpool", model.maxpool)]
    head = [("avgpool", model.avgpool), ("flatten", nn.Flatten()), ("classifier", model.fc)]
    return in_place_off(sequence([*stem, *_blocks(model), *head]))


def _blocks(model: ResNet) -> Iterator[tuple[str, nn.Module]]:
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    for stage, blocks in enumerate(stages, start=1):
        for number, block in enumerate(blocks):
            shortcut = nn.Identity() if block.downsample is None else bare(*block.downsample)
            yield f"layer{stage}_{number}", Residual(_body(block), shortcut, nn.ReLU())


def _body(block: BasicBlock | Bottleneck) -> nn.Sequential:
    items: list[tuple[str, nn.Module]] = []
    for number in range(1, 4 if isinstance(block, Bottleneck) else 3):
        items += [(f"relu{number - 1}", nn.ReLU())] if number > 1 else []
        items += [(f"{kind}{number}", getattr(block, f"{kind}{number}")) for kind in ("conv", "bn")]
    return sequence(items)
