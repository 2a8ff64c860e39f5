"""The images or texts to classify: a folder, files, a pattern, a CSV, or standard input."""

import csv
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic, iglob
from pathlib import Path

from tascnet.data.listing import files_below, is_hidden, is_image
from tascnet.errors import DataError, printable
from tascnet.run.files import check_regular

STDIN = "-"
CSV, TXT = ".csv", ".txt"
# Headings of the column that is read, the likeliest first.
COLUMNS = {False: ("file", "path", "filename", "image"), True: ("text", "sentence")}
EXPECTED = {
    False: "give a folder of images, files, a pattern such as photos/*.jpg, a CSV with a column file, or -",
    True: "give files of texts, one a line, a CSV with a column text, or -",
}


class Inputs:
    """Paths of images, or texts, in a fixed order; each pass reads their places again.

    Args:
        given: folders, which are searched with all that they hold, files, patterns, CSV files, or `-` for
            standard input, one path or text a line. What a CSV names is relative to its folder.
        is_text: whether texts are read: lines of files, or of the .txt files of folders.

    Attributes:
        total: how many there are; None for standard input.

    Raises:
        DataError: a file is missing or cannot be read, or there are no samples.
    """

    def __init__(self, given: str | Sequence[str], *, is_text: bool) -> None:
        self.given = (given,) if isinstance(given, str) else tuple(given)
        self.is_text = is_text
        self.total: int | None = None
        if STDIN in self.given:
            if len(self.given) > 1:
                raise DataError("`input` names standard input beside other places", "give - alone")
            return
        self.total = sum(1 for _ in self)
        if not self.total:
            what = "text" if is_text else "image"
            places = ", ".join(self.given[:3]) + (" ..." if len(self.given) > 3 else "")
            raise DataError(f"there is no {what} in {printable(places)}", EXPECTED[is_text])

    def __iter__(self) -> Iterator[str]:
        if STDIN in self.given:
            yield from _lines_of_stdin() if self.is_text else filter(str.strip, _lines_of_stdin())
            return
        for given in self.given:
            folders: set[Path] = set()
            # Folders come before what is in them, which is read with them.
            for path in self._matching(given):
                if folders.isdisjoint(path.parents):
                    yield from self._below(path)
                    if path.is_dir():
                        folders.add(path)

    def _matching(self, given: str) -> Iterator[Path]:
        """The place itself, or what a pattern matches: folders and files that may hold samples."""
        place = Path(given).expanduser()
        if os.path.lexists(place) or not has_magic(given):
            if not place.exists():
                raise DataError(f"{printable(given)} does not exist", EXPECTED[self.is_text])
            yield place
            return
        for path in map(Path, sorted(iglob(str(place), recursive=True))):
            if path.is_dir() or self._is_expected(path) or path.suffix.lower() == CSV:
                yield path

    def _below(self, place: Path) -> Iterator[str]:
        if place.is_dir():
            for path in files_below(place):
                if self._is_expected(path):
                    yield from self._in_file(path)
        else:
            yield from self._in_file(place)

    def _is_expected(self, path: Path) -> bool:
        return path.suffix.lower() == TXT and not is_hidden(path.name) if self.is_text else is_image(path)

    def _in_file(self, path: Path) -> Iterator[str]:
        if path.suffix.lower() == CSV:
            for cell in _column(path, self.is_text):
                yield cell if self.is_text else str(path.parent / cell)
        elif self.is_text:
            _check(path)
            with open(path, "rb") as file:
                yield from _lines(file)
        else:
            yield str(path)


def _column(path: Path, is_text: bool) -> Iterator[str]:
    """The cells of the column of files or texts; without a known heading, those of the only column."""
    _check(path)
    known = COLUMNS[is_text]
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, strict=True)
        column: int | None = None
        try:
            for row in rows:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if column is None:
                    heading = [cell.lower() for cell in cells]
                    found = next((name for name in known if name in heading), None)
                    if found is not None:
                        column = heading.index(found)
                        continue
                    if len(cells) == 1 and set(known) & set(re.split("[;\t]", heading[0])):
                        raise DataError(
                            f"no commas separate the columns of {path}", "separate them by commas"
                        )
                    if len(cells) > 1:
                        raise DataError(
                            f"the first line of {path} names no column {known[0]}",
                            f"give the column of {'texts' if is_text else 'files'} this heading",
                        )
                    column = 0
                if column >= len(cells):
                    raise DataError(
                        f"line {rows.line_num} of {path} has no cell {known[0]}", "complete the line"
                    )
                yield cells[column]
        except csv.Error as error:
            raise DataError(
                f"line {rows.line_num} of {path} is broken ({error})", "correct the line"
            ) from error


def _check(path: Path) -> None:
    try:
        check_regular(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})", "make it a readable file") from error


def _lines_of_stdin() -> Iterator[str]:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
    else:
        yield from _lines(stream)


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    """The lines of a file in UTF-8; other bytes stay what they are, as in names of files."""
    for number, line in enumerate(file):
        text = (line if number else line.removeprefix(b"\xef\xbb\xbf")).rstrip(b"\r\n")
        yield text.decode("utf-8", "surrogateescape")
