"""Archives of published data sets: fetched with progress, resumed after a cut, checked, unpacked whole."""

import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tascnet.errors import DataError
from tascnet.run.console import log, progress

CHUNK = 2**20
MB = 1e6
# Seconds without a byte after which a connection counts as lost.
TIMEOUT = 60
SCRATCH = ".download"
NOT_SATISFIABLE = 416
PARTIAL = 206

# Fills a folder with what archives hold.
Unpack = Callable[[Sequence[Path], Path], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a published data set.

    Args:
        url: where it is.
        digest: `md5:<hexadecimal>` or `sha256:<hexadecimal>`; None where nobody has published one: only the
            archive's own checksum is then compared, when it is unpacked.
    """

    url: str
    digest: str | None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


class _NotAsPublished(Exception):
    """What arrived is not what was published."""


# Archives that will not get better by waiting: what has arrived of them is removed.
BROKEN = (_NotAsPublished, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


def download(title: str, files: Sequence[RemoteFile], target: Path, unpack: Unpack) -> None:
    """Fetch and unpack archives beside their final place, then move the folder there in one step.

    What has arrived before a cut is kept beside the target, and the next start resumes from it. Two
    processes that want the same wait for each other.

    Args:
        title: name of the data set in messages.
        files: what is fetched.
        target: the folder that they are unpacked to; nothing is done where it exists.
        unpack: takes the archives, in the order of `files`, and the folder that it makes and fills.

    Raises:
        DataError: an archive cannot be fetched, or is not what was published.
    """
    place, scratch = target.parent, target.parent / SCRATCH
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if not target.exists():
                log.info("download %s from %s to %s", title, files[0].url, place)
                _land(files, scratch, target, unpack)
    except (*BROKEN, OSError, HTTPException) as error:
        raise DataError(
            f"{title} could not be fetched from {files[0].url} to {place} ({' '.join(str(error).split())})",
            "try again, which resumes where it stopped, or unpack it by hand and set `root` to it",
        ) from error


def fetch(file: RemoteFile, folder: Path) -> Path:
    """The file in a folder: as it is if it was fetched before, else what is missing of it is fetched.

    Args:
        file: what is fetched.
        folder: holds `<name>.part` until all has arrived and the digest is right.

    Raises:
        OSError: the server cannot be reached, refuses, or the connection is lost.
        HTTPException: the server does not speak HTTP.
    """
    whole, part = folder / file.name, folder / f"{file.name}.part"
    if whole.exists():
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    resumed = part.exists()
    _receive(file, part)
    if resumed and not _is_right(part, file.digest):
        log.warning("what had arrived of %s does not fit what came now: it is fetched again", file.name)
        part.unlink()
        _receive(file, part)
    if not _is_right(part, file.digest):
        raise _NotAsPublished(f"{file.name} is corrupt: its {str(file.digest).partition(':')[0]} is another")
    part.rename(whole)
    return whole


def _land(files: Sequence[RemoteFile], scratch: Path, target: Path, unpack: Unpack) -> None:
    try:
        archives = [fetch(file, scratch) for file in files]
        unpacked = scratch / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpack(archives, unpacked)
        unpacked.rename(target)
    except BROKEN:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    except (OSError, HTTPException):
        # What has arrived is kept for the next start; an empty folder is removed.
        with suppress(OSError):
            scratch.rmdir()
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _receive(file: RemoteFile, part: Path) -> None:
    """Append to `part` what is missing of the file; a server that cannot resume sends all of it."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "tascnet", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urlopen(Request(file.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            # All has arrived, or more than there is: the digest shows which.
            if error.code == NOT_SATISFIABLE and start:
                return
            raise OSError(f"the server answers {error.code} {error.reason}") from error
    with response:
        there = start if response.status == PARTIAL else 0
        with open(part, "ab" if there else "wb") as stream:
            _copy(response, stream, file.name, there)


def _copy(response: HTTPResponse, stream: BinaryIO, name: str, there: int) -> None:
    """Write what comes, with progress; `there` bytes are there already."""
    length = response.length
    total = None if length is None else round((there + length) / MB, 1)
    arrived = there
    with progress(f"download {name} (MB)", total) as bar:
        bar.advance(there / MB)
        while chunk := response.read(CHUNK):
            stream.write(chunk)
            arrived += len(chunk)
            bar.advance(len(chunk) / MB)
        if length is not None and arrived < there + length:
            raise OSError(f"the connection was lost after {arrived / MB:.1f} of {total} MB of {name}")


def _is_right(path: Path, digest: str | None) -> bool:
    if digest is None:
        return True
    algorithm, _, expected = digest.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads to the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process downloads to %s: this one waits for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
