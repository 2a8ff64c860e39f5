"""Light augmentation of a whole batch at once: crops, shifts and flips."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tascnet.errors import ConfigError

__all__ = ["Augmentation", "augment", "centre_crop"]

# Aspect ratios of random crops lie between 1 / MAX_RATIO and MAX_RATIO.
MAX_RATIO = 4 / 3
AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training images may undergo.

    Args:
        flip: mirror half of the images from left to right.
        min_scale: smallest share of the image's area that a random crop takes; 1: shift only.
        pad: pixels by which a crop may reach over the edge, filled with the edge's own pixels.

    Raises:
        ConfigError: if `min_scale` is not in (0, 1] or `pad` is negative.
    """

    flip: bool = True
    min_scale: float = 1.0
    pad: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise ConfigError(
                f"min_scale is {self.min_scale}, expected above 0 and at most 1", "1 means shift only"
            )
        if self.pad < 0:
            raise ConfigError(f"pad is {self.pad}, expected 0 or more pixels", "0 means no padding")


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The central squares: `b x R x R x c` to `b x size x size x c`."""
    start = round((images.shape[1] - size) / 2.0)
    return images[:, start : start + size, start : start + size]


def augment(images: Tensor, size: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Randomly cropped and flipped images; every call draws the same count of random numbers.

    Args:
        images: pixels, `b x R x R x c`, uint8.
        size: side of the crops.
        augmentation: what may be done.
        generator: source of randomness, on the CPU.

    Returns:
        `b x size x size x c`, not shared: uint8 from shifts, float32 in 0 to 255 from scaled crops.
    """
    draws = torch.rand(5, len(images), generator=generator)
    flipped = (draws[0] < 0.5) & augmentation.flip
    if augmentation.min_scale == 1:
        return _shifted(images, size, augmentation.pad, flipped, draws[1:3])
    return _scaled(images, size, augmentation, flipped, draws[1:])


def _shifted(images: Tensor, size: int, pad: int, flipped: Tensor, draws: Tensor) -> Tensor:
    padded = _edge_padded(images, pad)
    span = padded.shape[1] - size
    ys, xs = (draws * (span + 1)).long().clamp(max=span)
    # All windows as a view, of which each image copies one: far faster than to gather pixel by pixel.
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
    crops = windows[torch.arange(len(images)), ys, xs]
    crops[flipped] = crops[flipped].flip(2)
    return crops


def _edge_padded(images: Tensor, pad: int) -> Tensor:
    """The images with their edges repeated `pad` times; torch pads no integers so."""
    if pad == 0:
        return images
    count, side, _, channels = images.shape
    padded = images.new_empty(count, side + 2 * pad, side + 2 * pad, channels)
    padded[:, pad:-pad, pad:-pad] = images
    padded[:, :pad, pad:-pad], padded[:, -pad:, pad:-pad] = images[:, :1], images[:, -1:]
    padded[:, :, :pad] = padded[:, :, pad : pad + 1]
    padded[:, :, -pad:] = padded[:, :, -pad - 1 : -pad]
    return padded


def _scaled(images: Tensor, size: int, augmentation: Augmentation, flipped: Tensor, draws: Tensor) -> Tensor:
    area = augmentation.min_scale + (1 - augmentation.min_scale) * draws[2]
    ratio = torch.exp((2 * draws[3] - 1) * math.log(MAX_RATIO))
    # Extents and centres in grid_sample's coordinates: the image spans -1 to 1.
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    reach = 1 + 2 * augmentation.pad / images.shape[1]
    centres = torch.linspace(-1, 1, size) * (size - 1) / size
    middle_x, middle_y = (2 * draws[1] - 1) * (reach - width), (2 * draws[0] - 1) * (reach - height)
    xs = centres * torch.where(flipped, -width, width)[:, None] + middle_x[:, None]
    ys = centres * height[:, None] + middle_y[:, None]
    crops = torch.empty(len(images), size, size, images.shape[3])
    # A few at a time, so that what is made on the way stays in the processor's cache.
    for start in range(0, len(images), AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        crops[rows] = _sampled(images[rows], xs[rows], ys[rows])
    return crops


def _sampled(images: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Bilinear samples of `b x R x R x c` images where rows `ys` and columns `xs`, both `b x size`, cross."""
    grid = torch.stack(torch.broadcast_tensors(xs[:, None, :], ys[:, :, None]), dim=-1)
    maps = images.permute(0, 3, 1, 2).float()
    crops = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return crops.permute(0, 2, 3, 1)
