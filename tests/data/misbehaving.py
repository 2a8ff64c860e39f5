"""Inputs that misbehave: how each is made, and what happens.

The tests run this list, and `python -m tests.data.misbehaving` writes it into docs/data.md as a table.
Each is made beside four good images of `cat` and four of `dog`, which are 12 x 10 pixels, or beside four good
texts of each, which have three words.
"""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
TEXTS_BEGIN, TEXTS_END = "<!-- table of texts -->\n", "<!-- end of table of texts -->\n"

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """One input, and its promised outcome.

    Args:
        name: what it is.
        make: spoils a good folder of classes or of texts; returns further options of the data set.
        outcome: `used`; `skipped`: refused, and with `unreadable=skip` left out; `refused`.
        rule: what happens, in one or two sentences.
        says: a regular expression for the error or the log line; empty: there is none.
        samples: how many samples the data set has.
        colour: expected of the pixels of `cat/odd.*`; None: not checked.
    """

    name: str
    make: Callable[[Path], Options | None]
    outcome: str
    rule: str
    says: str = ""
    samples: int = 9
    colour: tuple[int, int, int] | None = None


def noise(seed: int, height: int = 10, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed)).save(buffer, "png")
    return buffer.getvalue()


def good(root: Path) -> Path:
    """Two classes of four images."""
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(4):
            (root / name / f"{index}.png").write_bytes(png(10 * label + index))
    return root


def odd(image: Image.Image, name: str = "odd.png", **options: Any) -> Callable[[Path], None]:
    """Adds an image to class cat."""
    return lambda root: image.save(root / "cat" / name, **options)


def content(data: bytes, name: str = "odd.jpg") -> Callable[[Path], None]:
    """Adds a file of these bytes to class cat."""

    def make(root: Path) -> None:
        (root / "cat" / name).write_bytes(data)

    return make


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (12, 10), colour)


def palette() -> Image.Image:
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


def turned() -> Image.Image:
    """Stored on its side: the top half is green once it is upright."""
    pixels = np.zeros((12, 12, 3), dtype=np.uint8)
    pixels[:, :6, 1] = 255
    return Image.fromarray(pixels)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def frames(root: Path) -> None:
    first, second = flat("RGB", (0, 0, 255)), flat("RGB", (255, 0, 0))
    first.save(root / "cat" / "odd.gif", save_all=True, append_images=[second])


def bomb(width: int = 100_000, height: int = 100_000, kind: int = 2) -> bytes:
    """A PNG that claims so many pixels, RGB or of another kind of colours."""
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def strip() -> Image.Image:
    """One pixel high, blue in the middle eighth alone."""
    pixels = np.zeros((1, 800, 3), dtype=np.uint8)
    pixels[:, 350:450, 2] = 255
    return Image.fromarray(pixels)


def nowhere(root: Path) -> None:
    (root / "cat" / "odd.png").symlink_to(root / "nowhere.png")


def beside(root: Path) -> None:
    (root / "cat" / "._0.png").write_bytes(b"litter")
    (root / "cat" / "Thumbs.db").write_bytes(b"litter")
    (root / ".hidden").mkdir()
    (root / "__MACOSX" / "cat").mkdir(parents=True)


def other_files(root: Path) -> None:
    for name in ("one.mov", "two.MOV", "notes.txt"):
        (root / "cat" / name).write_bytes(b"no image")


def other_files_alone(root: Path) -> None:
    (root / "eel").mkdir()
    (root / "eel" / "0.cr2").write_bytes(b"raw")


def pipe(place: str) -> Callable[[Path], Options]:
    """Opening it for reading waits until somebody writes to it."""

    def make(root: Path) -> Options:
        os.mkfifo(root / place)
        return {"csv": str(root / place)} if place.endswith(".csv") else {}

    return make


