"""The samples of a run: training, validation and test samples of one data set, as a network takes them."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tascnet.data.copies import count_alike, shared_rows, surplus_rows
from tascnet.data.dataset import SampleSet
from tascnet.data.digits import load_digits_set
from tascnet.data.heldout import HeldOut, without_samples
from tascnet.data.listing import Listing, TextFiles, first_of
from tascnet.data.named import TorchData
from tascnet.data.pixels import load_images
from tascnet.data.places import find_files
from tascnet.data.sources import AnyPreprocessing, SampleSource
from tascnet.data.splits import split
from tascnet.data.text import load_texts
from tascnet.data.torchsets import load_torch
from tascnet.errors import ConfigError, DataError, plural
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import Data, Images, Texts
from tascnet.run.console import log
from tascnet.run.files import digest_json
from tascnet.run.records import ClassCounts, SampleCounts, write_record

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
        """Digests of the data set and of the rows of validation and test, joined by a hyphen."""
        return f"{self.fingerprint}-{digest_json([self.val.rows.tolist(), self.test.rows.tolist()])}"

    def is_data_of(self, held_out: str) -> bool:
        """Whether another `held_out` is of the same samples, perhaps in another split."""
        return held_out.partition("-")[0] == self.fingerprint

    @cached_property
    def held_out_digests(self) -> tuple[str, ...]:
        """The digest of each validation and each test sample."""
        return tuple(self.dataset.digests[row] for row in (*self.val.rows, *self.test.rows))

    @property
    def _parts(self) -> tuple[SampleSource, SampleSource, SampleSource]:
        return self.train, self.val, self.test

    def counts(self) -> SampleCounts:
        parts = [torch.bincount(part.labels, minlength=self.num_classes) for part in self._parts]
        return SampleCounts(
            classes=self.num_classes,
            train=len(self.train),
            val=len(self.val),
            test=len(self.test),
            skipped=len(self.dataset.skipped),
            origin=self.dataset.origin,
            licence=self.dataset.licence,
            by_class=tuple(
                ClassCounts(name=name, train=train, val=val, test=test)
                for name, train, val, test in zip(self.class_names, *(p.tolist() for p in parts), strict=True)
            ),
            majority_accuracy=float(parts[2][parts[0].argmax()]) / len(self.test),
            copies=_copies(self.dataset),
            leaked=self._leaked(),
            near_duplicates=self._near_duplicates(),
            passed_over=dict(self.dataset.passed_over),
        )

    def _leaked(self) -> int:
        """Validation and test samples with a copy in another split."""
        digests = self.dataset.digests
        train, val, test = ([digests[row] for row in part.rows] for part in self._parts)
        elsewhere = ((val, {*train, *test}), (test, {*train, *val}))
        return sum(digest in others for own, others in elsewhere for digest in own)

    def _near_duplicates(self) -> int | None:
        """Validation and test samples that look like a training sample without being a copy of one."""
        digests, phashes = self.dataset.digests, self.dataset.phashes
        if not any(phash is not None for phash in phashes):
            return None
        known = {digests[row] for row in self.train.rows}
        others = [row for row in (*self.val.rows, *self.test.rows) if digests[row] not in known]
        return count_alike([phashes[row] for row in self.train.rows], [phashes[row] for row in others])

    def write_splits(self, path: Path) -> None:
        """Write the digests of validation and test samples, which `read_splits` reads."""
        record = HeldOut(
            dataset=self.dataset.name,
            fingerprint=self.fingerprint,
            kind=self.dataset.kind,
            digests=self.held_out_digests,
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
    quiet: bool = False,
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
        quiet: whether their numbers are not logged, as where they were a moment ago.

    Raises:
        DataError: the data set is missing, empty, unreadable or too small, holds texts where the network
            takes images, or the reverse, or images lie in two ready splits, which `duplicates` refuses.
    """
    dataset = load_samples(data, preprocessing, cache=cache, cache_limit_gb=cache_limit_gb)
    return split_samples(
        dataset,
        data,
        preprocessing,
        seed=seed,
        cache=cache,
        cache_limit_gb=cache_limit_gb,
        grow_vocabulary=grow_vocabulary,
        exclude=exclude,
        quiet=quiet,
    )


