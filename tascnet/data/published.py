"""Published data sets: found in a folder in their published layout, or downloaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tascnet.data.download import RemoteFile, Unpack, download
from tascnet.data.listing import Listing, TextFiles
from tascnet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """Who published a data set, its archives, and its layout on the disk.

    Args:
        name: of the data set in options.
        title: its name in messages.
        origin: who published it, and where.
        licence: the terms under which it may be used.
        folder: name of the folder that holds all of it.
        wanted: what a message names where the data set is absent; empty: the folder.
        places: names of folders in which this folder may lie.
        holds: files and folders that it must hold.
        is_in: whether a folder of another name is this data set.
        contents: the files in the folder and their classes, none of them opened.
        official_test: whether it comes with a test split; each file then belongs to a split.
    """

    name: str
    title: str
    origin: str
    licence: str
    files: tuple[RemoteFile, ...]
    folder: str
    unpack: Unpack
    contents: Callable[[Path], Listing | TextFiles]
    wanted: str = ""
    places: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    is_in: Callable[[Path], bool] = lambda root: False
    official_test: bool = False

    def locate(self, root: Path | None, cache: Path, *, fetch: bool = False) -> Listing | TextFiles:
        """Its files, none of them opened.

        Args:
            root: holds the data set in its published layout; None: its folder below `datasets` in the cache.
            fetch: download it where it is absent.

        Raises:
            DataError: it is absent, cannot be downloaded or is damaged.
        """
        place = self.place(root, cache)
        target = place / self.folder
        if fetch and self.find(place) is None:
            download(self.title, self.files, target, self.unpack)
        folder = self.find(place)
        if folder is None and fetch:
            lacking = [name for name in self.holds if not (target / name).exists()]
            raise DataError(
                f"{target} exists but lacks {' and '.join(lacking) or 'the published files'}",
                "move it away, and it is fetched again",
            )
        if folder is None:
            raise DataError(
                f"{place} holds no {self.wanted or self.folder}, expected {self.title} in its published "
                "layout",
                "set `root` to the folder that holds it, or `download=true` to fetch it from "
                f"{self.files[0].url}",
            )
        return replace(self.contents(folder), origin=self.origin, licence=self.licence)

    def place(self, root: Path | None, cache: Path) -> Path:
        """Where it is looked for and downloaded to."""
        return cache / "datasets" / self.name if root is None else root

    def find(self, place: Path) -> Path | None:
        """Its folder, at or below a place; None: it is not there."""
        folders = [parent / self.folder for parent in (place, *(place / name for name in self.places))]
        if self.holds or place.name == self.folder:
            folders.append(place)
        for folder in folders:
            if folder.is_dir() and all((folder / name).exists() for name in self.holds):
                return folder
        return place if self.is_in(place) else None
