"""From an image to a network's input, whatever its file, mode, depth and orientation."""

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from threading import Condition
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from tascnet.errors import ConfigError, DataError, TascnetError, first_line
from tascnet.options import CROPS, INTERPOLATIONS, ImageBackbone, Options, option
from tascnet.run.files import check_regular
from tascnet.run.records import to_json

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")
Picture: TypeAlias = str | PathLike[str] | Image.Image | NDArray[np.uint8]

EXPECTED = "give the path of an image, a PIL image, or an array H x W x 3, H x W x 1 or H x W of uint8"
MODES = {1: "L", 3: "RGB"}
# A thin strip must not become a huge image when its shorter side is enlarged.
LONGEST = 4
# Images are converted and compared by strips of about so many pixels.
STRIP = 2**18
# The largest value of 16 bits.
LEVELS = 65_535
# Bytes that the images being decoded may take together.
MEMORY = 1_000_000_000
# Bytes of a pixel in Pillow's memory, by mode; else 4.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Bytes that decoders take besides for each channel of a pixel, measured, by format; else 1. These formats and
# TIFF are also read as a whole file.
DECODER_BYTES = {"AVIF": 4, "HEIF": 4, "JPEG2000": 5, "WEBP": 4}
PROGRESSIVE_BYTES = 2
# What files begin with that Pillow alone, or an old one, cannot read.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
# Tags of TIFF: channels, those beyond the colours, colours; bits of each channel; rows of a tile or strip.
SAMPLES_PER_PIXEL, EXTRA_SAMPLES, PHOTOMETRIC = 277, 338, 262
BITS_PER_SAMPLE, TILE_ROWS, STRIP_ROWS = 258, 323, 278
# Channels of colours by photometric interpretation, and what marks the next channel as transparency.
COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
TRANSPARENCY = ((1,), (2,), (999,))
# What JPEG 2000 calls transparency, and where TGA has the bits of a pixel and how many are transparency.
JP2_TRANSPARENCY, TGA_DEPTH, TGA_TRANSPARENCY = (1, 2), 16, 0x0F
# Smaller images have no perceptual hash: they would be enlarged for it.
SMALLEST_HASHED = 32

