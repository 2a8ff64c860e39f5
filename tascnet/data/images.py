"""Listed images as a data set: decoded once, with what could not be read refused or left out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.listing import ImageFile, Listing, choose_classes
from tascnet.data.pixels import Decoded, decoded_images
from tascnet.data.twins import named, warn_of_twins
from tascnet.data.when_read import DecodedWhenRead
from tascnet.errors import ConfigError, DataError
from tascnet.models.info import Preprocessing
from tascnet.run.console import log


def load_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    unreadable: str = "refuse",
    keep: str = "auto",
    limit_gb: float | None = None,
    workers: int | None = None,
    classes: Sequence[str] | None = None,
    name: str = "image_folder",
    source: str | None = None,
    licence: str = "",
) -> Dataset:
    """The images of a listing, decoded once and kept in the cache.

    Args:
        listing: the files and their classes.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        cache_dir: the pixels are kept in its folder `pixels`.
        unreadable: what happens if files cannot be read: `refuse` or `skip`.
        keep: whether pixels are kept: `always`, `never`, or `auto`: if they fit.
        limit_gb: gigabytes that the pixels may take; None: no limit.
        workers: threads that decode; None: one for each CPU.
        classes: names of those that are taken; None: all.
        name: what the data set is called.
        source: where the images come from; None: the root.
        licence: the terms under which they may be used.

    Returns:
        Samples in the order of the listing, pixels `n x R x R x c` as a read-only memory map, or decoded
        whenever they are read.

    Raises:
        DataError: if images cannot be read, or a class is not there.
        BudgetError: if the pixels are always to be kept, and would take more than the limit allows.
        ConfigError: if `unreadable` is neither `refuse` nor `skip`.
    """
    if unreadable not in ("refuse", "skip"):
        raise ConfigError(
            f"dataset.unreadable is {unreadable!r}, expected refuse or skip", "set it to one of them"
        )
    for note in listing.notes:
        log.warning(note)
    listing = choose_classes(listing, classes)
    decoded = decoded_images(
        listing, preprocessing, cache_dir=cache_dir, keep=keep, limit_gb=limit_gb, workers=workers
    )
    if decoded.failures:
        _judge(listing, decoded.failures, unreadable)
    files = [file for file in listing.files if file.path not in decoded.failures]
    pixels = _all_classes(listing, decoded, files)
    warn_of_twins("image", listing.root, _twins(files, decoded.same))
    labels = np.array([file.label for file in files], dtype=np.int64)
    parts = tuple(file.part for file in files) if listing.parts else ()
    return Dataset(
        name=name,
        class_names=listing.class_names,
        labels=labels,
        pixels=pixels,
        fingerprint=content_fingerprint(listing.class_names, labels, decoded.digest, parts),
        skipped=tuple(decoded.failures),
        source=str(listing.root) if source is None else source,
        licence=licence,
        folder=listing.root if listing.read is None else None,
        paths=tuple(file.path for file in files),
        parts=parts,
    )


def _judge(listing: Listing, failures: dict[str, str], unreadable: str) -> None:
    """Refuse unreadable files, or say that they are left out."""
    listed = named([f"{path}: {reason}" for path, reason in failures.items()])
    verb = "is not readable" if len(failures) == 1 else "are not readable"
    message = f"{len(failures)} of {len(listing.files)} images in {listing.root} {verb} ({listed})"
    if unreadable == "refuse":
        raise DataError(
            message, "mend or delete what is named, or set dataset.unreadable=skip to leave it out"
        )
    log.warning("%s: left out", message)


def _twins(files: Sequence[ImageFile], same: Sequence[Sequence[int]]) -> list[str]:
    """The paths of equal images in several classes."""
    twins = [group for group in same if len({files[row].label for row in group}) > 1]
    return [" = ".join(files[row].path for row in group) for group in twins]


def _all_classes(
    listing: Listing, decoded: Decoded, files: Sequence[ImageFile]
) -> NDArray[np.uint8] | DecodedWhenRead:
    """The pixels, if every class has at least one image that could be read."""
    present = {file.label for file in files}
    lost = [name for index, name in enumerate(listing.class_names) if index not in present]
    if lost or decoded.pixels is None:
        raise DataError(
            f"no image of class {lost[0]!r} in {listing.root} can be read, expected at least one",
            "mend its images or remove its folder",
        )
    return decoded.pixels
