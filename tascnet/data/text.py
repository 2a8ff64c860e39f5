"""Texts with labels: one file a class, one text a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from tascnet.data.dataset import content_fingerprint
from tascnet.data.download import RemoteFile, download, lacking
from tascnet.data.listing import check_text, refuse_lost
from tascnet.data.twins import warn_of_twins
from tascnet.data.unpack import check_gzip, unpack_tar
from tascnet.errors import DataError, plural
from tascnet.models.text import normalise
from tascnet.run.console import log
from tascnet.run.files import digest_json

# Where files lie in their root: in it, or in what archives unpack to.
BELOW = ("", "*/", "*/*/")
# Letters of a text that messages show.
SHOWN = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset:
    """Labelled texts as they were read.

    Args:
        name: what the data set is called in tables.
        class_names: one name for each class, in the order of the labels.
        labels: class indices, `n`, int64.
        texts: raw texts, `n`.
        fingerprint: digest of class names, labels and texts.
        source: where the texts come from.
        licence: the terms under which they may be used.
    """

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    texts: tuple[str, ...]
    fingerprint: str
    source: str = ""
    licence: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The split that each text is given to: none is."""
        return ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Which file holds the texts of which class.

    Args:
        classes: in the order of the labels, the names that a class's file goes by, the published one first.
        encoding: of all files.
        source: where the texts come from.
        licence: the terms under which they may be used.
        title: what the data set is called in messages.
        archive: where the files are published; None: nowhere.
    """

    classes: Mapping[str, tuple[str, ...]]
    encoding: str
    source: str
    licence: str
    title: str = ""
    archive: RemoteFile | None = None


ADDRESS = "https://www.cs.cornell.edu/people/pabo/movie-review-data/"
# Data sets of which published archives hold these files. The authors give no digests: that of Movie Review is
# the one that Hugging Face's data sets recorded; the other archive is held against its own checksum alone.
TEXT_FILES = {
    "movie_review": TextFiles(
        classes={"negative": ("rt-polarity.neg",), "positive": ("rt-polarity.pos",)},
        encoding="latin-1",
        source=f"Sentence polarity 1.0 (Pang and Lee 2005), {ADDRESS}",
        licence="free for research; the sentences are those of Rotten Tomatoes' reviewers",
        title="Movie Review",
        archive=RemoteFile(
            url=f"{ADDRESS}rt-polaritydata.tar.gz",
            digest="sha256:a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
        ),
    ),
    "subjectivity": TextFiles(
        classes={
            "objective": ("plot.tok.gt9.5000", "subj.objective"),
            "subjective": ("quote.tok.gt9.5000", "subj.subjective"),
        },
        encoding="latin-1",
        source=f"Subjectivity 1.0 (Pang and Lee 2004), {ADDRESS}",
        licence="free for research; the sentences are those of Rotten Tomatoes' reviewers and of IMDb",
        title="Subjectivity",
        archive=RemoteFile(url=f"{ADDRESS}rotten_imdb.tar.gz", digest=None),
    ),
}


def find_text_files(name: str, root: Path | None) -> TextFiles:
    """The files of a data set of texts; none is opened.

    Args:
        name: one of `TEXT_FILES`, or any other name for a folder of files, one a class.
        root: the folder that holds the files, itself or in a folder below it.

    Raises:
        DataError: the root or a file is missing, there are fewer than two classes, a class has two files,
            or its name is no text.
    """
    published = TEXT_FILES.get(name)
    hint = _hint(published)
    if root is None:
        raise DataError(f"dataset={name} needs its texts, but dataset.root is not set", hint)
    if not root.is_dir():
        raise DataError(f"{root} is {'a file' if root.exists() else 'missing'}, expected a folder", hint)
    if published is None:
        return _any_files(root, hint)
    missing = _missing(root, published)
    if missing:
        raise DataError(f"{root} has no {' and no '.join(missing)}", hint)
    return published


def load_texts(name: str, root: Path | None) -> TextDataset:
    """The texts of a data set, in the order of classes and lines; lines without a word are no texts.

    Texts of the same words in several classes are told in the log.

    Args:
        name: one of `TEXT_FILES`, or any other name for a folder of files, one a class.
        root: the folder that holds the files.

    Raises:
        DataError: the root or a file is missing, a class is empty, or bytes are none of the encoding.
    """
    files = find_text_files(name, root)
    assert root is not None, "a folder has been found in it"
    found = {
        label: _texts(_place(root, names) or root / names[0], files.encoding)
        for label, names in files.classes.items()
    }
    names = tuple(found)
    odd = [label for label in names if name not in TEXT_FILES and files.classes[label] == (label,)]
    if odd:
        log.info("%s: %s do not end in .txt and are classes too", root, ", ".join(odd))
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(texts) for texts in found.values()])
    texts = tuple(text for of_class in found.values() for text in of_class)
    warn_of_twins("text", root, _twins(found))
    return TextDataset(
        name=name,
        class_names=names,
        labels=labels,
        texts=texts,
        fingerprint=content_fingerprint(names, labels, digest_json(texts)),
        source=files.source,
        licence=files.licence,
    )


def _twins(found: Mapping[str, Sequence[str]]) -> list[str]:
    """The beginnings of texts of the same words in several classes."""
    classes: dict[str, list[str]] = {}
    for label, texts in found.items():
        for words in dict.fromkeys(map(normalise, texts)):
            classes.setdefault(words, []).append(label)
    twins = [(words, labels) for words, labels in classes.items() if len(labels) > 1]
    return [f"{shorten(words, SHOWN)!r} in {' and '.join(labels)}" for words, labels in twins]


def text_place(name: str, root: Path | None, cache_dir: Path) -> Path | None:
    """Where a data set of texts is looked for: its root, or for a published one a folder in the cache."""
    return cache_dir / "datasets" / name if root is None and name in TEXT_FILES else root


def fetch_texts(name: str, place: Path) -> None:
    """Download a published data set of texts, unless its files are there.

    Raises:
        DataError: the archive cannot be fetched, or is not what was published, or its folder exists
            without the files.
    """
    published = TEXT_FILES[name]
    assert published.archive is not None, "what is published is published somewhere"
    if _missing(place, published):
        download(published.title, [published.archive], place / name, _unpack)
        missing = _missing(place, published)
        if missing:
            raise lacking(place / name, missing)


def _unpack(archives: Sequence[Path], target: Path) -> None:
    for archive in archives:
        check_gzip(archive)
        unpack_tar(archive, target)


def _hint(published: TextFiles | None) -> str:
    if published is None:
        return "set dataset.root to a folder with one file for each class, one text a line"
    names = " and ".join(files[0] for files in published.classes.values())
    assert published.archive is not None, "what is published is published somewhere"
    return (
        f"set dataset.root to a folder with {names}, or dataset.download=true to fetch it from "
        f"{published.archive.url}"
    )


def _any_files(root: Path, hint: str) -> TextFiles:
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    refuse_lost(root, entries)
    paths = [path for path in entries if path.is_file()]
    if len(paths) < 2:
        raise DataError(
            f"{root} holds {plural(len(paths), 'file')}, expected at least two, one a class", hint
        )
    classes: dict[str, tuple[str, ...]] = {}
    for path in paths:
        check_text(path.name, f"the name of a class file in {root}")
        name = path.stem if path.suffix.lower() == ".txt" else path.name
        if name in classes:
            twin = classes[name][0]
            raise DataError(f"{root} holds {twin} and {path.name}, expected one file a class", "join them")
        classes[name] = (path.name,)
    return TextFiles(classes=classes, encoding="utf-8", source=str(root), licence="")


def _missing(root: Path, published: TextFiles) -> list[str]:
    return [files[0] for files in published.classes.values() if _place(root, files) is None]


def _place(root: Path, names: Sequence[str]) -> Path | None:
    """Where a file lies under one of its names: in the folder, or below it as an archive unpacks."""
    patterns = [below + escape(name) for name in names for below in BELOW]
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if path.is_file()), None)


def _texts(path: Path, encoding: str) -> list[str]:
    """The lines that hold a word."""
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    read = (_text(path, number, line, encoding) for number, line in enumerate(lines, start=1))
    texts = [text for text in read if normalise(text)]
    if not texts:
        raise DataError(f"{path} holds no text", "add texts, one a line, or remove the file")
    if len(texts) < len(lines):
        without = plural(len(lines) - len(texts), "line")
        log.warning("%s: %s without a word passed over", path, without)
    return texts


def _text(path: Path, number: int, line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding).strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} of {path} is no {encoding.upper()} (byte {line[error.start]:#04x} at place "
            f"{error.start + 1})",
            f"save the file as {encoding.upper()}",
        ) from error