_LARGEST_SIDE = 16_384


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Options):
    """From an image to a network's input.

    Args:
        size: side of the square that the network sees, in pixels.
        resize: side of the image before the square is cropped, in pixels: the shorter one, or both (`crop`).
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        interpolation: name of Pillow's filter, such as `bilinear`.
        crop: `center`: the shorter side is resized; `squash`: both sides are, to a square.

    Raises:
        ConfigError: a value has the wrong type or lies outside its bounds.
    """

    size: int = option(MISSING, "", minimum=1, maximum=_LARGEST_SIDE)
    resize: int = option(MISSING, "", minimum=1, maximum=_LARGEST_SIDE)
    mean: tuple[float, ...] = option(MISSING, "", unique=False)
    std: tuple[float, ...] = option(MISSING, "", unique=False, above=0)
    interpolation: str = option("bilinear", "", choices=INTERPOLATIONS)
    crop: str = option("center", "", choices=CROPS)

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield (
            self.resize < self.size,
            f"`resize` is {self.resize} pixels, expected at least `size`, {self.size}",
            None,
        )
        yield (
            len(self.mean) != len(self.std),
            f"`mean` has {len(self.mean)} channels and `std` {len(self.std)}, expected the same number",
            None,
        )

    def __call__(self, image: Picture, *, extra_channels: str = "refuse") -> "Tensor":
        """An image as the network takes it, as validation and test images are in training.

        Args:
            image: path of a file, a PIL image, or an array `H x W`, `H x W x 1` or `H x W x 3`, uint8.
            extra_channels: what happens to an image with more channels: `refuse` or `drop`.

        Returns:
            `c x size x size`, float32.

        Raises:
            DataError: the image cannot be read.
        """
        import torch

        channel_mode(self.channels)
        square = use_picture(image, lambda upright: square_pixels(upright, self), extra_channels)
        pixels = torch.from_numpy(np.array(square)[None])
        return normalise(centre_crop(pixels, self.size), self)[0]

    def decode(self, image: Picture, *, extra_channels: str = "refuse") -> NDArray[np.uint8]:
        """An image at full size: upright, RGB, `H x W x 3`, uint8; the arguments are those of a call."""
        return use_picture(image, np.array, extra_channels)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """The shape `1 x c x h x w` of one sample."""
        return (1, self.channels, self.size, self.size)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON content."""
        return dict(to_json(self))

    @classmethod
    def of(cls, options: ImageBackbone, usual: "ExpectedImages | None" = None) -> Self:
        """The input of a network with these options; what they leave open is as `usual`, or as with ImageNet.

        Raises:
            ConfigError: images cannot be prepared so.
        """
        usual = usual or ExpectedImages()
        size = options.size or usual.size
        return cls(
            size=size,
            resize=options.resize or round(size * usual.resize / usual.size),
            mean=options.mean or usual.mean,
            std=options.std or usual.std,
            interpolation=options.interpolation or usual.interpolation,
            crop=options.crop or usual.crop,
        )


@dataclass(frozen=True, kw_only=True)
class ExpectedImages:
    """The images that weights were trained for, as their publisher states it; fields of `Preprocessing`."""

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: str = "center"


class UnreadableImage(Exception):
    """A file holds no image that can be decoded; `lasting` if only a change of the file helps."""

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        self.reason, self.lasting = reason, lasting
        super().__init__(reason)


class Decoded(NamedTuple):
    """An image as a network's data set keeps it, and what it is compared by.

    Attributes:
        pixels: the central square of the image after resizing, `R x R x c`, uint8.
        digest: hexadecimal, of the upright RGB image at full size: equal for equal images, whatever the
            network.
        phash: perceptual hash of the same, 64 bits; None for an image with a side below 32 pixels.
    """

    pixels: NDArray[np.uint8]
    digest: str
    phash: int | None


def decode_image(path: Path, preprocessing: Preprocessing, *, extra_channels: str = "refuse") -> Decoded:
    """Decode an image file.

    Args:
        extra_channels: what happens to an image with more channels than colours and transparency: `refuse`
            or `drop`.

    Raises:
        UnreadableImage: the file is empty, truncated, not an image or not a regular file; it has more
            channels; or it has more pixels than Pillow allows (178,956,970) or than fit in `MEMORY`, which
            is found before any is decoded.
        ConfigError: the preprocessing has neither one nor three channels.
    """
    channel_mode(preprocessing.channels)
    return read_upright(path, lambda upright: _described(upright, preprocessing), extra_channels)


def decode_picture(
    image: Image.Image, preprocessing: Preprocessing, *, extra_channels: str = "refuse"
) -> Decoded:
    """Decode an open image; see `decode_image`."""
    channel_mode(preprocessing.channels)
    with _decoding():
        return _described(upright_rgb(image, extra_channels), preprocessing)


def read_upright(path: Path, use: Callable[[Image.Image], Result], extra_channels: str = "refuse") -> Result:
    """What `use` makes of the image in a file at full size: upright, RGB.

    Raises:
        UnreadableImage: see `decode_image`.
    """
    try:
        check_regular(path)
    except OSError as error:
        raise UnreadableImage(str(error), lasting=False) from error
    with _decoding():
        image = _identified(path)
        try:
            with _QUEUE.memory(_memory_needed(image, path.stat().st_size)):
                upright = upright_rgb(image, extra_channels)
                if upright is not image:
                    # Frees its pixels.
                    image.close()
                return use(upright)
        finally:
            image.close()


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn the errors of Pillow's decoders, which are of many types, into `UnreadableImage`."""
    try:
        yield
    except (UnreadableImage, TascnetError, MemoryError):
        raise
    except Exception as error:
        # The system's own errors (a network drive that is away) may pass.
        lasting = not (isinstance(error, OSError) and error.errno is not None)
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(text.split()).rstrip(".") or type(error).__name__
        raise UnreadableImage(reason, lasting=lasting) from error


