import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tascnet.data.listing import list_images
from tascnet.data.splits import split
from tascnet.errors import DataError
from tests.data.loading import load_image_folder

NAMES = ("ant", "bee")
TRAIN = {"train__ant": 1, "train__bee": 1}


def fill(root, **counts):
    """Folders such as `train/cat` with so many images each; another seed for each split."""
    for seed, (place, count) in enumerate(sorted(counts.items())):
        folder = root / place.replace("__", "/")
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([seed, index]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture
def ready(tmp_path):
    sizes = {
        "train__ant": 3,
        "train__bee": 4,
        "Valid__ant": 1,
        "Valid__bee": 2,
        "test__ant": 2,
        "test__bee": 1,
    }
    return fill(tmp_path / "ready", **sizes)


def test_ready_folders_are_the_splits(ready, tiny, tmp_path):
    dataset = load_image_folder(ready, tiny, cache=tmp_path / "cache")
    assert dataset.class_names == NAMES
    assert dataset.labels.tolist() == [0] * 6 + [1] * 7
    rows = split(dataset.labels, dataset.class_names, seed=0, parts=dataset.parts)
    for part, folder in (("train", "train"), ("val", "Valid"), ("test", "test")):
        own = [dataset.paths[row] for row in getattr(rows, part)]
        assert sorted(own) == sorted(
            path.relative_to(ready).as_posix() for path in (ready / folder).rglob("*.png")
        )


def test_a_file_moved_to_another_split_is_another_data_set(ready, tiny, tmp_path):
    first = load_image_folder(ready, tiny, cache=tmp_path / "cache")
    # The last of its class by path, before and after: pixels and labels stay as they are.
    shutil.move(ready / "train" / "bee" / "3.png", ready / "train" / "bee" / "z.png")
    renamed = load_image_folder(ready, tiny, cache=tmp_path / "cache")
    assert renamed.fingerprint == first.fingerprint
    shutil.move(ready / "test", ready / "tested")
    shutil.move(ready / "Valid", ready / "test")
    shutil.move(ready / "tested", ready / "Valid")
    assert load_image_folder(ready, tiny, cache=tmp_path / "cache").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (
            {"train__ant": 1, "train__bee": 1, "val__ant": 1, "val__cow": 1},
            "class 'bee' is in .*train but not",
        ),
        (
            {"train__ant": 1, "train__bee": 1, "test__ant": 1, "test__bee": 1, "test__cow": 1},
            "'cow' is in .*test ",
        ),
        (
            {"val__ant": 1, "val__bee": 1, "test__ant": 1, "test__bee": 1},
            "holds test, val, expected train too",
        ),
        ({"train__ant": 1, "train__bee": 1, "val__ant": 1, "val__bee": 1, "extra__ant": 1}, "and no others"),
        ({"train__ant": 1, "train__bee": 1, "val__ant": 1, "valid__ant": 1}, "once each"),
        (
            {"train__ant": 1, "train__bee": 1, "test__ant": 1, "test__bee": 0},
            "test has class folders without",
        ),
        ({"train__ant": 1, "train__bee": 1, "test": 3}, "test holds 0 class folders"),
    ],
)
def test_ready_folders_that_do_not_fit_are_one_sentence(folders, says, tmp_path):
    with pytest.raises(DataError, match=says) as caught:
        list_images(fill(tmp_path / "root", **folders))
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_train(tmp_path):
    assert list_images(fill(tmp_path / "root", train=2, bus=2)).class_names == ("bus", "train")


def labelled(**counts):
    """Labels and parts: `train=(2, 3)` gives the first class two training rows and the second three."""
    labels = np.concatenate([np.repeat([0, 1], counts[part]) for part in counts]).astype(np.int64)
    return labels, tuple(part for part in counts for _ in range(sum(counts[part])))


def per_class(rows, labels):
    return np.bincount(labels[rows], minlength=2).tolist()


