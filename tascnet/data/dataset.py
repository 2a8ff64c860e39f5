"""Labelled samples of one kind, and images as a network takes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.data.arrays import DecodedWhenRead, digest_array
from tascnet.data.augment import augment, centre_crop
from tascnet.data.sources import AnyPreprocessing, SampleSource
from tascnet.models.info import Preprocessing
from tascnet.options import Images
from tascnet.run.files import digest_json

VIEWS = ("plain", "flipped")


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSet:
    """Labelled samples of one kind.

    Args:
        class_names: one name for each class, in the order of the labels.
        labels: class indices, `n`, int64.
        fingerprint: digest of class names, labels and content, and of `parts` where there are any.
        origin: who published the samples and where, or their folder.
        licence: the terms under which they may be used.
        parts: the split of each row, "train", "val" or "test"; empty: splits are drawn.
        skipped: relative paths of files that could not be read and were left out.
    """

    kind: ClassVar[str] = "images"

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    fingerprint: str
    origin: str = ""
    licence: str = ""
    parts: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        """Some rows as a network takes them; images that are read with a generator are augmented."""
        raise NotImplementedError

    def digests(self, rows: Iterable[int]) -> list[str]:
        """A digest of each sample, equal for samples that a network cannot distinguish."""
        raise NotImplementedError

    def prepare(
        self, preprocessing: AnyPreprocessing, train: NDArray[np.int64], *, grow: bool
    ) -> AnyPreprocessing:
        """The preprocessing of a network; with `grow` the words of the rows in `train` are added."""
        return preprocessing


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(SampleSet):
    """Labelled images, decoded once to squares of the side that the network's preprocessing asks for.

    Args:
        pixels: `n x R x R x c`, uint8; often a read-only memory map, or decoded when they are read.
        folder: what `paths` are relative to; None: the images are not in files of their own.
        paths: the file of each row.
    """

    pixels: NDArray[np.uint8] | DecodedWhenRead
    folder: Path | None = None
    paths: tuple[str, ...] = ()

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        return ImageSource(self, rows, preprocessing, augmentation)

    def digests(self, rows: Iterable[int]) -> list[str]:
        return [digest_array(self.pixels[row]) for row in rows]


class ImageSource(SampleSource):
    """Normalised images of some rows of a data set.

    Args:
        augmentation: options `flip`, `min_scale` and `pad` for batches that are read with a generator; None:
            images are not augmented.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: NDArray[np.int64],
        preprocessing: Preprocessing,
        augmentation: Images | None = None,
    ) -> None:
        super().__init__(dataset, rows, preprocessing)
        self.pixels, self.size, self.augmentation = dataset.pixels, preprocessing.size, augmentation
        self.views = VIEWS if augmentation is not None and augmentation.flip else VIEWS[:1]
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        # Repeated along a row of pixels, so that whole rows are computed at once.
        self._scale = (1 / (255 * std)).float().repeat(self.size)
        self._shift = (-mean / std).float().repeat(self.size)

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images `b x c x size x size`, float32, channels_last: plain without a generator, else augmented."""
        if generator is None or self.augmentation is None:
            return self.batch_view(rows, "plain")
        return self._normalise(augment(self._read(rows), self.size, self.augmentation, generator))

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Images under one fixed transform of `VIEWS`, `b x c x size x size`, float32, channels_last."""
        if view not in VIEWS:
            raise ValueError(f"view is {view!r}, expected one of {', '.join(VIEWS)}")
        crops = centre_crop(self._read(rows), self.size)
        return self._normalise(crops.flip(2) if view == "flipped" else crops)

    def _read(self, rows: Tensor) -> Tensor:
        # Indexing by an array copies, so that torch never sees the read-only memory map.
        return torch.from_numpy(np.asarray(self.pixels[self.rows[rows.cpu().numpy()]]))

    def _normalise(self, crops: Tensor) -> Tensor:
        """Takes `b x size x size x c`, uint8."""
        count, side, _, channels = crops.shape
        rows = crops.float().reshape(count, side, side * channels)
        torch.addcmul(self._shift, rows, self._scale, out=rows)
        scaled = rows.view(count, side, side, channels).permute(0, 3, 1, 2)
        return scaled.contiguous(memory_format=torch.channels_last)


def content_fingerprint(
    class_names: Sequence[str], labels: NDArray[np.int64], content_digest: str, parts: Sequence[str] = ()
) -> str:
    """A digest of what a network sees and of ready splits; it does not change when files move."""
    given = [list(parts)] if parts else []
    return digest_json([list(class_names), digest_array(labels), content_digest, *given])
