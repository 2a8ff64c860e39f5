import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tascnet.data import class_weights
from tascnet.data.splits import split
from tascnet.errors import ConfigError, DataError
from tascnet.options import ImageFolder

NAMES = ("ant", "bee", "cow")


def labelled(*counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return np.random.default_rng(3).permutation(labels)


def per_class(rows, labels):
    return np.bincount(labels[rows], minlength=len(NAMES)).tolist()


def test_counts_of_fractions_by_hand():
    labels = labelled(20, 3, 7)
    parts = split(labels, NAMES, seed=0, train=0.7, val=0.15)
    # 14 + 3 of 20; of 3 one each; of 7: round(4.9) = 5 and round(1.05) = 1.
    assert per_class(parts.train, labels) == [14, 1, 5]
    assert per_class(parts.val, labels) == [3, 1, 1]
    assert per_class(parts.test, labels) == [3, 1, 1]


def test_counts_a_class_leave_the_rest_to_test():
    labels = labelled(10, 6, 5)
    parts = split(labels, NAMES, seed=0, train=3, val=2)
    assert per_class(parts.train, labels) == [3, 3, 3]
    assert per_class(parts.val, labels) == [2, 2, 2]
    assert per_class(parts.test, labels) == [5, 1, 0]


@given(
    counts=st.lists(st.integers(3, 40), min_size=3, max_size=3),
    train=st.floats(0.01, 0.9),
    val=st.floats(0.01, 0.09),
    seed=st.integers(0, 2**32),
)
def test_disjoint_complete_sorted_and_every_class_everywhere(counts, train, val, seed):
    labels = labelled(*counts)
    parts = split(labels, NAMES, seed=seed, train=train, val=val)
    rows = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(rows) == list(range(len(labels)))
    for part in (parts.train, parts.val, parts.test):
        assert (np.diff(part) > 0).all()
        assert min(per_class(part, labels)) >= 1


def test_seed_decides_and_one_class_does_not_disturb_another():
    labels = labelled(20, 20, 20)
    first, again, other = (split(labels, NAMES, seed=seed) for seed in (1, 1, 2))
    assert (first.train == again.train).all()
    assert (first.train != other.train).any()
    # Without the last class the rows of the others are drawn as before.
    fewer = np.where(labels == 2, -1, labels)
    kept = split(fewer, NAMES[:2], seed=1)
    assert set(kept.train) == set(first.train[labels[first.train] != 2])


def frozen():
    """Labels, parts and rows of splits as they were drawn before copies were looked for."""
    drawn = [1, 2, 1, 0, 2, 0, 2, 1, 0, 0, 1, 0, 2, 0, 0, 1]
    halves = [0, 1] * 8
    with_test, with_val = ("train",) * 12 + ("test",) * 4, ("train",) * 8 + ("val",) * 8
    return [
        (
            (drawn, (), {"train": 0.6, "val": 0.2, "seed": 0}),
            ([2, 4, 6, 8, 9, 10, 11, 14, 15], [0, 1, 13], [3, 5, 7, 12]),
        ),
        (
            (drawn, (), {"train": 2, "val": 1, "seed": 5}),
            ([0, 1, 4, 5, 7, 11], [8, 12, 15], [2, 3, 6, 9, 10, 13, 14]),
        ),
        (
            (halves, with_test, {"train": 0.6, "val": 0.2, "seed": 1}),
            ([0, 1, 2, 3, 4, 7, 8, 9], [5, 6, 10, 11], [12, 13, 14, 15]),
        ),
        (
            (halves, with_test, {"train": 2, "val": 2, "seed": 1}),
            ([0, 3, 8, 9], [1, 2, 4, 7], [12, 13, 14, 15]),
        ),
        (
            (halves, with_val, {"train": 2, "val": 3, "seed": 2}),
            ([1, 4, 5, 6], [8, 9, 10, 12, 13, 15], [0, 2, 3, 7]),
        ),
    ]


@pytest.mark.parametrize(("given", "expected"), frozen())
def test_without_copies_the_rows_stay_those_that_they_were(given, expected):
    labels, parts, options = given
    names = NAMES[: 1 + max(labels)]
    digests = [f"sample {row}" for row in range(len(labels))]
    for known in ((), digests):
        rows = split(np.array(labels), names, parts=parts, digests=known, **options)
        assert tuple(part.tolist() for part in (rows.train, rows.val, rows.test)) == expected


@given(
    labels=st.lists(st.integers(0, 2), max_size=60),
    pool=st.integers(1, 60),
    train=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_equal_samples_lie_on_one_side_and_count_once(labels, pool, train, seed, data):
    # Every class has at least three samples of its own.
    own = [label for label in range(3) for _ in range(3)]
    digests = [f"own {row}" for row in range(9)]
    digests += data.draw(st.lists(st.integers(0, pool).map(str), min_size=len(labels), max_size=len(labels)))
    labels = np.array([*own, *labels])
    rows = split(labels, NAMES, seed=seed, train=train, val=train / 2, digests=digests)
    sides = [rows.train, rows.val, rows.test]
    assert sorted(np.concatenate(sides)) == list(range(len(labels)))
    found = [{digests[row] for row in side} for side in sides]
    assert sum(map(len, found)) == len(set(digests))
    firsts = [row for row, digest in enumerate(digests) if digests.index(digest) == row]
    alone = split(labels[firsts], NAMES, seed=seed, train=train, val=train / 2)
    for side, distinct in zip(sides, (alone.train, alone.val, alone.test), strict=True):
        assert sorted(set(side) & set(firsts)) == [firsts[row] for row in distinct]


def test_copies_follow_the_first_of_their_own_part():
    labels = np.array([0, 1] * 6)
    parts = ("train",) * 8 + ("test",) * 4
    # Row 8 of test is a copy of row 0 of train; rows 1 and 3 of train are equal.
    digests = ["a", "b", "c", "b", "d", "e", "f", "g", "a", "h", "i", "j"]
    rows = split(labels, NAMES[:2], seed=0, train=0.6, val=0.2, parts=parts, digests=digests)
    assert rows.test.tolist() == [8, 9, 10, 11]
    assert (1 in rows.train) == (3 in rows.train)
    dropped = split(labels, NAMES[:2], seed=0, train=0.6, val=0.2, parts=parts, digests=digests, dropped=[0])
    assert sorted([*dropped.train, *dropped.val]) == [1, 2, 3, 4, 5, 6, 7]


def test_a_class_too_small_without_its_copies_is_named_with_both_numbers():
    labels = np.array([0] * 6 + [1] * 4)
    digests = ["a"] * 6 + ["b", "c", "d", "a"]
    says = r"class 'ant' has 1 distinct samples \(5 more are copies\), expected at least 3"
    with pytest.raises(DataError, match=says):
        split(labels, NAMES[:2], seed=0, digests=digests)
    says = r"class 'bee' has 3 distinct samples \(1 more are copies\), expected at least 4 \(2 \+ 2\)"
    digests = ["e", "f", "g", "h", "i", "a", "b", "c", "d", "a"]
    with pytest.raises(DataError, match=says):
        split(labels, NAMES[:2], seed=0, train=2, val=2, digests=digests)
    digests = ["e", "f", "g", "e", "f", "g", "b", "c", "d", "b"]
    with pytest.raises(DataError, match="leave no test sample: lower `train` or `val`; copies do not count"):
        split(labels, NAMES[:2], seed=0, train=2, val=1, digests=digests)


def test_too_small_classes_are_named_with_their_count():
    with pytest.raises(DataError, match=r"class 'bee' has 2 samples, expected at least 3"):
        split(labelled(9, 2, 9), NAMES, seed=0)
    with pytest.raises(DataError, match=r"class 'cow' has 4 samples, expected at least 5 \(3 \+ 2\)"):
        split(labelled(9, 9, 4), NAMES, seed=0, train=3, val=2)
    with pytest.raises(DataError, match="leave no test"):
        split(labelled(5, 5, 5), NAMES, seed=0, train=3, val=2)


@pytest.mark.parametrize(
    "options",
    [
        {"train": 3},
        {"val": 3},
        {"train": 0, "val": 1},
        {"train": 0.0},
        {"train": 0.8, "val": 0.2},
    ],
)
def test_contradictory_options_are_refused(options):
    with pytest.raises(ConfigError):
        ImageFolder(root="x", **options)


def test_class_weights_by_hand():
    # Counts 1, 1, 2: totals over counts 4, 4, 2, mean 10 / 3.
    weights = class_weights(torch.tensor([0, 1, 2, 2]), 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([1.2, 1.2, 0.6]))
    torch.testing.assert_close(class_weights(np.array([0, 1, 2, 2]), 3), weights)
    # Class 1 does not occur: totals over counts 4 and 4 / 3 of the others, mean 8 / 3.
    weights = class_weights(torch.tensor([0, 2, 2, 2]), 3)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.0, 0.5]))