def split_samples(
    dataset: SampleSet,
    data: Data,
    preprocessing: AnyPreprocessing,
    *,
    seed: int,
    cache: Path,
    cache_limit_gb: float | None = None,
    grow_vocabulary: bool = False,
    exclude: Collection[str] = (),
    quiet: bool = False,
) -> Samples:
    """Split what `load_samples` has loaded; the other arguments are those of `open_samples`.

    Raises:
        DataError: there are too few samples, or images lie in two ready splits, which `duplicates` refuses.
    """
    names = dataset.class_names
    drawn = split(
        dataset.labels,
        names,
        seed=seed,
        train=data.train,
        val=data.val,
        parts=dataset.parts,
        digests=dataset.digests,
        dropped=_check_copies(dataset, getattr(data, "duplicates", None)),
    )
    rows = without_samples(dataset, drawn, exclude) if exclude else drawn
    preprocessing = dataset.prepare(preprocessing, rows.train, grow=grow_vocabulary)
    train = dataset.take(rows.train, preprocessing, data if isinstance(data, Images) else None)
    val, test = (dataset.take(part, preprocessing) for part in (rows.val, rows.test))
    if not quiet:
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


def _copies(dataset: SampleSet) -> int:
    """Samples that are equal to an earlier one."""
    return len(dataset) - len(set(dataset.digests))


def _check_copies(dataset: SampleSet, policy: str | None) -> list[int]:
    """Report copies; returns the rows that must be in no split.

    Args:
        policy: what happens to samples that lie in two ready splits: `refuse`, `drop` or `allow`; None: the
            splits are published ones and stay as they are.

    Raises:
        DataError: there are such samples, which are refused.
    """
    copies = _copies(dataset)
    shared = shared_rows(dataset.parts, dataset.digests) if dataset.parts and copies else []
    if not shared:
        if copies:
            log.info(
                "%s: %s of another one: copies are in the split of the first and do not count when samples "
                "are drawn",
                *(dataset.name, "1 sample is a copy" if copies == 1 else f"{copies} samples are copies"),
            )
        return []
    examples = first_of([" = ".join(map(dataset.place, rows)) for rows in shared])
    found = f"{plural(len(shared), 'image')} {'is' if len(shared) == 1 else 'are'} in more than one split of "
    found += f"{dataset.name} ({examples})"
    if policy == "refuse":
        raise DataError(
            found,
            "remove the copies; or `duplicates=drop` leaves them in test, else in validation, and "
            "`duplicates=allow` uses them as they are",
        )
    if policy == "drop":
        surplus = surplus_rows(dataset.parts, shared)
        of = Counter(dataset.parts[row] for row in surplus)
        log.info(
            "%s: %d training and %d validation samples are left out because of `duplicates=drop`",
            *(found, of["train"], of["val"]),
        )
        return surplus
    reason = "the published splits" if policy is None else "`duplicates=allow`"
    log.warning("%s: used as they are (%s), so that accuracy may be too high", found, reason)
    return []


def load_samples(
    data: Data, preprocessing: AnyPreprocessing, *, cache: Path, cache_limit_gb: float | None = None
) -> SampleSet:
    """All samples of a data set, without splits; the arguments are those of `open_samples`.

    Raises:
        ConfigError: `data` is no data set.
        DataError: the data set is missing, empty or unreadable, holds texts where the network takes images,
            or the reverse.
    """
    if not isinstance(data, Data):
        raise ConfigError(
            f"`data` is of type {type(data).__name__}, expected a data set",
            "make one with tascnet.image_folder, image_list, text_lines or datasets",
        )
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
        return load_torch(data, images, cache=cache, limit_gb=cache_limit_gb)
    if isinstance(files, Listing):
        policies = {name: getattr(data, name, "refuse") for name in ("unreadable", "extra_channels")}
        return load_images(files, images, cache=cache, name=data.name, limit_gb=cache_limit_gb, **policies)
    return load_digits_set(cast(Images, data).classes, images)
