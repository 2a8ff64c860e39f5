"""Where the files of a data set are: mistakes are found before anything is fetched, decoded or imported."""

from pathlib import Path

from tascnet.data.catalogue import CATALOGUE
from tascnet.data.csv_list import list_csv
from tascnet.data.listing import Listing, TextFiles, choose_classes, list_images, list_texts
from tascnet.data.splits import split_sizes
from tascnet.options import Data, Files, ImageFolder, PublishedImages, PublishedTexts, Texts


def check_samples(data: Data, cache: Path) -> None:
    """Find a missing folder or file, an empty class, or a class too small for the split.

    A published data set that is absent and may be downloaded passes.

    Raises:
        DataError: there is one.
    """
    if isinstance(data, PublishedImages | PublishedTexts) and data.download:
        published = CATALOGUE[data.name]
        if published.find(published.place(_root(data), cache)) is None:
            return
    files = find_files(data, cache)
    if isinstance(files, Listing):
        split_sizes(files.labels, files.class_names, train=data.train, val=data.val, parts=files.parts)


def find_files(data: Data, cache: Path, *, fetch: bool = False) -> Listing | TextFiles | None:
    """The files of a data set and their classes, none of them opened; None: it has no files.

    Args:
        fetch: download a published data set that is absent, where its options allow that.

    Raises:
        DataError: they are missing or contradict each other.
    """
    if isinstance(data, PublishedImages | PublishedTexts):
        found = CATALOGUE[data.name].locate(_root(data), cache, fetch=fetch and data.download)
        if isinstance(data, PublishedTexts) or isinstance(found, TextFiles):
            return found
        return choose_classes(found if data.official_test else found.without_parts(), data.classes)
    if isinstance(data, Texts):
        return list_texts(_root(data) or Path())
    if not isinstance(data, ImageFolder):
        return None
    if data.csv is not None:
        listing = list_csv(Path(data.csv).expanduser(), _root(data), data.classes)
    else:
        listing = list_images(_root(data) or Path())
    return choose_classes(listing, data.classes)


def _root(data: Files) -> Path | None:
    return None if data.root is None else Path(data.root).expanduser()
