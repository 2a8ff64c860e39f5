"""Texts with labels, and batches of the numbers of their words."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tascnet.data.dataset import SampleSet, content_fingerprint
from tascnet.data.listing import TextFiles, check_readable, warn_of_twins
from tascnet.data.sources import AnyPreprocessing, PlainSource, SampleSource
from tascnet.errors import DataError, plural
from tascnet.models.text import TextPreprocessing, learn_vocabulary, normalise
from tascnet.options import Images
from tascnet.run.console import log
from tascnet.run.files import digest_json

# Of the texts of a class: they are kept in memory.
MOST_BYTES = 4_000_000_000
# Letters of a text that messages show.
SHOWN = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset(SampleSet):
    """Labelled texts as they were read.

    Args:
        max_tokens: length to which texts are cut for a network that learns their words.
    """

    kind: ClassVar[str] = "texts"

    texts: tuple[str, ...]
    max_tokens: int

    def take(
        self, rows: NDArray[np.int64], preprocessing: Any, augmentation: Images | None = None
    ) -> SampleSource:
        """Texts as the numbers of their words, `b x T`, int64."""
        tokens = preprocessing.encode([self.texts[row] for row in rows])
        return PlainSource(self, rows, preprocessing, partial(_numbers, tokens))

    def prepare(
        self, preprocessing: AnyPreprocessing, train: NDArray[np.int64], *, grow: bool
    ) -> TextPreprocessing:
        chosen = cast(TextPreprocessing, preprocessing)
        if grow:
            old = chosen.vocabulary
            words = learn_vocabulary((self.texts[row] for row in train), old)
            log.info("vocabulary: %d words, %d of them new to the network", len(words), len(words) - len(old))
            chosen = TextPreprocessing(max_tokens=self.max_tokens, vocabulary=words)
        cut = chosen.count_cut(self.texts)
        if cut:
            log.info(
                "%d of %d texts of %s are longer than `max_tokens=%d` and are cut",
                *(cut, len(self), self.name, chosen.max_tokens),
            )
        return chosen


def _numbers(tokens: Tensor, positions: NDArray[np.int64]) -> Tensor:
    return tokens[positions]


def load_texts(files: TextFiles, *, name: str, max_tokens: int) -> TextDataset:
    """The texts in files, in the order of classes and lines; lines without a word are skipped.

    Raises:
        DataError: a class is empty, or bytes do not fit the encoding.
    """
    found = {label: _texts(path, files.encoding) for label, path in files.files.items()}
    for note in files.notes:
        log.info(note)
    warn_of_twins("text", str(files.root), _twins(found))
    names = tuple(found)
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(texts) for texts in found.values()])
    texts = tuple(text for of_class in found.values() for text in of_class)
    digests = tuple(hashlib.sha256(normalise(text).encode()).hexdigest()[:32] for text in texts)
    return TextDataset(
        name=name,
        class_names=names,
        labels=labels,
        texts=texts,
        max_tokens=max_tokens,
        fingerprint=content_fingerprint(names, labels, digest_json(texts), digests),
        digests=digests,
        origin=files.origin or str(files.root),
        licence=files.licence,
    )


def _texts(path: Path, encoding: str) -> list[str]:
    """The lines that hold a word."""
    check_readable(path, "make it a readable file of texts, or move it away", most=MOST_BYTES)
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    read = []
    for number, line in enumerate(lines, start=1):
        try:
            read.append(line.decode(encoding).strip())
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number} of {path} is not {encoding.upper()} (byte {line[error.start]:#04x} at place "
                f"{error.start + 1})",
                f"save the file as {encoding.upper()}",
            ) from error
    texts = [text for text in read if normalise(text)]
    if not texts:
        raise DataError(f"{path} holds no text", "add texts, one a line, or remove the file")
    if len(texts) < len(lines):
        log.warning("%s: skipped %s without a word", path, plural(len(lines) - len(texts), "line"))
    return texts


def _twins(found: Mapping[str, Sequence[str]]) -> list[str]:
    """The beginnings of texts of the same words in several classes."""
    classes: dict[str, list[str]] = {}
    for label, texts in found.items():
        for words in dict.fromkeys(map(normalise, texts)):
            classes.setdefault(words, []).append(label)
    twins = [(words, labels) for words, labels in classes.items() if len(labels) > 1]
    return [f"{shorten(words, SHOWN)!r} in {' and '.join(labels)}" for words, labels in twins]
