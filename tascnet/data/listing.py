"""Which files hold the samples of which class, found without opening them."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tascnet.errors import DataError, by_ending, closest, first_line, listed, plural, printable
from tascnet.run.console import log
from tascnet.run.files import check_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".apng .avif .bmp .dib .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx "
        ".mpo .pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp"
    ).split()
)
# What systems and archivers leave in folders; skipped like hidden files.
LITTER = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
EXPECTED = "set `root` to a folder that holds one folder of images for each class"
TEXTS_EXPECTED = "set `root` to a folder with one file for each class, one text a line"
# Where text files lie in their root: in it, or in the folders of unpacked archives.
BELOW = ("", "*/", "*/*/")
# How many of a list are shown.
SHOWN = 3
NO_ENDING = "without ending"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A file below a root; `part` is its split, "train", "val" or "test", or empty where splits are drawn."""

    path: str
    label: int
    size: int
    mtime_ns: int
    part: str = ""

    @property
    def identity(self) -> tuple[str, int, int]:
        """Differs once the file has changed."""
        return self.path, self.size, self.mtime_ns


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The files below a root.

    Args:
        notes: remarks for the log.
        origin: who published the samples, and where; empty: the root.
        licence: the terms under which they may be used.
    """

    root: Path
    notes: tuple[str, ...] = ()
    origin: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class TextFiles(_Found):
    """The file of each class, in the order of the labels."""

    files: Mapping[str, Path]
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class Listing(_Found):
    """The image files below a root, sorted by class and path.

    Args:
        class_names: one name for each class, in the order of the labels.
        files: all of them belong to a split, or none does.
        read: returns the pixels of a path, `h x w x 3`; None: each path is a file.
        passed_over: how many files of class folders do not have an image's ending, by ending.
    """

    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    read: "Callable[[str], NDArray[np.uint8]] | None" = None
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[int, ...]:
        """Class indices, `n`."""
        return tuple(file.label for file in self.files)

    @property
    def parts(self) -> tuple[str, ...]:
        """The split of each file; empty where splits are drawn."""
        return tuple(file.part for file in self.files) if any(file.part for file in self.files) else ()

    def without_parts(self) -> "Listing":
        """The same files, but splits are drawn."""
        return replace(self, files=tuple(replace(file, part="") for file in self.files))


def list_images(root: Path, exclude: Collection[str] = (), *, nested: bool = True) -> Listing:
    """List the images of every class folder.

    Hidden files and what systems leave in folders are skipped; files without an image's ending are passed
    over and counted. Where the root holds `train` and perhaps
    `val` and `test` (or `training`, `valid`, `validation`, `testing`) instead of classes, these hold the
    class folders, and their images belong to these splits.

    Args:
        exclude: names of folders that are not classes.
        nested: whether images in folders within class folders count.

    Returns:
        Classes in the order of their names.

    Raises:
        DataError: the root is missing or holds fewer than two classes, a class has no image, a name is not
            UTF-8, or splits have different classes.
    """
    check_folder(root, EXPECTED)
    splits = _ready_splits(root, exclude) or {"": ""}
    first, *others = splits.values()
    names = _class_names(root / first, exclude)
    for folder in others:
        odd = sorted(set(names) ^ set(_class_names(root / folder, exclude)))
        if odd:
            here, there = (first, folder) if odd[0] in names else (folder, first)
            raise DataError(
                f"class {odd[0]!r} is in {root / here} but not in {root / there}, expected the same classes",
                "add what is missing, or remove the folder",
            )
    files: list[ImageFile] = []
    passed_over: Counter[str] = Counter()
    for part, folder in splits.items():
        found, empty = [], []
        for label, name in enumerate(names):
            odd_files: Counter[str] = Counter()
            own = [*_images(root, root / folder / name, label, part, nested, odd_files)]
            found.append(own)
            if not own:
                empty.append(f"{name}: {by_ending(odd_files)}" if odd_files else name)
            passed_over += odd_files
        if empty:
            more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
            raise DataError(
                f"{root / folder} has class folders without images ({'; '.join(empty[:SHOWN])}{more})",
                "add images (.jpg, .png, .heic, ...) or remove these folders",
            )
        files.extend(chain.from_iterable(found))
    files.sort(key=lambda file: (file.label, file.path))
    notes = []
    for place in dict.fromkeys((root, *(root / folder for folder in splits.values()))):
        loose = sorted(path.name for path in place.iterdir() if is_image(path) and not path.is_dir())
        if loose:
            count = plural(len(loose), "image")
            notes.append(f"{place}: skipped {count} outside class folders, such as {loose[0]}")
    if passed_over:
        count = plural(passed_over.total(), "file")
        notes.append(f"{root}: passed over {count} without an image's ending: {by_ending(passed_over)}")
    return Listing(
        root=root, class_names=names, files=tuple(files), notes=tuple(notes), passed_over=dict(passed_over)
    )


def _ready_splits(root: Path, exclude: Collection[str]) -> dict[str, str]:
    """The folder of each split, train first; empty where the root holds classes."""
    folders = _folders(root, exclude)
    found = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    parts = list(found.values())
    # One of several classes may be called train; a single folder called train is a split.
    if "train" not in parts or (len(found) == 1 and len(folders) > 1):
        if folders and len(found) == len(folders):
            raise DataError(
                f"{root} holds {', '.join(folders)}, expected train too, or class folders and not splits",
                f"add the folder {root / 'train'}, or set `root` to one of them",
            )
        return {}
    if len(found) < len(folders) or len(set(parts)) < len(parts):
        raise DataError(
            f"{root} holds {', '.join(folders[:6])}, expected train, val and test once each and no others",
            "move the others away, or rename what are classes",
        )
    return {part: name for name, part in sorted(found.items(), key=lambda item: item[1] != "train")}


def _images(
    root: Path, folder: Path, label: int, part: str, nested: bool, passed_over: Counter[str]
) -> Iterator[ImageFile]:
    """The images of a class; other files are counted in `passed_over`."""
    for path in files_below(folder, nested=nested):
        if is_image(path):
            yield image_file(root, path.relative_to(root).as_posix(), label, part)
        elif not is_hidden(path.name):
            passed_over[path.suffix.lower() or NO_ENDING] += 1


def files_below(folder: Path, *, nested: bool = True) -> Iterator[Path]:
    """Files of a folder, and with `nested` of the folders in it that are not hidden, in sorted order.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror})", "make it readable, or move it away"
        ) from error

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead to a folder that it lies in.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(sub for sub in folders if nested and not is_hidden(sub))
        yield from (Path(place, name) for name in sorted(names))


