"""Which images a folder of class folders holds; no image is opened."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tascnet.errors import DataError, closest, listed, plural

# What a row can be given to by folders or lists that come with the images.
PARTS = ("train", "val", "test")

SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
EXPECTED = "set dataset.root to a folder that holds one folder of images for each class"
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One file: its path relative to the root, the index of its class, its size and time.

    `part` is the split that it is given to, one of `PARTS`, or empty where it is given to none.
    """

    path: str
    label: int
    size: int
    mtime_ns: int
    part: str = ""

    @property
    def identity(self) -> tuple[str, int, int]:
        """Tells whether the file changed."""
        return self.path, self.size, self.mtime_ns


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The image files below a root, sorted by class and path.

    Args:
        root: what the paths are relative to.
        class_names: one name for each class, in the order of the labels.
        files: all of them are given to a split, or none is.
        read: gives the pixels of a path, `h x w x 3`; None: each path is a file.
        notes: what the log is to tell of it.
    """

    root: Path
    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    read: Callable[[str], NDArray[np.uint8]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, `n`."""
        return np.array([file.label for file in self.files], dtype=np.int64)

    @property
    def parts(self) -> tuple[str, ...]:
        """The split that each file is given to; empty where none is."""
        return tuple(file.part for file in self.files) if any(file.part for file in self.files) else ()


def list_images(root: Path | None, exclude: Collection[str] = (), *, nested: bool = True) -> Listing:
    """List the images of every class folder.

    Hidden files and files that do not end like an image are passed over. Where the root holds `train` and
    perhaps `val` and `test` (or `training`, `valid`, `validation`, `testing`) in place of classes, these hold
    the class folders, and their images are given to these splits.

    Args:
        root: holds one folder for each class.
        exclude: names of folders that are no class.
        nested: whether images in folders within class folders count.

    Returns:
        Classes in the order of their names.

    Raises:
        DataError: if the root is missing or holds fewer than two classes, a class has no image, a name is no
            text, or splits have different classes.
    """
    if root is None:
        raise DataError("dataset.root is not set", EXPECTED)
    if not root.is_dir():
        raise DataError(f"{root} is {'a file' if root.exists() else 'missing'}, expected a folder", EXPECTED)
    splits = _ready_splits(root, exclude)
    if splits:
        return _list_splits(root, splits, exclude, nested)
    names = _class_names(root, exclude)
    files = _files_of(root, "", names, "", nested)
    everything = tuple(file for own in files for file in own)
    return Listing(root=root, class_names=names, files=everything, notes=_of_loose(root))


def _ready_splits(root: Path, exclude: Collection[str]) -> dict[str, str]:
    """The folder of each part, where the root holds splits; empty where it holds classes."""
    folders = _folders(root, exclude)
    found = [name for name in folders if name.lower() in SPLIT_NAMES]
    parts = [SPLIT_NAMES[name.lower()] for name in found]
    # A class may be called train; a data set of trains alone there is not.
    if "train" not in parts or (len(found) == 1 and len(folders) > 1):
        if folders and len(found) == len(folders):
            raise DataError(
                f"{root} holds {', '.join(folders)}, expected train too, or class folders and not splits",
                f"add the folder {root / 'train'}, or set dataset.root to one of them",
            )
        return {}
    others = [name for name in folders if name not in found]
    if others or len(set(parts)) < len(parts):
        raise DataError(
            f"{root} holds {', '.join(folders[:6])}, expected train, val and test once each and no others",
            "move the others away, or rename what are classes",
        )
    return dict(zip(parts, found, strict=True))


def _list_splits(root: Path, splits: Mapping[str, str], exclude: Collection[str], nested: bool) -> Listing:
    names = _class_names(root / splits["train"], exclude)
    for folder in splits.values():
        _same_classes(root, splits["train"], names, folder, _class_names(root / folder, exclude))
    found = [_files_of(root, folder, names, part, nested) for part, folder in splits.items()]
    files = [file for of_class in zip(*found, strict=True) for own in of_class for file in own]
    files.sort(key=lambda file: (file.label, file.path))
    notes = (*_of_loose(root), *(note for folder in splits.values() for note in _of_loose(root / folder)))
    return Listing(root=root, class_names=names, files=tuple(files), notes=notes)


