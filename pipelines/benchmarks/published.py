"""Samples as published trials read them: decoded and sent through the frozen network at every epoch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet import data
from tascnet.models.info import Preprocessing


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
    places = data.evenly(len(images), count)
    dataset = images.dataset
    if files is not None:
        dataset = when_read(dataset, files, images.preprocessing, torch.get_num_threads())
    return data.ImageSource(dataset, images.rows[places], images.preprocessing)


def image_files(dataset: data.Dataset | data.TextDataset) -> list[Path] | None:
    """The file of each row of a data set; None where samples are in no files of their own."""
    if isinstance(dataset, data.TextDataset) or dataset.folder is None:
        return None
    return [dataset.folder / path for path in dataset.paths]


def when_read(
    dataset: data.Dataset, files: Sequence[Path], preprocessing: Preprocessing, workers: int
) -> data.Dataset:
    """The data set with images that are decoded from `files`, one for each row, whenever they are read."""

    def decode(row: int) -> NDArray[np.uint8]:
        return data.decode_image(files[row], preprocessing)

    side = preprocessing.resize
    shape = (len(files), side, side, preprocessing.channels)
    return replace(dataset, pixels=data.DecodedWhenRead(decode, shape, workers))
