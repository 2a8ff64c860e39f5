"""How good a network is on a set of samples."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data.samples import open_samples
from tascnet.data.sources import Source
from tascnet.errors import ConfigError, closest, listed
from tascnet.models.info import info_of
from tascnet.models.inspect import evaluating
from tascnet.options import METRICS, Data
from tascnet.run.folder import cache_folder
from tascnet.train.setting import computing

SPLITS = ("train", "val", "test")
# With fewer classes top-5 accuracy means little.
TOP5_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and accuracy over some samples; accuracies are in [0, 1].

    Args:
        loss: mean cross-entropy, without class weights and smoothing.
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall of the classes; one without samples does not count.
        top5_accuracy: share of samples whose class is among the five likeliest; None below ten classes.
        samples: how many.
        predictions: the likeliest class of each sample, `samples`.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    top5_accuracy: float | None
    samples: int
    predictions: Tensor = field(repr=False, compare=False)


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
    loss, among_five, samples, classes = 0.0, 0, len(source), 0
    found: list[Tensor] = []
    with evaluating(model), torch.inference_mode():
        for rows in torch.split(torch.arange(samples), batch_size):
            logits = model(source.batch(rows, None).to(device, non_blocking=True)).float()
            labels, classes = source.labels[rows].to(device), logits.shape[1]
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            found.append(logits.argmax(1))
            if classes >= TOP5_CLASSES:
                among_five += int((logits.topk(5).indices == labels[:, None]).sum())
    predictions = torch.cat(found).cpu()
    return Evaluation(
        loss=loss / samples,
        accuracy=int((predictions == source.labels).sum()) / samples,
        balanced_accuracy=balanced_accuracy(source.labels, predictions),
        top5_accuracy=among_five / samples if classes >= TOP5_CLASSES else None,
        samples=samples,
        predictions=predictions,
    )


def check_metric(metric: str) -> None:
    """Raise unless there is such a metric.

    Raises:
        ConfigError: there is not.
    """
    if metric not in METRICS:
        likely = closest(str(metric), METRICS)
        hint = f"did you mean `metric={likely}`?" if likely else f"it takes {listed(METRICS)}"
        raise ConfigError(f"`metric` has no choice {metric!r}", hint)


def balanced_accuracy(labels: Tensor, predictions: Tensor) -> float:
    """The mean recall of the classes that occur among `labels`, both `samples`."""
    counts = torch.bincount(labels)
    correct = torch.bincount(labels[predictions == labels], minlength=len(counts))
    present = counts > 0
    return float((correct[present].double() / counts[present]).mean())


def effective_samples(labels: Tensor, metric: str) -> float:
    """The number of samples `n` for which `sqrt(p (1 - p) / n)` is the standard error of a metric `p`.

    The variance of the mean of `C` recalls `p_c`, each of `n_c` samples, is `sum(p_c (1 - p_c) / n_c) / C^2`.
    Of a trial only the mean `p` is known. With it in place of each `p_c`, `n` is `C^2 / sum(1 / n_c)`: all
    samples where classes are of one size, and few where one class is rare.
    """
    if metric == "accuracy":
        return len(labels)
    counts = torch.bincount(labels)
    counts = counts[counts > 0].double()
    return float(len(counts) ** 2 / (1 / counts).sum())
