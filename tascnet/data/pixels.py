"""Images decoded once, in parallel, into a memory-mapped array that later runs read."""

import hashlib
import os
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.arrays import make_room, open_array, write_array
from tascnet.data.decode import UnreadableImage, channel_mode, decode_image, square_pixels
from tascnet.data.listing import ImageFile, Listing
from tascnet.errors import BudgetError, DataError
from tascnet.models.info import Preprocessing
from tascnet.run.console import log, track
from tascnet.run.files import digest_json, read_json, write_json

FORMAT = 2
# Images in work for each worker; more would pile up in memory when the disk is slow.
AHEAD = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class DecodedWhenRead:
    """Takes the place of a data set's array `n x ...`, with the same values.

    Args:
        decode: gives the values of a row, from any thread.
        shape: of the array.
        workers: threads that decode.
    """

    def __init__(self, decode: Callable[[int], NDArray[Any]], shape: tuple[int, ...], workers: int) -> None:
        self.decode, self.shape, self.workers = decode, shape, workers

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Values of one row, or of an array of `b` rows, `b x ...`."""
        if np.ndim(rows) == 0:
            return self.decode(int(rows))
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(list(pool.map(self.decode, np.asarray(rows).tolist())))


class RowDigests:
    """Digests of rows in their order: of all together, and of each."""

    def __init__(self) -> None:
        self.each: list[bytes] = []
        self._all = hashlib.sha256()

    def add(self, row: NDArray[Any]) -> None:
        """Take the next row."""
        self._all.update(np.ascontiguousarray(row).data)
        self.each.append(digest_row(row))

    @property
    def digest(self) -> str:
        """Of all rows."""
        return self._all.hexdigest()[:32]

    @property
    def same(self) -> tuple[tuple[int, ...], ...]:
        """Rows that are equal, in groups of two and more."""
        groups: dict[bytes, list[int]] = defaultdict(list)
        for row, digest in enumerate(self.each):
            groups[digest].append(row)
        return tuple(tuple(rows) for rows in groups.values() if len(rows) > 1)


def digest_row(row: NDArray[Any]) -> bytes:
    """A short digest of a row's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """The pixels of all readable files of a listing, and why the others could not be read.

    Args:
        pixels: `n x R x R x c`, uint8, one row for each path that is not in `failures`, in their order, as a
            memory map or decoded when they are read; None if none could be read.
        failures: reason for each unreadable path.
        digest: of the pixels.
        same: rows with equal pixels, in groups of two and more.
    """

    pixels: NDArray[np.uint8] | DecodedWhenRead | None
    failures: dict[str, str]
    digest: str
    same: tuple[tuple[int, ...], ...]


def decoded_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    limit_gb: float | None = None,
    workers: int | None = None,
) -> Decoded:
    """Decode the files of a listing, or read what an earlier run decoded.

    A file is decoded again only if its path, size or time changed, or where the pixels do not fit: then all
    are decoded once to find those that cannot be read, and again whenever they are read.

    Args:
        listing: the files.
        preprocessing: side after resizing, interpolation and channels.
        cache: the pixels are kept in its folder `pixels`.
        limit_gb: gigabytes that this folder may take; None: no limit.
        workers: threads that decode; None: one for each CPU.

    Raises:
        ConfigError: neither one nor three channels are asked for.
    """
    channel_mode(preprocessing.channels)
    parts = [preprocessing.resize, preprocessing.interpolation, preprocessing.channels]
    key = digest_json([FORMAT, PIL.__version__, os.fspath(listing.root.resolve()), *parts])
    store = _Store(cache / "pixels" / key)
    complete = store.complete(listing)
    if complete is not None:
        return complete
    job = _DecodingJob(listing, preprocessing, store, workers or usable_cpus())
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
        rows = write_array(store.folder / name, shape, np.uint8, job.readable())
    except BudgetError as error:
        log.warning("%s: images are decoded whenever they are read, which is slower", error.message)
        rows = sum(1 for _ in job.readable())
        pixels = DecodedWhenRead(job.decode, (rows, *shape), job.workers) if rows else None
    else:
        store.write_index(name, job)
        pixels = open_array(store.folder / name, rows) if rows else None
    failures = {path: failure.reason for path, failure in job.failures.items()}
    return Decoded(pixels=pixels, failures=failures, digest=job.digests.digest, same=job.digests.same)


class _Store:
    """The pixels of an earlier run: an array, and an index of the files that it was made from.

    Each file of the index is a list: path, size, time, and its row or the reason why it is unreadable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[list[Any]] = []
        self.array, self.digest = "", ""
        self.same: tuple[tuple[int, ...], ...] = ()
        try:
            index = read_json(folder / "index.json")
            array, digest, files = index["array"], index["digest"], [list(file) for file in index["files"]]
            self.same = tuple(map(tuple, index["same"]))
            if isinstance(array, str) and isinstance(digest, str) and all(len(file) == 5 for file in files):
                self.array, self.digest, self.files = array, digest, files
        # A missing or damaged index is made again.
        except (OSError, ValueError, TypeError, KeyError):
            pass
        rows = sum(row is not None for *_, row, _ in self.files)
        self.pixels = open_array(folder / self.array, rows) if rows else None
        self.rows = {tuple(file[:3]): file[3] for file in self.files if file[3] is not None}
        self.failures = {tuple(file[:3]): file[4] for file in self.files if file[4] is not None}

    def complete(self, listing: Listing) -> Decoded | None:
        """All of a listing, if the index has exactly its files."""
        read = [tuple(file[:3]) for file in self.files if file[3] is not None or file[4] is not None]
        if read != [file.identity for file in listing.files] or (self.rows and self.pixels is None):
            return None
        failures = {path: reason for (path, *_), reason in self.failures.items()}
        return Decoded(pixels=self.pixels, failures=failures, digest=self.digest, same=self.same)

    def write_index(self, name: str, job: "_DecodingJob") -> None:
        """Write the index of a new array, and remove the old one."""
        files: list[list[Any]] = []
        row = 0
        for file in job.listing.files:
            failure = job.failures.get(file.path)
            if failure is None:
                files.append([*file.identity, row, None])
                row += 1
            # What may pass, such as a missing permission, is tried again by the next run.
            else:
                files.append([*file.identity, None, failure.reason if failure.lasting else None])
        same = [list(rows) for rows in job.digests.same]
        content = {"array": name, "digest": job.digests.digest, "same": same, "files": files}
        write_json(self.folder / "index.json", content)
        for old in self.folder.glob("*.npy"):
            if old.name != name:
                old.unlink(missing_ok=True)


