"""The samples of a run: training, validation and test samples of one data set, as a network takes them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tascnet.data.dataset import SampleSet
from tascnet.data.digits import load_digits_set
from tascnet.data.heldout import HeldOut, decoding_of, without_samples
from tascnet.data.listing import Listing, TextFiles
from tascnet.data.named import TorchData
from tascnet.data.pixels import load_images
from tascnet.data.places import find_files
from tascnet.data.sources import AnyPreprocessing, SampleSource
from tascnet.data.splits import split
from tascnet.data.text import load_texts
from tascnet.data.torchsets import load_torch
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import Data, Images, Texts
from tascnet.run.console import log
from tascnet.run.files import digest_json
from tascnet.run.records import SampleCounts, write_record

# Batch size of `Samples.drawn_batches`.
SAMPLE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Three splits of a data set.

    Args:
        dataset: all samples.
        preprocessing: what the network expects of an image or a text.
        train: training samples, augmented when they are read with a generator.
        val: validation samples.
        test: test samples; read once for each model that is handed over.
        excluded: how many samples of the splits were left out.
        cache: folder of decoded images and features.
        cache_limit_gb: gigabytes that features may take in it; None: no limit.
    """

    dataset: SampleSet
    preprocessing: AnyPreprocessing
    train: SampleSource
    val: SampleSource
    test: SampleSource
    cache: Path
    cache_limit_gb: float | None = None
    excluded: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class, in the order of the labels."""
        return self.dataset.class_names

    @property
    def num_classes(self) -> int:
        return len(self.dataset.class_names)

    @property
    def is_text(self) -> bool:
        return self.dataset.kind == "texts"

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the fixed views whose features are cached for training."""
        return self.train.views

    @property
    def example(self) -> Tensor:
        """A zero input of one sample, `1 x ...`, on the CPU, for tracing."""
        dtype = torch.int64 if self.is_text else torch.float32
        return torch.zeros(self.preprocessing.example_shape, dtype=dtype)

    @property
    def fingerprint(self) -> str:
        """Digest of class names, labels and content of the data set."""
        return self.dataset.fingerprint

    @cached_property
    def held_out(self) -> str:
        """Digest of the data set and of the rows of validation and test."""
        return digest_json([self.fingerprint, self.val.rows.tolist(), self.test.rows.tolist()])

    def counts(self) -> SampleCounts:
        return SampleCounts(
            classes=self.num_classes,
            train=len(self.train),
            val=len(self.val),
            test=len(self.test),
            skipped=len(self.dataset.skipped),
            origin=self.dataset.origin,
            licence=self.dataset.licence,
        )

    def write_splits(self, path: Path) -> None:
        """Write the digests of validation and test samples, which `read_splits` reads."""
        record = HeldOut(
            dataset=self.dataset.name,
            fingerprint=self.fingerprint,
            digests=tuple(self.dataset.digests([*self.val.rows, *self.test.rows])),
            **decoding_of(self.preprocessing),
        )
        write_record(path, record)

    def drawn(self, count: int, seed: int) -> SampleSource:
        """At most `count` plain training samples, drawn by a seed."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.train), generator=generator)[:count]
        return self.dataset.take(self.train.rows[chosen], self.preprocessing)

    def drawn_batches(
        self, count: int, seed: int, device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `drawn` samples and their labels, on a device."""
        samples = self.drawn(count, seed)
        for rows in torch.arange(len(samples)).split(SAMPLE_BATCH):
            yield samples.batch(rows, None).to(device), samples.labels[rows].to(device)


def open_samples(
    data: Data,
    preprocessing: AnyPreprocessing,
    *,
    seed: int,
    cache: Path,
    cache_limit_gb: float | None = None,
    grow_vocabulary: bool = False,
    exclude: Collection[str] = (),
) -> Samples:
    """Load and split a data set.

    Args:
        data: options of a data set, or what `tascnet.datasets` returns.
        preprocessing: what the network expects of an image or a text.
        seed: of the splits.
        cache: folder of decoded images and features, and of downloads.
        cache_limit_gb: gigabytes that decoded images, and likewise features, may take in it; None: no limit.
        grow_vocabulary: whether the words of the training texts join the vocabulary.
        exclude: digests of samples that are left out of all splits, such as those of `read_splits`.

    Raises:
        DataError: the data set is missing, empty, unreadable or too small, or holds texts where the network
            takes images, or the reverse.
    """
    dataset = _load(data, preprocessing, cache, cache_limit_gb)
    names = dataset.class_names
    drawn = split(dataset.labels, names, seed=seed, train=data.train, val=data.val, parts=dataset.parts)
    rows = without_samples(dataset, drawn, exclude) if exclude else drawn
    preprocessing = dataset.prepare(preprocessing, rows.train, grow=grow_vocabulary)
    train = dataset.take(rows.train, preprocessing, data if isinstance(data, Images) else None)
    val, test = (dataset.take(part, preprocessing) for part in (rows.val, rows.test))
    log.info(
        "%s: %d classes, %d training, %d validation and %d test samples",
        *(dataset.name, len(names), len(train), len(val), len(test)),
    )
    return Samples(
        dataset=dataset,
        preprocessing=preprocessing,
        train=train,
        val=val,
        test=test,
        excluded=sum(map(len, (drawn.train, drawn.val, drawn.test))) - len(train) - len(val) - len(test),
        cache=cache,
        cache_limit_gb=cache_limit_gb,
    )


def _load(data: Data, preprocessing: AnyPreprocessing, cache: Path, limit_gb: float | None) -> SampleSet:
    kinds = ("texts", "images") if isinstance(data, Texts) else ("images", "texts")
    if isinstance(data, Texts) != isinstance(preprocessing, TextPreprocessing):
        raise DataError(
            f"{data.name} holds {kinds[0]}, but the network takes {kinds[1]}",
            "give a network for this data set",
        )
    files = find_files(data, cache, fetch=True)
    if isinstance(data, Texts):
        return load_texts(cast(TextFiles, files), name=data.name, max_tokens=data.max_tokens)
    images = cast(Preprocessing, preprocessing)
    if isinstance(data, TorchData):
        return load_torch(data, images, cache=cache, limit_gb=limit_gb)
    if isinstance(files, Listing):
        policy = getattr(data, "unreadable", "refuse")
        return load_images(files, images, cache=cache, name=data.name, unreadable=policy, limit_gb=limit_gb)
    return load_digits_set(cast(Images, data).classes, images)
