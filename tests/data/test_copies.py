"""Equal samples never lie on two sides, and images that look alike are counted."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tascnet.data import check_samples, open_samples
from tascnet.data.copies import ALIKE_BITS, count_alike
from tascnet.data.named import datasets, digits, image_folder, image_list, text_lines
from tascnet.errors import ConfigError, DataError
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.options import ImageFolder, PublishedImages
from tests.data.test_published import stanford_dogs as make_dogs

CLASSES = ("cat", "dog")


@pytest.fixture
def opened(tiny, tmp_path):
    def opened(data, preprocessing=tiny, seed=0, **options):
        check_samples(data, tmp_path / "cache")
        return open_samples(data, preprocessing, seed=seed, cache=tmp_path / "cache", **options)

    return opened


def noise(*seed, side=9):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def fill(root, count=6, seed=0, classes=CLASSES):
    """Class folders of different images."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(noise(seed, label, index)).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "photos")


@pytest.fixture
def ready(tmp_path):
    """Splits of 6, 2 and 2 different images a class."""
    for seed, (part, count) in enumerate({"train": 6, "val": 2, "test": 2}.items()):
        fill(tmp_path / "ready" / part, count, seed)
    return tmp_path / "ready"


def paths(samples):
    """The files of each split."""
    parts = (samples.train, samples.val, samples.test)
    return [{samples.dataset.paths[row] for row in part.rows} for part in parts]


def side(samples, path):
    return [path in part for part in paths(samples)].index(True)


def copied(samples):
    counts = samples.counts()
    return counts.copies, counts.leaked


def test_an_image_copied_six_times_lies_on_one_side_and_counts_once(photos, opened, caplog):
    caplog.set_level("INFO", logger="tascnet")
    for index in range(6):
        shutil.copy(photos / "cat" / "0.png", photos / "cat" / f"copy{index}.png")
    before = opened(image_folder(photos, train=3, val=1))
    copies = {"cat/0.png", *(f"cat/copy{index}.png" for index in range(6))}
    (where,) = [part for part in paths(before) if copies & part]
    assert copies <= where
    assert copied(before) == (6, 0)
    assert (
        "image_folder: 6 samples are copies of another one: copies are in the split of the first"
        in caplog.text
    )
    # Three and one of six different images are asked for.
    for part, count in zip(paths(before), (3, 1, 2), strict=True):
        assert len([path for path in part if path.startswith("cat/") and "copy" not in path]) == count


def test_copies_in_another_class_follow_the_first(photos, opened, said):
    for index in range(6):
        shutil.copy(photos / "cat" / f"{index}.png", photos / "dog" / f"cat{index}.png")
    for seed in range(4):
        samples = opened(image_folder(photos), seed=seed)
        for index in range(6):
            assert side(samples, f"dog/cat{index}.png") == side(samples, f"cat/{index}.png")
        assert copied(samples) == (6, 0)
    assert all("6 images are in more than one class" in warning for warning in said)


def test_a_class_of_copies_is_too_small(photos, opened):
    for path in (photos / "dog").iterdir():
        shutil.copy(photos / "cat" / path.name, path)
    with pytest.raises(DataError, match=r"class 'dog' has 0 distinct samples \(6 more are copies\)"):
        opened(image_folder(photos))