def test_a_missing_validation_is_drawn_from_train_by_hand():
    labels, parts = labelled(train=(10, 20), test=(3, 4))
    rows = split(labels, NAMES, seed=0, train=0.6, val=0.2, parts=parts)
    # Train and validation share train's rows as 6 to 2: a quarter of 10 is 2.5, rounded to even, and 5 of 20.
    assert (per_class(rows.train, labels), per_class(rows.val, labels)) == ([8, 15], [2, 5])
    assert rows.test.tolist() == list(range(30, 37))


def test_a_missing_test_is_drawn_from_train_by_hand():
    labels, parts = labelled(train=(10, 20), val=(1, 2))
    rows = split(labels, NAMES, seed=0, train=0.6, val=0.2, parts=parts)
    assert (per_class(rows.train, labels), per_class(rows.test, labels)) == ([8, 15], [2, 5])
    assert rows.val.tolist() == [30, 31, 32]


def test_counts_take_some_of_what_is_given():
    labels, parts = labelled(train=(10, 20), val=(4, 5), test=(3, 4))
    rows = split(labels, NAMES, seed=0, train=6, val=2, parts=parts)
    assert (per_class(rows.train, labels), per_class(rows.val, labels)) == ([6, 6], [2, 2])
    assert set(rows.train) <= set(range(30))
    assert set(rows.val) <= set(range(30, 39))
    assert rows.test.tolist() == list(range(39, 46))
    labels, parts = labelled(train=(10, 20), test=(3, 4))
    rows = split(labels, NAMES, seed=0, train=6, val=2, parts=parts)
    assert (per_class(rows.train, labels), per_class(rows.val, labels)) == ([6, 6], [2, 2])
    assert {*rows.train, *rows.val} <= set(range(30))
    labels, parts = labelled(train=(10, 20), val=(4, 5))
    rows = split(labels, NAMES, seed=0, train=6, val=2, parts=parts)
    assert per_class(rows.test, labels) == [4, 14]


@given(
    train=st.tuples(st.integers(3, 30), st.integers(3, 30)),
    val=st.sampled_from([None, (1, 4)]),
    test=st.sampled_from([None, (2, 1)]),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
)
def test_disjoint_complete_and_as_given(train, val, test, share, seed):
    given_to = {"train": train, **({"val": val} if val else {}), **({"test": test} if test else {})}
    labels, parts = labelled(**given_to)
    rows = split(labels, NAMES, seed=seed, train=share, val=share / 2, parts=parts)
    assert sorted([*rows.train, *rows.val, *rows.test]) == list(range(len(labels)))
    for part in ("train", "val", "test"):
        own = getattr(rows, part)
        assert min(per_class(own, labels)) >= 1
        allowed = {part} if part in given_to else {"train"}
        assert {parts[row] for row in own} == allowed


@pytest.mark.parametrize(
    ("counts", "options", "says"),
    [
        (
            {"train": (9, 0), "val": (1, 1), "test": (1, 1)},
            {},
            "'bee' has 0 training samples, expected at least 1",
        ),
        ({"train": (9, 2)}, {}, "'bee' has 2 training samples, expected at least 3"),
        ({"train": (9, 9), "val": (1, 0), "test": (1, 1)}, {}, "'bee' has 0 validation samples, expected at"),
        (
            {"train": (9, 5), "test": (1, 1)},
            {"train": 4, "val": 2},
            "'bee' has 5 training samples, expected at least 6",
        ),
        (
            {"train": (9, 9), "val": (2, 1), "test": (1, 1)},
            {"train": 4, "val": 2},
            "'bee' has 1 validation samples, expected at least 2",
        ),
    ],
)
def test_classes_too_small_for_what_is_given_are_named(counts, options, says):
    labels, parts = labelled(**counts)
    with pytest.raises(DataError, match=says):
        split(labels, NAMES, seed=0, parts=parts, **options)
