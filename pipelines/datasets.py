"""The data set that the config names: looked for before anything is done, and loaded."""

import os
from pathlib import Path
from typing import Any

from tascnet import data
from tascnet.config import TEXT_DATASETS, Config
from tascnet.errors import ConfigError, DataError
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.runs import cache_folder

__all__ = ["check_samples", "load_data"]


def check_samples(config: Config) -> None:
    """Find a missing folder or an empty class before anything is fetched or decoded.

    Raises:
        DataError: the folder is missing, or a class is empty.
    """
    options = config.dataset
    if options.name == "image_folder":
        data.list_images(_root(config))
    elif options.name in TEXT_DATASETS:
        data.find_text_files(options.name, _root(config))
    elif options.name == "caltech101" and not options.download:
        data.listed_caltech101(_root(config), cache_folder(config))


def load_data(
    config: Config, preprocessing: Preprocessing | TextPreprocessing | None
) -> data.Dataset | data.TextDataset:
    """The data set that the config names.

    Args:
        config: the composed config.
        preprocessing: of images, which are decoded for it; texts are read as they are.

    Raises:
        DataError: the data set is missing or wrong, or holds images where the network takes texts.
    """
    options = config.dataset
    if options.name in TEXT_DATASETS:
        return data.load_texts(options.name, _root(config))
    if not isinstance(preprocessing, Preprocessing):
        raise DataError(
            f"dataset={options.name} holds images, but the network takes texts",
            "give a network for this data set",
        )
    if options.name == "digits":
        return data.load_digits_set(options.digits, preprocessing)
    root = _root(config)
    folders: dict[str, Any] = {
        "cache_dir": cache_folder(config),
        "unreadable": options.unreadable,
        "limit_gb": config.cache_limit_gb,
        "workers": os.cpu_count(),
        "classes": options.classes,
    }
    if options.name == "caltech101":
        return data.load_caltech101(root, preprocessing, download=options.download, **folders)
    if root is None:
        raise ConfigError("dataset=image_folder needs the folder of its images", "add dataset.root=<folder>")
    return data.load_image_folder(root, preprocessing, **folders)


def _root(config: Config) -> Path | None:
    root = config.dataset.root
    return None if root is None else Path(root).expanduser()