def bands(values: Sequence[int], *extra: int, **options: Any) -> Callable[[Path], Options]:
    """Adds a TIFF of RGB with further channels; `extra` is its tag that says what these are; empty: none."""
    width, height, count = 12, 10, len(values)
    pixels = bytes(values) * (width * height)
    # Each entry has a tag and numbers of 16 bits, which begin in the entry if they fit.
    entries = {
        256: (width,),
        257: (height,),
        258: (8,) * count,
        259: (1,),
        262: (2,),
        273: (8,),
        277: (count,),
        278: (height,),
        279: (len(pixels),),
        **({338: extra} if extra else {}),
    }
    after = 8 + len(pixels)
    place = after + 2 + 12 * len(entries) + 4
    directory, behind = struct.pack("<H", len(entries)), b""
    for tag, numbers in entries.items():
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, behind = struct.pack("<I", place + len(behind)), behind + packed
        directory += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    tiff = struct.pack("<2sHI", b"II", 42, after) + pixels + directory + bytes(4) + behind

    def make(root: Path) -> Options:
        (root / "cat" / "odd.tif").write_bytes(tiff)
        return options

    return make


def fourth_band(name: str) -> bytes:
    """An image whose fourth channel is not declared as transparency, in the format of its ending."""
    buffer = io.BytesIO()
    flat("RGBA", (10, 20, 30, 0)).save(buffer, "tga" if name.endswith("tga") else "jpeg2000")
    whole = bytearray(buffer.getvalue())
    if name.endswith("tga"):
        # The number of bits of transparency.
        whole[17] &= 0xF0
    return bytes(whole).replace(b"cdef", b"free")


def heic(root: Path) -> None:
    from pillow_heif import from_pillow

    from_pillow(Image.new("RGB", (64, 64), (255, 255, 255))).save(root / "cat" / "odd.HEIC")


def nested(root: Path) -> None:
    (root / "cat" / "holidays" / "sea").mkdir(parents=True)
    (root / "cat" / "holidays" / "sea" / "odd.png").write_bytes(png(30))


def linked(root: Path) -> None:
    """A folder of images elsewhere, and one that leads back."""
    elsewhere = root.parent / f"{root.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "odd.png").write_bytes(png(99))
    (root / "cat" / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root / "cat")


def lost_class(root: Path) -> None:
    (root / "eel").symlink_to(root / "nowhere")


def loose(root: Path) -> None:
    (root / "odd.png").write_bytes(png(99))


def class_of(count: int, data: bytes | None = None) -> Callable[[Path], None]:
    """Adds class eel with so many images."""

    def make(root: Path) -> None:
        (root / "eel").mkdir()
        for index in range(count):
            (root / "eel" / f"{index}.png").write_bytes(png(40 + index) if data is None else data)

    return make


def alone(root: Path) -> None:
    shutil.rmtree(root / "dog")


def letters(root: Path) -> None:
    (root / "cat").rename(root / "grüne Katze 猫")


def bytes_as_name(place: str, name: bytes) -> Callable[[Path], None]:
    """Adds a class, or an image of cat, whose name is no UTF-8."""

    def make(root: Path) -> None:
        target = os.path.join(os.fsencode(root / place), name)
        if place:
            Path(os.fsdecode(target)).write_bytes(png(50))
        else:
            shutil.copytree(root / "cat", os.fsdecode(target))

    return make


def thousand(root: Path) -> None:
    """1,000 classes of three images, one colour an image."""
    shutil.rmtree(root)
    for label in range(1000):
        (root / f"{label:03d}").mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (4, 4), (label // 256, label % 256, index)).save(
                root / f"{label:03d}" / f"{index}.png"
            )


def twins(root: Path) -> None:
    """Saved in another format, so that the files differ."""
    Image.fromarray(noise(0)).save(root / "dog" / "odd.bmp")


