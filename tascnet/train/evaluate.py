"""How good a network is on a set of samples."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tascnet.data.samples import open_samples
from tascnet.data.sources import Source
from tascnet.errors import ConfigError, listed
from tascnet.models.info import info_of
from tascnet.models.inspect import evaluating
from tascnet.options import Data
from tascnet.run.folder import cache_folder
from tascnet.train.setting import computing

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and accuracy over some samples.

    Args:
        loss: mean cross-entropy, without class weights and smoothing.
        accuracy: share of correct predictions, in [0, 1].
        samples: how many.
    """

    loss: float
    accuracy: float
    samples: int


def evaluate(
    network: nn.Sequential,
    data: Data,
    *,
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    cache: str | Path | None = None,
) -> Evaluation:
    """Loss and accuracy of a network on one split of a data set; the network is not changed.

    Args:
        network: from `tascnet.tune`, `tascnet.prune` or `tascnet.load`.
        data: the data set.
        split: `train`, `val` or `test`.
        seed: of the splits.
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`.
        threads: CPU threads; None: as torch has them.
        cache: folder of decoded samples; None: `outputs/cache`.

    Raises:
        ConfigError: there is no such split, or the network has other classes.
        DataError: the data set is missing or too small.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}", f"take {listed(SPLITS)}")
    info = info_of(network)
    with computing(device, threads) as where:
        samples = open_samples(data, info.preprocessing, seed=seed, cache=cache_folder(cache))
        if samples.class_names != info.class_names:
            raise ConfigError(
                f"the classes of the network, {listed(info.class_names)}, are not those of "
                f"{samples.dataset.name}, {listed(samples.class_names)}",
                "give the data set that the network was trained on",
            )
        placed = copy.deepcopy(network).to(where).to(memory_format=torch.channels_last)
        return evaluate_source(placed, getattr(samples, split), device=where)


def evaluate_source(
    model: nn.Module,
    source: Source,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> Evaluation:
    """Loss and accuracy of `model`, in eval mode, on the plain view of `source`; its mode is restored."""
    loss, correct, samples = 0.0, 0, len(source)
    with evaluating(model), torch.inference_mode():
        for rows in torch.split(torch.arange(samples), batch_size):
            logits = model(source.batch(rows, None).to(device, non_blocking=True)).float()
            labels = source.labels[rows].to(device)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
    return Evaluation(loss=loss / samples, accuracy=correct / samples, samples=samples)
