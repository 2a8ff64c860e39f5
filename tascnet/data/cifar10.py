"""CIFAR-10 as published: batches of pixels in Python pickles, which are read without running code."""

import codecs
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tascnet.data.download import RemoteFile, unpack_tar
from tascnet.data.listing import ImageFile, Listing
from tascnet.data.published import PublishedSet
from tascnet.errors import DataError
from tascnet.run.files import check_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER = "cifar-10-batches-py"
TRAIN, TEST, META = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"
SIDE = 32


class _Plain(pickle.Unpickler):
    """Reads arrays, lists and texts, and refuses any other class or function that a pickle names."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        # Imported late: other data sets do not need it.
        import numpy as np

        reconstruct = np.empty(0).__reduce__()[0]  # type: ignore[index]
        # All that the published pickles need.
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): codecs.encode,
        }
        if (module_name, global_name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return allowed[module_name, global_name]


def _listing(folder: Path) -> Listing:
    """Each image is a row of a batch; its path is the batch's name and the row."""
    names = tuple(str(name) for name in _read(folder / META, "label_names")["label_names"])
    batches: dict[str, NDArray[np.uint8]] = {}
    files: list[ImageFile] = []
    for name in (*TRAIN, TEST):
        batches[name], labels = _batch(folder / name, len(names))
        stat, part = (folder / name).stat(), "test" if name == TEST else "train"
        for row, label in enumerate(labels):
            path, size = f"{name}/{row:05d}", stat.st_size
            files.append(ImageFile(path=path, label=label, size=size, mtime_ns=stat.st_mtime_ns, part=part))

    def read(path: str) -> "NDArray[np.uint8]":
        name, _, row = path.partition("/")
        return batches[name][int(row)]

    files.sort(key=lambda file: (file.label, file.path))
    return Listing(root=folder, class_names=names, files=tuple(files), read=read)


def _batch(path: Path, classes: int) -> "tuple[NDArray[np.uint8], list[int]]":
    """Pixels, `n x 32 x 32 x 3`, and labels of a batch."""
    import numpy as np

    content = _read(path, "data", "labels")
    pixels, labels = np.asarray(content["data"]), [int(label) for label in content["labels"]]
    is_right = pixels.dtype == np.uint8 and pixels.shape == (len(labels), 3 * SIDE * SIDE)
    if not is_right or any(not 0 <= label < classes for label in labels):
        raise _damaged(path, "its pixels and labels do not fit")
    return np.ascontiguousarray(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)), labels


def _read(path: Path, *keys: str) -> dict[str, Any]:
    try:
        check_regular(path)
        with open(path, "rb") as file:
            content = _Plain(file, encoding="latin1").load()
        return {key: content[key] for key in keys}
    # A damaged pickle raises errors of many types.
    except Exception as error:
        raise _damaged(path, " ".join(str(error).split())) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is not a file of CIFAR-10 ({reason})", "replace it by the published file")


# Address and digest as in torchvision's CIFAR10.
CIFAR10 = PublishedSet(
    name="cifar10",
    title="CIFAR-10",
    origin="CIFAR-10 (Krizhevsky 2009), https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; the images were collected from the web, for research",
    files=(
        RemoteFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"
        ),
    ),
    folder=FOLDER,
    places=("cifar10",),
    holds=(META, *TRAIN, TEST),
    unpack=lambda archives, target: unpack_tar(archives[0], target, strip=FOLDER),
    contents=_listing,
    official_test=True,
)
