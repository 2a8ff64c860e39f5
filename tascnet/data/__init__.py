"""Data sets decoded once, seeded splits, batches of images, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes.
"""

from tascnet.data.augment import Augmentation
from tascnet.data.cache import cached_features, module_digest, prefix_digests
from tascnet.data.catalogue import CATALOGUE
from tascnet.data.csv_list import list_csv
from tascnet.data.dataset import Dataset
from tascnet.data.decode import UnreadableImage, decode_image
from tascnet.data.digits import load_digits_set
from tascnet.data.folder import load_image_folder
from tascnet.data.images import load_images
from tascnet.data.listing import Listing, choose_classes, list_images
from tascnet.data.pixels import usable_cpus
from tascnet.data.published import PublishedSet, list_published, load_published, published_place
from tascnet.data.sources import VIEWS, FeatureSource, ImageSource, Source
from tascnet.data.splits import Split, class_weights, split

__all__ = [
    "CATALOGUE",
    "VIEWS",
    "Augmentation",
    "Dataset",
    "FeatureSource",
    "ImageSource",
    "Listing",
    "PublishedSet",
    "Source",
    "Split",
    "UnreadableImage",
    "cached_features",
    "choose_classes",
    "class_weights",
    "decode_image",
    "list_csv",
    "list_images",
    "list_published",
    "load_digits_set",
    "load_image_folder",
    "load_images",
    "load_published",
    "module_digest",
    "prefix_digests",
    "published_place",
    "split",
    "usable_cpus",
]
