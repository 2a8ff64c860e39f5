"""How good a network is on a set of samples."""

import logging
import time
import unicodedata
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data.dataset import SampleSet
from tascnet.data.samples import load_samples, split_samples
from tascnet.data.sources import SampleSource, Source
from tascnet.errors import ConfigError, closest, listed
from tascnet.exporting.models import OpenedModel, fitting, open_model
from tascnet.measure.machine import describe_device, versions
from tascnet.models.inspect import evaluating
from tascnet.options import METRICS, Data
from tascnet.run.console import track
from tascnet.run.folder import cache_folder
from tascnet.run.records import EvaluateMetrics
from tascnet.train.classes import class_metrics, confusion
from tascnet.train.setting import computing

log = logging.getLogger("tascnet")

SPLITS = ("train", "val", "test", "all")
# As Guo et al. 2017 (arXiv 1706.04599) count the expected calibration error.
CALIBRATION_BINS = 15
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
        probabilities: of these classes, `samples`.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    top5_accuracy: float | None
    samples: int
    predictions: Tensor = field(repr=False, compare=False)
    probabilities: Tensor | None = field(default=None, repr=False, compare=False)


def evaluate(
    model: nn.Sequential | str | PathLike[str],
    data: Data,
    *,
    split: str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    cache: str | Path | None = None,
    cache_limit_gb: float | None = None,
) -> EvaluateMetrics:
    """How good a model is on labelled samples; the model is not changed.

    Classes of the model and of the data set are matched by their names. Samples of classes that the model
    lacks are counted, and are in no other figure.

    Args:
        model: a network of tascnet, the folder of a saved one, or an exported .onnx.
        data: the data set.
        split: `train`, `val`, `test` or `all`; None: the test split of the data set that the model was
            trained on, all samples of another one.
        seed: of the splits.
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`; an exported file runs on the CPU.
        threads: CPU threads; None: as torch has them.
        cache: folder of decoded samples; None: `outputs/cache`.
        cache_limit_gb: gigabytes that decoded images may take in it; None: no limit.

    Raises:
        ConfigError: there is no such split, no class is in both, or the test split of the data set that the
            model was trained on is drawn in another way than it was.
        ArchiveError, ExportError: the folder or the file is no model of tascnet.
        DataError: the data set is missing, or too small for splits.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}", f"take {listed(SPLITS)}")
    started, folder = time.perf_counter(), cache_folder(cache)
    opened = open_model(model, threads=threads, device=device)
    with computing(str(opened.device), threads) as where:
        dataset, rows, read = _chosen(opened, data, split, seed, folder, cache_limit_gb)
        indices, only_in_model, only_in_data = _matched(opened, dataset, rows)
        is_known = indices >= 0
        samples = dataset.take(rows[is_known], opened.preprocessing)
        fitted = fitting(opened, samples, extra_channels=getattr(data, "extra_channels", "refuse"))
        labelled = _Renamed(fitted, torch.from_numpy(indices[is_known]), len(opened.class_names))
        found = evaluate_source(opened, labelled, batch_size=opened.batch_size, shown="evaluate")
        return EvaluateMetrics(
            model="" if isinstance(model, nn.Module) else str(model),
            dataset=dataset.name,
            origin=dataset.origin,
            split=read,
            seed=seed,
            samples=found.samples,
            **_figures(opened.class_names, labelled.labels, found),
            only_in_model=only_in_model,
            only_in_data=only_in_data,
            skipped=len(dataset.skipped),
            machine=describe_device(where),
            seconds=time.perf_counter() - started,
            versions=versions(),
        )


def _chosen(
    model: OpenedModel, data: Data, split: str | None, seed: int, cache: Path, limit_gb: float | None
) -> tuple[SampleSet, Any, str]:
    """A data set, the rows of it that are read, and the name of that split."""
    places: dict[str, Any] = {"cache": cache, "cache_limit_gb": limit_gb}
    dataset = load_samples(data, model.preprocessing, **places)
    is_own = model.held_out is not None and model.held_out.partition("-")[0] == dataset.fingerprint
    if split == "all" or (split is None and not is_own):
        if is_own:
            log.warning("all samples of %s are read, those that the model was trained on too", dataset.name)
        elif split is None:
            log.info(
                "all samples of %s are read; a part of the model's own data would hold some of its training",
                dataset.name,
            )
        dataset.prepare(model.preprocessing, np.empty(0, dtype=np.int64), grow=False)
        return dataset, np.arange(len(dataset)), "all"
    samples = split_samples(dataset, data, model.preprocessing, seed=seed, **places)
    chosen = split or "test"
    if is_own and samples.held_out != model.held_out:
        message = "the model was trained on another split of the data and may have seen these samples"
        hint = "give the sizes of its splits (`train`, `val`) and the seed that it was trained with"
        if split is None:
            raise ConfigError(message, f"{hint}, or `split=all`")
        log.warning("%s: %s", message, hint)
    if chosen != "train" and not is_own and model.held_out is not None:
        log.warning(
            "%s is not exactly the data that the model was trained on: if the two share samples, it may have "
            "seen some of these, and their accuracy may be too high",
            dataset.name,
        )
    if chosen == "train" and is_own:
        log.warning("the model was trained on these samples of %s", dataset.name)
    return samples.dataset, getattr(samples, chosen).rows, chosen


def _matched(
    model: OpenedModel, dataset: SampleSet, rows: Any
) -> tuple[Any, tuple[str, ...], dict[str, int]]:
    """The model's index of the class of each row, -1 where it lacks that; classes of one side alone.

    Raises:
        ConfigError: no class is in both.
    """
    index = {name: place for place, name in enumerate(model.class_names)}
    # Names of folders have their accents apart where macOS has written them.
    alike = {unicodedata.normalize("NFC", name): place for name, place in index.items()}
    names = dataset.class_names
    places = [index.get(name, alike.get(unicodedata.normalize("NFC", name), -1)) for name in names]
    indices = np.array(places, dtype=np.int64)
    labels = dataset.labels[rows]
    counts = np.bincount(labels, minlength=len(dataset.class_names)).tolist()
    found = set(places)
    lacking = tuple(name for name, place in index.items() if place not in found)
    unknown = {name: n for name, n, at in zip(dataset.class_names, counts, indices, strict=True) if at < 0}
    if not (indices[labels] >= 0).any():
        raise ConfigError(
            f"no sample of {dataset.name} is of a class of the model, {shortened(model.class_names)}; its "
            f"classes are {shortened(dataset.class_names)}",
            "give data with classes of the same names",
        )
    if lacking:
        log.warning("%s lacks %s of the model: %s", dataset.name, _classes(lacking), shortened(lacking))
    if unknown:
        log.warning(
            "the model lacks %s of %s: %s; %s in no accuracy",
            *(_classes(unknown), dataset.name, shortened(unknown)),
            "their only sample is"
            if sum(unknown.values()) == 1
            else f"their {sum(unknown.values())} samples are",
        )
    return indices[labels], lacking, unknown


def _classes(names: Any) -> str:
    return "1 class" if len(names) == 1 else f"{len(names)} classes"


def shortened(names: Any, most: int = 10) -> str:
    """Some names, and how many more there are."""
    shown = list(names)[:most]
    return (
        listed(shown, "and")
        if len(shown) == len(names)
        else f"{', '.join(shown)} and {len(names) - most} more"
    )


class _Renamed:
    """Samples with labels of other numbers."""

    def __init__(self, samples: SampleSource, labels: Tensor, num_classes: int) -> None:
        self.samples, self.labels, self.num_classes = samples, labels, num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.samples.batch(rows, generator)


def _figures(names: tuple[str, ...], labels: Tensor, found: Evaluation) -> dict[str, Any]:
    assert found.probabilities is not None
    return {
        "loss": found.loss,
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "top5_accuracy": found.top5_accuracy,
        "calibration_error": calibration_error(found.probabilities, found.predictions == labels),
        "mean_probability": float(found.probabilities.double().mean()),
        "classes": class_metrics(names, labels, found.predictions),
        "confusion": confusion(labels, found.predictions),
    }


def evaluate_source(
    model: Callable[[Any], Tensor],
    source: Source,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    shown: str | None = None,
) -> Evaluation:
    """Loss and accuracy on the plain view of `source`.

    Args:
        model: from inputs of `b` samples to logits `b x C`; a module is in eval mode meanwhile.
        source: the samples.
        device: of the inputs, where the model takes tensors.
        batch_size: samples that run together.
        shown: what the progress is called; None: it is not shown.
    """
    loss, among_five, samples, classes = 0.0, 0, len(source), 0
    found: list[Tensor] = []
    shares: list[Tensor] = []
    batches = torch.split(torch.arange(samples), batch_size)
    mode = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
    with mode, torch.inference_mode():
        for rows in batches if shown is None else track(batches, shown):
            inputs = source.batch(rows, None)
            if isinstance(inputs, Tensor):
                inputs = inputs.to(device, non_blocking=True)
            logits = model(inputs).float()
            labels, classes = source.labels[rows].to(logits.device), logits.shape[1]
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            best = logits.softmax(1).max(1)
            found.append(logits.argmax(1))
            shares.append(best.values)
            if classes >= TOP5_CLASSES:
                among_five += int((logits.topk(5).indices == labels[:, None]).sum())
    predictions = torch.cat(found).cpu()
    return Evaluation(
        loss=loss / samples,
        **accuracies(source.labels, predictions),
        top5_accuracy=among_five / samples if classes >= TOP5_CLASSES else None,
        samples=samples,
        predictions=predictions,
        probabilities=torch.cat(shares).cpu(),
    )


def calibration_error(probabilities: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: the mean gap between probability and share of correct predictions.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equations 2, 3 and 5.

    Args:
        probabilities: of the predicted classes, `samples`, in [0, 1].
        correct: whether each prediction is, `samples`.
        bins: of equal width; the bin `m` of `M` is `((m - 1) / M, m / M]`.
    """
    shares, right = probabilities.double(), correct.double()
    places = (shares * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, right - shares)
    return float(gaps.abs().sum() / len(shares))


def check_metric(metric: str) -> None:
    """Raise unless there is such a metric.

    Raises:
        ConfigError: there is not.
    """
    if metric not in METRICS:
        likely = closest(str(metric), METRICS)
        hint = f"did you mean `metric={likely}`?" if likely else f"it takes {listed(METRICS)}"
        raise ConfigError(f"`metric` has no choice {metric!r}", hint)


def accuracies(labels: Tensor, predictions: Tensor) -> dict[str, float]:
    """Every metric by its name, for `labels` and `predictions`, both `samples`."""
    return {
        "accuracy": int((predictions == labels).sum()) / len(labels),
        "balanced_accuracy": balanced_accuracy(labels, predictions),
    }


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
