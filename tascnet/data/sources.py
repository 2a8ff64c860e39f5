"""Where training reads its batches from: images, texts, or the cached features of a frozen trunk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.data.augment import Augmentation, augment, centre_crop
from tascnet.data.dataset import Dataset
from tascnet.data.text import TextDataset
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing

# Fixed transforms under which features can be cached.
VIEWS = ("plain", "flipped")


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
    """Labels of samples, and of how many classes they are."""

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self._labels = labels
        self._num_classes = num_classes

    @property
    def labels(self) -> Tensor:
        """Class indices, `n`, int64."""
        return self._labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes


class _Rows(_Labelled):
    """Some rows of a data set and their labels."""

    def __init__(self, dataset: Dataset | TextDataset, rows: NDArray[np.int64]) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        labels = torch.from_numpy(dataset.labels[self.rows].astype(np.int64))
        super().__init__(labels, len(dataset.class_names))

    def __len__(self) -> int:
        return len(self.rows)


class ImageSource(_Rows):
    """Normalised images of some rows of a data set.

    Args:
        dataset: decoded images.
        rows: rows of the data set, `n`.
        preprocessing: size of the crops, mean and deviation of each channel in [0, 1].
        augmentation: what happens when a batch is read with a generator; None: nothing.

    Raises:
        DataError: if the pixels were decoded for another preprocessing.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: NDArray[np.int64],
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
    ) -> None:
        _check_pixels(dataset, preprocessing)
        super().__init__(dataset, rows)
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        # Repeated along a row of pixels, so that whole rows are computed at once.
        self._scale = (1 / (255 * std)).float().repeat(preprocessing.size)
        self._shift = (-mean / std).float().repeat(preprocessing.size)

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images `b x c x size x size`, float32, channels_last: plain without a generator, else augmented."""
        if generator is None or self.augmentation is None:
            return self.batch_view(rows, "plain")
        return self._normalise(
            augment(self._pixels(rows), self.preprocessing.size, self.augmentation, generator)
        )

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Images under one fixed transform of `VIEWS`, `b x c x size x size`, float32, channels_last."""
        if view not in VIEWS:
            raise ValueError(f"view is {view!r}, expected one of {', '.join(VIEWS)}")
        crops = centre_crop(self._pixels(rows), self.preprocessing.size)
        return self._normalise(crops.flip(2) if view == "flipped" else crops)

    def _pixels(self, rows: Tensor) -> Tensor:
        # Indexing by an array copies, so that torch never sees the read-only memory map.
        return torch.from_numpy(np.asarray(self.dataset.pixels[self.rows[rows.cpu().numpy()]]))

    def _normalise(self, crops: Tensor) -> Tensor:
        """Takes `b x size x size x c`, uint8."""
        count, side, _, channels = crops.shape
        rows = crops.float().reshape(count, side, side * channels)
        torch.addcmul(self._shift, rows, self._scale, out=rows)
        scaled = rows.view(count, side, side, channels).permute(0, 3, 1, 2)
        return scaled.contiguous(memory_format=torch.channels_last)


class TokenSource(_Rows):
    """Texts of some rows of a data set as the numbers of their words.

    Args:
        dataset: raw texts.
        rows: rows of the data set, `n`.
        preprocessing: number of tokens `T` and vocabulary.
    """

    def __init__(
        self, dataset: TextDataset, rows: NDArray[np.int64], preprocessing: TextPreprocessing
    ) -> None:
        super().__init__(dataset, rows)
        self.dataset = dataset
        self.preprocessing = preprocessing
        self._tokens = preprocessing.encode([dataset.texts[row] for row in self.rows])

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Numbers of words `b x T`, int64; texts are not augmented."""
        return self.batch_view(rows, "plain")

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Numbers of words `b x T`, int64; the view is `plain`."""
        if view != "plain":
            raise ValueError(f"view is {view!r}, but texts have the view plain alone")
        return self._tokens[rows.cpu()]


# Samples of a data set, as a network takes them.
SampleSource: TypeAlias = ImageSource | TokenSource


def source_of(
    dataset: Dataset | TextDataset,
    rows: NDArray[np.int64],
    preprocessing: Preprocessing | TextPreprocessing,
    augmentation: Augmentation | None = None,
) -> SampleSource:
    """Some rows of a data set, plain or, where they are images, augmented.

    Raises:
        DataError: images come with the preprocessing of texts, or texts with that of images.
    """
    if isinstance(dataset, TextDataset) and isinstance(preprocessing, TextPreprocessing):
        return TokenSource(dataset, rows, preprocessing)
    if isinstance(dataset, Dataset) and isinstance(preprocessing, Preprocessing):
        return ImageSource(dataset, rows, preprocessing, augmentation)
    kind, other = ("texts", "images") if isinstance(dataset, TextDataset) else ("images", "texts")
    raise DataError(
        f"{dataset.name} holds {kind}, but the network takes {other}", "give a network for this data set"
    )


class FeatureSource(_Labelled):
    """Cached features under one or more views of the same samples.

    Args:
        views: features of each view, `n x ...`, of any float type; "plain" is among them.
        labels: class indices, `n`.
        num_classes: number of classes.

    Raises:
        DataError: if "plain" is missing or a view has another number of samples than the labels.
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
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's features."""
        return tuple(self.views["plain"].shape[1:])

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that views are mapped from; none for views in memory."""
        mapped = (features for features in self.views.values() if isinstance(features, np.memmap))
        return tuple(Path(features.filename) for features in mapped if features.filename is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all views together."""
        return sum(features.nbytes for features in self.views.values())

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `b x ...`, float32: plain without a generator, else each sample picks one of the views."""
        if generator is None or len(self.views) == 1:
            return _as_input(_take(self.views["plain"], rows))
        picks = torch.randint(len(self.views), (len(rows),), generator=generator)
        mixed = _as_input(_take(self.views["plain"], rows))
        for index, (view, features) in enumerate(self.views.items()):
            chosen = (picks == index).nonzero().flatten()
            if view != "plain" and len(chosen):
                mixed[chosen.to(mixed.device)] = _take(features, rows.cpu()[chosen]).float()
        return mixed

    def resident(self, device: torch.device | str) -> "FeatureSource":
        """The same source, its features on a CUDA device if they take at most half of its free memory."""
        target = torch.device(device)
        if target.type != "cuda" or self.nbytes > torch.cuda.mem_get_info(target)[0] // 2:
            return self
        loaded = {view: _whole(features).to(target) for view, features in self.views.items()}
        return FeatureSource(loaded, self._labels, self._num_classes)


def _check_pixels(dataset: Dataset, preprocessing: Preprocessing) -> None:
    side, channels = preprocessing.resize, preprocessing.channels
    expected = (side, side, channels)
    if dataset.pixels.shape[1:] != expected:
        came = " x ".join(map(str, dataset.pixels.shape[1:]))
        raise DataError(
            f"the images of {dataset.name} are {came}, expected {side} x {side} x {channels}",
            "decode them with the preprocessing of this backbone",
        )


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
