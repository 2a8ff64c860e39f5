"""Samples that two data sets share."""

import numpy as np

from tascnet.data.heldout import without_samples
from tascnet.data.splits import Split
from tests.data.loading import load_lines


def texts(folder, **files):
    folder.mkdir()
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return load_lines(folder)


def test_texts_with_the_same_words_are_the_same(tmp_path):
    dataset = texts(tmp_path / "t", a=["A clichéd film!", "another one"], b=["a  cliched film !", "a film"])
    first, other, same, shorter = dataset.digests
    assert first == same
    assert len({first, other, shorter}) == 3


def test_a_split_loses_what_is_excluded_and_nothing_else(tmp_path):
    source = texts(tmp_path / "s", a=["one", "two", "three"], b=["four", "five", "six"])
    target = texts(tmp_path / "t", x=["TWO", "seven"], y=["six", "eight"])
    rows = Split(train=np.array([0, 1, 3]), val=np.array([4, 5]), test=np.array([2]))

    def left(excluded):
        parts = without_samples(source, rows, excluded)
        return [part.tolist() for part in (parts.train, parts.val, parts.test)]

    assert left(target.digests) == [[0, 3], [4], [2]]
    assert left(()) == [[0, 1, 3], [4, 5], [2]]
