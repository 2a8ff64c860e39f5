"""Caltech-101 as published: a folder of categories, one of which is background and no class."""

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tascnet.data.download import RemoteFile
from tascnet.data.listing import Listing, list_images
from tascnet.data.published import PublishedSet, below, with_missing_told
from tascnet.data.unpack import unpack_tar

FOLDER = "101_ObjectCategories"
CLASSES = 101
NO_CLASS = "BACKGROUND_Google"
# A folder that holds one of these is taken for the folder of categories under another name.
TELLING = (NO_CLASS, "accordion", "airplanes", "yin_yang")


def _find(root: Path) -> Path | None:
    found = below(root, FOLDER, "caltech101", "caltech-101")
    return root if found is None and any((root / name).is_dir() for name in TELLING) else found


def _unpack(archives: Sequence[Path], target: Path) -> None:
    """The outer archive is read in place and never unpacked itself."""
    with zipfile.ZipFile(archives[0]) as outer:
        inner = [name for name in outer.namelist() if name.endswith(f"{FOLDER}.tar.gz")]
        if not inner:
            raise tarfile.ReadError(f"the archive holds no {FOLDER}.tar.gz")
        with outer.open(inner[0]) as stream:
            unpack_tar(stream, target, strip=FOLDER)


def _listing(folder: Path) -> Listing:
    return with_missing_told(list_images(folder, exclude=(NO_CLASS,)), CLASSES)


# Address and digest as in torchvision's Caltech101.
CALTECH101 = PublishedSet(
    name="caltech101",
    title="Caltech-101",
    source="Caltech 101 (Li, Andreeto, Ranzato, Perona 2022), https://data.caltech.edu/records/mzrjq-6wc02",
    licence="CC BY 4.0",
    files=(
        RemoteFile(
            url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            digest="md5:3138e1922a9193bfa496528edbbc45d0",
        ),
    ),
    folder=FOLDER,
    find=_find,
    unpack=_unpack,
    listing=_listing,
)
