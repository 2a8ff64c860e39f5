"""Arrays in files: written whole or not at all, read as memory maps, kept within a limit; their digests."""

import errno
import hashlib
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tascnet.errors import BudgetError
from tascnet.run.console import log
from tascnet.run.files import write_whole

GB = 1e9
# Files that a killed process left behind are removed by a later one, but none that may still be written to.
STALE_SECONDS = 600


class DecodedWhenRead:
    """Stands in for the array of a data set, `n x ...`, and decodes the same values whenever they are read.

    Args:
        decode: returns the values of a row; called from any thread.
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
    """Digests of rows in their order: one of all rows, and one of each."""

    def __init__(self) -> None:
        self.each: list[bytes] = []
        self._all = hashlib.sha256()

    def add(self, row: NDArray[Any]) -> None:
        self._all.update(np.ascontiguousarray(row).data)
        self.each.append(digest_row(row))

    @property
    def digest(self) -> str:
        """Of all rows."""
        return self._all.hexdigest()[:32]

    @property
    def same(self) -> tuple[tuple[int, ...], ...]:
        """Groups of two or more equal rows."""
        groups: dict[bytes, list[int]] = defaultdict(list)
        for row, digest in enumerate(self.each):
            groups[digest].append(row)
        return tuple(tuple(rows) for rows in groups.values() if len(rows) > 1)


def digest_row(row: NDArray[Any]) -> bytes:
    """A short digest of a row's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest()


def digest_array(array: NDArray[np.generic]) -> str:
    """A hexadecimal digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def write_array(
    path: Path, row_shape: tuple[int, ...], dtype: DTypeLike, chunks: Iterable[NDArray[Any]]
) -> NDArray[Any] | None:
    """Write chunks of rows, `m x row_shape` with any `m`, to a .npy file and open it; None without rows.

    Raises:
        BudgetError: the disk is full.
    """
    for left in path.parent.glob(".*.tmp"):
        # Another process may remove it first.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with open(temporary, "wb") as file:
            start = _write_header(file, (0, *row_shape), dtype)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk, dtype=dtype).data)
                count += len(chunk)
            file.seek(0)
            # numpy pads the header so that the first axis may grow without moving the data.
            assert _write_header(file, (count, *row_shape), dtype) == start

    try:
        write_whole(path, write)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BudgetError(
            f"the disk of {path.parent} is full", "free some space, or set `cache` to a folder elsewhere"
        ) from error
    return open_array(path, count)


def _write_header(file: Any, shape: tuple[int, ...], dtype: DTypeLike) -> int:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})
    return file.tell()


def open_array(path: Path, rows: int) -> NDArray[Any] | None:
    """A read-only memory map of a .npy file; None if it is missing, torn or has another number of rows."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.ndim == 0 or len(array) != rows:
        return None
    # `make_room` removes the files first that were used longest ago.
    with suppress(OSError):
        os.utime(path)
    return array


def make_room(
    folder: Path,
    needed: int,
    limit_gb: float | None,
    *,
    what: str,
    remedy: str,
    keep: Collection[Path] = (),
) -> None:
    """Remove the arrays of a folder that were used longest ago until `needed` bytes fit in the limit.

    Args:
        folder: holds .npy files, in sub-folders too.
        needed: bytes about to be written.
        limit_gb: gigabytes that the folder may take; None: only the disk limits it.
        what: what is about to be written, as the subject of a sentence.
        remedy: what makes it smaller.
        keep: files that are not removed; those in the folder count against the limit.

    Raises:
        BudgetError: it would not fit even then; nothing is removed.
    """
    if limit_gb is not None:
        kept = {path.resolve() for path in keep}
        entries = _least_recently_used(folder)
        in_use = sum(size for path, size in entries if path.resolve() in kept)
        if needed + in_use > limit_gb * GB:
            beside = f" in addition to {gigabytes(in_use)} in use" if in_use else ""
            # Rounded up to one decimal.
            enough = f"{-(-(needed + in_use) // 10**8) / 10:g}"
            raise BudgetError(
                f"{what} would take {gigabytes(needed)}{beside}, "
                f"expected at most {limit_gb:g} GB (`cache_limit_gb`)",
                f"raise the limit, for example `cache_limit_gb={enough}`, or {remedy}",
            )
        surplus = sum(size for _, size in entries) - (int(limit_gb * GB) - needed)
        for path, size in entries:
            if surplus > 0 and path.resolve() not in kept:
                log.info("removed %s from the cache to make room", path.name)
                path.unlink(missing_ok=True)
                surplus -= size
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise BudgetError(
            f"{what} would take {gigabytes(needed)}, but the disk of {folder} has {gigabytes(free)} left",
            f"free some space, set `cache` to a folder elsewhere, or {remedy}",
        )


def _least_recently_used(folder: Path) -> list[tuple[Path, int]]:
    """The arrays of a folder and their bytes, the one used longest ago first."""
    found: list[tuple[float, Path, int]] = []
    for path in folder.rglob("*.npy"):
        # Another process may remove it meanwhile.
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime, path, stat.st_size))
    return [(path, size) for _, path, size in sorted(found)]


def gigabytes(size: float) -> str:
    """A number of bytes as text: `1.3 GB`, `20 MB`."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(1, round(size / 1e6))} MB"
