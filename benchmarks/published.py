"""Samples as published trials read them: decoded and sent through the frozen network at every epoch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.data import SampleSource, evenly
from tascnet.data.arrays import DecodedWhenRead
from tascnet.data.dataset import Dataset, ImageSource, SampleSet
from tascnet.models import Preprocessing
from tascnet.models.preprocessing import read_upright, square_pixels


class ThroughTrunk:
    """Features of plain images, computed by a frozen trunk on a device whenever they are read."""

    def __init__(self, images: SampleSource, trunk: nn.Sequential, device: torch.device) -> None:
        self.images, self.trunk, self.device = images, trunk, device
        self.labels, self.num_classes = images.labels, images.num_classes

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `b x ...` of the plain images, whatever the generator."""
        images = self.images.batch_view(rows, "plain").to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return cast(Tensor, self.trunk(images).float())


def from_files(samples: SampleSource, files: Sequence[Path] | None, count: int) -> ImageSource:
    """At most `count` samples, evenly spaced, that are decoded from their files whenever they are read.

    `files` has one for each row of the data set; without it the pixels are read from memory.
    """
    assert isinstance(samples, ImageSource), "the options allow images alone"
    dataset, preprocessing = cast(Dataset, samples.dataset), samples.preprocessing
    if files is not None:
        dataset = when_read(dataset, files, preprocessing, torch.get_num_threads())
    rows = samples.rows[evenly(len(samples), count)]
    return ImageSource(dataset, rows, preprocessing, samples.augmentation)


def image_files(dataset: SampleSet) -> list[Path] | None:
    """The file of each row of a data set; None where samples are in no files of their own."""
    if not isinstance(dataset, Dataset) or dataset.folder is None:
        return None
    return [dataset.folder / path for path in dataset.paths]


def when_read(dataset: Dataset, files: Sequence[Path], preprocessing: Preprocessing, workers: int) -> Dataset:
    """The data set with images that are decoded from `files`, one for each row, whenever they are read."""

    def decode(row: int) -> NDArray[np.uint8]:
        return read_upright(files[row], lambda upright: square_pixels(upright, preprocessing))

    shape = (len(files), preprocessing.resize, preprocessing.resize, preprocessing.channels)
    pixels = DecodedWhenRead(decode, shape, workers)
    return replace(dataset, pixels=pixels)
