import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tascnet
from tascnet.data import check_samples, open_samples
from tascnet.errors import TascnetError
from tascnet.models.archive import save
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.options import ImageFolder, Texts
from tests.data.misbehaving import (
    HAPPENS,
    MISBEHAVIOURS,
    PAGE,
    TEXT_MISBEHAVIOURS,
    good,
    good_texts,
    page,
)

# Of 3,000 images of one row a few are enough.
MOST_COMPARED = 20


@pytest.fixture
def root(tmp_path):
    return good(tmp_path / "photos")


def opened(root, **options):
    """What every stage does first."""
    data = ImageFolder(**{"root": str(root), **options})
    preprocessing = Preprocessing(size=8, resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    check_samples(data, root.parent / "cache")
    return open_samples(data, preprocessing, seed=0, cache=root.parent / "cache")


@pytest.mark.parametrize("entry", MISBEHAVIOURS, ids=lambda entry: entry.name.replace(" ", "_"))
def test_it_ends_as_the_list_says(entry, root, said):
    options = entry.make(root) or {}
    if entry.outcome != "used":
        with pytest.raises(TascnetError) as caught:
            opened(root, **options)
        assert re.search(entry.says, str(caught.value))
        assert "\n" not in str(caught.value)
        # What cannot be written to a terminal or a log would end the run in another way.
        str(caught.value).encode("utf-8")
    if entry.outcome == "refused":
        assert said == []
        return
    samples = opened(root, **options, **({"unreadable": "skip"} if entry.outcome == "skipped" else {}))
    dataset = samples.dataset
    assert len(dataset) == entry.samples
    splits = [samples.train.rows, samples.val.rows, samples.test.rows]
    assert sorted(np.concatenate(splits)) == list(range(entry.samples))
    assert len(dataset.skipped) == (entry.outcome == "skipped")
    assert len(said) == bool(entry.says)
    assert not entry.says or re.search(entry.says, said[0])
    check_inference(samples, options.get("extra_channels", "refuse"))
    if entry.colour is not None:
        (row,) = [row for row, path in enumerate(dataset.paths) if "/odd" in path]
        assert (dataset.pixels[row] == entry.colour).all()


def check_inference(samples, extra_channels):
    """The network's preprocessing gives exactly the tensors that validation and test have."""
    dataset, preprocessing = samples.dataset, samples.preprocessing
    for row in range(len(dataset))[:MOST_COMPARED]:
        path = dataset.folder / dataset.paths[row]
        expected = dataset.take(np.array([row]), preprocessing).batch(torch.tensor([0]))[0]
        assert torch.equal(preprocessing(path, extra_channels=extra_channels), expected)
        with Image.open(path) as image:
            assert torch.equal(preprocessing(image, extra_channels=extra_channels), expected)
        upright = preprocessing.decode(path, extra_channels=extra_channels)
        assert torch.equal(preprocessing(upright), expected)


def opened_texts(root):
    data = Texts(root=str(root), max_tokens=4)
    check_samples(data, root.parent / "cache")
    words = TextPreprocessing(max_tokens=4, vocabulary=SPECIAL)
    return open_samples(data, words, seed=0, cache=root.parent / "cache", grow_vocabulary=True)


@pytest.mark.parametrize("entry", TEXT_MISBEHAVIOURS, ids=lambda entry: entry.name.replace(" ", "_"))
def test_texts_end_as_the_list_says(entry, tmp_path, caplog):
    root = good_texts(tmp_path / "texts")
    entry.make(root)
    caplog.set_level("INFO", logger="tascnet")
    if entry.outcome == "refused":
        with pytest.raises(TascnetError, match=entry.says) as caught:
            opened_texts(root)
        assert "\n" not in str(caught.value)
        str(caught.value).encode("utf-8")
        return
    samples = opened_texts(root)
    splits = [samples.train.rows, samples.val.rows, samples.test.rows]
    assert sorted(np.concatenate(splits)) == list(range(entry.samples))
    assert len([record for record in caplog.records if re.search(entry.says, record.getMessage())]) == 1


def test_good_texts_log_no_remark(tmp_path, caplog):
    caplog.set_level("INFO", logger="tascnet")
    opened_texts(good_texts(tmp_path / "texts"))
    # The vocabulary and the sizes of the splits.
    assert len(caplog.records) == 2


def test_a_turned_image_is_upright(root):
    (entry,) = [entry for entry in MISBEHAVIOURS if "EXIF orientation" in entry.name]
    entry.make(root)
    dataset = opened(root).dataset
    pixels = dataset.pixels[dataset.paths.index("cat/odd.png")]
    assert (pixels[:3, :, 1] > 200).all()
    assert (pixels[5:, :, 1] < 50).all()


def test_a_class_without_a_readable_image_is_refused_even_when_skipping(root):
    (entry,) = [entry for entry in MISBEHAVIOURS if "one readable" in entry.name]
    entry.make(root)
    with pytest.raises(TascnetError, match="no image of class 'eel'"):
        opened(root, unreadable="skip")


def test_an_image_half_as_large_as_a_bomb_is_used_without_a_warning(root, monkeypatch):
    # Pillow warns from here on and refuses from twice as many: the images have 120.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(opened(root).dataset) == 8


def test_names_of_classes_are_as_they_were_written(root):
    (entry,) = [entry for entry in MISBEHAVIOURS if "other letters" in entry.name]
    entry.make(root)
    samples = opened(root)
    assert samples.dataset.class_names == ("dog", "grüne Katze 猫")
    chain = nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(3 * 8 * 8, 2)))
    info = ModelInfo(
        backbone="own",
        preprocessing=samples.preprocessing,
        class_names=samples.class_names,
        weights="random",
        licence="",
    )
    save(chain, root.parent / "model", info)
    assert tascnet.load(root.parent / "model").class_names == ("dog", "grüne Katze 猫")


def test_every_run_warns_of_twins_in_two_classes_and_none_of_those_in_one(root, said):
    (root / "cat" / "again.png").write_bytes((root / "cat" / "0.png").read_bytes())
    opened(root)
    assert said == []
    (root / "dog" / "again.png").write_bytes((root / "cat" / "0.png").read_bytes())
    opened(root)
    opened(root)
    assert len(said) == 2
    assert said[0] == said[1]
    assert "(cat/0.png = cat/again.png = dog/again.png)" in said[0]


def test_an_error_can_name_unreadable_files_with_odd_names(root, said):
    path = bytes(root / "cat") + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(TascnetError, match=r"cat/caf\\udce9\.png: not an image"):
        opened(root)


def test_the_list_has_each_input_once_with_its_rule():
    entries = (*MISBEHAVIOURS, *TEXT_MISBEHAVIOURS)
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.outcome in HAPPENS
        assert re.fullmatch(r"[A-Z].*\.", entry.rule)
        assert entry.says or entry.outcome == "used"


def test_the_page_holds_the_list():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "python -m tests.data.misbehaving writes it again"
    assert all(f"| {entry.name} |" in text for entry in (*MISBEHAVIOURS, *TEXT_MISBEHAVIOURS))
