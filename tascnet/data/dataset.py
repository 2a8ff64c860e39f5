"""One record for every data set: decoded pixels, labels and where they came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tascnet.files import digest_json

__all__ = ["Dataset", "content_fingerprint", "digest_array"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images, decoded once to squares of the size that the backbone's resize asks for.

    Args:
        name: what the data set is called in tables.
        class_names: one name for each class, in the order of the labels.
        labels: class indices, `n`, int64.
        pixels: images, `n x R x R x c`, uint8; often a read-only memory map.
        fingerprint: digest of class names, labels and pixels.
        skipped: relative paths of files that could not be read and were left out.
        source: where the images come from.
        licence: the terms under which they may be used.
    """

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    fingerprint: str
    skipped: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""

    def __len__(self) -> int:
        return len(self.labels)


def content_fingerprint(class_names: Sequence[str], labels: NDArray[np.int64], pixels_digest: str) -> str:
    """A digest of what a network sees: it does not change when the files move."""
    return digest_json([list(class_names), digest_array(labels), pixels_digest])


def digest_array(array: NDArray[np.generic]) -> str:
    """A hexadecimal digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]