def image_file(root: Path, path: str, label: int, part: str = "") -> ImageFile:
    """The record of a file; a missing one is refused or skipped when it is decoded."""
    try:
        stat = (root / path).stat()
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, mtime_ns = 0, 0
    return ImageFile(path=path, label=label, size=size, mtime_ns=mtime_ns, part=part)


def _folders(root: Path, exclude: Collection[str]) -> list[str]:
    entries = [e for e in os.scandir(root) if not is_hidden(e.name) and e.name not in exclude]
    # A broken link with an image's suffix cannot be a class folder.
    refuse_broken_links(root, (path for path in map(Path, entries) if not is_image(path)))
    return sorted(entry.name for entry in entries if entry.is_dir())


def _class_names(root: Path, exclude: Collection[str]) -> tuple[str, ...]:
    names = _folders(root, exclude)
    if len(names) < 2:
        raise DataError(f"{root} holds {len(names)} class folders, expected at least two", EXPECTED)
    for name in names:
        check_utf8(name, f"the name of a class folder in {root}")
    return tuple(names)


def is_image(path: Path) -> bool:
    """Whether a path ends as an image does and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a system or an archiver."""
    return name.startswith(".") or name.lower() in LITTER


def choose_classes(listing: Listing, classes: Sequence[str] | None) -> Listing:
    """The files of some classes, in the order of the listing; None: of all.

    Raises:
        DataError: the listing lacks one of them.
    """
    if classes is None:
        return listing
    missing = next((name for name in classes if name not in listing.class_names), None)
    if missing is not None:
        likely = closest(missing, listing.class_names)
        raise DataError(
            f"`classes` names {missing!r}, which is not a class of {listing.root}",
            f"did you mean {likely!r}?" if likely else f"they are {listed(listing.class_names)}",
        )
    names = tuple(name for name in listing.class_names if name in classes)
    labels = {listing.class_names.index(name): label for label, name in enumerate(names)}
    files = tuple(replace(file, label=labels[file.label]) for file in listing.files if file.label in labels)
    return replace(listing, class_names=names, files=files)


