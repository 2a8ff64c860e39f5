"""Which files hold the texts of which class, found without opening them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from tascnet.data.listing import check_folder, check_utf8, refuse_broken_links
from tascnet.errors import DataError, plural

EXPECTED = "set `root` to a folder with one file for each class, one text a line"
# Where files lie in their root: in it, or in the folders of unpacked archives.
BELOW = ("", "*/", "*/*/")


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """The file of each class.

    Args:
        files: by class, in the order of the labels.
        notes: remarks for the log.
        origin: who published the texts, and where; empty: the root.
        licence: the terms under which they may be used.
    """

    root: Path
    files: Mapping[str, Path]
    encoding: str = "utf-8"
    notes: tuple[str, ...] = ()
    origin: str = ""
    licence: str = ""


def list_texts(root: Path) -> TextFiles:
    """The files of a folder, one for each class, in the order of their names.

    Raises:
        DataError: the root is missing, there are fewer than two classes, a class has two files, or its name
            is not UTF-8.
    """
    check_folder(root, EXPECTED)
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    refuse_broken_links(root, entries)
    paths = [path for path in entries if path.is_file()]
    if len(paths) < 2:
        count = plural(len(paths), "file")
        raise DataError(f"{root} holds {count}, expected at least two, one for each class", EXPECTED)
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
