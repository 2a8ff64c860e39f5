"""Samples of a run: options of data sets, splits, and samples that are left out."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tascnet.data import check_samples, open_samples
from tascnet.data.heldout import read_splits
from tascnet.data.named import caltech101, cifar10, digits, image_folder, image_list, movie_review, text_lines
from tascnet.errors import ConfigError, DataError
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.options import Digits, ImageFolder, PublishedImages, PublishedTexts, Texts
from tascnet.run.folder import identity
from tests.data.test_published import cifar10 as make_cifar10
from tests.data.test_published import stanford_dogs as make_dogs

WORDS = TextPreprocessing(max_tokens=9, vocabulary=(*SPECIAL, "film"))


@pytest.fixture
def opened(tiny, tmp_path):
    def opened(data, preprocessing=tiny, seed=0, **options):
        return open_samples(data, preprocessing, seed=seed, cache=tmp_path / "cache", **options)

    return opened


@pytest.fixture
def photos(tmp_path):
    """Two classes of ten images each."""
    for index in range(20):
        folder = tmp_path / "photos" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index // 2:02d}.png")
    return tmp_path / "photos"


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("bad", "good"):
        lines = [f"{name} film number {index}" for index in range(10)]
        (tmp_path / "texts" / f"{name}.txt").write_text("\n".join(lines))
    return tmp_path / "texts"


def test_files_that_are_passed_over_are_counted(photos, opened):
    for name in ("a.txt", "b.TXT", "c.xml"):
        (photos / "cat" / name).write_text("no image")
    assert opened(image_folder(photos)).counts().passed_over == {".txt": 2, ".xml": 1}


def paths(samples, part):
    return {samples.dataset.paths[row] for row in getattr(samples, part).rows}


def sizes(samples):
    return [len(part) for part in (samples.train, samples.val, samples.test)]


def test_digits_are_split_by_counts_and_counted(grey, opened, caplog):
    caplog.set_level("INFO", logger="tascnet")
    samples = opened(digits(), grey)
    # scikit-learn has 182, 181, 179, 174 and 180 scans of the digits 5 to 9.
    counts = samples.counts()
    assert (counts.classes, counts.train, counts.val, counts.test) == (5, 100, 150, 896 - 250)
    assert (counts.skipped, counts.licence) == (0, "CC BY 4.0")
    assert "digits: 5 classes, 100 training, 150 validation and 646 test samples" in caplog.text
    caplog.clear()
    opened(digits(), grey, quiet=True)
    assert caplog.text == ""
    assert samples.class_names == tuple("56789")
    assert samples.views == ("plain",)
    assert (samples.excluded, samples.is_text) == (0, False)
    assert samples.example.shape == (1, 1, 8, 8)


def test_flipping_adds_a_view_and_augments_training_samples_alone(grey, opened):
    samples = opened(digits(flip=True), grey)
    assert samples.views == ("plain", "flipped")
    rows = torch.arange(8)
    for part, is_same in ((samples.train, False), (samples.val, True), (samples.test, True)):
        augmented = part.batch(rows, torch.Generator().manual_seed(0))
        assert augmented.equal(part.batch(rows, None)) == is_same


def test_what_is_held_out_depends_on_data_and_rows(grey, opened):
    first = opened(digits(), grey)
    assert opened(digits(pad=0), grey).held_out == first.held_out
    others = [
        opened(digits(), grey, seed=1),
        opened(digits(val=29), grey),
        opened(digits(classes=("6", "7")), grey),
    ]
    assert len({first.held_out, *(samples.held_out for samples in others)}) == 4
    assert others[0].fingerprint == first.fingerprint


def test_words_of_training_texts_join_the_vocabulary_where_it_grows(texts, opened, caplog):
    caplog.set_level("INFO", logger="tascnet")
    same = opened(text_lines(texts), WORDS)
    assert same.preprocessing is WORDS
    assert "vocabulary" not in caplog.text
    grown = opened(text_lines(texts, max_tokens=3), WORDS, grow_vocabulary=True)
    assert (grown.is_text, grown.views) == (True, ("plain",))
    assert grown.preprocessing.max_tokens == 3
    words = grown.preprocessing.vocabulary
    assert words[:3] == WORDS.vocabulary
    training = {word for row in grown.train.rows for word in grown.dataset.texts[row].split()}
    assert set(words) == {*SPECIAL, *training}
    assert f"vocabulary: {len(words)} words, {len(words) - 3} of them new" in caplog.text
    assert "20 of 20 texts of text_lines are longer than `max_tokens=3` and are cut" in caplog.text


def test_texts_and_images_need_their_own_networks(texts, photos, opened, tiny, tmp_path):
    with pytest.raises(DataError, match="text_lines holds texts, but the network takes images"):
        opened(text_lines(texts), tiny)
    with pytest.raises(DataError, match="image_folder holds images, but the network takes texts"):
        opened(image_folder(photos), WORDS)
    assert not (tmp_path / "cache").exists()


def test_the_official_test_split_is_the_test_split_unless_drawn(opened, tmp_path):
    make_dogs(tmp_path / "dogs")
    options = {"name": "stanford_dogs", "root": str(tmp_path / "dogs"), "val": 1}
    official = opened(PublishedImages(**options, train=2, official_test=True))
    own = {f"{number}_{row}.jpg" for number in ("n02085620", "n02099267") for row in (3, 4)}
    assert {path.rpartition("/")[2] for path in paths(official, "test")} == own
    assert len(official.train) == 4
    drawn = opened(PublishedImages(**options, train=2))
    assert len(drawn.test) == 4
    assert paths(drawn, "test") != paths(official, "test")
    # 3 of each class are for training and validation.
    with pytest.raises(DataError, match="'Chihuahua' has 3 training samples, expected at least 4"):
        opened(PublishedImages(**options, train=3, official_test=True))


def test_shares_of_cifar10_are_of_what_the_official_test_leaves(opened, tmp_path):
    make_cifar10(tmp_path / "cifar-10-batches-py")
    samples = opened(cifar10(tmp_path))
    # 10 training images a class, of which 0.08 / 0.8 validate.
    assert sizes(samples) == [18, 2, 4]
    drawn = opened(cifar10(tmp_path, official_test=False))
    assert sizes(drawn) == [18, 2, 4]
    assert paths(drawn, "test") != paths(samples, "test")


def test_mistakes_are_found_before_anything_is_decoded(photos, tmp_path):
    cache = tmp_path / "cache"
    (tmp_path / "list.csv").write_text("cat/00.png,cat\ndog/00.png,dgo\n")
    with pytest.raises(DataError, match="class 'cat' has 10 samples, expected at least 13"):
        check_samples(image_folder(photos, train=8, val=5), cache)
    with pytest.raises(DataError, match=r"line 2 of .* has the unknown label 'dgo': did you mean 'dog'"):
        check_samples(image_list(tmp_path / "list.csv", photos, classes=("cat", "dog")), cache)
    with pytest.raises(DataError, match="holds no 101_ObjectCategories"):
        check_samples(caltech101(), cache)
    with pytest.raises(DataError, match=r"holds no rt-polarity\.neg"):
        check_samples(movie_review(), cache)
    with pytest.raises(DataError, match="nowhere is missing, expected a folder"):
        check_samples(text_lines(tmp_path / "nowhere"), cache)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        check_samples(image_list(tmp_path / "none.csv"), cache)
    assert not cache.exists()


def test_what_can_be_downloaded_or_needs_no_files_passes(tmp_path):
    for data in (caltech101(download=True), movie_review(download=True), digits()):
        check_samples(data, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_mistakes_are_found_without_torch_and_numpy(photos, tmp_path):
    (tmp_path / "list.csv").write_text(
        "".join(f"{path},{path.parent.name}\n" for path in photos.rglob("*.png"))
    )
    code = f"""
