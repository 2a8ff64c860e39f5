"""Torch data sets of the caller's own: every item is read and checked, and kept like images in files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tascnet.data.arrays import (
    DecodedWhenRead,
    RowDigests,
    digest_array,
    digest_row,
    make_room,
    open_array,
    write_array,
)
from tascnet.data.dataset import Dataset, SampleSet, content_fingerprint
from tascnet.data.decode import UnreadableImage, square_pixels
from tascnet.data.listing import twin_images, warn_of_twins
from tascnet.data.named import TorchData
from tascnet.data.sources import PlainSource, SampleSource
from tascnet.errors import BudgetError, DataError, first_line
from tascnet.models.info import Preprocessing
from tascnet.options import Images
from tascnet.run.console import log, track
from tascnet.run.files import digest_json

EXPECTED = "an image is a PIL image, a uint8 array H x W x C, or a float tensor C x H x W"


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDataset(SampleSet):
    """Labelled images that are a network's input as they are.

    Args:
        tensors: `n x c x size x size`, float32, a read-only memory map, or read whenever they are needed.
    """

    tensors: NDArray[np.float32] | DecodedWhenRead

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        def read(positions: NDArray[np.int64]) -> Tensor:
            # Indexing by an array copies, so that torch never sees the read-only memory map.
            inputs = torch.from_numpy(np.asarray(self.tensors[rows[positions]]))
            return inputs.contiguous(memory_format=torch.channels_last)

        return PlainSource(self, rows, preprocessing, read)

    def digests(self, rows: Iterable[int]) -> list[str]:
        return [digest_array(self.tensors[row]) for row in rows]


def load_torch(
    data: TorchData, preprocessing: Preprocessing, *, cache: Path, limit_gb: float | None = None
) -> SampleSet:
    """Read all items of torch data sets, and keep them in the cache under the digest of their content.

    Args:
        preprocessing: of images; the shape that tensors have.
        cache: pixels or tensors are kept in its folder `pixels`.
        limit_gb: gigabytes that this folder may take; None: no limit.

    Raises:
        DataError: an item is not a pair of an image and a label, items are of different kinds, or an item
            differs when it is read twice.
    """
    items = _Items(data, preprocessing)
    labels = np.array(items.read_all(), dtype=np.int64)
    folder = cache / "pixels" / "datasets"
    path = folder / f"{digest_json([items.shape, str(items.dtype), items.digests.digest])}.npy"
    values: NDArray[Any] | DecodedWhenRead | None = open_array(path, len(labels))
    if values is None:
        try:
            size = len(labels) * int(np.prod(items.shape)) * items.dtype.itemsize
            what = f"the {len(labels)} images of {data.name}"
            make_room(folder.parent, size, limit_gb, what=what, remedy="lower `resize` and `size`")
            rows = track(range(len(labels)), "keep images")
            chunks = (items.read_again(row)[None] for row in rows)
            values = write_array(path, items.shape, items.dtype, chunks)
        except BudgetError as error:
            log.warning("%s: they are read whenever they are needed, which is slower", error.message)
    if values is None:
        # The data sets of a caller may not be safe for threads.
        values = DecodedWhenRead(items.read_again, (len(labels), *items.shape), workers=1)
    warn_of_twins("image", data.name, twin_images(items.digests.same, labels, items.place))
    is_tensor, digest = items.dtype == np.float32, items.digests.digest
    if is_tensor:
        digest = digest_json(["tensors", items.shape, digest])
    names = data.classes or tuple(map(str, range(max(2, int(labels.max()) + 1))))
    parts = tuple(part for part, _ in items.order)
    common: dict[str, Any] = {
        "name": data.name,
        "class_names": names,
        "labels": labels,
        "fingerprint": content_fingerprint(names, labels, digest, parts),
        "origin": "torch data sets of the caller",
        "parts": parts,
    }
    return TensorDataset(tensors=values, **common) if is_tensor else Dataset(pixels=values, **common)


class _Items:
    """Reads the items of up to three data sets, one after the other.

    Attributes:
        order: split and position of each row.
        shape: of a row.
        dtype: uint8 for pixels, float32 for tensors.
        digests: of all rows, as they were read first.
    """

    def __init__(self, data: TorchData, preprocessing: Preprocessing) -> None:
        given = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
        self.sets: dict[str, Any] = {part: own for part, own in given.items() if own is not None}
        self.order = [(part, index) for part, own in self.sets.items() for index in range(len(own))]
        self.classes, self.preprocessing = data.classes, preprocessing
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.uint8)
        self.digests = RowDigests()

    def place(self, row: int) -> str:
        """A row in words."""
        part, index = self.order[row]
        return f"sample {index} of `{part}`"

    def read_all(self) -> list[int]:
        """Read every item; returns the labels."""
        labels = []
        for row in track(range(len(self.order)), "read images"):
            values, label = self._read(row)
            if not row:
                self.shape, self.dtype = values.shape, values.dtype
            elif (values.shape, values.dtype) != (self.shape, self.dtype):
                kinds = {"uint8": "an image", "float32": "a float tensor"}
                came, first = kinds[str(values.dtype)], kinds[str(self.dtype)]
                raise DataError(
                    f"{self.place(row)} is {came}, but {self.place(0)} is {first}",
                    "give all samples in one form",
                )
            self.digests.add(values)
            labels.append(label)
        if self.classes is None and max(labels) < 1:
            raise DataError("all labels are 0, expected at least two classes", "label classes 0, 1, ...")
        return labels

    def read_again(self, row: int) -> NDArray[Any]:
        """The values of a row, which must be those that were read first."""
        values, _ = self._read(row)
        if digest_row(values) != self.digests.each[row]:
            raise DataError(
                f"{self.place(row)} differs when it is read twice",
                "remove random transforms from the data set: tascnet augments training images itself "
                "(`flip`, `min_scale`, `pad`)",
            )
        return values

    def _read(self, row: int) -> tuple[NDArray[Any], int]:
        part, index = self.order[row]
        item = self.sets[part][index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{self.place(row)} is {_named(item)}, expected a pair of an image and a label", EXPECTED
            )
        image, label = item
        values = self._values(row, image)
        if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
            label = label.item()
        count = None if self.classes is None else len(self.classes)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < (count or label + 1):
            expected = "from 0 on" if count is None else f"from 0 to {count - 1}"
            raise DataError(
                f"the label of {self.place(row)} is {label!r}, expected a whole number {expected}",
                "number the classes 0, 1, ..., one for each of `class_names`",
            )
        return values, label

    def _values(self, row: int, image: Any) -> NDArray[Any]:
        """Pixels `R x R x c`, uint8, or a tensor `c x size x size`, float32."""
        if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
            expected = self.preprocessing.example_shape[1:]
            if tuple(image.shape) != expected:
                shapes = [" x ".join(map(str, shape)) for shape in (image.shape, expected)]
                raise DataError(
                    f"{self.place(row)} is a tensor of {shapes[0]}, but the network takes {shapes[1]}",
                    "resize tensors in the data set, or give PIL images, which tascnet resizes",
                )
            return image.detach().cpu().float().contiguous().numpy()
        is_bytes = isinstance(image, np.ndarray) and image.dtype == np.uint8
        if is_bytes and image.shape[2:] in ((1,), (3,), (4,)):
            image = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
        if not isinstance(image, Image.Image):
            raise DataError(f"the image of {self.place(row)} is {_named(image)}", EXPECTED)
        try:
            return square_pixels(image, self.preprocessing)
        except (UnreadableImage, OSError) as error:
            raise DataError(f"{self.place(row)} cannot be read ({first_line(error)})", EXPECTED) from error


def _named(value: Any) -> str:
    """A value in words: its type, and of an array also shape and element type."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of {' x '.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"
