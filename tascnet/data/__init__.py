"""Data sets decoded once, seeded splits, batches of images or texts, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes,
`T` tokens of a text.
"""

from tascnet.data.augment import Augmentation
from tascnet.data.cache import cached_features, module_digest, prefix_digests
from tascnet.data.caltech101 import listed_caltech101, load_caltech101
from tascnet.data.dataset import Dataset
from tascnet.data.decode import UnreadableImage, decode_image
from tascnet.data.digits import load_digits_set
from tascnet.data.folder import load_image_folder
from tascnet.data.listing import list_images
from tascnet.data.overlap import sample_digests, without_samples
from tascnet.data.sources import (
    VIEWS,
    FeatureSource,
    ImageSource,
    SampleSource,
    Source,
    TokenSource,
    source_of,
)
from tascnet.data.splits import Split, class_weights, split
from tascnet.data.text import PUBLISHED, TextDataset, find_text_files, load_texts

__all__ = [
    "PUBLISHED",
    "VIEWS",
    "Augmentation",
    "Dataset",
    "FeatureSource",
    "ImageSource",
    "SampleSource",
    "Source",
    "Split",
    "TextDataset",
    "TokenSource",
    "UnreadableImage",
    "cached_features",
    "class_weights",
    "decode_image",
    "find_text_files",
    "list_images",
    "listed_caltech101",
    "load_caltech101",
    "load_digits_set",
    "load_image_folder",
    "load_texts",
    "module_digest",
    "prefix_digests",
    "sample_digests",
    "source_of",
    "split",
    "without_samples",
]
