"""Random crops, shifts, flips, changes by RandAugment and erased rectangles of a batch of images."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from tascnet.options import Images

# Aspect ratios of random crops lie between 1 / MAX_RATIO and MAX_RATIO.
MAX_RATIO = 4 / 3


def augment(images: Tensor, size: int, augmentation: Images, generator: torch.Generator) -> Tensor:
    """Randomly cropped, flipped and changed images; every call draws the same count of random numbers.

    Args:
        images: pixels, `b x R x R x c`, uint8.
        size: side of the crops.
        augmentation: options `flip`, `min_scale`, `pad` and `randaugment`.
        generator: on the CPU.

    Returns:
        `b x size x size x c`, uint8, a copy, where the images are. On a GPU scaled crops may differ by 1 from
        those on the CPU, which RandAugment may enlarge.
    """
    draws = torch.rand(5, len(images), generator=generator)
    flips = (draws[0] < 0.5) & augmentation.flip
    heights, widths = _extents(images.shape[1], size, augmentation.min_scale, draws[3:])
    padded = _edge_padded(images, augmentation.pad)
    tops, lefts = _starts(draws[1], padded.shape[1] - heights), _starts(draws[2], padded.shape[1] - widths)
    boxes = torch.stack([tops, lefts, heights, widths, flips.long()], dim=1)
    crops = crops_at_once(padded, boxes, size) if images.is_cuda else crops_one_by_one(padded, boxes, size)
    if augmentation.randaugment:
        _change(crops, augmentation.randaugment, generator)
    return crops


def crops_one_by_one(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Windows of images, resized with antialiasing.

    Args:
        images: pixels, `b x h x w x c`, uint8.
        boxes: top, left, height, width, and 1 where the window is mirrored, `b x 5`, int64, on the CPU.
        size: side of the crops.

    Returns:
        `b x size x size x c`, uint8.
    """
    crops = images.new_empty(len(images), size, size, images.shape[3])
    # Gathering bytes is far slower for photographs, and torch resizes one as fast as many.
    for image, crop, (top, left, height, width, flip) in zip(images, crops, boxes.tolist(), strict=True):
        window = _resized(image[top : top + height, left : left + width], size)
        crop.copy_(window.flip(1) if flip else window)
    return crops


def crops_at_once(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The same as `crops_one_by_one` by two matrix products, for devices on which each call is dear.

    A byte may differ by 1, as they are rounded once.
    """
    tops, lefts, heights, widths, flips = boxes.to(images.device, non_blocking=True).unbind(1)
    rows = _weights(tops, heights, images.shape[1], size)
    columns = _weights(lefts, widths, images.shape[2], size)
    columns = torch.where(flips.bool()[:, None, None], columns.flip(1), columns)
    crops = torch.einsum("bih,bhwc,bjw->bijc", rows, images.float(), columns)
    return crops.round_().clamp_(0, 255).to(torch.uint8)


def _weights(starts: Tensor, spans: Tensor, side: int, size: int) -> Tensor:
    """By how much each of `side` pixels counts in each of `size` ones of a window, `b x size x side`.

    A triangle around the middle of a pixel, as wide as the window is reduced; it ends with the window.
    """
    scale = (spans / size)[:, None, None]
    middles = (torch.arange(size, device=starts.device)[:, None] + 0.5) * scale + starts[:, None, None]
    pixels = torch.arange(side, device=starts.device)
    is_inside = (pixels >= starts[:, None]) & (pixels < (starts + spans)[:, None])
    weights = 1 - (pixels + 0.5 - middles).abs() / scale.clamp(min=1)
    weights = weights.clamp(min=0) * is_inside[:, None, :]
    return weights / weights.sum(2, keepdim=True)


def erase(images: Tensor, probability: float, generator: torch.Generator) -> None:
    """Set a random rectangle of some images to zero, in place; of normalised images that is the mean.

    Args:
        images: `b x c x h x w`, floating point.
        probability: that an image is changed.
        generator: on the CPU.

    Source: Zhong et al. 2020 (random erasing); torchvision's `RandomErasing` with its sizes.
    """
    # Imported late: it takes a while.
    from torchvision.transforms import v2

    erasing = v2.RandomErasing(probability)
    with _drawing_from(generator):
        for image in images:
            image.copy_(erasing(image))


def _change(images: Tensor, magnitude: int, generator: torch.Generator) -> None:
    """Two random changes of colour or shape of each image `b x h x w x c`, uint8, in place.

    Source: Cubuk et al. 2020 (RandAugment); torchvision's `RandAugment` with its range of magnitudes.
    """
    # Imported late: it takes a while.
    from torchvision.transforms import v2

    # What comes in from beyond the edges is grey.
    changes = v2.RandAugment(magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR, fill=128)
    with _drawing_from(generator):
        for image in images.permute(0, 3, 1, 2):
            image.copy_(changes(image.contiguous()))


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Make torch's own random numbers, which transforms draw, a function of one number of the generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _edge_padded(images: Tensor, pad: int) -> Tensor:
    """The images with their edges repeated `pad` times; torch cannot pad integers like that."""
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
    """Heights and widths of random crops, drawn as torchvision's `RandomResizedCrop` does, but clamped."""
    if min_scale == 1:
        return torch.full(draws.shape[1:], size), torch.full(draws.shape[1:], size)
    area = min_scale + (1 - min_scale) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(MAX_RATIO))
    height, width = side * (area / ratio).sqrt(), side * (area * ratio).sqrt()
    return height.round().long().clamp(1, side), width.round().long().clamp(1, side)


def _starts(draws: Tensor, spans: Tensor) -> Tensor:
    """Numbers from 0 to `spans`, all equally likely."""
    return torch.minimum((draws * (spans + 1)).long(), spans)


def _resized(image: Tensor, size: int) -> Tensor:
    """An image `h x w x c` as `size x size x c`."""
    if image.shape[:2] == (size, size):
        return image
    # Channels last, for which torch has a fast kernel for bytes.
    maps = image.contiguous()[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(maps, (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0]