import sys
from pathlib import Path
from tascnet.data import check_samples
from tascnet.data.named import caltech101, image_folder, image_list
from tascnet.errors import DataError
check_samples(image_folder({str(photos)!r}), Path("none"))
check_samples(image_list({str(tmp_path / "list.csv")!r}), Path("none"))
try:
    check_samples(caltech101(), Path("none"))
except DataError:
    sys.exit("torch" in sys.modules or "numpy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_csv_of_files_and_labels_gives_the_same_as_class_folders(photos, opened, tmp_path):
    lines = [
        f"{path.relative_to(photos)},{path.parent.name.upper()}\n" for path in sorted(photos.rglob("*.png"))
    ]
    (tmp_path / "list.csv").write_text("file,label\n" + "".join(lines))
    folders = opened(image_folder(photos)).dataset
    listed = opened(image_list(tmp_path / "list.csv", photos)).dataset
    assert listed.class_names == ("CAT", "DOG")
    assert (listed.paths, listed.labels.tolist()) == (folders.paths, folders.labels.tolist())
    assert (listed.pixels[:] == folders.pixels[:]).all()


def test_a_list_that_moved_is_the_same_run():
    one, other = (image_list(f"/{name}.csv", "/x") for name in ("a", "b"))
    assert identity("tune", 0, {"data": "d"}, {"dataset": one}) == identity(
        "tune", 0, {"data": "d"}, {"dataset": other}
    )


def test_pixels_that_do_not_fit_the_limit_are_decoded_when_they_are_read(photos, opened, tmp_path):
    when_read = opened(image_folder(photos), cache_limit_gb=1e-9)
    pixels = tmp_path / "cache" / "pixels"
    assert not list(pixels.rglob("*.npy*"))
    kept = opened(image_folder(photos))
    assert list(pixels.rglob("*.npy"))
    rows = torch.arange(2)
    assert kept.train.batch(rows, None).equal(when_read.train.batch(rows, None))
    assert kept.held_out == when_read.held_out


def test_a_home_folder_may_be_abbreviated(photos, opened, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(opened(image_folder("~/photos")).dataset) == 20


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_samples_that_a_run_holds_out_are_left_out_by_another(kind, photos, texts, opened, tmp_path, tiny):
    data, expected = (image_folder(photos), tiny) if kind == "images" else (text_lines(texts), WORDS)
    target = opened(data, expected, seed=0)
    target.write_splits(tmp_path / "run" / "splits.json")
    for place in (tmp_path / "run", str(tmp_path / "run" / "splits.json")):
        held_out = read_splits(place, expected)
        assert held_out.fingerprint == target.fingerprint
        samples = opened(data, expected, seed=1, exclude=held_out.digests)
        # Of each class of 10: shares of 0.7 and 0.15 leave 2 + 1, those of 0.8 and 0.1 leave 1 + 1.
        count = 2 * (3 if kind == "images" else 2)
        assert len(held_out.digests) == samples.excluded == count
        assert sum(sizes(samples)) == 20 - count
        unseen = set(target.val.rows) | set(target.test.rows)
        assert not unseen & {*samples.train.rows, *samples.val.rows, *samples.test.rows}
    content = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert content["dataset"] == data.name
    assert content["kind"] == kind


def test_a_split_that_would_be_empty_is_refused(photos, opened):
    everything = opened(image_folder(photos)).dataset.digests[:10]
    with pytest.raises(DataError, match="without the excluded samples class 'cat' of image_folder is empty"):
        opened(image_folder(photos), exclude=everything)


def test_splits_of_images_are_those_of_any_other_network_of_images(photos, opened, tiny, grey, tmp_path):
    target = opened(image_folder(photos))
    target.write_splits(tmp_path / "splits.json")
    held_out = read_splits(tmp_path, grey)
    other = opened(image_folder(photos), grey, seed=1, exclude=held_out.digests)
    assert not {*target.val.rows, *target.test.rows} & {*other.train.rows, *other.val.rows, *other.test.rows}
    with pytest.raises(DataError, match="lists images, but the network takes texts"):
        read_splits(tmp_path, WORDS)


def test_missing_and_damaged_splits_are_one_sentence(tmp_path, tiny):
    with pytest.raises(DataError, match=r"there is no file .*splits\.json: give `exclude`"):
        read_splits(tmp_path, tiny)
    with pytest.raises(DataError, match=r"there is no file .*none"):
        read_splits(tmp_path / "none", tiny)
    for content in ("{", '{"schema": 2}'):
        (tmp_path / "splits.json").write_text(content)
        with pytest.raises(DataError, match=r"splits\.json cannot be read .*: start that run again"):
            read_splits(tmp_path, tiny)


def test_the_named_data_sets_have_the_defaults_of_the_command_line():
    assert caltech101("/x") == PublishedImages(name="caltech101", root="/x", train=20, val=10, min_scale=0.4)
    assert image_folder("/x", train=0.5, flip=False) == ImageFolder(
        root="/x", train=0.5, flip=False, min_scale=0.4
    )
    assert digits() == Digits(classes=tuple("56789"), train=20, val=30, flip=False, pad=1)
    assert text_lines("/x") == Texts(root="/x", train=0.8, val=0.1, max_tokens=48)
    assert movie_review(download=True) == PublishedTexts(train=0.8, val=0.1, max_tokens=40, download=True)
    with pytest.raises(ConfigError, match="there is no option `trian`: did you mean `train`"):
        image_folder("/x", trian=0.5)


def test_nothing_is_logged_twice(photos, opened, caplog):
    caplog.set_level(logging.WARNING, logger="tascnet")
    opened(image_folder(photos))
    assert caplog.records == []
