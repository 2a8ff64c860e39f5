"""Samples as published trials read them: decoded and sent through the frozen network at every epoch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet import data
from tascnet.models.info import Preprocessing

__all__ = ["DecodedWhenRead", "ThroughTrunk", "from_files", "image_files"]


class DecodedWhenRead:
    """Pixels of image files, in place of a data set's array: decoded anew whenever rows are read.

    Args:
        files: one for each row.
        preprocessing: of the pixels, as in the array.
        workers: threads that decode.
    """

    def __init__(self, files: Sequence[Path], preprocessing: Preprocessing, workers: int) -> None:
        self.files, self.preprocessing, self.workers = list(files), preprocessing, workers
        side = preprocessing.resize
        self.shape = (len(self.files), side, side, preprocessing.channels)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels of the rows, `b x R x R x c`."""
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(list(pool.map(self._decode, rows)))

    def _decode(self, row: int) -> NDArray[np.uint8]:
        return data.decode_image(self.files[row], self.preprocessing)


class ThroughTrunk:
    """A source of features that are computed whenever they are read, from plain images.

    Args:
        images: the samples.
        trunk: frozen, in eval mode, on `device`.
        device: where the features are needed.
    """

    def __init__(self, images: data.ImageSource, trunk: nn.Sequential, device: torch.device) -> None:
        self.images, self.trunk, self.device = images, trunk, device

    @property
    def labels(self) -> Tensor:
        """Class indices, `n`."""
        return self.images.labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.images.num_classes

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `b x ...` of the plain images, whatever the generator."""
        images = self.images.batch_view(rows, "plain").to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.trunk(images).float()


def from_files(images: data.SampleSource, files: Sequence[Path] | None, count: int) -> data.ImageSource:
    """`count` samples, evenly spaced, that are decoded from their files whenever they are read.

    Args:
        images: the samples.
        files: one for each row of the data set; None: there are none, and the pixels are read from memory.
        count: how many; at most all.
    """
    assert isinstance(images, data.ImageSource), "the options allow images alone"
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(np.int64)
    dataset = images.dataset
    if files is not None:
        pixels = DecodedWhenRead(files, images.preprocessing, torch.get_num_threads())
        dataset = replace(dataset, pixels=cast(Any, pixels))
    return data.ImageSource(dataset, images.rows[places], images.preprocessing)


def image_files(dataset: data.Dataset | data.TextDataset) -> list[Path] | None:
    """The file of each row of a data set; None where samples are in no files of their own."""
    if isinstance(dataset, data.TextDataset) or dataset.folder is None:
        return None
    return [dataset.folder / path for path in dataset.paths]
