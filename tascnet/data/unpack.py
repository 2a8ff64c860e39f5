"""Archives unpacked with suspicion: nothing leaves the folder, and no links or devices are made."""

import gzip
import shutil
import tarfile
from pathlib import Path
from typing import IO

from tascnet.run.console import track

CHUNK = 2**20


def unpack_tar(archive: Path | IO[bytes], target: Path, *, strip: str = "") -> None:
    """Unpack a tar file, compressed or not.

    Args:
        archive: the file, or an open one.
        target: the folder that its members are written to; it is made.
        strip: the folder in the archive whose content alone is unpacked; empty: all of it.

    Raises:
        tarfile.TarError: a member is a link or a device or would leave the folder, or `strip` is not there.
        EOFError: the archive is cut off.
    """
    given = {"name": archive} if isinstance(archive, Path) else {"fileobj": archive}
    name = archive.name if isinstance(archive, Path) else "the archive"
    with tarfile.open(**given, mode="r:*") as tar:  # type: ignore[call-overload]
        for member in track(tar, f"unpack {name}"):
            _extract(tar, member, target, strip)
    if not target.is_dir():
        raise tarfile.ReadError(f"{name} holds no folder {strip}")


def check_gzip(path: Path) -> None:
    """Read a compressed file to its end, where its own checksum is: unpacking stops before.

    Raises:
        gzip.BadGzipFile: the checksum is another.
        EOFError: the file is cut off.
    """
    with gzip.open(path) as stream:
        while stream.read(CHUNK):
            pass


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, strip: str) -> None:
    """Write one member, unless it lies beside the folder that is asked for."""
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
