"""Which images a folder of class folders holds; no image is opened."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tascnet.errors import DataError

__all__ = ["ImageFile", "Listing", "list_images"]

SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
EXPECTED = "set dataset.root to a folder that holds one folder of images for each class"
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One file: its path relative to the root, the index of its class, its size and time."""

    path: str
    label: int
    size: int
    mtime_ns: int

    @property
    def identity(self) -> tuple[str, int, int]:
        """Tells whether the file changed."""
        return self.path, self.size, self.mtime_ns


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The image files below a root, sorted by class and path."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]


def list_images(root: Path | None, exclude: Collection[str] = ()) -> Listing:
    """List the images of every class folder, at any depth below it.

    Hidden files and files that do not end like an image are passed over.

    Args:
        root: holds one folder for each class.
        exclude: names of folders that are no class.

    Returns:
        Classes in the order of their names.

    Raises:
        DataError: if the root is missing or holds fewer than two classes, or a class has no image.
    """
    if root is None:
        raise DataError("dataset.root is not set", EXPECTED)
    if not root.is_dir():
        raise DataError(f"{root} is {'a file' if root.exists() else 'missing'}, expected a folder", EXPECTED)
    names = _class_names(root, exclude)
    found = [[*_images(root, name, index)] for index, name in enumerate(names)]
    empty = [name for name, files in zip(names, found, strict=True) if not files]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        raise DataError(
            f"{root} has class folders without images ({', '.join(empty[:NAMED])}{more})",
            "add images (.jpg, .png, ...) or remove these folders",
        )
    return Listing(root=root, class_names=names, files=tuple(file for files in found for file in files))


def _class_names(root: Path, exclude: Collection[str]) -> tuple[str, ...]:
    names = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    names = [name for name in names if name not in exclude]
    if len(names) < 2:
        raise DataError(f"{root} holds {len(names)} class folders, expected at least two", EXPECTED)
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise DataError(
            f"{root} holds {', '.join(names)}, expected class folders and not splits",
            f"set dataset.root to one of them, such as {root / names[0]}; tascnet makes the splits itself",
        )
    return tuple(names)


def _images(root: Path, name: str, label: int) -> Iterator[ImageFile]:
    for folder, folders, files in os.walk(root / name):
        folders[:] = sorted(sub for sub in folders if not sub.startswith("."))
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix.lower() in SUFFIXES and not file.startswith("."):
                relative = path.relative_to(root).as_posix()
                size, mtime_ns = _size_and_time(path)
                yield ImageFile(path=relative, label=label, size=size, mtime_ns=mtime_ns)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    # A link that leads nowhere is listed, and refused or skipped like any unreadable file.
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
