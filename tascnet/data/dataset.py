"""One record for every data set: decoded pixels, labels and where they came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tascnet.data.when_read import DecodedWhenRead
from tascnet.run.files import digest_json


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images, decoded once to squares of the size that the backbone's resize asks for.

    Args:
        name: what the data set is called in tables.
        class_names: one name for each class, in the order of the labels.
        labels: class indices, `n`, int64.
        pixels: images, `n x R x R x c`, uint8; often a read-only memory map, or decoded when they are read.
        fingerprint: digest of class names, labels and pixels, and of `parts` where there are any.
        skipped: relative paths of files that could not be read and were left out.
        source: where the images come from.
        licence: the terms under which they may be used.
        folder: what `paths` are relative to; None: the images are in no files of their own.
        paths: the file of each row, relative to the folder.
        parts: the split that each row is given to by what comes with the images ("train", "val", "test");
            empty: all are drawn.
    """

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8] | DecodedWhenRead
    fingerprint: str
    skipped: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    folder: Path | None = None
    paths: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def content_fingerprint(
    class_names: Sequence[str], labels: NDArray[np.int64], pixels_digest: str, parts: Sequence[str] = ()
) -> str:
    """A digest of what a network sees and what splits are given: it does not change when the files move."""
    given = [list(parts)] if parts else []
    return digest_json([list(class_names), digest_array(labels), pixels_digest, *given])


def digest_array(array: NDArray[np.generic]) -> str:
    """A hexadecimal digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]
