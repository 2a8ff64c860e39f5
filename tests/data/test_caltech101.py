import io
import os
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tascnet.data.catalogue import CATALOGUE
from tascnet.data.splits import split
from tascnet.errors import DataError
from tascnet.models.preprocessing import Preprocessing
from tests.data.loading import load_published
from tests.data.server import serve

CALTECH101 = CATALOGUE["caltech101"]


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


@pytest.fixture
def site():
    with serve() as started:
        yield started


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
def test_found_at_either_level_without_the_background(place, root, tiny, tmp_path, caplog):
    categories(tmp_path / "data" / place)
    dataset = load_published(CALTECH101, tmp_path / "data" / root, tiny, cache=tmp_path / "cache")
    assert dataset.class_names == ("accordion", "yin_yang")
    assert len(dataset) == 6
    assert dataset.name == "caltech101"
    assert "holds 2 of the 101 published classes" in caplog.text


def test_absent_says_how_to_get_it(tiny, tmp_path):
    before = os.listdir(tmp_path)
    for root in (tmp_path / "nowhere", tmp_path, None):
        with pytest.raises(DataError, match=r"holds no 101_ObjectCategories.*`download=true`"):
            load_published(CALTECH101, root, tiny, cache=tmp_path / "cache")
    assert os.listdir(tmp_path) == before


def served(site, content):
    """Caltech-101 with another archive in place of its own."""
    return replace(CALTECH101, files=(site.put("archive.zip", content),))


def test_downloaded_and_unpacked_once(tiny, tmp_path, site):
    own = served(site, published(members()))
    options = {"cache": tmp_path / "cache", "fetch": True}
    dataset = load_published(own, tmp_path / "data", tiny, **options)
    assert dataset.class_names == ("accordion", "yin_yang")
    assert dataset.licence == "CC BY 4.0"
    assert os.listdir(tmp_path / "data") == ["101_ObjectCategories"]
    again = load_published(own, tmp_path / "data", tiny, **options)
    assert again.fingerprint == dataset.fingerprint
    assert len(site.asked) == 1


def test_without_a_root_it_lands_in_the_cache(tiny, tmp_path, site):
    own = served(site, published(members()))
    dataset = load_published(own, None, tiny, cache=tmp_path / "cache", fetch=True)
    assert (tmp_path / "cache" / "datasets" / "caltech101" / "101_ObjectCategories").is_dir()
    again = load_published(CALTECH101, None, tiny, cache=tmp_path / "cache")
    assert again.fingerprint == dataset.fingerprint
    assert len(CALTECH101.locate(None, tmp_path / "cache").files) == len(dataset)


def unpacked_nothing(tiny, tmp_path, own):
    with pytest.raises(DataError) as caught:
        load_published(own, tmp_path / "data", tiny, cache=tmp_path / "cache", fetch=True)
    assert os.listdir(tmp_path / "data") == []
    return str(caught.value)


def test_a_link_within_the_inner_archive_leaves_nothing(tiny, tmp_path, site):
    link = tarfile.TarInfo("101_ObjectCategories/accordion/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    text = unpacked_nothing(tiny, tmp_path, served(site, published([*members(), (link, b"")])))
    assert "link.png is neither a file nor a folder" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (published(members())[:-200], "zip"),
        (b"no archive", "zip"),
        (zipped({"readme.txt": b"hello"}), "holds no 101_ObjectCategories.tar.gz"),
        (zipped({"101_ObjectCategories.tar.gz": b"no tar"}), "truncated header"),
        (published([]), "holds no folder 101_ObjectCategories"),
    ],
)
def test_torn_and_foreign_archives_leave_nothing(content, reason, tiny, tmp_path, site):
    assert reason in unpacked_nothing(tiny, tmp_path, served(site, content))


@pytest.mark.realdata
def test_real_images_split_by_counts(shared, tmp_path):
    root = shared / "data" / "caltech101"
    preprocessing = Preprocessing(size=16, resize=18, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    dataset = load_published(CALTECH101, root, preprocessing, cache=tmp_path)
    assert (len(dataset), len(dataset.class_names)) == (5293, 101)
    assert dataset.pixels.shape == (5293, 18, 18, 3)
    assert len(set(dataset.digests)) == 5293, "no image is there twice"
    sizes = {"seed": 0, "train": 20, "val": 10}
    parts = split(dataset.labels, dataset.class_names, digests=dataset.digests, **sizes)
    before = split(dataset.labels, dataset.class_names, **sizes)
    assert all((getattr(parts, part) == getattr(before, part)).all() for part in ("train", "val", "test"))
    assert (len(parts.train), len(parts.val), len(parts.test)) == (2020, 1010, 2263)
