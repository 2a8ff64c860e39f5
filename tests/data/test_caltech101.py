import functools
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tascnet.data import load_caltech101, split
from tascnet.data.caltech101 import find_caltech101, listed_caltech101
from tascnet.errors import DataError
from tascnet.models.info import Preprocessing


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def regular(name, content=b""):
    member = tarfile.TarInfo(f"101_ObjectCategories/{name}")
    member.size = len(content)
    return member, content


def members():
    names = ("accordion", "BACKGROUND_Google", "yin_yang")
    return [regular(f"{name}/image_{index:04d}.png", png(index)) for name in names for index in range(3)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """Serves files of `tmp_path/site`; gives url and checksum of a file there."""
    (tmp_path / "site").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def describe(name, content):
        (tmp_path / "site" / name).write_bytes(content)
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        return {"url": url, "md5": hashlib.md5(content).hexdigest()}

    yield describe
    server.shutdown()
    thread.join()
    server.server_close()


def published(inside):
    """A zip of the published layout: a folder that holds two packed tar files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in inside:
            tar.addfile(member, io.BytesIO(content))
    return zipped(
        {"caltech-101/Annotations.tar": b"x", "caltech-101/101_ObjectCategories.tar.gz": buffer.getvalue()}
    )


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def categories(folder):
    for name in ("accordion", "BACKGROUND_Google", "yin_yang"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            (folder / name / f"image_{index:04d}.png").write_bytes(png(index))
    return folder


@pytest.mark.parametrize(
    ("place", "root"),
    [
        ("101_ObjectCategories", "."),
        ("caltech101/101_ObjectCategories", "."),
        ("caltech-101/101_ObjectCategories", "."),
        ("101_ObjectCategories", "101_ObjectCategories"),
        ("renamed", "renamed"),
    ],
)
def test_found_at_either_level_without_the_background(place, root, tiny, tmp_path):
    categories(tmp_path / "data" / place)
    dataset = load_caltech101(tmp_path / "data" / root, tiny, cache_dir=tmp_path / "cache")
    assert dataset.class_names == ("accordion", "yin_yang")
    assert len(dataset) == 6
    assert dataset.name == "caltech101"


def test_absent_says_how_to_get_it(tiny, tmp_path):
    before = os.listdir(tmp_path)
    for root in (tmp_path / "nowhere", tmp_path, None):
        with pytest.raises(DataError, match=r"holds no 101_ObjectCategories.*dataset\.download=true"):
            load_caltech101(root, tiny, cache_dir=tmp_path / "cache")
    assert os.listdir(tmp_path) == before


def test_downloaded_and_unpacked_once(tiny, tmp_path, served):
    archive = served("archive.zip", published(members()))
    options = {"cache_dir": tmp_path / "cache", "download": True}
    dataset = load_caltech101(tmp_path / "data", tiny, **options, **archive)
    assert dataset.class_names == ("accordion", "yin_yang")
    assert os.listdir(tmp_path / "data") == ["101_ObjectCategories"]
    (tmp_path / "site" / "archive.zip").unlink()
    again = load_caltech101(tmp_path / "data", tiny, **options, **archive)
    assert again.fingerprint == dataset.fingerprint


def test_without_a_root_it_lands_in_the_cache(tiny, tmp_path, served):
    archive = served("archive.zip", published(members()))
    dataset = load_caltech101(None, tiny, cache_dir=tmp_path / "cache", download=True, **archive)
    assert find_caltech101(tmp_path / "cache" / "datasets" / "caltech101") is not None
    again = load_caltech101(None, tiny, cache_dir=tmp_path / "cache")
    assert again.fingerprint == dataset.fingerprint
    assert len(listed_caltech101(None, tmp_path / "cache").files) == len(dataset)


def unpacked_nothing(tiny, tmp_path, **archive):
    with pytest.raises(DataError) as caught:
        load_caltech101(tmp_path / "data", tiny, cache_dir=tmp_path / "cache", download=True, **archive)
    assert os.listdir(tmp_path / "data") == []
    return str(caught.value)


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


@pytest.mark.parametrize(
    "wicked",
    [
        (tarfile.TarInfo("../outside.png"), b""),
        (tarfile.TarInfo("101_ObjectCategories/../../outside.png"), b""),
        (tarfile.TarInfo("/absolute/outside.png"), b""),
        special("101_ObjectCategories/accordion/link.png", tarfile.SYMTYPE, "/etc/passwd"),
        special("101_ObjectCategories/accordion/near.png", tarfile.SYMTYPE, "image_0000.png"),
        special("101_ObjectCategories/accordion/hard.png", tarfile.LNKTYPE, "101_ObjectCategories/x"),
        special("101_ObjectCategories/accordion/device.png", tarfile.CHRTYPE),
        special("101_ObjectCategories/accordion/pipe.png", tarfile.FIFOTYPE),
    ],
)
def test_wicked_archives_leave_nothing(wicked, tiny, tmp_path, served):
    archive = served("archive.zip", published([*members(), wicked]))
    text = unpacked_nothing(tiny, tmp_path, **archive)
    assert "could not be fetched" in text
    assert not Path("/absolute").exists()
    assert not [*tmp_path.rglob("outside.png")]


def test_wrong_checksum_is_refused(tiny, tmp_path, served):
    archive = served("archive.zip", published(members()))
    assert "corrupted" in unpacked_nothing(tiny, tmp_path, url=archive["url"], md5="0" * 32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (published(members())[:-200], "zip"),
        (b"no archive", "zip"),
        (zipped({"readme.txt": b"hello"}), "holds no 101_ObjectCategories.tar.gz"),
        (zipped({"101_ObjectCategories.tar.gz": b"no tar"}), "gzip"),
        (published([]), "holds no folder of that name"),
    ],
)
def test_torn_and_foreign_archives_leave_nothing(content, reason, tiny, tmp_path, served):
    assert reason in unpacked_nothing(tiny, tmp_path, **served("archive.zip", content))


def test_missing_archive_is_one_sentence(tiny, tmp_path, served):
    archive = served("archive.zip", b"") | {"md5": "0" * 32}
    (tmp_path / "site" / "archive.zip").unlink()
    text = unpacked_nothing(tiny, tmp_path, **archive)
    assert "404" in text
    assert "try again" in text
    assert "\n" not in text


@pytest.mark.realdata
def test_real_images_split_by_counts(shared, tmp_path):
    root = shared / "data" / "caltech101"
    preprocessing = Preprocessing(size=16, resize=18, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    dataset = load_caltech101(root, preprocessing, cache_dir=tmp_path)
    assert (len(dataset), len(dataset.class_names)) == (5293, 101)
    assert dataset.pixels.shape == (5293, 18, 18, 3)
    parts = split(dataset.labels, dataset.class_names, seed=0, train_per_class=20, val_per_class=10)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (2020, 1010, 2263)
