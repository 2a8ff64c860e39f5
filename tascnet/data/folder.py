"""Any folder of class folders as a data set."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tascnet.data.dataset import Dataset
from tascnet.data.images import load_images
from tascnet.data.listing import list_images
from tascnet.models.info import Preprocessing


def load_image_folder(
    root: Path | None,
    preprocessing: Preprocessing,
    *,
    exclude: Collection[str] = (),
    **options: Any,
) -> Dataset:
    """The images of a folder of class folders, decoded once and kept in the cache.

    Args:
        root: holds one folder for each class.
        preprocessing: gives the side `R` after resizing, the interpolation and the channels `c`.
        exclude: names of folders that are no class.
        options: those of `load_images`.

    Returns:
        Samples sorted by class and path, pixels `n x R x R x c` as a read-only memory map.

    Raises:
        DataError: if the folder is missing or empty, images in it cannot be read, or a class is not there.
        BudgetError: if the pixels would take more than the limit allows.
        ConfigError: if `unreadable` is neither `refuse` nor `skip`.
    """
    return load_images(list_images(root, exclude), preprocessing, **options)
