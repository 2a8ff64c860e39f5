"""Listed images as a data set: decoded once, in parallel, into a memory-mapped array that later runs read."""

import os
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.arrays import (
    Again,
    CheckedArray,
    DecodedWhenRead,
    RowDigests,
    make_room,
    open_array,
    remove_array,
    write_array,
)
from tascnet.data.copies import equal_rows
from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.listing import ImageFile, Listing, first_of, twin_images, warn_of_twins
from tascnet.errors import BudgetError, DamagedFile, DataError
from tascnet.models.preprocessing import (
    Decoded,
    Preprocessing,
    UnreadableImage,
    decode_image,
    decode_picture,
)
from tascnet.options import usable_cpus
from tascnet.run.console import log, track
from tascnet.run.files import digest_json, read_checked, write_checked
from tascnet.run.parallel import in_order

FORMAT = 3
# Of an index: about 300 for each image.
MOST_BYTES = 4_000_000_000
# Images in work for each worker; more would pile up in memory when the disk is slow.
AHEAD = 8


def load_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    name: str = "image_folder",
    unreadable: str = "refuse",
    extra_channels: str = "refuse",
    limit_gb: float | None = None,
) -> Dataset:
    """The images of a listing, decoded once and kept in the cache.

    A later run decodes only files whose path, size or time changed. Where the pixels do not fit, all files
    are decoded once to find those that cannot be read, and again whenever they are read.

    Args:
        preprocessing: side `R` after resizing, interpolation and channels `c`.
        cache: the pixels are kept in its folder `pixels`.
        unreadable: what happens to files that cannot be read: `refuse` or `skip`.
        extra_channels: what happens to images with more channels than a network takes: `refuse` or `drop`.
        limit_gb: gigabytes that the folder may take; None: no limit.

    Raises:
        DataError: no image of a class can be read, or with `refuse` an image cannot.
        ConfigError: the preprocessing has neither one nor three channels.
    """
    for note in listing.notes:
        log.warning(note)
    decoded = _decoded(listing, preprocessing, cache, limit_gb, extra_channels)
    if decoded.failures:
        named = first_of([f"{path}: {reason}" for path, reason in decoded.failures.items()])
        verb = "is not readable" if len(decoded.failures) == 1 else "are not readable"
        message = f"{len(decoded.failures)} of {len(listing.files)} images in {listing.root} {verb} ({named})"
        if unreadable == "refuse":
            raise DataError(message, "repair or delete these files, or leave them out by `unreadable=skip`")
        log.warning("%s: left out", message)
    files = [file for file in listing.files if file.path not in decoded.failures]
    labels = np.array([file.label for file in files], dtype=np.int64)
    lost = [name for label, name in enumerate(listing.class_names) if label not in labels]
    if lost or decoded.pixels is None:
        raise DataError(
            f"no image of class {lost[0]!r} in {listing.root} can be read, expected at least one",
            "repair its images or remove its folder",
        )
    twins = twin_images(equal_rows(decoded.digests), labels, lambda row: files[row].path)
    warn_of_twins("image", str(listing.root), twins)
    parts = tuple(file.part for file in files) if listing.parts else ()
    return Dataset(
        name=name,
        class_names=listing.class_names,
        labels=labels,
        pixels=decoded.pixels,
        fingerprint=content_fingerprint(listing.class_names, labels, decoded.digest, decoded.digests, parts),
        digests=decoded.digests,
        phashes=decoded.phashes,
        skipped=tuple(decoded.failures),
        passed_over=listing.passed_over,
        origin=listing.origin or str(listing.root),
        licence=listing.licence,
        folder=listing.root if listing.read is None else None,
        paths=tuple(file.path for file in files),
        parts=parts,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """The readable files of a listing, one row each, and why the others could not be read.

    Args:
        pixels: `n x R x R x c`, uint8; None if no file is readable.
        failures: the reason for each unreadable path.
        digest: of the pixels.
        digests: of each row's image at full size.
        phashes: perceptual hash of each row's image.
    """

    pixels: CheckedArray | DecodedWhenRead | None
    failures: dict[str, str]
    digest: str
    digests: tuple[str, ...]
    phashes: tuple[int | None, ...]


def _decoded(
    listing: Listing, preprocessing: Preprocessing, cache: Path, limit_gb: float | None, extra_channels: str
) -> _Decoded:
    parts = [preprocessing.resize, preprocessing.interpolation, preprocessing.crop]
    parts += [preprocessing.channels, extra_channels]
    key = digest_json([FORMAT, PIL.__version__, os.fspath(listing.root.resolve()), *parts])
    store = _Store(cache / "pixels" / key)
    job = _DecodingJob(listing, preprocessing, store, extra_channels)
    complete = store.complete(listing, lambda _: job.again(store.digest))
    if complete is not None:
        return complete
    shape = (preprocessing.resize, preprocessing.resize, preprocessing.channels)
    name = f"{digest_json([file.identity for file in listing.files])}.npy"
    pixels: CheckedArray | DecodedWhenRead | None
    try:
        make_room(
            store.folder.parent,
            len(listing.files) * int(np.prod(shape)),
            limit_gb,
            what=f"the {len(listing.files)} decoded images of {listing.root}",
            remedy="lower `resize` and `size`",
            keep=[store.folder / store.array] if store.pixels is not None else [],
        )
        pixels = write_array(
            store.folder / name, shape, np.uint8, job.readable(), lambda _: job.again(job.digests.digest)
        )
    except BudgetError as error:
        log.warning("%s: images are decoded whenever they are read, which is slower", error.message)
        rows = sum(1 for _ in job.readable())
        pixels = DecodedWhenRead(job.decode, (rows, *shape), usable_cpus()) if rows else None
    else:
        store.write_index(name, job)
    failures = {path: failure.reason for path, failure in job.failures.items()}
    digests, phashes = _columns(job.hashes)
    return _Decoded(
        pixels=pixels, failures=failures, digest=job.digests.digest, digests=digests, phashes=phashes
    )


def _columns(hashes: Collection[tuple[str, int | None]]) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """Digests and perceptual hashes of rows."""
    return tuple(digest for digest, _ in hashes), tuple(phash for _, phash in hashes)


class _Store:
    """The pixels of an earlier run: an array, and an index of the files that it was made from.

    A file of the index is a list of path, size and time, and of either digest and perceptual hash of its
    image, or None and why it is unreadable. Readable files are the rows of the array, in their order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = read_checked(folder / "index.json", most=MOST_BYTES)
            files = [(tuple(identity), digest, more) for *identity, digest, more in index["files"]]
            self.hashes = {identity: (digest, more) for identity, digest, more in files if digest is not None}
            self.failures = {
                identity: more for identity, digest, more in files if digest is None and more is not None
            }
            self.array, self.digest = str(index["array"]), str(index["pixels"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be used (%s): images are decoded again", folder / "index.json", error)
            files, self.hashes, self.failures, self.array, self.digest = [], {}, {}, "", ""
        self.rows = {identity: row for row, identity in enumerate(self.hashes)}
        self.files = [
            identity for identity, *_ in files if identity in self.rows or identity in self.failures
        ]
        self.pixels = open_array(folder / self.array, len(self.rows)) if self.rows else None

    def complete(self, listing: Listing, again: Again) -> _Decoded | None:
        """All of a listing, if the index has exactly its files; `again` decodes damaged ones again."""
        if self.files != [file.identity for file in listing.files] or (self.rows and self.pixels is None):
            return None
        pixels = open_array(self.folder / self.array, len(self.rows), again) if self.rows else None
        failures = {path: reason for (path, *_), reason in self.failures.items()}
        digests, phashes = _columns(self.hashes.values())
        return _Decoded(
            pixels=pixels, failures=failures, digest=self.digest, digests=digests, phashes=phashes
        )

    def outcome(self, file: ImageFile) -> Decoded | UnreadableImage | None:
        """What came of a file in an earlier run; None if it is new, or its pixels are damaged."""
        pixels = self.pixels
        if pixels is not None and file.identity in self.rows:
            try:
                return Decoded(pixels[self.rows[file.identity]], *self.hashes[file.identity])
            except DamagedFile as error:
                if self.pixels is not None:
                    self.pixels = None
                    log.warning("%s: images are decoded again", error.message)
        reason = self.failures.get(file.identity)
        return None if reason is None else UnreadableImage(reason)

    def write_index(self, name: str, job: "_DecodingJob") -> None:
        """Write the index of a new array, and remove the old array."""
        hashes = iter(job.hashes)
        files = []
        for file in job.listing.files:
            failure = job.failures.get(file.path)
            # A failure that may pass, such as a missing permission, is tried again by the next run.
            reason = failure.reason if failure is not None and failure.lasting else None
            files.append([*file.identity, *(next(hashes) if failure is None else (None, reason))])
        content = {"array": name, "pixels": job.digests.digest, "files": files}
        write_checked(self.folder / "index.json", content)
        for old in self.folder.glob("*.npy"):
            if old.name != name:
                remove_array(old)


class _DecodingJob:
    """Decodes the files of a listing that are not in a store."""

    def __init__(
        self, listing: Listing, preprocessing: Preprocessing, store: _Store | None, extra_channels: str
    ) -> None:
        self.listing, self.preprocessing, self.store = listing, preprocessing, store
        self.extra_channels = extra_channels
        self.failures: dict[str, UnreadableImage] = {}
        self.rows: list[ImageFile] = []
        self.digests = RowDigests()
        self.hashes: list[tuple[str, int | None]] = []

    def readable(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of readable files, `1 x R x R x c`; `failures` collects the others."""
        self.failures, self.rows, self.digests, self.hashes = {}, [], RowDigests(), []
        files = self.listing.files
        with warnings.catch_warnings():
            # Pillow warns of images half as large as those that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for file, outcome in zip(
                files, track(self._outcomes(), "decode images", len(files)), strict=True
            ):
                if isinstance(outcome, UnreadableImage):
                    self.failures[file.path] = outcome
                else:
                    self.rows.append(file)
                    self.digests.add(outcome.pixels)
                    self.hashes.append((outcome.digest, outcome.phash))
                    yield outcome.pixels[None]

    def again(self, digest: str) -> Iterator[NDArray[np.uint8]]:
        """The pixels with this digest, all of them decoded once more."""
        job = _DecodingJob(self.listing, self.preprocessing, None, self.extra_channels)
        yield from job.readable()
        if job.digests.digest != digest:
            raise DataError(
                f"the images of {self.listing.root} have changed since they were read", "start again"
            )

    def decode(self, row: int) -> NDArray[np.uint8]:
        """The pixels of a row, `R x R x c`, decoded again."""
        outcome = self._outcome(self.rows[row])
        if isinstance(outcome, UnreadableImage):
            raise DataError(
                f"{self.rows[row].path} in {self.listing.root} can no longer be read ({outcome.reason})",
                "restore it, or start again",
            )
        return outcome.pixels

    def _outcomes(self) -> Iterator[Decoded | UnreadableImage]:
        """What came of each file, in order; threads decode, because Pillow works outside Python's lock."""
        workers = usable_cpus()
        found = in_order(
            self.listing.files, self._outcome, workers=workers, window=AHEAD * workers, name="decode"
        )
        return (outcome for _, outcome in found)

    def _outcome(self, file: ImageFile) -> Decoded | UnreadableImage:
        listing, known = self.listing, None if self.store is None else self.store.outcome(file)
        if known is not None:
            return known
        if listing.read is not None:
            return decode_picture(Image.fromarray(listing.read(file.path)), self.preprocessing)
        try:
            path = listing.root / file.path
            return decode_image(path, self.preprocessing, extra_channels=self.extra_channels)
        except UnreadableImage as failure:
            return failure
