"""Where training reads its batches from: samples of a data set, or the cached features of a frozen trunk."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.errors import DataError
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing

if TYPE_CHECKING:
    from tascnet.data.dataset import SampleSet
    from tascnet.options import Images

# What a network expects of an image or of a text.
AnyPreprocessing: TypeAlias = Preprocessing | TextPreprocessing


class Source(Protocol):
    """Samples that can be read in batches; `rows` are positions in the source."""

    @property
    def labels(self) -> Tensor:
        """Class indices, `n`, int64, on the CPU."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Inputs of the rows: plain without a generator, else augmented by it."""


class _Labelled:
    """Labels of samples, and the number of classes."""

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.labels = labels
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.labels)


class SampleSource(_Labelled):
    """Some rows of a data set, as a network takes them.

    Args:
        dataset: the samples.
        rows: rows of the data set, `n`.
        preprocessing: what the network expects of a sample.
    """

    # Fixed transforms under which features can be cached for training.
    views: tuple[str, ...] = ("plain",)

    def __init__(
        self, dataset: "SampleSet", rows: NDArray[np.int64], preprocessing: AnyPreprocessing
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.dataset: SampleSet = dataset
        self.preprocessing: AnyPreprocessing = preprocessing
        labels = torch.from_numpy(dataset.labels[self.rows].astype(np.int64))
        super().__init__(labels, len(dataset.class_names))

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Inputs `b x ...`: plain without a generator, else augmented where samples of this kind are."""
        return self.batch_view(rows, "plain")

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Inputs `b x ...` under one fixed transform."""
        raise NotImplementedError


def source_of(
    dataset: "SampleSet",
    rows: NDArray[np.int64],
    preprocessing: AnyPreprocessing,
    augmentation: "Images | None" = None,
) -> SampleSource:
    """Some rows of a data set, plain or, where they are images, augmented.

    Raises:
        DataError: images come with the preprocessing of texts, or texts with that of images.
    """
    return dataset.take(rows, preprocessing, augmentation)


class FeatureSource(_Labelled):
    """Cached features under one or more views of the same samples.

    Args:
        views: features of each view, `n x ...`, of any float type; "plain" is among them.
        labels: class indices, `n`.
        num_classes: number of classes.

    Raises:
        DataError: "plain" is missing, or a view has another number of samples than the labels.
    """

    def __init__(
        self, views: Mapping[str, NDArray[np.floating] | Tensor], labels: Tensor, num_classes: int
    ) -> None:
        if "plain" not in views:
            raise DataError(f"the views are {sorted(views)}, expected 'plain' among them")
        for view, features in views.items():
            if len(features) != len(labels):
                raise DataError(
                    f"view {view!r} has {len(features)} samples, expected {len(labels)} as the labels"
                )
        super().__init__(labels, num_classes)
        self.views = dict(views)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that views are mapped from; none for views in memory."""
        mapped = (features for features in self.views.values() if isinstance(features, np.memmap))
        return tuple(Path(features.filename) for features in mapped if features.filename is not None)

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `b x ...`, float32: plain without a generator, else each sample picks one of the views."""
        mixed = _as_input(_take(self.views["plain"], rows))
        if generator is None or len(self.views) == 1:
            return mixed
        picks = torch.randint(len(self.views), (len(rows),), generator=generator)
        for index, (view, features) in enumerate(self.views.items()):
            chosen = (picks == index).nonzero().flatten()
            if view != "plain" and len(chosen):
                mixed[chosen.to(mixed.device)] = _take(features, rows.cpu()[chosen]).float()
        return mixed

    def resident(self, device: torch.device | str) -> "FeatureSource":
        """The same source, its features on a CUDA device if they take at most half of its free memory."""
        target = torch.device(device)
        size = sum(features.nbytes for features in self.views.values())
        if target.type != "cuda" or size > torch.cuda.mem_get_info(target)[0] // 2:
            return self
        loaded = {view: _whole(features).to(target) for view, features in self.views.items()}
        return FeatureSource(loaded, self.labels, self.num_classes)


def _take(features: NDArray[np.floating] | Tensor, rows: Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features[rows.to(features.device)]
    # Indexing by an array copies, so that torch never sees the read-only memory map.
    return torch.from_numpy(np.asarray(features[rows.cpu().numpy()]))


def _whole(features: NDArray[np.floating] | Tensor) -> Tensor:
    return features if isinstance(features, Tensor) else torch.from_numpy(np.array(features))


def _as_input(features: Tensor) -> Tensor:
    if features.dim() == 4:
        return features.to(torch.float32, memory_format=torch.channels_last)
    return features.float()


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """`count` different positions among `total`, or all, evenly spaced: where samples are sorted by class, of
    all classes.
    """
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def class_weights(labels: NDArray[np.int64] | Tensor, num_classes: int) -> Tensor:
    """Weights inverse to the classes' frequencies, with mean 1.

    Args:
        labels: class indices of the training samples, `n`.
        num_classes: number of classes `C`.

    Returns:
        `C`, float32.

    Raises:
        DataError: a class has no sample.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).double()
    if (counts == 0).any():
        empty = int((counts == 0).nonzero()[0])
        raise DataError(f"class {empty} has no training sample, expected at least one", "draw another split")
    weights = counts.sum() / counts
    return (weights / weights.mean()).float()
