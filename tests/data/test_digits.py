import numpy as np
import pytest
from sklearn.datasets import load_digits

from tascnet.data.digits import load_digits_set
from tascnet.errors import ConfigError
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import Digits


def test_all_digits_are_scikit_learns_scaled_to_bytes(grey):
    digits = load_digits_set(None, grey)
    bunch = load_digits()
    assert len(digits) == 1797
    assert digits.class_names == tuple("0123456789")
    assert (digits.labels == bunch.target).all()
    assert digits.pixels.shape == (1797, 8, 8, 1)
    # Levels 0, 5, 8 and 16 of 16, worked by hand: 5 * 255 / 16 = 79.7, 8 * 255 / 16 = 127.5 (to even).
    for level, expected in {0: 0, 5: 80, 8: 128, 16: 255}.items():
        assert set(digits.pixels[..., 0][bunch.images == level]) == {expected}


def test_classes_are_numbered_in_the_order_given(grey):
    digits = load_digits_set(["7", "5"], grey)
    bunch = load_digits()
    assert digits.class_names == ("7", "5")
    kept = bunch.target[np.isin(bunch.target, [5, 7])]
    assert (digits.labels == (kept == 5)).all()


def test_resized_and_repeated_to_three_channels():
    preprocessing = Preprocessing(size=16, resize=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    digits = load_digits_set(["0", "1"], preprocessing)
    assert digits.pixels.shape[1:] == (16, 16, 3)
    assert (digits.pixels[..., 0] == digits.pixels[..., 2]).all()


def test_fingerprint_tells_classes_and_sizes_apart(grey):
    other = Preprocessing(size=9, resize=9, mean=(0.0,), std=(1.0,))
    prints = [
        load_digits_set(classes, preprocessing).fingerprint
        for classes, preprocessing in [("01", grey), ("10", grey), ("02", grey), ("01", other)]
    ]
    assert len(set(prints)) == 4
    assert load_digits_set(("0", "1"), grey).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ((), "`classes` is empty"),
        (("3",), "at least two classes"),
        (("3", "3"), "names a value twice"),
        (("3", "10"), "digits from 0 to 9"),
        (("-1", "3"), "digits from 0 to 9"),
    ],
)
def test_impossible_classes_are_refused(classes, says):
    with pytest.raises(ConfigError, match=says):
        Digits(classes=classes)
