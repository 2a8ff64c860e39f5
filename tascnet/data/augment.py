"""Light augmentation of a whole batch at once: crops, shifts and flips."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tascnet.errors import ConfigError

__all__ = ["Augmentation", "augment", "centre_crop"]

# Aspect ratios of random crops lie between 1 / MAX_RATIO and MAX_RATIO.
MAX_RATIO = 4 / 3


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
        `b x size x size x c`, uint8, not shared with `images`.
    """
    draws = torch.rand(5, len(images), generator=generator)
    flips = (draws[0] < 0.5) & augmentation.flip
    heights, widths = _extents(images.shape[1], size, augmentation.min_scale, draws[3:])
    padded = _edge_padded(images, augmentation.pad)
    tops, lefts = _starts(draws[1], padded.shape[1] - heights), _starts(draws[2], padded.shape[1] - widths)
    crops = _cropped(padded, torch.stack([tops, lefts, heights, widths], dim=1), size)
    # One by one: far faster than to gather and scatter bytes.
    for row in flips.nonzero().flatten().tolist():
        crops[row] = crops[row].flip(1)
    return crops


def _cropped(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One box of each image, `b x 4` (top, left, height, width), as `b x size x size x c`."""
    crops = images.new_empty(len(images), size, size, images.shape[3])
    windows = [
        image[top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images.numpy(), boxes.tolist(), strict=True)
    ]
    # Torch resizes bytes several times as fast as floats, but on one core only.
    resizing = any(window.shape[:2] != (size, size) for window in windows)
    threads = torch.get_num_threads() if resizing else 1
    share = max(1, math.ceil(len(windows) / threads))
    parts = [windows[start : start + share] for start in range(0, len(windows), share)]
    with ThreadPoolExecutor(threads) as pool:
        # A pool starts its threads when work comes: with one part there is none.
        list((pool.map if len(parts) > 1 else map)(_resize, parts, crops.split(share)))
    return crops


def _resize(windows: Sequence[NDArray[np.uint8]], crops: Tensor) -> None:
    """Resize windows, each `h x w x c`, into `crops`, `b x size x size x c`.

    Copies are numpy's, which leaves the other cores alone.
    """
    size = crops.shape[1]
    for window, crop in zip(windows, crops.numpy(), strict=True):
        if window.shape != crop.shape:
            # Channels last, for which torch has its fast way with bytes.
            maps = torch.from_numpy(np.ascontiguousarray(window))[None].permute(0, 3, 1, 2)
            resized = functional.interpolate(maps, (size, size), mode="bilinear", antialias=True)
            window = resized.permute(0, 2, 3, 1)[0].numpy()
        np.copyto(crop, window)


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


def _extents(side: int, size: int, min_scale: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Heights and widths of random crops in pixels, as torchvision's `RandomResizedCrop` has them."""
    if min_scale == 1:
        return torch.full(draws.shape[1:], size), torch.full(draws.shape[1:], size)
    area = min_scale + (1 - min_scale) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(MAX_RATIO))
    height, width = side * (area / ratio).sqrt(), side * (area * ratio).sqrt()
    return height.round().long().clamp(1, side), width.round().long().clamp(1, side)


def _starts(draws: Tensor, spans: Tensor) -> Tensor:
    """Numbers from 0 to `spans`, all as likely."""
    return torch.minimum((draws * (spans + 1)).long(), spans)