def _same_classes(root: Path, train: str, expected: Sequence[str], folder: str, names: Sequence[str]) -> None:
    odd = sorted(set(expected) ^ set(names))
    if odd:
        here, there = (train, folder) if odd[0] in expected else (folder, train)
        raise DataError(
            f"class {odd[0]!r} is in {root / here} but not in {root / there}, expected the same classes",
            "add what is missing, or remove the folder",
        )


def _files_of(
    root: Path, folder: str, names: Sequence[str], part: str, nested: bool
) -> list[list[ImageFile]]:
    """The files of each class below a folder of class folders."""
    found = [
        [*_images(root, f"{folder}/{name}" if folder else name, index, part, nested)]
        for index, name in enumerate(names)
    ]
    empty = [name for name, files in zip(names, found, strict=True) if not files]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        raise DataError(
            f"{root / folder} has class folders without images ({', '.join(empty[:NAMED])}{more})",
            "add images (.jpg, .png, ...) or remove these folders",
        )
    return found


def _folders(root: Path, exclude: Collection[str]) -> list[str]:
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    # A link that is called like an image is none of a class folder's.
    paths = (Path(entry.path) for entry in entries if entry.name not in exclude)
    refuse_lost(root, (path for path in paths if not _is_image(path)))
    return sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in exclude)


def refuse_lost(root: Path, paths: Iterable[Path]) -> None:
    """Refuse links that lead nowhere where each may be a class: none is left out in silence.

    Raises:
        DataError: there are such.
    """
    lost = sorted(path.name for path in paths if path.is_symlink() and not os.path.exists(path))
    if lost:
        raise DataError(
            f"{root} holds links that lead nowhere ({', '.join(lost[:NAMED])}), which may be classes",
            "mend or remove them",
        )


def _class_names(root: Path, exclude: Collection[str]) -> tuple[str, ...]:
    names = _folders(root, exclude)
    if len(names) < 2:
        raise DataError(f"{root} holds {len(names)} class folders, expected at least two", EXPECTED)
    for name in names:
        check_text(name, f"the name of a class folder in {root}")
    return tuple(names)


def check_text(name: str, what: str) -> None:
    """Refuse a name whose bytes are no UTF-8: it could not be written into reports and models.

    Raises:
        DataError: they are not.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise DataError(f"{what} is not valid UTF-8 ({shown})", "rename it")


def _images(root: Path, folder: str, label: int, part: str, nested: bool) -> Iterator[ImageFile]:
    seen: set[str] = set()
    for place, folders, files in os.walk(root / folder, onerror=_refuse, followlinks=True):
        # A link may lead to a folder that it lies in.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(sub for sub in folders if nested and not sub.startswith("."))
        for file in sorted(files):
            path = Path(place, file)
            if _is_image(path):
                yield image_file(root, path.relative_to(root).as_posix(), label, part)


def _of_loose(root: Path) -> tuple[str, ...]:
    loose = sorted(path.name for path in root.iterdir() if _is_image(path) and not path.is_dir())
    if not loose:
        return ()
    return (f"{root}: {plural(len(loose), 'image')} in no class folder passed over, such as {loose[0]}",)


def _is_image(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be read ({error.strerror})", "make it readable, or move it away"
    ) from error


def image_file(root: Path, path: str, label: int, part: str = "") -> ImageFile:
    """The record of a file below a root; one that is not there is refused or skipped when it is decoded."""
    size, mtime_ns = _size_and_time(root / path)
    return ImageFile(path=path, label=label, size=size, mtime_ns=mtime_ns, part=part)


def choose_classes(listing: Listing, classes: Sequence[str] | None) -> Listing:
    """The files of some classes, in the order that the listing has.

    Raises:
        DataError: one of them is no class of the listing.
    """
    if classes is None:
        return listing
    missing = next((name for name in classes if name not in listing.class_names), None)
    if missing is not None:
        likely = closest(missing, listing.class_names)
        raise DataError(
            f"dataset.classes names {missing!r}, which is no class of {listing.root}",
            f"did you mean {likely!r}?" if likely else f"they are {listed(listing.class_names)}",
        )
    names = tuple(name for name in listing.class_names if name in classes)
    labels = {listing.class_names.index(name): label for label, name in enumerate(names)}
    files = tuple(replace(file, label=labels[file.label]) for file in listing.files if file.label in labels)
    return replace(listing, class_names=names, files=files)


def without_parts(listing: Listing) -> Listing:
    """The same files, given to no split."""
    return replace(listing, files=tuple(replace(file, part="") for file in listing.files))


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    # A link that leads nowhere is listed, and refused or skipped like any unreadable file.
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
