import io
import os
import struct
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
import pytest
import torch
from PIL import AvifImagePlugin, ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torchvision import transforms

from tascnet.errors import ConfigError, DataError
from tascnet.models import preprocessing as preprocessing_module
from tascnet.models.preprocessing import Preprocessing, UnreadableImage, decode_image, decode_picture
from tascnet.options import INTERPOLATIONS
from tests.data.misbehaving import fourth_band


def preprocessing(resize=8, channels=3, interpolation="bilinear"):
    return Preprocessing(
        size=resize, resize=resize, mean=(0.5,) * channels, std=(0.5,) * channels, interpolation=interpolation
    )


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(20, 13), (13, 20), (16, 16), (5, 7), (9, 36)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_equals_torchvisions_resize_and_centre_crop(size, interpolation, tmp_path):
    image = Image.fromarray(noise(*size))
    reference = transforms.Compose(
        [
            transforms.Resize(8, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(8),
        ]
    )
    pixels = decode_image(saved(tmp_path, image), preprocessing(interpolation=interpolation)).pixels
    assert pixels.dtype == np.uint8
    assert (pixels == np.asarray(reference(image))).all()


@pytest.mark.parametrize(
    ("crop", "width", "height"), [("center", 90, 40), ("squash", 90, 30), ("squash", 30, 400)]
)
def test_equals_the_evaluation_of_timm(crop, width, height):
    data = pytest.importorskip("timm.data")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    own = Preprocessing(size=28, resize=32, mean=mean, std=std, interpolation="bicubic", crop=crop)
    theirs = data.create_transform(
        (3, 28, 28), crop_pct=28 / 32, crop_mode=crop, interpolation="bicubic", mean=mean, std=std
    )
    # Normalised in another order.
    torch.testing.assert_close(own(image), theirs(image), rtol=0, atol=1e-6)


def flat(mode, colour):
    return Image.new(mode, (8, 8), colour)


def palette():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


def transparent_palette():
    image = palette()
    image.info["transparency"] = 1
    return image


def sixteen_bit(value):
    return Image.fromarray(np.full((8, 8), value, dtype=np.uint16))


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", flat("L", 77), (77, 77, 77)),
        ("binary.png", flat("1", 1), (255, 255, 255)),
        ("palette.png", palette(), (10, 200, 30)),
        ("palette.gif", palette(), (10, 200, 30)),
        ("transparent.png", transparent_palette(), (255, 255, 255)),
        ("rgba.png", flat("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        # Half transparent black on white paper.
        ("half.png", flat("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
        ("grey_alpha.png", flat("LA", (9, 0)), (255, 255, 255)),
        # 0x8080 of 65,535 is 128 of 255; Pillow alone would clip it to 255.
        ("deep.png", sixteen_bit(0x8080), (128, 128, 128)),
        ("deep.tif", sixteen_bit(257), (1, 1, 1)),
        ("ink.tif", flat("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(name, image, expected, tmp_path):
    pixels = decode_image(saved(tmp_path, image, name), preprocessing()).pixels
    assert pixels.shape == (8, 8, 3)
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {expected}


def test_bytes_as_palette_transparency_give_no_warning(tmp_path):
    image = palette()
    path = saved(tmp_path, image, transparency=bytes([255, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode_image(path, preprocessing()).pixels == 255).all()


def test_one_channel_is_grey(tmp_path):
    pixels = decode_image(saved(tmp_path, Image.fromarray(noise(9, 9))), preprocessing(9, 1)).pixels
    expected = np.asarray(Image.fromarray(noise(9, 9)).convert("L"))
    assert pixels.shape == (9, 9, 1)
    assert (pixels[..., 0] == expected).all()


def test_orientation_of_exif_is_applied(tmp_path):
    image = Image.fromarray(noise(8, 8))
    exif = Image.Exif()
    # 6: the camera was turned; the picture is upright after a quarter turn clockwise.
    exif[0x0112] = 6
    pixels = decode_image(saved(tmp_path, image, exif=exif), preprocessing()).pixels
    assert (pixels == np.rot90(noise(8, 8), -1)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_decoded_at_full_size(channels, tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(240, 320)), "large.jpg", quality=95)
    mode = "L" if channels == 1 else "RGB"
    full = transforms.CenterCrop(8)(transforms.Resize(8)(Image.open(path).convert("RGB").convert(mode)))
    pixels = decode_image(path, preprocessing(channels=channels)).pixels
    assert (pixels == np.asarray(full).reshape(8, 8, channels)).all()


def test_a_converted_image_of_many_strips_equals_one_converted_at_once(tmp_path, monkeypatch):
    image = Image.fromarray(np.dstack([noise(50, 40), noise(50, 40, 1)[..., :1]]))
    paper = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(paper, image).convert("RGB"))
    # 17 rows each.
    monkeypatch.setattr("tascnet.models.preprocessing.STRIP", 17 * 40 + 3)
    assert (preprocessing().decode(image) == expected).all()


def test_equal_pictures_have_one_digest_whatever_their_file_and_the_network(tmp_path):
    image = Image.fromarray(noise(40, 50))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    first = decode_image(saved(tmp_path, image), preprocessing())
    assert len(first.digest) == 32
    for path in (
        saved(tmp_path, image, "image.bmp"),
        saved(tmp_path, turned, "turned.png", exif=exif),
        saved(tmp_path, image.convert("RGBA"), "opaque.png"),
    ):
        other = decode_image(path, preprocessing(16, channels=1, interpolation="bicubic"))
        assert (other.digest, other.phash) == (first.digest, first.phash)
    assert decode_picture(image, preprocessing()).digest == first.digest


def test_other_pixels_and_other_sizes_have_other_digests():
    one_pixel = noise(40, 50)
    one_pixel[39, 49, 2] ^= 1
    pictures = [noise(40, 50), one_pixel, noise(40, 50).reshape(50, 40, 3)]
    digests = {decode_picture(Image.fromarray(pixels), preprocessing()).digest for pixels in pictures}
    assert len(digests) == 3


def test_the_perceptual_hash_is_imagehashs_and_small_images_have_none():
    image = Image.fromarray(noise(32, 50)).resize((200, 128))
    phash = decode_picture(image, preprocessing()).phash
    assert phash == int(str(imagehash.phash(image)), 16)
    assert decode_picture(image.resize((100, 64)), preprocessing()).phash.__xor__(phash).bit_count() <= 4
    assert decode_picture(Image.fromarray(noise(31, 50)), preprocessing()).phash is None


def test_thin_strip_stays_small(tmp_path):
    strip = np.zeros((1, 60_000, 3), dtype=np.uint8)
    strip[:, 29_998:30_002] = 255
    assert (decode_image(saved(tmp_path, Image.fromarray(strip)), preprocessing(64)).pixels == 255).all()


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty file"),
        ("text.jpg", b"no image at all\n", "not an image"),
        ("cut.jpg", jpeg()[: len(jpeg()) // 2], "truncated"),
        ("head.jpg", jpeg()[:300], "not an image|[Tt]runcated"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00", "not an image|[Tt]runcated"),
    ],
)
def test_damaged_files_are_unreadable_for_good(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        decode_image(tmp_path / name, preprocessing())
    assert caught.value.lasting


@pytest.mark.parametrize("where", ["exif", "profile", "xmp"])
def test_orientation_of_a_png_is_applied_wherever_it_stands(where, tmp_path):
    picture, exif, more = Image.fromarray(noise(8, 12)), Image.Exif(), PngInfo()
    exif[ExifTags.Base.Orientation] = 6
    if where == "profile":
        content = exif.tobytes()
        more.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n")
    elif where == "xmp":
        xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
        more.add_itxt("XML:com.adobe.xmp", xmp)
    picture.save(tmp_path / "a.png", pnginfo=more, **({"exif": exif} if where == "exif" else {}))
    expected = decode_picture(picture.transpose(Image.Transpose.ROTATE_270), preprocessing(8))
    assert np.array_equal(decode_image(tmp_path / "a.png", preprocessing(8)).pixels, expected.pixels)


def test_a_png_with_broken_pixels_is_unreadable(tmp_path):
    content = bytearray(saved(tmp_path, Image.fromarray(noise(64, 64)), "whole.png").read_bytes())
    # A third into the compressed pixels.
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        decode_image(tmp_path / "broken.png", preprocessing())
    assert caught.value.lasting


def test_missing_files_may_come_back(tmp_path):
    with pytest.raises(UnreadableImage, match="it does not exist") as caught:
        decode_image(tmp_path / "gone.png", preprocessing())
    assert not caught.value.lasting


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.new("F", (8, 8), 0.5), "float.tif")
    with pytest.raises(UnreadableImage, match="floating-point"):
        decode_image(path, preprocessing())


@pytest.mark.parametrize("name", ["image.jp2", "image.tga"])
def test_a_fourth_channel_that_is_not_declared_as_transparency_is_refused_or_dropped(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(fourth_band(name))

    def decode_open(path, *more, **options):
        with Image.open(path) as image:
            return decode_picture(image, *more, **options)

    for use in (decode_image, decode_open):
        with pytest.raises(UnreadableImage, match="4 channels, 1 more than colours and transparency"):
            use(path, preprocessing())
        assert (use(path, preprocessing(), extra_channels="drop").pixels == (10, 20, 30)).all()
    opened = Image.open(path)
    opened.load()
    with pytest.raises(UnreadableImage, match="4 channels"):
        decode_picture(opened, preprocessing())


@pytest.mark.parametrize(
    ("name", "mode", "colour"),
    [
        ("a.jp2", "RGBA", (9, 9, 9, 0)),
        ("a.jp2", "LA", (9, 0)),
        ("a.tga", "RGBA", (9, 9, 9, 0)),
        ("a.tga", "LA", (9, 0)),
    ],
)
def test_declared_transparency_is_white(name, mode, colour, tmp_path):
    path = saved(tmp_path, flat(mode, colour), name)
    assert (decode_image(path, preprocessing()).pixels == 255).all()
    opened = Image.open(path)
    opened.load()
    assert (decode_picture(opened, preprocessing()).pixels == 255).all()


class Broken(Image.Image):
    """Its decoder raises."""

    def __init__(self, error):
        super().__init__()
        self._mode, self._size, self.error = "RGB", (8, 8), error

    def load(self):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("bad\ndata"), struct.error("bad data"), IndexError("bad data")])
def test_what_decoders_raise_is_one_sentence(error):
    with pytest.raises(UnreadableImage, match="bad data") as caught:
        decode_picture(Broken(error), preprocessing())
    assert caught.value.lasting
    for use in (preprocessing(), preprocessing().decode):
        with pytest.raises(DataError, match=r"the image cannot be read \(bad data\)"):
            use(Broken(error))


@pytest.mark.parametrize("error", [MemoryError("too large"), ConfigError("our own")])
def test_memory_and_our_own_errors_stay(error):
    for use in (preprocessing(), lambda image: decode_picture(image, preprocessing())):
        with pytest.raises(type(error)):
            use(Broken(error))


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="it is a pipe or a device, not a file"):
        decode_image(tmp_path / "pipe.png", preprocessing())


def test_a_file_without_permission_is_called_unreadable(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(noise(8, 8)))
    # The tests may run as root, who may read everything.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UnreadableImage, match="permission denied") as caught:
        decode_image(path, preprocessing())
    assert not caught.value.lasting


def test_heic_names_what_to_install_and_the_content_decides(tmp_path, monkeypatch):
    path = tmp_path / "renamed.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UnreadableImage, match="not an image"):
        decode_image(path, preprocessing())
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    preprocessing_module._reads_heif.cache_clear()
    try:
        with pytest.raises(UnreadableImage, match=r"HEIC .* pip install pillow-heif") as caught:
            decode_image(path, preprocessing())
        assert not caught.value.lasting
    finally:
        preprocessing_module._reads_heif.cache_clear()


def test_avif_names_the_pillow_that_reads_it(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(noise(8, 8)), "image.avif")
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(UnreadableImage, match=r"cannot read AVIF: pip install 'pillow>=11\.3'"):
        decode_image(path, preprocessing())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from Linux")
def test_decoding_takes_no_more_memory_than_its_bound(tmp_path):
    """Measured in a process of its own; each image is the largest that 150 MB allow."""
    bound, slack = 150_000_000, 15_000_000
    photo, scan = Image.new("RGB", (3872, 3872)), Image.new("P", (5000, 5000))
    paths = [
        saved(tmp_path, photo, "photo.jpg", progressive=True, subsampling=0),
        saved(tmp_path, scan, "palette.png", transparency=bytes([0, 9])),
    ]
    code = f"""
import pathlib, sys
from tascnet.models import preprocessing as module
import imagehash, scipy.fftpack
small = module.Preprocessing(size=8, resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
def peak():
    # Unlike getrusage, this does not count what the process was forked from.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
before = peak()
module.MEMORY = {bound}
for path in sys.argv[1:]:
    module.decode_image(pathlib.Path(path), small)
print(peak() - before)
module.MEMORY = {bound} * 19 // 20
for path in sys.argv[1:]:
    try:
        module.decode_image(pathlib.Path(path), small)
    except module.UnreadableImage as error:
        print(error)
"""
    command = [sys.executable, "-c", code, *paths]
    grown, *refusals = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert bound / 2 < int(grown) < bound + slack
    # The estimate is no wild guess either.
    assert len(refusals) == 2
    assert "3872 x 3872 pixels would take 0.1 GB of memory" in refusals[0]


def test_images_that_are_decoded_at_once_share_the_bound(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(noise(64, 64)))
    # Room for two: 7 bytes for each pixel.
    monkeypatch.setattr(preprocessing_module, "MEMORY", 2 * 7 * 64 * 64 + 10)
    inside, most, convert = [], [], preprocessing_module.upright_rgb

    def counted(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return convert(*arguments)

    monkeypatch.setattr(preprocessing_module, "upright_rgb", counted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode_image(path, preprocessing()), range(12)))
    assert max(most) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_preprocessing_turns_photos_as_training_does(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = preprocessing()
    path = saved(tmp_path, Image.fromarray(noise(20, 30)), "photo.jpg", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert (expected.decode(path) == upright).all()
    tensor = expected(path)
    pixels = torch.tensor(decode_image(path, expected).pixels).permute(2, 0, 1)
    assert torch.allclose(tensor, (pixels / 255 - 0.5) / 0.5, atol=1e-6)
    assert (tensor.shape, tensor.dtype) == ((3, 8, 8), torch.float32)
    assert torch.equal(expected(str(path)), tensor)
    assert torch.equal(expected(upright), tensor)


def test_preprocessing_takes_grey_arrays_and_crops_the_centre():
    grey = noise(8, 8)[..., 0]
    cropped = Preprocessing(size=4, resize=8, mean=(0.0,), std=(1.0,))
    expected = torch.from_numpy(grey[2:6, 2:6] / 255).float()[None]
    for array in (grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2)):
        assert torch.allclose(cropped(array), expected)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("none.png", r"none\.png cannot be read \(it does not exist\)"),
        (__file__, r"test_decode\.py cannot be read \(not an image\)"),
        (np.zeros((4, 4, 3)), "the image is of type ndarray of 4 x 4 x 3 float64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "4 x 4 x 2 uint8"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "0 x 4 x 3 uint8"),
        (np.zeros(4, dtype=np.uint8), "of 4 uint8"),
        (7, "the image is of type int"),
        (Image.new("F", (4, 4)), r"the image cannot be read \(floating-point pixels\)"),
    ],
)
def test_what_is_no_image_is_one_sentence(image, says):
    for use in (preprocessing(), preprocessing().decode):
        with pytest.raises(DataError, match=says) as caught:
            use(image)
        assert "\n" not in str(caught.value)


def test_two_channels_are_no_image(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(8, 8)))
    with pytest.raises(ConfigError, match=r"one .* or three"):
        decode_image(path, preprocessing(8, 2))
