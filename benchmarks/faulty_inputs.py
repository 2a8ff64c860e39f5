"""Faults that `reliability` injects into a user's images, texts, lists, options and files of weights."""

import io
import json
import os
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from benchmarks.faults import (
    ANSWERED,
    ESCAPE,
    REFUSED,
    WARNED,
    Fault,
    Kind,
    damaged,
    damaged_json,
    pick,
    values,
)
from tascnet.cli.config import RunOptions
from tascnet.models import archive
from tascnet.presets import preset
from tascnet.run.files import digest_file


def noise(draw: Random, height: int = 20, width: int = 24) -> Image.Image:
    pixels = np.frombuffer(draw.randbytes(height * width * 3), dtype=np.uint8)
    return Image.fromarray(pixels.reshape(height, width, 3))


def copies(root: Path, draw: Random) -> str:
    """One image in two ready splits."""
    shutil.rmtree(root / "photos")
    parts = ("train", draw.choice(["val", "valid"]), "test")
    for name in (f"{part}/{label}" for part in parts for label in ("cat", "dog")):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(4):
            noise(draw).save(root / "photos" / name / f"{index}.png")
    one, other = draw.sample(parts, 2)
    ending, label = draw.choice(["png", "bmp", "tif"]), draw.choice(["cat", "dog"])
    with Image.open(root / "photos" / one / "cat" / "0.png") as image:
        image.save(root / "photos" / other / label / f"copy.{ending}")
    return f"{one}/cat/0.png is {other}/{label}/copy.{ending}"


def lost_class(root: Path, draw: Random) -> str:
    """Three classes, of which one has nearly all images."""
    shutil.rmtree(root / "photos")
    counts = dict(zip(draw.sample(["ant", "bee", "cow"], 3), (3, 60, 6), strict=True))
    for name, count in counts.items():
        (root / "photos" / name).mkdir(parents=True)
        for index in range(count):
            noise(draw).save(root / "photos" / name / f"{index}.png")
    return ", ".join(f"{count} images of {name}" for name, count in counts.items())


MODES = (
    ("1", "png"),
    ("L", "jpg"),
    ("P", "gif"),
    ("RGBA", "webp"),
    ("CMYK", "tif"),
    ("LA", "png"),
    ("F", "tif"),
)
FORMATS = ("png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm", "ico", "tga", "jpeg2000")
ENDINGS = ("heic", "avif", "jp2", "jxl", "raw", "svg", "psd", "JPEG", "png", "txt", "tif")
LITTER = ("__MACOSX", ".git", "@eaDir", "Thumbs.db")


def odd_image(root: Path, draw: Random) -> str:
    """One image of another mode, size or format, damaged, or none at all."""
    folder = root / "photos" / "cat"
    how = draw.choice(["mode", "ending", "damaged", "bands", "litter", "empty class", "size", "exif"])
    if how == "mode":
        mode, ending = draw.choice(MODES)
        noise(draw).convert("L" if mode == "F" else "RGB").convert(mode).save(folder / f"odd.{ending}")
        return f"odd.{ending} of mode {mode}"
    if how == "ending":
        ending = draw.choice(ENDINGS)
        (folder / f"odd.{ending}").write_bytes(draw.choice([draw.randbytes(500), b"", b"text"]))
        return f"odd.{ending}"
    if how == "damaged":
        form = draw.choice(FORMATS)
        noise(draw).save(folder / f"odd.{form}", form)
        (folder / f"odd.{form}").rename(folder / "odd.png")
        return f"{form}, {damaged(folder / 'odd.png', draw)}"
    if how == "bands":
        write_tiff(folder / "odd.tif", draw.choice([2, 4, 5, 8]))
    elif how == "litter":
        name = draw.choice(LITTER)
        (root / "photos" / name).mkdir()
        (root / "photos" / name / "._0.png").write_bytes(b"litter")
    elif how == "empty class":
        (root / "photos" / "eel").mkdir()
    elif how == "size":
        noise(draw, *draw.choice([(1, 1), (1, 3000), (3000, 1), (2, 2)])).save(folder / "odd.png")
    else:
        noise(draw).save(folder / "odd.png", exif=draw.choice([b"Exif\0\0broken", draw.randbytes(60), b""]))
    return how