def ready(**classes: tuple[str, ...]) -> Callable[[Path], None]:
    """Folders of splits with four images of each of these classes."""

    def make(root: Path) -> None:
        for seed, (part, names) in enumerate(classes.items()):
            for label, name in enumerate(names):
                (root / "new" / part / name).mkdir(parents=True)
                for index in range(4):
                    place = root / "new" / part / name / f"{index}.png"
                    place.write_bytes(png(100 + 10 * (2 * seed + label) + index))
        shutil.rmtree(root / "cat")
        shutil.rmtree(root / "dog")
        for part in classes:
            (root / "new" / part).rename(root / part)
        (root / "new").rmdir()

    return make


def csv(last: bytes, **options: Any) -> Callable[[Path], Options]:
    """A CSV of the good images and one more line, the ninth."""

    def make(root: Path) -> Options:
        lines = [f"{name}/{index}.png,{name}\n".encode() for name in ("cat", "dog") for index in range(4)]
        (root / "list.csv").write_bytes(b"".join(lines) + last)
        (root / "cat" / "odd.png").write_bytes(png(60))
        return {"csv": str(root / "list.csv"), **options}

    return make


def numbers(root: Path) -> Options:
    lines = [
        f"{name}/{index}.png,{index + shift}\n"
        for name, shift in (("cat", 0.5), ("dog", 7))
        for index in (0, 1)
    ]
    (root / "list.csv").write_text("".join(lines), encoding="utf-8")
    return {"csv": str(root / "list.csv")}


def separated(root: Path) -> Options:
    (root / "list.csv").write_text("cat/0.png;cat\ndog/0.png;dog\n", encoding="utf-8")
    return {"csv": str(root / "list.csv")}


def too_many(root: Path) -> Options:
    return {"train": 3, "val": 2}


JPEG = io.BytesIO()
Image.fromarray(noise(70, 64, 64)).save(JPEG, "jpeg")

