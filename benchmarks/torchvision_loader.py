"""The usual way to load images: torchvision's ImageFolder and transforms, torch's DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tascnet.data.dataset import Dataset
from tascnet.models import Preprocessing
from tascnet.options import Images


class Listed(ImageFolder):  # type: ignore[misc]
    """An ImageFolder of the files and classes of a data set, however its folders are laid out."""

    def __init__(self, dataset: Dataset, transform: Callable[[Image.Image], Any]) -> None:
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
        return [
            (str(Path(directory) / path), label) for path, label in zip(self.paths, self.labels, strict=True)
        ]


def torchvision_loader(
    dataset: Dataset,
    preprocessing: Preprocessing,
    augmentation: Images,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Shuffled batches of augmented images and labels, decoded by processes that are kept between epochs."""
    listed = Listed(dataset, usual_transform(preprocessing, augmentation))
    kept = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pin_memory}
    return DataLoader(listed, batch_size=batch_size, shuffle=True, **kept)  # type: ignore[arg-type]


def usual_transform(
    preprocessing: Preprocessing, augmentation: Images
) -> Callable[[Image.Image], torch.Tensor]:
    """torchvision's own transforms for the same resizing, crop, flip and normalisation."""
    method = transforms.InterpolationMode(preprocessing.interpolation)
    size, side = preprocessing.size, preprocessing.resize
    crop: Any = transforms.RandomResizedCrop(size, (augmentation.min_scale, 1.0), interpolation=method)
    if augmentation.min_scale == 1:
        crop = transforms.RandomCrop(size, augmentation.pad or None, padding_mode="edge")
    magnitude, probability = augmentation.randaugment, augmentation.erasing
    changes = [transforms.RandAugment(magnitude=magnitude)] if magnitude else []
    erasing = [transforms.RandomErasing(probability)] if probability else []
    return transforms.Compose(
        [
            transforms.Resize(side, method),
            transforms.CenterCrop(side),
            crop,
            transforms.RandomHorizontalFlip(0.5 if augmentation.flip else 0.0),
            *changes,
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
            *erasing,
        ]
    )