def list_texts(root: Path) -> TextFiles:
    """The files of a folder, one for each class, in the order of their names.

    Raises:
        DataError: the root is missing, there are fewer than two classes, a class has two files, or its name
            is not UTF-8.
    """
    check_folder(root, TEXTS_EXPECTED)
    entries = sorted(path for path in root.iterdir() if not is_hidden(path.name))
    refuse_broken_links(root, entries)
    paths = [path for path in entries if not path.is_dir()]
    if len(paths) < 2:
        count = plural(len(paths), "file")
        raise DataError(f"{root} holds {count}, expected at least two, one for each class", TEXTS_EXPECTED)
    files: dict[str, Path] = {}
    for path in paths:
        check_utf8(path.name, f"the name of a class file in {root}")
        name = path.stem if path.suffix.lower() == ".txt" else path.name
        twin = files.setdefault(name, path)
        if twin is not path:
            message = f"{root} holds {twin.name} and {path.name}, expected one file for each class"
            raise DataError(message, "join them")
    odd = [name for name, path in files.items() if path.name == name]
    notes = (f"{root}: {', '.join(odd)} do not end in .txt and are classes too",) if odd else ()
    return TextFiles(root=root, files=files, notes=notes)


def find_file(root: Path, names: Sequence[str]) -> Path | None:
    """A file under one of its names, in a folder or in a folder of it that an archive unpacks to."""
    patterns = [below + escape(name) for name in names for below in BELOW]
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if path.is_file()), None)


def check_folder(root: Path, hint: str) -> None:
    """Refuse a root that is missing, a file or not readable, as a `DataError` with a hint."""
    if os.path.isdir(root):
        if not os.access(root, os.R_OK | os.X_OK):
            raise DataError(f"{root} cannot be read (permission denied)", "make it readable")
        return
    try:
        os.stat(root)
        came = "a file"
    except (FileNotFoundError, NotADirectoryError):
        came = "missing"
    except (OSError, ValueError) as error:
        raise DataError(f"{root} cannot be read ({first_line(error)})", hint) from error
    raise DataError(f"{root} is {came}, expected a folder", hint)


def check_readable(path: Path, hint: str, *, most: int) -> None:
    """Refuse what is no regular file, has more bytes or must not be read, as a `DataError` with a hint."""
    try:
        check_regular(path, most=most)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})", hint) from error


def refuse_broken_links(root: Path, paths: Iterable[Path]) -> None:
    """Refuse broken links that could be classes, as a `DataError`, so that no class is dropped silently."""
    broken = sorted(path.name for path in paths if path.is_symlink() and not os.path.exists(path))
    if broken:
        raise DataError(
            f"{root} holds broken links ({', '.join(broken[:SHOWN])}), which may be classes",
            "repair or remove them",
        )


def check_utf8(name: str, what: str) -> None:
    """Refuse a name that is not UTF-8, as a `DataError`: reports and models could not hold it."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(f"{what} is not valid UTF-8 ({printable(name)})", "rename it")


def first_of(texts: Sequence[str]) -> str:
    """The first texts, and how many more there are; bytes of names that are not UTF-8 are escaped."""
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return printable("; ".join(texts[:SHOWN]) + more)


def twin_images(
    same: Iterable[Sequence[int]], labels: "NDArray[np.int64]", describe: Callable[[int], str]
) -> list[str]:
    """Descriptions of the groups of `same` rows that are in several classes."""
    twins = [rows for rows in same if len({labels[row] for row in rows}) > 1]
    return [" = ".join(map(describe, rows)) for rows in twins]


def warn_of_twins(kind: str, origin: str, twins: Sequence[str]) -> None:
    """Warn of samples, each described in `twins`, that are in several classes."""
    if twins:
        log.warning(
            "%d %s in more than one class of %s (%s): used as they are; remove those with a wrong label",
            len(twins),
            f"{kind} is" if len(twins) == 1 else f"{kind}s are",
            origin,
            first_of(twins),
        )
