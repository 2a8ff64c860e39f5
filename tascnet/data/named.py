"""The data sets that a caller names: options with the defaults of conf/dataset/, and torch data sets."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tascnet.errors import ConfigError, DataError
from tascnet.options import (
    Digits,
    ImageFolder,
    PublishedImages,
    PublishedTexts,
    ReadyImages,
    Texts,
    option,
)
from tascnet.presets import preset

Place = str | os.PathLike[str]

AUGMENTATION = ("flip", "min_scale", "pad", "randaugment", "erasing")


@dataclass(frozen=True, kw_only=True)
class TorchData(ReadyImages):
    """Map-style torch data sets of images; `classes` are the names of all classes."""

    name: str = option("datasets", "Name of the data set.")
    train_set: object = option(None, "Training samples.", cosmetic=True)
    val_set: object = option(None, "Validation samples, or None.", cosmetic=True)
    test_set: object = option(None, "Test samples, or None.", cosmetic=True)


def datasets(
    train: Any,
    val: Any = None,
    test: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    split: tuple[int | float, int | float] = (0.7, 0.15),
    name: str = "datasets",
    duplicates: str = "refuse",
    extra_channels: str = "refuse",
    **augmentation: Any,
) -> TorchData:
    """Images from torch data sets of your own, for `tascnet.tune` and the other functions.

    An item is a pair `(image, label)`, the same whenever it is read. tascnet resizes, crops, normalises and
    augments PIL images and uint8 arrays `H x W` or `H x W x C` like images in files: leave that out of the
    data sets.
    Float tensors `C x H x W` are used as they are, without augmentation; they must have the shape that the
    network takes.

    Args:
        train: training samples, any object with `__len__` and `__getitem__`.
        val: validation samples; None: they are drawn from `train`, class by class, by the seed.
        test: test samples; None: as `val`.
        class_names: one for each class, in the order of the labels 0, 1, ...; None: the labels themselves.
        split: training and validation samples of each class, two shares or two counts, like `train` and `val`
            of `tascnet.image_folder`. Shares have no effect where all three data sets are given.
        name: of the data set, in tables.
        duplicates: equal images in two of the data sets: `refuse` them, `drop` them from training, then from
            validation, or `allow` them.
        extra_channels: PIL images with more channels than colours and transparency: `refuse` them, or `drop`
            all but the first three channels.
        augmentation: `flip`, `min_scale`, `pad`, `randaugment` and `erasing`, as in `tascnet.image_folder`,
            with its defaults.

    Raises:
        DataError: a data set is empty, or has no `__len__` or `__getitem__`.
        ConfigError: an option does not fit.
    """
    sets: dict[str, Any] = {"train": train, "val": val, "test": test}
    for part, given in sets.items():
        if given is None and part != "train":
            continue
        if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
            raise DataError(
                f"`{part}` is of type {type(given).__name__}, expected a map-style data set",
                "give an object with `__len__` and `__getitem__`, such as a torch.utils.data.Dataset",
            )
        if len(given) == 0:
            raise DataError(f"the data set `{part}` is empty", "give one with samples, or leave it out")
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise ConfigError(
            f"`split` is {split!r}, expected two shares or two counts",
            "give those of training and of validation samples, such as `(0.7, 0.15)`",
        )
    # An option checks the items of a tuple.
    own: dict[str, Any] = {f"{part}_set": list(v) if isinstance(v, tuple) else v for part, v in sets.items()}
    photographs = preset("dataset", "image_folder", root=".")
    return TorchData(
        name=name,
        train=split[0],
        val=split[1],
        classes=None if class_names is None else tuple(class_names),
        duplicates=duplicates,
        extra_channels=extra_channels,
        **own,
        **{option: getattr(photographs, option) for option in AUGMENTATION} | augmentation,
    )


def image_folder(root: Place, **options: Any) -> ImageFolder:
    """Your own images: a folder of class folders, or of `train`, `val` and `test` that hold class folders.

    Args:
        options: any of `tascnet.options.ImageFolder`, in place of the defaults of conf/dataset/.

    Raises:
        ConfigError: an option is unknown or does not fit.
    """
    return _preset("image_folder", root, **options)


def image_list(csv: Place, root: Place | None = None, **options: Any) -> ImageFolder:
    """Your own images: a CSV file with a line `file,label` for each; see `image_folder`.

    Files are relative to `root`, or without it to the folder of the CSV.
    """
    return _preset("image_folder", root, csv=os.fspath(csv), **options)


def text_lines(root: Place, **options: Any) -> Texts:
    """Your own texts: a folder with one UTF-8 file for each class, one text a line; see `image_folder`."""
    return _preset("text_lines", root, **options)


def digits(**options: Any) -> Digits:
    """scikit-learn's scans of the digits 5 to 9, 8 x 8 pixels; see `image_folder`."""
    return _preset("digits", None, **options)


def caltech101(root: Place | None = None, **options: Any) -> PublishedImages:
    """Caltech-101, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("caltech101", root, **options)


def caltech256(root: Place | None = None, **options: Any) -> PublishedImages:
    """Caltech-256, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("caltech256", root, **options)


def stanford_dogs(root: Place | None = None, **options: Any) -> PublishedImages:
    """Stanford Dogs, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("stanford_dogs", root, **options)


def cifar10(root: Place | None = None, **options: Any) -> PublishedImages:
    """CIFAR-10, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("cifar10", root, **options)


def oxford_flowers102(root: Place | None = None, **options: Any) -> PublishedImages:
    """Oxford Flowers-102, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("oxford_flowers102", root, **options)


def movie_review(root: Place | None = None, **options: Any) -> PublishedTexts:
    """Movie Review, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("movie_review", root, **options)


def subjectivity(root: Place | None = None, **options: Any) -> PublishedTexts:
    """Subjectivity, in a folder or in the cache; `download=True` fetches it; see `image_folder`."""
    return _preset("subjectivity", root, **options)


def _preset(name: str, root: Place | None, **options: Any) -> Any:
    place = {} if root is None else {"root": os.fspath(root)}
    return preset("dataset", name, **place, **options)
