"""Which test samples are shown as new mistakes, how, and that they are kept in a file."""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tascnet.data.dataset import Dataset
from tascnet.data.sources import SampleSource
from tascnet.data.text import TextDataset
from tascnet.data.torchsets import TensorDataset
from tascnet.report import mistakes
from tascnet.report.mistakes import chosen, find_mistakes, mistakes_once, newly_wrong, thumbnail
from tests.report.records import model

NAMES = ("ant", "<bee>")


def images(rows: list[int], side: int = 4) -> SampleSource:
    """Test samples whose row r is an image of the grey level 10 r; even rows are of the first class."""
    pixels = np.stack([np.full((side, side, 3), 10 * r, dtype=np.uint8) for r in range(12)])
    samples = Dataset(
        name="insects",
        class_names=NAMES,
        labels=np.arange(12) % 2,
        fingerprint="f",
        digests=tuple(map(str, range(12))),
        pixels=pixels,
        paths=tuple(f"<{r}>.jpg" for r in range(12)),
    )
    return SampleSource(samples, np.array(rows), None)  # type: ignore[arg-type]


def opened(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(BytesIO(base64.b64decode(content)))


def test_samples_that_were_right_and_no_longer_are() -> None:
    before, after, labels = (0, 1, 0, 1, 0), (0, 0, 1, 1, 1), (0, 1, 0, 0, 1)
    assert newly_wrong(before, after, labels) == [1, 2]
    assert newly_wrong(after, before, labels) == [4]
    with pytest.raises(ValueError, match="shorter"):
        newly_wrong(before, after, labels[:4])


def test_some_of_many_are_spread_evenly_in_their_order() -> None:
    assert chosen([3, 5, 8]) == [3, 5, 8]
    assert chosen([]) == []
    many = chosen(list(range(0, 1000, 2)))
    assert len(many) == 24
    assert many[0] == 0
    assert many[-1] == 998
    assert many == sorted(set(many))


def test_what_is_shown_of_a_wrong_image() -> None:
    # The split has rows 11 (bee), 4 (ant) and 6 (ant); the result takes both ants for bees.
    before, after = model(predictions=(0, 0, 0)), model(predictions=(1, 1, 1))
    found = find_mistakes(("old", before), ("new", after), images([11, 4, 6]))
    assert (found.reference, found.result, found.lost, found.gained, found.samples) == ("old", "new", 2, 1, 3)
    assert [(one.sample, one.true, one.predicted, one.text) for one in found.shown] == [
        ("<4>.jpg", "ant", "<bee>", None),
        ("<6>.jpg", "ant", "<bee>", None),
    ]
    levels = [np.asarray(opened(one.image or "")).mean() for one in found.shown]
    assert levels == pytest.approx([40, 60], abs=2)


def test_the_beginning_of_a_text() -> None:
    texts = ("fine", "a " + "very " * 100 + "long one", "dull")
    samples = TextDataset(
        name="reviews",
        class_names=NAMES,
        labels=np.array([0, 0, 1]),
        fingerprint="f",
        digests=("a", "b", "c"),
        texts=texts,
        max_tokens=9,
    )
    source = SampleSource(samples, np.array([0, 1, 2]), None)  # type: ignore[arg-type]
    right, wrong = model(predictions=(0, 0, 1)), model(predictions=(1, 1, 1))
    first, second = find_mistakes(("old", right), ("new", wrong), source).shown
    assert (first.text, first.image, first.sample) == ("fine", None, "sample 0")
    assert second.text is not None
    assert second.text.startswith("a very very")
    assert second.text.endswith("very …")
    assert len(second.text) <= 160


@pytest.mark.parametrize(("channels", "is_shown"), [(1, True), (2, False), (3, True)])
def test_inputs_that_are_images_are_stretched_to_all_levels(channels: int, is_shown: bool) -> None:
    ramp = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(channels, axis=1)
    samples = TensorDataset(
        name="inputs",
        class_names=NAMES,
        labels=np.array([0]),
        fingerprint="f",
        digests=("a",),
        tensors=ramp,
    )
    source = SampleSource(samples, np.array([0]), None)  # type: ignore[arg-type]
    (one,) = find_mistakes(("old", model(predictions=(0,))), ("new", model(predictions=(1,))), source).shown
    assert (one.image is not None) == is_shown
    if one.image:
        low, high = opened(one.image).convert("L").getextrema()
        assert (low, high) == (pytest.approx(0, abs=8), pytest.approx(255, abs=8))


@pytest.mark.parametrize("shape", [(300, 120, 3), (8, 8, 1), (1, 400, 3)])
def test_a_thumbnail_is_small_and_keeps_its_proportions(shape: tuple[int, int, int]) -> None:
    # Noise is what JPEG is worst at.
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    uri = thumbnail(noise)
    assert len(uri) <= 4100
    assert uri == thumbnail(noise)
    image, scale = opened(uri), min(1, 96 / max(shape[:2]))
    assert image.mode == ("L" if shape[2] == 1 else "RGB")
    assert image.size == pytest.approx((max(1, shape[1] * scale), max(1, shape[0] * scale)), abs=1)


def test_the_file_is_read_again_unless_it_is_damaged_or_about_other_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, test = tmp_path / "mistakes.json", images([0, 2, 4])
    right, wrong = ("old", model(predictions=(0, 0, 0))), ("new", model(predictions=(0, 0, 1)))
    first = mistakes_once(path, right, wrong, test)
    assert first == find_mistakes(right, wrong, test)
    assert json.loads(path.read_text())["shown"][0]["sample"] == "<4>.jpg"
    with monkeypatch.context() as patch:
        patch.setattr(mistakes, "find_mistakes", pytest.fail)
        assert mistakes_once(path, right, wrong, test) == first
    other = ("new", model(predictions=(1, 1, 1)))
    assert mistakes_once(path, right, other, test).lost == 3
    path.write_text("{")
    assert mistakes_once(path, right, other, test).lost == 3
