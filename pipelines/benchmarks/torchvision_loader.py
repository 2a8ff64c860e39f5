"""The usual way to load images: torchvision's ImageFolder and transforms, torch's DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tascnet import data
from tascnet.models.info import Preprocessing


class Listed(ImageFolder):  # type: ignore[misc]
    """An ImageFolder of the files and classes of a data set, however its folders are laid out."""

    def __init__(self, dataset: data.Dataset, transform: Callable[[Image.Image], Any]) -> None:
        assert dataset.folder is not None
        # Not the data set itself: its pixels would be copied to every process.
        self.names, self.paths = list(dataset.class_names), dataset.paths
        self.labels = dataset.labels.tolist()
        super().__init__(str(dataset.folder), transform)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The names of the classes, and their labels."""
        return self.names, {name: label for label, name in enumerate(self.names)}

    def make_dataset(self, directory: str | Path, *_: Any, **__: Any) -> list[tuple[str, int]]:
        """The path and the label of each file."""
        rows = zip(self.paths, self.labels, strict=True)
        return [(str(Path(directory) / path), label) for path, label in rows]


def torchvision_loader(
    dataset: data.Dataset,
    preprocessing: Preprocessing,
    augmentation: data.Augmentation,
    *,
    batch_size: int,
    workers: int,
) -> DataLoader[Any]:
    """Shuffled batches of augmented images and labels.

    Args:
        dataset: its files are decoded, not its pixels read.
        preprocessing: size, mean and deviation.
        augmentation: what a crop may be.
        batch_size: images of a batch.
        workers: processes that decode; they live on from epoch to epoch.
    """
    listed = Listed(dataset, usual_transform(preprocessing, augmentation))
    return DataLoader(
        listed, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def usual_transform(
    preprocessing: Preprocessing, augmentation: data.Augmentation
) -> Callable[[Image.Image], torch.Tensor]:
    """torchvision's own transforms for the same resizing, crop, flip and normalisation."""
    method = transforms.InterpolationMode(preprocessing.interpolation)
    size, side = preprocessing.size, preprocessing.resize
    if augmentation.min_scale == 1:
        crop: Any = transforms.RandomCrop(size, augmentation.pad or None, padding_mode="edge")
    else:
        crop = transforms.RandomResizedCrop(size, (augmentation.min_scale, 1.0), interpolation=method)
    return transforms.Compose(
        [
            transforms.Resize(side, method),
            transforms.CenterCrop(side),
            crop,
            transforms.RandomHorizontalFlip(0.5 if augmentation.flip else 0.0),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
