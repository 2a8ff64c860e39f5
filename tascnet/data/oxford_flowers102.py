"""Oxford Flowers-102 as published: numbered images in one folder, their labels and split in MATLAB files."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tascnet.data.download import RemoteFile
from tascnet.data.listing import Listing, image_file
from tascnet.data.matlab import read_mat
from tascnet.data.published import PublishedSet, below
from tascnet.data.unpack import unpack_tar
from tascnet.errors import DataError

FOLDER = "flowers-102"
LABELS, SETS, IMAGES = "imagelabels.mat", "setid.mat", "jpg"
HOLDS = (IMAGES, LABELS, SETS)
ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"


def _find(root: Path) -> Path | None:
    return below(root, FOLDER, "oxford_flowers102", holds=HOLDS)


def _unpack(archives: Sequence[Path], target: Path) -> None:
    images, *lists = archives
    unpack_tar(images, target)
    for path in lists:
        shutil.copy(path, target / path.name)


def _listing(folder: Path) -> Listing:
    """The official validation images are among those that training and validation are drawn from."""
    # Imported late: it takes a second.
    from torchvision.datasets import Flowers102

    names = tuple(Flowers102.classes)
    labels = read_mat(folder / LABELS, "labels").astype(int) - 1
    test = set(read_mat(folder / SETS, "tstid").astype(int).tolist())
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{folder / LABELS} holds labels beside 1 to {len(names)}", "take the file as published"
        )
    rows = sorted(range(len(labels)), key=lambda row: (labels[row], row))
    files = tuple(
        image_file(
            folder / IMAGES,
            f"image_{row + 1:05d}.jpg",
            int(labels[row]),
            "test" if row + 1 in test else "train",
        )
        for row in rows
    )
    return Listing(root=folder / IMAGES, class_names=names, files=files)


# Addresses, digests and class names as in torchvision's Flowers102.
OXFORD_FLOWERS102 = PublishedSet(
    name="oxford_flowers102",
    title="Oxford Flowers-102",
    source=f"102 Category Flower Dataset (Nilsback, Zisserman 2008), {ADDRESS}/",
    licence="none stated; the images were collected from the web, for research",
    files=(
        RemoteFile(url=f"{ADDRESS}/102flowers.tgz", digest="md5:52808999861908f626f3c1f4e79d11fa"),
        RemoteFile(url=f"{ADDRESS}/{LABELS}", digest="md5:e0620be6f572b9609742df49c70aed4d"),
        RemoteFile(url=f"{ADDRESS}/{SETS}", digest="md5:a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
    folder=FOLDER,
    find=_find,
    holds=HOLDS,
    unpack=_unpack,
    listing=_listing,
    official_test=True,
)
