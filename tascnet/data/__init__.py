"""Data sets decoded once, seeded splits, batches of images, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes.
"""

from tascnet.data.augment import Augmentation
from tascnet.data.dataset import Dataset
from tascnet.data.digits import load_digits_set
from tascnet.data.sources import VIEWS, FeatureSource, ImageSource, Source
from tascnet.data.splits import Split, class_weights, split

__all__ = [
    "VIEWS",
    "Augmentation",
    "Dataset",
    "FeatureSource",
    "ImageSource",
    "Source",
    "Split",
    "class_weights",
    "load_digits_set",
    "split",
]
