"""Archives of published data sets: fetched with progress, resumed after a cut, checked, unpacked safely."""

import gzip
import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tascnet.errors import DataError
from tascnet.run.console import log, progress, track
from tascnet.run.files import alone_at, check_regular, naming_full_disk

CHUNK = 2**20
MB = 1e6
# Seconds without a byte after which a connection counts as lost.
TIMEOUT = 60
SCRATCH = ".download"
# An archive that unpacks to more, in bytes and in files, was made to fill the disk or the memory.
LARGEST_RATIO, LARGEST_SURPLUS, MOST_MEMBERS = 50, 10_000_000, 200_000
NOT_SATISFIABLE = 416
PARTIAL = 206

# Fills a folder with the content of archives.
Unpack = Callable[[Sequence[Path], Path], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a published data set.

    Args:
        digest: `md5:<hexadecimal>` or `sha256:<hexadecimal>`; None where nobody has published one: then only
            the archive's own checksum is compared, when it is unpacked.
    """

    url: str
    digest: str | None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class _NotAsPublished(Exception):
    """A file differs from the published one."""


# Trying again does not help: what has arrived of such archives is removed.
BROKEN = (_NotAsPublished, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


def download(title: str, files: Sequence[RemoteFile], target: Path, unpack: Unpack) -> None:
    """Fetch and unpack archives beside their final place, then move the folder there in one step.

    What arrived before a cut is kept beside the target, and the next start resumes from it. If two processes
    download to the same place, one waits for the other.

    Args:
        title: name of the data set in messages.
        target: the folder that they are unpacked to; if it exists nothing is done.
        unpack: takes the archives, in the order of `files`, and the folder that it makes and fills.

    Raises:
        DataError: an archive cannot be fetched, or differs from the published one.
        BudgetError: the disk is full.
    """
    place, scratch = target.parent, target.parent / SCRATCH
    try:
        place.mkdir(parents=True, exist_ok=True)
        with naming_full_disk(place), alone_at(place, f"downloads to {place}"):
            if not target.exists():
                log.info("download %s from %s to %s", title, files[0].url, place)
                _fetch_and_unpack(files, scratch, target, unpack)
    except (*BROKEN, OSError, HTTPException) as error:
        raise DataError(
            f"{title} could not be fetched from {files[0].url} to {place} ({' '.join(str(error).split())})",
            "try again, which resumes where it stopped, or unpack it by hand and set `root` to it",
        ) from error


def _fetch_and_unpack(files: Sequence[RemoteFile], scratch: Path, target: Path, unpack: Unpack) -> None:
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


def fetch(file: RemoteFile, folder: Path) -> Path:
    """The file in a folder, fetched unless it is there; until it is complete and right it is `<name>.part`.

    Raises:
        OSError: the server cannot be reached, refuses, or the connection is lost; or what has arrived cannot
            be read.
        HTTPException: the server does not speak HTTP.
    """
    whole, part = folder / file.name, folder / f"{file.name}.part"
    for path in (whole, part):
        if path.exists():
            check_regular(path)
    if whole.exists():
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    resumed = part.exists()
    _receive(file, part)
    if resumed and not _is_right(part, file.digest):
        log.warning(
            "the part of %s from an earlier start does not fit the rest: it is fetched again", file.name
        )
        part.unlink()
        _receive(file, part)
    if not _is_right(part, file.digest):
        algorithm = str(file.digest).partition(":")[0]
        raise _NotAsPublished(f"{file.name} is corrupt: its {algorithm} differs from the published one")
    part.rename(whole)
    return whole


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
        arrived = start if response.status == PARTIAL else 0
        end = None if response.length is None else arrived + response.length
        total = None if end is None else round(end / MB, 1)
        with (
            open(part, "ab" if arrived else "wb") as stream,
            progress(f"download {file.name} (MB)", total) as bar,
        ):
            bar.advance(arrived / MB)
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                arrived += len(chunk)
                bar.advance(len(chunk) / MB)
            if end is not None and arrived < end:
                raise OSError(
                    f"the connection was lost after {arrived / MB:.1f} of {total} MB of {file.name}"
                )


def _is_right(path: Path, digest: str | None) -> bool:
    if digest is None:
        return True
    algorithm, _, expected = digest.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


def unpack_tar(archive: Path | IO[bytes], target: Path, *, strip: str = "", size: int | None = None) -> None:
    """Unpack a tar file, compressed by gzip or not; nothing leaves the folder, and no link or device is made.

    Args:
        target: the folder that its members are written to; it is made.
        strip: the folder in the archive whose content alone is unpacked; empty: all of it.
        size: bytes of the archive, where it is no file of its own.

    Raises:
        tarfile.TarError: a member is a link or a device or would leave the folder, `strip` is not there, or
            the archive unpacks to far more than its size, which is found before anything is written.
        EOFError: the archive is cut off.
        OSError: the disk has less space than the members take.
    """
    name = archive.name if isinstance(archive, Path) else "the archive"
    size = archive.stat().st_size if isinstance(archive, Path) else size or 0
    with open(archive, "rb") if isinstance(archive, Path) else nullcontext(archive) as packed:
        is_compressed = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        stream = gzip.GzipFile(fileobj=packed) if is_compressed else packed
        _check_unpacked_size(stream, size, target)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in track(tar, f"unpack {name}"):
                _extract(tar, member, target, strip)
    if not target.is_dir():
        raise tarfile.ReadError(f"{name} holds no folder {strip}")


class _Bounded:
    """A stream of which so many bytes may be read."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, most: int) -> None:
        self.stream, self.most = stream, most

    def read(self, size: int) -> bytes:
        # At most one byte more, however much a header asks for.
        content = self.stream.read(min(size, self.most + 1 - self.stream.tell()))
        self.check(self.stream.tell())
        return content

    def seek(self, position: int) -> int:
        self.check(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def check(self, position: int) -> None:
        if position > self.most:
            raise tarfile.ReadError(
                f"it unpacks to more than {self.most / MB:.0f} MB, over {LARGEST_RATIO} times its size"
            )


def _check_unpacked_size(stream: IO[bytes] | gzip.GzipFile, size: int, target: Path) -> None:
    """Read an archive of `size` bytes to its end, and with it its checksum, before anything is written."""
    bounded = _Bounded(stream, LARGEST_RATIO * size + LARGEST_SURPLUS)
    needed = 0
    with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
        for count, member in enumerate(tar, start=1):
            needed += member.size
            # A sparse file holds more than is stored of it.
            bounded.check(needed)
            if count > MOST_MEMBERS:
                raise tarfile.ReadError(f"it holds more than {MOST_MEMBERS} files")
    while bounded.read(CHUNK):
        pass
    place = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OSError(
            f"unpacked it takes {needed / MB:.0f} MB, but the disk of {place} has {free / MB:.0f} MB left"
        )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, strip: str) -> None:
    name = member.name.removeprefix("./")
    inside = f"{name}/".startswith(f"{strip}/")
    if not (member.isfile() or member.isdir()):
        raise tarfile.ReadError(f"{member.name} is neither a file nor a folder")
    place = (target / (name[len(strip) + 1 :] if strip and inside else name)).resolve()
    if not place.is_relative_to(target.resolve()):
        raise tarfile.ReadError(f"{member.name} would leave the folder")
    if strip and not inside:
        return
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None
    with content, open(place, "wb") as file:
        shutil.copyfileobj(content, file)
