"""Caltech-101 as published: found at either level of its folders, or downloaded when asked for."""

import shutil
import tarfile
import tempfile
import urllib.error
import zipfile
from collections.abc import Collection
from pathlib import Path

from tascnet.console import log
from tascnet.data.dataset import Dataset
from tascnet.data.folder import load_image_folder
from tascnet.data.listing import Listing, list_images
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing

__all__ = ["find_caltech101", "listed_caltech101", "load_caltech101"]

URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
MD5 = "3138e1922a9193bfa496528edbbc45d0"
SOURCE = "Caltech 101 (Li, Andreeto, Ranzato, Perona 2022), https://data.caltech.edu/records/mzrjq-6wc02"
LICENCE = "CC BY 4.0"
CATEGORIES = "101_ObjectCategories"
NO_CLASS = "BACKGROUND_Google"
# A folder that holds one of these is taken for the folder of categories under another name.
TELLING = (NO_CLASS, "accordion", "airplanes", "yin_yang")


def load_caltech101(
    root: Path | None,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    download: bool = False,
    unreadable: str = "refuse",
    limit_gb: float | None = None,
    workers: int | None = None,
    classes: Collection[str] | None = None,
    url: str = URL,
    md5: str = MD5,
) -> Dataset:
    """The images of Caltech-101's categories, without the background images, which are no class.

    Args:
        root: holds `101_ObjectCategories`, `caltech101/101_ObjectCategories` or the categories themselves;
            None: `datasets/caltech101` in the cache.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        cache_dir: the pixels are kept in its folder `pixels`, without a root the images in `datasets`.
        download: fetch the published archive if the images are absent.
        unreadable: what happens if files cannot be read: `refuse` or `skip`.
        limit_gb: gigabytes that the pixels may take; None: no limit.
        workers: threads that decode; None: one for each CPU.
        classes: names of those that are taken; None: all.
        url: where the archive is.
        md5: its checksum.

    Returns:
        Samples sorted by class and path.

    Raises:
        DataError: if the images are absent, cannot be downloaded or cannot be read.
        BudgetError: if the pixels would take more than the limit allows.
    """
    place = _place(root, cache_dir)
    categories = find_caltech101(place)
    if categories is None and download:
        categories = _download(place, url, md5)
    if categories is None:
        raise _absent(place)
    return load_image_folder(
        categories,
        preprocessing,
        cache_dir=cache_dir,
        unreadable=unreadable,
        limit_gb=limit_gb,
        workers=workers,
        exclude=(NO_CLASS,),
        classes=classes,
        name="caltech101",
        source=SOURCE,
        licence=LICENCE,
    )


def listed_caltech101(root: Path | None, cache_dir: Path) -> Listing:
    """The images of Caltech-101 where they are, none of them opened.

    Raises:
        DataError: if they are absent.
    """
    place = _place(root, cache_dir)
    categories = find_caltech101(place)
    if categories is None:
        raise _absent(place)
    return list_images(categories, (NO_CLASS,))


def _place(root: Path | None, cache_dir: Path) -> Path:
    return cache_dir / "datasets" / "caltech101" if root is None else root


def _absent(place: Path) -> DataError:
    return DataError(
        f"{place} holds no {CATEGORIES}, expected Caltech-101 in its published layout",
        f"set dataset.root to the folder that holds it, or dataset.download=true to fetch it from {URL}",
    )


def find_caltech101(root: Path) -> Path | None:
    """The folder of categories at or below `root`, or None."""
    for parent in (root, root / "caltech101", root / "caltech-101"):
        if (parent / CATEGORIES).is_dir():
            return parent / CATEGORIES
    named = root.name == CATEGORIES and root.is_dir()
    return root if named or any((root / name).is_dir() for name in TELLING) else None


def _download(root: Path, url: str, md5: str) -> Path:
    """Fetch and unpack the archive beside its final place, then move it there in one step."""
    log.info("download Caltech-101 from %s to %s", url, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            archive = _fetch(url, md5, Path(scratch))
            _unpack(archive, Path(scratch, "unpacked"))
            Path(scratch, "unpacked", CATEGORIES).rename(root / CATEGORIES)
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(
            f"Caltech-101 could not be fetched from {url} to {root} ({' '.join(str(error).split())})",
            "try again, or unpack it by hand and set dataset.root to its folder",
        ) from error
    return root / CATEGORIES


def _fetch(url: str, md5: str, folder: Path) -> Path:
    # Imported late: it takes a second, and most runs download nothing.
    from torchvision.datasets.utils import download_url

    try:
        download_url(url, str(folder), "caltech-101.zip", md5)
    except (RuntimeError, ValueError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise OSError(str(error)) from error
    return folder / "caltech-101.zip"


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the categories; the outer archive is read in place and never unpacked itself."""
    with zipfile.ZipFile(archive) as outer:
        inner = [name for name in outer.namelist() if name.endswith(f"{CATEGORIES}.tar.gz")]
        if not inner:
            raise tarfile.ReadError(f"the archive holds no {CATEGORIES}.tar.gz")
        with outer.open(inner[0]) as stream, tarfile.open(fileobj=stream, mode="r:gz") as tar:
            for member in tar:
                _extract(tar, member, target)
    if not (target / CATEGORIES).is_dir():
        raise tarfile.ReadError(f"{CATEGORIES}.tar.gz holds no folder of that name")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one member; links, devices and members that would leave the folder are refused."""
    place = (target / member.name).resolve()
    if not (member.isfile() or member.isdir()):
        raise tarfile.ReadError(f"{member.name} is neither a file nor a folder")
    if not place.is_relative_to(target.resolve()):
        raise tarfile.ReadError(f"{member.name} would leave the folder")
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None
    with content, open(place, "wb") as file:
        shutil.copyfileobj(content, file)
