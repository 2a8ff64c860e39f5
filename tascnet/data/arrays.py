"""Arrays in files: written whole or not at all, read as memory maps, kept within a limit; their digests."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tascnet.errors import BudgetError, CacheLimitError, DamagedFile, first_line
from tascnet.run.console import log
from tascnet.run.files import (
    check_regular,
    naming_full_disk,
    read_checked,
    remove_leftovers,
    sync_folder,
    write_checked,
)

GB = 1e9
# Bytes that share a digest: few enough to be read for one row, enough for few digests.
BLOCK_BYTES = 1 << 22
# How the name of a file ends that holds what is written of an array.
PART = ".part"
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


class ContentDigest:
    """A digest of rows in their order, however they are grouped."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def add(self, rows: NDArray[Any]) -> None:
        self._hasher.update(np.ascontiguousarray(rows).data)

    @property
    def digest(self) -> str:
        """Of all rows so far."""
        return self._hasher.hexdigest()[:32]


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

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file; damage is an error there.
        return CheckedArray, (self.path,)

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
        described = _described(self.path, self.shape, self.dtype)
        if any(self._written.get(key) != value for key, value in described.items()):
            raise ValueError("it is not the array that was written")
        blocks = np.zeros(len(self._written["blocks"]), dtype=bool)
        # The key holds the file's time, which changes here.
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
        if (again := self._again) is None:
            raise DamagedFile(f"{self.path} was changed or damaged after it was written", "delete it")
        log.warning("%s was changed or damaged after it was written: it is made again", self.path)
        shape, dtype = self.shape, self.dtype
        write_array(self.path, shape[1:], dtype, lambda _: again(dtype), begin=lambda _: 0)
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
    chunks: Callable[[NDArray[Any]], Iterable[NDArray[Any]]],
    again: Again | None = None,
    begin: Callable[[int], int] | None = None,
) -> CheckedArray | None:
    """Write chunks of rows, `m x row_shape` with any `m`, to a .npy file and open it; None without rows.

    Args:
        chunks: makes the rows that follow those given.
        again: makes the rows again if the file is damaged when it is read.
        begin: see `write_arrays`.

    Raises:
        BudgetError: the disk is full.
    """

    def write() -> None:
        write_arrays({path: row_shape}, dtype, lambda done: ((chunk,) for chunk in chunks(done[0])), begin)

    write()
    try:
        array = CheckedArray(path, again)
    except (FileNotFoundError, ValueError):
        # What another process has made is gone or damaged already.
        write()
        array = CheckedArray(path, again)
    return array if len(array) else None


def write_arrays(
    shapes: Mapping[Path, tuple[int, ...]],
    dtype: DTypeLike,
    chunks: Callable[[Sequence[NDArray[Any]]], Iterable[Sequence[NDArray[Any]]]],
    begin: Callable[[int], int] | None = None,
) -> None:
    """Write several arrays beside each other, so that what makes their rows runs once.

    What a killed or interrupted process has written of the same files is kept, and the rest is added. While
    another process writes one of them, this one waits. If all have been made meanwhile, nothing is.

    Args:
        shapes: of a row of each, by its .npy file.
        dtype: element type of all.
        chunks: makes the rows of each array, in the order of `shapes`, that follow those given, which are
            memory maps `m x ...` with the same `m`.
        begin: how many of the first rows that are there are kept; None: all.

    Raises:
        BudgetError: the disk is full; what is written is kept.
    """
    for folder in {path.parent for path in shapes}:
        remove_leftovers(folder.glob(".*.tmp"))
    before = {path: _inode(path) for path in shapes}
    with ExitStack() as files:
        # In one order in all processes, so that no two wait for each other.
        opened = {
            path: files.enter_context(_Part.opened(path, shapes[path], dtype)) for path in sorted(shapes)
        }
        parts = [opened[path] for path in shapes]
        if all(_inode(path) not in (None, before[path]) for path in shapes):
            return
        start = min(part.rows for part in parts)
        start = start if begin is None else begin(start)
        done = [part.cut(start) for part in parts]
        if start:
            log.info("%d rows of %s were written before: the others are added", start, parts[0].path.name)
        for rows in chunks(done):
            for part, own in zip(parts, rows, strict=True):
                part.add(own)
        for part in parts:
            part.finish()


