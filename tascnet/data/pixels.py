"""Listed images as a data set: decoded once, in parallel, into a memory-mapped array that later runs read."""

import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.arrays import DecodedWhenRead, RowDigests, make_room, open_array, write_array
from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.decode import UnreadableImage, decode_image, square_pixels
from tascnet.data.listing import ImageFile, Listing, first_of, twin_images, warn_of_twins
from tascnet.errors import BudgetError, DataError
from tascnet.models.info import Preprocessing
from tascnet.run.console import log, track
from tascnet.run.files import digest_json, read_json, write_json

FORMAT = 2
# Images in work for each worker; more would pile up in memory when the disk is slow.
AHEAD = 8


def load_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    name: str = "image_folder",
    unreadable: str = "refuse",
    limit_gb: float | None = None,
) -> Dataset:
    """The images of a listing, decoded once and kept in the cache.

    A later run decodes only files whose path, size or time changed. Where the pixels do not fit, all files
    are decoded once to find those that cannot be read, and again whenever they are read.

    Args:
        preprocessing: side `R` after resizing, interpolation and channels `c`.
        cache: the pixels are kept in its folder `pixels`.
        unreadable: what happens to files that cannot be read: `refuse` or `skip`.
        limit_gb: gigabytes that the folder may take; None: no limit.

    Raises:
        DataError: no image of a class can be read, or with `refuse` an image cannot.
        ConfigError: the preprocessing has neither one nor three channels.
    """
    for note in listing.notes:
        log.warning(note)
    decoded = _decoded(listing, preprocessing, cache, limit_gb)
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
    twins = twin_images(decoded.same, labels, lambda row: files[row].path)
    warn_of_twins("image", str(listing.root), twins)
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


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """The readable files of a listing, one row each, and why the others could not be read.

    Args:
        pixels: `n x R x R x c`, uint8; None if no file is readable.
        failures: the reason for each unreadable path.
        digest: of the pixels.
        same: groups of two or more rows with equal pixels.
    """

    pixels: NDArray[np.uint8] | DecodedWhenRead | None
    failures: dict[str, str]
    digest: str
    same: tuple[tuple[int, ...], ...]


def _decoded(listing: Listing, preprocessing: Preprocessing, cache: Path, limit_gb: float | None) -> _Decoded:
    parts = [preprocessing.resize, preprocessing.interpolation, preprocessing.channels]
    key = digest_json([FORMAT, PIL.__version__, os.fspath(listing.root.resolve()), *parts])
    store = _Store(cache / "pixels" / key)
    complete = store.complete(listing)
    if complete is not None:
        return complete
    job = _DecodingJob(listing, preprocessing, store)
    shape = (preprocessing.resize, preprocessing.resize, preprocessing.channels)
    name = f"{digest_json([file.identity for file in listing.files])}.npy"
    pixels: NDArray[np.uint8] | DecodedWhenRead | None
    try:
        make_room(
            store.folder.parent,
            len(listing.files) * int(np.prod(shape)),
            limit_gb,
            what=f"the {len(listing.files)} decoded images of {listing.root}",
            remedy="lower `resize` and `size`",
            keep=[store.folder / store.array] if store.pixels is not None else [],
        )
        pixels = write_array(store.folder / name, shape, np.uint8, job.readable())
    except BudgetError as error:
        log.warning("%s: images are decoded whenever they are read, which is slower", error.message)
        rows = sum(1 for _ in job.readable())
        pixels = DecodedWhenRead(job.decode, (rows, *shape), usable_cpus()) if rows else None
    else:
        store.write_index(name, job)
    failures = {path: failure.reason for path, failure in job.failures.items()}
    return _Decoded(pixels=pixels, failures=failures, digest=job.digests.digest, same=job.digests.same)


class _Store:
    """The pixels of an earlier run: an array, and an index of the files that it was made from.

    A file of the index is a list of path, size, time, row or None, and why it is unreadable or None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.same: tuple[tuple[int, ...], ...]
        try:
            index = read_json(folder / "index.json")
            files = [(tuple(identity), row, reason) for *identity, row, reason in index["files"]]
            self.array, self.digest = str(index["array"]), str(index["digest"])
            self.same = tuple(map(tuple, index["same"]))
        # A missing or damaged index is written again.
        except (OSError, ValueError, TypeError, KeyError):
            files, self.array, self.digest, self.same = [], "", "", ()
        self.rows = {identity: row for identity, row, _ in files if row is not None}
        self.failures = {identity: reason for identity, _, reason in files if reason is not None}
        self.files = [
            identity for identity, *_ in files if identity in self.rows or identity in self.failures
        ]
        self.pixels = open_array(folder / self.array, len(self.rows)) if self.rows else None

    def complete(self, listing: Listing) -> _Decoded | None:
        """All of a listing, if the index has exactly its files."""
        if self.files != [file.identity for file in listing.files] or (self.rows and self.pixels is None):
            return None
        failures = {path: reason for (path, *_), reason in self.failures.items()}
        return _Decoded(pixels=self.pixels, failures=failures, digest=self.digest, same=self.same)

    def write_index(self, name: str, job: "_DecodingJob") -> None:
        """Write the index of a new array, and remove the old array."""
        rows = count()
        files = []
        for file in job.listing.files:
            failure = job.failures.get(file.path)
            # A failure that may pass, such as a missing permission, is tried again by the next run.
            reason = failure.reason if failure is not None and failure.lasting else None
            files.append([*file.identity, next(rows) if failure is None else None, reason])
        content = {"array": name, "digest": job.digests.digest, "same": job.digests.same, "files": files}
        write_json(self.folder / "index.json", content)
        for old in self.folder.glob("*.npy"):
            if old.name != name:
                old.unlink(missing_ok=True)


class _DecodingJob:
    """Decodes the files of a listing that are not in a store."""

    def __init__(self, listing: Listing, preprocessing: Preprocessing, store: _Store) -> None:
        self.listing, self.preprocessing, self.store = listing, preprocessing, store
        self.failures: dict[str, UnreadableImage] = {}
        self.rows: list[ImageFile] = []
        self.digests = RowDigests()

    def readable(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of readable files, `1 x R x R x c`; `failures` collects the others."""
        self.failures, self.rows, self.digests = {}, [], RowDigests()
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
                    self.digests.add(outcome)
                    yield outcome[None]

    def decode(self, row: int) -> NDArray[np.uint8]:
        """The pixels of a row, `R x R x c`, decoded again."""
        pixels = self._outcome(self.rows[row])
        if isinstance(pixels, UnreadableImage):
            raise DataError(
                f"{self.rows[row].path} in {self.listing.root} can no longer be read ({pixels.reason})",
                "restore it, or start again",
            )
        return pixels

    def _outcomes(self) -> Iterator[NDArray[np.uint8] | UnreadableImage]:
        """What came of each file, in order; threads decode, because Pillow works outside Python's lock."""
        workers = usable_cpus()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[Future[NDArray[np.uint8] | UnreadableImage]] = deque()
        try:
            for file in self.listing.files:
                waiting.append(pool.submit(self._outcome, file))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _outcome(self, file: ImageFile) -> NDArray[np.uint8] | UnreadableImage:
        store, listing = self.store, self.listing
        if store.pixels is not None and file.identity in store.rows:
            return store.pixels[store.rows[file.identity]]
        if file.identity in store.failures:
            return UnreadableImage(store.failures[file.identity])
        if listing.read is not None:
            return square_pixels(Image.fromarray(listing.read(file.path)), self.preprocessing)
        try:
            return decode_image(listing.root / file.path, self.preprocessing)
        except UnreadableImage as failure:
            return failure
