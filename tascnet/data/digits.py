"""The embedded data set: scikit-learn's 8 x 8 scans of handwritten digits."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tascnet.data.arrays import digest_array, digest_row
from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.models.preprocessing import Preprocessing, resampling

SIDE = 8


def load_digits_set(classes: Sequence[str] | None, preprocessing: Preprocessing) -> Dataset:
    """The digits of some classes, in scikit-learn's order; all ten have 1,797 images.

    Args:
        classes: digits in the order that gives their class indices; None: 0 to 9.
        preprocessing: side `R` after resizing, interpolation and channels `c`.
    """
    # Its import takes seconds, and other data sets do not need it.
    from sklearn.datasets import load_digits

    names = tuple("0123456789" if classes is None else classes)
    order = {int(name): index for index, name in enumerate(names)}
    bunch = load_digits()
    rows = np.flatnonzero(np.isin(bunch.target, list(order)))
    labels = np.array([order[int(digit)] for digit in bunch.target[rows]], dtype=np.int64)
    scans = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)
    digests = tuple(digest_row(scan).hex() for scan in scans)
    if preprocessing.resize != SIDE:
        square, method = (preprocessing.resize, preprocessing.resize), resampling(preprocessing.interpolation)
        scans = np.stack([np.asarray(Image.fromarray(scan).resize(square, method)) for scan in scans])
    pixels = np.repeat(scans[..., None], preprocessing.channels, axis=-1)
    return Dataset(
        name="digits",
        class_names=names,
        labels=labels,
        pixels=pixels,
        fingerprint=content_fingerprint(names, labels, digest_array(pixels), digests),
        digests=digests,
        origin="Optical Recognition of Handwritten Digits (UCI), as embedded in scikit-learn",
        licence="CC BY 4.0",
    )