def test_the_same_picture_is_the_same_whatever_its_file(photos, opened):
    pixels = noise(9, side=40)
    Image.fromarray(pixels).save(photos / "cat" / "a.png")
    Image.fromarray(pixels).save(photos / "cat" / "b.bmp")
    turned = Image.Exif()
    # 6: upright after a quarter turn clockwise.
    turned[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(photos / "dog" / "c.png", exif=turned)
    Image.fromarray(pixels).convert("RGBA").save(photos / "dog" / "d.webp", lossless=True)
    # One value of 4,800 differs, which no square of 8 pixels shows.
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(photos / "dog" / "e.png")
    dataset = opened(image_folder(photos)).dataset
    digests = dict(zip(dataset.paths, dataset.digests, strict=True))
    first = digests["cat/a.png"]
    assert [path for path, digest in digests.items() if digest == first] == [
        *("cat/a.png", "cat/b.bmp", "dog/c.png", "dog/d.webp")
    ]


def test_digests_do_not_depend_on_the_network(photos, opened, tiny, grey):
    assert (
        opened(image_folder(photos), tiny).dataset.digests
        == opened(image_folder(photos), grey).dataset.digests
    )


def test_which_samples_are_copies_is_part_of_the_fingerprint(tmp_path, opened, tiny):
    def fingerprint(root, last):
        fill(root)
        # Equal after resizing, of which only one is equal at full size.
        Image.new("RGB", (9, 9), "red").save(root / "dog" / "8.png")
        Image.new("RGB", last, "red").save(root / "dog" / "9.png")
        return opened(image_folder(root)).fingerprint

    assert fingerprint(tmp_path / "one", (9, 9)) != fingerprint(tmp_path / "two", (10, 10))


def leak(root):
    """Copies from test in train (twice) and in validation, and from validation in train."""
    shutil.copy(root / "test" / "cat" / "0.png", root / "train" / "cat" / "a.png")
    shutil.copy(root / "test" / "cat" / "0.png", root / "train" / "dog" / "a.png")
    shutil.copy(root / "test" / "dog" / "1.png", root / "val" / "dog" / "b.png")
    shutil.copy(root / "val" / "cat" / "1.png", root / "train" / "cat" / "c.png")


def test_ready_folders_with_the_same_files_are_refused_with_examples(ready, opened, tmp_path):
    opened(image_folder(ready))
    leak(ready)
    with pytest.raises(DataError) as caught:
        opened(image_folder(ready))
    message = str(caught.value)
    assert message.startswith("3 images are in more than one split of image_folder (")
    for example in (
        "train/cat/a.png = train/dog/a.png = test/cat/0.png",
        "train/cat/c.png = val/cat/1.png",
        "val/dog/b.png = test/dog/1.png",
    ):
        assert example in message
    assert "`duplicates=drop`" in message
    assert "`duplicates=allow`" in message


def test_the_same_folder_three_times_is_refused(photos, tmp_path, opened):
    for part in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "same" / part)
    with pytest.raises(DataError, match=r"12 images are in more than one split .*; and 9 more\)"):
        opened(image_folder(tmp_path / "same"))
    with pytest.raises(DataError, match=r"class 'cat' has 0 distinct training samples \(6 more are copies\)"):
        opened(image_folder(tmp_path / "same", duplicates="drop"))


def test_dropped_copies_stay_in_test_then_in_validation(ready, opened, caplog):
    caplog.set_level("INFO", logger="tascnet")
    before = paths(opened(image_folder(ready)))
    leak(ready)
    samples = opened(image_folder(ready, duplicates="drop"))
    assert paths(samples) == before
    assert copied(samples) == (4, 0)
    assert "3 training and 1 validation samples are left out because of `duplicates=drop`" in caplog.text


def test_allowed_copies_stay_where_they_are_and_are_reported(ready, opened, said):
    leak(ready)
    samples = opened(image_folder(ready, duplicates="allow"))
    assert [len(part) for part in paths(samples)] == [15, 5, 4]
    # In test cat/0 and dog/1; in validation dog/b and cat/1.
    assert copied(samples) == (4, 4)
    assert said[-1].startswith("3 images are in more than one split of image_folder (")
    assert said[-1].endswith(": used as they are (`duplicates=allow`), so that accuracy may be too high")


def test_the_answer_to_copies_is_part_of_what_is_held_out(ready, opened):
    leak(ready)
    dropped, allowed = (opened(image_folder(ready, duplicates=name)) for name in ("drop", "allow"))
    assert dropped.fingerprint == allowed.fingerprint
    assert dropped.held_out != allowed.held_out


def test_where_validation_is_drawn_copies_follow_within_train(ready, opened):
    shutil.rmtree(ready / "val")
    for index in range(6):
        shutil.copy(ready / "train" / "cat" / f"{index}.png", ready / "train" / "dog" / f"cat{index}.png")
    shutil.copy(ready / "test" / "dog" / "0.png", ready / "train" / "dog" / "leak.png")
    with pytest.raises(DataError, match="1 image is in more than one split of image_folder"):
        opened(image_folder(ready))
    samples = opened(image_folder(ready, duplicates="drop"))
    for index in range(6):
        assert side(samples, f"train/dog/cat{index}.png") == side(samples, f"train/cat/{index}.png") < 2
    assert not any("train/dog/leak.png" in part for part in paths(samples))
    assert copied(samples) == (7, 0)


