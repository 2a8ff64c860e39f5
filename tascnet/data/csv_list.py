"""A CSV of files and labels as a listing of images."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tascnet.data.listing import Listing, image_file
from tascnet.errors import DataError, closest, listed

HEADERS = (["file", "label"], ["label", "file"])
EXPECTED = "each line is <file>,<label>; the first may be file,label"


def list_csv(path: Path, root: Path | None = None, classes: Sequence[str] | None = None) -> Listing:
    """List the images that a CSV in UTF-8 names, with their labels.

    Args:
        path: has a line `file,label` for each image; a first line `file,label` or `label,file` is a header.
        root: what the files are relative to; None: the folder of the CSV.
        classes: the allowed labels; None: any.

    Returns:
        Classes in the order of their names, files sorted by class and path.

    Raises:
        DataError: the CSV is missing, a line is broken, a file is missing or named twice, a label is missing
            or not allowed, or there are fewer than two labels.
    """
    folder = path.parent if root is None else root
    labels: dict[str, str] = {}
    # Lines of files by their normal path, and the first spelling of each label.
    seen: dict[str, int] = {}
    spelt: dict[str, str] = {}
    for number, file, label in _lines(path):
        if not label:
            raise _wrong(path, number, "has no label", EXPECTED)
        # Unlike Path.is_file this also takes a name that is too long for a file.
        if not file or not os.path.isfile(folder / file):
            hint = f"files are looked for in {folder}: set `root` to another folder, or correct the line"
            raise _wrong(path, number, f"names {file or 'no file'}, which is not there", hint)
        if classes is not None and label not in classes:
            likely = closest(label, classes)
            hint = f"did you mean {likely!r}?" if likely else f"`classes` has {listed(classes)}"
            raise _wrong(path, number, f"has the unknown label {label!r}", hint)
        # One file may be written in several ways, such as ./a.png and a.png.
        before = seen.setdefault(os.path.normpath(folder / file), number)
        if before != number:
            raise _wrong(path, number, f"names {file} again, after line {before}", "keep one of them")
        other = spelt.setdefault(label.casefold(), label)
        if other != label:
            raise _wrong(path, number, f"has label {label!r}, others {other!r}", "spell them alike")
        labels[file] = label
    names = sorted(set(labels.values()))
    if len(names) < 2:
        raise DataError(f"{path} has {len(names)} labels, expected at least two", EXPECTED)
    order = {name: index for index, name in enumerate(names)}
    files = sorted((order[label], file) for file, label in labels.items())
    return Listing(
        root=folder,
        class_names=tuple(names),
        files=tuple(image_file(folder, file, label) for label, file in files),
    )


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, file and label of each line that is not empty, without spaces around them."""
    is_swapped = False
    rows = csv.reader(_decoded(path), strict=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) != 2:
                raise _wrong(path, rows.line_num, f"has {len(cells)} columns, expected 2", EXPECTED)
            if rows.line_num == 1 and [cell.lower() for cell in cells] in HEADERS:
                is_swapped = cells[0].lower() == "label"
                continue
            file, label = reversed(cells) if is_swapped else cells
            yield rows.line_num, file, label
    except csv.Error as error:
        raise _wrong(path, rows.line_num, f"is broken ({error})", EXPECTED) from error


def _decoded(path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror})", "set `csv` to a file of files and labels"
        ) from error
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(path, number, "is not valid UTF-8", "save the file as UTF-8") from error


def _wrong(path: Path, number: int, what: str, hint: str) -> DataError:
    return DataError(f"line {number} of {path} {what}", hint)
