"""Training dense heads on cached features, standardised while the head learns."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.data import FeatureSource, Segment, cache_segments, cached_features, module_digest
from tascnet.data.cache import BATCH, Shard, Spread, shard_features
from tascnet.data.sources import Source
from tascnet.models.head import head_start
from tascnet.run.records import TrainingRecord
from tascnet.train.distillation import Distillation
from tascnet.train.learner import Learner
from tascnet.train.mode import batches

# Of the training samples in all views, and of the validation samples.
FeaturePair: TypeAlias = tuple[FeatureSource, FeatureSource]

# From a function of a learner, shared arguments and a shard to what makes the features of many shards.
SpreadOf: TypeAlias = Callable[[Callable[..., Any], Sequence[Any]], Spread]

# Samples of a pass that measures features.
PASS = 256


class Standardisation(nn.Module):
    """(f - mean) / deviation of each feature.

    Args:
        mean, deviation: of the features, `d`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features `b x d`."""
        return (features - self.mean) / self.deviation


def fit_head(
    learner: Learner,
    head: nn.Sequential,
    features: FeaturePair,
    *,
    checkpoint: Path | None = None,
    description: str = "head",
    **options: Any,
) -> TrainingRecord:
    """Train a new head in place on cached features, and keep the weights of its best epoch, in eval mode.

    The input of its first `nn.Linear` is standardised while it learns (`trainer.standardise`), in front of
    the Dropouts before that layer; afterwards mean and deviation are folded into the layer, so that the head
    reads features as they are.

    Args:
        head: on the device, trainable: blocks without parameters, such as pooling, flattening and dropout,
            then dense layers.
        features: cached training and validation features, which the head reads.
        checkpoint: file from which an interrupted training resumes.
        description: of the progress bar.
        options: further ones of `fit`.
    """
    own: dict[str, Any] = {"checkpoint": checkpoint, "description": description, **options}
    blocks = list(head.named_children())
    before = list(takewhile(lambda item: not isinstance(item[1], nn.Linear), blocks))
    dense = [block for block in head if isinstance(block, nn.Linear)]
    layer = dense[0] if dense else None
    reads_constant = not any(True for _, block in before for _ in block.parameters())
    if not learner.trainer.standardise or layer is None or layer.bias is None or not reads_constant:
        return learner.fit(head, "head", features=features, **own)
    while before and isinstance(before[-1][1], nn.Dropout):
        before.pop()
    mean, deviation = moments(nn.Sequential(OrderedDict(before)), features[0], layer.weight.device)
    if len(dense) == 1:
        # On MobileNetV2 and the digits this reached a lower validation loss than He-normal weights.
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    standardised = ("standardised", Standardisation(mean, deviation))
    chain = nn.Sequential(OrderedDict([*before, standardised, *blocks[len(before) :]]))
    training = learner.fit(chain, "head", features=features, **own)
    _fold(layer, mean, deviation)
    head.eval()
    return training


def fit_new_head(
    learner: Learner,
    network: nn.Sequential,
    teacher: nn.Module | None,
    weight: float,
    *,
    checkpoint: Path,
    folder: Path | None = None,
    description: str = "head",
) -> TrainingRecord:
    """Train the head of a network, in place, on the cached features that it reads.

    Args:
        network: on the device.
        teacher: whose cached answers are learnt beside the labels; None: labels alone.
        weight: share of the loss on these answers.
        checkpoint: file from which an interrupted training resumes.
        folder: of the features; None: that of the cache, which runs share.
        description: of the progress bar.
    """
    start = head_start(network)
    trunk, head = network[:start].eval(), network[start:].requires_grad_(True)
    pair, taught = cached_pair(learner, trunk, module_digest(trunk), folder), None
    if teacher is not None and weight:
        own: dict[str, Any] = {"weight": weight, "device": learner.device, "beside": pair}
        taught = Distillation.cached(teacher, learner.samples, **own)
    return fit_head(
        *(learner, head, pair), checkpoint=checkpoint, description=description, distillation=taught
    )


def cached_pair(
    learner: Learner,
    trunk: nn.Module,
    digest: str,
    folder: Path | None = None,
    reader: nn.Module | None = None,
) -> FeaturePair:
    """The activations of a trunk, read from a folder or computed into it; on the device if they fit.

    Args:
        digest: of the trunk; see `cached_features`.
        folder: None: that of the cache, which runs share.
        reader: what is cached of the activations; None: all.

    Raises:
        BudgetError: they would take more than the cache's limit.
    """
    samples, trunk = learner.samples, trunk.eval()
    options: dict[str, Any] = {
        "folder": folder or samples.cache / "features",
        "trunk_digest": digest,
        "limit_gb": samples.cache_limit_gb,
        "device": learner.device,
        "reader": reader,
    }
    train = cached_features(trunk, samples.train, views=samples.views, **options)
    val = cached_features(trunk, samples.val, beside=(train,), **options)
    return train.resident(learner.device), val.resident(learner.device)


def cache_places(learner: Learner, segments: Sequence[Segment], spread: SpreadOf | None = None) -> None:
    """Cache what `cached_pair` reads at several places of a network, in one pass; see `cache_segments`.

    Args:
        learner: samples and device.
        segments: the first begins where the samples enter the network.
        spread: runs a function of a learner, with some arguments, for each part of the pass; None: here.

    Raises:
        BudgetError: it does not fit together.
    """
    samples = learner.samples
    blocks, readers = tuple(one.blocks for one in segments), tuple(one.reader for one in segments)
    cache_segments(
        segments,
        [(samples.train, samples.views), (samples.val, ("plain",))],
        folder=samples.cache / "features",
        limit_gb=samples.cache_limit_gb,
        device=learner.device,
        spread=None if spread is None else spread(place_features, (blocks, readers)),
    )


def place_features(
    learner: Learner,
    blocks: Sequence[nn.Module],
    readers: Sequence[nn.Module | None],
    shard: Shard,
) -> list[NDArray[Any]]:
    """The features of some training or validation samples (0 and 1) at several places; see `Segment`."""
    number, view, dtype, rows = shard
    source = (learner.samples.train, learner.samples.val)[number]
    segments = list(zip(blocks, readers, strict=True))
    own = [shard_features(segments, source, view, dtype, b, learner.device) for b in rows.split(BATCH)]
    return [np.concatenate(parts) for parts in zip(*own, strict=True)]


def moments(reader: nn.Module, source: Source, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the features that `reader` returns for the plain samples: each `d`, float32.

    Deviations below the median of those that are not zero are raised to it: divided by their own, features
    that are almost always zero would outweigh all others.
    """
    reader.eval()
    parts = batches(torch.arange(len(source)), PASS)

    def mean_of(center: Tensor | float, power: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in parts:
            features = reader(source.batch(rows, None).to(device)).double()
            total = total + (features - center).pow(power).sum(0)
        return total / len(source)

    with torch.no_grad():
        mean = mean_of(0.0, 1)
        deviation = mean_of(mean, 2).sqrt()
    varying = deviation[deviation > 0]
    # Features that are all constant are only shifted.
    deviation = deviation.clamp(min=float(varying.median())) if len(varying) else torch.ones_like(deviation)
    return mean.float(), deviation.float()


@torch.no_grad()
def _fold(layer: nn.Linear, mean: Tensor, deviation: Tensor) -> None:
    """Let a layer that reads (f - mean) / deviation read f, with the same outputs."""
    weight = layer.weight.double() / deviation.double()
    layer.weight.copy_(weight)
    layer.bias.copy_(layer.bias.double() - weight @ mean.double())
