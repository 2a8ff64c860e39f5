"""The published data sets by name.

Caltech's categories are folders, one of which is not a class; Stanford Dogs and Oxford Flowers-102 list their
images in MATLAB files; the texts of Cornell have one file for each class.
"""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tascnet.data.cifar10 import CIFAR10
from tascnet.data.download import RemoteFile, unpack_tar
from tascnet.data.listing import Listing, TextFiles, check_readable, find_file, image_file, list_images
from tascnet.data.published import PublishedSet
from tascnet.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALTECH101_FOLDER, CALTECH101_NO_CLASS = "101_ObjectCategories", "BACKGROUND_Google"
CALTECH256_FOLDER, CALTECH256_NO_CLASS = "256_ObjectCategories", "257.clutter"
DOGS_IMAGES, DOGS_LISTS = "Images", {"train": "train_list.mat", "test": "test_list.mat"}
DOGS_ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
FLOWERS_IMAGES, FLOWERS_LABELS, FLOWERS_SETS = "jpg", "imagelabels.mat", "setid.mat"
FLOWERS_ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
# The published lists have less than one megabyte.
MOST_LIST_BYTES = 100_000_000
TEXTS_ADDRESS = "https://www.cs.cornell.edu/people/pabo/movie-review-data/"


def _has_folder(*names: str) -> Callable[[Path], bool]:
    """Tests whether a folder holds one of these."""
    return lambda root: any((root / name).is_dir() for name in names)


def _categories(folder: Path, no_class: str, classes: int, *, nested: bool = True) -> Listing:
    """The categories, with a warning where some of the published ones are missing."""
    listing = list_images(folder, exclude=(no_class,), nested=nested)
    count = len(listing.class_names)
    note = (f"{folder} holds {count} of the {classes} published classes",) if count < classes else ()
    return replace(listing, notes=(*listing.notes, *note))


def _unpack_caltech101(archives: Sequence[Path], target: Path) -> None:
    """The archive in the outer one is unpacked directly from it."""
    with zipfile.ZipFile(archives[0]) as outer:
        inner = [name for name in outer.namelist() if name.endswith(f"{CALTECH101_FOLDER}.tar.gz")]
        if not inner:
            raise tarfile.ReadError(f"the archive holds no {CALTECH101_FOLDER}.tar.gz")
        with outer.open(inner[0]) as stream:
            unpack_tar(stream, target, strip=CALTECH101_FOLDER, size=archives[0].stat().st_size)


def _caltech256(folder: Path) -> Listing:
    # Folders within categories are left over from collecting; they hold none of the published images.
    listing = _categories(folder, CALTECH256_NO_CLASS, 256, nested=False)
    return replace(listing, class_names=tuple(name.partition(".")[2] or name for name in listing.class_names))


def _unpack_all(archives: Sequence[Path], target: Path) -> None:
    for archive in archives:
        unpack_tar(archive, target)


def _dogs(folder: Path) -> Listing:
    parts = {
        str(path): part for part, name in DOGS_LISTS.items() for path in _mat(folder / name, "file_list")
    }
    folders = sorted({path.partition("/")[0] for path in parts})
    if len(folders) < 2:
        raise DataError(f"the lists in {folder} name {len(folders)} breeds, expected at least two")
    labels = {name: label for label, name in enumerate(folders)}
    root = folder / DOGS_IMAGES
    return Listing(
        root=root,
        # `n02085620-Chihuahua` is Chihuahua: the number is that of the ImageNet class.
        class_names=tuple(name.partition("-")[2] or name for name in folders),
        files=tuple(
            image_file(root, path, labels[path.partition("/")[0]], parts[path]) for path in sorted(parts)
        ),
    )


def _unpack_flowers(archives: Sequence[Path], target: Path) -> None:
    images, *lists = archives
    unpack_tar(images, target)
    for path in lists:
        shutil.copy(path, target / path.name)


def _flowers(folder: Path) -> Listing:
    """Training and validation are drawn from all images outside the official test split."""
    # Imported late: it takes a second.
    from torchvision.datasets import Flowers102

    names = tuple(Flowers102.classes)
    labels = _mat(folder / FLOWERS_LABELS, "labels").astype(int) - 1
    test = set(_mat(folder / FLOWERS_SETS, "tstid").astype(int).tolist())
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{folder / FLOWERS_LABELS} holds labels outside 1 to {len(names)}",
            "replace it by the published file",
        )
    root = folder / FLOWERS_IMAGES
    files = tuple(
        image_file(root, f"image_{image:05d}.jpg", int(label), "test" if image in test else "train")
        for label, image in sorted(zip(labels, range(1, len(labels) + 1), strict=True))
    )
    return Listing(root=root, class_names=names, files=files)


def _mat(path: Path, key: str) -> "NDArray[Any]":
    """One list of a MATLAB file, as an array of one axis."""
    # Imported late: it takes a while, and most data sets do not need it.
    import numpy as np
    from scipy.io import loadmat

    check_readable(path, "replace it by the published file", most=MOST_LIST_BYTES)
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[key])
    # SciPy's reader raises errors of many types on damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} holds no list {key} ({reason})", "replace it by the published file"
        ) from error


