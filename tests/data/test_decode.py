import io
import warnings

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from tascnet.data.decode import UnreadableImage, decode_image
from tascnet.errors import ConfigError
from tascnet.models.info import Preprocessing


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
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_torchvisions_resize_and_centre_crop(size, interpolation, tmp_path):
    image = Image.fromarray(noise(*size))
    reference = transforms.Compose(
        [
            transforms.Resize(8, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(8),
        ]
    )
    pixels = decode_image(saved(tmp_path, image), preprocessing(interpolation=interpolation))
    assert pixels.dtype == np.uint8
    assert (pixels == np.asarray(reference(image))).all()


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
    pixels = decode_image(saved(tmp_path, image, name), preprocessing())
    assert pixels.shape == (8, 8, 3)
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {expected}


def test_bytes_as_palette_transparency_give_no_warning(tmp_path):
    image = palette()
    path = saved(tmp_path, image, transparency=bytes([255, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode_image(path, preprocessing()) == 255).all()


def test_one_channel_is_grey(tmp_path):
    pixels = decode_image(saved(tmp_path, Image.fromarray(noise(9, 9))), preprocessing(9, 1))
    expected = np.asarray(Image.fromarray(noise(9, 9)).convert("L"))
    assert pixels.shape == (9, 9, 1)
    assert (pixels[..., 0] == expected).all()


def test_orientation_of_exif_is_applied(tmp_path):
    image = Image.fromarray(noise(8, 8))
    exif = Image.Exif()
    # 6: the camera was turned; the picture is upright after a quarter turn clockwise.
    exif[0x0112] = 6
    pixels = decode_image(saved(tmp_path, image, exif=exif), preprocessing())
    assert (pixels == np.rot90(noise(8, 8), -1)).all()


def test_large_jpeg_is_drafted_close_to_the_full_decode(tmp_path):
    smooth = np.linspace(0, 255, 320).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(smooth[None, :, None], (240, 320, 3)).copy())
    path = saved(tmp_path, image, "large.jpg", quality=95)
    full = transforms.CenterCrop(8)(transforms.Resize(8)(Image.open(path).convert("RGB")))
    difference = decode_image(path, preprocessing()).astype(int) - np.asarray(full).astype(int)
    assert abs(difference).max() <= 3


def test_thin_strip_stays_small(tmp_path):
    strip = np.zeros((1, 60_000, 3), dtype=np.uint8)
    strip[:, 29_998:30_002] = 255
    assert (decode_image(saved(tmp_path, Image.fromarray(strip)), preprocessing(64)) == 255).all()


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


def test_missing_files_may_come_back(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file") as caught:
        decode_image(tmp_path / "gone.png", preprocessing())
    assert not caught.value.lasting


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.new("F", (8, 8), 0.5), "float.tif")
    with pytest.raises(UnreadableImage, match="floating-point"):
        decode_image(path, preprocessing())


def test_two_channels_are_no_image(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(8, 8)))
    with pytest.raises(ConfigError, match=r"one .* or three"):
        decode_image(path, preprocessing(8, 2))
