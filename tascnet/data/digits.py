"""The embedded data set: scikit-learn's 8 x 8 scans of handwritten digits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.dataset import Dataset, content_fingerprint, digest_array
from tascnet.data.decode import resampling
from tascnet.errors import ConfigError
from tascnet.models.info import Preprocessing

SIDE = 8
SOURCE = "Optical Recognition of Handwritten Digits (UCI), as embedded in scikit-learn"
LICENCE = "CC BY 4.0"


def load_digits_set(classes: Sequence[int] | None, preprocessing: Preprocessing) -> Dataset:
    """The digits of the classes asked for, 1,797 images for all ten.

    Args:
        classes: digits in the order that gives their class indices; None: 0 to 9.
        preprocessing: gives the side `R` after resizing and the number of channels `c`.

    Returns:
        A data set with pixels `n x R x R x c`, in scikit-learn's order.

    Raises:
        ConfigError: if a class is no digit, is named twice, or fewer than two are named.
    """
    # Its import takes seconds, and other data sets do without it.
    from sklearn.datasets import load_digits

    digits = _checked(classes)
    bunch = load_digits()
    rows = np.flatnonzero(np.isin(bunch.target, digits))
    order = {digit: index for index, digit in enumerate(digits)}
    labels = np.array([order[int(digit)] for digit in bunch.target[rows]], dtype=np.int64)
    pixels = _resized(np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8), preprocessing)
    names = tuple(str(digit) for digit in digits)
    return Dataset(
        name="digits",
        class_names=names,
        labels=labels,
        pixels=pixels,
        fingerprint=content_fingerprint(names, labels, digest_array(pixels)),
        source=SOURCE,
        licence=LICENCE,
    )


def _checked(classes: Sequence[int] | None) -> tuple[int, ...]:
    digits = tuple(range(10)) if classes is None else tuple(classes)
    if len(digits) < 2 or len(set(digits)) != len(digits) or not set(digits) <= set(range(10)):
        raise ConfigError(
            f"dataset.digits is {list(digits)}, expected at least two different digits from 0 to 9",
            "for example dataset.digits=[5,6,7,8,9]",
        )
    return digits


def _resized(scans: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    side = preprocessing.resize
    if side != SIDE:
        method = resampling(preprocessing.interpolation)
        scans = np.stack([np.asarray(Image.fromarray(scan).resize((side, side), method)) for scan in scans])
    return np.repeat(scans[..., None], preprocessing.channels, axis=-1)
