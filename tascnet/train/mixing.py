"""MixUp and CutMix: samples of a batch are mixed with each other, and their labels likewise."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tascnet.data import FeatureSource
from tascnet.data.sources import Source
from tascnet.errors import ConfigError
from tascnet.options import Steps


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes each sample of a batch with the one before it; with both kinds, each batch draws one.

    All draws are from torch's global generator.

    Args:
        mixup: parameter of the Beta distribution of the share that a sample keeps; 0: no MixUp.
        cutmix: the same for the area of an image that it keeps; 0: no CutMix.
        num_classes: of the labels.

    Source: Zhang et al. 2018 (mixup), equation 1; Yun et al. 2019 (CutMix), equations 1 and 2.
    """

    mixup: float
    cutmix: float
    num_classes: int

    @classmethod
    def of(cls, recipe: Steps, train: Source) -> "Mixing | None":
        """The mixing of a recipe for a source; None where nothing is mixed. Features take no CutMix.

        Raises:
            ConfigError: the samples cannot be mixed.
        """
        cutmix = 0.0 if isinstance(train, FeatureSource) else recipe.cutmix
        if not recipe.mixup and not cutmix:
            return None
        sample = train.batch(torch.arange(1), None)
        for name, alpha, fits in (
            ("mixup", recipe.mixup, sample.is_floating_point()),
            ("cutmix", cutmix, sample.is_floating_point() and sample.dim() == 4),
        ):
            if alpha and not fits:
                raise ConfigError(
                    f"`{name}` mixes images, but a sample has the shape {list(sample.shape[1:])} and the "
                    f"type {sample.dtype}",
                    f"leave `{name}` out",
                )
        return cls(mixup=recipe.mixup, cutmix=cutmix, num_classes=train.num_classes)

    def __call__(
        self, inputs: Tensor, labels: Tensor, answers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mixed inputs `b x ...`, soft labels `b x C`, and a teacher's answers `b x C` mixed in the same way.

        Args:
            inputs: `b x ...`.
            labels: class indices, `b`.
            answers: a teacher's logits for the inputs, `b x C`; images have none.
        """
        if self.cutmix and (not self.mixup or float(torch.rand(())) < 0.5):
            return (*self._cut(inputs, labels), answers)
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        hot = F.one_hot(labels, self.num_classes).to(inputs.dtype)
        mixed = None if answers is None else _mixed(answers, share)
        return _mixed(inputs, share), _mixed(hot, share), mixed

    def _cut(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # Imported here, because it takes a second.
        from torchvision.transforms.v2 import CutMix

        images, soft = CutMix(alpha=self.cutmix, num_classes=self.num_classes)(inputs, labels)
        return images, soft


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """`F.cross_entropy` that also takes soft labels `b x C`, with the mean that it takes of class indices.

    Args:
        logits: `b x C`.
        labels: class indices `b`, or shares of the classes `b x C`.
        weight: of the classes, `C`.
        label_smoothing: share of the uniform distribution.
    """
    if labels.dim() == 1 or weight is None:
        return F.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing)
    # Of soft labels torch divides by their number in place of their weights.
    total = F.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum")
    return total / (labels @ weight).sum()


def _mixed(values: Tensor, share: float) -> Tensor:
    return torch.lerp(values.roll(1, 0), values, share)
