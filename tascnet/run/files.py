"""Files that are written whole or not at all and checked when they are read, journals, and digests."""

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from tascnet.errors import BudgetError, RunFolderError, TascnetError

log = logging.getLogger("tascnet")

# Numbers of the system's errors for a full disk and for a used-up quota.
FULL = (errno.ENOSPC, errno.EDQUOT)
# A disk with fewer bytes left is full, where a library fails without saying why.
NEARLY_FULL = 1 << 16
# Far more than a record or a journal holds; what is read from the end of a log.
MOST_BYTES, END_BYTES = 256_000_000, 1_000_000
# Seconds after which a temporary file to which nothing was written is no longer in use.
STALE_SECONDS = 600
# The same for a temporary folder that was made on another machine.
STALE_FOLDER_SECONDS = 24 * 3600
# How the folder begins that is made to try whether one can be.
PROBE = ".tascnet-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that is fsynced and renamed into place once the block has filled it.

    Temporary files of killed processes that wrote to the same path are removed.

    Raises:
        BudgetError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    try:
        with naming_full_disk(path.parent, free_space=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent.glob(f".{escape(path.name)}.*.tmp"))
            temporary.touch()
            # The permissions that the umask gives. Libraries may replace the file by one with others.
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with open(temporary, "rb+") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a `whole_file`."""
    with whole_file(path) as temporary:
        write(temporary)


@contextmanager
def alone_at(path: Path, work: str) -> Iterator[None]:
    """Wait until no other process does this work, such as "downloads to photos".

    Args:
        path: of a folder, or of a file that is made. On a shared disk other machines see the lock of a file,
            not that of a folder.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that %s", work)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def naming_full_disk(folder: Path, *, free_space: bool = False) -> Iterator[None]:
    """Turn the error of a full disk, however a library words it, into one sentence.

    Args:
        folder: what is written to; if the error names a file, the folder of that is reported.
        free_space: whether a RuntimeError that gives no reason is due to a disk without free space.

    Raises:
        BudgetError: the disk is full.
    """
    try:
        yield
    except TascnetError:
        raise
    except Exception as error:
        origin = _full_disk(error)
        if origin is None:
            is_likely = free_space and isinstance(error, RuntimeError)
            if not is_likely or shutil.disk_usage(folder).free >= NEARLY_FULL:
                raise
        name = getattr(origin, "filename", None)
        place = Path(name).parent if isinstance(name, str) else folder
        raise BudgetError(
            f"the disk of {place} is full", "free some space and run the same command again: it resumes"
        ) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is that of a full disk or of a used-up quota."""
    return _full_disk(error) is not None


def _full_disk(error: BaseException | None) -> BaseException | None:
    """The error of a full disk among an error and its causes."""
    while error is not None:
        number = getattr(error, "errno", None)
        # As libraries in Rust, and those that keep the text alone, word it.
        texts = [f"(os error {number})" for number in FULL]
        if isinstance(error, OSError) and number is None:
            texts += map(os.strerror, FULL)
        if number in FULL or any(text in str(error) for text in texts):
            return error
        # What torch raises when a write fails gives no cause. Other errors have a reason of their own.
        is_bare = type(error) is RuntimeError and not error.__suppress_context__
        error = error.__cause__ or (error.__context__ if is_bare else None)
    return None


def temporary_suffix() -> str:
    """The end of the names of this process's temporary files and folders."""
    return f"{_of_this_machine()}{os.getpid()}.tmp"


def temporary_folder(cache: Path) -> "tempfile.TemporaryDirectory[str]":
    """A folder in the cache, which is made where it is missing; it goes with its block.

    What a killed process leaves goes with the next run.
    """
    cache.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="run-", suffix=temporary_suffix(), dir=cache)


def _of_this_machine() -> str:
    """What stands before the number of a process: containers of one name do not see each other's."""
    space = ""
    with suppress(OSError):
        # Such as pid:[4026531836].
        space = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid"))) + "-"
    return f".{os.uname().nodename}-{space}"


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of some temporary files and folders whose process was killed."""
    for path in paths:
        # Another process may remove it first.
        with suppress(OSError):
            if not may_be_in_use(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def may_be_in_use(path: Path) -> bool:
    """Whether the process of a temporary file or folder may still run."""
    own = _of_this_machine()
    process = path.name.removesuffix(".tmp").rpartition(own)[2]
    is_of_this_machine = own in path.name and process.isdigit()
    if is_of_this_machine:
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
    age = time.time() - path.stat().st_mtime
    if path.is_dir():
        return is_of_this_machine or age < STALE_FOLDER_SECONDS
    return age < STALE_SECONDS


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written in a folder, which need not be there yet; None: something can."""
    whole = folder.absolute()
    there = next(parent for parent in (whole, *whole.parents) if parent.exists())
    if not there.is_dir():
        return f"cannot be a folder, for {there} is a file"
    try:
        # Only to try is sure: permissions do not bind root, and some file systems take no folders.
        remove_leftovers(there.glob(f"{PROBE}*.tmp"))
        os.rmdir(tempfile.mkdtemp(prefix=PROBE, suffix=temporary_suffix(), dir=there))
    except OSError as error:
        return f"cannot be written to ({error.strerror or error})"
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        OSError: in plain words, why it cannot be read.
    """
    check_regular(path, most=most)
    return path.read_bytes()


def read_end(path: Path) -> bytes:
    """The last `END_BYTES` of a regular file.

    Raises:
        OSError: in plain words, why it cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
        return file.read(END_BYTES)


