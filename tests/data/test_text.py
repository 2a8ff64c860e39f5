"""Texts from files, their words, and what a network reads of them."""

import dataclasses
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tascnet.data import cached_features
from tascnet.data.catalogue import CATALOGUE
from tascnet.data.listing import list_texts
from tascnet.errors import DataError
from tascnet.models.text import SPECIAL, TextPreprocessing
from tests.data.loading import load_lines, load_published_texts
from tests.data.server import serve


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def reviews(tmp_path):
    """Two negative sentences, one positive, with bytes that are Latin-1 and no UTF-8."""
    (tmp_path / "rt-polarity.neg").write_bytes(b"a clich\xe9 .\nno fun , no wit . \n")
    (tmp_path / "rt-polarity.pos").write_bytes(b"one \x96 and only\n")
    return tmp_path


def test_published_files_are_read_in_their_own_encoding_and_order(reviews):
    dataset = load_published_texts(CATALOGUE["movie_review"], reviews)
    assert dataset.class_names == ("negative", "positive")
    assert dataset.texts == ("a cliché .", "no fun , no wit .", "one \x96 and only")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert "Pang and Lee" in dataset.origin


def test_an_archive_may_keep_its_files_one_folder_deeper(reviews, tmp_path):
    inner = tmp_path / "root" / "rt-polaritydata"
    inner.mkdir(parents=True)
    for file in reviews.glob("rt-*"):
        file.rename(inner / file.name)
    assert len(load_published_texts(CATALOGUE["movie_review"], tmp_path / "root")) == 3


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def fetch(name, root, remote, cache=None):
    """A published data set of texts with another archive."""
    published = dataclasses.replace(CATALOGUE[name], files=(remote,))
    return load_published_texts(published, root, cache=cache, fetch=True)


def test_published_texts_are_fetched_once(tmp_path):
    files = {"rt-polaritydata/rt-polarity.neg": b"bad\n", "rt-polaritydata/rt-polarity.pos": b"good\n"}
    with serve() as site:
        remote = site.put("rt.tar.gz", archive(**files), "sha256")
        for _ in range(2):
            assert fetch("movie_review", None, remote, tmp_path).texts == ("bad", "good")
        assert site.asked == [("rt.tar.gz", None)]
    assert (tmp_path / "datasets" / "movie_review" / "movie_review" / "rt-polaritydata").is_dir()


def test_a_folder_without_the_texts_is_not_fetched_over(tmp_path):
    (tmp_path / "movie_review").mkdir()
    (tmp_path / "movie_review" / "rt-polarity.neg").write_text("bad")
    with serve() as site:
        remote = site.put("rt.tar.gz", b"", "sha256")
        says = r"movie_review exists but lacks rt-polarity\.pos: move it away"
        with pytest.raises(DataError, match=says):
            fetch("movie_review", tmp_path, remote)
        assert site.asked == []


def test_a_copy_of_ones_own_is_never_fetched(reviews):
    with serve() as site:
        fetch("movie_review", reviews, site.put("rt.tar.gz", b"", "sha256"))
        assert site.asked == []


@pytest.mark.parametrize(
    "content", [b"<html>gone</html>", archive(**{"plot.tok.gt9.5000": b"x\n" * 99})[:-9]]
)
def test_without_a_published_digest_a_broken_archive_is_still_refused(content, tmp_path):
    with serve() as site:
        remote = dataclasses.replace(site.put("s.tar.gz", content), digest=None)
        with pytest.raises(DataError, match="Subjectivity could not be fetched"):
            fetch("subjectivity", tmp_path / "here", remote)
    assert list((tmp_path / "here").iterdir()) == []


def test_any_file_is_a_class_under_its_stem(tmp_path):
    write(tmp_path, **{"so so": "eh\r\n", "übel": "\ufeffgrässlich\n\n  \nschlimm"})
    dataset = load_lines(tmp_path)
    assert dataset.class_names == ("so so", "übel")
    assert dataset.texts == ("eh", "grässlich", "schlimm")


def test_a_files_name_may_end_in_capitals_and_hold_signs(tmp_path):
    (tmp_path / "b.TXT").write_text("two")
    write(tmp_path, **{"a?": "one", "a1": "other", ".hidden": "none"})
    dataset = load_lines(tmp_path)
    assert dataset.class_names == ("a1", "a?", "b")
    assert dataset.texts == ("other", "one", "two")


def test_two_files_of_one_class_are_refused(tmp_path):
    (tmp_path / "b.TXT").write_text("two")
    with pytest.raises(DataError, match=r"holds b\.TXT and b\.txt, expected one file for each class"):
        load_lines(write(tmp_path, a="one", b="two"))


def test_a_class_name_that_is_not_utf8_is_refused_and_shown(tmp_path):
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.txt")).write_text("one")
    with pytest.raises(
        DataError, match=r"class file in \S+ is not valid UTF-8 \(\\udcff\\udcfe\.txt\): rename"
    ):
        load_lines(write(tmp_path, a="one", b="two"))


