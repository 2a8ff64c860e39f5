"""The data set that the config names: looked for before anything is done, loaded, and split."""

from pathlib import Path
from typing import Any

from tascnet import data
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import PUBLISHED_TEXTS, TEXT_DATASETS, Config
from tascnet.run.folder import cache_folder


def check_samples(config: Config) -> None:
    """Find a missing folder, or classes too small for the split, before anything is fetched or decoded.

    Raises:
        DataError: the folder is missing, a class is empty, or a class is too small.
    """
    options = config.dataset
    if options.name == "digits":
        return
    if options.name in TEXT_DATASETS:
        if not (options.download and options.name in PUBLISHED_TEXTS):
            data.find_text_files(options.name, _text_root(config))
        return
    if options.name in data.CATALOGUE and options.download and _is_absent(config):
        return
    draw_split(config, data.choose_classes(_listing(config), options.classes))


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
        place = _text_root(config)
        if options.download and options.name in PUBLISHED_TEXTS and place is not None:
            data.fetch_texts(options.name, place)
        return data.load_texts(options.name, place)
    if not isinstance(preprocessing, Preprocessing):
        raise DataError(
            f"dataset={options.name} holds images, but the network takes texts",
            "give a network for this data set",
        )
    return load_images(config, preprocessing)


def load_images(config: Config, preprocessing: Preprocessing) -> data.Dataset:
    """The images that the config names, decoded."""
    options = config.dataset
    if options.name == "digits":
        return data.load_digits_set(options.digits, preprocessing)
    folders: dict[str, Any] = {
        "cache_dir": cache_folder(config),
        "unreadable": options.unreadable,
        "keep": options.keep_pixels,
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


def draw_split(config: Config, samples: data.Listing | data.Dataset | data.TextDataset) -> data.Split:
    """Training, validation and test rows of samples, or of files, as the config says.

    Raises:
        DataError: a class is too small.
    """
    options = config.dataset
    return data.split(
        samples.labels,
        samples.class_names,
        seed=config.seed,
        train_per_class=options.train_per_class,
        val_per_class=options.val_per_class,
        train_fraction=options.train_fraction,
        val_fraction=options.val_fraction,
        parts=samples.parts,
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


def _text_root(config: Config) -> Path | None:
    return data.text_place(config.dataset.name, _root(config), cache_folder(config))


def _root(config: Config) -> Path | None:
    root = config.dataset.root
    return None if root is None else Path(root).expanduser()
