"""Arrays in files: written whole or not at all, read as memory maps, kept within a limit."""

import errno
import os
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tascnet.errors import BudgetError
from tascnet.run.console import log
from tascnet.run.files import write_whole

GB = 1e9
# What a killed process left is removed by a later one, but nothing that may still be written to.
STALE_SECONDS = 600


def write_array(
    path: Path, row_shape: tuple[int, ...], dtype: DTypeLike, chunks: Iterable[NDArray[Any]]
) -> int:
    """Write rows as they come to a .npy file, whole or not at all.

    Args:
        path: the file.
        row_shape: shape of one row.
        dtype: element type.
        chunks: arrays `m x row_shape`; `m` may change from one to the next.

    Returns:
        The number of rows written.

    Raises:
        BudgetError: if the disk is full.
    """
    _remove_stale(path.parent)
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
            f"the disk of {path.parent} is full", "free some space, or set cache_dir to a folder elsewhere"
        ) from error
    return count


def open_array(path: Path, rows: int) -> NDArray[Any] | None:
    """A read-only memory map of a .npy file, or None if it is missing, torn or has another number of rows."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.ndim == 0 or len(array) != rows:
        return None
    # The time of last use decides which file goes first when room is needed.
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
        limit_gb: gigabytes that the folder may take; None: as many as the disk has.
        what: what is about to be written, as the subject of a sentence.
        remedy: what makes it smaller, beside a higher limit.
        keep: files that stay; those in the folder count against the limit.

    Raises:
        BudgetError: if it does not fit even then; nothing is removed.
    """
    if limit_gb is not None:
        stays = {path.resolve() for path in keep}
        entries = _entries(folder)
        kept = sum(size for path, size in entries if path.resolve() in stays)
        if needed + kept > limit_gb * GB:
            beside = f" beside {gigabytes(kept)} that is in use" if kept else ""
            raise BudgetError(
                f"{what} would take {gigabytes(needed)}{beside}, "
                f"expected at most {limit_gb:g} GB (cache_limit_gb)",
                f"raise the limit, for example cache_limit_gb={_enough(needed + kept)}, or {remedy}",
            )
        _evict(entries, int(limit_gb * GB) - needed, stays)
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise BudgetError(
            f"{what} would take {gigabytes(needed)}, but the disk of {folder} has {gigabytes(free)} left",
            f"free some space, set cache_dir to a folder elsewhere, or {remedy}",
        )


def gigabytes(size: float) -> str:
    """A number of bytes as text: `1.3 GB`, `20 MB`."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(1, round(size / 1e6))} MB"


def _write_header(file: Any, shape: tuple[int, ...], dtype: DTypeLike) -> int:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})
    return file.tell()


def _enough(needed: int) -> str:
    """The limit in GB that suffices, rounded up to one decimal."""
    return f"{-(-needed // 10**8) / 10:g}"


def _entries(folder: Path) -> list[tuple[Path, int]]:
    """The arrays of a folder with their bytes, the one used longest ago first."""
    found = [(path, stat) for path in folder.rglob("*.npy") if (stat := _stat(path)) is not None]
    found.sort(key=lambda entry: entry[1].st_mtime)
    return [(path, stat.st_size) for path, stat in found]


def _evict(entries: Sequence[tuple[Path, int]], allowed: int, stays: Collection[Path]) -> None:
    total = sum(size for _, size in entries)
    for path, size in entries:
        if total <= allowed:
            return
        if path.resolve() not in stays:
            log.info("removed %s from the cache to make room", path.name)
            path.unlink(missing_ok=True)
            total -= size


def _stat(path: Path) -> os.stat_result | None:
    """None if another process just removed the file."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        stat = _stat(path)
        if stat is not None and time.time() - stat.st_mtime > STALE_SECONDS:
            path.unlink(missing_ok=True)
