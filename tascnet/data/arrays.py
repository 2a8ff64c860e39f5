"""Arrays in files: written whole or not at all, read as memory maps, kept within a limit; their digests."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tascnet.errors import BudgetError, CacheLimitError, DamagedFile, first_line
from tascnet.run.console import log
from tascnet.run.files import check_regular, read_checked, remove_leftovers, whole_file, write_checked

GB = 1e9
# Bytes that share a digest: few enough to be read for one row, enough for few digests.
BLOCK_BYTES = 1 << 22
# Which blocks this process has compared with their digests, by device, inode and time of the file.
_COMPARED: dict[tuple[int, int, int], NDArray[np.bool_]] = {}

# Makes the rows of an array again, in chunks, with the element type given.
Again: TypeAlias = Callable[[np.dtype[Any]], Iterable[NDArray[Any]]]


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


def digest_row(row: NDArray[Any]) -> bytes:
    """A short digest of a row's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest()


def digest_array(array: NDArray[np.generic]) -> str:
    """A hexadecimal digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


class CheckedArray:
    """An array in a file, `n x ...`, read-only; each block is compared with its digest when it is first read.

    A damaged file is made again, whole.

    Args:
        path: of an array that `write_array` wrote.
        again: makes its rows again; None: damage is an error.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what was written, or its digests are not or cannot be read.
    """

    def __init__(self, path: Path, again: Again | None = None) -> None:
        self.path, self._again, self._lock = path, again, Lock()
        self._open()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Values of one row, of a slice, or of an array of `b` rows, `b x ...`.

        Raises:
            DamagedFile: they are damaged and could not be made again.
        """
        if not self._is_compared:
            self._compare(rows)
        return self._values[rows]

    def _open(self) -> None:
        check_regular(self.path)
        digests = _digests_path(self.path)
        try:
            self._written = read_checked(digests)
        except (OSError, ValueError) as error:
            raise ValueError(f"{digests.name}: {error}") from error
        self._values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if self._written | _described(self.path, self.shape, self.dtype) != self._written:
            raise ValueError("it is not the array that was written")
        blocks = np.zeros(len(self._written["blocks"]), dtype=bool)
        self._compared = _COMPARED.pop(_state(self.path), blocks)
        # `make_room` removes the files first that were used longest ago.
        with suppress(OSError):
            now = time.time_ns()
            os.utime(self.path, ns=(now, now))
        _COMPARED[_state(self.path)] = self._compared
        self._is_compared = bool(self._compared.all())

    def _compare(self, rows: Any) -> None:
        """Compare the blocks of some rows with their digests; if one differs the file is made again."""
        with self._lock:
            if not self._are_right(rows):
                self._make_again()
                if not self._are_right(rows):
                    raise DamagedFile(
                        f"{self.path} is damaged again right after it was written", "check the disk"
                    )
            self._is_compared = bool(self._compared.all())

    def _are_right(self, rows: Any) -> bool:
        size = self._written["rows"]
        wanted = np.unique(np.arange(len(self))[rows] // size)
        for block in wanted[~self._compared[wanted]].tolist():
            digest = hashlib.sha256(
                np.ascontiguousarray(self._values[block * size : (block + 1) * size]).data
            )
            if digest.hexdigest() != self._written["blocks"][block]:
                return False
            self._compared[block] = True
        return True

    def _make_again(self) -> None:
        if self._again is None:
            raise DamagedFile(f"{self.path} was changed or damaged after it was written", "delete it")
        log.warning("%s was changed or damaged after it was written: it is made again", self.path)
        shape, dtype = self.shape, self.dtype
        remove_array(self.path)
        write_arrays({self.path: shape[1:]}, dtype, ((chunk,) for chunk in self._again(dtype)))
        self._open()
        assert self.shape == shape, "what is made again has as many rows"


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns


def _digests_path(path: Path) -> Path:
    """The file beside an array that holds the digests of its blocks."""
    return path.with_suffix(".digests.json")


def _described(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> dict[str, Any]:
    return {"array": path.name, "shape": list(shape), "dtype": np.dtype(dtype).str}


def remove_array(path: Path) -> None:
    """Remove an array and its digests."""
    path.unlink(missing_ok=True)
    _digests_path(path).unlink(missing_ok=True)


def write_array(
    path: Path,
    row_shape: tuple[int, ...],
    dtype: DTypeLike,
    chunks: Iterable[NDArray[Any]],
    again: Again | None = None,
) -> CheckedArray | None:
    """Write chunks of rows, `m x row_shape` with any `m`, to a .npy file and open it; None without rows.

    Args:
        again: makes the rows again if the file is damaged when it is read.

    Raises:
        BudgetError: the disk is full.
    """
    write_arrays({path: row_shape}, dtype, ((chunk,) for chunk in chunks))
    array = CheckedArray(path, again)
    return array if len(array) else None


def write_arrays(
    shapes: Mapping[Path, tuple[int, ...]], dtype: DTypeLike, chunks: Iterable[Sequence[NDArray[Any]]]
) -> None:
    """Write several arrays beside each other, so that what makes their rows runs once.

    Args:
        shapes: of a row of each, by its .npy file.
        dtype: element type of all.
        chunks: rows of each array, in the order of `shapes`.

    Raises:
        BudgetError: the disk is full.
    """
    for folder in {path.parent for path in shapes}:
        remove_leftovers(folder.glob(".*.tmp"))
    with ExitStack() as files:
        add = [files.enter_context(_writing(path, shape, dtype)) for path, shape in shapes.items()]
        for parts in chunks:
            for add_rows, part in zip(add, parts, strict=True):
                add_rows(part)


@contextmanager
def _writing(
    path: Path, row_shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function that adds rows to an array, which is in its place once the block has ended."""
    row_bytes = int(np.prod(row_shape)) * np.dtype(dtype).itemsize
    rows, count = max(1, BLOCK_BYTES // max(1, row_bytes)), 0
    blocks: list[hashlib._Hash] = []
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            start = _write_header(file, (0, *row_shape), dtype)

            def add(chunk: NDArray[Any]) -> None:
                nonlocal count
                values = np.ascontiguousarray(chunk, dtype=dtype)
                file.write(values.data)
                while len(values):
                    if count % rows == 0:
                        blocks.append(hashlib.sha256())
                    part, values = np.split(values, [rows - count % rows])
                    blocks[-1].update(part.data)
                    count += len(part)

            yield add
            file.seek(0)
            # numpy pads the header so that the first axis may grow without moving the data.
            assert _write_header(file, (count, *row_shape), dtype) == start
        # An array without its digests would count as damaged, digests without an array do no harm.
        described = _described(path, (count, *row_shape), dtype)
        digests = [block.hexdigest() for block in blocks]
        write_checked(_digests_path(path), {**described, "rows": rows, "blocks": digests})


def _write_header(file: Any, shape: tuple[int, ...], dtype: DTypeLike) -> int:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})
    return file.tell()


def open_array(path: Path, rows: int, again: Again | None = None) -> CheckedArray | None:
    """An array that `write_array` wrote; None if it is missing, or damaged, which is reported.

    Args:
        rows: that it must have.
        again: makes the rows again if the file is damaged when it is read.
    """
    if not path.exists():
        return None
    try:
        array = CheckedArray(path, again)
        if len(array) != rows:
            raise ValueError(f"it has {len(array)} rows, expected {rows}")
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s cannot be used (%s): it is made again", path, first_line(error))
        return None
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
        CacheLimitError: it would not fit in the limit even then; nothing is removed.
        BudgetError: the disk has too little space left.
    """
    if limit_gb is not None:
        kept = {path.resolve() for path in keep}
        entries = _least_recently_used(folder)
        in_use = sum(size for path, size in entries if path.resolve() in kept)
        if needed + in_use > limit_gb * GB:
            beside = f" in addition to {gigabytes(in_use)} in use" if in_use else ""
            # Rounded up to one decimal.
            enough = f"{-(-(needed + in_use) // 10**8) / 10:g}"
            raise CacheLimitError(
                f"{what} would take {gigabytes(needed)}{beside}, "
                f"expected at most {limit_gb:g} GB (`cache_limit_gb`)",
                f"raise the limit, for example `cache_limit_gb={enough}`, or {remedy}",
            )
        surplus = sum(size for _, size in entries) - (int(limit_gb * GB) - needed)
        for path, size in entries:
            if surplus > 0 and path.resolve() not in kept:
                log.info("removed %s from the cache to make room", path.name)
                remove_array(path)
                surplus -= size
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise BudgetError(
            f"{what} would take {gigabytes(needed)}, but the disk of {folder} has {gigabytes(free)} left",
            f"free some space, set `cache` to a folder elsewhere, or {remedy}",
        )


def _least_recently_used(folder: Path) -> list[tuple[Path, int]]:
    """The arrays of a folder and their bytes, with their digests', the one used longest ago first."""
    found: list[tuple[float, Path, int]] = []
    for path in folder.rglob("*.npy"):
        # Another process may remove it meanwhile.
        with suppress(FileNotFoundError):
            stat, digests = path.stat(), _digests_path(path)
            size = stat.st_size + (digests.stat().st_size if digests.exists() else 0)
            found.append((stat.st_mtime, path, size))
    return [(path, size) for _, path, size in sorted(found)]


def gigabytes(size: float) -> str:
    """A number of bytes as text: `1.3 GB`, `20 MB`."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(1, round(size / 1e6))} MB"
