"""Data sets decoded once, seeded splits, batches of images, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes.
"""

from tascnet.data.augment import Augmentation
from tascnet.data.cache import cached_features, module_digest, prefix_digests
from tascnet.data.caltech101 import listed_caltech101, load_caltech101
from tascnet.data.dataset import Dataset
from tascnet.data.decode import UnreadableImage, decode_image
from tascnet.data.digits import load_digits_set
from tascnet.data.folder import load_image_folder
from tascnet.data.listing import list_images
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
    "UnreadableImage",
    "cached_features",
    "class_weights",
    "decode_image",
    "list_images",
    "listed_caltech101",
    "load_caltech101",
    "load_digits_set",
    "load_image_folder",
    "module_digest",
    "prefix_digests",
    "split",
]