def _inode(path: Path) -> int | None:
    """Tells one file under a name from the next; None: there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


class _Part:
    """An array that is being written: rows in a file beside it, and the digests of its blocks in a journal.

    A block is a number of rows. It counts once its digest is in the journal and is that of its rows.

    Attributes:
        rows: how many there are.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike, files: ExitStack) -> None:
        self.path, self._row_shape, self._dtype = path, row_shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(row_shape)) * self._dtype.itemsize
        self._block_rows = max(1, BLOCK_BYTES // max(1, self._row_bytes))
        self._header_bytes = _write_header(io.BytesIO(), (0, *row_shape), dtype)
        self._file = _locked(part_of(path), files)
        self._journal = files.enter_context(_opened(journal_of(part_of(path))))
        self._blocks: list[str] = []
        self._hasher = hashlib.sha256()
        self._is_finished = False
        self._read_journal()
        self.rows = len(self._blocks) * self._block_rows

    @classmethod
    @contextmanager
    def opened(cls, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> Iterator["_Part"]:
        """What there is of an array; nobody else writes it within the block.

        It is kept if the process is interrupted or the system fails, such as a full disk, and else removed.
        """
        with naming_full_disk(path.parent, free_space=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as files:
                part = cls(path, row_shape, dtype, files)
                try:
                    yield part
                except (OSError, BudgetError):
                    raise
                except Exception:
                    remove_part(path)
                    raise
                if not part._is_finished:
                    remove_part(path)

    @property
    def _description(self) -> dict[str, Any]:
        row = {"row": list(self._row_shape), "dtype": self._dtype.str}
        return {"array": self.path.name, "block": self._block_rows, **row}

    def _lines(self) -> list[bytes]:
        """The lines of the journal."""
        return [json.dumps(line).encode() + b"\n" for line in (self._description, *self._blocks)]

    def _read_journal(self) -> None:
        """Find the blocks that are whole."""
        first, *lines = self._journal.read().split(b"\n")[:-1] or [b""]
        size = self._block_rows * self._row_bytes
        if first + b"\n" != self._lines()[0]:
            self._journal.truncate(0)
            return
        self._file.seek(self._header_bytes)
        for line in lines:
            block = self._file.read(size)
            digest = hashlib.sha256(block).hexdigest()
            if len(block) < size or line != json.dumps(digest).encode():
                break
            self._blocks.append(digest)

    def cut(self, rows: int) -> NDArray[Any]:
        """Drop all but the first rows, and return these."""
        del self._blocks[rows // self._block_rows :]
        self.rows = rows
        lines = self._lines()
        # What is kept is never taken away: the process may be killed again at any moment.
        if self._journal.seek(0, os.SEEK_END):
            self._journal.seek(sum(map(len, lines)))
            self._journal.truncate()
        else:
            self._journal.writelines(lines)
            self._journal.flush()
        # Of a new file this makes room for the header.
        self._file.seek(self._header_bytes + rows * self._row_bytes)
        self._file.truncate()
        shape = (rows, *self._row_shape)
        done: NDArray[Any] = np.empty(shape, self._dtype)
        if rows:
            place = part_of(self.path)
            done = np.memmap(place, self._dtype, mode="r", offset=self._header_bytes, shape=shape)
        self._hasher = hashlib.sha256(done[len(self._blocks) * self._block_rows :].tobytes())
        return done

    def add(self, chunk: NDArray[Any]) -> None:
        values = np.ascontiguousarray(chunk, dtype=self._dtype)
        while len(values):
            rows, values = np.split(values, [self._block_rows - self.rows % self._block_rows])
            self._file.write(rows.data)
            self._hasher.update(rows.data)
            self.rows += len(rows)
            if self.rows % self._block_rows == 0:
                self._end_block()

    def _end_block(self) -> None:
        self._blocks.append(self._hasher.hexdigest())
        self._hasher = hashlib.sha256()
        self._file.flush()
        self._journal.write(f'"{self._blocks[-1]}"\n'.encode())
        self._journal.flush()

    def finish(self) -> None:
        """Put the array in its place."""
        if self.rows % self._block_rows:
            self._end_block()
        shape = (self.rows, *self._row_shape)
        self._file.seek(0)
        # numpy pads the header so that the first axis may grow without moving the data.
        assert _write_header(self._file, shape, self._dtype) == self._header_bytes
        self._file.flush()
        os.fsync(self._file.fileno())
        # An array without its digests would count as damaged, digests without an array do no harm.
        described = _described(self.path, shape, self._dtype)
        write_checked(
            _digests_path(self.path), {**described, "rows": self._block_rows, "blocks": self._blocks}
        )
        os.replace(part_of(self.path), self.path)
        self._is_finished = True
        sync_folder(self.path.parent)
        journal_of(part_of(self.path)).unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    """A file to read and write, with what it holds."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+")


def _locked(part: Path, files: ExitStack) -> BinaryIO:
    """The file of a part, once no other process has it."""
    while True:
        file = files.enter_context(_opened(part))
        if not _lock(file):
            log.info("another process writes %s: this one waits", part.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        # The other one may have finished it or given it up, and then this file has another name or none.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file


def part_of(path: Path) -> Path:
    """The file that holds what is written of an array."""
    return path.with_name(f".{path.name}{PART}")


def remove_part(path: Path) -> None:
    """Remove what is written of an array."""
    for file in (part_of(path), journal_of(part_of(path))):
        file.unlink(missing_ok=True)


def discard_part(path: Path) -> None:
    """Remove what is written of an array, unless another process writes it: the disk is full without it."""
    _remove_unused(part_of(path))


def journal_of(part: Path) -> Path:
    """The journal of a `part_of` an array."""
    return part.with_name(f"{part.name}.jsonl")


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
    sizes: Mapping[Path, int],
    limit_gb: float | None,
    *,
    what: str,
    remedy: str,
    keep: Collection[Path] = (),
) -> None:
    """Remove the arrays of a folder that were used longest ago until new ones fit in the limit.

    What an interrupted process has written of others goes likewise.

    Args:
        folder: holds .npy files, in sub-folders too.
        sizes: bytes of the arrays about to be written; what is written of them stays.
        limit_gb: gigabytes that the folder may take; None: only the disk limits it.
        what: what is about to be written, as the subject of a sentence.
        remedy: what makes it smaller.
        keep: files that are not removed; those in the folder count against the limit.

    Raises:
        CacheLimitError: it would not fit in the limit even then; nothing is removed.
        BudgetError: the disk has too little space left.
    """
    own = [part for part in map(part_of, sizes) if part.exists()]
    needed, there = sum(sizes.values()), sum(part.stat().st_size for part in own)
    if limit_gb is not None:
        entries = _least_recently_used(folder)
        written = [path for path, _ in entries if path.suffix == PART and _is_locked(path)]
        kept = {path.resolve() for path in (*keep, *own, *written)}
        in_use = sum(size for path, size in entries if path.resolve() in kept) - there
        if needed + in_use > limit_gb * GB:
            beside = f" in addition to {gigabytes(in_use)} in use" if in_use else ""
            # Rounded up to one decimal.
            enough = f"{-(-(needed + in_use) // 10**8) / 10:g}"
            raise CacheLimitError(
                f"{what} would take {gigabytes(needed)}{beside}, "
                f"expected at most {limit_gb:g} GB (`cache_limit_gb`)",
                f"raise the limit, for example `cache_limit_gb={enough}`, or {remedy}",
            )
        surplus = sum(size for _, size in entries) - (int(limit_gb * GB) - (needed - there))
        for path, size in entries:
            if surplus > 0 and path.resolve() not in kept and _remove_unused(path):
                log.info("removed %s from the cache to make room", path.name)
                surplus -= size
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed - there > free:
        raise BudgetError(
            f"{what} would take {gigabytes(needed)}, but the disk of {folder} has {gigabytes(free)} left",
            f"free some space, set `cache` to a folder elsewhere, or {remedy}",
        )


def _least_recently_used(folder: Path) -> list[tuple[Path, int]]:
    """The arrays of a folder, and what was written of others, with what lies beside them: path and bytes.

    The one used longest ago is the first.
    """
    found: list[tuple[float, Path, int]] = []
    for path in (*folder.rglob("*.npy"), *folder.rglob(f".*.npy{PART}")):
        # Another process may remove it meanwhile.
        with suppress(FileNotFoundError):
            stat, beside = path.stat(), _beside(path)
            size = stat.st_size + (beside.stat().st_size if beside.exists() else 0)
            found.append((stat.st_mtime, path, size))
    return [(path, size) for _, path, size in sorted(found)]


def _beside(path: Path) -> Path:
    """The digests of an array, or the journal of what is written of one."""
    return journal_of(path) if path.suffix == PART else _digests_path(path)


def _remove_unused(path: Path) -> bool:
    """Remove an array, or what was written of one unless a process writes it; whether it was removed."""
    if path.suffix == PART and _is_locked(path):
        return False
    with suppress(FileNotFoundError):
        path.unlink()
        _beside(path).unlink(missing_ok=True)
    return True


def _is_locked(part: Path) -> bool:
    """Whether a process is writing it, or may be."""
    try:
        # On shared disks only files that are open for writing can be locked.
        with open(part, "rb+") as file:
            return not _lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; whether no other process had it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def gigabytes(size: float) -> str:
    """A number of bytes as text: `1.3 GB`, `20 MB`."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(1, round(size / 1e6))} MB"