def write_tiff(path: Path, bands: int) -> None:
    """An uncompressed TIFF of 24 x 20 pixels with so many bands."""
    size = 24 * 20 * bands
    tags = {256: 24, 257: 20, 258: 8, 259: 1, 262: 1, 273: 200, 277: bands, 278: 20, 279: size, 284: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
    path.write_bytes(head.ljust(200, b"\0") + bytes(size))


# Bits of a value, and PNG's number for its colours, with their values.
DEPTHS = ((1, 0, 1), (8, 0, 1), (16, 0, 1), (8, 2, 3), (8, 6, 4), (16, 2, 3), (16, 6, 4))


def huge_image(root: Path, draw: Random) -> str:
    """A small file of many black pixels."""
    depth, colours, channels = draw.choice(DEPTHS)
    side = draw.choice([5000, 13_000, 20_000])
    row = bytes(1 + -(-side * depth * channels // 8))
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0)), (b"IDAT", data)]
    with open(root / "photos" / "dog" / "huge.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in (*parts, (b"IEND", b"")):
            check = zlib.crc32(name + content)
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", check))
    return f"{side} x {side} pixels, {depth} bits, {channels} channels"


# `*` stands for good lines.
LISTS = (
    *("file,label\n*", "label;file\n*", '*\n"cat/0.png,cat\n', "*;", "", "file,label\n", "a,b,c\n*", "\0\0*"),
    *("*\ncat/0.png,1.5\n", "*\ncat/0.png,cat|dog\n", "*\n/etc/passwd,cat\n", "*\ncat/0.png,\n", "*\n,cat\n"),
    *(
        f"*\ncat/0.png,{ESCAPE}\n",
        "*\n../../x.png,cat\n",
        '"*"',
        "*\ncat/nowhere.png,cat\n",
        "file\tlabel\n*",
    ),
)


def odd_list(root: Path, draw: Random) -> Fault:
    """A list of files and labels with a line, a separator or an encoding that is wrong."""
    files = sorted(path.relative_to(root / "photos") for path in root.glob("photos/*/*"))
    separator, template = draw.choice([",", ",", ",", ";", "\t", " "]), draw.choice(LISTS)
    good = "\n".join(f"{file}{separator}{file.parent}" for file in files)
    encoding = draw.choice(["utf-8", "utf-8", "utf-16", "latin-1"])
    (root / "list.csv").write_bytes(template.replace("*", good).encode(encoding))
    more = damaged(root / "list.csv", draw) if draw.random() < 0.3 else encoding
    options = ("dataset.csv=list.csv", "dataset.root=photos")
    return Fault(text=f"{template[:30]!r} separated by {separator!r}, {more}", options=options)


LINES = (
    *(b"\xff\xfe\n", b"\0\n", b"\n \t\n", b"caf\xe9\n", "\u200b\u202e\n".encode(), ESCAPE.encode() + b"\n"),
    b"word " * 100_000,
)


def odd_text(root: Path, draw: Random) -> str:
    """A line or a file that is no text, lost lines, or copies."""
    path = root / "texts" / draw.choice(["bad.txt", "good.txt"])
    how = draw.choice(["line", "line", "damaged", "file", "empty", "copies"])
    if how == "damaged":
        return damaged(path, draw)
    if how == "line":
        line = draw.choice(LINES)
        path.write_bytes(path.read_bytes() + line)
        return f"{path.name}: the line {line[:12]!r}"
    if how == "file":
        path = path.with_name(draw.choice(["eel.md", f"{ESCAPE}.txt", "bad.TXT", ".hidden"]))
        path.write_bytes(draw.choice([b"", b"one\ntwo\nthree\nfour\n", draw.randbytes(100)]))
    else:
        path.write_bytes(b"" if how == "empty" else path.read_bytes() * 3)
    return f"{how} {path.name!r}"


NAMES = (
    ESCAPE,
    "=1+1",
    "a\rb",
    "a\nb",
    "\x9b31m",
    "-rf",
    "grüne Katze 猫",
    "a" * 240,
    "\u202egnp",
    "$(x)",
    "[a]",
)


def odd_name(root: Path, draw: Random) -> str:
    """A file or class whose name holds an escape code, a formula, or what is no text."""
    name, folder = os.fsencode(draw.choice([*NAMES, "caf\udce9"])), os.fsencode(root / "photos") + b"/"
    if draw.random() < 0.5:
        os.rename(folder + b"cat", folder + name)
        return f"class {name[:20]!r}"
    buffer = io.BytesIO()
    noise(draw).save(buffer, "png")
    with open(folder + b"cat/" + name + b".png", "wb") as file:
        file.write(draw.choice([buffer.getvalue(), b"no image"]))
    return f"file {name[:20]!r}"


OPTIONS = (
    *(
        "prune.flops_target=0",
        "prune.flops_target=-1",
        "prune.criterion=os.system",
        "prune.criterion=no.such",
    ),
    *("prune.criterion=builtins.int", "prune.source=/dev/zero", "prune.source=nowhere", "prune=nonsense"),
    *(
        "tune.neurons=[1000000000000]",
        "tune.hidden_layers=[1000]",
        "tune.kernels=[99999]",
        "tune.max_trials=0",
    ),
    *("tune.depth=99", "tune.max_seconds=0", "tune.tolerance=nan", "tune.neurons=[[[[", "tune.neurons=${x}"),
    *("+tune.foo=1", "~tune", "tune=nonsense", "backbone.size=1", "backbone.size=100000", "backbone=no.Net"),
    *("backbone.weights=/dev/zero", "backbone.weights=/", "measure.batch=100000000", "measure.repeats=10**9"),
    *(
        "threads=99999",
        "outputs=/proc/x",
        "outputs=",
        "outputs=/dev/null",
        "cache_dir=/dev/full",
        "stage=foo",
    ),
    *(
        "stage.name=foo",
        f"name={'a' * 300}",
        "name=a/../../b",
        "seed=1000000001",
        "seed=-1",
        "device=cuda:99",
    ),
    *("device=nonsense", "trainer.batch_size=100000000", "trainer.finetune.lr=1e30", "trainer.head.lr=nan"),
    *("trainer.head.epochs=0", "dataset=nonsense", "dataset=image_folder", "dataset.train=100000"),
    *("cache_limit_gb=0", "cache_limit_gb=1e-9", "metric=loss", "experiment=nonsense", "a=b=c", "="),
)
TEXTS = (
    "-1",
    "nonsense",
    "''",
    "nan",
    "inf",
    "-inf",
    "[]",
    "{a: 1}",
    "null",
    "1e400",
    "true",
    "[1, x]",
    "0x10",
    ESCAPE,
)


def odd_option(_root: Path, draw: Random) -> Fault:
    text = draw.choice(OPTIONS)
    if draw.random() < 0.5:
        text = f"{draw.choice(list(option_names()))}={draw.choice(TEXTS)}"
    return Fault(text=text[:60], options=(text,))


def option_names() -> Iterator[str]:
    """The options of a run of the digits."""
    yield from (entry.name for entry in fields(RunOptions))
    given = {"dataset": "digits", "backbone": "digits_cnn", "tune": "tascnet", "trainer": "digits"}
    for section, name in {**given, "prune": "reconstruction", "measure": "default"}.items():
        options = preset(section, name)
        for entry in fields(options):
            value = getattr(options, entry.name)
            inner = [f".{one.name}" for one in fields(value)] if is_dataclass(value) else [""]
            yield from (f"{section}.{entry.name}{one}" for one in inner)


ENDLESS = ("trainer.trial.epochs", "trainer.finetune.epochs", "trainer.head.epochs", "tune.max_trials")


def endless(_root: Path, draw: Random) -> Fault:
    """A billion of something, in one second."""
    given = (f"{draw.choice(ENDLESS)}=1000000000", "tune.max_seconds=1")
    return Fault(text=" ".join(given), options=given)


PRESETS = (
    "tune:\n  - {",
    "tune: 5\n",
    "[]",
    "\t",
    "a: &a [*a]\n",
    "max_trials: {a: 1}\n",
    "b" * 100_000,
    "\xe9",
    "",
)


def odd_preset(root: Path, draw: Random) -> Fault:
    """A preset of one's own that is no YAML, or not one of options."""
    group, text = draw.choice(["tune", "prune", "measure"]), draw.choice(PRESETS)
    (root / "own" / group).mkdir(parents=True)
    (root / "own" / group / "mine.yaml").write_bytes(text.encode("latin-1"))
    return Fault(text=f"{group}: {text[:20]!r}", options=("--config-dir=own", f"{group}=mine"))


def odd_weights(root: Path, draw: Random) -> Fault:
    path = root / draw.choice(["w.safetensors", "w.pth"])
    state = safetensors.torch.load_file(pick(root, draw, "cache/weights/*.safetensors"))
    text = write_weights(path, state, draw)
    return Fault(text=f"{path.name}: {text}", options=(f"backbone.weights={path.name}",))


def write_weights(path: Path, state: dict[str, Tensor], draw: Random) -> str:
    """Write a file of weights that is wrong in one way."""
    key = draw.choice(sorted(state))
    one = state[key]
    tensors: dict[str, Any] = {
        **{"infinite": one * torch.inf, "not a number": one * torch.nan, "integers": one.int()},
        **{
            "half": one.half(),
            "complex": one.to(torch.complex64),
            "bool": one.bool(),
            "scalar": torch.ones(()),
        },
        **{"another shape": one.reshape(1, -1), "no elements": one.new_zeros(0)},
    }
    if path.suffix == ".pth":
        with warnings.catch_warnings():
            # That torch will give it up.
            warnings.simplefilter("ignore")
            quantised = torch.quantize_per_tensor(one.float(), 0.1, 0, torch.qint8)
        tensors |= {
            "on no device": one.to("meta"),
            "quantised": quantised,
            "sparse": torch.eye(3).to_sparse(),
        }
        tensors |= {"no tensor": "text", "nested": dict(state), "None": None}
    how = draw.choice([*tensors, "missing", "more", "metadata", "bytes", "bytes", "file", "bomb"])
    if how == "missing":
        del state[key]
    elif how == "more":
        state[f"{ESCAPE}.weight"] = torch.zeros(2)
    elif how in tensors:
        state[key] = tensors[how]
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        metadata = {"a": "[" * 50_000, "vocabulary": "[" * 50_000} if how == "metadata" else None
        safetensors.torch.save_file(state, path, metadata)
    if how == "bytes":
        return damaged(path, draw)
    if how == "file":
        path.write_bytes(
            draw.choice([b"", b"text", b"PK\x03\x04", b"\x80\x04.", bytes(5000), draw.randbytes(99)])
        )
    elif how == "bomb":
        write_bomb(path, draw)
    return f"{how} {key}"


def write_bomb(path: Path, draw: Random) -> None:
    """A small file that would take much memory: a zip of 2 GB of zeros, or names by the hundred thousand."""
    if path.suffix == ".pth":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
            with archive.open("archive/data/0", "w", force_zip64=True) as entry:
                for _ in range(2000):
                    entry.write(bytes(1_000_000))
        return
    entries = (
        f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        for n in range(draw.choice([150_000, 600_000]))
    )
    header = f"{{{','.join(entries)}}}".encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def odd_run(root: Path, draw: Random) -> str:
    """A run folder with another name."""
    folder, name = next(root.glob("outputs/*/*/*-seed0")), os.fsencode(draw.choice([*NAMES, "caf\udce9"]))
    os.rename(folder, os.path.join(os.fsencode(folder.parent), name + draw.choice([b"-seed0", b""])))
    return f"a run called {name[:20]!r}"


def odd_network(root: Path, draw: Random) -> Fault:
    """A saved network with other layers or weights, in half of the cases with the digests of these."""
    shutil.copytree(next(root.glob("outputs/*/*/*/tune/model")), root / "given")
    described, weights = root / "given" / "architecture.json", root / "given" / "model.safetensors"
    how = draw.choice(["long", "json", "json", "weights"])
    if how == "long":
        content = json.loads(described.read_text())
        lists = [
            holder[key] for holder, key in values(content) if holder[key] and isinstance(holder[key], list)
        ]
        longest = draw.choice(lists)
        longest *= 200_000 // len(longest)
        described.write_text(json.dumps(content))
        text = "a list of 200,000 in architecture.json"
    elif how == "json":
        text = damaged_json(described, draw)
    else:
        text = write_weights(weights, safetensors.torch.load_file(weights), draw)
    if draw.random() < 0.5:
        sign(described, weights)
    return Fault(text=text, options=("prune.source=given",))


def sign(described: Path, weights: Path) -> None:
    """Give a description, if it still is one, the digests that `tascnet.save` would write."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        content = json.loads(described.read_bytes())
        content |= {"weights_digest": digest_file(weights)}
        content.pop("digest", None)
        described.write_text(json.dumps({"digest": archive._digest(content), **content}))


KINDS = (
    Kind("copies across ready splits", "photos", "fresh", copies, REFUSED),
    Kind("lost class", "photos", "fresh", lost_class, WARNED),
    Kind("odd images, formats and litter", "photos", "fresh", odd_image, ANSWERED),
    Kind("images that take much memory", "photos", "fresh", huge_image, ANSWERED),
    Kind("lists of files and labels", "photos", "fresh", odd_list, ANSWERED),
    Kind("texts", "texts", "fresh", odd_text, ANSWERED),
    Kind("names of files and classes", "photos", "fresh", odd_name, ANSWERED),
    Kind("options", "digits", "warm", odd_option, ANSWERED, stage="full"),
    Kind("promises without an end", "digits", "warm", endless, ANSWERED),
    Kind("presets of one's own", "digits", "warm", odd_preset, ANSWERED),
    Kind("files of weights", "digits", "warm", odd_weights, ANSWERED),
    Kind("names of run folders", "digits", "done", odd_run, ANSWERED, stage="compare"),
    Kind("saved networks", "digits", "tuned", odd_network, ANSWERED, stage="prune"),
)