MISBEHAVIOURS = (
    Misbehaviour(
        name="greyscale image",
        make=odd(flat("L", 77)),
        outcome="used",
        rule="All three channels take the grey value.",
        colour=(77, 77, 77),
    ),
    Misbehaviour(
        name="palette image",
        make=odd(palette()),
        outcome="used",
        rule="Each index becomes its colour.",
        colour=(10, 200, 30),
    ),
    Misbehaviour(
        name="CMYK image",
        make=odd(flat("CMYK", (255, 0, 0, 0)), "odd.tif"),
        outcome="used",
        rule="Ink becomes RGB by Pillow's conversion, without colour profiles.",
        colour=(0, 255, 255),
    ),
    Misbehaviour(
        name="16-bit image",
        make=odd(Image.fromarray(np.full((10, 12), 0x8080, dtype=np.uint16))),
        outcome="used",
        rule="Values are scaled to 8 bits, not clipped.",
        colour=(128, 128, 128),
    ),
    Misbehaviour(
        name="integer image of more than 16 bits",
        make=odd(Image.fromarray(np.full((10, 12), 70_000, dtype=np.int32)), "odd.tif"),
        outcome="skipped",
        rule="It counts as unreadable if a value does not fit in 16 bits: which one is white is not known.",
        says=r"cat/odd\.tif: pixels of more than 16 bits",
        samples=8,
    ),
    Misbehaviour(
        name="transparent image",
        make=odd(flat("RGBA", (9, 9, 9, 0))),
        outcome="used",
        rule="Transparent pixels become white.",
        colour=(255, 255, 255),
    ),
    Misbehaviour(
        name="transparent TIFF",
        make=bands((9, 9, 9, 0), 2),
        outcome="used",
        rule="Transparent pixels become white where the file says that its fourth channel is transparency.",
        colour=(255, 255, 255),
    ),
    Misbehaviour(
        name="TIFF whose fourth channel is no transparency",
        make=bands((10, 20, 30, 0)),
        outcome="skipped",
        rule="It counts as unreadable, because a channel such as infrared would be lost.",
        says=r"cat/odd\.tif: 4 channels, 1 more than colours and transparency",
        samples=8,
    ),
    Misbehaviour(
        name="TIFF of five channels",
        make=bands((10, 20, 30, 40, 50), 0, 0),
        outcome="skipped",
        rule="It counts as unreadable, like any image with more channels than colours and transparency.",
        says=r"cat/odd\.tif: 5 channels, 2 more than colours and transparency, which `extra_channels=drop`",
        samples=8,
    ),
    Misbehaviour(
        name="TIFF of more channels with `dataset.extra_channels=drop`",
        make=bands((10, 20, 30, 0), extra_channels="drop"),
        outcome="used",
        rule="The first three channels are its colours, the others are left out.",
        colour=(10, 20, 30),
    ),
    Misbehaviour(
        name="TIFF of eight channels",
        make=bands((1, 2, 3, 4, 5, 6, 7, 8), 0, 0, 0, 0, 0),
        outcome="skipped",
        rule="It counts as unreadable, with any option: Pillow reads at most six.",
        says=r"cat/odd\.tif: a TIFF of 8 channels that Pillow cannot read",
        samples=8,
    ),
    Misbehaviour(
        name="JPEG 2000 image",
        make=odd(flat("RGB", (10, 200, 30)), "odd.jp2"),
        outcome="used",
        rule="It is read like any other.",
        colour=(10, 200, 30),
    ),
    Misbehaviour(
        name="transparent JPEG 2000 image",
        make=odd(flat("RGBA", (9, 9, 9, 0)), "odd.jp2"),
        outcome="used",
        rule="Transparent pixels become white where the file says that its fourth channel is transparency.",
        colour=(255, 255, 255),
    ),
    Misbehaviour(
        name="JPEG 2000 or TGA image whose fourth channel is no transparency",
        make=content(fourth_band("odd.jp2"), "odd.jp2"),
        outcome="skipped",
        rule="It counts as unreadable, like such a TIFF; `dataset.extra_channels=drop` reads it.",
        says=r"cat/odd\.jp2: 4 channels, 1 more than colours and transparency, which `extra_channels=drop`",
        samples=8,
    ),
    Misbehaviour(
        name="AVIF image",
        make=odd(flat("RGB", (255, 255, 255)), "odd.avif"),
        outcome="used",
        rule="It needs Pillow 11.3. With an older one it counts as unreadable, and the reason says so.",
        colour=(255, 255, 255),
    ),
    Misbehaviour(
        name="HEIC image",
        make=heic,
        outcome="used",
        rule="It needs `pillow-heif`. Without it, it counts as unreadable, and the reason says so.",
        colour=(255, 255, 255),
    ),
    Misbehaviour(
        name="floating-point image",
        make=odd(flat("F", 0.5), "odd.tif"),
        outcome="skipped",
        rule="It counts as unreadable: the file does not say which values are black and white.",
        says=r"cat/odd\.tif: floating-point pixels",
        samples=8,
    ),
    Misbehaviour(
        name="image with an EXIF orientation",
        make=odd(turned(), exif=exif(6)),
        outcome="used",
        rule="It is turned upright first.",
    ),
    Misbehaviour(
        name="image with a broken EXIF block",
        make=odd(flat("RGB", (1, 2, 3)), "odd.png", exif=b"Exif\x00\x00broken"),
        outcome="used",
        rule="The block is ignored.",
        colour=(1, 2, 3),
    ),
    Misbehaviour(
        name="animated image",
        make=frames,
        outcome="used",
        rule="The first frame is used.",
        colour=(0, 0, 255),
    ),
    Misbehaviour(
        name="image smaller than the crop",
        make=odd(Image.new("RGB", (3, 2), (5, 6, 7))),
        outcome="used",
        rule="Its shorter side is enlarged to `backbone.resize` like any other.",
        colour=(5, 6, 7),
    ),
    Misbehaviour(
        name="thin strip of an image",
        make=odd(strip()),
        outcome="used",
        rule="Only its middle, four times as long as wide, is used: enlarging it needs little memory.",
        colour=(0, 0, 255),
    ),
    Misbehaviour(
        name="truncated image",
        make=content(JPEG.getvalue()[: len(JPEG.getvalue()) // 2]),
        outcome="skipped",
        rule="It counts as unreadable: no part of it is used.",
        says=r"cat/odd\.jpg: .*truncated",
        samples=8,
    ),
    Misbehaviour(
        name="file of zero bytes",
        make=content(b""),
        outcome="skipped",
        rule="It counts as unreadable.",
        says=r"cat/odd\.jpg: empty file",
        samples=8,
    ),
    Misbehaviour(
        name="text in a file called .jpg",
        make=content(b"no image at all\n"),
        outcome="skipped",
        rule="It counts as unreadable: the content decides, not the name.",
        says=r"cat/odd\.jpg: not an image",
        samples=8,
    ),
    Misbehaviour(
        name="decompression bomb",
        make=content(bomb(), "odd.png"),
        outcome="skipped",
        rule="Above 178,956,970 pixels it counts as unreadable. Its header has the size: nothing is decoded.",
        says=r"cat/odd\.png: Image size \(10000000000 pixels\) exceeds limit",
        samples=8,
    ),
    Misbehaviour(
        name="image that needs too much memory",
        make=content(bomb(15_000, 10_000, kind=6), "odd.png"),
        outcome="skipped",
        rule="Above 1 GB it counts as unreadable. Its header has size and format: nothing is decoded.",
        says=r"cat/odd\.png: decoding its 15000 x 10000 pixels would take 1\.4 GB of memory, expected",
        samples=8,
    ),
    Misbehaviour(
        name="pipe or device in place of an image",
        make=pipe("cat/odd.png"),
        outcome="skipped",
        rule="It counts as unreadable. It is never opened, which could wait for ever.",
        says=r"cat/odd\.png: it is a pipe or a device, not a file",
        samples=8,
    ),
    Misbehaviour(
        name="broken link to an image",
        make=nowhere,
        outcome="skipped",
        rule="It counts as unreadable. Every run tries it again, like a file without read permission.",
        says=r"cat/odd\.png: it does not exist",
        samples=8,
    ),
    Misbehaviour(
        name="hidden files, and what systems leave in folders",
        make=beside,
        outcome="used",
        rule="They are ignored, such as `__MACOSX`, `@eaDir`, `Thumbs.db`, and all that begins with a dot.",
        samples=8,
    ),
    Misbehaviour(
        name="files without an image's ending",
        make=other_files,
        outcome="used",
        rule="They are passed over. One line of the log counts them by ending, and so does `metrics.json`.",
        says=r"photos: passed over 3 files without an image's ending: 2 \.mov, 1 \.txt",
        samples=8,
    ),
    Misbehaviour(
        name="class folder with other files alone",
        make=other_files_alone,
        outcome="refused",
        rule="The error counts them by ending.",
        says=r"class folders without images \(eel: 1 \.cr2\)",
    ),
    Misbehaviour(
        name="folders within class folders",
        make=nested,
        outcome="used",
        rule="Their images belong to the class, however deep they lie.",
    ),
    Misbehaviour(
        name="links to folders within class folders",
        make=linked,
        outcome="used",
        rule="Links are followed, each folder once.",
    ),
    Misbehaviour(
        name="broken link beside the class folders",
        make=lost_class,
        outcome="refused",
        rule="The error names the link, because it may be a class folder.",
        says=r"holds broken links \(eel\)",
    ),
    Misbehaviour(
        name="images beside the class folders",
        make=loose,
        outcome="used",
        rule="They belong to no class and are ignored. The log reports how many there are.",
        says=r"skipped 1 image outside class folders, such as odd\.png",
        samples=8,
    ),
    Misbehaviour(
        name="file name that is not UTF-8",
        make=bytes_as_name("cat", b"caf\xe9.png"),
        outcome="used",
        rule="The file is read, and messages show the bytes of its name.",
    ),
    Misbehaviour(
        name="class folder without images",
        make=class_of(0),
        outcome="refused",
        rule="The error names the folders before any image is decoded.",
        says=r"class folders without images \(eel\)",
    ),
    Misbehaviour(
        name="class folder with one image",
        make=class_of(1),
        outcome="refused",
        rule="A class needs at least one sample each for training, validation and test.",
        says=r"class 'eel' has 1 samples, expected at least 3",
    ),
    Misbehaviour(
        name="class without one readable image",
        make=class_of(3, b"no image"),
        outcome="refused",
        rule="With `dataset.unreadable=skip` the error names the class: no class is left out.",
        says=r"3 of 11 images .* are not readable",
    ),
    Misbehaviour(
        name="one class alone",
        make=alone,
        outcome="refused",
        rule="A classifier needs at least two classes.",
        says=r"holds 1 class folders, expected at least two",
    ),
    Misbehaviour(
        name="class names with spaces and other letters",
        make=letters,
        outcome="used",
        rule="A name may be any text in UTF-8, in reports and saved models too.",
        samples=8,
    ),
    Misbehaviour(
        name="class name that is not UTF-8",
        make=bytes_as_name("", b"caf\xe9"),
        outcome="refused",
        rule="A saved model could not hold the name. The error shows its bytes.",
        says=r"the name of a class folder in .* is not valid UTF-8 \(caf\\udce9\)",
    ),
    Misbehaviour(
        name="1,000 classes",
        make=thousand,
        outcome="used",
        rule="There is no limit.",
        samples=3000,
    ),
    Misbehaviour(
        name="the same image in two classes",
        make=twins,
        outcome="used",
        rule="All are used. The log reports how many images have equal pixels, and names the first ones.",
        says=r"1 image is in more than one class of .* \(cat/0\.png = dog/odd\.bmp\): used as they are",
    ),
    Misbehaviour(
        name="class smaller than `dataset.train` + `dataset.val`",
        make=too_many,
        outcome="refused",
        rule="The error names the class and its size before any image is decoded.",
        says=r"class 'cat' has 4 samples, expected at least 5 \(3 \+ 2\)",
    ),
    Misbehaviour(
        name="class that is in test but not in train",
        make=ready(train=("cat", "dog"), test=("cat", "dog", "eel")),
        outcome="refused",
        rule="Ready splits must have the same classes.",
        says=r"class 'eel' is in .*test but not in .*train, expected the same classes",
    ),
    Misbehaviour(
        name="ready splits without validation",
        make=ready(train=("cat", "dog"), test=("cat", "dog")),
        outcome="used",
        rule="A missing `val` or `test` is drawn from `train` by `dataset.train` and `dataset.val`.",
        samples=16,
    ),
    Misbehaviour(
        name="ready splits without train",
        make=ready(val=("cat", "dog"), test=("cat", "dog")),
        outcome="refused",
        rule="Folders called `val` and `test` are splits, not classes, and need a folder `train`.",
        says=r"holds test, val, expected train too",
    ),
    Misbehaviour(
        name="unknown label in the CSV",
        make=csv(b"cat/odd.png,cta\n", classes=["cat", "dog"]),
        outcome="refused",
        rule="With `dataset.classes`, the error names the line of another label and the most similar class.",
        says=r"line 9 of .* has the unknown label 'cta': did you mean 'cat'",
    ),
    Misbehaviour(
        name="label in the CSV in other capitals",
        make=csv(b"cat/odd.png,Cat\n"),
        outcome="refused",
        rule="Labels that differ only in capitals are probably the same class.",
        says=r"line 9 of .* has label 'Cat', others 'cat'",
    ),
    Misbehaviour(
        name="line of the CSV without a label",
        make=csv(b"cat/odd.png,\n"),
        outcome="refused",
        rule="The error names the line.",
        says=r"line 9 of .* has no label",
    ),
    Misbehaviour(
        name="missing file in the CSV",
        make=csv(b"cat/none.png,cat\n"),
        outcome="refused",
        rule="The error names the line and the folder in which the file was looked for.",
        says=r"line 9 of .* names cat/none\.png, which is not there: files are looked for in",
    ),
    Misbehaviour(
        name="file in the CSV twice",
        make=csv(b"./cat/0.png,cat\n"),
        outcome="refused",
        rule="The error names both lines, however the file is written.",
        says=r"line 9 of .* names \./cat/0\.png again, after line 1: keep one",
    ),
    Misbehaviour(
        name="file in the CSV with two labels",
        make=csv(b"cat/0.png,dog\n"),
        outcome="refused",
        rule="The error names both lines and both labels: an image has one class.",
        says=r"line 9 of .* names cat/0\.png again, after line 1 with label 'cat', expected one label",
    ),
    Misbehaviour(
        name="several labels in a line of the CSV",
        make=csv(b'cat/odd.png,"dog,cat"\n'),
        outcome="refused",
        rule="The error shows such a label, if its parts are labels too and a class has too few images.",
        says=r"list\.csv has several labels for a file, such as 'dog,cat', expected one",
    ),
    Misbehaviour(
        name="measured numbers as labels in the CSV",
        make=numbers,
        outcome="refused",
        rule="The error says that the labels are numbers: there is no regression.",
        says=r"list\.csv has 4 labels that are 4 different numbers, expected classes",
    ),
    Misbehaviour(
        name="CSV separated by semicolons or tabs",
        make=separated,
        outcome="refused",
        rule="The error names the separator.",
        says=r"line 1 of .* is separated by `;`, expected commas",
    ),
    Misbehaviour(
        name="quote in the CSV that is not closed",
        make=csv(b'"cat/odd.png,cat\ndog/1.png,dog\n'),
        outcome="refused",
        rule="The error names the line with the quote.",
        says=r'line 9 of .* has a " that is not closed in the same line',
    ),
    Misbehaviour(
        name="pipe or device in place of the CSV",
        make=pipe("list.csv"),
        outcome="refused",
        rule="It is not opened.",
        says=r"list\.csv cannot be read \(it is a pipe or a device, not a file\)",
    ),
    Misbehaviour(
        name="CSV that is not UTF-8",
        make=csv("cat/odd.png,Ähre\n".encode("latin-1")),
        outcome="refused",
        rule="The error names the first such line. No other encoding is guessed.",
        says=r"line 9 of .* is not valid UTF-8",
    ),
)


def good_texts(root: Path) -> Path:
    """Two classes of four texts, three words each."""
    root.mkdir(parents=True)
    for name in ("cat", "dog"):
        lines = [f"a {name} {number}\n" for number in ("one", "two", "three", "four")]
        (root / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return root


def more(data: bytes) -> Callable[[Path], None]:
    """Adds bytes to the texts of class cat."""

    def make(root: Path) -> None:
        with open(root / "cat.txt", "ab") as file:
            file.write(data)

    return make


def text_file(name: bytes, data: bytes) -> Callable[[Path], None]:
    """Adds a file of these bytes."""

    def make(root: Path) -> None:
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(data)

    return make


def one_text_file(root: Path) -> None:
    (root / "dog.txt").unlink()


TEXT_MISBEHAVIOURS = (
    Misbehaviour(
        name="empty lines",
        make=more(b"\n \t\na new text\n"),
        outcome="used",
        rule="They are ignored. The log reports how many there are.",
        says=r"cat\.txt: skipped 2 lines without a word",
    ),
    Misbehaviour(
        name="lines without a word",
        make=more("\u200b\u00ad\n\u00a0\na new text\n".encode()),
        outcome="used",
        rule="They are ignored like empty lines, and the log reports how many there are.",
        says=r"cat\.txt: skipped 2 lines without a word",
    ),
    Misbehaviour(
        name="file that does not end in .txt",
        make=text_file(b"eel.md", b"one new text\ntwo\nthree\n"),
        outcome="used",
        rule="Every file that is not hidden is a class. Its name is the class name, without `.txt`.",
        says=r"eel\.md do not end in \.txt and are classes too",
        samples=11,
    ),
    Misbehaviour(
        name="broken link to a file of texts",
        make=lost_class,
        outcome="refused",
        rule="The error names the link, because it may be a class.",
        says=r"holds broken links \(eel\)",
    ),
    Misbehaviour(
        name="bytes that are not UTF-8",
        make=more(b"caf\xe9\n"),
        outcome="refused",
        rule="The error names the file, the line and the position. No other encoding is guessed.",
        says=r"line 5 of .*cat\.txt is not UTF-8 \(byte 0xe9 at place 4\)",
    ),
    Misbehaviour(
        name="file without text",
        make=text_file(b"eel.txt", b"\n\n"),
        outcome="refused",
        rule="The error names the file.",
        says=r"eel\.txt holds no text",
    ),
    Misbehaviour(
        name="text of more than `dataset.max_tokens` tokens",
        make=more(b"a text of five words\n"),
        outcome="used",
        rule="It is cut. The log reports how many texts are cut.",
        says=r"1 of 9 texts of text_lines are longer than `max_tokens=4`",
    ),
    Misbehaviour(
        name="the same text in two classes",
        make=more(b"A DOG  tw\xc3\xb3\n"),
        outcome="used",
        rule="All are used. The log reports how many texts have equal words, and shows the first ones.",
        says=r"1 text is in more than one class of .* \('a dog two' in cat and dog\): used as they are",
    ),
    Misbehaviour(
        name="one file alone",
        make=one_text_file,
        outcome="refused",
        rule="A classifier needs at least two classes.",
        says=r"holds 1 file, expected at least two",
    ),
    Misbehaviour(
        name="pipe or device in place of a file of texts",
        make=pipe("eel.txt"),
        outcome="refused",
        rule="It is not opened.",
        says=r"eel\.txt cannot be read \(it is a pipe or a device, not a file\)",
    ),
    Misbehaviour(
        name="two files of one class",
        make=text_file(b"cat.TXT", b"one\n"),
        outcome="refused",
        rule="Class names have neither `.txt` nor `.TXT`, so both files would be the same class.",
        says=r"holds cat\.TXT and cat\.txt, expected one file for each class",
    ),
    Misbehaviour(
        name="name of a file that is not UTF-8",
        make=text_file(b"\xff.txt", b"one\n"),
        outcome="refused",
        rule="A saved model could not hold the name. The error shows its bytes.",
        says=r"the name of a class file in .* is not valid UTF-8 \(\\udcff\.txt\)",
    ),
)

HAPPENS = {
    "used": "used",
    "skipped": "refused; left out with `skip`",
    "refused": "refused",
}


def table(entries: Sequence[Misbehaviour]) -> str:
    """A list as a table in Markdown."""
    rows = [f"| {entry.name} | {HAPPENS[entry.outcome]} | {entry.rule} |" for entry in entries]
    return "\n".join(["| input | what happens | rule |", "|---|---|---|", *rows]) + "\n"


def page(text: str) -> str:
    """The page with the tables in their places."""
    for begin, end, entries in (
        (BEGIN, END, MISBEHAVIOURS),
        (TEXTS_BEGIN, TEXTS_END, TEXT_MISBEHAVIOURS),
    ):
        before, _, rest = text.partition(begin)
        text = before + begin + table(entries) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