class _DecodingJob:
    """Decodes the files of a listing that are not in a store."""

    def __init__(self, listing: Listing, preprocessing: Preprocessing, store: _Store, workers: int) -> None:
        self.listing, self.preprocessing, self.store, self.workers = listing, preprocessing, store, workers
        self.failures: dict[str, UnreadableImage] = {}
        self.rows: list[ImageFile] = []
        self.digests = RowDigests()

    def readable(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of readable files, `1 x R x R x c`; the others are noted in `failures`."""
        self.failures, self.rows, self.digests = {}, [], RowDigests()
        files = self.listing.files
        outcomes = _in_order(self._outcome, files, self.workers)
        with warnings.catch_warnings():
            # Pillow warns of images half as large as those that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for file, outcome in zip(files, track(outcomes, "decode images", len(files)), strict=True):
                if isinstance(outcome, UnreadableImage):
                    self.failures[file.path] = outcome
                else:
                    self.rows.append(file)
                    self.digests.add(outcome)
                    yield outcome[None]

    def decode(self, row: int) -> NDArray[np.uint8]:
        """The pixels of a row, `R x R x c`, as often as they are read."""
        pixels = self._outcome(self.rows[row])
        if isinstance(pixels, UnreadableImage):
            raise DataError(
                f"{self.rows[row].path} in {self.listing.root} was readable and is no more ({pixels.reason})",
                "put it back, or start again",
            )
        return pixels

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


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`function` of every item, in their order, by threads: Pillow decodes outside Python's lock."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