def test_empty_lines_are_counted_and_named(tmp_path, said):
    load_lines(write(tmp_path, a="one\n\n \ntwo\n", b="three\n"))
    assert said == [f"{tmp_path / 'a.txt'}: skipped 2 lines without a word"]


def test_texts_of_the_same_words_in_two_classes_are_counted_and_named(tmp_path, said):
    dataset = load_lines(write(tmp_path, a="So so.\nbad\nbad", b="so SO .\nfine", c="hm"))
    assert len(dataset) == 6
    assert said == [
        f"1 text is in more than one class of {tmp_path} ('so so .' in a and b): used as they are; remove "
        "those with a wrong label"
    ]


def test_of_many_texts_in_two_classes_the_first_are_named(tmp_path, said):
    lines = "\n".join(["word " * 40, *"abcd"])
    load_lines(write(tmp_path, a=lines, b=lines))
    assert "5 texts are in more than one class" in said[0]
    assert "word [...]' in a and b; 'a' in a and b; 'b' in a and b; and 2 more)" in said[0]


def test_the_fingerprint_knows_texts_and_labels_but_no_place(tmp_path):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for folder in (here, there, other):
        folder.mkdir()
    one, same = (load_lines(write(f, a="x\ny\n", b="z\n")) for f in (here, there))
    moved = load_lines(write(other, a="x\n", b="y\nz\n"))
    assert one.fingerprint == same.fingerprint != moved.fingerprint


def test_broken_utf8_names_file_and_line(tmp_path):
    write(tmp_path, a="fine\n", b=b"also fine\nna\xefve\n")
    with pytest.raises(DataError, match=r"^line 2 of \S+b\.txt is not UTF-8 \(byte 0xef at place 3\): save"):
        load_lines(tmp_path)


def load_any(name, root):
    return load_published_texts(CATALOGUE[name], root) if name in CATALOGUE else load_lines(root)


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("text_lines", {}, "holds 0 files, expected at least two"),
        ("text_lines", {"a": "x"}, "holds 1 file,"),
        ("text_lines", {"a": "x", "b": " \n"}, r"b\.txt holds no text"),
        ("movie_review", {"a": "x"}, r"holds no rt-polarity\.neg and no rt-polarity\.pos, .*: set `root`"),
        ("subjectivity", {}, r"holds no plot\.tok\.gt9\.5000 and no quote"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(tmp_path, name, files, says):
    with pytest.raises(DataError, match=says):
        load_any(name, write(tmp_path, **files))


def test_a_missing_root_says_where_the_texts_are_published(tmp_path):
    with pytest.raises(DataError, match=r"holds no rt-polarity\.neg .* fetch it from .*cornell\.edu"):
        CATALOGUE["movie_review"].locate(None, tmp_path)
    with pytest.raises(DataError, match=r"nowhere is missing, expected a folder"):
        list_texts(tmp_path / "nowhere")


@pytest.fixture
def spoken(tmp_path):
    return load_lines(write(tmp_path, a="Good film\nbad\n", b="unheard good good good\n"))


@pytest.fixture
def words():
    return TextPreprocessing(max_tokens=3, vocabulary=(*SPECIAL, "good", "film", "bad"))


def test_a_source_gives_the_numbers_of_its_rows(spoken, words):
    source = spoken.take(np.array([2, 0]), words)
    # Cut to three words; "unheard" is unknown.
    assert source.batch(torch.tensor([0, 1])).tolist() == [[1, 2, 2], [2, 3, 0]]
    assert source.batch(torch.tensor([1]), torch.Generator()).tolist() == [[2, 3, 0]]
    assert source.labels.tolist() == [1, 0]
    assert (len(source), source.num_classes) == (2, 2)
    with pytest.raises(ValueError, match="only the view plain"):
        source.batch_view(torch.tensor([0]), "flipped")


def test_features_of_texts_are_cached_by_their_vocabulary(spoken, words, tmp_path):
    trunk = torch.nn.Embedding(5, 2)
    cache = tmp_path / "features"

    def features(preprocessing):
        source = spoken.take(np.array([0, 1, 2]), preprocessing)
        return cached_features(trunk, source, folder=cache, trunk_digest="t", dtype="float32")

    first = features(words)
    expected = trunk(torch.tensor([[2, 3, 0], [4, 0, 0], [1, 2, 2]]))
    assert first.batch(torch.arange(3)).equal(expected.detach())
    features(words)
    assert len(list(cache.glob("*.npy"))) == 1
    features(TextPreprocessing(max_tokens=3, vocabulary=(*SPECIAL, "bad", "film", "good")))
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a text")
    os.truncate(tmp_path / "b.txt", 50_000_000_000)
    with pytest.raises(DataError, match=r"b\.txt cannot be read \(it has 50,000,000,000 bytes, expected at"):
        load_lines(tmp_path)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "sizes"), [("movie_review", [5331, 5331]), ("subjectivity", [5000, 5000])])
def test_the_published_sentences_are_all_there(shared, name, sizes):
    dataset = load_any(name, shared / "data" / name)
    assert np.bincount(dataset.labels).tolist() == sizes
    assert not any("\ufffd" in text for text in dataset.texts)
