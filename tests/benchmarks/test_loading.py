import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import loading
from benchmarks.common import Setup
from benchmarks.torchvision_loader import torchvision_loader, usual_transform
from tascnet.data import open_samples, pixels
from tascnet.data.dataset import ImageSource
from tascnet.models import Preprocessing
from tascnet.options import ImageBackbone, ImageFolder
from tascnet.run.files import read_jsonl
from tests.reading import read_json

SMALL = Preprocessing(size=24, resize=28, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


@pytest.fixture
def setup(images, tmp_path):
    backbone = ImageBackbone(name="resnet20", size=24, resize=28)
    return Setup(data=ImageFolder(root=str(images)), backbone=backbone, cache=tmp_path / "cache")


def test_the_summary_by_hand():
    rows = [
        {"way": "cached", "images": 100, "epoch_seconds": [10.0, 1.0, 2.0]},
        {"way": "cached", "images": 100, "epoch_seconds": [20.0, 4.0, 5.0]},
        {"way": "uncached", "images": 100, "epoch_seconds": [5.0, 20.0]},
        {"way": "torchvision", "images": 100, "epoch_seconds": [25.0, 12.5]},
    ]
    cached, uncached, usual = loading.summarise(rows)
    # First epochs 10 and 5 a second; later ones 100, 50, 25 and 20.
    assert (cached["first_per_second"], cached["later_per_second"]) == (7.5, 37.5)
    assert (usual["first_per_second"], usual["later_per_second"]) == (4.0, 8.0)
    assert (cached["ratio"], uncached["ratio"], usual["ratio"]) == (4.6875, 0.625, 1.0)


def test_without_chance_both_ways_give_the_same_batch(images, tmp_path):
    """Nothing to crop and no flip: the usual transforms give what the cache gives."""
    whole = Preprocessing(size=28, resize=28, mean=SMALL.mean, std=SMALL.std)
    still = ImageFolder(root=str(images), flip=False)
    dataset = open_samples(still, whole, seed=0, cache=tmp_path).dataset
    loader = torchvision_loader(dataset, whole, still, batch_size=len(dataset), workers=0)
    ((theirs, labels),) = list(loader)
    source = ImageSource(dataset, np.arange(len(dataset)), whole, still)
    ours = source.batch(torch.arange(len(dataset)), torch.Generator())
    key = theirs.flatten(1).sum(1).argsort(), ours.flatten(1).sum(1).argsort()
    torch.testing.assert_close(theirs[key[0]], ours[key[1]], atol=1e-6, rtol=1e-6, check_stride=False)
    assert torch.equal(labels[key[0]], source.labels[key[1]])


@pytest.mark.parametrize("options", [{}, {"pad": 3}, {"min_scale": 0.4}, {"flip": False}])
def test_the_usual_transform_crops_and_flips_as_asked(options):
    transform = usual_transform(SMALL, ImageFolder(root="x", **options))
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[:, :14] = 255
    torch.manual_seed(0)
    crops = [transform(Image.fromarray(pixels)) for _ in range(40)]
    assert {tuple(crop.shape) for crop in crops} == {(3, 24, 24)}
    mirrored = sum(bool(crop[0, 12, 0] < crop[0, 12, -1]) for crop in crops)
    assert mirrored == 0 if options.get("flip") is False else 8 <= mirrored <= 32
    # Of half the area, edge to edge, a crop shows more or less where the share is drawn.
    shares = {round(float((crop[2] > 0.5).float().mean()), 2) for crop in crops}
    assert len(shares) > 1


def test_pixels_that_differ_are_counted(setup):
    bench = loading.Bench(setup)
    assert bench.compare_pixels(7) == {"compared": 7, "equal": 7}
    assert bench.compare_pixels(1000) == {"compared": 24, "equal": 24}
    spoilt = np.array(bench.dataset.pixels)
    spoilt[3, 0, 0, 0] ^= 1
    bench.dataset = type(bench.dataset)(**{**vars(bench.dataset), "pixels": spoilt})
    assert bench.compare_pixels(24) == {"compared": 24, "equal": 23}


@pytest.fixture
def photos(images, tmp_path, monkeypatch):
    """Options of small photos; torchvision decodes in this process, as forks of one with threads warn."""
    usual = loading.torchvision_loader
    monkeypatch.setattr(loading, "torchvision_loader", lambda *a, **k: usual(*a, **{**k, "workers": 0}))
    flags = [
        "--data",
        "image_folder",
        "--root",
        images,
        "--backbone",
        "resnet20",
        "--cache",
        tmp_path / "cache",
    ]
    sizes = ["--size", 24, "--resize", 28, "--seeds", 2, "--epochs", 3]
    return [*flags, *sizes, "--set", "trainer.finetune.batch_size=5"]


def test_rows_are_written_printed_and_not_computed_again(bench, photos, tmp_path, shown, monkeypatch):
    assert bench("loading", *photos) == 0
    folder = tmp_path / "loading"
    metrics = read_json(folder / "metrics.json")
    assert metrics["rows"] == read_jsonl(folder / "rows.jsonl")
    assert [row["way"] for row in metrics["rows"]] == ["cached", "uncached", "torchvision"] * 2
    assert {len(row["epoch_seconds"]) for row in metrics["rows"]} == {3}
    assert {row["images"] for row in metrics["rows"]} == {24}
    assert metrics["summary"] == loading.summarise(metrics["rows"])
    assert metrics["pixels"] == {"compared": 24, "equal": 24}
    assert not (folder / "cache").exists()
    text = " ".join(shown.export_text().split())
    assert "cached pixels equal those of the files: 24 of 24" in text
    monkeypatch.setattr(loading.Bench, "row", lambda *_: pytest.fail("a row was computed again"))
    assert bench("loading", *photos) == 0
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def test_the_first_cached_epoch_alone_decodes(setup, tmp_path, monkeypatch):
    bench, decoded, known = loading.Bench(setup), [], pixels.decode_image
    monkeypatch.setattr(pixels, "decode_image", lambda *a, **k: decoded.append(a) or known(*a, **k))
    assert len(bench.row("cached", tmp_path / "own", 3)["epoch_seconds"]) == 3
    assert len(decoded) == 24


def test_other_batches_are_other_rows(bench, photos, tmp_path, shown, monkeypatch):
    monkeypatch.setattr(loading.Bench, "row", lambda *_: {"images": 1, "epoch_seconds": [1.0, 1.0]})
    assert bench("loading", *photos) == 0
    assert bench("loading", *photos, "trainer.finetune.batch_size=6") == 0
    assert len(read_jsonl(tmp_path / "loading" / "rows.jsonl")) == 12


@pytest.mark.parametrize("name", ["digits", "movie_review"])
def test_data_sets_without_files_are_refused(bench, tmp_path, capsys, name):
    texts = ["--set", "dataset.download=true"] if name == "movie_review" else []
    assert bench("loading", "--data", name, "--cache", tmp_path / "cache", *texts) == 2
    assert f"the samples of --data {name} are in none" in capsys.readouterr().err
