"""Published data sets: found in a folder in their published layout, or downloaded when asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tascnet.data.dataset import Dataset
from tascnet.data.download import RemoteFile, Unpack, download, lacking
from tascnet.data.images import load_images
from tascnet.data.listing import Listing, without_parts
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """Where a data set comes from and what it looks like on the disk.

    Args:
        name: as in `dataset=<name>`.
        title: what it is called in messages.
        source: who published it, and where.
        licence: the terms under which it may be used.
        files: its archives.
        folder: name of the folder that holds all of it.
        find: gives that folder, at or below the place that is asked for; None: it is not there.
        unpack: fills the folder from the archives.
        listing: the images in the folder and their classes, none of them opened.
        holds: what the folder must hold to be found.
        official_test: whether it comes with a test split; the listing then gives every file to a split.
    """

    name: str
    title: str
    source: str
    licence: str
    files: tuple[RemoteFile, ...]
    folder: str
    find: Callable[[Path], Path | None]
    unpack: Unpack
    listing: Callable[[Path], Listing]
    holds: tuple[str, ...] = ()
    official_test: bool = False


def load_published(
    published: PublishedSet,
    root: Path | None,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    fetch: bool = False,
    official_test: bool = False,
    **options: Any,
) -> Dataset:
    """A published data set.

    Args:
        published: which one.
        root: holds it in its published layout; None: its folder below `datasets` in the cache.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        cache_dir: the pixels are kept in its folder `pixels`, without a root the images in `datasets`.
        fetch: download it if it is absent.
        official_test: whether rows are given to the test split that it comes with.
        options: further ones of `load_images`.

    Raises:
        DataError: if it is absent, cannot be downloaded or cannot be read.
        BudgetError: if the pixels would take more than the limit allows.
    """
    place = published_place(published, root, cache_dir)
    if fetch and published.find(place) is None:
        folder = place / published.folder
        download(published.title, published.files, folder, published.unpack)
        if published.find(place) is None:
            raise lacking(folder, [name for name in published.holds if not (folder / name).exists()])
    return load_images(
        list_published(published, root, cache_dir, official_test=official_test),
        preprocessing,
        cache_dir=cache_dir,
        name=published.name,
        source=published.source,
        licence=published.licence,
        **options,
    )


def list_published(
    published: PublishedSet, root: Path | None, cache_dir: Path, *, official_test: bool = False
) -> Listing:
    """The images of a published data set where they are, none of them opened.

    Raises:
        DataError: if they are absent.
    """
    place = published_place(published, root, cache_dir)
    folder = published.find(place)
    if folder is None:
        raise DataError(
            f"{place} holds no {published.folder}, expected {published.title} in its published layout",
            f"set dataset.root to the folder that holds it, or dataset.download=true to fetch it from "
            f"{published.files[0].url}",
        )
    listing = published.listing(folder)
    return listing if official_test else without_parts(listing)


def below(root: Path, folder: str, *places: str, holds: tuple[str, ...] = ()) -> Path | None:
    """The first folder of that name, or a root that has another name, in which all that is asked for lies.

    Args:
        root: where it is looked for, also below these `places`, or it is itself the folder.
        folder: its name.
        places: names of folders in which it may lie.
        holds: what it must hold.
    """
    candidates = [parent / folder for parent in (root, *(root / place for place in places))]
    if holds or root.name == folder:
        candidates.append(root)
    found = (path for path in candidates if path.is_dir() and all((path / name).exists() for name in holds))
    return next(found, None)


def with_missing_told(listing: Listing, classes: int) -> Listing:
    """The listing, with a note where it has fewer classes than were published."""
    count = len(listing.class_names)
    if count >= classes:
        return listing
    note = f"{listing.root} holds {count} of the {classes} published classes"
    return replace(listing, notes=(*listing.notes, note))


def published_place(published: PublishedSet, root: Path | None, cache_dir: Path) -> Path:
    """Where a data set is looked for and downloaded to."""
    return cache_dir / "datasets" / published.name if root is None else root
