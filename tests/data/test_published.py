import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10 as TorchvisionCifar10
from torchvision.datasets import Flowers102

from tascnet.data.catalogue import CATALOGUE
from tascnet.data.splits import split
from tascnet.errors import DataError
from tascnet.models.preprocessing import Preprocessing, decode_picture
from tascnet.options import OFFICIAL_TESTS, PUBLISHED_IMAGES, PUBLISHED_TEXTS
from tests.data.loading import load_published
from tests.data.server import serve

CALTECH101, CALTECH256, STANFORD_DOGS, CIFAR10, OXFORD_FLOWERS102 = (
    CATALOGUE[name] for name in PUBLISHED_IMAGES
)


@pytest.fixture
def site():
    with serve() as started:
        yield started


def noise(seed, side=9):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path)


def caltech256(folder):
    for number, name in enumerate(("001.ak47", "002.american-flag", "257.clutter")):
        for index in range(3):
            save(folder / name / f"{name[:3]}_{index:04d}.jpg", 10 * number + index)
    (folder / "002.american-flag" / "RENAME2").write_text("left behind")
    save(folder / "001.ak47" / "greg" / "001_0000.jpg", 99)
    return folder


def stanford_dogs(folder):
    """Two breeds with three training and two test images each."""
    lists = {"train": [], "test": []}
    for breed in ("n02085620-Chihuahua", "n02099267-flat-coated_retriever"):
        for index in range(5):
            path = f"{breed}/{breed[:9]}_{index}.jpg"
            save(folder / "Images" / path, len(lists["train"]) * 10 + index)
            lists["train" if index < 3 else "test"].append(path)
    for part, paths in lists.items():
        # Cells of text in a column, as published.
        cells = np.array([[path] for path in paths], dtype=object)
        savemat(folder / f"{part}_list.mat", {"file_list": cells})
    return folder


def oxford_flowers(folder):
    """All 102 classes with three images each; of each class the third is for the test."""
    images = range(1, 307)
    labels = [1 + (image - 1) // 3 for image in images]
    for image in images:
        save(folder / "jpg" / f"image_{image:05d}.jpg", image)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    ids = {name: np.array([[i for i in images if i % 3 == rest]]) for name, rest in SETS.items()}
    savemat(folder / "setid.mat", ids)
    return folder


SETS = {"trnid": 1, "valid": 2, "tstid": 0}
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def cifar_pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (4, 3072), dtype=np.uint8)


