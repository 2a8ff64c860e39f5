"""Images decoded once, in parallel, into a memory-mapped array that later runs read."""

import hashlib
import os
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.arrays import make_room, open_array, write_array
from tascnet.data.decode import UnreadableImage, channel_mode, decode_image, square_pixels
from tascnet.data.listing import ImageFile, Listing
from tascnet.data.when_read import DecodedWhenRead
from tascnet.errors import BudgetError, DataError
from tascnet.models.info import Preprocessing
from tascnet.run.console import log, track
from tascnet.run.files import digest_json, read_json, write_json

FORMAT = 2
# Images in work for each worker; more would pile up in memory when the disk is slow.
AHEAD = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """The pixels of all readable files of a listing, and why the others could not be read.

    Args:
        pixels: `n x R x R x c`, uint8, one row for each path that is not in `failures`, in their order, as a
            memory map or decoded when they are read; None if none could be read.
        failures: reason for each unreadable path.
        digest: digest of the pixels.
        same: rows with equal pixels, in groups of two and more.
    """

    pixels: NDArray[np.uint8] | DecodedWhenRead | None
    failures: dict[str, str]
    digest: str
    same: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """What an earlier run found out about files that have not changed since."""

    rows: dict[tuple[str, int, int], int] = field(default_factory=dict)
    failures: dict[tuple[str, int, int], str] = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None


