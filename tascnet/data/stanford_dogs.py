"""Stanford Dogs as published: a folder of images a breed, and lists of training and test images."""

from collections.abc import Sequence
from pathlib import Path

from tascnet.data.download import RemoteFile
from tascnet.data.listing import Listing, image_file
from tascnet.data.matlab import read_mat
from tascnet.data.published import PublishedSet, below
from tascnet.data.unpack import unpack_tar
from tascnet.errors import DataError

FOLDER = "stanford_dogs"
IMAGES = "Images"
LISTS = {"train": "train_list.mat", "test": "test_list.mat"}
HOLDS = (IMAGES, *LISTS.values())
ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs"


def _find(root: Path) -> Path | None:
    return below(root, FOLDER, holds=HOLDS)


def _unpack(archives: Sequence[Path], target: Path) -> None:
    for archive in archives:
        unpack_tar(archive, target)


def _listing(folder: Path) -> Listing:
    parts = {str(path): part for part, name in LISTS.items() for path in read_mat(folder / name, "file_list")}
    folders = sorted({path.partition("/")[0] for path in parts})
    if len(folders) < 2:
        raise DataError(f"the lists in {folder} name {len(folders)} breeds, expected at least two")
    labels = {name: label for label, name in enumerate(folders)}
    root = folder / IMAGES
    files = tuple(
        image_file(root, path, labels[path.partition("/")[0]], parts[path]) for path in sorted(parts)
    )
    return Listing(root=root, class_names=_breeds(folders), files=files)


def _breeds(folders: Sequence[str]) -> tuple[str, ...]:
    """`n02085620-Chihuahua` is Chihuahua: the number is that of the ImageNet class."""
    return tuple(name.partition("-")[2] or name for name in folders)


# The authors give no digests: these are the ones that TensorFlow Datasets recorded.
STANFORD_DOGS = PublishedSet(
    name="stanford_dogs",
    title="Stanford Dogs",
    source=f"Stanford Dogs (Khosla, Jayadevaprakash, Yao, Fei-Fei 2011), {ADDRESS}/",
    licence="none stated; the images are ImageNet's, for non-commercial research and education",
    files=(
        RemoteFile(
            url=f"{ADDRESS}/images.tar",
            digest="sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        ),
        RemoteFile(
            url=f"{ADDRESS}/lists.tar",
            digest="sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        ),
    ),
    folder=FOLDER,
    find=_find,
    holds=HOLDS,
    unpack=_unpack,
    listing=_listing,
    official_test=True,
)
