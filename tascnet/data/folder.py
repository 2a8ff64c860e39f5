"""Any folder of class folders as a data set."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from tascnet.console import log
from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.listing import NAMED, Listing, list_images
from tascnet.data.pixels import Decoded, decoded_images
from tascnet.errors import ConfigError, DataError
from tascnet.models.info import Preprocessing
from tascnet.words import closest, listed

__all__ = ["load_image_folder"]


def load_image_folder(
    root: Path | None,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    unreadable: str = "refuse",
    limit_gb: float | None = None,
    workers: int | None = None,
    exclude: Collection[str] = (),
    classes: Collection[str] | None = None,
    name: str = "image_folder",
    source: str | None = None,
    licence: str = "",
) -> Dataset:
    """The images of a folder of class folders, decoded once and kept in the cache.

    Args:
        root: holds one folder for each class.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        cache_dir: the pixels are kept in its folder `pixels`.
        unreadable: what happens if files cannot be read: `refuse` or `skip`.
        limit_gb: gigabytes that the pixels may take; None: no limit.
        workers: threads that decode; None: one for each CPU.
        exclude: names of folders that are no class.
        classes: names of those that are taken; None: all.
        name: what the data set is called.
        source: where the images come from; None: the root.
        licence: the terms under which they may be used.

    Returns:
        Samples sorted by class and path, pixels `n x R x R x c` as a read-only memory map.

    Raises:
        DataError: if the folder is missing or empty, images in it cannot be read, or a class is not there.
        BudgetError: if the pixels would take more than the limit allows.
        ConfigError: if `unreadable` is neither `refuse` nor `skip`.
    """
    if unreadable not in ("refuse", "skip"):
        raise ConfigError(
            f"dataset.unreadable is {unreadable!r}, expected refuse or skip", "set it to one of them"
        )
    listing = list_images(root, exclude)
    if classes is not None:
        listing = list_images(root, {*exclude, *_other_classes(listing, classes)})
    decoded = decoded_images(listing, preprocessing, cache_dir=cache_dir, limit_gb=limit_gb, workers=workers)
    if decoded.failures:
        _judge(listing, decoded.failures, unreadable)
    labels = _labels(listing, decoded)
    return Dataset(
        name=name,
        class_names=listing.class_names,
        labels=labels,
        pixels=_all_classes(listing, decoded, labels),
        fingerprint=content_fingerprint(listing.class_names, labels, decoded.digest),
        skipped=tuple(decoded.failures),
        source=str(listing.root) if source is None else source,
        licence=licence,
    )


def _other_classes(listing: Listing, classes: Collection[str]) -> list[str]:
    """The names of the classes that are not asked for."""
    missing = next((name for name in classes if name not in listing.class_names), None)
    if missing is not None:
        likely = closest(missing, listing.class_names)
        raise DataError(
            f"dataset.classes names {missing!r}, which is no class of {listing.root}",
            f"did you mean {likely!r}?" if likely else f"they are {listed(listing.class_names)}",
        )
    return [name for name in listing.class_names if name not in classes]


def _judge(listing: Listing, failures: dict[str, str], unreadable: str) -> None:
    """Refuse unreadable files, or say that they are left out."""
    named = "; ".join(f"{path}: {reason}" for path, reason in [*failures.items()][:NAMED])
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    verb = "is not readable" if len(failures) == 1 else "are not readable"
    message = f"{len(failures)} of {len(listing.files)} images in {listing.root} {verb} ({named}{more})"
    if unreadable == "refuse":
        raise DataError(
            message, "mend or delete what is named, or set dataset.unreadable=skip to leave it out"
        )
    log.warning("%s: left out", message)


def _labels(listing: Listing, decoded: Decoded) -> np.ndarray:
    """The class of each image that could be read."""
    return np.array(
        [file.label for file in listing.files if file.path not in decoded.failures], dtype=np.int64
    )


def _all_classes(listing: Listing, decoded: Decoded, labels: np.ndarray) -> np.ndarray:
    present = set(labels.tolist())
    lost = [name for index, name in enumerate(listing.class_names) if index not in present]
    if lost or decoded.pixels is None:
        raise DataError(
            f"no image of class {lost[0]!r} in {listing.root} can be read, expected at least one",
            "mend its images or remove its folder",
        )
    return decoded.pixels