def parse_json(content: bytes) -> Any:
    """The content of a JSON text in UTF-8.

    Raises:
        ValueError: in one line, why it is not JSON.
    """
    if not content.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(content.decode(), parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it holds a number that is not finite or has thousands of digits") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of its content, whole or not at all."""
    write_json(path, {**content, "digest": digest_json(content)})


def read_checked(path: Path, *, most: int = MOST_BYTES) -> dict[str, Any]:
    """The content that `write_checked` wrote, of at most so many bytes.

    Raises:
        OSError: it is missing, no regular file, too large, or may not be read.
        ValueError: it is not what was written.
    """
    content = _json_object(read_bytes(path, most=most))
    digest = content.pop("digest", None)
    if digest is None:
        raise ValueError("it has no digest, so another version of tascnet wrote it, or it was changed")
    check_digest(content, digest)
    return content


def check_digest(content: Mapping[str, Any], digest: Any) -> None:
    """Compare JSON content with the digest that was written with it.

    Raises:
        ValueError: they differ.
    """
    try:
        is_same = digest_json(content) == digest
    except RecursionError:
        is_same = False
    if not is_same:
        raise ValueError("it was changed or damaged after it was written")


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a journal and fsync it; a torn last line is cut off first.

    Raises:
        BudgetError: the disk is full; the journal is as it was.
    """
    line = memoryview((json.dumps(row, allow_nan=False) + "\n").encode())
    with naming_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would be written once more when the file is closed.
        with open(path, "ab+", buffering=0) as file:
            file.seek(0)
            end = file.readall().rfind(b"\n") + 1
            file.truncate(end)
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a journal by these rows, whole or not at all."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path, decode: Callable[[dict[str, Any]], Any] = dict) -> list[Any]:
    """The rows of a journal; a torn last line is ignored, a missing file has no rows.

    Args:
        path: the journal.
        decode: makes a row from a JSON object, or raises a ValueError.

    Raises:
        RunFolderError: the file may not be read, a line before the end is no JSON object, or `decode` refuses
            it.
    """
    try:
        lines = read_bytes(path).rpartition(b"\n")[0].split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(decode(_json_object(line)))
            except ValueError as error:
                raise RunFolderError(
                    f"line {number} of {path} is corrupt ({error})",
                    "delete it and all lines after it, which are then computed again, "
                    "or start over with `fresh=true`",
                ) from error
    return rows


def unreadable(path: Path, error: OSError) -> RunFolderError:
    """The error of a file of a run that is missing, is none, or may not be read."""
    reason = error.strerror.lower() if error.strerror else str(error)
    if isinstance(error, PermissionError):
        return RunFolderError(f"{path} is unreadable ({reason})", "give yourself permission to read it")
    return RunFolderError(
        f"{path} cannot be read ({reason})", "restore it, or start the stage over with `fresh=true`"
    )


def check_regular(path: Path, *, most: int | None = None) -> None:
    """Check before opening it that a path is a regular file; opening a pipe would wait for ever.

    Args:
        most: bytes that it may have; None: no limit.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: in plain words, why it cannot be read.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError("it does not exist") from error
    # Such as a link to itself, or a name of a thousand letters.
    except (OSError, ValueError) as error:
        raise OSError((getattr(error, "strerror", None) or str(error)).lower()) from error
    if not stat.S_ISREG(found.st_mode):
        is_folder = stat.S_ISDIR(found.st_mode)
        raise OSError("it is a folder" if is_folder else "it is a pipe or a device, not a file")
    if most is not None and found.st_size > most:
        raise OSError(f"it has {found.st_size:,} bytes, expected at most {most:,}")
    if not os.access(path, os.R_OK):
        raise PermissionError("permission denied")


def digest_json(content: Any) -> str:
    """A hexadecimal digest of JSON content that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def digest_file(path: Path) -> str:
    """A hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _json_object(text: bytes) -> dict[str, Any]:
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content