def test_published_splits_are_counted_and_never_refused(tmp_path, opened, said):
    make_dogs(tmp_path / "dogs")
    images = tmp_path / "dogs" / "Images" / "n02085620-Chihuahua"
    shutil.copy(images / "n02085620_3.jpg", images / "n02085620_0.jpg")
    options = {"name": "stanford_dogs", "root": str(tmp_path / "dogs"), "train": 2, "val": 1}
    samples = opened(PublishedImages(**options, official_test=True))
    assert copied(samples) == (1, 1)
    assert "1 image is in more than one split of stanford_dogs" in said[-1]
    assert "used as they are (the published splits)" in said[-1]
    drawn = opened(PublishedImages(**options))
    assert copied(drawn) == (1, 0)


def test_a_list_of_files_with_copies(photos, opened, tmp_path):
    shutil.copy(photos / "cat" / "0.png", photos / "dog" / "again.png")
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    (tmp_path / "list.csv").write_text("".join(f"{path},{path.parent}\n" for path in files))
    samples = opened(image_list(tmp_path / "list.csv", photos))
    assert side(samples, "dog/again.png") == side(samples, "cat/0.png")
    assert copied(samples) == (1, 0)


def test_texts_of_the_same_words_lie_on_one_side(tmp_path, opened):
    (tmp_path / "texts").mkdir()
    for name in CLASSES:
        lines = [f"a {name} of number {index}" for index in range(8)]
        lines += [f"A  {name.upper()} of númber {index}" for index in range(8)]
        (tmp_path / "texts" / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    words = TextPreprocessing(max_tokens=9, vocabulary=SPECIAL)
    samples = opened(text_lines(tmp_path / "texts"), words)
    for part in (samples.train, samples.val, samples.test):
        assert {row % 16 // 8 for row in part.rows} == {0, 1}
        assert len({row // 16 * 8 + row % 8 for row in part.rows}) == len(part) / 2
    assert copied(samples) == (16, 0)
    assert samples.counts().near_duplicates is None


def pictures(count, seed=0):
    return [(noise(seed, index), index % 2) for index in range(count)]


def test_torch_data_sets_with_the_same_images_are_refused_dropped_or_allowed(opened, said):
    test = pictures(4, 1)
    sets = {"train": [*pictures(8), (Image.fromarray(test[2][0]), 0)], "test": test}
    with pytest.raises(DataError, match=r"split of datasets \(sample 8 of `train` = sample 2 of `test`\)"):
        opened(datasets(**sets))
    dropped = opened(datasets(**sets, duplicates="drop"))
    assert 8 not in {*dropped.train.rows, *dropped.val.rows, *dropped.test.rows}
    assert dropped.test.rows.tolist() == [9, 10, 11, 12]
    allowed = opened(datasets(**sets, duplicates="allow"))
    assert 8 in {*allowed.train.rows, *allowed.val.rows}
    assert copied(allowed) == (1, 1)
    with pytest.raises(ConfigError, match="refuse, drop or allow"):
        datasets(**sets, duplicates="keep")


def test_equal_tensors_are_found(opened):
    generator = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(3, 6, 6, generator=generator), index % 2) for index in range(12)]
    with pytest.raises(DataError, match=r"sample 3 of `train` = sample 0 of `test`"):
        opened(datasets(tensors[:8], test=[tensors[3], *tensors[8:]]))
    samples = opened(datasets([*tensors, *tensors]))
    assert copied(samples) == (12, 0)
    assert samples.counts().near_duplicates is None


def test_digits_differ(grey, opened):
    samples = opened(digits(), grey)
    assert copied(samples) == (0, 0)
    assert samples.counts().near_duplicates is None


def test_a_second_run_hashes_nothing_and_yields_the_same(photos, opened, monkeypatch):
    Image.fromarray(noise(5, side=40)).save(photos / "cat" / "large.png")
    first = opened(image_folder(photos)).dataset
    assert [phash is not None for phash in first.phashes] == [path == "cat/large.png" for path in first.paths]
    monkeypatch.setattr("tascnet.data.pixels.decode_image", lambda *_, **__: pytest.fail("decoded again"))
    second = opened(image_folder(photos)).dataset
    assert (second.digests, second.phashes) == (first.digests, first.phashes)
    assert second.fingerprint == first.fingerprint


def test_files_that_are_added_and_unreadable_ones_keep_digests_in_their_rows(photos, opened):
    (photos / "cat" / "0bad.png").write_text("no image")
    opened(image_folder(photos, unreadable="skip"))
    Image.fromarray(noise(7)).save(photos / "cat" / "0new.png")
    shutil.copy(photos / "dog" / "3.png", photos / "dog" / "4.png")
    dataset = opened(image_folder(photos, unreadable="skip")).dataset
    shutil.copytree(photos, photos.parent / "moved")
    expected = opened(image_folder(photos.parent / "moved", unreadable="skip")).dataset
    assert (dataset.paths, dataset.digests) == (expected.paths, expected.digests)
    assert dataset.digests[-3] == dataset.digests[-2] != dataset.digests[-1]


def test_images_that_are_decoded_when_they_are_read_have_the_same_digests(photos, opened):
    shutil.copy(photos / "cat" / "0.png", photos / "cat" / "again.png")
    when_read = opened(image_folder(photos), cache_limit_gb=1e-9)
    kept = opened(image_folder(photos))
    assert when_read.dataset.digests == kept.dataset.digests
    assert when_read.dataset.phashes == kept.dataset.phashes
    assert when_read.held_out == kept.held_out


def test_images_that_look_alike_are_counted(tmp_path, opened):
    """Of a validation and of a test image, another quality and another size are in train."""
    root = tmp_path / "alike"
    for seed, part in enumerate(("train", "val", "test")):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                coarse = Image.fromarray(noise(seed, label, index, side=6))
                coarse.resize((64, 64), Image.Resampling.BICUBIC).save(root / part / name / f"{index}.png")
    assert opened(image_folder(root)).counts().near_duplicates == 0
    with Image.open(root / "val" / "cat" / "0.png") as image:
        image.save(root / "train" / "cat" / "a.jpg", quality=60)
    with Image.open(root / "test" / "dog" / "1.png") as image:
        image.resize((100, 100)).save(root / "train" / "dog" / "b.png")
    # A copy is none, nor are images of one colour, in which there is nothing to look alike.
    shutil.copy(root / "test" / "cat" / "2.png", root / "train" / "cat" / "c.png")
    Image.new("RGB", (64, 64), "red").save(root / "train" / "cat" / "red.png")
    Image.new("RGB", (64, 64), "blue").save(root / "test" / "cat" / "blue.png")
    counts = opened(image_folder(root, duplicates="allow")).counts()
    assert (counts.near_duplicates, counts.leaked, counts.copies) == (2, 1, 1)


def test_hashes_that_look_alike_are_those_of_a_full_comparison():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**63, 200, dtype=np.uint64)
    # Each differs from a known one in up to nine bits, so that all distances near the limit occur.
    asked = known.copy()
    for bit in range(9):
        changes = rng.integers(0, 64, 200).astype(np.uint64)
        asked ^= np.where(np.arange(200) % 10 > bit, np.uint64(1) << changes, np.uint64(0))
    distances = [min(int(one ^ other).bit_count() for other in known) for one in asked]
    assert set(distances) >= {3, ALIKE_BITS, ALIKE_BITS + 1}
    expected = sum(distance <= ALIKE_BITS for distance in distances)
    assert count_alike(known.tolist(), asked.tolist()) == expected
    assert count_alike([None, 0, 2**63], [None, 0, 2**63]) == 0
    assert count_alike([], asked.tolist()) == count_alike(known.tolist(), []) == 0
    assert count_alike(known.tolist(), [int(known[0])] * 5) == 5


def test_duplicates_has_three_values_and_only_where_splits_may_be_ready():
    assert ImageFolder(root="x").duplicates == "refuse"
    with pytest.raises(ConfigError, match="refuse, drop or allow"):
        ImageFolder(root="x", duplicates="skip")
    assert not hasattr(PublishedImages(name="cifar10"), "duplicates")


def test_splits_json_lists_digests_at_full_size(photos, opened, grey, tmp_path):
    samples = opened(image_folder(photos), grey)
    samples.write_splits(tmp_path / "splits.json")
    content = json.loads((tmp_path / "splits.json").read_text())
    held_out = [samples.dataset.digests[row] for row in (*samples.val.rows, *samples.test.rows)]
    assert content["digests"] == held_out
    assert "resize" not in content
