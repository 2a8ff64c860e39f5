"""A CSV of files and labels as a listing of images."""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tascnet.data.listing import Listing, check_readable, image_file
from tascnet.errors import DataError, closest, listed, plural
from tascnet.options import is_number
from tascnet.run.files import check_regular

HEADERS = (["file", "label"], ["label", "file"])
EXPECTED = "each line is <file>,<label>, with one label for a file; the first may be file,label"
UNCLOSED = 'has a " that is not closed in the same line'
# What other programs separate columns by.
SEPARATORS = {";": "`;`", "\t": "tabs", "|": "`|`"}
# Millions of files.
MOST_BYTES = 1_000_000_000
# A class with fewer files cannot be split into training, validation and test.
SMALLEST_CLASS = 3


def list_csv(path: Path, root: Path | None = None, classes: Sequence[str] | None = None) -> Listing:
    """List the images that a CSV in UTF-8 names, with their labels.

    Args:
        path: has a line `file,label` for each image; a first line `file,label` or `label,file` is a header.
        root: what the files are relative to; None: the folder of the CSV.
        classes: the allowed labels; None: any.

    Returns:
        Classes in the order of their names, files sorted by class and path.

    Raises:
        DataError: the CSV cannot be read, a line is broken, a file is missing or named twice, a label is
            missing or not allowed, there are fewer than two labels, or they are no classes: several for a
            file, or measured numbers.
    """
    folder = path.parent if root is None else root
    labels: dict[str, str] = {}
    # Line and label of files by their normal path, and the first spelling of each label.
    seen: dict[str, tuple[int, str]] = {}
    spelt: dict[str, str] = {}
    for number, file, label in _lines(path):
        if not label:
            raise _wrong(path, number, "has no label", EXPECTED)
        _check_there(path, number, folder, file)
        if classes is not None and label not in classes:
            likely = closest(label, classes)
            hint = f"did you mean {likely!r}?" if likely else f"`classes` has {listed(classes)}"
            raise _wrong(path, number, f"has the unknown label {label!r}", hint)
        # One file may be written in several ways, such as ./a.png and a.png.
        before, given = seen.setdefault(os.path.normpath(folder / file), (number, label))
        if before != number:
            what = f"names {file} again, after line {before}"
            odd = f" with label {given!r}, expected one label for a file" if given != label else ""
            raise _wrong(path, number, what + odd, "keep one of them")
        other = spelt.setdefault(unicodedata.normalize("NFC", label).casefold(), label)
        if other != label:
            raise _wrong(path, number, f"has label {label!r}, others {other!r}", "spell them alike")
        labels[file] = label
    names = sorted(set(labels.values()))
    if len(names) < 2:
        raise DataError(f"{path} has {len(names)} labels, expected at least two", EXPECTED)
    _check_classes(path, list(labels.values()))
    order = {name: index for index, name in enumerate(names)}
    files = sorted((order[label], file) for file, label in labels.items())
    return Listing(
        root=folder,
        class_names=tuple(names),
        files=tuple(image_file(folder, file, label) for label, file in files),
    )


def _check_there(path: Path, number: int, folder: Path, file: str) -> None:
    hint = f"files are looked for in {folder}: set `root` to another folder, or correct the line"
    if not file:
        raise _wrong(path, number, "names no file", EXPECTED)
    try:
        check_regular(folder / file)
    # The image is called unreadable when it is decoded, and may be skipped.
    except PermissionError:
        pass
    except FileNotFoundError as error:
        raise _wrong(path, number, f"names {file}, which is not there", hint) from error
    except OSError as error:
        raise _wrong(path, number, f"names {file}, which cannot be read ({error})", hint) from error


def _check_classes(path: Path, labels: Sequence[str]) -> None:
    """Refuse labels that are several for each file, or numbers that were measured."""
    counts = Counter(labels)
    if min(counts.values()) >= SMALLEST_CLASS:
        return
    if len(counts) > len(labels) / 2 and all(map(is_number, counts)):
        raise DataError(
            f"{path} has {len(labels)} labels that are {len(counts)} different numbers, expected classes",
            "tascnet predicts classes and no numbers: give ranges of them names, such as small and large",
        )
    parts = {label: [part.strip() for part in re.split(r"[,;|]", label)] for label in counts}
    alone = Counter(part for own in parts.values() for part in set(own))
    several = [label for label, own in parts.items() if len(own) > 1 and all(alone[part] > 1 for part in own)]
    if several:
        raise DataError(
            f"{path} has several labels for a file, such as {several[0]!r}, expected one",
            "tascnet predicts one class for an image: keep one label in each line",
        )


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, file and label of each line that is not empty, without spaces around them."""
    is_swapped = False
    rows = csv.reader(_decoded(path), strict=True)
    first = 1
    try:
        for row in rows:
            number, first = first, rows.line_num + 1
            if rows.line_num > number:
                raise _wrong(path, number, UNCLOSED, EXPECTED)
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) != 2:
                raise _wrong(path, number, _of_columns(cells), EXPECTED)
            if number == 1 and [cell.lower() for cell in cells] in HEADERS:
                is_swapped = cells[0].lower() == "label"
                continue
            file, label = reversed(cells) if is_swapped else cells
            yield number, file, label
    except csv.Error as error:
        # A quote that is not closed takes the lines after it, up to the next quote or to the end.
        is_open = rows.line_num > first or "unexpected end of data" in str(error)
        what = UNCLOSED if is_open else f"is broken ({error})"
        raise _wrong(path, first, what, EXPECTED) from error


def _of_columns(cells: Sequence[str]) -> str:
    for separator, name in SEPARATORS.items():
        if len(cells) == 1 and separator in cells[0]:
            return f"is separated by {name}, expected commas"
    return f"has {plural(len(cells), 'column')}, expected 2"


def _decoded(path: Path) -> Iterator[str]:
    check_readable(path, "set `csv` to a file of files and labels", most=MOST_BYTES)
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(path, number, "is not valid UTF-8", "save the file as UTF-8") from error


def _wrong(path: Path, number: int, what: str, hint: str) -> DataError:
    return DataError(f"line {number} of {path} {what}", hint)
