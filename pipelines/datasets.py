"""The data set that the config names: looked for before anything is done, loaded, and split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tascnet import data
from tascnet.config import Config
from tascnet.models.info import Preprocessing
from tascnet.runs import cache_folder

__all__ = ["check_samples", "draw_split", "load_data"]


def check_samples(config: Config) -> None:
    """Find a missing folder, or classes too small for the split, before anything is fetched or decoded.

    Raises:
        DataError: the folder is missing, a class is empty, or a class is too small.
    """
    options = config.dataset
    if options.name == "digits":
        return
    if options.name in data.CATALOGUE and options.download and _is_absent(config):
        return
    listing = data.choose_classes(_listing(config), options.classes)
    draw_split(config, listing.labels, listing.class_names, listing.parts)


def load_data(config: Config, preprocessing: Preprocessing) -> data.Dataset:
    """The data set that the config names."""
    options = config.dataset
    if options.name == "digits":
        return data.load_digits_set(options.digits, preprocessing)
    folders: dict[str, Any] = {
        "cache_dir": cache_folder(config),
        "unreadable": options.unreadable,
        "limit_gb": config.cache_limit_gb,
        "classes": options.classes,
    }
    if options.name in data.CATALOGUE:
        return data.load_published(
            data.CATALOGUE[options.name],
            _root(config),
            preprocessing,
            fetch=options.download,
            official_test=options.official_test,
            **folders,
        )
    return data.load_images(_listing(config), preprocessing, **folders)


def draw_split(
    config: Config, labels: NDArray[np.int64], class_names: Sequence[str], parts: Sequence[str]
) -> data.Split:
    """Training, validation and test rows as the config says.

    Args:
        config: its options of `dataset` and its seed.
        labels: class indices, `n`.
        class_names: one name for each class.
        parts: the split that each row is given to; empty: none is.

    Raises:
        DataError: a class is too small.
    """
    options = config.dataset
    return data.split(
        labels,
        class_names,
        seed=config.seed,
        train_per_class=options.train_per_class,
        val_per_class=options.val_per_class,
        train_fraction=options.train_fraction,
        val_fraction=options.val_fraction,
        parts=parts,
    )


def _listing(config: Config) -> data.Listing:
    """The images that the config names, none of them opened."""
    options = config.dataset
    if options.name in data.CATALOGUE:
        return data.list_published(
            data.CATALOGUE[options.name],
            _root(config),
            cache_folder(config),
            official_test=options.official_test,
        )
    if options.csv is not None:
        return data.list_csv(Path(options.csv).expanduser(), _root(config), options.classes)
    return data.list_images(_root(config))


def _is_absent(config: Config) -> bool:
    place = data.published_place(data.CATALOGUE[config.dataset.name], _root(config), cache_folder(config))
    return data.CATALOGUE[config.dataset.name].find(place) is None


def _root(config: Config) -> Path | None:
    root = config.dataset.root
    return None if root is None else Path(root).expanduser()
