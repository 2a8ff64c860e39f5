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
