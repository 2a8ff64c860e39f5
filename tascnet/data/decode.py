"""From an image file to a square of pixels, whatever its mode, depth and orientation."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tascnet.errors import ConfigError
from tascnet.models.info import Preprocessing

MODES = {1: "L", 3: "RGB"}
# A thin strip must not become a huge image when its shorter side is enlarged.
LONGEST = 4


class UnreadableImage(Exception):
    """A file holds no image that can be decoded; `lasting` if only a change of the file helps."""

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        self.reason, self.lasting = reason, lasting
        super().__init__(reason)


def decode_image(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The central square of an image file whose shorter side was resized: `R x R x c`, uint8.

    Raises:
        UnreadableImage: the file is empty, truncated, not an image, or has more pixels than Pillow allows
            (178,956,970), which is found before any is decoded.
        ConfigError: the preprocessing has neither one nor three channels.
    """
    channel_mode(preprocessing.channels)
    try:
        with Image.open(path) as image:
            return square_pixels(image, preprocessing)
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise UnreadableImage("empty file" if empty else "not an image") from error
    # Pillow's decoders raise errors of many types on damaged files.
    except Exception as error:
        # The system's own errors (no permission, a network drive that is away) may pass.
        lasting = not (isinstance(error, OSError) and error.errno is not None)
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(text.split()).rstrip(".") or type(error).__name__
        raise UnreadableImage(reason, lasting=lasting) from error


def square_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The central square of an open image whose shorter side was resized: `R x R x c`, uint8.

    Greyscale, palette, CMYK and 16-bit images become RGB (or grey when one channel is asked for),
    transparent pixels become white, and the orientation in EXIF is applied.
    """
    mode, side = channel_mode(preprocessing.channels), preprocessing.resize
    # JPEG decodes at half, quarter or eighth size for free; twice the side keeps the resizing sharp.
    image.draft(None, (2 * side, 2 * side))
    upright = _without_strip(_convert(_upright(image), mode))
    short = min(upright.size)
    # As torchvision's Resize counts: the longer side is truncated.
    width, height = (side if edge == short else int(side * edge / short) for edge in upright.size)
    if upright.size != (width, height):
        upright = upright.resize((width, height), resampling(preprocessing.interpolation))
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    square = upright.crop((left, top, left + side, top + side))
    return np.asarray(square, dtype=np.uint8).reshape(side, side, -1)


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's resampling filter of that name."""
    return Image.Resampling[interpolation.upper()]


def channel_mode(channels: int) -> str:
    """Pillow's mode for a number of channels."""
    if channels not in MODES:
        raise ConfigError(
            f"`mean` has {channels} values, expected one (grey) or three (RGB)",
            "give `mean` and `std` one value for each channel",
        )
    return MODES[channels]


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    # A damaged EXIF block does not affect the pixels.
    except Exception:
        return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        levels = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(paper, layered)
    return image.convert(mode)


def _without_strip(image: Image.Image) -> Image.Image:
    limit = LONGEST * min(image.size)
    if max(image.size) <= limit:
        return image
    width, height = (min(edge, limit) for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
