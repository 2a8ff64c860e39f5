"""Torch data sets of the caller's own: every item is read and checked, and kept like images in files."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tascnet.data.arrays import (
    CheckedArray,
    ContentDigest,
    DecodedWhenRead,
    digest_row,
    discard_part,
    make_room,
    open_array,
    write_array,
)
from tascnet.data.copies import equal_rows
from tascnet.data.dataset import Dataset, SampleSet, content_fingerprint
from tascnet.data.listing import twin_images, warn_of_twins
from tascnet.data.named import TorchData
from tascnet.data.sources import PlainSource, SampleSource
from tascnet.errors import BudgetError, ConfigError, DataError, first_line
from tascnet.models.preprocessing import Preprocessing, UnreadableImage, decode_picture, picture_of
from tascnet.options import Images
from tascnet.run.console import log, track
from tascnet.run.files import digest_json

EXPECTED = "an image is a PIL image, a uint8 array H x W or H x W x C, or a float tensor C x H x W"


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDataset(SampleSet):
    """Labelled images that are a network's input as they are.

    Args:
        tensors: `n x c x size x size`, float32, in a file, or read whenever they are needed.
    """

    tensors: NDArray[np.float32] | CheckedArray | DecodedWhenRead

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        return PlainSource(self, rows, preprocessing, partial(_inputs, self.tensors, rows))


def _inputs(
    tensors: NDArray[np.float32] | CheckedArray | DecodedWhenRead,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> Tensor:
    # Indexing by an array copies, so that torch never sees the read-only memory map.
    inputs = torch.from_numpy(np.asarray(tensors[rows[positions]]))
    return inputs.contiguous(memory_format=torch.channels_last)


def load_torch(
    data: TorchData, preprocessing: Preprocessing, *, cache: Path, limit_gb: float | None = None
) -> SampleSet:
    """Read all items of torch data sets, and keep them in the cache under the digest of their content.

    Args:
        preprocessing: of images; the shape that tensors have.
        cache: pixels or tensors are kept in its folder `pixels`.
        limit_gb: gigabytes that this folder may take; None: no limit.

    Raises:
        ConfigError: an augmentation is asked for that tensors do not have.
        DataError: an item is not a pair of an image and a label, items are of different kinds, or an item
            differs when it is read twice.
    """
    items = _Items(data, preprocessing)
    labels = np.array(items.read_all(), dtype=np.int64)
    asked = next((name for name in ("randaugment", "erasing") if getattr(data, name)), None)
    if asked and items.dtype == np.float32:
        raise ConfigError(
            f"`{asked}` has no effect with tensors, which are used as they are",
            "give PIL images or uint8 arrays, or leave it out",
        )
    folder = cache / "pixels" / "datasets"
    path = folder / f"{digest_json([items.shape, str(items.dtype), items.content.digest])}.npy"

    def read(done: Sized = ()) -> Iterator[NDArray[Any]]:
        for row in track(range(len(done), len(labels)), "keep images"):
            yield items.read_again(row)[None]

    def again(_: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        return read()

    values: CheckedArray | DecodedWhenRead | None = open_array(path, len(labels), again)
    if values is None:
        try:
            size = len(labels) * int(np.prod(items.shape)) * items.dtype.itemsize
            what = f"the {len(labels)} images of {data.name}"
            make_room(folder.parent, {path: size}, limit_gb, what=what, remedy="lower `resize` and `size`")
            values = write_array(path, items.shape, items.dtype, read, again)
        except BudgetError as error:
            discard_part(path)
            log.warning("%s: they are read whenever they are needed, which is slower", error.message)
    if values is None:
        # The data sets of a caller may not be safe for threads.
        values = DecodedWhenRead(items.read_again, (len(labels), *items.shape), workers=1)
    warn_of_twins("image", data.name, twin_images(equal_rows(items.full_digests), labels, items.place))
    is_tensor, digest = items.dtype == np.float32, items.content.digest
    if is_tensor:
        digest = digest_json(["tensors", items.shape, digest])
    names = data.classes or tuple(map(str, range(max(2, int(labels.max()) + 1))))
    parts = tuple(part for part, _ in items.order)
    common: dict[str, Any] = {
        "name": data.name,
        "class_names": names,
        "labels": labels,
        "fingerprint": content_fingerprint(names, labels, digest, items.full_digests, parts),
        "digests": tuple(items.full_digests),
        "phashes": () if is_tensor else tuple(items.phashes),
        "origin": "torch data sets of the caller",
        "parts": parts,
    }
    return TensorDataset(tensors=values, **common) if is_tensor else Dataset(pixels=values, **common)


class _Item(NamedTuple):
    """A sample: what is kept of it, the digest and the perceptual hash of its image, and its label."""

    values: NDArray[Any]
    digest: str
    phash: int | None
    label: int


class _Items:
    """Reads the items of up to three data sets, one after the other.

    Attributes:
        order: split and position of each row.
        shape: of a row.
        dtype: uint8 for pixels, float32 for tensors.
        content: digest of all rows, as they were read first.
        digests: of each of them.
        full_digests: of the image of each row at full size, or of its tensor.
        phashes: perceptual hash of the image of each row.
    """

    def __init__(self, data: TorchData, preprocessing: Preprocessing) -> None:
        given = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
        self.sets: dict[str, Any] = {part: own for part, own in given.items() if own is not None}
        self.order = [(part, index) for part, own in self.sets.items() for index in range(len(own))]
        self.classes, self.preprocessing = data.classes, preprocessing
        self.extra_channels = data.extra_channels
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.uint8)
        self.content = ContentDigest()
        self.digests: list[bytes] = []
        self.full_digests: list[str] = []
        self.phashes: list[int | None] = []

    def place(self, row: int) -> str:
        """A row in words."""
        part, index = self.order[row]
        return f"sample {index} of `{part}`"

    def read_all(self) -> list[int]:
        """Read every item; returns the labels."""
        labels = []
        for row in track(range(len(self.order)), "read images"):
            item = self._read(row)
            values = item.values
            if not row:
                self.shape, self.dtype = values.shape, values.dtype
            elif (values.shape, values.dtype) != (self.shape, self.dtype):
                kinds = {"uint8": "an image", "float32": "a float tensor"}
                came, first = kinds[str(values.dtype)], kinds[str(self.dtype)]
                raise DataError(
                    f"{self.place(row)} is {came}, but {self.place(0)} is {first}",
                    "give all samples in one form",
                )
            self.content.add(values)
            self.digests.append(digest_row(values))
            self.full_digests.append(item.digest)
            self.phashes.append(item.phash)
            labels.append(item.label)
        if self.classes is None and max(labels) < 1:
            raise DataError("all labels are 0, expected at least two classes", "label classes 0, 1, ...")
        return labels

    def read_again(self, row: int) -> NDArray[Any]:
        """The values of a row, which must be those that were read first."""
        values = self._read(row).values
        if digest_row(values) != self.digests[row]:
            raise DataError(
                f"{self.place(row)} differs when it is read twice",
                "remove random transforms from the data set: tascnet augments training images itself "
                "(`flip`, `min_scale`, `pad`, `randaugment`, `erasing`)",
            )
        return values

    def _read(self, row: int) -> _Item:
        part, index = self.order[row]
        item = self.sets[part][index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{self.place(row)} is {_named(item)}, expected a pair of an image and a label", EXPECTED
            )
        image, label = item
        values, digest, phash = self._values(row, image)
        if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
            label = label.item()
        # Each class has samples.
        count = len(self.order) if self.classes is None else len(self.classes)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < count:
            named = f"from 0 to {count - 1}"
            expected = f"from 0 on, below the number of samples, {count}" if self.classes is None else named
            raise DataError(
                f"the label of {self.place(row)} is {label!r}, expected a whole number {expected}",
                "number the classes 0, 1, ..., one for each of `class_names`",
            )
        return _Item(values, digest, phash, label)

    def _values(self, row: int, image: Any) -> tuple[NDArray[Any], str, int | None]:
        """Pixels `R x R x c`, uint8, or a tensor `c x size x size`, float32, with digest and hash."""
        if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
            expected = self.preprocessing.example_shape[1:]
            if tuple(image.shape) != expected:
                shapes = [" x ".join(map(str, shape)) for shape in (image.shape, expected)]
                raise DataError(
                    f"{self.place(row)} is a tensor of {shapes[0]}, but the network takes {shapes[1]}",
                    "resize tensors in the data set, or give PIL images, which tascnet resizes",
                )
            tensor = image.detach().cpu().float().contiguous().numpy()
            return tensor, digest_row(tensor).hex(), None
        picture = picture_of(image) if isinstance(image, np.ndarray) else image
        if not isinstance(picture, Image.Image):
            raise DataError(f"the image of {self.place(row)} is {_named(image)}", EXPECTED)
        try:
            return decode_picture(picture, self.preprocessing, extra_channels=self.extra_channels)
        except UnreadableImage as error:
            raise DataError(f"{self.place(row)} cannot be read ({first_line(error)})", EXPECTED) from error


def _named(value: Any) -> str:
    """A value in words: its type, and of an array also shape and element type."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of {' x '.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"
