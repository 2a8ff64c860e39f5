"""Samples that a network must not have seen: a file of their digests, and splits without them."""

from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tascnet.data.dataset import SampleSet
from tascnet.data.sources import AnyPreprocessing
from tascnet.data.splits import Split
from tascnet.errors import DataError, RunFolderError
from tascnet.models.preprocessing import Preprocessing
from tascnet.run.records import read_record

SPLITS = "splits.json"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """`splits.json`: the validation and test samples of a run.

    Args:
        dataset: name of the data set.
        fingerprint: of the data set.
        kind: `images` or `texts`.
        digests: of the samples; equal for images of the same pixels at full size, or texts of the same words.
    """

    dataset: str
    fingerprint: str
    kind: str
    digests: tuple[str, ...]


def read_splits(place: str | PathLike[str], preprocessing: AnyPreprocessing) -> HeldOut:
    """The samples that a run holds out.

    Args:
        place: `splits.json` of a run, or the folder that holds it.
        preprocessing: of the network that must not see these samples.

    Raises:
        DataError: there is no such file, it is damaged, or it lists texts where the network takes images, or
            the reverse.
    """
    path = Path(place).expanduser()
    path = path / SPLITS if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"there is no file {path}", f"give `exclude` a {SPLITS}, or the folder of a run that holds one"
        )
    try:
        held_out = read_record(path, HeldOut)
    except RunFolderError as error:
        raise DataError(error.message, "start that run again, which writes it, or restore it") from error
    kind = "images" if isinstance(preprocessing, Preprocessing) else "texts"
    if held_out.kind != kind:
        raise DataError(
            f"{path} lists {held_out.kind}, but the network takes {kind}", "start without `exclude`"
        )
    return held_out


def without_samples(dataset: SampleSet, rows: Split, excluded: Collection[str]) -> Split:
    """The rows of a split whose samples have none of the `excluded` digests.

    Raises:
        DataError: a class has no training sample left, or the validation or test split is empty.
    """
    unwanted = frozenset(excluded)

    def kept(part: NDArray[np.int64]) -> NDArray[np.int64]:
        is_kept = [dataset.digests[row] not in unwanted for row in part]
        return part[np.array(is_kept, dtype=bool)]

    left = Split(train=kept(rows.train), val=kept(rows.val), test=kept(rows.test))
    empty = sorted(set(range(len(dataset.class_names))) - set(dataset.labels[left.train].tolist()))
    if empty or not len(left.val) or not len(left.test):
        lost = f"class {dataset.class_names[empty[0]]!r}" if empty else "the validation or test split"
        raise DataError(
            f"without the excluded samples {lost} of {dataset.name} is empty", "train on other data"
        )
    return left