def _texts(
    name: str, title: str, origin: str, of: str, archive: RemoteFile, classes: Mapping[str, tuple[str, ...]]
) -> PublishedSet:
    """A data set with one file for each class, under its published name or another that archives use."""

    def contents(root: Path) -> TextFiles:
        found = {label: find_file(root, names) for label, names in classes.items()}
        files = {label: path for label, path in found.items() if path is not None}
        return TextFiles(root=root, files=files, encoding="latin-1")

    return PublishedSet(
        name=name,
        title=title,
        origin=f"{origin}, {TEXTS_ADDRESS}",
        licence=f"free for research; the sentences are those of {of}",
        files=(archive,),
        folder=name,
        wanted=" and no ".join(names[0] for names in classes.values()),
        holds=tuple(names[0] for names in classes.values()),
        is_in=lambda root: len(contents(root).files) == len(classes),
        unpack=_unpack_all,
        contents=contents,
    )


# Addresses and digests are those of torchvision; for Stanford Dogs and Movie Review, whose authors give no
# digests, those that TensorFlow Datasets and Hugging Face recorded. The archive of Subjectivity is checked by
# its own checksum alone.
CATALOGUE: Mapping[str, PublishedSet] = {
    published.name: published
    for published in (
        PublishedSet(
            name="caltech101",
            title="Caltech-101",
            origin="Caltech 101 (Li, Andreeto, Ranzato, Perona 2022), "
            "https://data.caltech.edu/records/mzrjq-6wc02",
            licence="CC BY 4.0",
            files=(
                RemoteFile(
                    "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                    "md5:3138e1922a9193bfa496528edbbc45d0",
                ),
            ),
            folder=CALTECH101_FOLDER,
            places=("caltech101", "caltech-101"),
            is_in=_has_folder(CALTECH101_NO_CLASS, "accordion", "airplanes", "yin_yang"),
            unpack=_unpack_caltech101,
            contents=lambda folder: _categories(folder, CALTECH101_NO_CLASS, 101),
        ),
        PublishedSet(
            name="caltech256",
            title="Caltech-256",
            origin="Caltech 256 (Griffin, Holub, Perona 2022), https://data.caltech.edu/records/nyy15-4j048",
            licence="CC BY 4.0",
            files=(
                RemoteFile(
                    "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
                    "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
                ),
            ),
            folder=CALTECH256_FOLDER,
            places=("caltech256",),
            is_in=_has_folder(CALTECH256_NO_CLASS, "001.ak47", "256.toad"),
            unpack=lambda archives, target: unpack_tar(archives[0], target, strip=CALTECH256_FOLDER),
            contents=_caltech256,
        ),
        PublishedSet(
            name="stanford_dogs",
            title="Stanford Dogs",
            origin=f"Stanford Dogs (Khosla, Jayadevaprakash, Yao, Fei-Fei 2011), {DOGS_ADDRESS}/",
            licence="none stated; the images are ImageNet's, for non-commercial research and education",
            files=(
                RemoteFile(
                    f"{DOGS_ADDRESS}/images.tar",
                    "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                ),
                RemoteFile(
                    f"{DOGS_ADDRESS}/lists.tar",
                    "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
                ),
            ),
            folder="stanford_dogs",
            holds=(DOGS_IMAGES, *DOGS_LISTS.values()),
            unpack=_unpack_all,
            contents=_dogs,
            official_test=True,
        ),
        CIFAR10,
        PublishedSet(
            name="oxford_flowers102",
            title="Oxford Flowers-102",
            origin=f"102 Category Flower Dataset (Nilsback, Zisserman 2008), {FLOWERS_ADDRESS}/",
            licence="none stated; the images were collected from the web, for research",
            files=(
                RemoteFile(f"{FLOWERS_ADDRESS}/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa"),
                RemoteFile(f"{FLOWERS_ADDRESS}/{FLOWERS_LABELS}", "md5:e0620be6f572b9609742df49c70aed4d"),
                RemoteFile(f"{FLOWERS_ADDRESS}/{FLOWERS_SETS}", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
            ),
            folder="flowers-102",
            places=("oxford_flowers102",),
            holds=(FLOWERS_IMAGES, FLOWERS_LABELS, FLOWERS_SETS),
            unpack=_unpack_flowers,
            contents=_flowers,
            official_test=True,
        ),
        _texts(
            "movie_review",
            "Movie Review",
            "Sentence polarity 1.0 (Pang and Lee 2005)",
            "Rotten Tomatoes' reviewers",
            RemoteFile(
                f"{TEXTS_ADDRESS}rt-polaritydata.tar.gz",
                "sha256:a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
            ),
            {"negative": ("rt-polarity.neg",), "positive": ("rt-polarity.pos",)},
        ),
        _texts(
            "subjectivity",
            "Subjectivity",
            "Subjectivity 1.0 (Pang and Lee 2004)",
            "Rotten Tomatoes' reviewers and of IMDb",
            RemoteFile(f"{TEXTS_ADDRESS}rotten_imdb.tar.gz", None),
            {
                "objective": ("plot.tok.gt9.5000", "subj.objective"),
                "subjective": ("quote.tok.gt9.5000", "subj.subjective"),
            },
        ),
    )
}
