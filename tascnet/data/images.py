"""Listed images as a data set: decoded once; files that cannot be read are refused or skipped."""

from pathlib import Path

import numpy as np

from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.listing import Listing, first_of, warn_of_twins
from tascnet.data.pixels import decoded_images
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing
from tascnet.run.console import log


def load_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    name: str = "image_folder",
    unreadable: str = "refuse",
    limit_gb: float | None = None,
    workers: int | None = None,
) -> Dataset:
    """The images of a listing, decoded once and kept in the cache.

    Args:
        listing: the files and their classes.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        cache: the pixels are kept in its folder `pixels`.
        name: of the data set.
        unreadable: what happens if files cannot be read: `refuse` or `skip`.
        limit_gb: gigabytes that the pixels may take; None: no limit.
        workers: threads that decode; None: one for each CPU.

    Returns:
        Samples in the order of the listing, pixels `n x R x R x c` as a read-only memory map, or decoded
        whenever they are read where they do not fit.

    Raises:
        DataError: images cannot be read, all of one class or with `refuse` any.
    """
    for note in listing.notes:
        log.warning(note)
    decoded = decoded_images(listing, preprocessing, cache=cache, limit_gb=limit_gb, workers=workers)
    if decoded.failures:
        named = first_of([f"{path}: {reason}" for path, reason in decoded.failures.items()])
        verb = "is not readable" if len(decoded.failures) == 1 else "are not readable"
        message = f"{len(decoded.failures)} of {len(listing.files)} images in {listing.root} {verb} ({named})"
        if unreadable == "refuse":
            raise DataError(message, "mend or delete what is named, or set `unreadable=skip` to leave it out")
        log.warning("%s: left out", message)
    files = [file for file in listing.files if file.path not in decoded.failures]
    labels = np.array([file.label for file in files], dtype=np.int64)
    lost = [name for label, name in enumerate(listing.class_names) if label not in labels]
    if lost or decoded.pixels is None:
        raise DataError(
            f"no image of class {lost[0]!r} in {listing.root} can be read, expected at least one",
            "mend its images or remove its folder",
        )
    twins = [rows for rows in decoded.same if len({files[row].label for row in rows}) > 1]
    shown = [" = ".join(files[row].path for row in rows) for rows in twins]
    warn_of_twins("image", str(listing.root), shown)
    parts = tuple(file.part for file in files) if listing.parts else ()
    return Dataset(
        name=name,
        class_names=listing.class_names,
        labels=labels,
        pixels=decoded.pixels,
        fingerprint=content_fingerprint(listing.class_names, labels, decoded.digest, parts),
        skipped=tuple(decoded.failures),
        origin=listing.origin or str(listing.root),
        licence=listing.licence,
        folder=listing.root if listing.read is None else None,
        paths=tuple(file.path for file in files),
        parts=parts,
    )
