"""Samples that two data sets share, and splits without them."""

import hashlib
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from tascnet.data.dataset import Dataset, digest_array
from tascnet.data.splits import Split
from tascnet.data.text import TextDataset
from tascnet.models.text import normalise


def sample_digests(dataset: Dataset | TextDataset, rows: Iterable[int]) -> list[str]:
    """A digest of what a network can tell of each sample: its words, or its decoded pixels."""
    if isinstance(dataset, TextDataset):
        return [hashlib.sha256(normalise(dataset.texts[row]).encode()).hexdigest()[:32] for row in rows]
    return [digest_array(dataset.pixels[row]) for row in rows]


def without_samples(dataset: Dataset | TextDataset, rows: Split, excluded: Collection[str]) -> Split:
    """A split without the samples whose digests are among `excluded`.

    Args:
        dataset: the samples.
        rows: of its parts.
        excluded: from `sample_digests`, of any data set of the same kind.
    """
    unwanted = frozenset(excluded)

    def kept(part: NDArray[np.int64]) -> NDArray[np.int64]:
        is_kept = [digest not in unwanted for digest in sample_digests(dataset, part)]
        return part[np.array(is_kept, dtype=bool)]

    return Split(train=kept(rows.train), val=kept(rows.val), test=kept(rows.test))
