"""What training reads its batches from: samples of a data set, or the cached features of a frozen trunk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.data.arrays import CheckedArray
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing

if TYPE_CHECKING:
    from tascnet.data.dataset import SampleSet

# What a network expects of an image or of a text.
AnyPreprocessing: TypeAlias = Preprocessing | TextPreprocessing


class Source(Protocol):
    """Samples that can be read in batches; `rows` are positions in the source."""

    @property
    def labels(self) -> Tensor:
        """Class indices, `n`, int64, on the CPU."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Inputs of the rows: plain without a generator, else augmented by it."""


class _Labelled:
    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.labels, self.num_classes = labels, num_classes

    def __len__(self) -> int:
        return len(self.labels)


class SampleSource(_Labelled):
    """Some rows `n` of a data set, as a network takes them."""

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
        """Inputs `b x ...`: plain without a generator, else augmented if they are images."""
        return self.batch_view(rows, "plain")

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Inputs `b x ...` under one fixed transform."""
        raise NotImplementedError

    def on(self, device: torch.device | str) -> Self:
        """The same source, whose inputs are prepared on a device if that is worthwhile."""
        return self


class PlainSource(SampleSource):
    """Some rows without augmentation; `read` returns their inputs `b x ...` by positions in the source."""

    def __init__(
        self,
        dataset: "SampleSet",
        rows: NDArray[np.int64],
        preprocessing: AnyPreprocessing,
        read: Callable[[NDArray[np.int64]], Tensor],
    ) -> None:
        super().__init__(dataset, rows, preprocessing)
        self._read = read

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        if view != "plain":
            raise ValueError(f"view is {view!r}, but {self.dataset.name} has only the view plain")
        return self._read(rows.cpu().numpy())


class FeatureSource(_Labelled):
    """Cached features under one or more views of the same samples.

    Args:
        views: features of each view, `n x ...`, of any float type, in memory or in files; "plain" is among
            them.
        labels: class indices, `n`.
    """

    def __init__(
        self,
        views: Mapping[str, CheckedArray | NDArray[np.floating] | Tensor],
        labels: Tensor,
        num_classes: int,
    ) -> None:
        super().__init__(labels, num_classes)
        self.views = dict(views)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of views; none for views in memory."""
        return tuple(view.path for view in self.views.values() if isinstance(view, CheckedArray))

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `b x ...`, float32: plain without a generator, else each sample picks one of the views."""
        return self.take(rows, self.picks(rows, generator))

    def picks(self, rows: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Which view each sample takes, `b`, as the generator draws it; None: all are plain."""
        if generator is None or len(self.views) == 1:
            return None
        return torch.randint(len(self.views), (len(rows),), generator=generator)

    def take(self, rows: Tensor, picks: Tensor | None) -> Tensor:
        """Features `b x ...`, float32, of the views that `picks` chose."""
        plain = _take(self.views["plain"], rows)
        memory_format = torch.channels_last if plain.dim() == 4 else torch.preserve_format
        mixed = plain.to(torch.float32, memory_format=memory_format)
        if picks is None:
            return mixed
        for index, (view, features) in enumerate(self.views.items()):
            chosen = (picks == index).nonzero().flatten()
            if view != "plain" and len(chosen):
                mixed[chosen.to(mixed.device)] = _take(features, rows.cpu()[chosen]).float()
        return mixed

    def resident(self, device: torch.device | str) -> Self:
        """The same source, its features on a CUDA device if they take at most half of its free memory."""
        size = sum(features.nbytes for features in self.views.values())
        if not has_room(device, 2 * size):
            return self
        # A copy, because torch cannot take a read-only memory map.
        loaded = {
            view: torch.as_tensor(features if isinstance(features, Tensor) else features[:].copy()).to(device)
            for view, features in self.views.items()
        }
        return type(self)(loaded, self.labels, self.num_classes)


def has_room(device: torch.device | str, size: int) -> bool:
    """Whether a device is a CUDA device with so many free bytes; those that torch holds unused are free."""
    target = torch.device(device)
    if target.type != "cuda":
        return False
    kept = torch.cuda.memory_reserved(target) - torch.cuda.memory_allocated(target)
    return size <= torch.cuda.mem_get_info(target)[0] + kept


def _take(features: CheckedArray | NDArray[np.floating] | Tensor, rows: Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features[rows.to(features.device)]
    # Indexing by an array copies, so that torch never sees the read-only memory map.
    return torch.from_numpy(np.asarray(features[rows.cpu().numpy()]))


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """At most `count` evenly spaced positions among `total`: of samples sorted by class, from all classes."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def class_weights(labels: NDArray[np.int64] | Tensor, num_classes: int) -> Tensor:
    """Weights inverse to the frequencies of the classes in labels `n`: `C`, float32.

    Those of the classes that occur have the mean 1; a class that does not occur has the weight 0.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).double()
    present = counts > 0
    weights = torch.where(present, counts.sum() / counts.clamp(min=1), 0.0)
    return (weights / weights[present].mean()).float()
