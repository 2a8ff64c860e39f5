"""Caltech-256 as published: a folder of numbered categories, the last of which is clutter and no class."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tascnet.data.download import RemoteFile
from tascnet.data.listing import Listing, list_images
from tascnet.data.published import PublishedSet, below, with_missing_told
from tascnet.data.unpack import unpack_tar

FOLDER = "256_ObjectCategories"
CLASSES = 256
NO_CLASS = "257.clutter"
# A folder that holds one of these is taken for the folder of categories under another name.
TELLING = (NO_CLASS, "001.ak47", "256.toad")


def _find(root: Path) -> Path | None:
    found = below(root, FOLDER, "caltech256")
    return root if found is None and any((root / name).is_dir() for name in TELLING) else found


def _unpack(archives: Sequence[Path], target: Path) -> None:
    unpack_tar(archives[0], target, strip=FOLDER)


def _listing(folder: Path) -> Listing:
    """Folders within categories are what the collectors left behind and hold none of the published images."""
    listing = with_missing_told(list_images(folder, exclude=(NO_CLASS,), nested=False), CLASSES)
    return replace(listing, class_names=tuple(name.partition(".")[2] or name for name in listing.class_names))


# Address and digest as in torchvision's Caltech256.
CALTECH256 = PublishedSet(
    name="caltech256",
    title="Caltech-256",
    source="Caltech 256 (Griffin, Holub, Perona 2022), https://data.caltech.edu/records/nyy15-4j048",
    licence="CC BY 4.0",
    files=(
        RemoteFile(
            url="https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
            digest="md5:67b4f42ca05d46448c6bb8ecd2220f6d",
        ),
    ),
    folder=FOLDER,
    find=_find,
    unpack=_unpack,
    listing=_listing,
)