def upright_rgb(image: Image.Image, extra_channels: str = "refuse") -> Image.Image:
    """An open image at full size: upright, RGB; the image itself where it is that already.

    Greyscale, palette, CMYK and 16-bit images become RGB, transparent pixels become white, and the
    orientation in EXIF is applied.

    Raises:
        UnreadableImage: it has more channels, or its pixels are no whole numbers of up to 16 bits.
    """
    opaque = _without_transparency(image, extra_channels)
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    # By strips, so that what lies between the two takes little memory.
    for box in _strips(image.size):
        whole.paste(_rgb(image.crop(box), opaque=opaque), box)
    return whole


def square_pixels(upright: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The central square of an upright RGB image after resizing, or all of it: `R x R x c`, uint8."""
    side, mode = preprocessing.resize, channel_mode(preprocessing.channels)
    # Converting to the same mode would copy it.
    picture = upright if mode == upright.mode else upright.convert(mode)
    width = height = side
    if preprocessing.crop == "center":
        picture = _without_strip(picture)
        short = min(picture.size)
        # As torchvision's Resize counts: the longer side is truncated.
        width, height = (side if edge == short else int(side * edge / short) for edge in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), resampling(preprocessing.interpolation))
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square, dtype=np.uint8).reshape(side, side, -1)


def centre_crop(images: "Tensor", size: int) -> "Tensor":
    """The central squares of images `b x R x R x c`: `b x size x size x c`."""
    start = round((images.shape[1] - size) / 2.0)
    return images[:, start : start + size, start : start + size]


def normalise(images: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """Pixels `b x size x size x c`, uint8, as a network takes them: `b x c x size x size`, channels_last."""
    import torch

    count, side, _, channels = images.shape
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
    # Repeated along a row of pixels, so that whole rows are computed at once.
    scale, shift = (v.float().repeat(side) for v in (1 / (255 * std), -mean / std))
    scale, shift = (v.to(images.device, non_blocking=True) for v in (scale, shift))
    rows = images.float().reshape(count, side, side * channels)
    torch.addcmul(shift, rows, scale, out=rows)
    scaled = rows.view(count, side, side, channels).permute(0, 3, 1, 2)
    return scaled.contiguous(memory_format=torch.channels_last)


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


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image | None:
    """An array `H x W`, or `H x W x c` with 1, 3 or 4 channels, as a PIL image; None: it is no such array."""
    is_picture = pixels.ndim == 2 or pixels.shape[2:] in ((1,), (3,), (4,))
    if pixels.dtype != np.uint8 or 0 in pixels.shape or not is_picture:
        return None
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def use_picture(image: Picture, use: Callable[[Image.Image], Result], extra_channels: str) -> Result:
    """What `use` makes of an argument of `Preprocessing` at full size: upright, RGB.

    Raises:
        DataError: it is no image, or cannot be read, which an `UnreadableImage` causes.
    """
    name = "the image"
    try:
        if isinstance(image, str | PathLike):
            name = os.fspath(image)
            return read_upright(Path(image), use, extra_channels)
        picture = picture_of(image) if isinstance(image, np.ndarray) else image
        if isinstance(picture, Image.Image):
            with _decoding():
                return use(upright_rgb(picture, extra_channels))
    except UnreadableImage as error:
        raise DataError(f"{name} cannot be read ({first_line(error)})", EXPECTED) from error
    form = f" of {' x '.join(map(str, image.shape))} {image.dtype}" if isinstance(image, np.ndarray) else ""
    raise DataError(f"the image is of type {type(image).__name__}{form}", EXPECTED)


def _described(upright: Image.Image, preprocessing: Preprocessing) -> Decoded:
    return Decoded(square_pixels(upright, preprocessing), _digest(upright), _phash(upright))


def _digest(upright: Image.Image) -> str:
    width, height = upright.size
    digest = hashlib.blake2b(f"{width} x {height}".encode(), digest_size=16)
    for box in _strips(upright.size):
        digest.update(upright.crop(box).tobytes())
    return digest.hexdigest()


def _phash(upright: Image.Image) -> int | None:
    if min(upright.size) < SMALLEST_HASHED:
        return None
    # Imported late: it takes a while.
    import imagehash

    return int(str(imagehash.phash(upright)), 16)


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The boxes of the strips of an image of this width and height, from the top."""
    width, height = size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _identified(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        with open(path, "rb") as file:
            head = file.read(16)
        brand = head[8:12] if head[4:8] == b"ftyp" else b""
        if brand in HEIF_BRANDS:
            if not _reads_heif():
                reason = "HEIC needs another library: pip install pillow-heif"
                raise UnreadableImage(reason, lasting=False) from error
            with suppress(UnidentifiedImageError):
                return Image.open(path)
        if brand in AVIF_BRANDS and not _reads_avif():
            reason = "this Pillow cannot read AVIF: pip install 'pillow>=11.3'"
            raise UnreadableImage(reason, lasting=False) from error
        channels = _tiff_channels(path, head)
        if channels is not None:
            raise UnreadableImage(f"a TIFF of {channels} channels that Pillow cannot read") from error
        raise UnreadableImage("not an image" if head else "empty file") from error


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    """Whether Pillow reads HEIC, for which a library has to be installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _reads_avif() -> bool:
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return False
    return bool(AvifImagePlugin.SUPPORTED)


def _tiff_channels(path: Path, head: bytes) -> int | None:
    """How many channels a TIFF has that Pillow does not identify; None: it is no TIFF."""
    if head[:4] not in TiffImagePlugin.PREFIXES:
        return None
    try:
        with open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if head[2] == 43 else 8])
            file.seek(tags.next)
            tags.load(file)
        return int(tags[SAMPLES_PER_PIXEL])
    # A damaged header raises errors of many types.
    except Exception:
        return None


def _without_transparency(image: Image.Image, extra_channels: str) -> bool:
    """Whether the fourth channel of an image is no transparency, although Pillow takes it for that."""
    channels, is_transparent, surplus = len(image.getbands()), True, 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        channels, extra = tags.get(SAMPLES_PER_PIXEL, 1), tags.get(EXTRA_SAMPLES, ())
        is_transparent = extra[:1] in TRANSPARENCY
        surplus = channels - COLOURS.get(tags.get(PHOTOMETRIC, 0), 1) - is_transparent
    elif image.format in _DECLARES and image.mode in ("LA", "RGBA"):
        is_transparent = _declares_transparency(image)
        surplus = int(not is_transparent)
    if surplus > 0 and extra_channels != "drop":
        raise UnreadableImage(
            f"{channels} channels, {surplus} more than colours and transparency, which "
            "`extra_channels=drop` would leave out"
        )
    return surplus > 0 and not is_transparent


def _declares_transparency(image: Image.Image) -> bool:
    """Whether the file of a JPEG 2000 or TGA image says that its last channel is transparency."""
    declares, file = _DECLARES[image.format or ""], getattr(image, "fp", None)
    if file is None:
        # Once an image is loaded its file is closed.
        with suppress(OSError), open(getattr(image, "filename", ""), "rb") as again:
            return declares(again, image)
        return False
    place = file.tell()
    try:
        file.seek(0)
        return declares(file, image)
    finally:
        file.seek(place)


def _declared_in_jp2(file: IO[bytes], image: Image.Image) -> bool:
    # A codestream without boxes declares nothing.
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    for name in (b"jp2h", b"cdef"):
        end = _find_box(file, name, end)
        if not end:
            return False
    (count,) = struct.unpack(">H", file.read(2))
    # Number, kind, and colour that it belongs to, of each channel.
    kinds = {number: kind for number, kind, _ in struct.iter_unpack(">3H", file.read(6 * count))}
    return kinds.get(len(image.getbands()) - 1) in JP2_TRANSPARENCY


def _find_box(file: IO[bytes], name: bytes, end: int) -> int:
    """Go to the content of a box of JPEG 2000 that begins before `end`; returns where it ends, 0: none."""
    while (place := file.tell()) + 8 <= end:
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        after = place + length if length else end
        if kind == name:
            return after
        file.seek(max(after, place + 8))
    return 0


def _declared_in_tga(file: IO[bytes], image: Image.Image) -> bool:
    header = file.read(18)
    # Of the 16 bits of a colour one is spare, but no channel.
    is_channel = image.mode == "LA" or header[TGA_DEPTH] == 32
    return not is_channel or header[TGA_DEPTH + 1] & TGA_TRANSPARENCY > 0


# Formats whose last channel may be no transparency, and what finds out whether it is.
_DECLARES: dict[str, Callable[[IO[bytes], Image.Image], bool]] = {
    "JPEG2000": _declared_in_jp2,
    "TGA": _declared_in_tga,
}


def _memory_needed(image: Image.Image, file_size: int) -> int:
    """Bytes that decoding an image takes at most, found before it is decoded.

    Raises:
        UnreadableImage: they are more than `MEMORY`.
    """
    pixels, own = image.width * image.height, MODE_BYTES.get(image.mode, 4)
    is_rgb = image.mode == "RGB" and not image.has_transparency_data
    # One byte for the grey image that the perceptual hash is made of.
    converting = pixels * (own * (1 + (_orientation(image) != 1)) + (0 if is_rgb else 4) + 1)
    needed = max(pixels * own + _decoder_memory(image, file_size), converting)
    if needed > MEMORY:
        raise UnreadableImage(
            f"decoding its {image.width} x {image.height} pixels would take {needed / 1e9:.1f} GB of memory, "
            f"expected at most {MEMORY / 1e9:g} GB"
        )
    return needed


def _decoder_memory(image: Image.Image, file_size: int) -> int:
    """Bytes that a decoder takes besides the pixels."""
    pixels, kind = image.width * image.height, image.format or ""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.info.get("compression") != "raw":
        rows = image.tag_v2.get(TILE_ROWS) or image.tag_v2.get(STRIP_ROWS) or image.height
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (8,))
        return file_size + image.width * min(rows, image.height) * (sum(bits) // 8 + 1)
    each = PROGRESSIVE_BYTES if "progressive" in image.info else DECODER_BYTES.get(kind, 1)
    return pixels * each * len(image.getbands()) + (file_size if kind in DECODER_BYTES else 0)


class _Queue:
    """Images that are decoded at the same time take `MEMORY` together; others wait."""

    def __init__(self) -> None:
        self._taken, self._changed = 0, Condition()

    @contextmanager
    def memory(self, needed: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._taken + needed <= MEMORY)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


_QUEUE = _Queue()


def _orientation(image: Image.Image) -> int:
    try:
        # That of a PNG would decode it to look behind the pixels, and pass over what is damaged.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    # A damaged EXIF block does not affect the pixels.
    except Exception:
        return 1


def _rgb(image: Image.Image, *, opaque: bool) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        levels = np.asarray(image).astype(np.int32)
        if levels.min() < 0 or levels.max() > LEVELS:
            raise UnreadableImage("pixels of more than 16 bits")
        if image.has_transparency_data and not opaque:
            levels[levels == image.info.get("transparency")] = LEVELS
        # Rounded: 257 levels become one.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels")
    if image.has_transparency_data and not opaque:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(paper, layered)
    return image.convert("RGB")


def _without_strip(image: Image.Image) -> Image.Image:
    limit = LONGEST * min(image.size)
    if max(image.size) <= limit:
        return image
    width, height = (min(edge, limit) for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
