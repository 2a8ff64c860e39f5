"""Data sets decoded once, seeded splits, batches of images or texts, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes,
`T` tokens of a text.
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
from tascnet.data.overlap import sample_digests, without_samples
from tascnet.data.pixels import usable_cpus
from tascnet.data.published import PublishedSet, list_published, load_published, published_place
from tascnet.data.sources import (
    VIEWS,
    FeatureSource,
    ImageSource,
    SampleSource,
    Source,
    TokenSource,
    source_of,
)
from tascnet.data.splits import Split, class_weights, evenly, split
from tascnet.data.text import TEXT_FILES, TextDataset, fetch_texts, find_text_files, load_texts, text_place
from tascnet.data.when_read import DecodedWhenRead

__all__ = [
    "CATALOGUE",
    "TEXT_FILES",
    "VIEWS",
    "Augmentation",
    "Dataset",
    "DecodedWhenRead",
    "FeatureSource",
    "ImageSource",
    "Listing",
    "PublishedSet",
    "SampleSource",
    "Source",
    "Split",
    "TextDataset",
    "TokenSource",
    "UnreadableImage",
    "cached_features",
    "choose_classes",
    "class_weights",
    "decode_image",
    "evenly",
    "fetch_texts",
    "find_text_files",
    "list_csv",
    "list_images",
    "list_published",
    "load_digits_set",
    "load_image_folder",
    "load_images",
    "load_published",
    "load_texts",
    "module_digest",
    "prefix_digests",
    "published_place",
    "sample_digests",
    "source_of",
    "split",
    "text_place",
    "usable_cpus",
    "without_samples",
]
