"""The samples of a run: training, validation and test samples of one data set, as a network takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tascnet.data.dataset import Dataset
from tascnet.data.sources import SampleSource, source_of
from tascnet.data.text import TextDataset
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing

# Samples that networks are compared on go through them in batches of this size.
SAMPLE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Three splits of a data set.

    Args:
        dataset: all samples.
        preprocessing: what the network expects of an image or a text.
        train: training samples, augmented when a generator is given.
        val: validation samples.
        test: test samples; read once for each model that is handed over.
        views: names of the fixed views whose features are cached for training.
        excluded: how many samples of the splits were left out.
        cache: folder of decoded images and features.
        cache_limit_gb: gigabytes that features may take in it; None: no limit.
    """

    dataset: Dataset | TextDataset
    preprocessing: Preprocessing | TextPreprocessing
    train: SampleSource
    val: SampleSource
    test: SampleSource
    views: tuple[str, ...]
    cache: Path
    cache_limit_gb: float | None = None
    excluded: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class, in the order of the labels."""
        return self.dataset.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.class_names)

    @property
    def is_text(self) -> bool:
        """Whether the samples are texts."""
        return isinstance(self.preprocessing, TextPreprocessing)

    @property
    def example(self) -> Tensor:
        """A zero input of one sample, `1 x ...`, on the CPU, for tracing."""
        dtype = torch.int64 if self.is_text else torch.float32
        return torch.zeros(self.preprocessing.example_shape, dtype=dtype)

    def drawn(self, count: int, seed: int) -> SampleSource:
        """Plain training samples, drawn by a seed and at most `count`."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.train), generator=generator)[:count]
        return source_of(self.dataset, self.train.rows[chosen], self.preprocessing)

    def drawn_batches(
        self, count: int, seed: int, device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Such samples and their labels, in batches on a device."""
        source = self.drawn(count, seed)
        for rows in torch.arange(len(source)).split(SAMPLE_BATCH):
            yield source.batch(rows, None).to(device), source.labels[rows].to(device)