class _Found:
    """Digests of rows as they come: of all together, and of each, to tell equal ones."""

    def __init__(self) -> None:
        self._all = hashlib.sha256()
        self._rows: dict[bytes, list[int]] = defaultdict(list)
        self._count = 0

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Take the next row."""
        content = np.ascontiguousarray(pixels).data
        self._all.update(content)
        self._rows[hashlib.blake2b(content, digest_size=16).digest()].append(self._count)
        self._count += 1

    @property
    def digest(self) -> str:
        """Of all rows."""
        return self._all.hexdigest()[:32]

    @property
    def same(self) -> tuple[tuple[int, ...], ...]:
        """Groups of equal rows."""
        return tuple(tuple(rows) for rows in self._rows.values() if len(rows) > 1)


def decoded_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    keep: str = "auto",
    limit_gb: float | None = None,
    workers: int | None = None,
) -> Decoded:
    """Decode the files of a listing, or read what an earlier run decoded.

    A file is decoded again only if its path, size or time changed, or where pixels are not kept: then all are
    decoded once to find those that cannot be read, and again whenever they are.

    Args:
        listing: the files.
        preprocessing: side after resizing, interpolation and channels.
        cache_dir: the pixels are kept in its folder `pixels`.
        keep: `always`, `never`, or `auto`: if they fit.
        limit_gb: gigabytes that this folder may take; None: no limit.
        workers: threads that decode; None: one for each CPU.

    Returns:
        Pixels and failures.

    Raises:
        BudgetError: if the pixels are always to be kept, and would take more than the limit or the disk
            allows.
        ConfigError: if neither one nor three channels are asked for.
    """
    channel_mode(preprocessing.channels)
    workers = workers or usable_cpus()
    if keep == "never":
        return _decode_when_read(listing, preprocessing, workers)
    store = cache_dir / "pixels" / _key(listing.root, preprocessing)
    index = _read_index(store)
    try:
        return _complete(store, index, listing) or _decode(
            store, index, listing, preprocessing, limit_gb, workers
        )
    except BudgetError as error:
        if keep == "always":
            raise
        log.warning("%s: images are decoded whenever they are read, which is slower", error.message)
        return _decode_when_read(listing, preprocessing, workers)


def _key(root: Path, preprocessing: Preprocessing) -> str:
    parts = [preprocessing.resize, preprocessing.interpolation, preprocessing.channels]
    return digest_json([FORMAT, PIL.__version__, os.fspath(root.resolve()), *parts])


def _read_index(store: Path) -> dict[str, Any]:
    """The index of a store; an empty one if it is missing or damaged."""
    try:
        index = read_json(store / "index.json")
        whole = isinstance(index["array"], str) and all(len(file) == 5 for file in index["files"])
        return index if whole and isinstance(index["digest"], str) and _are_groups(index["same"]) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _are_groups(same: Any) -> bool:
    return isinstance(same, list) and all(isinstance(group, list) for group in same)


def _pixels_of(store: Path, index: dict[str, Any]) -> NDArray[np.uint8] | None:
    rows = sum(row is not None for *_, row, _ in index.get("files", ()))
    return open_array(store / index["array"], rows) if rows else None


def _complete(store: Path, index: dict[str, Any], listing: Listing) -> Decoded | None:
    """What the index says, if it knows exactly the files of the listing."""
    files = index.get("files", ())
    known = [tuple(file[:3]) for file in files if file[3] is not None or file[4] is not None]
    if known != [file.identity for file in listing.files]:
        return None
    failures = {path: reason for path, *_, reason in files if reason is not None}
    pixels = _pixels_of(store, index)
    if pixels is None and len(failures) < len(files):
        return None
    return Decoded(
        pixels=pixels, failures=failures, digest=index["digest"], same=tuple(map(tuple, index["same"]))
    )


def _known(store: Path, index: dict[str, Any]) -> _Known:
    files = index.get("files", ())
    failures = {tuple(file[:3]): file[4] for file in files if file[4] is not None}
    pixels = _pixels_of(store, index)
    rows = {tuple(file[:3]): file[3] for file in files if file[3] is not None and pixels is not None}
    return _Known(rows=rows, failures=failures, pixels=pixels)


def _decode(
    store: Path,
    index: dict[str, Any],
    listing: Listing,
    preprocessing: Preprocessing,
    limit_gb: float | None,
    workers: int,
) -> Decoded:
    known = _known(store, index)
    row_shape = (preprocessing.resize, preprocessing.resize, preprocessing.channels)
    make_room(
        store.parent,
        len(listing.files) * int(np.prod(row_shape)),
        limit_gb,
        what=f"the {len(listing.files)} decoded images of {listing.root}",
        remedy="lower backbone.resize and backbone.size",
        keep=[store / index["array"]] if known.pixels is not None else [],
    )

    def outcome(file: ImageFile) -> NDArray[np.uint8] | UnreadableImage:
        return _outcome(file, known, listing, preprocessing)

    name = f"{digest_json([file.identity for file in listing.files])}.npy"
    failures: dict[str, UnreadableImage] = {}
    found = _Found()
    with _quiet_bombs():
        chunks = _readable(listing.files, _in_order(outcome, listing.files, workers), failures, found)
        rows = write_array(store / name, row_shape, np.uint8, chunks)
    _write_index(store, name, found, listing, failures)
    reasons = {path: failure.reason for path, failure in failures.items()}
    pixels = open_array(store / name, rows) if rows else None
    return Decoded(pixels=pixels, failures=reasons, digest=found.digest, same=found.same)


def _decode_when_read(listing: Listing, preprocessing: Preprocessing, workers: int) -> Decoded:
    """Nothing is kept but what tells the images apart."""
    failures: dict[str, UnreadableImage] = {}
    found = _Found()

    def outcome(file: ImageFile) -> NDArray[np.uint8] | UnreadableImage:
        return _outcome(file, _Known(), listing, preprocessing)

    with _quiet_bombs():
        for _ in _readable(listing.files, _in_order(outcome, listing.files, workers), failures, found):
            pass
    files = [file for file in listing.files if file.path not in failures]

    def decode(row: int) -> NDArray[np.uint8]:
        pixels = outcome(files[row])
        if isinstance(pixels, UnreadableImage):
            raise DataError(
                f"{files[row].path} in {listing.root} was readable and is no more ({pixels.reason})",
                "put it back, or start again",
            )
        return pixels

    shape = (len(files), preprocessing.resize, preprocessing.resize, preprocessing.channels)
    return Decoded(
        pixels=DecodedWhenRead(decode, shape, workers) if files else None,
        failures={path: failure.reason for path, failure in failures.items()},
        digest=found.digest,
        same=found.same,
    )


@contextmanager
def _quiet_bombs() -> Iterator[None]:
    """Pillow warns of images half as large as those that it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _outcome(
    file: ImageFile, known: _Known, listing: Listing, preprocessing: Preprocessing
) -> NDArray[np.uint8] | UnreadableImage:
    if known.pixels is not None and file.identity in known.rows:
        return known.pixels[known.rows[file.identity]]
    if file.identity in known.failures:
        return UnreadableImage(known.failures[file.identity])
    if listing.read is not None:
        return square_pixels(Image.fromarray(listing.read(file.path)), preprocessing)
    try:
        return decode_image(listing.root / file.path, preprocessing)
    except UnreadableImage as failure:
        return failure


def _readable(
    files: Iterable[ImageFile],
    outcomes: Iterable[NDArray[np.uint8] | UnreadableImage],
    failures: dict[str, UnreadableImage],
    found: _Found,
) -> Iterator[NDArray[np.uint8]]:
    """The pixels of readable files, `1 x R x R x c`; the others are noted in `failures`."""
    files = list(files)
    for file, outcome in zip(files, track(outcomes, "decode images", len(files)), strict=True):
        if isinstance(outcome, UnreadableImage):
            failures[file.path] = outcome
        else:
            found.add(outcome)
            yield outcome[None]


def _write_index(
    store: Path, name: str, found: _Found, listing: Listing, failures: dict[str, UnreadableImage]
) -> None:
    files: list[list[Any]] = []
    row = 0
    for file in listing.files:
        failure = failures.get(file.path)
        if failure is None:
            files.append([*file.identity, row, None])
            row += 1
        # What may pass, such as a missing permission, is tried again by the next run.
        else:
            files.append([*file.identity, None, failure.reason if failure.lasting else None])
    same = [list(group) for group in found.same]
    write_json(store / "index.json", {"array": name, "digest": found.digest, "same": same, "files": files})
    for old in store.glob("*.npy"):
        if old.name != name:
            old.unlink(missing_ok=True)


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