def cifar10(folder):
    """Two classes, four images a batch."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        batch = {"data": cifar_pixels(seed), "labels": [0, 1, 1, 0], "batch_label": name}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}, 2))
    return folder


MAKERS = {
    "caltech256": (caltech256, "256_ObjectCategories"),
    "stanford_dogs": (stanford_dogs, "stanford_dogs"),
    "oxford_flowers102": (oxford_flowers, "flowers-102"),
    "cifar10": (cifar10, "cifar-10-batches-py"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("level", ["above", "at", "cache"])
def test_found_in_the_published_layout_at_any_level(name, level, tiny, tmp_path):
    make, folder = MAKERS[name]
    place = tmp_path / "cache" / "datasets" / name if level == "cache" else tmp_path / "data"
    make(place / folder)
    root = {"above": place, "at": place / folder, "cache": None}[level]
    dataset = load_published(CATALOGUE[name], root, tiny, cache=tmp_path / "cache")
    assert dataset.name == name
    assert dataset.parts == ()
    assert (dataset.origin, dataset.licence) == (CATALOGUE[name].origin, CATALOGUE[name].licence)
    assert len(dataset.paths) == len(dataset) > 0
    assert sorted(dataset.labels) == dataset.labels.tolist()
    if dataset.folder is not None:
        assert all((dataset.folder / path).is_file() for path in dataset.paths)


@pytest.mark.parametrize("name", MAKERS)
def test_absent_says_where_and_how_to_get_it(name, tiny, tmp_path):
    with pytest.raises(DataError, match=f"holds no {MAKERS[name][1]}.*`download=true` to fetch"):
        load_published(CATALOGUE[name], tmp_path, tiny, cache=tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def test_caltech256_without_clutter_numbers_and_what_was_left_behind(tiny, tmp_path):
    caltech256(tmp_path / "renamed")
    dataset = load_published(CALTECH256, tmp_path / "renamed", tiny, cache=tmp_path / "cache")
    assert dataset.class_names == ("ak47", "american-flag")
    assert dataset.paths == (
        *(f"001.ak47/001_{index:04d}.jpg" for index in range(3)),
        *(f"002.american-flag/002_{index:04d}.jpg" for index in range(3)),
    )


def test_dogs_by_the_official_lists(tiny, tmp_path):
    stanford_dogs(tmp_path / "dogs")
    save(tmp_path / "dogs" / "Images" / "n02085620-Chihuahua" / "in_no_list.jpg", 7)
    dataset = load_published(
        STANFORD_DOGS, tmp_path / "dogs", tiny, cache=tmp_path / "cache", official_test=True
    )
    assert dataset.class_names == ("Chihuahua", "flat-coated_retriever")
    assert dataset.labels.tolist() == [0] * 5 + [1] * 5
    assert dataset.parts == (*["train"] * 3, "test", "test") * 2
    assert dataset.paths[3] == "n02085620-Chihuahua/n02085620_3.jpg"
    rows = split(dataset.labels, dataset.class_names, seed=0, train=2, val=1, parts=dataset.parts)
    assert rows.test.tolist() == [3, 4, 8, 9]
    assert sorted([*rows.train, *rows.val]) == [0, 1, 2, 5, 6, 7]


def test_an_image_of_the_lists_that_is_absent_is_refused_or_skipped(tiny, tmp_path):
    stanford_dogs(tmp_path / "dogs")
    (tmp_path / "dogs" / "Images" / "n02085620-Chihuahua" / "n02085620_1.jpg").unlink()
    with pytest.raises(DataError, match=r"n02085620_1\.jpg: it does not exist"):
        load_published(STANFORD_DOGS, tmp_path / "dogs", tiny, cache=tmp_path / "cache")
    dataset = load_published(
        STANFORD_DOGS, tmp_path / "dogs", tiny, cache=tmp_path / "cache", unreadable="skip"
    )
    assert (len(dataset), dataset.skipped) == (9, ("n02085620-Chihuahua/n02085620_1.jpg",))


def test_flowers_are_labelled_as_torchvision_does(tiny, tmp_path, monkeypatch):
    oxford_flowers(tmp_path / "flowers-102")
    dataset = load_published(OXFORD_FLOWERS102, tmp_path, tiny, cache=tmp_path, official_test=True)
    assert dataset.class_names == tuple(Flowers102.classes)
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    theirs = {}
    for part in ("train", "val", "test"):
        reference = Flowers102(tmp_path, part)
        for path, label in zip(reference._image_files, reference._labels, strict=True):
            theirs[path.name] = (label, "test" if part == "test" else "train")
    rows = zip(dataset.labels.tolist(), dataset.parts, strict=True)
    assert dict(zip(dataset.paths, rows, strict=True)) == theirs


def test_cifar10_as_torchvision_reads_it(tmp_path, monkeypatch):
    cifar10(tmp_path / "cifar-10-batches-py")
    # At their own size nothing is resized.
    plain = Preprocessing(size=32, resize=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    dataset = load_published(CIFAR10, tmp_path, plain, cache=tmp_path / "cache", official_test=True)
    assert dataset.class_names == ("airplane", "automobile")
    assert dataset.folder is None
    monkeypatch.setattr(TorchvisionCifar10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    for train, part in ((True, "train"), (False, "test")):
        theirs = TorchvisionCifar10(tmp_path, train=train)
        # Ours are sorted by class, theirs by batch and row.
        order = np.argsort(theirs.targets, kind="stable")
        own = [row for row, given in enumerate(dataset.parts) if given == part]
        assert (dataset.pixels[own] == theirs.data[order]).all()
        assert dataset.labels[own].tolist() == [theirs.targets[row] for row in order]


def test_cifar10_is_resized_like_any_image_and_cached(tiny, tmp_path, monkeypatch):
    cifar10(tmp_path / "cifar-10-batches-py")
    dataset = load_published(CIFAR10, tmp_path, tiny, cache=tmp_path / "cache")
    row = dataset.paths.index("data_batch_2/00003")
    image = Image.fromarray(cifar_pixels(1)[3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert (dataset.pixels[row] == decode_picture(image, tiny).pixels).all()
    monkeypatch.setattr("tascnet.data.pixels.decode_picture", lambda *_: pytest.fail("resized again"))
    again = load_published(CIFAR10, tmp_path, tiny, cache=tmp_path / "cache")
    assert again.fingerprint == dataset.fingerprint


def as_python_2_wrote_it(pixels, labels):
    """A batch in the opcodes of the published files: texts of bytes, and numpy's names of 2009."""
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = b"K" + bytes([len(pixels)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    content = pixels.tobytes()
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + numbers + b"u."


def test_batches_in_the_published_form_are_read(tmp_path):
    folder = cifar10(tmp_path / "cifar-10-batches-py")
    batch = as_python_2_wrote_it(cifar_pixels(2), [0, 1, 1, 0])
    assert (pickle.loads(batch, encoding="latin1")["data"] == cifar_pixels(2)).all()
    plain = Preprocessing(size=32, resize=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    modern = load_published(CIFAR10, tmp_path, plain, cache=tmp_path / "cache")
    (folder / "data_batch_3").write_bytes(batch)
    published = load_published(CIFAR10, tmp_path, plain, cache=tmp_path / "cache")
    assert published.fingerprint == modern.fingerprint


class Wicked:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"data": Wicked(), "labels": []}), r"it names (posix|os)\.mkdir"),
        (pickle.dumps({"data": cifar_pixels(0)}, 2), "'labels'"),
        (pickle.dumps({"data": cifar_pixels(0), "labels": [0, 1]}, 2), "do not fit"),
        (pickle.dumps({"data": cifar_pixels(0), "labels": [0, 1, 2, 0]}, 2), "do not fit"),
        (b"", "Ran out of input"),
    ],
)
def test_foreign_batches_are_refused_and_run_nothing(content, says, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_3 is not a file of CIFAR-10 \(.*{says}"):
        load_published(CIFAR10, tmp_path, tiny, cache=tmp_path / "cache")
    assert not (tmp_path / "made_by_a_pickle").exists()


def test_damaged_lists_are_one_sentence(tiny, tmp_path):
    stanford_dogs(tmp_path / "dogs")
    os.truncate(tmp_path / "dogs" / "test_list.mat", 50_000_000_000)
    with pytest.raises(DataError, match=r"test_list\.mat cannot be read \(it has 50,000,000,000 bytes"):
        load_published(STANFORD_DOGS, tmp_path / "dogs", tiny, cache=tmp_path / "cache")
    (tmp_path / "dogs" / "test_list.mat").write_bytes(b"no list")
    with pytest.raises(DataError, match=r"test_list\.mat holds no list file_list"):
        load_published(STANFORD_DOGS, tmp_path / "dogs", tiny, cache=tmp_path / "cache")
    oxford_flowers(tmp_path / "flowers-102")
    savemat(tmp_path / "flowers-102" / "imagelabels.mat", {"labels": np.array([[1, 103]])})
    with pytest.raises(DataError, match="holds labels outside 1 to 102"):
        load_published(OXFORD_FLOWERS102, tmp_path, tiny, cache=tmp_path / "cache")


def tar_of(folder, *names, inside="", mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name in names or sorted(os.listdir(folder)):
            tar.add(folder / name, arcname=f"{inside}{name}")
    return buffer.getvalue()


def archives(name, folder):
    """The archives of a data set as they are published."""
    if name == "stanford_dogs":
        lists = tar_of(folder, "train_list.mat", "test_list.mat")
        return {"images.tar": tar_of(folder, "Images"), "lists.tar": lists}
    if name == "oxford_flowers102":
        files = {file: (folder / file).read_bytes() for file in ("imagelabels.mat", "setid.mat")}
        return {"102flowers.tgz": tar_of(folder, "jpg", mode="w:gz"), **files}
    if name == "cifar10":
        return {"cifar-10-python.tar.gz": tar_of(folder, inside="cifar-10-batches-py/", mode="w:gz")}
    return {"256_ObjectCategories.tar": tar_of(folder, inside="256_ObjectCategories/")}


@pytest.mark.parametrize("name", MAKERS)
def test_downloaded_archives_give_the_same_as_a_local_copy(name, site, tiny, tmp_path):
    make, folder = MAKERS[name]
    packed = archives(name, make(tmp_path / "local" / folder))
    assert [file.name for file in CATALOGUE[name].files] == list(packed)
    own = replace(CATALOGUE[name], files=tuple(site.put(*item) for item in packed.items()))
    fetched = load_published(own, tmp_path / "data", tiny, cache=tmp_path / "cache", fetch=True)
    assert os.listdir(tmp_path / "data") == [folder]
    assert len(site.asked) == len(packed)
    local = load_published(own, tmp_path / "local", tiny, cache=tmp_path / "cache", fetch=True)
    assert len(site.asked) == len(packed)
    assert local.fingerprint == fetched.fingerprint


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("oxford_flowers102", "flowers-102 exists but lacks imagelabels.mat and setid.mat: move it away"),
        ("caltech101", "101_ObjectCategories exists but lacks the published files: move it away"),
    ],
)
def test_what_is_there_in_part_is_not_fetched_over(name, says, tiny, tmp_path):
    if name == "oxford_flowers102":
        (tmp_path / "flowers-102" / "jpg").mkdir(parents=True)
    else:
        (tmp_path / "101_ObjectCategories").write_text("a file")
    with pytest.raises(DataError, match=says):
        load_published(CATALOGUE[name], tmp_path, tiny, cache=tmp_path / "cache", fetch=True)


def test_the_options_name_what_the_catalogue_holds():
    assert tuple(CATALOGUE) == (*PUBLISHED_IMAGES, *PUBLISHED_TEXTS)
    assert tuple(name for name, entry in CATALOGUE.items() if entry.official_test) == OFFICIAL_TESTS


def test_addresses_and_digests_are_those_of_torchvision():
    from torchvision.datasets import caltech

    source = Path(caltech.__file__).read_text(encoding="utf-8")
    for published in (CALTECH101, CALTECH256):
        assert published.files[0].url in source
        assert published.files[0].digest.removeprefix("md5:") in source
    assert CIFAR10.files[0].url == TorchvisionCifar10.url
    assert CIFAR10.files[0].digest == f"md5:{TorchvisionCifar10.tgz_md5}"
    theirs = {
        (Flowers102._download_url_prefix + name, f"md5:{md5}") for name, md5 in Flowers102._file_dict.values()
    }
    assert {(file.url, file.digest) for file in OXFORD_FLOWERS102.files} == theirs
