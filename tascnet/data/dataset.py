"""Labelled samples of one kind, and images as a network takes them."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.data.arrays import CheckedArray, DecodedWhenRead, digest_array
from tascnet.data.augment import augment, erase
from tascnet.data.copies import equal_rows
from tascnet.data.sources import AnyPreprocessing, SampleSource, has_room
from tascnet.models.preprocessing import Preprocessing, centre_crop, normalise
from tascnet.options import Images
from tascnet.run.files import digest_json

VIEWS = ("plain", "flipped")
# Images that are copied to a GPU at a time, and how many times their bytes have to be free there.
CHUNK, FREE_FACTOR = 1024, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSet:
    """Labelled samples of one kind.

    Args:
        class_names: one name for each class, in the order of the labels.
        labels: class indices, `n`, int64.
        fingerprint: see `content_fingerprint`.
        digests: one for each row, equal for equal samples: images of the same pixels at full size, texts of
            the same words. They do not depend on the network.
        phashes: perceptual hash of each row, 64 bits, or None for a row that has none; empty: none has.
        origin: who published the samples and where, or their folder.
        licence: the terms under which they may be used.
        parts: the split of each row, "train", "val" or "test"; empty: splits are drawn.
        skipped: relative paths of files that could not be read and were left out.
        passed_over: files of no known image format, by ending.
    """

    kind: ClassVar[str] = "images"

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    fingerprint: str
    digests: tuple[str, ...]
    phashes: tuple[int | None, ...] = ()
    origin: str = ""
    licence: str = ""
    parts: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        """Some rows as a network takes them; images that are read with a generator are augmented."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """A row in words, such as "sample 3 of `test`"."""
        if not self.parts:
            return f"sample {row}"
        return f"sample {row - self.parts.index(self.parts[row])} of `{self.parts[row]}`"

    def prepare(
        self, preprocessing: AnyPreprocessing, train: NDArray[np.int64], *, grow: bool
    ) -> AnyPreprocessing:
        """The preprocessing of a network; with `grow` the words of the rows in `train` are added."""
        return preprocessing


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(SampleSet):
    """Labelled images, decoded once to squares of the side that the network's preprocessing asks for.

    Args:
        pixels: `n x R x R x c`, uint8; often in a file, or decoded when they are read.
        folder: what `paths` are relative to; None: the images are not in files of their own.
        paths: the file of each row.
    """

    pixels: NDArray[np.uint8] | CheckedArray | DecodedWhenRead
    folder: Path | None = None
    paths: tuple[str, ...] = ()

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        return ImageSource(self, rows, preprocessing, augmentation)

    def place(self, row: int) -> str:
        return self.paths[row] if self.paths else super().place(row)


class ImageSource(SampleSource):
    """Normalised images of some rows of a data set.

    Args:
        augmentation: options `flip`, `min_scale`, `pad`, `randaugment` and `erasing` for batches that are
            read with a generator; None: images are not augmented.
    """

    preprocessing: Preprocessing

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
        self._device: torch.device | None = None
        self._kept: Tensor | None = None
        self._is_tried = False
        self._on: dict[torch.device, Self] = {}

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images `b x c x size x size`, float32, channels_last: plain without a generator, else augmented."""
        if generator is None or self.augmentation is None:
            return self.batch_view(rows, "plain")
        crops = augment(self._read(rows), self.size, self.augmentation, generator)
        images = normalise(crops, self.preprocessing)
        if self.augmentation.erasing:
            erase(images, self.augmentation.erasing, generator)
        return images

    def batch_view(self, rows: Tensor, view: str) -> Tensor:
        """Images under one fixed transform of `VIEWS`, `b x c x size x size`, float32, channels_last."""
        if view not in VIEWS:
            raise ValueError(f"view is {view!r}, expected one of {', '.join(VIEWS)}")
        crops = centre_crop(self._read(rows), self.size)
        return normalise(crops.flip(2) if view == "flipped" else crops, self.preprocessing)

    def on(self, device: torch.device | str) -> Self:
        """The same source, whose images are augmented and normalised on a device.

        From the first batch on its pixels are kept there if the device is a GPU and they take at most an
        eighth of its free memory; the images do not depend on that. Further calls return the same source.
        """
        device = torch.device(device)
        if device == self._device:
            return self
        if device not in self._on:
            self._on[device] = copy.copy(self)
            self._on[device]._device = device
        return self._on[device]

    def __getstate__(self) -> dict[str, Any]:
        # What is on a device is neither copied nor sent to other processes.
        return {**vars(self), "_device": None, "_kept": None, "_is_tried": False, "_on": {}}

    def _read(self, rows: Tensor) -> Tensor:
        """Pixels `b x R x R x c`, uint8, a copy, on the device of this source."""
        if self._device is None:
            return self._from_file(rows)
        if not self._is_tried:
            self._kept, self._is_tried = self._copied(self._device), True
        if self._kept is not None:
            return self._kept[rows.to(self._device, non_blocking=True)]
        return self._from_file(rows).to(self._device, non_blocking=True)

    def _from_file(self, rows: Tensor) -> Tensor:
        # Indexing by an array copies, so that torch never sees the read-only memory map.
        return torch.from_numpy(np.asarray(self.pixels[self.rows[rows.cpu().numpy()]]))

    def _copied(self, device: torch.device) -> Tensor | None:
        """All pixels on a device, `n x R x R x c`; None where they would take too much of its memory."""
        if not has_room(device, FREE_FACTOR * len(self) * math.prod(self.pixels.shape[1:])):
            return None
        try:
            pixels = torch.empty(len(self), *self.pixels.shape[1:], dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            # Another process was faster.
            return None
        for rows in torch.arange(len(self)).split(CHUNK):
            pixels[rows[0] : rows[-1] + 1] = self._from_file(rows)
        return pixels


def content_fingerprint(
    class_names: Sequence[str],
    labels: NDArray[np.int64],
    content_digest: str,
    digests: Sequence[str],
    parts: Sequence[str] = (),
) -> str:
    """A digest of what a network sees and of what splits depend on; it does not change when files move.

    Args:
        content_digest: of what the network sees.
        digests: of the samples; which of them are equal counts, if any are.
        parts: the split of each row; they count if there are any.
    """
    given: list[Any] = [list(parts)] if parts else []
    copies = equal_rows(digests)
    if copies:
        given.append({"copies": copies})
    return digest_json([list(class_names), digest_array(labels), content_digest, *given])
